"""Recordings told apart without a network: their mean spectra, part by part, and a logistic regression."""

from collections.abc import Mapping

import numpy as np


def part_means(frames: np.ndarray, real: np.ndarray, parts: int) -> np.ndarray:
    """Returns the mean frames of consecutive parts of each recording, equally long but for one frame.

    Args:
      frames: `[N, T, M]`.
      real: `[N, T]` bool, true for the first frames and false for the rest.
      parts: P. A recording with fewer frames has the mean of all in the parts that are left.

    Returns:
      `[N, P * M]`.
    """
    rows = []
    for one, count in zip(frames, np.count_nonzero(real, axis=1), strict=True):
        own = one[: max(count, 1)]
        pieces = np.array_split(own, parts)
        rows.append(np.concatenate([(piece if len(piece) else own).mean(axis=0) for piece in pieces]))
    return np.stack(rows)


def spectral_regression(
    support: Mapping[str, np.ndarray],
    labels: np.ndarray,
    query: Mapping[str, np.ndarray],
    *,
    parts: int,
    strength: float,
) -> np.ndarray:
    """Fits scikit-learn's logistic regression to the mean spectra of a few recordings, each number brought to scale.

    Args:
      support: "mel" `[S, T, M]` and "real" `[S, T]`, as `log_mel` returns them.
      labels: `[S]`, at least two different ones.
      query: the same of the recordings to tell apart.
      parts: see `part_means`.
      strength: the inverse strength of the regularisation.

    Returns:
      The log-probabilities of the queries, `[Q, labels that occur]`, in the order of the labels.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
    model.fit(part_means(support["mel"], support["real"], parts), labels)
    return model.predict_log_proba(part_means(query["mel"], query["real"], parts))
