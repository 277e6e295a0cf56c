"""Training a whole run: every phase once for each training seed, from wherever an earlier run was cut off."""

import os
import pathlib
from typing import Any

import jax

from jaxmeta.core.checks import InputError
from jaxmeta.core.types import MetaParams
from jaxmeta.run.checkpoint import Checkpoints, tree_sha256
from jaxmeta.run.logging import MetricsLog, ProgressDisplay
from jaxmeta.run.loop import train_phase
from jaxmeta.run.plan import Experiment, Method, steps_before, warm_started


def checkpoints_of(folder: str | os.PathLike, seed: int, phase: str, **options) -> Checkpoints:
    """Returns where a run keeps the checkpoints of one phase and training seed."""
    return Checkpoints(pathlib.Path(folder) / "checkpoints" / f"seed_{seed}" / phase, **options)


class Trained(dict[tuple[int, str], MetaParams]):
    """Meta-parameters by `(training seed, phase)`, the seconds each took, and the temporary memory of a step."""

    def __init__(self):
        super().__init__()
        self.seconds: dict[tuple[int, str], float] = {}
        self.step_bytes: dict[tuple[int, str], int | None] = {}


def train(experiment: Experiment, folder: pathlib.Path, log: MetricsLog, progress: ProgressDisplay) -> Trained:
    """Trains all phases of all training seeds, from wherever an earlier run was cut off.

    The last line of the log is about the phase of the main method, in the first training seed.
    """
    trained = Trained()
    result = {}
    for seed in experiment.training_seeds:
        for number, phase in enumerate(experiment.phases):
            name = phase.name if len(experiment.training_seeds) == 1 else f"{phase.name}/seed_{seed}"
            with checkpoints_of(folder, seed, phase.name) as checkpoints:
                result[seed, phase.name] = train_phase(
                    name,
                    phase.learner,
                    experiment.tasks.batches(seed, steps_before(experiment.phases, phase), augmented=phase.augmented),
                    key=jax.random.fold_in(jax.random.key(seed), number),
                    steps=phase.steps,
                    examples_per_step=phase.examples_per_step,
                    checkpoints=checkpoints,
                    log=log,
                    log_every=experiment.log_every,
                    save_every=experiment.save_every,
                    on_init=_warm_start(trained, seed, phase.start_from),
                    progress=progress,
                )
            trained[seed, phase.name] = result[seed, phase.name].state.meta_params
            trained.seconds[seed, phase.name] = result[seed, phase.name].seconds
            trained.step_bytes[seed, phase.name] = result[seed, phase.name].step_bytes
    main = (
        experiment.training_seeds[0],
        _method(experiment, experiment.main).phase or experiment.phases[-1].name,
    )
    log.final(
        main[1],
        step=int(result[main].state.step),
        loss=result[main].loss,
        params_sha256=tree_sha256(trained[main]),
    )
    return trained


def restore(experiment: Experiment, folder: pathlib.Path) -> Trained:
    """Reads the phases that an earlier run trained.

    Raises:
      InputError: one of them is missing or unusable.
    """
    trained = Trained()
    episodes = next(experiment.tasks.batches(experiment.seed, 0, augmented=False)(0))
    for seed in experiment.training_seeds:
        for phase in experiment.phases:
            with checkpoints_of(folder, seed, phase.name) as checkpoints:
                restored = checkpoints.read()
            if restored.step < phase.steps:
                raise InputError(
                    f"{folder} is not finished: phase {phase.name} is at step {restored.step} of {phase.steps}; "
                    "run the `jaxmeta train` command that began it again."
                )
            expected = jax.eval_shape(phase.learner.init, jax.random.key(0), episodes).meta_params
            trained[seed, phase.name] = as_expected(folder, expected, restored.tree["meta_params"])
            trained.seconds[seed, phase.name] = restored.extra["seconds"]
            trained.step_bytes[seed, phase.name] = restored.extra.get("step_bytes")
    return trained


def as_expected(folder: pathlib.Path, expected: MetaParams, found: MetaParams) -> MetaParams:
    """Returns meta-parameters that were read as nested dicts in the structure that the model of a run has.

    Dicts do not say what was a list or a tuple, nor where there was nothing.

    Raises:
      InputError: they are of another model, because somebody has changed the files.
    """
    named = [{_names(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)} for tree in (expected, found)]
    shapes = [{names: leaf.shape for names, leaf in leaves.items()} for leaves in named]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{folder} holds parameters of another model than its config.toml speaks of; "
            "put that back as it was, or train in another folder."
        )
    return jax.tree.unflatten(jax.tree.structure(expected), [named[1][names] for names in named[0]])


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _warm_start(trained: Trained, seed: int, source: str | None):
    return None if source is None else lambda state: warm_started(state, trained[seed, source])


def _method(experiment: Experiment, name: str) -> Method:
    return next(method for method in experiment.methods if method.name == name)
