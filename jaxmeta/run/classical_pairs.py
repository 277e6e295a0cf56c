"""Pairs of texts without a neural network: how many character n-grams the two sides share."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def ngram_similarities(
    left: Sequence[str], right: Sequence[str], *, ngrams: tuple[int, int] = (1, 4), background: Sequence[str] = ()
) -> np.ndarray:
    """Returns the cosines of the TF-IDF vectors of two lists of texts, over character n-grams inside of words.

    Across languages it finds names, numbers, and words that two languages share.

    Args:
      left: N texts.
      right: M texts.
      ngrams: the shortest and the longest.
      background: more texts to count in how many a n-gram occurs.

    Returns:
      `[N, M]` float32 between 0 and 1.
    """
    of_left, of_right = _vectors(left, right, ngrams, background)
    return (of_left @ of_right.T).toarray().astype(np.float32)


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

    of_left, of_right = _vectors(left, right, (1, 4), ())
    cosine = np.asarray(of_left.multiply(of_right).sum(axis=1), np.float64).reshape(-1)
    long, other_long = of_sides(lambda text: np.log1p(len(text)))
    digits, other_digits = of_sides(lambda text: sum(c.isdigit() for c in text))
    marks, other_marks = of_sides(lambda text: sum(not c.isalnum() and not c.isspace() for c in text))
    columns = [cosine, long, other_long, long - other_long, np.abs(digits - other_digits), np.abs(marks - other_marks)]
    return np.stack(columns, axis=1)


def _vectors(left: Sequence[str], right: Sequence[str], ngrams: tuple[int, int], background: Sequence[str]) -> Any:
    """Returns the TF-IDF vectors of both sides, of length one, as sparse matrices `[N, V]` and `[M, V]`."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=ngrams, sublinear_tf=True)
    vectorizer.fit([*left, *right, *background])
    return vectorizer.transform(left), vectorizer.transform(right)
