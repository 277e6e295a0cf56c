"""What every algorithm promises, over the rows of `contract_table.py` and `contract_relatives.py`."""

import contextlib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_relatives import ROWS
from contract_table import CLASSES, VOCABULARY, Row, Setting, episode

from jaxmeta.core.adapt import adapt
from jaxmeta.core.batches import stack_episodes
from jaxmeta.core.learner import build_learner
from jaxmeta.core.select import path_of
from jaxmeta.core.trees import joined
from jaxmeta.core.types import Episode, MetaAlgorithm

TRAINED = [row for row in ROWS if row.estimator]
# Support and query sizes of three tasks. In one batch, all of them are as large as the first.
SIZES = [(6, 5), (4, 3), (4, 3)]
KEPT = [0, 2]  # the classes that the last of the three tasks has


# Rows that hold for an algorithm what a row of a small perceptron holds for it too, and take long to compile.
SLOW = {
    *(f"maml of {what}" for what in ("translation", "strings", "policies", "text", "retrieval", "spans")),
    *("maml of policies, evolution", "maml, persistent evolution", "anil of translation, pointer", "cavia of text"),
    *(f"{name} of policies" for name in ("cavia", "reptile")),
    *(f"learned optimizer, {how}" for how in ("persistent evolution, minibatches", "truncated", "lstm")),
    *("meta-network of text, gates", "meta-network, drawn gates"),
    *(f"ridge alignment of {what}" for what in ("n-grams", "sounds and texts")),
    *("rl2", "maml of policies, sampling", "joint policy", "imaml, Gauss-Newton, backprop", "n-gram memory"),
}
assert {row.name for row in ROWS} >= SLOW


def every(rows):
    params = [pytest.param(row, id=str(row), marks=pytest.mark.slow if row.name in SLOW else ()) for row in rows]
    return pytest.mark.parametrize("row", params)


def promotion_of(row: Row):
    """Types promote strictly, unless the row calls code of others that needs otherwise."""
    return jax.numpy_dtype_promotion("standard") if row.standard_promotion else contextlib.nullcontext()


def assert_close(got, want, rtol=1e-12, atol=1e-12):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, want)


def task_of(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def mean_of(trees):
    return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *trees)


def with_classes(batch: dict, exist) -> dict:
    """Says which classes there are, where there are classes."""
    if np.ndim(batch.get("targets", {})) != 1:
        return batch
    return {**batch, "classes": np.tile(np.isin(np.arange(CLASSES), exist), (len(batch["targets"]), 1))}


def with_garbage(batch: dict, seed: int) -> dict:
    """Overwrites what is masked with numbers that would be noticed."""
    rng = np.random.default_rng(seed)
    padding = ~batch["mask"]

    def spoiled(path, leaf):
        name = path_of(path)
        if name == "mask":
            return leaf
        if leaf.dtype == bool:
            garbage = rng.random(leaf.shape) < 0.5
        elif leaf.dtype == np.int32:
            low, high = (0, VOCABULARY) if name.startswith("inputs") else (-2, CLASSES + 5)
            garbage = rng.integers(low, high, leaf.shape, dtype=np.int32)
        else:
            garbage = 30 * rng.normal(size=leaf.shape).astype(leaf.dtype)
        return np.where(padding.reshape(*padding.shape, *[1] * (leaf.ndim - padding.ndim)), garbage, leaf)

    return jax.tree_util.tree_map_with_path(spoiled, batch)


def random_meta_params(algorithm: MetaAlgorithm, task: Episode):
    """Draws every number of the meta-parameters, so that no rate is one and no bias zero."""
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0), task)
    return jax.tree.map(lambda leaf: 0.4 * rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


class Outcome(NamedTuple):
    """What becomes of a batch of tasks."""

    tasks: Any  # of each of them, the metrics, the loss after adaptation and the outputs
    gradient: Any
    metrics: Any


def outcome_of(row: Row, algorithm: MetaAlgorithm):
    """Returns `(keys [T], key, meta_params, batch of T tasks) -> Outcome`."""

    def one_task(key, meta_params, task: Episode):
        state, inner = adapt(algorithm, key, meta_params, task.support, num_steps=row.num_steps)
        loss, metrics = algorithm.loss(key, meta_params, state, task.query)
        if algorithm.transduce is not None:
            state = algorithm.transduce(meta_params, state, task.query)
        outputs = algorithm.predict(meta_params, state, task.query["inputs"])
        return {"inner": inner, "loss": loss, "metrics": metrics, "outputs": outputs}

    def outcome(keys, key, meta_params, batch: Episode):
        tasks = jax.vmap(one_task, (0, None, 0))(keys, meta_params, batch)
        if row.estimator is None:
            return Outcome(tasks, (), ())
        estimator = row.estimator(algorithm)
        gradient, _, metrics = estimator.estimate(key, meta_params, estimator.init(key, meta_params, batch), batch)
        return Outcome(tasks, gradient, metrics)

    return outcome


class Study(NamedTuple):
    """A row in float64: three tasks in every way that they can be run."""

    algorithm: MetaAlgorithm
    meta_params: Any
    padded: Episode  # the batch of the three
    outcome: Any  # compiled
    alone: Outcome  # of the second task as it is, with no mask and no classes
    looped: list[Outcome]  # of each task as it is in the batch, padded with garbage
    otherwise: list[Outcome]  # the same with other garbage
    vmapped: Outcome
    traces: int  # how often jax read the Python code for all of that


KEYS, KEY = (5, 6, 7), 8


@functools.cache
def study(row: Row) -> Study:
    with jax.enable_x64(True), promotion_of(row):
        algorithm = row.build(Setting(CLASSES, np.float64))
        exist = [[*range(CLASSES)], [*range(CLASSES)], KEPT]
        tasks = [
            episode(row, seed, *SIZES[seed], np.float64, CLASSES if row.regresses else exist[seed]) for seed in range(3)
        ]
        named = [Episode(*(with_classes(side, exist[i]) for side in task)) for i, task in enumerate(tasks)]
        batches = [Episode(*(with_garbage(side, seed) for side in stack_episodes(named))) for seed in range(2)]
        meta_params = random_meta_params(algorithm, tasks[0])
        keys, key = jax.vmap(jax.random.key)(np.array(KEYS)), jax.random.key(KEY)
        traces = []

        @jax.jit
        def outcome(*args):
            traces.append(1)
            return outcome_of(row, algorithm)(*args)

        def alone(index, task):
            found = jax.device_get(outcome(keys[index : index + 1], key, meta_params, stack_episodes([task])))
            return found._replace(tasks=task_of(found.tasks, 0))

        looped = [[alone(index, task_of(batch, index)) for index in range(3)] for batch in batches]
        unpadded = alone(1, tasks[1])
        vmapped = [jax.device_get(outcome(keys, key, meta_params, batch)) for batch in batches]
        return Study(algorithm, meta_params, batches[0], outcome, unpadded, *looped, vmapped[0], len(traces))


@every(ROWS)
def test_vmapped_equals_looped(row):
    found = study(row)
    for index, looped in enumerate(found.looped):
        assert_close(task_of(found.vmapped.tasks, index), looped.tasks)
    if not row.draws:  # each batch has its own keys
        assert_close(found.vmapped.gradient, mean_of([looped.gradient for looped in found.looped]))
        assert_close(found.vmapped.metrics, mean_of([looped.metrics for looped in found.looped]))


@every(ROWS)
def test_there_is_one_trace_for_each_shape(row):
    assert study(row).traces == 3  # nine outcomes of a padded task, an unpadded task and a batch


@every(ROWS)
def test_what_is_masked_changes_nothing(row):
    found = study(row)
    pairs = list(zip(found.otherwise, found.looped, strict=True))
    if not row.draws_by_shape:
        pairs.append((found.looped[1], found.alone))
    for index, (got, want) in zip([0, 1, 2, 1], pairs, strict=False):
        real = SIZES[index][1]
        got, want = (
            o._replace(tasks={**o.tasks, "outputs": jax.tree.map(lambda leaf, n=real: leaf[:n], o.tasks["outputs"])})
            for o in (got, want)
        )
        assert_close(got, want)


@every([row for row in TRAINED if not row.draws])
def test_tasks_of_different_sizes_in_one_batch_equal_each_alone(row):
    found = study(row)
    alone = [found.looped[0], found.alone, found.looped[2]]
    assert_close(found.vmapped.gradient, mean_of([outcome.gradient for outcome in alone]))
    assert_close(found.vmapped.metrics, mean_of([outcome.metrics for outcome in alone]))


def directions(meta_params):
    """Yields two random directions in each part of the meta-parameters, and the name of the part."""
    rng = np.random.default_rng(5)
    still = jax.tree.map(np.zeros_like, meta_params)
    for name in [*meta_params] * 2:
        yield name, {**still, name: jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), meta_params[name])}


@every([row for row in TRAINED if row.gradient == "derivative"])
def test_outer_gradient_agrees_with_finite_differences(row, x64):
    found, width = study(row), row.width
    keys, key = jax.vmap(jax.random.key)(np.array(KEYS)), jax.random.key(KEY)

    def loss(direction, distance):
        moved = jax.tree.map(lambda p, d: p + distance * d, found.meta_params, direction)
        return found.outcome(keys, key, moved, found.padded).metrics["loss"]

    for name, direction in directions(found.meta_params):
        with promotion_of(row):
            numeric = (loss(direction, width) - loss(direction, -width)) / (2 * width)
        slope = sum(map(np.vdot, jax.tree.leaves(found.vmapped.gradient), jax.tree.leaves(direction)))
        assert abs(slope) < 1e-12 if name in row.idle else abs(slope) > 1e-4
        np.testing.assert_allclose(slope, numeric, rtol=1e-6, atol=1e-9, err_msg=name)


@every([row for row in TRAINED if row.gradient == "first order"])
def test_first_order_gradient_is_the_one_at_the_adapted_parameters(row, x64):
    found = study(row)

    @jax.jit
    def gradient(task):
        state, _ = adapt(found.algorithm, jax.random.key(0), found.meta_params, task.support, num_steps=row.num_steps)

        def loss(fast, meta_params):
            return found.algorithm.loss(jax.random.key(0), meta_params, state._replace(fast=fast), task.query)[0]

        # What adapts is read from the state, and what does not from the meta-parameters.
        adapted, kept = jax.grad(loss, (0, 1))(state.fast, found.meta_params)
        both = lambda a, k: k if a is None else a + k  # noqa: E731
        return {"params": jax.tree.map(both, adapted, kept["params"], is_leaf=lambda leaf: leaf is None)}

    want = mean_of([jax.device_get(gradient(task_of(found.padded, index))) for index in range(3)])
    assert_close(found.vmapped.gradient, want)


@every([row for row in TRAINED if row.gradient == "displacement"])
def test_displacement_is_where_adaptation_to_all_examples_came_from(row, x64):
    found = study(row)

    @jax.jit
    def displacement(key, task):
        examples, (adapt_key, _) = joined(*task), jax.random.split(key)
        state, _ = adapt(found.algorithm, adapt_key, found.meta_params, examples, num_steps=row.num_steps)
        return {"params": jax.tree.map(jnp.subtract, found.meta_params["params"], state.fast)}

    keys = jax.random.split(jax.random.key(KEY), 3)
    want = mean_of([jax.device_get(displacement(keys[i], task_of(found.padded, i))) for i in range(3)])
    assert_close(found.vmapped.gradient, want)


@every([row for row in ROWS if row.fewer_classes and not row.regresses])
def test_a_task_of_fewer_classes_is_the_task_of_a_smaller_model(row, x64):
    found, last = study(row), 2

    def smaller(tree):
        """Keeps the columns of the last layer, and of its learned rates, that the smaller model has."""

        def cut(path, leaf):
            return leaf[..., KEPT] if "head/" in path_of(path) and leaf.shape[-1:] == (CLASSES,) else leaf

        return jax.tree_util.tree_map_with_path(cut, tree)

    algorithm = row.build(Setting(len(KEPT), np.float64))
    large = [{name: leaf for name, leaf in side.items() if name != "classes"} for side in task_of(found.padded, last)]
    small = Episode(*({**side, "targets": np.searchsorted(KEPT, side["targets"]).astype(np.int32)} for side in large))
    keys, key = jax.vmap(jax.random.key)(np.array(KEYS[last:])), jax.random.key(KEY)
    with promotion_of(row):
        outcome = jax.jit(outcome_of(row, algorithm))
        want = jax.device_get(outcome(keys, key, smaller(found.meta_params), stack_episodes([small])))
    got, want = found.looped[last], want._replace(tasks=task_of(want.tasks, 0))
    total = lambda tree: sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(tree))  # noqa: E731
    np.testing.assert_allclose(total(got.gradient), total(want.gradient), rtol=1e-12)
    real = SIZES[last][1]
    for one, columns in ((got, KEPT), (want, [0, 1])):
        one.tasks["outputs"] = one.tasks["outputs"][:real, columns]
    assert_close(got._replace(gradient=smaller(got.gradient)), want)


def types_of(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)


@pytest.mark.parametrize("wide", [False, True], ids=["", "under x64"])
@every(ROWS)
def test_types_are_stable_and_none_is_weak(row, wide):
    key = jax.random.key(0)
    with jax.enable_x64(wide), promotion_of(row):
        algorithm = row.build(Setting(CLASSES, np.float32))
        task = episode(row, 0, 6, 5, np.float32)
        meta_params = jax.eval_shape(algorithm.init, key, task)
        before = jax.eval_shape(algorithm.begin, key, meta_params, task.support)
        after, _ = jax.eval_shape(algorithm.step, key, meta_params, before, task.support)
        loss, _ = jax.eval_shape(algorithm.loss, key, meta_params, after, task.query)
    assert types_of(after) == types_of(before)
    leaves = jax.tree.leaves((meta_params, before, loss))
    assert not any(leaf.weak_type for leaf in leaves)
    assert {leaf.dtype for leaf in leaves} - {np.dtype(bool), np.dtype(np.int32)} == {np.dtype(np.float32)}


@every(ROWS)
def test_batches_of_numpy_arrays_will_do(row):
    """Under `jit` they are arrays of jax already; who calls `adapt` alone gives what the data gave."""
    with promotion_of(row):
        algorithm = row.build(Setting(CLASSES, np.float32))
        task = stack_episodes([episode(row, seed, size, size, np.float32) for seed, size in enumerate((6, 4))])
        support, query = task_of(task, 1)
        assert isinstance(support["mask"], np.ndarray)
        meta_params = jax.eval_shape(algorithm.init, jax.random.key(0), task_of(task, 0))

        def loss(meta_params):
            state, _ = adapt(algorithm, jax.random.key(0), meta_params, support, num_steps=row.num_steps)
            return algorithm.loss(jax.random.key(1), meta_params, state, query)[0]

        assert jax.eval_shape(loss, meta_params).shape == ()


@every(TRAINED)
def test_types_of_training_are_stable_and_none_is_weak(row, x64, standard_promotion):
    algorithm = row.build(Setting(CLASSES, np.float32))
    learner = build_learner(algorithm, row.estimator(algorithm), optax.adam(1e-2))
    batch = stack_episodes([episode(row, seed, 6, 5, np.float32) for seed in range(2)])
    before = jax.eval_shape(learner.init, jax.random.key(0), batch)
    after, metrics = jax.eval_shape(learner.update, before, batch)
    assert types_of(after) == types_of(before)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(before))
    assert all(leaf.shape == () for leaf in jax.tree.leaves(metrics))
    assert {leaf.dtype for leaf in jax.tree.leaves((before.meta_params, metrics))} == {np.dtype(np.float32)}


@every(TRAINED)
def test_a_resumed_run_equals_an_uninterrupted_one_and_nothing_is_traced_twice(row, standard_promotion):
    algorithm = row.build(Setting(CLASSES, np.float32))
    learner = build_learner(algorithm, row.estimator(algorithm), optax.adam(1e-2))
    batches = [stack_episodes([episode(row, 2 * step + t, 6, 5, np.float32) for t in range(2)]) for step in range(4)]
    start = jax.jit(learner.init)(jax.random.key(0), batches[0])
    traces = []

    @jax.jit
    def update(state, batch):
        traces.append(1)
        return learner.update(state, batch)

    def run(state, batches):
        metrics = None
        for batch in batches:
            state, metrics = update(state, batch)
        return jax.device_get((state, metrics))

    uninterrupted = run(start, batches)
    middle, _ = run(start, batches[:2])
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(middle))
    resumed = run(middle, batches[2:])
    assert len(traces) == 1
    assert uninterrupted[0].step == 4
    jax.tree.map(np.testing.assert_array_equal, resumed, uninterrupted)
    moved = jax.tree.map(lambda a, b: np.any(a != b), start.meta_params["params"], middle.meta_params["params"])
    assert any(jax.tree.leaves(moved))
