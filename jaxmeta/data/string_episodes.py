"""Few-shot episodes of connected speech: strings of one speaker's recordings, with their labels."""

from collections.abc import Iterator

import jax
import numpy as np

from jaxmeta.core.checks import check_not_negative, check_positive
from jaxmeta.core.types import Batch
from jaxmeta.data.audio_episodes import AudioEpisodes
from jaxmeta.data.recordings import SILENCE, Recordings
from jaxmeta.data.splits import LanguageSplit
from jaxmeta.data.streams import stream
from jaxmeta.data.weighting import Weighting

LABELS = (1, 5)  # the fewest and the most of a string


class StringEpisodes(AudioEpisodes):
    """`AudioEpisodes` whose recordings are dealt into strings, for recognition.

    An example is a few clips of one speaker with short silences before, between and after them; its target are their
    labels, counted from 1, and padded with 0: `inputs {"audio": [N, length] int16, "samples": [N] int32}`, `targets
    [N, L]` int32, `mask [N]` bool. Which recordings a side is made of is drawn as for `AudioEpisodes`, so that `shots`
    are recordings of each class here too; the strings follow from the recordings alone. Labels are balanced: clips are
    dealt in rounds that have every label once. A string ends early where the next clip would not fit into `length`, so
    nothing is cut but clips that are longer than that alone, and the end of a string of meta-training where a pretended
    speaker (`voices`) is slower than there is room for. Support and query share no recording.
    """

    def __init__(
        self,
        recordings: Recordings,
        split: LanguageSplit,
        *,
        shots: int,
        queries: int,
        labels: tuple[int, int] = LABELS,
        silence: tuple[float, float] = (0.02, 0.2),
        repeats: float = 1.0,
        length: int = 24000,
        weighting: Weighting | None = None,
        voices: float = 0.0,
        seed: int = 0,
    ):
        """Sorts the recordings.

        Args:
            recordings: of which only those of `split`'s speakers are used.
            split: the roles of the speakers.
            shots: recordings of each class that the strings of the support are made of.
            queries: recordings of each class that those of the query are made of.
            labels: the fewest and the most labels of a string; the most is `L`.
            silence: the shortest and the longest silence, in seconds.
            repeats: in how many strings a recording is, about.
            length: samples that strings are padded to.
            weighting: as for `AudioEpisodes`.
            voices: as for `AudioEpisodes`.
            seed: what every draw of recordings depends on.

        Raises:
            InputError: a speaker has no recordings to adapt on, or none to be judged on.
            ValueError: `labels` or `silence` is not a range.
        """
        check_positive("labels", labels[0])
        check_not_negative("silence", silence[0])
        check_positive("repeats", repeats)
        for name, (low, high) in (("labels", labels), ("silence", silence)):
            if low > high:
                raise ValueError(f"`{name}` must be a least and a largest number, got {low} and {high}")
        self.labels, self.silence, self.repeats = labels, silence, repeats
        super().__init__(
            recordings, split, shots=shots, queries=queries, length=length, weighting=weighting, voices=voices,
            seed=seed,
        )  # fmt: skip

    def count(self, recordings: int) -> int:
        """Returns how many strings are made of so many recordings."""
        return number_of_strings(recordings, labels=self.labels, repeats=self.repeats)

    def batch(self, rows: np.ndarray) -> Batch:
        """Returns strings of recordings `[N]`, `count` of them for each speaker, without padding."""
        speakers = self.corpus.language[rows]
        parts = [self._strings(rows[speakers == speaker]) for speaker in np.unique(speakers)]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def placed(self, language: str, rows: list[np.ndarray], places: int) -> Batch:
        """Returns strings of the recordings of each class, as many as if no class had fewer than `places`."""
        return self._strings(np.concatenate(rows), self.count(places * self.num_classes))

    def _strings(self, rows: np.ndarray, count: int | None = None) -> Batch:
        count = self.count(len(rows)) if count is None else count
        audio = np.full((count, self.length), SILENCE)
        samples, targets = np.zeros(count, np.int32), np.zeros((count, self.labels[1]), np.int32)
        batch = {
            "inputs": {"audio": audio, "samples": samples},
            "targets": targets,
            "mask": np.full(count, len(rows) > 0),
        }
        if not len(rows):
            return batch
        generator = stream("strings", *rows.tolist())
        deck = _dealt(generator, rows, self.corpus.label[rows])
        waiting: int | None = None  # a clip that did not fit into the string before
        for place in range(count):
            at = self._silence(generator)
            for number in range(int(generator.integers(self.labels[0], self.labels[1] + 1))):
                row = next(deck) if waiting is None else waiting
                size = min(int(self.corpus.samples[row]), self.length)
                if number == 0:
                    at = min(at, self.length - size)
                elif at + size > self.length:
                    waiting = row
                    break
                waiting = None
                start = self.corpus.start[row]
                audio[place, at : at + size] = self.corpus.audio[start : start + size]
                targets[place, number] = self.corpus.label[row] + 1
                at += size + self._silence(generator)
            samples[place] = min(at, self.length)
        return batch

    def _silence(self, generator: np.random.Generator) -> int:
        return round(generator.uniform(*self.silence) * self.corpus.rate)


def number_of_strings(recordings: int, *, labels: tuple[int, int] = LABELS, repeats: float = 1.0) -> int:
    """Returns how many strings are made of so many recordings, for the `labels` and `repeats` of `StringEpisodes`."""
    return max(1, round(repeats * recordings * 2 / sum(labels)))


def _dealt(generator: np.random.Generator, rows: np.ndarray, labels: np.ndarray) -> Iterator[int]:
    """Yields rows without end: every label once in a round, in any order, and each label's rows in turn."""
    cells = [generator.permutation(rows[labels == label]) for label in np.unique(labels)]
    number = 0
    while True:
        for place in generator.permutation(len(cells)):
            yield int(cells[place][number % len(cells[place])])
        number += 1
