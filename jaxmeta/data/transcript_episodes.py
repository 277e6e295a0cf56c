"""Few-shot episodes of recordings beside what is said in them as text: audio and tokens in one batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Batch, Episode
from jaxmeta.data.recordings import Recordings
from jaxmeta.data.splits import LanguageSplit
from jaxmeta.data.string_episodes import StringEpisodes
from jaxmeta.data.tokenize import Tokenizer


class TranscriptEpisodes(StringEpisodes):
    """`StringEpisodes` for retrieval: which transcript says what a recording says, and the other way round.

    A transcript is the names of a string's labels with a space between, such as "three one four" or "3 1 4". What a
    batch has is `inputs {"left": {"audio": [N, length] int16, "samples": [N] int32}, "right": [N, T] int32}`, tokens
    that 0 pads, `group [N]` int32 and `mask [N]` bool. Equal transcripts have an equal group, over all speakers, so
    that a string which is said twice in a batch is right both times.
    """

    def __init__(self, recordings: Recordings, split: LanguageSplit, tokenizer: Tokenizer, **options: Any):
        """Sorts the recordings.

        Args:
            recordings: of which only those of `split`'s speakers are used.
            split: the roles of the speakers.
            tokenizer: of the transcripts; `T` is its length.
            **options: of `StringEpisodes`.

        Raises:
            InputError: what `StringEpisodes` raises; transcripts are longer than `T`, or more than can be numbered.
        """
        super().__init__(recordings, split, **options)
        self.tokenizer, most = tokenizer, self.labels[1]
        longest = max(recordings.labels, key=lambda name: tokenizer.lengths([name])[0])
        (needed,) = tokenizer.lengths([" ".join([longest] * most)])
        if needed > tokenizer.length:
            raise InputError(
                f"A transcript of {most} labels of {recordings.name} takes up to {needed} tokens, and "
                f"`tokenizer.length` is {tokenizer.length}; set it to {needed} or more."
            )
        # A transcript is a number whose digits are its labels, the first one last.
        self._base = len(recordings.labels) + 1
        if self._base**most > 2**31:
            raise InputError(
                f"{recordings.name} has {len(recordings.labels)} labels, of which strings of {most} are more than "
                "2**31; leave some labels out."
            )
        self._places = self._base ** np.arange(most, dtype=np.int64)

    def batch(self, rows: np.ndarray) -> Batch:
        """Returns strings of recordings `[N]` beside their transcripts, without padding."""
        return self._beside(super().batch(rows))

    def placed(self, language: str, rows: list[np.ndarray], places: int) -> Batch:
        """Returns strings of the recordings of each class, as `StringEpisodes` has them, beside their transcripts."""
        return self._beside(super().placed(language, rows, places))

    def augmented(self, generator: np.random.Generator, episode: Episode) -> Episode:
        """Returns the episode, or with the probability `voices` the same as somebody else would say it."""
        spoken = Episode(*({**batch, "inputs": batch["inputs"]["left"]} for batch in episode))
        changed = super().augmented(generator, spoken)
        return Episode(
            *(
                {**batch, "inputs": {**batch["inputs"], "left": other["inputs"]}}
                for batch, other in zip(episode, changed, strict=True)
            )
        )

    def targets(self, group: np.ndarray) -> np.ndarray:
        """Returns the labels of transcripts by their groups `[N]`, counted from 1 and padded with 0, `[N, L]`."""
        return (group[:, None].astype(np.int64) // self._places % self._base).astype(np.int32)

    def _beside(self, strings: Batch) -> Batch:
        targets = strings["targets"]
        return {
            "inputs": {
                "left": strings["inputs"],
                "right": self.tokenizer.encode(transcripts(targets, self.corpus.labels)),
            },
            "group": (targets @ self._places).astype(np.int32),
            "mask": strings["mask"],
        }


def transcripts(targets: np.ndarray, labels: Sequence[str]) -> list[str]:
    """Returns the texts of strings of labels `[N, L]`, which are counted from 1 and padded with 0."""
    return [" ".join(labels[int(number) - 1] for number in row if number) for row in targets]
