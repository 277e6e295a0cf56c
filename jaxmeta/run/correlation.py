"""Correlations that need all predictions at once."""

import math
import warnings
from collections.abc import Sequence

import numpy as np


def spearman(outputs: np.ndarray | Sequence[float], targets: np.ndarray | Sequence[float]) -> float:
    """Returns Spearman's rank correlation, equal numbers at their average rank.

    Ranks are among all examples, so it cannot be summed up over batches as Pearson's can
    (`jaxmeta.objectives.scored_pair`). As there, it is zero where outputs or targets are all the same, and NaN with
    fewer than two examples.

    Args:
      outputs: `[N]` or `[N, 1]`.
      targets: as many.

    Raises:
      ValueError: if they are not as many.
    """
    outputs, targets = (np.asarray(values, np.float64).reshape(-1) for values in (outputs, targets))
    if len(outputs) != len(targets):
        raise ValueError(f"`targets` must be as many as outputs, {len(outputs)}, got {len(targets)}")
    if len(outputs) < 2:
        return math.nan
    if np.all(outputs == outputs[0]) or np.all(targets == targets[0]):
        return 0.0
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NaN, which the result then is
        return float(np.asarray(stats.spearmanr(outputs, targets))[0])
