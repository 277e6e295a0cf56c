"""Few-shot episodes of text: one language per episode, drawn by number and nothing else."""

from collections.abc import Mapping

import numpy as np

from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Batch, Episode
from jaxmeta.data.cipher import byte_cipher
from jaxmeta.data.corpus import Corpus
from jaxmeta.data.descriptors import describe
from jaxmeta.data.few_shot import FewShot
from jaxmeta.data.splits import LanguageSplit
from jaxmeta.data.tokenize import ByteTokenizer, Tokenizer
from jaxmeta.data.weighting import Weighting, tempered


class TextEpisodes(FewShot[Corpus]):
    """A `TaskDistribution` of classification in one language, pure in `(seed, split, index)`.

    Support and query are balanced over the classes and ordered shot by shot, see `FewShot`. A batch has `inputs [N, L]`
    int32, `targets [N]` int32, `mask [N]` bool and `classes [N, C]` bool, and where texts are described `descriptor
    [N, P]` float32.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        split: LanguageSplit,
        *,
        shots: int,
        queries: int,
        temperature: float = 1.0,
        weighting: Weighting | None = None,
        cipher: float = 0.0,
        families: Mapping[str, str] | None = None,
        present: Mapping[str, np.ndarray] | None = None,
        seed: int = 0,
    ):
        """Tokenises `corpus` once.

        Args:
            corpus: the rows, of which only those of `split`'s languages are used.
            tokenizer: what turns them into tokens.
            split: the roles of the languages.
            shots: support examples per class.
            queries: query examples per class.
            temperature: a language of `n` rows is drawn in proportion to `n ** (1 / temperature)`: 1 for
                every row alike, infinity for every language alike.
            weighting: another way to draw languages, see `jaxmeta.data.weighting`; then `temperature` is not read.
            cipher: the share of train episodes whose letters are exchanged, see `jaxmeta.data.cipher`.
            families: the family of each language that has one, for descriptors (`jaxmeta.data.describe`), which batches
                then have; an empty mapping for descriptors without families, None for no descriptors.
            present: which classes each language has `[C]` bool, where `corpus` is not all there is of it.
            seed: what every draw depends on.

        Raises:
            InputError: a language has no rows to adapt on, or none to be judged on, or the tokens are not bytes and
                `cipher` asks for them.
        """
        if cipher and not isinstance(tokenizer, ByteTokenizer):
            raise InputError("`train.cipher` exchanges bytes; set it to 0, or `tokenizer.kind` to bytes.")
        super().__init__(
            corpus, split, corpus.label, num_classes=len(corpus.labels), shots=shots, queries=queries,
            weighting=weighting or tempered(temperature), seed=seed,
        )  # fmt: skip
        if cipher and families is not None:
            raise ValueError("`families` describes texts whose letters `cipher` exchanges; leave one out")
        self.tokenizer, self.temperature, self.cipher, self.families = tokenizer, temperature, cipher, families
        self._told = present
        tokens = tokenizer.encode(corpus.text)
        self._tokens = tokens.astype(np.uint16) if tokenizer.vocab_size <= 2**16 else tokens

    def augmented(self, generator: np.random.Generator, episode: Episode) -> Episode:
        """Returns the episode, or with the probability `cipher` the same with its letters exchanged."""
        return _under(byte_cipher(generator), episode) if generator.random() < self.cipher else episode

    def present(self, rows: np.ndarray) -> np.ndarray:
        """Returns which classes the language of each of `rows` has, in any split: `[N, C]` bool."""
        if self._told is None:
            return super().present(rows)
        return np.stack([self._told[language] for language in self.corpus.language[rows].tolist()])

    def batch(self, rows: np.ndarray) -> Batch:
        """Returns rows of the corpus `[N]` as a batch without padding."""
        batch = {
            "inputs": self._tokens[rows].astype(np.int32),
            "targets": self.corpus.label[rows].astype(np.int32),
            "mask": np.ones(len(rows), bool),
            "classes": self.present(rows),
        }
        if self.families is None:
            return batch
        return {
            **batch,
            "descriptor": describe(self.corpus.texts(rows), self.corpus.language[rows].tolist(), self.families),
        }


def _under(table: np.ndarray, episode: Episode) -> Episode:
    return Episode(*({**batch, "inputs": table[batch["inputs"]]} for batch in episode))
