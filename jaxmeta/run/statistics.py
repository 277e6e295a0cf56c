"""Intervals for scores over languages: the language, not the example, is what we generalise to.

Shapes: `L` languages, `R` repetitions of one language (training seeds x draws of the support set).

A score grid is `[L, R]`; a plain `[L]` is read as one repetition each. The `R` are `S` training seeds times `R / S`
draws, the draws of a seed side by side. A non-finite score makes the numbers that depend on it `nan`: it is shown, not
dropped; a language in which one method has a score and the other has none is won and lost all the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jaxmeta.core.checks import check_positive

_CHUNK = 4_000_000  # draws held in memory at once
_ROUNDING = 1e-9  # of the larger score: means that differ by less are the same number, added up in another order


class Interval(NamedTuple):
    """A mean and the ends of its bootstrap interval."""

    mean: float
    low: float
    high: float


class Paired(NamedTuple):
    """How much better one method is than another: above zero, the first one is better."""

    mean: float
    low: float
    high: float
    wins: int  # languages where the first method has the better mean score
    losses: int  # languages where it has the worse one; ties are neither

    def reversed(self) -> "Paired":
        """Returns how much better the second method is than the first."""
        return Paired(0.0 - self.mean, 0.0 - self.high, 0.0 - self.low, self.losses, self.wins)  # no -0.0


class Worst(NamedTuple):
    """The language that is served worst, and its mean score."""

    language: str
    score: float


def bootstrap_interval(
    scores: npt.ArrayLike, *, training_seeds: int = 1, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Bootstraps the mean of `scores [L, R]`: languages, training seeds, and draws of shots within each language.

    A training seed makes one model for all languages, so seeds are resampled once for all of them: what differs from
    one training to the next does not average out over languages. Draws are made anew in each language, and are
    resampled there.

    The interval is the percentile one. It answers "what would other languages give", so it stays wide however
    many examples and repetitions each language has. Three things to know: draws that are resampled inside a language
    make it a little wide where draws vary more than languages do; with few languages it is too narrow, as every
    percentile interval is: at `level` 0.95 it holds the truth in 80 to 85% of cases with four languages, in 89% with
    eight, in 93% with thirty; and so it is with few seeds, of which three tell little of how others would do, and one
    tells nothing.

    Args:
      scores: `[L, R]`.
      training_seeds: `S`, which divides `R`.
      level: the share of cases in which the interval should hold the truth.
      resamples: how many times the grid is drawn anew.
      seed: of the draws; grids of one shape and seed are drawn alike.

    Returns:
      The mean of the grid and the ends of the interval.

    Raises:
      ValueError: an empty grid, a grid with more than two axes, seeds that do not divide its repetitions, a `level`
        outside (0, 1).

    See Davison and Hinkley, "Bootstrap Methods and their Application" (1997), section 3.8.
    """
    grid = _grid("scores", scores)
    check_positive("resamples", resamples)
    check_positive("training_seeds", training_seeds)
    if grid.shape[1] % training_seeds:
        raise ValueError(f"`training_seeds` must divide the {grid.shape[1]} repetitions, got {training_seeds}")
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie between 0 and 1, got {level}")
    if not np.isfinite(grid).all():
        return Interval(np.nan, np.nan, np.nan)
    tail, crossed = (1 - level) / 2, grid.reshape(len(grid), training_seeds, -1)
    low, high = np.quantile(_resampled_means(crossed, resamples, np.random.default_rng(seed)), [tail, 1 - tail])
    return Interval(float(grid.mean()), float(low), float(high))


def paired_difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    higher_is_better: bool = True,
    training_seeds: int = 1,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Paired:
    """Compares method `a` with method `b`, cell by cell of the same `[L, R]` grid.

    The sign is that of merit: the mean is `a - b` where a higher score is better and `b - a` where a lower
    one is, so a mean above zero always speaks for `a`. A language in which one of them has no finite score is lost by
    that one.

    Raises:
      ValueError: grids of different shapes, and what `bootstrap_interval` raises.
    """
    first, second = _grid("a", a), _grid("b", b)
    if first.shape != second.shape:
        raise ValueError(f"`a` and `b` must have the same shape, got {first.shape} and {second.shape}")
    difference = first - second if higher_is_better else second - first
    gained = gains(first, second, higher_is_better=higher_is_better)
    interval = bootstrap_interval(
        difference, training_seeds=training_seeds, level=level, resamples=resamples, seed=seed
    )
    return Paired(*interval, wins=int((gained > 0).sum()), losses=int((gained < 0).sum()))


def gains(a: npt.ArrayLike, b: npt.ArrayLike, *, higher_is_better: bool = True) -> np.ndarray:
    """Returns by how much method `a` is better than `b` in each language `[L]` of two grids of one shape.

    Zero where they differ by no more than rounding; infinite, for or against `a`, where one of them alone has no
    finite score; NaN where neither has.
    """
    ours, others = (_grid(name, scores).mean(1) for name, scores in (("a", a), ("b", b)))
    difference = ours - others if higher_is_better else others - ours
    same = np.abs(difference) <= _ROUNDING * np.maximum(np.abs(ours), np.abs(others))
    bad, others_bad = ~np.isfinite(ours), ~np.isfinite(others)
    found = np.where(same, 0.0, difference)
    return np.select([bad & others_bad, bad, others_bad], [np.nan, -np.inf, np.inf], found)


def worst_language(scores: npt.ArrayLike, languages: Sequence[str], *, higher_is_better: bool = True) -> Worst:
    """Returns the language of `scores [L, R]` with the worst mean over its repetitions."""
    means = _grid("scores", scores).mean(1)
    if len(languages) != len(means):
        raise ValueError(f"`languages` must name every row, got {len(languages)} names for {len(means)} rows")
    index = int(_worst_first(means, higher_is_better)[0])
    return Worst(languages[index], float(means[index]))


def worst_quartile(scores: npt.ArrayLike, *, higher_is_better: bool = True) -> float:
    """Returns the mean score of the worst quarter (rounded up) of the languages of `scores [L, R]`."""
    means = _grid("scores", scores).mean(1)
    quarter = -(-len(means) // 4)
    return float(means[_worst_first(means, higher_is_better)[:quarter]].mean())


def _grid(name: str, scores: npt.ArrayLike) -> np.ndarray:
    grid = np.asarray(scores, np.float64)
    if grid.ndim == 1:
        grid = grid[:, None]
    if grid.ndim != 2 or grid.size == 0:
        raise ValueError(f"`{name}` must be a grid of languages x repetitions, got shape {grid.shape}")
    return grid


def _worst_first(means: np.ndarray, higher_is_better: bool) -> np.ndarray:
    badness = -means if higher_is_better else means
    # A score that is not a number is worse than any number.
    return np.argsort(-np.where(np.isnan(badness), np.inf, badness), kind="stable")


def _resampled_means(grid: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Returns `resamples` means `[resamples]` of grids drawn from `grid [L, S, D]`."""
    num_languages, num_seeds, num_draws = grid.shape
    means = np.empty(resamples)
    chunk = max(1, _CHUNK // grid.size)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        languages = rng.integers(num_languages, size=(size, num_languages, 1, 1))
        seeds, draws = (
            # What there is one of takes nothing from the generator.
            rng.integers(n, size=(size, per, n)) if n > 1 else np.zeros((1, 1, 1), np.int64)
            for n, per in ((num_seeds, 1), (num_draws, num_languages))
        )
        means[start : start + size] = grid[languages, seeds[..., None], draws[..., None, :]].mean((1, 2, 3))
    return means
