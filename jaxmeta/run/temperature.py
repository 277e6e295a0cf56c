"""Calibration before and after a temperature that a task's own shots say divides its logits (Guo et al. 2017).

An adapted model has seen its support and is sure of it, whatever it is worth elsewhere. So the temperature is fitted by
folds inside the support: the method adapts to all shots but those of a fold, at the settings it has anyway, answers
these, and one temperature makes the answers of all folds together most likely. It then divides the logits of the model
that adapted to every shot. No test example is read. Two things to know: a model of fewer shots is right less often, so
that the temperature errs on the side of doubt, most where there are two shots; and a few dozen answers tell it roughly,
which is why it is drawn to one. And where shots are translations of sentences that meta-training has read in other
languages, as in a parallel corpus, they are answered better than what is judged, so that the temperature errs on the
side of certainty.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.masks import within_reach
from jaxmeta.core.types import IMPOSSIBLE, ArrayTree, Episode, Objective
from jaxmeta.run.plan import Classical, Readout, answers_to

FOLDS = 4  # at most; no more than there are shots
_RANGE = (-3.0, 3.0)  # of the logarithm
_SCORES = ("nll", "brier", "ece")
_BINS = {"count": "bin_count", "confidence": "bin_confidence", "correct": "bin_correct"}


def classified(objective: Objective) -> Readout:
    """Returns the judgement of classification by what its objective counts, which keeps the logits too."""

    def read(algorithm, meta_params, state, query):
        logits = answers_to(query, algorithm, meta_params, state)
        return {"counts": objective.counts(logits, query), "logits": within_reach(logits, query)}

    return Readout(read, lambda arrays, cell: arrays["counts"], objective.scores, of_logits=jax.jit(objective.counts))


def number_of_folds(shots: int) -> int:
    """Returns how many folds a support has; below two there is no temperature."""
    return min(FOLDS, shots)


def held_out(labels: np.ndarray, fold: int, folds: int) -> np.ndarray:
    """Returns which of the examples `[S]` a fold holds out: of each class every `folds`-th."""
    place = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = labels == label
        place[of_class] = np.arange(np.count_nonzero(of_class))
    return place % folds == fold


def fold_problems(supports: Mapping[str, ArrayTree], folds: int) -> Episode:
    """Returns `T * folds` problems: the shots that a fold holds out are the query, and masked in the support.

    Args:
      supports: leaves `[T, S, ...]`.
      folds: of each.
    """
    supports = {"mask": np.ones(np.shape(supports["targets"])[:2], bool), **supports}
    hidden = []
    for targets, mask in zip(np.asarray(supports["targets"]), np.asarray(supports["mask"]), strict=True):
        real = np.flatnonzero(mask)
        hidden += [real[held_out(targets[real], fold, folds)] for fold in range(folds)]
    size, found = max(map(len, hidden)), []
    for number, asked in enumerate(hidden):
        support = jax.tree.map(lambda leaf, task=number // folds: np.asarray(leaf[task]), dict(supports))
        rows = np.pad(asked, (0, size - len(asked)))
        query = jax.tree.map(lambda leaf, rows=rows: leaf[rows], support)
        mask = support["mask"].copy()
        mask[asked] = False
        found.append(Episode({**support, "mask": mask}, {**query, "mask": np.arange(size) < len(asked)}))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """Returns the temperature that makes targets `[N]` most likely under logits `[N, C]`, drawn to one.

    Its logarithm has a standard normal prior, which the answers of a support outweigh where they agree. Where there is
    no answer it is one.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    logits = np.asarray(logits, np.float64)
    of_target = logits[np.arange(len(targets)), targets]
    # A class that a fold does not show is out of reach there, which says nothing of how sure a method should be.
    there = of_target > IMPOSSIBLE / 2
    logits, of_target = logits[there], of_target[there]
    if not np.isfinite(logits).all():
        return 1.0

    def surprise(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float((logsumexp(logits * scale, axis=1) - of_target * scale).sum() + log_temperature**2 / 2)

    if not there.any():
        return 1.0
    best: Any = minimize_scalar(surprise, bounds=_RANGE, method="bounded")
    return float(np.exp(best.x))


def with_temperatures(
    readout: Readout, problems: Sequence[tuple[np.ndarray, Mapping[str, ArrayTree], np.ndarray, np.ndarray]]
) -> dict[str, Any]:
    """Returns the calibration of a method before and after each problem has its temperature.

    Args:
      readout: of classification.
      problems: of each its logits `[Q, C]`, its query, and the logits `[N, C]` and targets `[N]` of all its folds.

    Returns:
      "temperature" with "mean" (geometric), "low" and "high" over problems; "before" and "after", each with "nll",
      "brier", "ece" and "bins".
    """
    assert readout.of_logits is not None
    temperatures, sums = [], {"before": [], "after": []}
    for logits, query, of_folds, targets in problems:
        temperatures.append(fit_temperature(of_folds, targets))
        read = {name: query[name] for name in ("targets", "mask", "classes") if name in query}
        for when, divisor in (("before", 1.0), ("after", temperatures[-1])):
            scaled = jnp.asarray(logits, jnp.float32) / jnp.float32(divisor)
            sums[when].append(jax.device_get(readout.of_logits(scaled, read)))
    found: dict[str, Any] = {
        "temperature": {
            "mean": float(np.exp(np.mean(np.log(temperatures)))),
            "low": min(temperatures),
            "high": max(temperatures),
        }
    }
    for when, counts in sums.items():
        total = jax.tree.map(lambda *leaves: np.sum(leaves, axis=0), *counts)
        scores = readout.scores(total)
        bins = {key: np.asarray(total[name], np.float64).tolist() for key, name in _BINS.items()}
        found[when] = {name: scores[name] for name in _SCORES} | {"bins": bins}
    return found


def of_method(
    readout: Readout, episodes: Episode, logits: np.ndarray, folds: int, run: Callable[[Episode], np.ndarray]
) -> dict[str, Any]:
    """Returns what `with_temperatures` says of a method.

    Args:
      readout: of classification.
      episodes: the problems, leaves `[T, ...]`.
      logits: of their queries by the method that adapted to every shot, `[T, Q, C]`.
      folds: of each support.
      run: returns the logits `[T * folds, Q', C]` of the problems of folds.
    """
    problems = fold_problems(episodes.support, folds)
    asked, answered = problems.query, run(problems)
    found = []
    for task, of_task in enumerate(logits):
        parts = slice(task * folds, (task + 1) * folds)
        real = asked["mask"][parts]
        query = jax.tree.map(lambda leaf, task=task: leaf[task], dict(episodes.query))
        found.append((of_task, query, answered[parts][real], asked["targets"][parts][real]))
    return with_temperatures(readout, found)


def of_classical(
    readout: Readout, classical: Classical, value: float, languages: Sequence[str], *, shots: int, folds: int
) -> dict[str, Any]:
    """Returns what `with_temperatures` says of a baseline outside JAX, on the first draw of each test language."""
    assert classical.logits is not None
    found = []
    for language in languages:
        where = (value, language, shots, 0, "test")
        parts = _of_folds(partial(classical.logits, *where), folds)
        of_folds, targets = (np.concatenate(each) for each in zip(*parts, strict=True))
        found.append((*classical.logits(*where, None), of_folds, targets))
    return with_temperatures(readout, found)


def _of_folds(logits: Callable, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the answers to each fold, and the targets."""
    found, largest = [], folds
    for fold in range(folds):
        if fold >= largest:  # no class has so many shots: there is nothing to ask
            break

        def chosen(labels: np.ndarray, fold: int = fold) -> np.ndarray:
            nonlocal largest
            largest = int(np.unique(labels, return_counts=True)[1].max())
            return held_out(labels, fold, folds)

        answered, batch = logits(chosen)
        found.append((np.asarray(within_reach(answered, batch)), batch["targets"]))
    return found


def pooled(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what `with_temperatures` would say of the problems of several runs together, each with as many."""
    temperatures = [part["temperature"] for part in parts]
    found: dict[str, Any] = {
        "temperature": {
            "mean": float(np.exp(np.mean([np.log(each["mean"]) for each in temperatures]))),
            "low": min(each["low"] for each in temperatures),
            "high": max(each["high"] for each in temperatures),
        }
    }
    for when in ("before", "after"):
        bins = {key: np.sum([part[when]["bins"][key] for part in parts], axis=0) for key in _BINS}
        answers = [np.sum(part[when]["bins"]["count"]) for part in parts]
        means = {n: float(np.average([part[when][n] for part in parts], weights=answers)) for n in ("nll", "brier")}
        ece = float(np.abs(bins["confidence"] - bins["correct"]).sum() / np.sum(answers))
        found[when] = {**means, "ece": ece, "bins": {key: value.tolist() for key, value in bins.items()}}
    return found


def summarized(methods: Mapping[str, dict[str, Any]], shots: int) -> dict[str, Any]:
    """Returns what `evaluation.json` holds of temperatures."""
    folds = number_of_folds(shots)
    says = (
        "Before and after the logits of each task are divided by a temperature, on the first draw of shots and the "
        f"first training seed. It is fitted on {folds} folds of the support, each answered by what saw the others "
        "alone. Shots that are translations of what was trained on make it too low."
    )
    return {"says": says, "folds": folds, "methods": dict(methods)}
