"""TF-IDF of character n-grams with logistic regression: from the shots, from all source languages, and from both."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxmeta.config.readouts import class_counts
from jaxmeta.config.tasks import HeldOut, TextTasks
from jaxmeta.core.types import IMPOSSIBLE, ArrayTree, Batch
from jaxmeta.run.plan import Classical

_NGRAMS = {"analyzer": "char_wb", "ngram_range": (1, 4)}
_STRENGTHS = (1.0, 10.0, 100.0, 1e3, 1e4)
# N-grams of languages that the source has not seen fall into the same places as those that it has.
_PLACES = 2**15
# The source's logits are features of the second classifier, whose own are of unit length.
_SHARES = (0.1, 0.2, 0.4, 0.8)
_SHOT_STRENGTH = 30.0


def tfidf(tasks: TextTasks) -> Classical:
    """Returns TF-IDF with logistic regression; how little the latter is regularised is for the dev languages to say."""

    def fitted(inverse_strength: float) -> Callable:
        return functools.partial(_tfidf, inverse_strength)

    return _of_shots("tfidf", "C", _STRENGTHS, tasks, fitted)


def _tfidf(inverse_strength: float, texts: Sequence[str], labels: np.ndarray, queries: Sequence[str]) -> np.ndarray:
    """Fits scikit-learn's TF-IDF of character 1- to 4-grams and logistic regression; returns log-probabilities."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(**_NGRAMS, sublinear_tf=True), _regression(inverse_strength))
    return model.fit(texts, labels).predict_log_proba(queries)


def tfidf_source(tasks: TextTasks) -> Classical:
    """Returns TF-IDF with logistic regression that is fitted to every train row of the train languages, and to no shot.

    It is the same for every draw of shots.
    """
    source, counts = Source(tasks), class_counts(len(tasks.corpus.labels))

    @functools.cache
    def of_language(strength: float, language: str, split: str) -> ArrayTree:
        queries, query = tasks.queries(language, split)
        logits = np.full((len(queries), len(tasks.corpus.labels)), IMPOSSIBLE, np.float32)
        logits[:, source.fitted(strength).classes_] = source.logits(strength, source.read(queries))
        return counts(logits, query)

    return Classical(
        "tfidf_source", "C", (0.1, 1.0, 10.0), lambda value, code, shots, draw, split: of_language(value, code, split)
    )


def tfidf_source_and_shots(tasks: TextTasks) -> Classical:
    """Returns the source's classifier corrected by the shots: its logits are features beside their TF-IDF.

    How much they count beside it is for the dev languages to say. So one fit to the source serves every problem.
    """
    source = Source(tasks)

    def fitted(share: float) -> Callable:
        from scipy.sparse import csr_matrix, hstack

        def fit(texts: Sequence[str], labels: np.ndarray, queries: Sequence[str]) -> np.ndarray:
            support, query = (
                hstack([read, csr_matrix(share * source.logits(1.0, read))]).tocsr()
                for read in (source.read(texts), source.read(queries))
            )
            return _regression(_SHOT_STRENGTH).fit(support, labels).predict_log_proba(query)

        return fit

    return _of_shots("tfidf_source_and_shots", "share", _SHARES, tasks, fitted)


class Source:
    """What the train rows of the train languages say: how rare an n-gram is, and of what class its text."""

    def __init__(self, tasks: TextTasks):
        self._tasks = tasks
        self.fitted = functools.cache(self._fit)
        self._logged = functools.lru_cache(maxsize=8)(_logged)  # each value of a setting is tried on the same texts

    def read(self, texts: Sequence[str]) -> Any:
        """Returns TF-IDF `[N, places]`, sparse and of unit length, by the frequencies of the source."""
        return self._inverse.transform(self._logged(tuple(texts)))

    def logits(self, strength: float, read: Any) -> np.ndarray:
        """Returns the logits of the classes that the source has, `[N, C']`, minus their mean."""
        found = self.fitted(strength).predict_log_proba(read)
        return found - found.mean(axis=1, keepdims=True)

    @functools.cached_property
    def _inverse(self):
        from sklearn.feature_extraction.text import TfidfTransformer

        return TfidfTransformer().fit(self._logged(tuple(self._tasks.source_texts()[0])))

    def _fit(self, strength: float) -> Any:
        texts, labels = self._tasks.source_texts()
        return _regression(strength).fit(self.read(texts), labels)


def _logged(texts: Sequence[str]) -> Any:
    """Returns how often each place is met, `[N, places]`, sparse, as 1 + log of the number."""
    from sklearn.feature_extraction.text import HashingVectorizer

    options: dict[str, Any] = {**_NGRAMS, "n_features": _PLACES, "alternate_sign": False, "norm": None}
    counted: Any = HashingVectorizer(**options).transform(texts)
    counted.data = 1 + np.log(counted.data)
    return counted


def _regression(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=1000)


def _of_shots(
    name: str, setting: str, values: tuple[float, ...], tasks: TextTasks, fitted: Callable[[float], Callable]
) -> Classical:
    """Returns a baseline whose `fitted(value)(texts, labels, queries)` are log-probabilities of the classes it saw."""
    counts = class_counts(len(tasks.corpus.labels))

    def logits(
        value: float, language: str, shots: int, draw: int, split: str, held_out: HeldOut | None = None
    ) -> tuple[np.ndarray, Batch]:
        where = {"shots": shots, "draw": draw, "split": split}
        texts, labels, queries, query = tasks.texts(language, **where, held_out=held_out)
        found = np.full((len(queries), len(tasks.corpus.labels)), IMPOSSIBLE, np.float32)
        seen = np.unique(labels)
        # Of one class there is nothing to fit, and scikit-learn refuses to.
        found[:, seen] = fitted(value)(texts, labels, queries) if len(seen) > 1 else 0.0
        return found, query

    return Classical(name, setting, values, lambda *where: counts(*logits(*where)), logits)
