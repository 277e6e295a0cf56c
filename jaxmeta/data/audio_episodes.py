"""Few-shot episodes of speech: one speaker per episode, drawn by number and nothing else."""

import numpy as np

from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import Batch, Episode
from jaxmeta.data.few_shot import FewShot
from jaxmeta.data.recordings import Recordings
from jaxmeta.data.splits import LanguageSplit
from jaxmeta.data.voices import other_voice
from jaxmeta.data.weighting import Weighting, tempered


class AudioEpisodes(FewShot[Recordings]):
    """A `TaskDistribution` of classification of one speaker's recordings, pure in `(seed, split, index)`.

    Support and query are balanced over the classes and ordered shot by shot, see `FewShot`, where a speaker is what a
    language is for text: one that is held out adapts on its train recordings and is judged on its dev or test ones, and
    meta-training sees train recordings of train speakers alone. A batch has `inputs {"audio": [N, length] int16,
    "samples": [N] int32}`, `targets [N]` int32, `mask [N]` bool and `classes [N, C]` bool.
    """

    def __init__(
        self,
        recordings: Recordings,
        split: LanguageSplit,
        *,
        shots: int,
        queries: int,
        length: int = 8000,
        weighting: Weighting | None = None,
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
            weighting: how often each speaker is drawn, by its number of train recordings; all alike by default.
            voices: the share of train episodes whose speaker is changed into one who does not exist, see
                `jaxmeta.data.voices`.
            seed: what every draw depends on.

        Raises:
            InputError: a speaker has no recordings to adapt on, or none to be judged on.
        """
        check_positive("length", length)
        super().__init__(
            recordings, split, recordings.label, num_classes=len(recordings.labels), shots=shots, queries=queries,
            weighting=weighting or tempered(np.inf), seed=seed,
        )  # fmt: skip
        self.length, self.voices = length, voices

    def augmented(self, generator: np.random.Generator, episode: Episode) -> Episode:
        """Returns the episode, or with the probability `voices` the same as somebody else would say it."""
        if generator.random() >= self.voices:
            return episode
        change = other_voice(generator, rate=self.corpus.rate)
        return Episode(*({**batch, "inputs": change(batch["inputs"])} for batch in episode))

    def batch(self, rows: np.ndarray) -> Batch:
        """Returns recordings `[N]` as a batch without padding."""
        return {
            "inputs": self.corpus.clips(rows, self.length),
            "targets": self.corpus.label[rows].astype(np.int32),
            "mask": np.ones(len(rows), bool),
            "classes": self.present(rows),
        }
