"""What every algorithm promises, over the rows of `contract_table.py`."""

import contextlib
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
from contract_table import CLASSES, ROWS, VOCABULARY, Row, Setting, episode

from jaxmeta.core.adapt import adapt
from jaxmeta.core.batches import stack_episodes
from jaxmeta.core.learner import build_learner
from jaxmeta.core.select import path_of
from jaxmeta.core.trees import joined
from jaxmeta.core.types import Episode, MetaAlgorithm

TRAINED = [row for row in ROWS if row.estimator]
# Support and query sizes of three tasks. In one batch, all of them are as large as the largest.
SIZES = [(6, 5), (4, 3), (6, 5)]
KEPT = [0, 2]  # of the three classes, in the task that has fewer


def every(rows):
    return pytest.mark.parametrize("row", rows, ids=str)


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


def with_garbage(batch: dict, seed: int) -> dict:
    """Overwrites what is masked with numbers that would be noticed."""
    rng = np.random.default_rng(seed)
    padding = ~batch["mask"]
    assert padding.any()

    def spoiled(name, leaf):
        if name == "mask":
            return leaf
        if leaf.dtype == np.int32:
            low, high = (0, VOCABULARY) if name == "inputs" else (-2, CLASSES + 5)
            garbage = rng.integers(low, high, leaf.shape, dtype=np.int32)
        else:
            garbage = 30 * rng.normal(size=leaf.shape).astype(leaf.dtype)
        return np.where(padding.reshape(*padding.shape, *[1] * (leaf.ndim - padding.ndim)), garbage, leaf)

    return {name: spoiled(name, leaf) for name, leaf in batch.items()}


def perturbed(meta_params):
    """Moves every number of the meta-parameters, so that no rate is one and no bias zero."""
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype(leaf.dtype), meta_params)


def outcome_of(row: Row, algorithm: MetaAlgorithm):
    """Returns `(key, meta_params, episode) ->` all that becomes of one task, the outer gradient included."""

    def outcome(key, meta_params, task: Episode):
        state, inner = adapt(algorithm, key, meta_params, task.support, num_steps=row.num_steps)
        loss, metrics = algorithm.loss(key, meta_params, state, task.query)
        outputs = algorithm.predict(meta_params, state, task.query["inputs"])
        found = {"inner": inner, "loss": loss, "metrics": metrics, "outputs": outputs}
        if row.estimator:
            one = jax.tree.map(lambda leaf: leaf[None], task)
            found["gradient"], _, found["outer"] = row.estimator(algorithm).estimate(key, meta_params, (), one)
        return found

    return outcome


class Study(NamedTuple):
    """A row in float64: three tasks in every way that they can be run."""

    algorithm: MetaAlgorithm
    meta_params: Any
    padded: Episode  # the batch of the three
    estimate: Any  # (key, meta_params, batch) -> (gradient, metrics), compiled
    alone: list  # the outcome of each task as it is
    looped: list  # the outcome of each task as it is in the batch, padded with garbage
    otherwise: list  # the same with other garbage
    vmapped: Any  # the outcome of `vmap` over the batch
    traces: int  # how often jax read the Python code for the nine outcomes before the last


@functools.cache
def study(row: Row) -> Study:
    with jax.enable_x64(True), promotion_of(row):
        algorithm = row.build(Setting(CLASSES, np.float64))
        tasks = [episode(row, seed, *sizes, np.float64) for seed, sizes in enumerate(SIZES)]
        stacked = stack_episodes(tasks)
        batches = [Episode(*(with_garbage(side, seed) for side in stacked)) for seed in range(2)]
        meta_params = perturbed(jax.jit(algorithm.init)(jax.random.key(0), tasks[0]))
        keys = jax.random.split(jax.random.key(1), len(tasks))
        traces = []

        @jax.jit
        def outcome(key, meta_params, task):
            traces.append(1)
            return outcome_of(row, algorithm)(key, meta_params, task)

        @jax.jit
        def estimate(key, meta_params, batch):
            gradient, _, metrics = row.estimator(algorithm).estimate(key, meta_params, (), batch)
            return gradient, metrics

        def looped(tasks):
            return [jax.device_get(outcome(*both)) for both in zip(keys, [meta_params] * 3, tasks, strict=True)]

        alone, *rest = [looped(tasks)] + [looped([task_of(batch, i) for i in range(3)]) for batch in batches]
        vmapped = jax.jit(jax.vmap(outcome_of(row, algorithm), (0, None, 0)))(keys, meta_params, batches[0])
        return Study(algorithm, meta_params, batches[0], estimate, alone, *rest, jax.device_get(vmapped), len(traces))


@every(ROWS)
def test_vmapped_equals_looped(row):
    found = study(row)
    for index, looped in enumerate(found.looped):
        assert_close(task_of(found.vmapped, index), looped)


@every(ROWS)
def test_there_is_one_trace_for_each_shape(row):
    assert study(row).traces == len({*SIZES}) + 1  # the padded shape has a mask, and so its own


@every(ROWS)
def test_what_is_masked_changes_nothing(row):
    found = study(row)
    for (_, size), alone, looped, otherwise in zip(SIZES, found.alone, found.looped, found.otherwise, strict=True):
        for outcome in (looped, otherwise):
            outcome = {**outcome, "outputs": outcome["outputs"][:size]}
            # Fewer than all examples of another shape are other examples, so there only the garbage may be compared.
            want = {**looped, "outputs": looped["outputs"][:size]} if row.draws_by_shape else alone
            assert_close(outcome, want)


@every([row for row in TRAINED if not row.draws])
def test_tasks_of_different_sizes_in_one_batch_equal_each_alone(row, x64):
    found = study(row)
    with promotion_of(row):
        gradient, metrics = found.estimate(jax.random.key(0), found.meta_params, found.padded)
    assert_close(gradient, mean_of([outcome["gradient"] for outcome in found.alone]))
    assert_close(metrics, mean_of([outcome["outer"] for outcome in found.alone]))


def directions(meta_params, count=2):
    """Yields random directions, each in one part of the meta-parameters, and the name of the part."""
    rng = np.random.default_rng(5)
    still = jax.tree.map(np.zeros_like, meta_params)
    for name in meta_params:
        for _ in range(count):
            yield name, {**still, name: jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), meta_params[name])}


@every([row for row in TRAINED if row.gradient == "derivative"])
def test_outer_gradient_agrees_with_finite_differences(row, x64):
    found, key, width = study(row), jax.random.key(2), 1e-6
    with promotion_of(row):
        gradient, _ = found.estimate(key, found.meta_params, found.padded)

        def loss(direction, distance):
            moved = jax.tree.map(lambda p, d: p + distance * d, found.meta_params, direction)
            return found.estimate(key, moved, found.padded)[1]["loss"]

        for name, direction in directions(found.meta_params):
            numeric = (loss(direction, width) - loss(direction, -width)) / (2 * width)
            slope = sum(map(np.vdot, jax.tree.leaves(gradient), jax.tree.leaves(direction)))
            # A shift of all logits, which `ridge` has, changes no probability.
            assert abs(slope) > 1e-4 or name == "shift"
            np.testing.assert_allclose(slope, numeric, rtol=1e-6, atol=1e-8, err_msg=name)


@every([row for row in TRAINED if row.gradient == "first order"])
def test_first_order_gradient_is_the_one_at_the_adapted_parameters(row, x64):
    found = study(row)

    def gradient(task):
        state, _ = adapt(found.algorithm, jax.random.key(0), found.meta_params, task.support, num_steps=row.num_steps)
        loss = lambda fast: found.algorithm.loss(  # noqa: E731
            jax.random.key(0), {"params": fast}, state._replace(fast=fast), task.query
        )
        return {"params": jax.grad(loss, has_aux=True)(state.fast)[0]}

    got, _ = found.estimate(jax.random.key(0), found.meta_params, found.padded)
    assert_close(got, mean_of([gradient(task_of(found.padded, index)) for index in range(3)]))


@every([row for row in TRAINED if row.gradient == "displacement"])
def test_displacement_is_where_adaptation_to_all_examples_came_from(row, x64):
    found, key = study(row), jax.random.key(0)

    def displacement(key, task):
        examples, (adapt_key, _) = joined(*task), jax.random.split(key)
        state, _ = adapt(found.algorithm, adapt_key, found.meta_params, examples, num_steps=row.num_steps)
        return {"params": jax.tree.map(np.subtract, found.meta_params["params"], state.fast)}

    got, _ = found.estimate(key, found.meta_params, found.padded)
    keys = jax.random.split(key, 3)
    assert_close(got, mean_of([displacement(keys[index], task_of(found.padded, index)) for index in range(3)]))


@every([row for row in ROWS if row.fewer_classes and not row.regresses])
def test_a_task_of_fewer_classes_is_the_task_of_a_smaller_model(row, x64):
    found = study(row)

    def smaller(tree):
        """Keeps the columns of the last layer, and of its learned rates, that the smaller model has."""

        def cut(path, leaf):
            return leaf[..., KEPT] if "head/" in path_of(path) and leaf.shape[-1:] == (CLASSES,) else leaf

        return jax.tree_util.tree_map_with_path(cut, tree)

    large = episode(row, 9, 6, 4, np.float64, targets=KEPT)
    exist = np.isin(np.arange(CLASSES), KEPT)
    small = Episode(*({**side, "targets": np.searchsorted(KEPT, side["targets"]).astype(np.int32)} for side in large))
    large = Episode(*({**side, "classes": np.tile(exist, (len(side["targets"]), 1))} for side in large))
    key, algorithm = jax.random.key(4), row.build(Setting(len(KEPT), np.float64))
    with promotion_of(row):
        got = jax.device_get(jax.jit(outcome_of(row, found.algorithm))(key, found.meta_params, large))
        want = jax.device_get(jax.jit(outcome_of(row, algorithm))(key, smaller(found.meta_params), small))
    if row.estimator:
        total = lambda tree: sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(tree))  # noqa: E731
        np.testing.assert_allclose(total(got["gradient"]), total(want["gradient"]), rtol=1e-12)
        got["gradient"] = smaller(got["gradient"])
    assert_close({**got, "outputs": got["outputs"][:, KEPT]}, want)


def types_of(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)


@pytest.mark.parametrize("precision", ["float32", "float64", "float32 under x64"])
@every(ROWS)
def test_types_are_stable_and_none_is_weak(row, precision):
    dtype = np.dtype(precision.split()[0])
    key = jax.random.key(0)
    with jax.enable_x64(precision != "float32"), promotion_of(row):
        algorithm = row.build(Setting(CLASSES, dtype))
        task = episode(row, 0, 6, 5, dtype)
        meta_params = jax.eval_shape(algorithm.init, key, task)
        before = jax.eval_shape(algorithm.begin, key, meta_params, task.support)
        after, _ = jax.eval_shape(algorithm.step, key, meta_params, before, task.support)
        loss, _ = jax.eval_shape(algorithm.loss, key, meta_params, after, task.query)
    assert types_of(after) == types_of(before)
    leaves = jax.tree.leaves((meta_params, before, loss))
    assert not any(leaf.weak_type for leaf in leaves)
    assert {leaf.dtype for leaf in leaves} - {np.dtype(bool), np.dtype(np.int32)} == {dtype}


@pytest.mark.parametrize("precision", ["float32", "float64", "float32 under x64"])
@every(TRAINED)
def test_types_of_training_are_stable_and_none_is_weak(row, precision):
    dtype = np.dtype(precision.split()[0])
    with jax.enable_x64(precision != "float32"), jax.numpy_dtype_promotion("standard"):
        algorithm = row.build(Setting(CLASSES, dtype))
        learner = build_learner(algorithm, row.estimator(algorithm), optax.adam(1e-2))
        batch = stack_episodes([episode(row, seed, 6, 5, dtype) for seed in range(2)])
        before = jax.eval_shape(learner.init, jax.random.key(0), batch)
        after, metrics = jax.eval_shape(learner.update, before, batch)
    assert types_of(after) == types_of(before)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(before))
    assert all(leaf.shape == () for leaf in jax.tree.leaves(metrics))
    assert {leaf.dtype for leaf in jax.tree.leaves((before.meta_params, metrics))} == {dtype}


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
