"""What methods came to, kept until all of a run are judged: a judgement that is cut off goes on with the next one."""

import json
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxmeta.run.checkpoint import json_digest
from jaxmeta.run.files import write_whole

JUDGING = "judging"  # in that of the run, while it is judged
_KEY = "key"


class Judged(NamedTuple):
    """What judging one method gave."""

    scores: np.ndarray  # [L, R] float64, R = training seeds x draws
    result: dict[str, Any]
    calibration: dict[str, float]
    by_steps: Sequence[dict[str, Any]] = ()
    by_shots: Sequence[dict[str, Any]] = ()
    temperature: dict[str, Any] | None = None
    right: Sequence[np.ndarray] = ()  # of each problem, which shots are answered right by what has not seen them


class Judgements:
    """Those of one run, in a folder of its own; one process writes them.

    Args:
      folder: where they are kept.
      asked: all that they depend on, as JSON can say it: the config and digests of what was trained. What is kept of
        anything else is removed.
    """

    def __init__(self, folder: pathlib.Path, asked: Mapping[str, Any]):
        self._folder = folder
        key, place = json_digest(asked), folder / _KEY
        if not place.exists() or place.read_text() != key:
            self.remove()
            folder.mkdir(parents=True)
            write_whole(place, key)

    def of(self, name: str, judge: Callable[[], Judged]) -> Judged:
        """Returns what is kept of a method, or else judges it and keeps that."""
        place = self._folder / f"{name}.json"
        if not place.exists():
            write_whole(place, _written(judge()))
        return _read(place.read_text())

    def remove(self) -> None:
        """Forgets them all."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _written(judged: Judged) -> str:
    fields = judged._asdict()
    fields["scores"], fields["right"] = judged.scores.tolist(), [of.tolist() for of in judged.right]
    return json.dumps(fields)


def _read(text: str) -> Judged:
    fields = json.loads(text)
    fields["scores"], fields["right"] = np.asarray(fields["scores"]), [np.asarray(of, bool) for of in fields["right"]]
    return Judged(**fields)
