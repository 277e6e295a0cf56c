"""The training loop: one phase of steps that can be cut off anywhere and goes on with the same bits."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.checks import InputError, check_positive
from jaxmeta.core.trees import owned
from jaxmeta.core.types import ArrayTree, Episode, Key, LearnerState, MetaLearner, Metrics
from jaxmeta.run.checkpoint import Checkpoints
from jaxmeta.run.logging import MetricsLog, ProgressDisplay
from jaxmeta.run.planner import memory_of

# How many steps may be unfinished when the host prepares the next: one that runs and one that waits, so that
# the device is never idle. Left alone jax queues some thirty, and SIGTERM would have to sit through them all.
_AHEAD = 2


class Stopped(Exception):
    """A phase has saved and ended because the wish of somebody else's `StopSignals` was granted."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stopped and what to do."""


class PhaseResult(NamedTuple):
    """What a phase of training came to."""

    state: LearnerState
    seconds: float  # wall clock, over all the runs that it took
    resumed_from: int | None  # the step of the checkpoint that was found, if any
    loss: float | None  # mean over the steps of the last log line
    step_bytes: int | None  # temporary memory of a step, as compiled, where the compiler tells


def train_phase(
    name: str,
    learner: MetaLearner,
    make_batches: Callable[[int], Iterator[Episode]],
    *,
    key: Key,
    steps: int,
    examples_per_step: int,
    checkpoints: Checkpoints,
    log: MetricsLog,
    log_every: int,
    save_every: int,
    on_init: Callable[[LearnerState], LearnerState] | None = None,
    progress: ProgressDisplay | None = None,
    stop: "StopSignals | None" = None,
    room: Callable[[int | None], contextlib.AbstractContextManager] | None = None,
) -> PhaseResult:
    """Trains until step `steps`, from the newest good checkpoint or from the start.

    The device always has its next step queued; values are fetched at log lines and at saves only. However the
    run was cut into pieces, the state it ends with and the lines it logs are the same, except for times.

    Args:
      name: the phase, as it is called in the log.
      learner: what is trained. Its metrics are scalars and `loss` is one of them.
      make_batches: `make_batches(n)` gives the batches of tasks (numpy leaves `[T, ...]`) that come after `n`
        steps. The same step must have the same batch every time.
      key: what the learner starts from.
      steps: the step to end after.
      examples_per_step: what a step counts for in examples per second.
      checkpoints: where the phase is kept; belongs to this phase alone.
      log: gets a line every `log_every` steps and after the last one, with the means since the line before.
      log_every: see `log`.
      save_every: a checkpoint is written each time as many steps are done, and after the last one.
      on_init: changes the fresh state of a phase that starts, say to begin from trained meta-parameters.
      progress: is told about every step.
      stop: whose wish to stop is granted, of a phase that is trained beside others; its own otherwise.
      room: entered with the bytes that a step takes, where the compiler tells, for as long as steps are taken; it may
        wait.

    Returns:
      The state after the last step. Its buffers are the caller's.

    Raises:
      TrainingError: the loss or a meta-parameter is not finite. It is not saved.
      InputError: no checkpoint of the folder is good, or it is beyond `steps`.
      SystemExit: SIGTERM came (code 143); the state was saved first.
      KeyboardInterrupt: likewise.
      Stopped: likewise, where `stop` was given.
    """
    for argument, value in {
        "steps": steps,
        "examples_per_step": examples_per_step,
        "log_every": log_every,
        "save_every": save_every,
    }.items():
        check_positive(argument, value)
    began = time.monotonic()
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(checkpoints.wait)
        batches = _Batches(cleanup, make_batches, 0, steps)
        restored = checkpoints.latest(jax.eval_shape(learner.init, key, batches.first))
        start = restored.step if restored else 0
        if start > steps:
            raise InputError(
                f"{checkpoints.folder} is at step {start}, beyond the {steps} steps of phase `{name}`; "
                "ask for more steps or choose another folder."
            )
        log.rewind(name, start)
        if restored is None:
            seconds_before, step_bytes = 0.0, None
            meter = _Meter(name, examples_per_step)
            state = jax.jit(learner.init)(key, batches.first)
            if on_init is not None:
                state = owned(on_init(state))
        else:
            seconds_before, step_bytes = restored.extra["seconds"], restored.extra.get("step_bytes")
            meter = _Meter(name, examples_per_step, restored.extra["loss"], restored.extra["since_line"])
            state = owned(restored.tree)
            if start == steps:
                return PhaseResult(state, seconds_before, start, meter.loss, step_bytes)
            batches.close()
            batches = _Batches(cleanup, make_batches, start, steps)

        def seconds() -> float:
            return seconds_before + time.monotonic() - began

        def save(step: int) -> float:
            since_line = meter.fetch(step)
            if not _all_finite(state.meta_params):
                raise TrainingError(_diverged(name, "a meta-parameter is not finite", step))
            total = seconds()
            kept = {"loss": meter.loss, "since_line": since_line, "step_bytes": step_bytes}
            checkpoints.save(step, state, extra={"phase": name, "seconds": total, **kept})
            return total

        total = seconds()
        if progress is not None:
            progress.begin(name, steps=steps, start=start)
        of_others, stop = stop, stop or cleanup.enter_context(StopSignals())
        # Compiled before it is called, because what is called does not tell what memory it takes.
        update = jax.jit(learner.update, donate_argnums=0).lower(state, batches.first).compile()
        memory = memory_of(update)
        step_bytes = memory.temporary if memory else None
        if room is not None:
            cleanup.enter_context(room(memory.total if memory else None))
        for step in range(start + 1, steps + 1):
            try:
                batch = batches.next(step)
            except KeyboardInterrupt:
                save(step - 1)
                raise
            state, metrics = update(state, batch)
            meter.add(metrics)
            line = None
            if step % log_every == 0 or step == steps:
                line = meter.line(step)
                log.write(name, step, line | {"seconds": seconds()})
            if progress is not None:
                shown = line or {}
                progress.update(step, loss=shown.get("loss"), rate=shown.get("examples_per_second"))
            if step % save_every == 0 or step == steps or stop.asked:
                total = save(step)
            if stop.asked:
                checkpoints.wait()
                if of_others:
                    raise Stopped(name)
                stop.obey()
        if progress is not None:
            progress.end()
        return PhaseResult(state, total, start if restored else None, meter.loss, step_bytes)


class _Meter:
    """The metrics since the last log line: device arrays until their values are needed."""

    def __init__(
        self,
        phase: str,
        examples_per_step: int,
        loss: float | None = None,
        since_line: list[dict[str, float]] | None = None,
    ):
        self.loss = loss
        self._phase = phase
        self._examples_per_step = examples_per_step
        self._since_line: list[Any] = since_line or []
        self._timed_steps: int | None = None
        self._since = 0.0

    def add(self, metrics: Metrics) -> None:
        """Takes the metrics of a step that was just queued."""
        self._since_line.append(metrics)
        if self._timed_steps is None:
            # The first step of a process compiles; it would make the first rate meaningless.
            self._timed_steps, self._since = 0, time.monotonic()
        else:
            self._timed_steps += 1
        if len(self._since_line) > _AHEAD:
            jax.block_until_ready(self._since_line[-1 - _AHEAD])

    def fetch(self, step: int) -> list[dict[str, float]]:
        """Fetches the values of the steps since the last line, of which `step` is the last.

        Raises:
          TrainingError: a loss is not finite.
        """
        fetched = [
            {name: float(np.asarray(value, np.float64).mean()) for name, value in metrics.items()}
            for metrics in jax.device_get(self._since_line)
        ]
        for number, metrics in enumerate(fetched, step - len(fetched) + 1):
            if "loss" not in metrics:
                raise ValueError(f"the metrics of a learner must have `loss`, got {sorted(metrics)}")
            if not math.isfinite(metrics["loss"]):
                raise TrainingError(_diverged(self._phase, f"the loss is {metrics['loss']}", number))
        self._since_line = list(fetched)
        return fetched

    def line(self, step: int) -> dict[str, float | None]:
        """Returns the means since the last line, and starts anew."""
        fetched = self.fetch(step)
        means: dict[str, float | None] = {
            name: float(np.mean([metrics[name] for metrics in fetched])) for name in fetched[0]
        }
        self.loss = means["loss"]
        now = time.monotonic()
        examples = (self._timed_steps or 0) * self._examples_per_step
        means["examples_per_second"] = examples / (now - self._since) if examples else None
        self._since_line, self._timed_steps, self._since = [], 0, now
        return means


class _Batches:
    """The batches of a phase from one step on; closed with `cleanup`."""

    def __init__(
        self,
        cleanup: contextlib.ExitStack,
        make_batches: Callable[[int], Iterator[Episode]],
        start: int,
        steps: int,
    ):
        self._iterator = make_batches(start)
        cleanup.callback(self.close)
        self._start, self._steps = start, steps
        self.first = self._take(start + 1)

    def next(self, step: int) -> Episode:
        """Returns the batch of `step`; called once for each step in turn."""
        return self.first if step == self._start + 1 else self._take(step)

    def close(self) -> None:
        """Ends what prepares the batches, if there is something to end."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()

    def _take(self, step: int) -> Episode:
        try:
            return next(self._iterator)
        except StopIteration:
            raise ValueError(
                f"`make_batches({self._start})` must last until step {self._steps}, it ended before {step}"
            ) from None


class StopSignals:
    """Turns SIGTERM and the first Ctrl-C into a wish that the loop grants between two steps."""

    def __init__(self):
        self.asked: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            self._take(signal.SIGTERM)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._take(signal.SIGINT)
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._previous):
            self._give_back(number)

    def obey(self) -> None:
        """Gives the handlers back and raises what the signal would have raised."""
        self.__exit__()
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)

    def _take(self, number: signal.Signals) -> None:
        self._previous[number] = signal.signal(number, self._on_signal)

    def _give_back(self, number: signal.Signals) -> None:
        previous = self._previous.pop(number)
        signal.signal(number, signal.SIG_DFL if previous is None else previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.asked = signal.Signals(number)
        # Not `print`: what it interrupts may hold the lock of standard error.
        os.write(2, b"Stopping after this step; the same command goes on from there.\n")
        if number == signal.SIGINT:
            self._give_back(signal.SIGINT)  # a second Ctrl-C does not wait


def _diverged(phase: str, what: str, step: int) -> str:
    return (
        f"Phase `{phase}` cannot go on: {what} at step {step}. Lower the learning rate or clip the outer "
        "gradient and start again in a new folder; the last good checkpoint is kept."
    )


@jax.jit
def _all_finite(tree: ArrayTree) -> jax.Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves], bool))
