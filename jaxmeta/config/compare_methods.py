"""Any methods on one task at equal compute: trained and judged as ever, then told in one table."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from jaxmeta.config import planning
from jaxmeta.config.build import Built, build, suitable_methods
from jaxmeta.config.commands import train_run
from jaxmeta.config.read import Jobs, changed
from jaxmeta.config.schema import AUTO, Config
from jaxmeta.config.turns import one_turn, takes_turns, turns_of
from jaxmeta.core.checks import InputError
from jaxmeta.run.comparison import comparison_table

ALL = "all"


def compare_methods(jobs: Jobs, methods: Sequence[str], out: str | None) -> None:
    """Trains and judges `methods`, goes on where that was cut off, and prints how they compare.

    Raises:
      InputError: there are fewer than two, one is not known, the file asks for several runs, or what `train_run`
        raises.
    """
    if jobs.several:
        raise InputError(
            f"{jobs.name} asks for several runs, {', '.join(jobs.configs)}; compare methods on a file of one run."
        )
    config = jobs.configs[""]
    if tuple(methods) == (ALL,):
        methods = suitable_methods(one_turn(config))
    if len(methods) < 2:
        raise InputError(f"`--methods` must name two methods at least, such as `--methods ridge protonet`, or {ALL}.")
    changes: dict[str, Any] = {"methods": tuple(methods), "main": AUTO, "shot_curve": ()}
    changes |= dict.fromkeys(("curve_methods", "temperature_methods"), (AUTO,)) | {"guard_methods": ()}
    config = changed(config, {f"evaluate.{key}": value for key, value in changes.items()}, "the command line")
    folder = pathlib.Path(out or f"runs/{config.name}_compared")
    train_run(config, folder, table=lambda evaluation: comparison_table(evaluation, _step_bytes(config, folder)))


def _step_bytes(config: Config, folder: pathlib.Path) -> dict[str, int]:
    if takes_turns(config):  # every turn trains the same models
        name, config = next(iter(turns_of(config).items()))
        folder = folder / name
    built = build(config)
    if config.gradient.strategy == AUTO:
        chosen = planning.read_choices(folder, planning.methods_to_choose_for(built))
        built = planning.with_choices(built, chosen or {})
    return step_bytes(built)


def step_bytes(built: Built) -> dict[str, int]:
    """Returns the temporary memory of one step of training, as the compiler reports it, by method.

    That of a method which starts from a phase that others share is that of the phase; a method without has none.
    """
    experiment = built.experiment
    episodes = next(experiment.tasks.batches(experiment.seed, 0, augmented=False)(0))
    found = {}
    for phase in experiment.phases:
        state = jax.eval_shape(phase.learner.init, jax.random.key(0), episodes)
        analysis: Any = jax.jit(phase.learner.update).lower(state, episodes).compile().memory_analysis()
        found[phase.name] = analysis.temp_size_in_bytes
    return {method.name: found[method.phase] for method in experiment.methods if method.phase is not None}
