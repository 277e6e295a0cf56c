"""What each source language is worth to the languages that are judged: the main method, trained without it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxmeta.run.statistics import Paired, paired_difference
from jaxmeta.run.units import difference_format

NEAREST, EACH = "nearest", "each"


def leave_one_out(
    evaluation: Mapping[str, Any],
    without: Mapping[str, Mapping[str, Any]],
    method: str,
    nearest: Mapping[str, Sequence[tuple[str, float]]],
) -> dict[str, Any]:
    """Returns what `evaluation.json` says of source languages that were left out, one at a time.

    Every difference is what a language loses without the source, in the direction of merit: below zero, the source does
    harm. Both runs had the same budget, tasks and tuning; they differ in what else is random in training too, so a
    single source speaks with the noise of a training seed.

    Args:
      evaluation: of the run with all sources.
      without: of the runs with one source less, by that source.
      method: which is compared.
      nearest: the source languages most like each judged one, best first.

    Returns:
      "method"; "sources", by source "mean", "ci95", "wins", "losses" and "per_language" over all judged languages;
      "nearest", the same over the languages whose nearest source was left out, each without that one, and "others", the
      mean of what the same languages lose without another source (None where none was left out); "says", a sentence.
    """
    higher, languages = evaluation["higher_is_better"], evaluation["languages"]
    seeds = len(evaluation["training_seeds"])
    full = _grid(evaluation, method)
    grids = {source: _grid(found, method) for source, found in without.items()}
    sources = {}
    for source, grid in grids.items():
        pair = paired_difference(full, grid, higher_is_better=higher, training_seeds=seeds)
        sources[source] = _entry(pair, languages, _difference(full, grid, higher))
    own, others, named = [], [], {}
    for place, language in enumerate(languages):
        first = next((source for source, _ in nearest.get(language, ())), None)
        if first not in grids:
            continue
        named[language] = first
        own.append((full[place], grids[first][place]))
        rest = [_difference(full, grid, higher)[place].mean() for source, grid in grids.items() if source != first]
        if rest:
            others.append(np.mean(rest))
    found: dict[str, Any] = {"method": method, "sources": sources, "nearest": None}
    if own:
        whole, lacking = (np.array(side) for side in zip(*own, strict=True))
        pair = paired_difference(whole, lacking, higher_is_better=higher, training_seeds=seeds)
        found["nearest"] = _entry(pair, list(named), _difference(whole, lacking, higher)) | {
            "removed": named,
            "others": float(np.mean(others)) if others else None,
        }
    return found | {"says": _sentence(found, evaluation["metric"], difference_format(evaluation))}


def _grid(evaluation: Mapping[str, Any], method: str) -> np.ndarray:
    return np.array(list(evaluation["methods"][method]["repetitions"].values()))


def _difference(full: np.ndarray, grid: np.ndarray, higher: bool) -> np.ndarray:
    return full - grid if higher else grid - full


def _entry(pair: Paired, languages: Sequence[str], rows: np.ndarray) -> dict[str, Any]:
    return {
        "mean": pair.mean,
        "ci95": [pair.low, pair.high],
        "wins": pair.wins,
        "losses": pair.losses,
        "per_language": dict(zip(languages, rows.mean(axis=1).tolist(), strict=True)),
    }


def _sentence(found: Mapping[str, Any], metric: str, show: Callable[[float], str]) -> str:
    sources, nearest = found["sources"], found["nearest"]
    if nearest is None:
        means = {source: result["mean"] for source, result in sources.items() if np.isfinite(result["mean"])}
        if not means:
            return f"{found['method']} has no finite score in some language without each of {len(sources)} sources."
        most = max(means, key=means.__getitem__)
        low, high = sources[most]["ci95"]
        return (
            f"Of {len(sources)} sources left out one at a time, {found['method']} misses {most} most: "
            f"{show(sources[most]['mean'])} {metric} (95% interval, of this one alone, {show(low)} to {show(high)})."
        )
    if not np.isfinite(nearest["mean"]):
        return f"{found['method']} has no finite score in some language without its nearest source."
    low, high = nearest["ci95"]
    other = "" if nearest["others"] is None else f"; without another source {show(nearest['others'])}"
    return (
        f"What {found['method']} loses in a language by training without its nearest source: {show(nearest['mean'])} "
        f"{metric} (95% interval {show(low)} to {show(high)}; worse off in {nearest['wins']}, better off in "
        f"{nearest['losses']}){other}."
    )
