"""Few-shot episodes of speech: one speaker per episode, drawn by number and nothing else."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from jaxmeta.core.checks import check_not_negative, check_one_of, check_positive
from jaxmeta.core.types import Batch, Episode
from jaxmeta.data.audio import Recordings
from jaxmeta.data.episodes import LabelledEpisodes
from jaxmeta.data.splits import LanguageSplit
from jaxmeta.data.streams import stream
from jaxmeta.data.voices import other_voice


class AudioEpisodes(LabelledEpisodes):
    """`LabelledEpisodes` of recordings, where a speaker is what a language is for text.

    `inputs` are `{"audio": [N, length] float32, "samples": [N] int32}`. A speaker that is held out adapts on its train
    recordings and is judged on its dev or test ones; meta-training sees train recordings of train speakers alone.
    """

    corpus: Recordings

    def __init__(
        self,
        recordings: Recordings,
        split: LanguageSplit,
        *,
        shots: int,
        queries: int,
        length: int = 8000,
        temperature: float = np.inf,
        voices: float = 0.0,
        seed: int = 0,
    ):
        """Sorts the recordings.

        Args:
            recordings: of which only those of `split`'s speakers are used.
            split: the roles of the speakers, by `split_languages(recordings.languages(), ...)`.
            shots: support examples per class.
            queries: query examples per class.
            length: samples that clips are padded to; longer ones are cut, see `Recordings.count_cut`.
            temperature: as for `LabelledEpisodes`; by default every speaker is as likely.
            voices: the share of train episodes whose speaker is changed into one who does not exist, see
                `jaxmeta.data.voices`.
            seed: what every draw depends on.

        Raises:
            InputError: a speaker has no recordings to adapt on, or none to be judged on.
        """
        check_positive("length", length)
        self.length = length
        super().__init__(
            recordings, partial(recordings.clips, length=length), split,
            shots=shots, queries=queries, temperature=temperature,
            pretended=voices, pretend=partial(other_voice, rate=recordings.rate), seed=seed,
        )  # fmt: skip


class StringEpisodes:
    """A `TaskDistribution` of connected speech, pure in `(seed, split, index)`: strings of clips of one speaker.

    An example is a few clips with short silences before, between and after them; its target are their labels, from 1,
    padded with 0: `inputs {"audio": [N, length], "samples": [N]}`, `targets [N, L]` int32, `mask [N]` bool. Labels are
    balanced: clips are dealt in rounds that have every label once. A string ends early where the next clip would not
    fit into `length`, so nothing is cut but clips that are longer than that alone. Support and query share no clip.
    """

    def __init__(
        self,
        recordings: Recordings,
        split: LanguageSplit,
        *,
        shots: int,
        queries: int,
        labels: tuple[int, int] = (1, 5),
        silence: tuple[float, float] = (0.02, 0.2),
        length: int = 24000,
        temperature: float = np.inf,
        voices: float = 0.0,
        seed: int = 0,
    ):
        """Sorts the recordings.

        Args:
            recordings: of which only those of `split`'s speakers are used.
            split: the roles of the speakers.
            shots: strings of the support.
            queries: strings of the query.
            labels: the fewest and the most labels of a string; the most is `L`.
            silence: the shortest and the longest silence, in seconds.
            length: samples that strings are padded to.
            temperature: as for `AudioEpisodes`.
            voices: as for `AudioEpisodes`.
            seed: what every draw depends on.

        Raises:
            InputError: a speaker has no recordings to adapt on, or none to be judged on.
            ValueError: `labels` or `silence` is not a range.
        """
        check_positive("labels", labels[0])
        check_not_negative("silence", silence[0])
        for name, (low, high) in (("labels", labels), ("silence", silence)):
            if low > high:
                raise ValueError(f"`{name}` must be a least and a largest number, got {low} and {high}")
        self.shots, self.queries, self.labels, self.silence = shots, queries, labels, silence
        self.length, self.voices, self.seed = length, voices, seed
        self.recordings, self.split = recordings, split
        # Checks the arguments, and knows how likely each speaker is.
        self._single = AudioEpisodes(
            recordings, split, shots=shots, queries=queries, length=length, temperature=temperature, seed=seed
        )

    def __call__(self, index: int, *, split: str = "train") -> Episode:
        """Returns the `index`-th episode: `S = shots` and `Q = queries` strings."""
        check_not_negative("index", index)
        weights = self._single.weights(split)
        generator = stream(self.seed, "strings", split, index=index)
        speaker = getattr(self.split, split)[int(generator.choice(len(weights), p=weights))]
        support = self._by_label(speaker, "train")
        if split == "train":
            shuffled = [generator.permutation(rows) for rows in support]
            cut = [_share(len(rows), self.shots, self.queries) for rows in shuffled]
            support = [rows[:count] for rows, count in zip(shuffled, cut, strict=True)]
            # A label with one recording is in the support alone.
            query = [rows[count:] for rows, count in zip(shuffled, cut, strict=True)]
        else:
            query = self._by_label(speaker, split)
        episode = Episode(self._strings(generator, support, self.shots), self._strings(generator, query, self.queries))
        if split == "train" and generator.random() < self.voices:
            change = other_voice(generator, rate=self.recordings.rate)
            return Episode(*({**batch, "inputs": change(batch["inputs"])} for batch in episode))
        return episode

    def evaluation_episode(
        self, language: str, *, shots: int, draw: int, split: str = "test", max_queries: int | None = None
    ) -> Episode:
        """Returns the `draw`-th few-shot problem of a speaker, judged on strings of recordings of its `split`.

        The support depends on the seed, the speaker and `draw` alone, and with fewer shots it is a prefix of the one
        with more; the query is the same for every draw.

        Args:
            language: any speaker of the three sets.
            shots: strings of the support.
            draw: which of the random supports.
            split: the recordings to be judged on, "dev" or "test".
            max_queries: how many strings to be judged on; `queries` by default.
        """
        check_one_of("split", split, ("dev", "test"))
        check_positive("shots", shots)
        # Says what is wrong with a speaker that is unknown or has nothing to be judged on.
        self._single.evaluation_rows(language, shots=1, draw=draw, split=split)
        return Episode(
            self._strings(stream(self.seed, "support strings", language, index=draw),
                          self._by_label(language, "train"), shots),
            self._strings(stream(self.seed, "query strings", language, split),
                          self._by_label(language, split), max_queries or self.queries),
        )  # fmt: skip

    def _by_label(self, speaker: str, split: str) -> list[np.ndarray]:
        rows = self.recordings.rows(speaker, split)
        return [rows[self.recordings.label[rows] == number] for number in range(len(self.recordings.labels))]

    def _strings(self, generator: np.random.Generator, cells: list[np.ndarray], count: int) -> Batch:
        audio = np.zeros((count, self.length), np.float32)
        samples, targets = np.zeros(count, np.int32), np.zeros((count, self.labels[1]), np.int32)
        mask = np.full(count, any(len(rows) for rows in cells))
        deck = _dealt(generator, cells)
        waiting: int | None = None  # a clip that did not fit into the string before
        for place in range(count if mask.any() else 0):
            at = self._silence(generator)
            for number in range(int(generator.integers(self.labels[0], self.labels[1] + 1))):
                row = next(deck) if waiting is None else waiting
                clip = self.recordings.clips(np.array([row]), self.length)
                size = int(clip["samples"][0])
                if number == 0:
                    at = min(at, self.length - size)
                elif at + size > self.length:
                    waiting = row
                    break
                waiting = None
                audio[place, at : at + size] = clip["audio"][0, :size]
                targets[place, number] = self.recordings.label[row] + 1
                at += size + self._silence(generator)
            samples[place] = min(at, self.length)
        return {"inputs": {"audio": audio, "samples": samples}, "targets": targets, "mask": mask}

    def _silence(self, generator: np.random.Generator) -> int:
        return round(generator.uniform(*self.silence) * self.recordings.rate)


def _dealt(generator: np.random.Generator, cells: list[np.ndarray]) -> Iterator[int]:
    """Yields rows without end: every label once in a round, in any order, and each label's rows in turn."""
    cells = [generator.permutation(rows) for rows in cells if len(rows)]
    number = 0
    while True:
        for place in generator.permutation(len(cells)):
            yield int(cells[place][number % len(cells[place])])
        number += 1


def _share(count: int, shots: int, queries: int) -> int:
    """How many of a label's recordings the strings of the support are made of."""
    return min(max(round(count * shots / (shots + queries)), 1), max(count - 1, 1))
