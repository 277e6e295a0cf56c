"""One evaluation out of several, where every task is held out in turn and each time another model is trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxmeta.run import temperature
from jaxmeta.run.judge import conclusion, summary
from jaxmeta.run.statistics import bootstrap_interval
from jaxmeta.run.units import unit


def pooled(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what `evaluation.json` holds, of several such: their tasks side by side, as if of one run.

    The scores are those of each turn; intervals and differences are taken anew, over all tasks. What was chosen on the
    dev tasks of each turn is under "turns", costs, dev scores and calibration are means over them (such a mean error of
    calibration is not less than that of all their answers together).

    Args:
      evaluations: of runs with the same methods, shots, draws and training seeds, and other test tasks.
    """
    first = evaluations[0]
    keys = ("task", "metric", "higher_is_better", "training_seeds", "shot_seeds", "shots")
    facts: dict[str, Any] = {key: first[key] for key in keys}
    facts["unit"] = unit(first)
    facts["languages"] = [name for evaluation in evaluations for name in evaluation["languages"]]
    scores, results = {}, {}
    for name, method in first["methods"].items():
        parts = [evaluation["methods"][name] for evaluation in evaluations]
        grid = np.array([row for part in parts for row in part["repetitions"].values()])
        scores[name] = grid
        results[name] = summary(
            facts["metric"], facts["higher_is_better"], method["kind"], grid, facts["languages"],
            training_seeds=len(facts["training_seeds"]),
            **{key: np.mean([part["compute"][key] for part in parts]) for key in method["compute"]},
        )  # fmt: skip
        results[name]["adaptation"] = _adaptations([part["adaptation"] for part in parts])
        results[name]["scores"] = _means([part["scores"] for part in parts])
    calibration = {
        name: _means([evaluation["calibration"][name] for evaluation in evaluations]) for name in first["calibration"]
    }
    tempered = {
        name: temperature.pooled([evaluation["temperature"]["methods"][name] for evaluation in evaluations])
        for name in first.get("temperature", {}).get("methods", {})
    }
    curves = {
        kind: {name: _curve([e["curves"][kind][name] for e in evaluations]) for name in first["curves"][kind]}
        for kind in first["curves"]
    }
    return conclusion(facts, scores, results) | {
        "curves": curves,
        "calibration": calibration,
        **({"temperature": {**first["temperature"], "methods": tempered}} if tempered else {}),
        "data": {key: _fact(key, evaluations) for key in dict.fromkeys(key for e in evaluations for key in e["data"])},
    }


def _fact(key: str, evaluations: Sequence[Mapping[str, Any]]) -> Any:
    """Returns what all turns say of their data, or what each does that says something."""
    values = [evaluation["data"].get(key) for evaluation in evaluations]
    if all(value == values[0] for value in values):
        return values[0]
    said = zip(evaluations, values, strict=True)
    return "; ".join(f"{'+'.join(e['languages'])}: {value}" for e, value in said if value is not None)


def _adaptations(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    averaged = ("gradient_examples", "seconds_per_task", "dev_score", "trials")
    chosen = [{k: v for k, v in part.items() if k not in (*averaged, "on_edge")} for part in parts]
    edges = dict.fromkeys(edge for part in parts for edge in part["on_edge"])
    return {**_means([{key: part[key] for key in averaged} for part in parts]), "on_edge": [*edges], "turns": chosen}


def _means(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([part[key] for part in parts])) for key in parts[0]}


def _curve(curves: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    points = []
    for same in zip(*curves, strict=True):
        interval = bootstrap_interval([point["mean"] for point in same], resamples=2000)
        points.append({"x": same[0]["x"], "mean": interval.mean, "ci95": [interval.low, interval.high]})
    return points
