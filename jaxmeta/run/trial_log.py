"""The folder of a search: which search it holds, and the trials that are over."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxmeta.core.checks import InputError
from jaxmeta.run.files import PART, write_json, write_whole
from jaxmeta.run.samplers import Trial

SEARCH, TRIALS = "search.json", "trials.jsonl"


def opened(folder: pathlib.Path, identity: Mapping[str, Any]) -> list[Trial]:
    """Returns the trials that an earlier search of the same identity has finished; makes the folder.

    Raises:
      InputError: the folder holds something else, or is damaged.
    """
    path = folder / SEARCH
    if not path.exists():
        # A search that was killed before it had its file has begun to write it.
        if folder.exists() and any(found.name != SEARCH + PART for found in folder.iterdir()):
            raise InputError(f"{folder} exists and is not a search; give another folder with --out.")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, identity)
        return []
    try:
        known = json.loads(path.read_text("utf-8"))
        lines = (folder / TRIALS).read_text("utf-8").splitlines() if (folder / TRIALS).exists() else []
        done = [_trial(json.loads(line)) for line in lines]
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # of JSON, of UTF-8, or of what stands there
        raise InputError(
            f"{folder}: {SEARCH} or {TRIALS} is damaged ({error}); remove the folder or give another with --out."
        ) from None
    if known != json.loads(json.dumps(identity)):
        raise InputError(f"{folder} holds another search; give another folder with --out, or the same command.")
    return done


def write_trials(folder: pathlib.Path, done: Sequence[Trial]) -> None:
    """Writes a line for each trial that is over."""
    write_whole(folder / TRIALS, "".join(json.dumps(_line(trial)) + "\n" for trial in done))


def _line(trial: Trial) -> dict[str, Any]:
    def finite(value: float) -> float | None:  # JSON knows no other numbers
        return value if math.isfinite(value) else None

    slopes = {key: finite(slope) for key, slope in trial.slopes.items()}
    return {
        "trial": trial.number, "rung": trial.rung, "values": trial.values,
        "scores": [finite(score) for score in trial.scores], "score": finite(trial.score),
        **({"loss": finite(trial.loss), "slopes": slopes} if slopes else {}),
    }  # fmt: skip


def _trial(line: dict[str, Any]) -> Trial:
    def number(value: float | None) -> float:
        return math.nan if value is None else value

    trial = Trial(
        line["trial"], line["rung"], line["values"], tuple(map(number, line["scores"])), number(line["score"])
    )
    if "slopes" not in line:
        return trial
    slopes = {key: number(slope) for key, slope in line["slopes"].items()}
    return trial._replace(loss=number(line["loss"]), slopes=slopes)
