"""Runs that differ in numbers alone, side by side: one compiled program trains and judges them all."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.types import Episode, LearnerState, MetaParams
from jaxmeta.run.evaluate import best_of, evaluator, pose, score_grid
from jaxmeta.run.plan import Judging, Method, Phase, Readout, Tasks, steps_before, warm_started

Values = Mapping[str, Any]  # numbers by name: floats, traced scalars, or arrays [N] of as many runs


class Variant(NamedTuple):
    """What a run consists of when its numbers are given.

    Attributes:
      phases: how it is trained.
      method: what is judged.
      learning_rate: of the inner optimizer in judgement.
    """

    phases: tuple[Phase, ...]
    method: Method
    learning_rate: Any


class SideBySide:
    """Trains and judges `N` runs at once. What it compiles serves every call with as many runs."""

    def __init__(self, variant: Callable[[Values], Variant], example: Values, readout: Readout, judging: Judging):
        """Takes what makes a run of numbers, which may be traced.

        Args:
          variant: the run of some numbers; names, steps and costs may not depend on them.
          example: numbers of any run.
          readout: how adapted states are judged.
          judging: how methods are judged.
        """
        self._variant, self._readout, self._judging = variant, readout, judging
        self._phases, self._method, _ = variant(example)
        self._programs = [self._program(number) for number in range(len(self._phases))]

        @jax.jit
        def run(values, key, meta_params, learning_rate, episodes: Episode):
            method = variant(values).method
            return evaluator(method, readout, method.steps, judging.tasks_at_once)(
                key, meta_params, learning_rate, episodes
            )

        self._run = run

    def scores(self, values: Mapping[str, np.ndarray], tasks: Tasks, *, training_seed: int, seed: int) -> np.ndarray:
        """Trains runs on the train tasks and judges them on the dev tasks.

        Args:
          values: `[N]` by name.
          tasks: what is learned.
          training_seed: of the parameters and of the episodes, the same for all.
          seed: of methods that draw at random while they adapt.

        Returns:
          `[N]`: each run's score at its best number of inner steps, NaN where it diverged.
        """
        columns = {name: jnp.asarray(column, jnp.float32) for name, column in values.items()}
        count = len(next(iter(columns.values())))
        trained = self._trained(columns, tasks, training_seed)
        posed = pose(tasks, "dev", tasks.languages("dev"), self._judging.shots, self._judging.dev_draws)
        found = []
        for number in range(count):
            own = {name: column[number] for name, column in columns.items()}
            start: MetaParams = {}
            if self._method.phase:
                start = jax.tree.map(lambda leaf, number=number: leaf[number], trained[self._method.phase])
            grid = score_grid(
                partial(self._run, own), self._readout, self._method.complete(start),
                float(self._variant(own).learning_rate), posed, seed=seed, tasks_per_call=len(posed.cells),
            )  # fmt: skip
            by_steps = grid.scores[self._judging.metric].mean(axis=(0, 1))
            _, score = best_of(list(enumerate(by_steps)), higher_is_better=self._judging.higher_is_better)
            found.append(score if np.isfinite(score) else np.nan)
        return np.asarray(found)

    def _program(self, number: int):
        def learner(values):
            return self._variant(values).phases[number].learner

        init = jax.jit(jax.vmap(lambda values, key, batch: learner(values).init(key, batch), (0, None, None)))
        update = jax.jit(jax.vmap(lambda values, state, batch: learner(values).update(state, batch), (0, 0, None)))
        return init, update

    def _trained(self, values: Values, tasks: Tasks, seed: int) -> dict[str, MetaParams]:
        trained: dict[str, MetaParams] = {}
        for number, (phase, (init, update)) in enumerate(zip(self._phases, self._programs, strict=True)):
            batches = tasks.batches(seed, steps_before(self._phases, phase), augmented=phase.augmented)(0)
            batch = next(batches)
            state: LearnerState = init(values, jax.random.fold_in(jax.random.key(seed), number), batch)
            if phase.start_from:
                state = warm_started(state, trained[phase.start_from])
            for step in range(phase.steps):
                state, metrics = update(values, state, batch if step == 0 else next(batches))
                # Left alone the host would queue steps without end, each with its batch.
                jax.block_until_ready(metrics["loss"])
            if (close := getattr(batches, "close", None)) is not None:
                close()
            trained[phase.name] = state.meta_params
        return trained
