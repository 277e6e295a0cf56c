"""Runs that differ in numbers alone, side by side: one compiled program trains and judges them all."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.trees import blank
from jaxmeta.core.types import ArrayTree, Episode, MetaParams
from jaxmeta.run.evaluate import best_of, evaluator, pose, score_grid
from jaxmeta.run.hypergradients import Carried, begun, held_out_loss, updated
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


class Found(NamedTuple):
    """What `N` runs came to on the dev tasks.

    Attributes:
      scores: `[N]`, at each run's best number of inner steps, NaN where it diverged.
      losses: `[N]`, the mean query loss after the largest number of inner steps; none where nothing is differentiated.
      slopes: `[N]` by name, how that loss changes with the numbers that are differentiated.
    """

    scores: np.ndarray
    losses: np.ndarray
    slopes: Mapping[str, np.ndarray]


class SideBySide:
    """Trains and judges `N` runs at once. What it compiles serves every call with as many runs."""

    def __init__(
        self,
        variant: Callable[[Values], Variant],
        example: Values,
        readout: Readout,
        judging: Judging,
        *,
        differentiated: Sequence[str] = (),
        in_training: Callable[[str], bool] = lambda name: True,
        alike: bool = False,
    ):
        """Takes what makes a run of numbers, which may be traced.

        Args:
          variant: the run of some numbers; names, steps and costs may not depend on them.
          example: numbers of any run.
          readout: how adapted states are judged.
          judging: how methods are judged.
          differentiated: names of the numbers whose hypergradients are taken, in forward mode.
          in_training: whether a number changes training, and not adaptation alone.
          alike: whether the runs of all calls differ in adaptation alone: then there is one training for them all.
        """
        self._variant, self._readout, self._judging = variant, readout, judging
        self._alike = alike
        self._kept: dict[Any, dict[str, tuple[MetaParams, ArrayTree]]] = {}
        self._carried = tuple(name for name in differentiated if in_training(name))
        self._names = (*self._carried, *(name for name in differentiated if name not in self._carried))
        self._phases, self._method, _ = variant(example)
        self._programs = [self._program(number) for number in range(len(self._phases))]

        @jax.jit
        def run(values, keys, meta_params, learning_rate, episodes: Episode):
            method = variant(values).method
            return evaluator(method, readout, method.steps, judging.tasks_at_once)(
                keys, meta_params, learning_rate, episodes
            )

        self._run, self._slopes = run, jax.jit(self._held_out)

    def scores(
        self,
        values: Mapping[str, np.ndarray],
        tasks: Tasks,
        readout: Readout | None = None,
        *,
        training_seed: int,
        seed: int,
        judged: int | None = None,
    ) -> Found:
        """Trains runs on the train tasks and judges them on the dev tasks.

        Args:
          values: `[N]` by name.
          tasks: what is learned.
          readout: what compares texts of these tasks on the host, where they are others than those that this was made
            for; it reads states in the same way.
          training_seed: of the parameters and of the episodes, the same for all.
          seed: of methods that draw at random while they adapt.
          judged: how many are judged; the others fill up. All by default.

        Returns:
          What those came to, in the order of the values.
        """
        # In double precision where jax is.
        columns = {name: jnp.asarray(column, jnp.result_type(float)) for name, column in values.items()}
        count = len(next(iter(columns.values())))
        trained = self._trained_once(columns, tasks, training_seed)
        posed = pose(tasks, "dev", tasks.languages("dev"), self._judging.shots, self._judging.dev_draws)
        found, losses, slopes = [], [], []
        for number in range(count if judged is None else judged):
            own = {name: column[number] for name, column in columns.items()}
            rate = jax.tree.map(float, self._variant(own).learning_rate)
            start, tangents = {}, {}
            if self._method.phase:
                place = 0 if self._alike else number
                start, tangents = jax.tree.map(lambda leaf, place=place: leaf[place], trained[self._method.phase])
            grid = score_grid(
                partial(self._run, own), readout or self._readout, self._method.complete(start),
                rate, posed, seed=seed, tasks_per_call=len(posed.cells),
            )  # fmt: skip
            by_steps = grid.scores[self._judging.metric].mean(axis=(0, 1))
            _, score = best_of(list(enumerate(by_steps)), higher_is_better=self._judging.higher_is_better)
            found.append(score if np.isfinite(score) else np.nan)
            if self._names:
                loss, slope = self._slopes(own, start, tangents, jax.random.key(seed), posed.episodes)
                losses.append(loss)
                slopes.append(slope)
        return Found(
            np.asarray(found), np.asarray(losses),
            {name: np.array([slope[name] for slope in slopes]) for name in self._names},
        )  # fmt: skip

    def _held_out(self, values, meta_params, tangents, key, episodes: Episode):
        def algorithm(values):
            return self._variant(values).method.build(self._variant(values).learning_rate)

        if tangents:  # of what training learned; the rest of the numbers has not changed it
            rest = len(self._names) - len(self._carried)
            tangents = jax.tree.map(lambda leaf: jnp.pad(leaf, [(0, rest), *[(0, 0)] * (leaf.ndim - 1)]), tangents)
        else:
            tangents = blank(meta_params, len(self._names))
        whole = self._method.complete(meta_params)
        added = {name: part for name, part in whole.items() if name not in meta_params}
        tangents = {**tangents, **blank(jax.tree.map(jnp.asarray, added), len(self._names))}
        return held_out_loss(
            algorithm, self._names, values, whole, tangents, key, episodes,
            num_steps=self._method.steps[-1], tasks_at_once=self._judging.tasks_at_once,
        )  # fmt: skip

    def _program(self, number: int):
        def learner(values):
            return self._variant(values).phases[number].learner

        def init(values, key, batch) -> Carried:
            state = learner(values).init(key, batch)
            return begun(state, self._carried) if self._carried else Carried(state, None)

        def update(values, carried: Carried, batch):
            if self._carried:
                return updated(learner, self._carried, values, carried, batch)
            state, metrics = learner(values).update(carried.state, batch)
            return Carried(state, None), metrics

        return jax.jit(jax.vmap(init, (0, None, None))), jax.jit(jax.vmap(update, (0, 0, None)))

    def _trained_once(self, values: Values, tasks: Tasks, seed: int) -> dict[str, tuple[MetaParams, ArrayTree]]:
        """Returns what `_trained` does, of one run where all are trained alike."""
        if not self._alike:
            return self._trained(values, tasks, seed)
        if (tasks, seed) not in self._kept:
            self._kept[tasks, seed] = self._trained({name: column[:1] for name, column in values.items()}, tasks, seed)
        return self._kept[tasks, seed]

    def _trained(self, values: Values, tasks: Tasks, seed: int) -> dict[str, tuple[MetaParams, ArrayTree]]:
        """Returns the meta-parameters of each phase, and their tangents `[N, n, ...]`, if there are any."""
        trained: dict[str, tuple[MetaParams, ArrayTree]] = {}
        for number, (phase, (init, update)) in enumerate(zip(self._phases, self._programs, strict=True)):
            batches = tasks.batches(seed, steps_before(self._phases, phase), augmented=phase.augmented)(0)
            batch = next(batches)
            carried: Carried = init(values, jax.random.fold_in(jax.random.key(seed), number), batch)
            if phase.start_from:
                params, tangents = trained[phase.start_from]
                changed = warm_started(carried.tangents, tangents) if self._carried else None
                carried = Carried(warm_started(carried.state, params), changed)
            for step in range(phase.steps):
                carried, metrics = update(values, carried, batch if step == 0 else next(batches))
                # Left alone the host would queue steps without end, each with its batch.
                jax.block_until_ready(metrics["loss"])
            if (close := getattr(batches, "close", None)) is not None:
                close()
            trained[phase.name] = carried.state.meta_params, carried.tangents.meta_params if self._carried else {}
        return trained
