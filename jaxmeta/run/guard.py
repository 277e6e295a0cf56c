"""The negative-transfer guard: whether a target's own shots say that it is better to learn from them alone.

Transfer hurts where training on the shots alone does better, and no query may be read to find that out. So both are
tried by folds inside the support, as temperatures are: each adapts, at the settings it has anyway, to all shots but
those of a fold, and answers these. `target_only` is used where it is right more often by more than chance, and transfer
otherwise: with few shots the folds say little, and transfer is what other languages speak for. Two things to know: a
model of fewer shots leans more on what was learned elsewhere, and shots that are translations of what was trained on
are answered better than what is judged, so that the guard errs on the side of transfer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxmeta.run.statistics import bootstrap_interval, paired_difference
from jaxmeta.run.transfer import ALONE
from jaxmeta.run.units import score_digits

STANDARD_ERRORS = 1.0  # by which the shots alone must be ahead


def says_alone(ours: np.ndarray, alone: np.ndarray) -> bool:
    """Whether the shots alone are ahead by more than chance.

    Args:
      ours: which of the shots `[N]` transfer answers right when it does not see them.
      alone: the same of training on the shots alone.
    """
    ahead = alone.astype(np.float64) - ours.astype(np.float64)
    # Under no difference the sum of paired differences has the variance of its squares (McNemar 1947).
    return float(ahead.sum()) > STANDARD_ERRORS * float(np.sqrt(np.square(ahead).sum()))


def guarded(
    scores: Mapping[str, np.ndarray],
    right: Mapping[str, Sequence[np.ndarray]],
    methods: Sequence[str],
    *,
    draws: int,
    folds: int,
    metric: str,
    higher_is_better: bool,
) -> dict[str, Any]:
    """Returns what `evaluation.json` says of the guard.

    Args:
      scores: grids `[L, R]` of the methods and of `target_only`; `R` is training seeds times draws of shots.
      right: of each, for every problem (languages times draws), which of its shots `[N]` its folds answer right.
      methods: that are guarded.
      draws: of shots, `D`.
      folds: of a support.
      metric: the score.
      higher_is_better: which way it is better.

    Returns:
      "over", "folds", "says", and of each method under "methods" "mean" and "ci95" of the method under the guard,
      "gain" and "gain_ci95" over the method without, "problems", "alone" (problems in which the guard says
      `target_only`), "hurt" (in which that does better) and "caught" (both).
    """
    sign = 1.0 if higher_is_better else -1.0
    found = {}
    for name in methods:
        own, alone = scores[name], scores[ALONE]
        says = np.array([says_alone(*pair) for pair in zip(right[name], right[ALONE], strict=True)]).reshape(-1, draws)
        # The folds are answered once, by the first training seed; what they say holds for all.
        seeds = own.shape[1] // draws
        says = np.tile(says, (1, seeds))
        grid = np.where(says, alone, own)
        interval = bootstrap_interval(grid, training_seeds=seeds)
        gain = paired_difference(grid, own, higher_is_better=higher_is_better, training_seeds=seeds)
        hurt = sign * (alone - own) > 0
        found[name] = {
            "mean": interval.mean,
            "ci95": [interval.low, interval.high],
            "gain": gain.mean,
            "gain_ci95": [gain.low, gain.high],
            "problems": int(says.size),
            "alone": int(says.sum()),
            "hurt": int(hurt.sum()),
            "caught": int((says & hurt).sum()),
        }
    sentences = [_sentence(name, result, metric) for name, result in found.items()]
    return {"over": ALONE, "folds": folds, "says": " ".join(sentences), "methods": found}


def _sentence(name: str, result: Mapping[str, Any], metric: str) -> str:
    low, high = result["gain_ci95"]
    digits = max(2, score_digits(metric, [result["mean"]]))
    return (
        f"Guard of {name}: the shots say {ALONE} in {result['alone']} of {result['problems']} problems, right in "
        f"{result['caught']} of them; it does better in {result['hurt']}. The guard brings "
        f"{result['gain']:+.{digits}f} {metric} (95% interval {low:.{digits}f} to {high:.{digits}f}), to "
        f"{result['mean']:.{digits}f}."
    )
