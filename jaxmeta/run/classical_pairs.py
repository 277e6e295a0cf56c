"""Pairs of texts without a neural network: how many character n-grams the two sides share."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def ngram_similarities(left: Sequence[str], right: Sequence[str], *, ngrams: tuple[int, int] = (1, 4)) -> np.ndarray:
    """Returns the cosines of the TF-IDF vectors of two lists of texts, over character n-grams inside of words.

    Across languages it finds names, numbers, and words that two languages share.

    Args:
      left: N texts.
      right: M texts.
      ngrams: the shortest and the longest.

    Returns:
      `[N, M]` float32 between 0 and 1.
    """
    of_left, of_right = _vectors(left, right, ngrams)
    return (of_left @ of_right.T).toarray().astype(np.float32)


class SemanticSpace:
    """Texts of any language by how close they are to each of many known pairs, by the side that is in their language.

    Cross-language explicit semantic analysis (Potthast et al. 2008, "A Wikipedia-based multilingual retrieval model"):
    what says the same is close to the two sides of the same pairs. Closeness is the cosine of TF-IDF vectors over
    character n-grams, of several spellings of the texts beside each other.
    """

    def __init__(
        self, left: Sequence[str], right: Sequence[str], spellings: Sequence[Callable[[str], str]], *, longest: int = 4
    ):
        """Reads the known pairs, `left` and `right`; n-grams have up to `longest` characters."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._spellings, both = spellings, [*left, *right]
        self._readers = [
            TfidfVectorizer(analyzer="char_wb", ngram_range=(1, longest), sublinear_tf=True).fit(map(spell, both))
            for spell in spellings
        ]
        self._left, self._right = self._read(left), self._read(right)

    def similarities(
        self,
        left: Sequence[str],
        right: Sequence[str],
        shown_left: Sequence[str],
        shown_right: Sequence[str],
        *,
        power: float,
    ) -> np.ndarray:
        """Returns how close two lists of texts are: the cosine of their places in the space, and of their own vectors.

        Args:
          left: N texts.
          right: M texts.
          shown_left: S more texts whose pairs are known, in the language of `left`.
          shown_right: what they are paired with.
          power: closeness to known texts is raised to it; a large one leaves the nearest ones alone.

        Returns:
          `[N, M]` float32 between 0 and 2.
        """
        own = [self._read(texts) for texts in (left, right)]
        known = [(self._left, shown_left), (self._right, shown_right)]
        places = []
        for vectors, (of_source, shown) in zip(own, known, strict=True):
            near = [(vectors @ others.T).toarray() for others in (of_source, self._read(shown))]
            place = np.concatenate(near, axis=1) ** power
            places.append(place / np.maximum(np.linalg.norm(place, axis=1, keepdims=True), 1e-12))
        return (places[0] @ places[1].T + (own[0] @ own[1].T).toarray()).astype(np.float32)

    def _read(self, texts: Sequence[str]) -> Any:
        from scipy.sparse import hstack

        pairs = zip(self._readers, self._spellings, strict=True)
        vectors = hstack([reader.transform(map(spell, texts)) for reader, spell in pairs]).tocsr()
        return vectors / len(self._readers) ** 0.5  # each spelling's are of length one


class SourceRegression:
    """A ridge regression of scores on TF-IDF of the character n-grams of either side, fitted to pairs of the source."""

    def __init__(self, left: Sequence[str], right: Sequence[str], scores: np.ndarray):
        """Reads S pairs and their scores."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        options: Any = {"analyzer": "char_wb", "ngram_range": (1, 4), "sublinear_tf": True, "min_df": 2}
        self._readers = [TfidfVectorizer(**options).fit(side) for side in (left, right)]
        self._design, self._scores = self._read(left, right), np.asarray(scores, np.float64).reshape(-1)
        self._fitted = functools.cache(self._fit)

    def predict(self, left: Sequence[str], right: Sequence[str], *, ridge: float) -> np.ndarray:
        """Returns the scores of Q pairs, `[Q]` float32; `ridge` is the weight of the penalty."""
        return self._fitted(ridge).predict(self._read(left, right)).astype(np.float32)

    def _fit(self, ridge: float) -> Any:
        from sklearn.linear_model import Ridge

        return Ridge(alpha=ridge).fit(self._design, self._scores)

    def _read(self, left: Sequence[str], right: Sequence[str]) -> Any:
        from scipy.sparse import hstack

        pairs = zip(self._readers, (left, right), strict=True)
        return hstack([reader.transform(side) for reader, side in pairs]).tocsr()


def ngram_regression(
    left: Sequence[str],
    right: Sequence[str],
    scores: np.ndarray | Sequence[float],
    query_left: Sequence[str],
    query_right: Sequence[str],
    *,
    ridge: float = 1.0,
) -> np.ndarray:
    """Fits a ridge regression of scores to what can be counted of a pair, and predicts those of other pairs.

    Counted are the shared n-grams (the cosine of `ngram_similarities`), the logarithm of either side's length in
    characters and their difference, and by how many digits and punctuation marks the sides differ.

    Args:
      left: S texts.
      right: S texts.
      scores: S numbers.
      query_left: Q texts.
      query_right: Q texts.
      ridge: the weight of the penalty, of features with a variance of one.

    Returns:
      `[Q]` float32.
    """
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = _counted([*left, *query_left], [*right, *query_right])
    model = make_pipeline(StandardScaler(), Ridge(alpha=ridge))
    model.fit(features[: len(left)], np.asarray(scores, np.float64).reshape(-1))
    return model.predict(features[len(left) :]).astype(np.float32)


def _counted(left: Sequence[str], right: Sequence[str]) -> np.ndarray:
    """Returns the features of N pairs, `[N, F]`."""

    def of_sides(count) -> tuple[np.ndarray, np.ndarray]:
        return np.array([count(t) for t in left], np.float64), np.array([count(t) for t in right], np.float64)

    of_left, of_right = _vectors(left, right, (1, 4))
    cosine = np.asarray(of_left.multiply(of_right).sum(axis=1), np.float64).reshape(-1)
    long, other_long = of_sides(lambda text: np.log1p(len(text)))
    digits, other_digits = of_sides(lambda text: sum(c.isdigit() for c in text))
    marks, other_marks = of_sides(lambda text: sum(not c.isalnum() and not c.isspace() for c in text))
    columns = [cosine, long, other_long, long - other_long, np.abs(digits - other_digits), np.abs(marks - other_marks)]
    return np.stack(columns, axis=1)


def _vectors(left: Sequence[str], right: Sequence[str], ngrams: tuple[int, int]) -> Any:
    """Returns the TF-IDF vectors of both sides, of length one, as sparse matrices `[N, V]` and `[M, V]`."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=ngrams, sublinear_tf=True)
    vectorizer.fit([*left, *right])
    return vectorizer.transform(left), vectorizer.transform(right)
