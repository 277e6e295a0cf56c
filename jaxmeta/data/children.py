"""Small learning problems for child models out of the CLDR, no download.

A child learns to tell the month of a date, its weekday, or what a term names, in a few languages at once. Its inputs
are there twice: as bytes, and as a bag of hashed character n-grams, so that children of different kinds learn the same
thing.
"""

import copy
import functools
from collections.abc import Mapping
from typing import Self

import numpy as np

from jaxmeta.core.batches import pad_batch
from jaxmeta.core.checks import InputError, check_positive
from jaxmeta.core.types import Batch, Episode
from jaxmeta.data.cldr import CLDR_TASKS, MONTHS, cldr, date_languages, term_languages
from jaxmeta.data.corpus import Corpus
from jaxmeta.data.splits import split_languages
from jaxmeta.data.streams import stream
from jaxmeta.data.tokenize import ByteTokenizer

CHILD_CLASSES = len(MONTHS)  # the most that a task has; the others say which there are
_LONGEST = 3  # bytes of an n-gram
_ROWS = {"month": 32, "weekday": 54, "kind": 64}  # rows of each class: about as many in all


class ChildEpisodes:
    """Episodes of child models (implements `TaskDistribution`).

    Languages are apart: those of "dev" and "test" are in no training episode, of whatever task. In training, support
    and query are train rows; a child of another split learns from train rows and is judged on rows of its split, whose
    sentences no child was trained on in any language.

    Attributes:
        names: by split, "TASK:LANGUAGE+LANGUAGE" of children that share no language with one another in a task.
    """

    def __init__(
        self,
        *,
        examples: int,
        queries: int,
        buckets: int,
        length: int,
        each: int,
        test: int,
        dev: int,
        seed: int = 0,
    ):
        """Draws the languages and their texts.

        Args:
            examples: support rows of a child.
            queries: query rows.
            buckets: that n-grams are hashed to.
            length: bytes of a text that are read.
            each: languages that a child learns.
            test: languages of the final judgement.
            dev: languages to choose settings on; all others are trained on.
            seed: what the draws depend on.
        """
        for name, value in {"examples": examples, "queries": queries, "buckets": buckets, "each": each}.items():
            check_positive(name, value)
        self.examples, self.queries, self.buckets, self.each, self.seed = examples, queries, buckets, each, seed
        self.tokenizer = ByteTokenizer(length)
        known = sorted(set(date_languages("month")) & set(date_languages("weekday")) & set(term_languages()))
        for name, count in {"test": test, "dev": dev}.items():
            if count < each:
                raise InputError(f"A child learns {each} languages at once, and {name} has {count}; set more aside.")
        self.split = split_languages(known, test=test, dev=dev, seed=seed)
        if len(self.split.train) < each:
            raise InputError(f"{len(known)} languages have all tasks, and none is left to train on; hold fewer out.")
        self.corpora = _corpora(tuple(known), seed)
        self.names = {role: self._children(role) for role in ("train", "dev", "test")}

    def __call__(self, index: int, *, split: str = "train") -> Episode:
        """Returns the `index`-th training episode: a child at random."""
        rng = stream(self.seed, "children", split, index=index)
        task = CLDR_TASKS[rng.integers(len(CLDR_TASKS))]
        languages = rng.choice(sorted(getattr(self.split, split)), self.each, replace=False)
        return self._episode(f"{task}:{'+'.join(languages)}", split, rng)

    def drawn_by(self, seed: int) -> Self:
        """Returns the same languages and texts, of which another seed draws training episodes."""
        found = copy.copy(self)
        found.seed = seed
        return found

    def evaluation_episode(self, name: str, *, draw: int, split: str) -> Episode:
        """Returns the `draw`-th episode of a child of `names`."""
        return self._episode(name, split, stream(self.seed, "children", "judged", name, split, index=draw))

    def _children(self, role: str) -> tuple[str, ...]:
        languages, each = getattr(self.split, role), self.each
        groups = ["+".join(languages[first : first + each]) for first in range(0, len(languages) - each + 1, each)]
        return tuple(f"{task}:{group}" for task in CLDR_TASKS for group in groups)

    def _episode(self, name: str, role: str, rng: np.random.Generator) -> Episode:
        task, _, languages = name.partition(":")
        support, query = (
            rng.permutation(np.concatenate([self.corpora[task].rows(code, part) for code in languages.split("+")]))
            for part in ("train", role)
        )
        if role == "train":
            support, query = support[self.queries :], support[: self.queries]
        batches = ((support, self.examples), (query, self.queries))
        return Episode(*(pad_batch(self._batch(task, rows[:size]), size) for rows, size in batches))

    def _batch(self, task: str, rows: np.ndarray) -> Batch:
        corpus = self.corpora[task]
        tokens = self.tokenizer.encode(corpus.texts(rows))
        exist = np.arange(CHILD_CLASSES) < len(corpus.labels)
        return {
            "inputs": {"tokens": tokens, "counts": hashed_ngrams(tokens, self.buckets)},
            "targets": corpus.label[rows].astype(np.int32),
            "classes": np.tile(exist, (len(rows), 1)),
        }


@functools.cache
def _corpora(languages: tuple[str, ...], seed: int) -> Mapping[str, Corpus]:
    return {
        task: cldr(task, languages=languages, train=rows, dev=rows // 3, test=rows // 3, seed=seed)
        for task, rows in _ROWS.items()
    }


def hashed_ngrams(tokens: np.ndarray, buckets: int) -> np.ndarray:
    """Returns bags of n-grams of one to three bytes, hashed.

    Args:
        tokens: `[N, L]`, 0 is padding.
        buckets: D.

    Returns:
        `[N, D]` float32, one plus the logarithm of each count, of root mean square one; zero for an empty text.
    """
    counts = np.zeros((len(tokens), buckets), np.float32)
    hashed, real = np.zeros(tokens.shape, np.uint64), np.ones(tokens.shape, bool)
    for offset in range(_LONGEST):
        later = np.pad(tokens[:, offset:], ((0, 0), (0, offset)))
        hashed, real = hashed * np.uint64(1_000_003) + later.astype(np.uint64) + np.uint64(1), real & (later > 0)
        mixed = hashed * np.uint64(0x9E3779B97F4A7C15)  # the upper bits of the product are even (Knuth 1973)
        bucket = ((mixed >> np.uint64(40)) % np.uint64(buckets)).astype(np.int64)
        np.add.at(counts, (np.arange(len(tokens))[:, None], bucket), real)
    read = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
    scale = np.sqrt(np.mean(np.square(read), axis=1, keepdims=True))
    return (read / np.maximum(scale, 1e-6)).astype(np.float32)
