"""Training a whole run: every phase once for each training seed, from wherever an earlier run was cut off."""

import contextlib
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

import jax

from jaxmeta.core.checks import InputError
from jaxmeta.core.types import MetaParams
from jaxmeta.run.checkpoint import Checkpoints, tree_sha256
from jaxmeta.run.logging import MetricsLog, ProgressDisplay
from jaxmeta.run.loop import StopSignals, train_phase
from jaxmeta.run.plan import Experiment, Method, steps_before, warm_started
from jaxmeta.run.planner import device_memory


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

    Where `experiment.at_once` says so several are trained at the same time, in threads, each from what it starts from
    on and as far as the memory of their steps allows. What they come to is the same.

    The last line of the log is about the phase of the main method, in the first training seed.
    """
    trained, found = Trained(), {}

    def run(seed: int, number: int, **options: Any) -> None:
        phase = experiment.phases[number]
        with checkpoints_of(folder, seed, phase.name) as checkpoints:
            result = train_phase(
                phase.name if len(experiment.training_seeds) == 1 else f"{phase.name}/seed_{seed}",
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
                progress=progress.beside(),
                **options,
            )
        found[seed, phase.name] = result
        trained[seed, phase.name] = result.state.meta_params
        trained.seconds[seed, phase.name] = result.seconds
        trained.step_bytes[seed, phase.name] = result.step_bytes

    every = [(seed, number) for seed in experiment.training_seeds for number in range(len(experiment.phases))]
    if experiment.at_once == 1:
        for seed, number in every:
            run(seed, number)
    else:
        _at_once(experiment, every, run)
    main = (
        experiment.training_seeds[0],
        _method(experiment, experiment.main).phase or experiment.phases[-1].name,
    )
    log.final(
        main[1],
        step=int(found[main].state.step),
        loss=found[main].loss,
        params_sha256=tree_sha256(trained[main]),
    )
    return trained


def _at_once(experiment: Experiment, every: Sequence[tuple[int, int]], run: Callable[..., None]) -> None:
    """Runs phases, given as seed and number, in threads; a wish to stop is one to all of them, and so is an error."""
    futures: dict[tuple[int, str], Future] = {}

    def after(before: Future | None, *which: int) -> None:
        if before is not None:
            before.result()
        run(*which, stop=stop, room=room.taken)

    with StopSignals() as stop, ThreadPoolExecutor(experiment.at_once) as pool:
        room = Room(device_memory(), lambda: stop.asked is not None)
        for seed, number in every:
            phase = experiment.phases[number]
            # What a phase starts from was put in before it, so that a thread never waits for what has not begun.
            futures[seed, phase.name] = pool.submit(after, futures.get((seed, phase.start_from or "")), seed, number)
        for future in as_completed(futures.values()):
            error = future.exception()
            if error is None:
                continue
            wanted, stop.asked = stop.asked, stop.asked or signal.SIGTERM
            pool.shutdown(cancel_futures=True)
            if wanted is None:
                raise error
            stop.obey()
        if stop.asked:  # after the last step of all
            stop.obey()


class Room:
    """Memory for what runs at the same time: who does not fit beside the others waits, who is alone never does.

    Args:
      total: bytes.
      stopped: whether to wait no longer.
    """

    def __init__(self, total: int, stopped: Callable[[], bool]):
        self._total, self._stopped = total, stopped
        self._free, self._users, self._changed = total, 0, threading.Condition()

    @contextlib.contextmanager
    def taken(self, size: int | None) -> Iterator[None]:
        """Takes as many bytes, once there are so many; all of them where nobody knows how many it needs."""
        size = self._total if size is None else size
        with self._changed:
            while not (self._users == 0 or size <= self._free or self._stopped()):
                self._changed.wait(timeout=1.0)
            self._users, self._free = self._users + 1, self._free - size
        try:
            yield
        finally:
            with self._changed:
                self._users, self._free = self._users - 1, self._free + size
                self._changed.notify_all()


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
