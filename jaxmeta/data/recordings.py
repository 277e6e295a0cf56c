"""Labelled recordings of speakers, held as parallel columns over one row of audio."""

import dataclasses
from typing import ClassVar

import numpy as np

from jaxmeta.core.checks import check_positive
from jaxmeta.data.corpus import Rows
from jaxmeta.data.streams import digest

SILENCE = np.int16(0)


@dataclasses.dataclass(frozen=True, eq=False)
class Recordings(Rows):
    """Clips of speech, each of one label and one speaker; `N` clips, `C` labels.

    A speaker (or an accent) is the task that a language is for text, and stands where rows of text have a language.

    Attributes:
        name: what to call it in reports.
        labels: the names of the `C` classes, in the order of their numbers.
        language: `[N]` str, the speaker of each clip.
        split: `[N]` str, "train", "dev" or "test".
        label: `[N]` int32 in `[0, C)`.
        start: `[N]` int64, where in `audio` each clip begins.
        samples: `[N]` int64, how long it is.
        sentence: `[N]` int64; clips with the same number are the same recording.
        audio: all samples, int16.
        rate: samples in a second.
    """

    name: str
    labels: tuple[str, ...]
    language: np.ndarray
    split: np.ndarray
    label: np.ndarray
    start: np.ndarray
    samples: np.ndarray
    sentence: np.ndarray
    audio: np.ndarray
    rate: int
    per_row: ClassVar[tuple[str, ...]] = ("label", "start", "samples")

    def __post_init__(self):
        self._check(len(self.start))
        if len(self.label) and not (self.label.min() >= 0 and self.label.max() < len(self.labels)):
            raise ValueError(f"`label` must lie in [0, {len(self.labels)}), the number of `labels`")

    def clips(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Returns clips as `{"audio": [N, length] int16, "samples": [N] int32}`; what is longer is cut."""
        check_positive("length", length)
        samples = np.minimum(self.samples[rows], length).astype(np.int32)
        audio = np.full((len(rows), length), SILENCE)
        for place, (start, count) in enumerate(zip(self.start[rows], samples, strict=True)):
            audio[place, :count] = self.audio[start : start + count]
        return {"audio": audio, "samples": samples}

    def count_cut(self, length: int) -> int:
        """Returns how many clips are longer than `length` samples."""
        return int(np.count_nonzero(self.samples > length))

    def texts_of(self, row: int) -> tuple[str, ...]:
        """Returns a digest of the samples of a clip, which is what tells it from others."""
        clip = self.audio[self.start[row] : self.start[row] + self.samples[row]]
        return (f"{digest(self.rate, clip.tobytes().hex()):016x}",)


def same_recordings(audio: np.ndarray, start: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Returns for each clip the number of the first one with the same samples, `[N]` int64."""
    first: dict[bytes, int] = {}
    clips = zip(start.tolist(), samples.tolist(), strict=True)
    return np.array([first.setdefault(audio[s : s + n].tobytes(), row) for row, (s, n) in enumerate(clips)], np.int64)
