"""Few-shot episodes of pairs, questions and plain text: one language, or pair of languages, per episode."""

from typing import Any

import jax
import numpy as np

from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import Batch, Episode
from jaxmeta.data.few_shot import FewShot
from jaxmeta.data.lexicon import exchange_words, learn_lexicon
from jaxmeta.data.sequences import count_bytes, ended, previous, specials, with_length
from jaxmeta.data.spans import Question, Windows, encode_windows, learning_windows, likely_windows, strided_windows
from jaxmeta.data.splits import LanguageSplit
from jaxmeta.data.table import Table
from jaxmeta.data.tokenize import Tokenizer
from jaxmeta.data.weighting import Weighting, tempered

# The sides of pairs, by schema.
_PAIRS = {
    "translation": ("src", "tgt"),
    "summaries": ("text", "summary"),
    "retrieval": ("text", "english"),
    "scored_pairs": ("first", "second"),
}


class PairEpisodes(FewShot[Table]):
    """A `TaskDistribution` of the rows of a `Table`, pure in `(seed, split, index)`.

    Support and query are any `shots` and `queries` rows, for these have no classes; the roles of languages and of rows
    are those of `FewShot`. What a batch of `N` examples has, beside `mask [N]` bool, follows from the schema. `L` is
    the length of the tokenizer's rows and `M` is `target_length`; see `jaxmeta.data.sequences` for how texts end, and
    `jaxmeta.data.spans` for the windows of contexts.

        translation, summaries   inputs: source [N, L], previous [N, M]; targets [N, M], 0 for padding
        generation               inputs: previous [N, M]; targets [N, M]; bytes [N]
        retrieval                inputs: left [N, L], right [N, L]; group [N]: equal numbers say the same thing
        scored_pairs             inputs: left [N, L], right [N, L]; targets [N] float32
        question_answering       inputs: words [N, L, F], sentence [N, L], question [N, A], asked [N, B], of windows of
                                 L words; targets: start [N], end [N], words, -1 where the window lacks the answer,
                                 which counts as wrong
    """

    def __init__(
        self,
        table: Table,
        tokenizer: Tokenizer,
        split: LanguageSplit,
        *,
        shots: int,
        queries: int,
        target_length: int | None = None,
        temperature: float = 1.0,
        weighting: Weighting | None = None,
        lexicon: bool = False,
        seed: int = 0,
    ):
        """Tokenises `table` once.

        Args:
            table: the rows, of which only those of `split`'s languages are used.
            tokenizer: what turns them into tokens; of questions its length alone is read.
            split: the roles of the languages, or of the pairs of languages; see `split_pairs`.
            shots: support examples.
            queries: query examples.
            target_length: `M`; `L` by default.
            temperature: a language of `n` rows is drawn in proportion to `n ** (1 / temperature)`.
            weighting: another way to draw languages, see `jaxmeta.data.weighting`; then `temperature` is not read.
            lexicon: of translations, whether sources are read with the words exchanged that `learn_lexicon` learns from
                the support: those of the support without the pair itself.
            seed: what every draw depends on.

        Raises:
            InputError: a language has no rows to adapt on, or none to be judged on.
        """
        if target_length is not None:
            check_positive("target_length", target_length)
        if lexicon and table.schema.name != "translation":
            raise ValueError(f"`lexicon` must be false for {table.schema.name}: only translations have one")
        self.tokenizer, self.lexicon = tokenizer, lexicon
        self.targets_tokenizer = with_length(tokenizer, target_length or tokenizer.length)
        self.specials = specials(tokenizer)
        self._leaves, usable = self._encoded(table)
        used = np.isin(table.language, [language for languages in split for language in languages])
        self.left_out = int(np.count_nonzero(used & ~usable))  # train rows whose answer is longer than a window
        super().__init__(
            table, split, np.where(usable, 0, -1), num_classes=1, shots=shots, queries=queries,
            weighting=weighting or tempered(temperature), seed=seed,
        )  # fmt: skip

    def batch(self, rows: np.ndarray) -> Batch:
        """Returns rows of the table `[N]` as a batch without padding."""
        if self.corpus.schema.name == "question_answering":
            return self._read_windows(rows)
        leaves = jax.tree.map(lambda leaf: _wide(leaf[rows]), self._leaves)
        if self.corpus.schema.name in ("translation", "summaries", "generation"):
            before = previous(leaves["targets"], self.specials.bos)
            leaves["inputs"] = {**leaves.get("inputs", {}), "previous": before}
        return {**leaves, "mask": np.ones(len(rows), bool)}

    def informed(self, episode: Episode, support: np.ndarray, query: np.ndarray) -> Episode:
        """Returns an episode whose sources were exchanged word for word, if it is to have a lexicon."""
        if not self.lexicon:
            return episode
        sides = [[self.corpus.texts(column, rows) for rows in (support, query)] for column in ("src", "tgt")]
        found = learn_lexicon(sides[0][0], sides[1][0])
        texts = (
            [exchange_words(*pair) for pair in zip(sides[0][0], found.without, strict=True)],
            [exchange_words(text, found.words) for text in sides[0][1]],
        )
        return Episode(*(self._reading(batch, text) for batch, text in zip(episode, texts, strict=True)))

    def _reading(self, batch: Batch, texts: list[str]) -> Batch:
        """Returns a batch whose first sources are `texts`; what follows is padding."""
        source = batch["inputs"]["source"].copy()
        source[: len(texts)] = self.tokenizer.encode(texts)
        return {**batch, "inputs": {**batch["inputs"], "source": source}}

    def windows(self, rows: np.ndarray) -> Windows:
        """Returns all windows of the contexts of `rows`, where one window for each question is too few."""
        return strided_windows(_questions(self.corpus, rows), self.tokenizer.length)

    def _encoded(self, table: Table) -> tuple[dict[str, Any], np.ndarray]:
        """Returns the leaves of all rows, without what follows from others, and which rows may be used."""
        schema, every = table.schema.name, np.ones(len(table), bool)
        if schema == "question_answering":
            starts = np.zeros(len(table), np.int64)
            trained = np.flatnonzero(table.split == "train")
            starts[trained] = learning_windows(_questions(table, trained), self.tokenizer.length)
            return {"starts": starts}, starts >= 0
        if schema == "generation":
            texts = table.texts("text")
            targets = self._narrow(ended(self.targets_tokenizer, texts))
            return {"targets": targets, "bytes": count_bytes(self.targets_tokenizer, texts)}, every
        first, second = (table.texts(column) for column in _PAIRS[schema])
        if schema in ("translation", "summaries"):
            source = self._narrow(self.tokenizer.encode(first))
            return {"inputs": {"source": source}, "targets": self._narrow(ended(self.targets_tokenizer, second))}, every
        sides = {
            "left": self._narrow(self.tokenizer.encode(first)),
            "right": self._narrow(self.tokenizer.encode(second)),
        }
        if schema == "scored_pairs":
            return {"inputs": sides, "targets": table.numbers("score")}, every
        return {"inputs": sides, "group": table.sentence.astype(np.int32)}, every

    def _read_windows(self, rows: np.ndarray) -> Batch:
        # Described when they are read: of all rows at once it would be gigabytes.
        questions, starts = _questions(self.corpus, rows), self._leaves["starts"][rows]
        judged = np.flatnonzero(self.corpus.split[rows] != "train")
        starts[judged] = likely_windows([questions[place] for place in judged], self.tokenizer.length)
        found = encode_windows(questions, starts, self.tokenizer.length)
        return {
            "inputs": found.inputs,
            "targets": {"start": found.start, "end": found.end},
            "mask": np.ones(len(rows), bool),
        }

    def _narrow(self, tokens: np.ndarray) -> np.ndarray:
        return tokens.astype(np.uint16) if self.specials.vocab_size <= 2**16 else tokens


def _questions(table: Table, rows: np.ndarray) -> list[Question]:
    texts = (table.texts(column, rows) for column in ("context", "question", "answer"))
    return [Question(*fields) for fields in zip(*texts, table.numbers("answer_start")[rows].tolist(), strict=True)]


def _wide(leaf: np.ndarray) -> np.ndarray:
    return leaf if leaf.dtype == np.float32 else leaf.astype(np.int32)
