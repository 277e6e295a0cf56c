"""How often each language is drawn, by how much text it has."""

from collections.abc import Callable

import numpy as np

from jaxmeta.core.checks import check_positive

Weighting = Callable[[np.ndarray], np.ndarray]  # rows of each language [K] -> probabilities [K]


def tempered(temperature: float) -> Weighting:
    """Draws a language of `n` rows in proportion to `n ** (1 / temperature)`.

    1 for every row alike, infinity for every language alike (Arivazhagan et al. 2019, arXiv 1907.05019).
    """
    check_positive("temperature", temperature)

    def weigh(counts: np.ndarray) -> np.ndarray:
        counts = np.asarray(counts, np.float64)
        weights = (counts / counts.max(initial=1.0)) ** (1.0 / temperature)
        return weights / max(weights.sum(), np.finfo(np.float64).tiny)

    return weigh


def unimax(budget: float, epochs: float) -> Weighting:
    """Draws every language alike, but none for more than `epochs` times its rows (Chung et al. 2023, arXiv 2304.09151).

    What a small language may not use of its share goes to the larger ones, in equal parts.

    Args:
        budget: how many rows are drawn in the whole of training.
        epochs: how often a row may be drawn, on average. If the budget is more than that of all rows, all are drawn so
            often, which is in proportion to their number.
    """
    check_positive("budget", budget)
    check_positive("epochs", epochs)

    def weigh(counts: np.ndarray) -> np.ndarray:
        counts = np.asarray(counts, np.float64)
        shares = np.zeros_like(counts)
        left = float(budget)
        for place, language in enumerate(np.argsort(counts, kind="stable")):
            shares[language] = min(left / (len(counts) - place), epochs * counts[language])
            left -= shares[language]
        return shares / max(shares.sum(), np.finfo(np.float64).tiny)

    return weigh
