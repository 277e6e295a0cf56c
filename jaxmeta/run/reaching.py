"""How soon a learned optimizer is where a tuned one ends, child by child."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxmeta.run.plan import BASELINE, META


def reaching(evaluation: Mapping[str, Any], horizon: int) -> dict[str, Any]:
    """Returns what `evaluation.json` holds of who reaches whose final loss.

    A baseline ends after the number of steps, and with the rate, that did best on dev children. A child is reached when
    the learned optimizer's loss is no more than that, at one of the judged numbers of steps, none of which is larger.

    Args:
      evaluation: of a run whose methods have curves by child, a score that is better when it is lower.
      horizon: steps of a child in meta-training.

    Returns:
      Under "pairs" of each learned optimizer and baseline: "reached" children of "children", the median of the first
      steps at which they were ("steps", those that never are count as infinite: None) beside those of the baseline, and
      the same by task; under "growth" of each learned optimizer how many children's last loss is above that at the
      horizon of meta-training, or not finite, and how many are that. "says" is a sentence about each.
    """
    methods = evaluation["methods"]
    metas, baselines = ([n for n, m in methods.items() if m["kind"] == kind] for kind in (META, BASELINE))
    pairs, growth, says = {}, {}, []
    for name in metas:
        steps, curves = _curves(methods[name])
        children = list(curves)
        losses = np.array([curves[child] for child in children])
        last, trained = losses[:, -1], losses[:, np.argmax(steps >= min(horizon, steps[-1]))]
        finite = np.isfinite(last)
        grown, bad = int(np.sum(~finite | (last > trained + 1e-3))), int(np.sum(~finite))  # what is no number has risen
        growth[name] = {
            "children": len(children), "above_the_horizon": grown, "not_finite": bad,
            "from": int(horizon), "to": int(steps[-1]),
        }  # fmt: skip
        for rival in baselines:
            end = methods[rival]["adaptation"]["steps"]
            grid, others = _curves(methods[rival])
            place = int(np.flatnonzero(grid == end)[0])
            targets = np.array([others[child][place] for child in children])
            within = (losses <= targets[:, None]) & (steps <= end)[None]
            first = np.where(within.any(axis=1), steps[np.argmax(within, axis=1)], np.inf)
            of_task = np.array([child.partition(":")[0] for child in children])
            by_task = {
                task: [int(np.isfinite(first[of_task == task]).sum()), int(np.sum(of_task == task))]
                for task in dict.fromkeys(of_task.tolist())
            }
            median = float(np.median(first))
            pairs[f"{name} - {rival}"] = {
                "reached": int(np.isfinite(first).sum()), "children": len(children),
                "steps": median if np.isfinite(median) else None, "baseline_steps": int(end), "by_task": by_task,
            }  # fmt: skip
            says.append(_sentence(name, rival, pairs[f"{name} - {rival}"]))
        says.append(
            f"From step {horizon}, where its training ends, to step {int(steps[-1])} the loss of {name} rises on "
            f"{grown} of {len(children)} children" + (f", and on {bad} of them it is not finite." if bad else ".")
        )
    return {"pairs": pairs, "growth": growth, "says": " ".join(says)}


def _sentence(name: str, rival: str, pair: Mapping[str, Any]) -> str:
    soon = "" if pair["steps"] is None else f", in the median after {pair['steps']:.0f}"
    parts = ", ".join(f"{task} {reached} of {count}" for task, (reached, count) in pair["by_task"].items())
    return (
        f"{name} reaches the loss that tuned {rival} ends with after {pair['baseline_steps']} steps, in as many or "
        f"fewer, on {pair['reached']} of {pair['children']} children{soon} ({parts})."
    )


def _curves(method: Mapping[str, Any]) -> tuple[np.ndarray, Mapping[str, list[float]]]:
    found = method["by_steps"]
    return np.array(found["steps"]), found["per_language"]
