"""Choosing how the gradient of a meta-learner is computed: the ways there are, what was measured, what was chosen."""

import json
import os
import pathlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tomli_w
from rich.table import Table

from jaxmeta.config.build import Built
from jaxmeta.config.methods import phases_and_methods
from jaxmeta.config.recipes import STRATEGIES, Recipe, learner_of, recipes
from jaxmeta.config.setting import How, Setting
from jaxmeta.core.adapt import FEW_STEPS, check_unroll, memory_policy
from jaxmeta.core.checks import InputError
from jaxmeta.core.task_axis import chunk_size
from jaxmeta.core.types import Episode
from jaxmeta.run.plan_cache import recall, remember
from jaxmeta.run.planner import Candidate, Measured, Race, fastest, in_words, size_text
from jaxmeta.run.table import framed
from jaxmeta.run.versions import versions

CHOICES = "gradient.json"  # the file of a run folder that holds what was chosen for it
_ENOUGH_FOR_GROUPS = 4  # inner steps; of fewer, `nested` has no group of two


def ways(recipe: Recipe, num_steps: int, num_tasks: int) -> list[How]:
    """Returns the ways worth measuring to compute the gradient of a meta-learner; all give the same gradient.

    Left out is what cannot pay: to recompute single steps where there is one step, or where nothing of a step is kept;
    groups of steps where there are too few; to recompute what `linearized` exists to keep, but for what is cheap; and
    to do without a loop where memory is to be saved.
    """
    found = []
    for strategy in recipe.strategies:
        memories = ["none"]
        if strategy == "linearized":
            memories.append("products")
        if num_steps > 1 and strategy in ("forward_over_reverse", "reverse"):
            memories.append("per_step")
        if num_steps >= _ENOUGH_FOR_GROUPS and strategy == "forward_over_reverse":
            memories.append("nested")
        for memory in memories:
            unrolls = [1, num_steps] if 1 < num_steps <= FEW_STEPS and memory == "none" else [1]
            found += [How(strategy, memory, axis, unroll) for unroll in unrolls for axis in _task_axes(num_tasks)]
    return found


def differentiated(setting: Setting) -> dict[str, Recipe]:
    """Returns the meta-learners whose inner steps are differentiated."""
    return {name: recipe for name, recipe in recipes(setting).items() if recipe.strategies}


def method_to_plan(setting: Setting, name: str | None) -> str:
    """Returns the method called `name`, or the first of the config whose inner steps are differentiated, or MAML.

    Raises:
      InputError: its inner steps are not differentiated, or there is no such method.
    """
    known = differentiated(setting)
    if not known:
        raise InputError(f"There is nothing to plan for {setting.kind.title}: no inner step is differentiated twice.")
    if name is None:
        name = next((method for method in setting.config.evaluate.methods if method in known), next(iter(known)))
    if name not in known:
        raise InputError(f"`--method` must be one of {', '.join(known)}, got {name!r}.")
    return name


def measured_ways(built: Built, name: str, limit: int) -> list[Measured]:
    """Returns what one outer step of a method costs; what needs more than `limit` bytes is not run.

    Compiling is what takes time, so not every combination is tried: first the task axes with the method's default, as a
    loop and without one, then everything else along the two axes that were best, and what does not fit there along the
    one that needs least. All are timed in turn in the end. The labels are those of `How`.
    """
    setting = built.setting
    config, recipe = setting.config, recipes(setting)[name]
    learners = {
        how: learner_of(setting, recipe, how, config.train.steps, typical=True)
        for how in ways(recipe, config.inner.steps, config.task.tasks_per_step)
    }
    episodes = episodes_of(built, recipe)
    first = next(iter(learners))
    state = jax.jit(learners[first].init)(jax.random.key(config.seed), episodes)
    race, sizes = Race((state, episodes), limit), {}

    def add(some: Iterable[How]) -> None:
        new = [Candidate(how, learners[how].update) for how in some if how not in sizes]
        sizes.update({How(*each.labels): each.bytes for each in race.add(new)})

    add(how for how in learners if how[:2] == first[:2])
    tried = sorted(race.run(repeats=3), key=_rank)
    best = list(dict.fromkeys(How(*each.labels).task_axis for each in tried))[:2]
    least = How(*min(tried, key=lambda each: each.bytes).labels).task_axis
    add(how for how in learners if how.task_axis in best)
    add([how._replace(task_axis=least) for how, size in sizes.items() if size > limit])
    return race.run()


def choose(built: Built, name: str, limit: int) -> How:
    """Returns the fastest way that fits, as it was measured now or remembered from an earlier time.

    Raises:
      InputError: none fits.
    """
    facts = _facts(built, name)
    found = recall(facts)
    if found is not None and still_holds(found, limit):
        return How(*(found["choice"][key] for key in How._fields))
    measured = measured_ways(built, name, limit)
    best = fastest(measured, f"An outer step of {name}", limit)
    how = How(*best.labels)
    largest = max(each.bytes for each in measured)
    remember(facts, {"choice": how._asdict(), "bytes": best.bytes, "limit": limit, "largest": largest})
    return how


def plan_table(measured: Sequence[Measured], chosen: Measured, title: str) -> Table:
    """Returns what was measured as a table: the fastest first, then what does not fit."""
    table = framed(title)
    for header in ("", "strategy", "memory", "task axis", "unroll"):
        table.add_column(header, no_wrap=True)
    for header in ("needs", "GFLOP", "ms"):
        table.add_column(header, justify="right", no_wrap=True)
    for each in sorted(measured, key=_rank):
        spent = "too large" if each.seconds is None else f"{1e3 * each.seconds:.1f}"
        needs = size_text(each.bytes) if each.bytes else "not told"
        cells = (*map(str, each.labels), needs, f"{each.operations / 1e9:.3g}", spent)
        style = "bold" if each == chosen else "dim" if each.seconds is None else ""
        table.add_row("→" if each == chosen else "", *cells, style=style)
    return table


def as_toml(how: How) -> str:
    """Returns a way as lines for a config file."""
    values = how._asdict()
    if how.strategy == "first_order":  # the method says it itself
        del values["strategy"]
    return tomli_w.dumps({"gradient": values})


def with_choices(built: Built, chosen: Mapping[str, How]) -> Built:
    """Returns the run with its meta-learners trained as was chosen for each."""
    setting = built.setting._replace(chosen=chosen)
    phases, methods = phases_and_methods(setting)
    experiment = built.experiment._replace(phases=phases, methods=methods)
    return built._replace(experiment=experiment, setting=setting)


def methods_to_choose_for(built: Built) -> list[str]:
    """Returns the methods for which `gradient.strategy = "auto"` has something to choose."""
    known = differentiated(built.setting)
    return [name for name in built.setting.config.evaluate.methods if name in known]


def read_choices(folder: pathlib.Path, methods: Sequence[str]) -> dict[str, How] | None:
    """Returns what was chosen for a run when it began, None where it has not begun to train.

    Raises:
      InputError: the file is damaged or missing; with another choice the run would not go on with the same bits.
    """
    path = folder / CHOICES
    try:
        found = json.loads(path.read_text("utf-8"))
        return {name: _checked(How(**found[name])) for name in methods}
    except FileNotFoundError:
        if not (folder / "checkpoints").exists():
            return None
        reason = "is missing"
    except (ValueError, KeyError, TypeError):
        reason = "is damaged"
    raise InputError(f"{path} {reason}; put it back as it was, or train in another folder.")


def choices_text(chosen: Mapping[str, How]) -> str:
    """Returns what was chosen in one line."""
    each = (f"{name} by {in_words(how)}" for name, how in chosen.items())
    return f"Gradients: {'; '.join(each)}"


def _task_axes(num_tasks: int) -> list[str]:
    # A few at a time keep the cores of a CPU busy, a quarter spares the memory of an accelerator.
    sizes = sorted({size for size in (2, num_tasks // 4) if 1 < size < num_tasks})
    return ["vmap", *(f"chunked({size})" for size in sizes), *(["sequential"] if num_tasks > 1 else [])]


def episodes_of(built: Built, recipe: Recipe) -> Episode:
    """Returns a batch that the method trains on."""
    experiment = built.experiment
    return next(experiment.tasks.batches(experiment.seed, 0, augmented=recipe.augmented)(0))


def _facts(built: Built, name: str) -> dict[str, Any]:
    """Returns all that a choice depends on."""
    setting, device = built.setting, jax.local_devices()[0]
    config, recipe = setting.config, recipes(setting)[name]
    episodes = episodes_of(built, recipe)
    how = ways(recipe, config.inner.steps, config.task.tasks_per_step)[0]
    init = learner_of(setting, recipe, how, config.train.steps, typical=True).init
    state = jax.eval_shape(init, jax.random.key(0), episodes)
    return {
        "method": name,
        "task": config.task.kind,
        "model": config.model.model_dump(),
        "inner": config.inner.model_dump(),
        "microbatches": config.gradient.microbatches,
        "rows": config.gradient.rows,
        "shapes": [f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves((state, episodes))],
        "device": [device.platform, device.device_kind, len(jax.devices())],
        "host": [platform.machine(), os.cpu_count()],
        "versions": versions("jax", "jaxlib", "jaxmeta"),
    }


def still_holds(found: dict[str, Any], limit: int) -> bool:
    """Whether a remembered choice fits, and nothing fits now that did not fit then."""
    try:
        _checked(How(**found["choice"]))
        return found["bytes"] <= limit and min(limit, found["largest"]) <= found["limit"]
    except (ValueError, KeyError, TypeError):
        return False


def _checked(how: How) -> How:
    if how.strategy not in STRATEGIES:
        raise ValueError(f"`strategy` must be one of {', '.join(STRATEGIES)}, got {how.strategy!r}")
    memory_policy(how.memory)
    chunk_size(how.task_axis, np.zeros((1, 1)))
    check_unroll(how.unroll, how.memory)
    return how


def _rank(each: Measured) -> tuple[float, int]:
    return (float("inf") if each.seconds is None else each.seconds, each.bytes)
