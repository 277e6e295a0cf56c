"""Judging methods on tasks they never saw: the same tasks, shots and tuning for each."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.adapt import adapt
from jaxmeta.core.batches import stack_episodes
from jaxmeta.core.trees import leading_size
from jaxmeta.core.types import ArrayTree, Batch, Episode, MetaParams
from jaxmeta.run.plan import Cell, Classical, Judging, Method, Rate, Readout, Tasks, told

TASKS_PER_CALL = 20  # at most, unless more are to be judged at once
_FEW_STEPS = 100
_BLOCK = 20  # keys that are split from one: as many as a call once had, so that scores are those of earlier runs
_MUCH = 4  # times as many rows, which cost more to answer than a program to compile
_Setting = TypeVar("_Setting")


class Choice(NamedTuple):
    """The setting of a method that did best on the dev languages."""

    learning_rate: Rate
    steps: int


class Posed(NamedTuple):
    """Few-shot problems of `L` languages, `D` draws of each side by side."""

    episodes: Episode  # leaves [L * D, ...]
    cells: Sequence[Cell]  # which each of them is
    shape: tuple[int, int]  # (L, D)


def pose(tasks: Tasks, split: str, languages: Sequence[str], shots: int, draws: int) -> Posed:
    """Returns `draws` few-shot problems of each language."""
    cells = [Cell(language, shots, number, split) for language in languages for number in range(draws)]
    episodes = [tasks.episode(cell.language, shots=cell.shots, draw=cell.draw, split=cell.split) for cell in cells]
    return Posed(stack_episodes(episodes), cells, (len(languages), draws))


def alike(dev: Posed, test: Posed) -> tuple[Posed, Posed]:
    """Pads the queries of two splits to one size, so that one program judges both; not where one is much the longer."""

    def shapes(batches: Batch) -> ArrayTree:
        return jax.tree.map(lambda leaf: leaf.shape[1:], dict(batches))

    supports, queries = zip(dev.episodes, test.episodes, strict=True)
    short, long = sorted(jax.tree.leaves(batch)[0].shape[1] for batch in queries)
    if shapes(supports[0]) != shapes(supports[1]) or long > _MUCH * short:
        return dev, test
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], p.episodes) for p in (dev, test) for i in range(len(p.cells))]
    padded, size = stack_episodes(each), len(dev.cells)
    return (
        dev._replace(episodes=jax.tree.map(lambda leaf: leaf[:size], padded)),
        test._replace(episodes=jax.tree.map(lambda leaf: leaf[size:], padded)),
    )


class Grid(NamedTuple):
    """Scores of a method: `scores[name]` is `[L, D, P]` for languages, draws of shots and numbers of inner steps."""

    scores: dict[str, np.ndarray]
    counts: ArrayTree  # sums over languages, leaves `[P, ...]`: for calibration
    seconds: float
    read: ArrayTree = None  # what the readout read, leaves `[L * D, P, ...]`


def call_size(numbers: Sequence[int], tasks_at_once: int) -> int:
    """Returns how many problems are judged in one call, where one program judges as often as there are `numbers`.

    So that few only fill up a last call, in few batches of `tasks_at_once`: a batch is taken to cost as much beside its
    problems as a quarter of a full one's. No more than one batch, or whole ones: a rest would be another program.
    """
    full = min(tasks_at_once, max(numbers))
    sizes = (*range(1, full), *range(full, max(full, TASKS_PER_CALL) + 1, full))

    def cost(size: int) -> float:
        return sum(-(-number // size) for number in numbers) * (size + full / 4 * -(-size // full))

    return min(sizes, key=lambda size: (cost(size), -size))


def evaluator(
    method: Method, readout: Readout, steps: Sequence[int], tasks_at_once: int
) -> Callable[[jax.Array, MetaParams, Any, Episode], ArrayTree]:
    """Returns a jitted `(keys [T], meta_params, learning_rate, episodes [T, ...]) -> arrays`, leaves `[T, P, ...]`.

    One adaptation gives what the readout reads after each of the `P` numbers of inner steps in `steps`.
    """
    places = np.asarray(steps, np.int32)

    def one_task(key, meta_params, learning_rate, episode: Episode):
        algorithm = method.build(learning_rate)
        # Of few steps all states are kept, which costs a step less than to choose.
        every, last = int(places[-1]) <= _FEW_STEPS, int(places[-1])
        states, _ = adapt(algorithm, key, meta_params, episode.support, num_steps=last, trace=every or steps)
        states = jax.tree.map(lambda leaf: leaf[places], states) if every else states

        return jax.lax.map(lambda state: readout.read(algorithm, meta_params, state, episode.query), states)

    @jax.jit
    def all_tasks(keys, meta_params, learning_rate, episodes: Episode):
        return jax.lax.map(
            lambda task: one_task(task[0], meta_params, learning_rate, task[1]),
            (keys, episodes),
            batch_size=min(tasks_at_once, leading_size(episodes)),
        )

    return all_tasks


def told_of(
    method: Method, meta_params: MetaParams, learning_rate: Rate, posed: Posed, *, seed: int
) -> dict[str, float]:
    """Returns what a method tells of the states that tasks begin with, on average; see `Method`."""
    tells = method.tells
    if tells is None:
        return {}
    algorithm = method.build(learning_rate)

    @jax.jit
    def run(keys, meta_params, supports):
        begun = lambda task: tells(meta_params, algorithm.begin(task[0], meta_params, task[1]))  # noqa: E731
        return jax.tree.map(jnp.mean, jax.lax.map(begun, (keys, supports)))

    keys = jax.random.split(jax.random.key(seed), len(posed.cells))
    return {name: float(value) for name, value in run(keys, meta_params, posed.episodes.support).items()}


def score_grid(
    run: Callable[..., ArrayTree],
    readout: Readout,
    meta_params: MetaParams,
    learning_rate: Rate,
    posed: Posed,
    *,
    seed: int,
    tasks_per_call: int = TASKS_PER_CALL,
) -> Grid:
    """Runs an `evaluator` on few-shot problems and scores each of them.

    Args:
      run: what `evaluator` returned.
      readout: turns what it reads into scores.
      meta_params: what the method starts from.
      learning_rate: of the inner optimizer, and the strength of what holds it where there is one.
      posed: the problems.
      seed: of the methods that draw at random while they adapt.
      tasks_per_call: problems in one call.
    """
    began = time.monotonic()
    num_tasks = len(posed.cells)
    # Calls of one size share a compilation, however many tasks there are; the first task fills up the last call.
    places = np.arange(-(-num_tasks // tasks_per_call) * tasks_per_call)
    places = np.where(places < num_tasks, places, 0).reshape(-1, tasks_per_call)
    keys = _keys(seed, num_tasks)
    parts = []
    for chosen in places:
        part = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], posed.episodes)
        parts.append(jax.device_get(run(keys[chosen], meta_params, jax.tree.map(jnp.float32, learning_rate), part)))
    arrays = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num_tasks], *parts)
    num_points = jax.tree.leaves(arrays)[0].shape[1]
    counts = [
        [readout.counts(jax.tree.map(lambda leaf, t=t, p=p: leaf[t, p], arrays), cell) for p in range(num_points)]
        for t, cell in enumerate(posed.cells)
    ]
    return _scored(readout, counts, posed.shape, began)._replace(read=arrays)


def _keys(seed: int, num_tasks: int) -> jax.Array:
    """Returns a key for each task, which does not depend on how many are judged in one call."""
    blocks = range(-(-num_tasks // _BLOCK))
    return jnp.concatenate(
        [jax.random.split(jax.random.fold_in(jax.random.key(seed), block), _BLOCK) for block in blocks]
    )


def classical_grid(
    classical: Classical,
    value: float,
    readout: Readout,
    languages: Sequence[str],
    *,
    shots: int,
    draws: int,
    split: str,
) -> Grid:
    """Scores a method outside JAX, with its setting at `value`, on the problems that the others have; `P` is one."""
    began = time.monotonic()
    counts = [[classical.counts(value, language, shots, n, split)] for language in languages for n in range(draws)]
    return _scored(readout, counts, (len(languages), draws), began)


def tune(
    run: Callable[..., ArrayTree],
    method: Method,
    readout: Readout,
    judging: Judging,
    meta_params: MetaParams,
    posed: Posed,
    *,
    seed: int,
    tasks_per_call: int = TASKS_PER_CALL,
) -> tuple[Choice, float]:
    """Chooses the learning rate and the number of inner steps on dev languages; the test languages choose nothing.

    Returns:
      The choice, and the dev score it had.
    """
    trials = []
    for rate in method.learning_rates:
        grid = score_grid(run, readout, meta_params, rate, posed, seed=seed, tasks_per_call=tasks_per_call)
        by_steps = grid.scores[judging.metric].mean(axis=(0, 1))
        trials += [(Choice(rate, steps), score) for steps, score in zip(method.steps, by_steps, strict=True)]
    return best_of(trials, higher_is_better=judging.higher_is_better)


def tune_classical(
    classical: Classical, readout: Readout, judging: Judging, dev_languages: Sequence[str]
) -> tuple[float, float]:
    """Chooses the setting of a method outside JAX on dev languages, as `tune` does.

    Returns:
      The choice, and the dev score it had.
    """
    trials = []
    for value in classical.values:
        grid = classical_grid(
            classical, value, readout, dev_languages, shots=judging.shots, draws=judging.dev_draws, split="dev"
        )
        trials.append((value, grid.scores[judging.metric].mean()))
    return best_of(trials, higher_is_better=judging.higher_is_better)


def classical_on_edge(classical: Classical, value: Any) -> list[str]:
    """Returns the setting of a baseline outside JAX where the end of what was tried was chosen."""
    numbers = [tried for tried in classical.values if isinstance(tried, int | float)]
    return [classical.setting] if len(numbers) > 1 and value in (min(numbers), max(numbers)) else []


def on_edge(method: Method, choice: Choice) -> list[str]:
    """Returns which settings of a choice lie at the end of what was tried, so that a wider grid may do better."""
    found = []
    if len(method.steps) > 1 and choice.steps == method.steps[-1]:
        found.append("steps")
    # Without a step the learning rate changes nothing, and the first one is chosen.
    if choice.steps:
        for name, value in told(choice.learning_rate).items():
            tried = {told(rate)[name] for rate in method.learning_rates}
            if len(tried) > 1 and value in (min(tried), max(tried)):
                found.append(name)
    return found


def _scored(readout: Readout, counts: Sequence[Sequence[ArrayTree]], shape: tuple[int, int], began: float) -> Grid:
    """Returns the grid of what was counted of each of `L * D` problems after each of `P` numbers of steps."""
    cells = [[readout.scores(of_point) for of_point in of_task] for of_task in counts]
    scores = {
        name: np.array([[cell[name] for cell in row] for row in cells]).reshape(*shape, len(cells[0]))
        for name in cells[0][0]
    }
    # For each number of steps the sum over problems, then the numbers of steps side by side.
    sums = [jax.tree.map(lambda *leaves: np.sum(leaves, axis=0), *of_point) for of_point in zip(*counts, strict=True)]
    summed = jax.tree.map(lambda *leaves: np.stack(leaves), *sums)
    return Grid(scores, summed, time.monotonic() - began)


def best_of(trials: Sequence[tuple[_Setting, float]], *, higher_is_better: bool) -> tuple[_Setting, float]:
    """Returns the first trial that no other beats, and its score; one without a score (NaN) beats none."""
    sign = 1.0 if higher_is_better else -1.0
    best, best_score = trials[0][0], -np.inf
    for setting, score in trials:
        # A setting that diverges scores NaN, which no comparison prefers.
        if sign * score > best_score:
            best, best_score = setting, sign * float(score)
    return best, sign * best_score
