"""Files and folders that are written whole or not at all."""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from jaxmeta.core.checks import InputError

PART = ".part"  # behind the name of a file that is being written


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file, text as UTF-8: who reads it finds all of it or what was there before, whenever we are killed."""
    scratch = path.with_name(path.name + PART)
    scratch.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(scratch, path)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value as JSON that people can read too."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def new_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives the place of a folder to make and fill, which becomes `target` if nothing goes wrong.

    Raises:
      InputError: there is something at `target`.
    """
    if target.exists():
        raise InputError(f"{target} exists; give another folder with --out, or remove it.")
    there = next(parent for parent in target.absolute().parents if parent.exists())
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=there) as scratch:
        whole = pathlib.Path(scratch) / "whole"
        yield whole
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(whole, target)
