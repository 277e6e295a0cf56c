"""Curves before and after adaptation, for regression: the classic picture of what was meta-learned."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxmeta.core.adapt import adapt
from jaxmeta.run.experiment import Trained
from jaxmeta.run.plan import Experiment, rate_of


def fits(experiment: Experiment, trained: Trained, evaluation: Mapping[str, Any], *, at_most: int = 6) -> list[dict]:
    """Returns the fits of the main method to the first test tasks, as `evaluation.json` holds them."""
    method = next(method for method in experiment.methods if method.name == experiment.main)
    chosen = evaluation["methods"][method.name]["adaptation"]
    last = max(chosen["steps"], 1)
    seed = experiment.training_seeds[0]
    meta_params = method.complete(trained[seed, method.phase]) if method.phase else {}
    algorithm = method.build(rate_of(chosen))
    steps = dict.fromkeys((0, 1, last))

    @jax.jit
    def predictions(key, meta_params, episode):
        states, _ = adapt(algorithm, key, meta_params, episode.support, num_steps=last, trace=True)
        return jax.lax.map(lambda state: algorithm.predict(meta_params, state, episode.query["inputs"]), states)

    found = []
    for language in experiment.tasks.languages("test")[:at_most]:
        episode = experiment.tasks.episode(language, shots=experiment.judging.shots, draw=0, split="test")
        curves = np.asarray(predictions(jax.random.key(experiment.seed), meta_params, episode))[..., 0]
        flat = {
            "x": episode.query["inputs"],
            "truth": episode.query["targets"],
            "support_x": episode.support["inputs"],
            "support_y": episode.support["targets"],
        }
        found.append(
            {name: np.asarray(values)[:, 0].tolist() for name, values in flat.items()}
            | {"predictions": {_label(number): curves[number].tolist() for number in steps}}
        )
    return found


def _label(steps: int) -> str:
    return "before" if steps == 0 else f"after {steps} step{'s' * (steps > 1)}"
