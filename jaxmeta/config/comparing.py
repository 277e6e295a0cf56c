"""What is compared of the languages of a run: texts always, gradients and displacements where they are asked for."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxmeta import data
from jaxmeta.config.build import Built
from jaxmeta.config.language_texts import as_compared, texts_of
from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.config.problems import ROWLESS, AnyTasks
from jaxmeta.config.schema import Config
from jaxmeta.config.tasks import TextTasks
from jaxmeta.core.types import Batch
from jaxmeta.run.experiment import Trained
from jaxmeta.run.plan import rate_of
from jaxmeta.run.similarity import (
    DISPLACEMENTS,
    DISTANCES,
    GRADIENTS,
    SCRIPTS,
    TEXTS,
    closeness,
    displacements,
    gradient_method,
    overlaps,
    rounded,
    task_gradients,
    text_similarity,
)


def text_measures(tasks: AnyTasks, config: Config) -> dict[str, Any] | None:
    """Returns what `similarity.json` holds of texts alone; nothing where tasks have no texts.

    Of every language its train rows are read, which it is adapted to; nothing is chosen by them.
    """
    if not isinstance(tasks, TextTasks | PairTasks):
        return None
    names, roles = _languages(tasks)
    texts = [texts_of(tasks, name) for name in names]
    if not any(map(any, texts)):
        return None
    scripts = [data.script_of(found) for found in texts]
    says = "Cosine of the character n-grams of the texts"
    if config.model.romanize:
        says += ", which are read in their own letters and romanized"
    matrix = text_similarity([as_compared(found, config) for found in texts])
    measures = {TEXTS: {"says": f"{says}.", "of": "cosine", "matrix": rounded(matrix)}}
    if len(set(scripts)) > 1:
        shares = np.stack([data.script_shares(found) for found in texts])
        says = "Letters of the same scripts, as a share of all letters."
        measures[SCRIPTS] = {"says": says, "of": "overlap", "matrix": rounded(overlaps(shares))}
    return {"languages": names, "roles": roles, "scripts": scripts, "measures": measures}


def similarity_of(built: Built, trained: Trained, evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what `similarity.json` holds, or nothing where there is nothing to compare."""
    config, experiment, tasks = built.setting.config, built.experiment, built.tasks
    found = text_measures(tasks, config)
    if not config.evaluate.similarity:
        return found
    method = gradient_method(experiment)
    assert method is not None  # `build` refuses it
    names, roles = _languages(tasks)
    found = found or {"languages": names, "roles": roles, "scripts": [], "measures": {}}
    supports = jax.tree.map(lambda *leaves: np.stack(leaves), *[_support(tasks, name, config) for name in names])
    meta_params = method.complete(trained[experiment.training_seeds[0], method.phase])  # pyright: ignore
    chosen = evaluation["methods"][method.name]["adaptation"]
    rate, steps = rate_of(chosen), chosen["steps"] or method.steps[-1]
    shots = f"a support of {config.task.shots} shots"
    matrix, norms = task_gradients(method, meta_params, supports, learning_rate=rate)
    found["measures"][GRADIENTS] = {
        "says": f"Cosine of the gradients of {method.name} on {shots} of each language, before it adapts.",
        "of": "cosine",
        "method": method.name,
        "matrix": rounded(matrix),
        "norms": norms.tolist(),
    }
    matrix, norms = displacements(method, meta_params, supports, learning_rate=rate, steps=steps)
    moved = f"{steps} steps of {method.name} on {shots} of each language"
    facts = {"method": method.name, "norms": norms.tolist()}
    found["measures"][DISPLACEMENTS] = {
        "says": f"Cosine of what {moved} change.", "of": "cosine", "matrix": rounded(matrix), **facts,
    }  # fmt: skip
    found["measures"][DISTANCES] = {
        "says": f"How close the parameters are that {moved} lead to: one minus the distance, in sums of both ways.",
        "of": "closeness", "matrix": rounded(closeness(matrix, norms)), **facts,
    }  # fmt: skip
    return found


def _languages(tasks: AnyTasks) -> tuple[list[str], list[str]]:
    judged = list(tasks.languages("test"))
    sources = [] if isinstance(tasks, ROWLESS) else list(tasks.languages("train"))
    return [*judged, *sources], ["test"] * len(judged) + ["train"] * len(sources)


def _support(tasks: AnyTasks, language: str, config: Config) -> Batch:
    if isinstance(tasks, ROWLESS):
        return tasks.episode(language, shots=config.task.shots, draw=0, split="test").support
    return tasks.judged.support(language, shots=config.task.shots, draw=0)
