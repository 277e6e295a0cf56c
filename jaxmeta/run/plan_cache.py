"""What was measured once, remembered in a file of the user for the next time."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxmeta.run.files import write_json


def cache_file() -> pathlib.Path:
    """Returns where plans are remembered: under JAXMETA_CACHE, or where the system keeps the caches of a user."""
    if folder := os.environ.get("JAXMETA_CACHE"):
        return pathlib.Path(folder) / "plans.json"
    caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(caches) / "jaxmeta" / "plans.json"


def recall(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what was remembered under `facts`, None without it."""
    found = _read().get(_key(facts))
    return found if isinstance(found, dict) else None


def remember(facts: Mapping[str, Any], value: Mapping[str, Any]) -> None:
    """Keeps `value` under `facts`. A cache that cannot be written is no reason to stop: it is measured again."""
    with contextlib.suppress(OSError):
        path = cache_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**_read(), _key(facts): {**value, "facts": facts}})


def _read() -> dict[str, Any]:
    try:
        found = json.loads(cache_file().read_text("utf-8"))
    except (OSError, ValueError):  # missing, or damaged: it is written anew
        return {}
    return found if isinstance(found, dict) else {}


def _key(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
