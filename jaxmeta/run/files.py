"""Files that are written whole or not at all."""

import json
import os
import pathlib
from typing import Any

PART = ".part"  # behind the name of a file that is being written


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file, text as UTF-8: who reads it finds all of it or what was there before, whenever we are killed."""
    scratch = path.with_name(path.name + PART)
    scratch.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(scratch, path)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value as JSON that people can read too."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
