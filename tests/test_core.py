"""The inner loop, the learner, and the small tools under them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmeta.algorithms import maml, reptile
from jaxmeta.core.adapt import adapt
from jaxmeta.core.batches import pad_batch, stack_episodes
from jaxmeta.core.checks import InputError, check_not_negative, check_one_of, check_positive
from jaxmeta.core.gradients import forward_over_reverse, reverse
from jaxmeta.core.learner import build_learner
from jaxmeta.core.select import everything, matching, merge, partition, path_of
from jaxmeta.core.trees import joined, mean_over_tasks, stop_gradient, strip_weak_types
from jaxmeta.core.types import Episode, Model
from jaxmeta.estimators import backprop, displacement, truncated_backprop
from jaxmeta.models import mlp
from jaxmeta.objectives import regression

LINEAR = Model(lambda key, x: jax.random.normal(key, (x.shape[-1], 2)), lambda params, x: jnp.tanh(x @ params))


def examples(seed, size):
    rng = np.random.default_rng(seed)
    inputs, targets = rng.normal(size=(size, 3)), rng.normal(size=(size, 2))
    return {"inputs": inputs.astype(np.float32), "targets": targets.astype(np.float32)}


def task(seed):
    return Episode(examples(2 * seed, 5), examples(2 * seed + 1, 4))


def batch(seed, tasks=2):
    return stack_episodes([task(seed * tasks + i) for i in range(tasks)])


def noisy():
    """Draws a minibatch at each step, so that it matters which key each of them is given."""
    return reptile(LINEAR, regression(), optax.sgd(0.1, momentum=0.9), batch_size=2)


PARAMS = {"params": jnp.asarray(np.random.default_rng(9).normal(size=(3, 2)).astype(np.float32))}


def assert_equal(got, want, rtol=1e-6, atol=1e-7):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, want)


# The inner loop


def test_adapt_is_begin_and_then_steps(key):
    algorithm, support = noisy(), examples(0, 5)
    begin_key, rest = jax.random.split(key)
    states, metrics = [algorithm.begin(begin_key, PARAMS, support)], []
    step = jax.jit(algorithm.step)
    for step_key in jax.random.split(rest, 4):
        state, values = step(step_key, PARAMS, states[-1], support)
        states.append(state)
        metrics.append(values)
    last, got_metrics = jax.jit(lambda key: adapt(algorithm, key, PARAMS, support, num_steps=4))(key)
    traced, _ = jax.jit(lambda key: adapt(algorithm, key, PARAMS, support, num_steps=4, trace=True))(key)
    assert_equal(last, states[-1])
    assert_equal(got_metrics, jax.tree.map(lambda *leaves: np.stack(leaves), *metrics))
    assert_equal(traced, jax.tree.map(lambda *leaves: np.stack(leaves), *states))
    assert traced.step.tolist() == [0, 1, 2, 3, 4]
    some = (0, 1, 4)
    kept, _ = jax.jit(lambda key: adapt(algorithm, key, PARAMS, support, num_steps=4, trace=some))(key)
    assert_equal(kept, jax.tree.map(lambda leaf: leaf[np.array(some)], traced))
    for wrong in ((4, 0), (2, 2, 4), (2, 5), (0, 1), (-1, 4), ()):
        with pytest.raises(ValueError, match="`trace` must name numbers of steps in ascending order, the last of"):
            adapt(algorithm, key, PARAMS, support, num_steps=4, trace=wrong)


@pytest.mark.parametrize("memory", ["none", "per_step"])
def test_no_steps_give_what_begin_gives(key, memory):
    algorithm, support = noisy(), examples(0, 5)
    begun = algorithm.begin(jax.random.split(key)[0], PARAMS, support)
    state, metrics = adapt(algorithm, key, PARAMS, support, num_steps=0, memory=memory)
    assert_equal(state, begun)
    assert {leaf.shape for leaf in metrics.values()} == {(0,)}
    traced, _ = adapt(algorithm, key, PARAMS, support, num_steps=0, memory=memory, trace=True)
    assert_equal(traced, jax.tree.map(lambda leaf: leaf[None], begun))


@pytest.mark.parametrize("strategy", [reverse, forward_over_reverse])
def test_memory_policies_agree_in_value_and_gradient(key, strategy):
    algorithm, one = maml(LINEAR, regression(), optax.sgd(0.1, momentum=0.9), gradient=strategy), task(0)

    def loss(params, memory):
        state, metrics = adapt(algorithm, key, params, one.support, num_steps=5, memory=memory)
        return algorithm.loss(key, params, state, one.query)[0], (state, metrics)

    results = [
        jax.jit(jax.value_and_grad(lambda p, m=m: loss(p, m), has_aux=True))(PARAMS) for m in ("none", "per_step")
    ]
    assert_equal(results[0], results[1], rtol=1e-5)
    assert np.abs(results[0][1]["params"]).max() > 1e-3


def test_python_reads_a_step_once_however_many_there_are(key):
    def reads(num_steps, memory):
        count, base = [], noisy()
        algorithm = base._replace(step=lambda *args: count.append(1) or base.step(*args))
        jax.eval_shape(lambda: adapt(algorithm, key, PARAMS, examples(0, 5), num_steps=num_steps, memory=memory))
        return len(count)

    for memory in ("none", "per_step"):
        assert reads(50, memory) == reads(1, memory) <= 2


def test_memory_per_step_and_forward_over_reverse_need_less(key):
    """What XLA sets aside is known before anything runs, exactly."""
    one = Episode(examples(0, 200), examples(1, 4))
    model = mlp((32, 32), 2)
    params = jax.eval_shape(model.init, key, one.support["inputs"])
    state = sum(leaf.size * 4 for leaf in jax.tree.leaves(params))

    def needed(strategy, memory, num_steps):
        algorithm = maml(model, regression(), optax.sgd(0.1), gradient=strategy)

        def loss(params):
            state, _ = adapt(algorithm, key, params, one.support, num_steps=num_steps, memory=memory)
            return algorithm.loss(key, params, state, one.query)[0]

        lowered = jax.jit(jax.grad(loss)).lower({"params": params})
        return lowered.compile().memory_analysis().temp_size_in_bytes

    naive, per_step = needed(reverse, "none", 16), needed(reverse, "per_step", 16)
    assert per_step < naive / 3
    # A further inner step costs the state it starts from, and with "none" its intermediates.
    assert needed(reverse, "per_step", 32) - per_step < 1.5 * 16 * state
    assert needed(reverse, "none", 32) - naive > 5 * 16 * state
    mixed = needed(forward_over_reverse, "none", 16)
    assert mixed < naive / 3
    assert needed(forward_over_reverse, "per_step", 16) <= mixed


def test_wrong_arguments_of_adapt(key):
    with pytest.raises(ValueError, match="`num_steps` must be zero or more, got -1"):
        adapt(noisy(), key, PARAMS, examples(0, 5), num_steps=-1)
    with pytest.raises(
        ValueError, match="`memory` must be one of none, products, per_step, nested, offload, truncated\\(n\\)"
    ):
        adapt(noisy(), key, PARAMS, examples(0, 5), num_steps=1, memory="all")  # pyright: ignore[reportArgumentType]


# The learner


def test_update_reports_the_estimators_metrics_and_the_norm(standard_promotion, key):
    algorithm = maml(LINEAR, regression(), optax.sgd(0.1))
    estimator, outer = backprop(algorithm, num_steps=2), optax.adam(0.1)
    learner, tasks = build_learner(algorithm, estimator, outer), batch(0)
    state = learner.init(key, tasks)
    new, metrics = jax.jit(learner.update)(state, tasks)
    assert set(metrics) == {"loss", "mse", "gradient_norm"}
    gradient, _, want = jax.jit(estimator.estimate)(key, state.meta_params, (), tasks)
    np.testing.assert_allclose(metrics["loss"], want["loss"], rtol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"], np.linalg.norm(gradient["params"]), rtol=1e-5)
    updates, opt_state = outer.update(gradient, state.opt_state, state.meta_params)
    assert_equal(new.meta_params, optax.apply_updates(state.meta_params, updates), rtol=1e-4)
    assert_equal(new.opt_state, opt_state, rtol=1e-4)
    assert (int(state.step), int(new.step)) == (0, 1)
    np.testing.assert_array_equal(new.key, state.key)


def test_the_key_of_an_update_is_a_function_of_its_number(key):
    estimator = displacement(noisy(), num_steps=2)
    learner, tasks = build_learner(noisy(), estimator, optax.sgd(1.0)), batch(0)
    update, state = jax.jit(learner.update), learner.init(key, tasks)
    norms = []
    for number in (0, 1, 7):
        at = state._replace(step=jnp.asarray(number, jnp.int32))
        step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), number)
        gradient, _, _ = jax.jit(estimator.estimate)(step_key, state.meta_params, (), tasks)
        new, metrics = update(at, tasks)
        assert_equal(new.meta_params["params"], state.meta_params["params"] - gradient["params"], rtol=1e-5)
        norms.append(float(metrics["gradient_norm"]))
    assert len(set(norms)) == 3, "each update draws other minibatches"


def test_init_depends_on_the_key_and_draws_each_part_from_its_own(key):
    learner = build_learner(noisy(), displacement(noisy(), num_steps=1), optax.sgd(1.0))
    first, again, other = (learner.init(k, batch(0)) for k in (key, key, jax.random.key(1)))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first.meta_params["params"], other.meta_params["params"])
    assert not np.array_equal(first.key, other.key)
    assert (first.key.dtype, first.key.shape, first.step.dtype) == (jnp.uint32, (2,), jnp.int32)


def test_weak_types_are_stripped_from_what_models_and_optimizers_give(key):
    weak_model = Model(lambda key, x: {"w": jnp.full((3, 2), 0.5), "b": jnp.asarray(1.0)}, lambda p, x: x @ p["w"])
    assert jax.tree.leaves(weak_model.init(key, None))[0].weak_type, "what is stripped below"
    weak = optax.GradientTransformation(
        lambda params: jax.tree.map(lambda _: jnp.asarray(0.0), params),
        lambda updates, state, params=None: (jax.tree.map(lambda u: -u, updates), state),
    )
    algorithm = maml(weak_model, regression(), weak)
    learner = build_learner(algorithm, backprop(algorithm, num_steps=1), weak)
    state = learner.init(key, batch(0))
    begun = algorithm.begin(key, state.meta_params, task(0).support)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((state, begun)))
    update = jax.jit(learner.update)
    state, _ = update(state, batch(0))
    update(state, batch(1))
    assert update._cache_size() == 1


@pytest.mark.parametrize("estimator", [backprop, functools.partial(truncated_backprop, horizon=2)])
def test_the_state_may_be_donated_whatever_others_keep(estimator, standard_promotion, key):
    """The model gives out its own arrays, the optimizer keeps those it was given, and so does an estimator."""
    mine = jax.tree.map(jnp.asarray, LINEAR.init(key, batch(0).support["inputs"][0]))
    algorithm = maml(LINEAR._replace(init=lambda *_: mine), regression(), optax.sgd(0.1))
    learner = build_learner(algorithm, estimator(algorithm, num_steps=1), optax.contrib.prodigy(0.1))
    episodes = jax.tree.map(jnp.asarray, batch(0))
    state = learner.init(key, episodes)
    update = jax.jit(learner.update, donate_argnums=0)
    for _ in range(2):
        state, metrics = update(state, episodes)
    assert np.isfinite(metrics["loss"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((mine, episodes)))


# Selections


class Pair(NamedTuple):
    kernel: np.ndarray
    bias: np.ndarray


TREE = {"block_0": Pair(np.zeros((2, 3)), np.ones(3)), "heads": [np.full(2, 2.0), {"scale": np.full(1, 3.0)}]}


def test_paths_cross_dicts_lists_and_attributes():
    paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(TREE)]
    assert paths == ["block_0/kernel", "block_0/bias", "heads/0", "heads/1/scale"]


@pytest.mark.parametrize(
    ("predicate", "selected"),
    [
        (everything, {"block_0/kernel", "block_0/bias", "heads/0", "heads/1/scale"}),
        (matching("^heads/"), {"heads/0", "heads/1/scale"}),
        (matching("bias$", "scale"), {"block_0/bias", "heads/1/scale"}),
        (lambda path: matching("block")(path) and not matching("bias")(path), {"block_0/kernel"}),
    ],
)
def test_partition_takes_what_the_predicate_does_and_merge_undoes_it(predicate, selected):
    chosen, rest = partition(TREE, predicate)
    found = {path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(chosen)}
    others = {path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(rest)}
    assert found == selected
    assert not found & others
    assert len(found | others) == 4
    whole = merge(chosen, rest)
    assert jax.tree.structure(whole) == jax.tree.structure(TREE)
    jax.tree.map(np.testing.assert_array_equal, whole, TREE)
    jax.tree.map(np.testing.assert_array_equal, merge(rest, chosen), TREE)


def test_a_selection_of_nothing_shows_the_paths_there_are():
    with pytest.raises(
        ValueError, match=r"matches no parameter; paths are such as block_0/kernel, block_0/bias, heads/0"
    ):
        partition(TREE, matching("^head/"))


# Trees


def test_strip_weak_types_keeps_values_and_dtypes():
    tree = {"weak": jnp.asarray(1.5), "python": 2, "strong": jnp.ones(3, jnp.bfloat16), "bool": np.array([True])}
    assert tree["weak"].weak_type
    got = strip_weak_types(tree)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(got))
    assert {name: leaf.dtype for name, leaf in got.items()} == {
        "weak": jnp.float32,
        "python": jnp.int32,
        "strong": jnp.bfloat16,
        "bool": jnp.bool_,
    }
    assert (float(got["weak"]), int(got["python"])) == (1.5, 2)


def test_stop_gradient_cuts_and_passes_integers():
    def function(x):
        cut = stop_gradient({"x": x, "n": jnp.arange(3), "none": None})
        return jnp.sum(x * cut["x"]) + 0.0 * cut["n"].sum().astype(x.dtype)

    np.testing.assert_array_equal(jax.grad(function)(jnp.asarray([2.0, 3.0])), [2.0, 3.0])


def test_mean_over_tasks_averages_the_first_axis_alone():
    got = mean_over_tasks({"a": jnp.arange(6.0).reshape(2, 3), "none": None})
    np.testing.assert_allclose(got["a"], [1.5, 2.5, 3.5])
    assert got["none"] is None


def test_joined_fills_in_what_only_one_batch_says():
    first = {**examples(0, 2), "mask": np.array([True, False])}
    second = {**examples(1, 3), "classes": np.array([[True, False]] * 3)}
    got = joined(first, second)
    np.testing.assert_array_equal(got["inputs"], np.concatenate([first["inputs"], second["inputs"]]))
    assert got["mask"].tolist() == [True, False, True, True, True]
    assert got["classes"].tolist() == [[True, True]] * 2 + [[True, False]] * 3
    assert set(joined(examples(0, 2), examples(1, 2))) == {"inputs", "targets"}
    with pytest.raises(ValueError, match="weights"):
        joined({**examples(0, 2), "weights": np.ones(2)}, examples(1, 2))


# Batches


def test_padding_repeats_the_first_example_and_says_so():
    start = {**examples(0, 3), "inputs": {"a": np.arange(3), "b": np.arange(6).reshape(3, 2)}}
    got = pad_batch(start, 5)
    assert got["mask"].tolist() == [True, True, True, False, False]
    assert got["inputs"]["a"].tolist() == [0, 1, 2, 0, 0]
    assert got["inputs"]["b"].tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [0, 1]]
    assert "mask" not in start
    again = pad_batch({**got, "mask": np.array([True, False, True, False, False])}, 6)
    assert again["mask"].tolist() == [True, False, True, False, False, False]
    assert pad_batch(start, 3)["mask"].all()


def test_wrong_arguments_of_padding():
    with pytest.raises(ValueError, match="`size` must be at least 3, the examples of the batch, got 2"):
        pad_batch(examples(0, 3), 2)
    with pytest.raises(ValueError, match="must have at least one example, got none"):
        pad_batch(examples(0, 0), 2)
    with pytest.raises(ValueError, match="must have at least one episode, got none"):
        stack_episodes([])


def test_stacking_pads_each_side_where_it_must():
    tasks = [Episode(examples(0, 3), examples(1, 4)), Episode(examples(2, 5), examples(3, 4))]
    got = stack_episodes(tasks)
    assert got.support["mask"].sum(axis=1).tolist() == [3, 5]
    assert "mask" not in got.query
    assert got.query["inputs"].shape == (2, 4, 3)
    np.testing.assert_array_equal(got.support["inputs"][0, :3], tasks[0].support["inputs"])
    np.testing.assert_array_equal(got.support["inputs"][1], tasks[1].support["inputs"])
    # A mask that one of them has is one that all have.
    some = stack_episodes(
        [Episode(pad_batch(examples(0, 3), 4), examples(1, 4)), Episode(examples(2, 4), examples(3, 4))]
    )
    assert some.support["mask"].tolist() == [[True, True, True, False], [True] * 4]


# Checks


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_not_positive_is_refused(value):
    with pytest.raises(ValueError, match=f"`width` must be positive, got {value}"):
        check_positive("width", value)


def test_checks_pass_what_is_right():
    check_positive("width", 1e-9)
    check_not_negative("count", 0)
    check_one_of("memory", "none", ("none", "all"))
    assert issubclass(InputError, ValueError)
