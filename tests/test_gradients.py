"""The meta-gradient against closed forms, finite differences, and itself by another strategy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmeta.algorithms import LearnedRates, maml
from jaxmeta.core.adapt import adapt
from jaxmeta.core.gradients import first_order, forward_over_reverse, linearized, reverse
from jaxmeta.core.types import Episode, Model, Objective
from jaxmeta.estimators import backprop
from jaxmeta.objectives import regression

STRATEGIES = {"reverse": reverse, "forward_over_reverse": forward_over_reverse, "linearized": linearized}
MIXED = [forward_over_reverse, linearized]

# A quadratic task: the "model" is its parameter, the loss is 1/2 (w - b)' A (w - b).
QUADRATIC = Model(init=lambda key, inputs: jnp.zeros(3), apply=lambda w, inputs: w)


def quadratic_loss(w, batch):
    away = w - batch["targets"]
    return 0.5 * away @ batch["inputs"] @ away, {}


OBJECTIVE = Objective(quadratic_loss, lambda w, batch: {}, lambda counts: {})


def quadratic_episode(seed):
    rng = np.random.default_rng(seed)

    def side():
        root = rng.normal(size=(3, 3))
        return {"inputs": jnp.asarray(root @ root.T), "targets": jnp.asarray(rng.normal(size=3))}

    return Episode(side(), side())


def outer_loss(algorithm, meta_params, episode, num_steps, memory="none"):
    state, _ = adapt(algorithm, jax.random.key(0), meta_params, episode.support, num_steps=num_steps, memory=memory)
    return algorithm.loss(jax.random.key(1), meta_params, state, episode.query)[0]


@pytest.mark.parametrize("num_steps", [0, 1, 5])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("memory", ["none", "per_step", "nested", "truncated(5)"])
def test_sgd_on_a_quadratic_equals_the_closed_form(x64, num_steps, strategy, memory):
    rate, episode = 0.05, quadratic_episode(0)
    algorithm = maml(QUADRATIC, OBJECTIVE, optax.sgd(rate), gradient=STRATEGIES[strategy])
    start = jnp.asarray([0.3, -0.2, 0.9])
    got = jax.grad(lambda p: outer_loss(algorithm, p, episode, num_steps, memory))({"params": start})["params"]
    # w_K - b = (I - rate A)^K (w_0 - b), so the outer gradient is ((I - rate A)^K)' A_q (w_K - b_q).
    decay = np.linalg.matrix_power(np.eye(3) - rate * np.asarray(episode.support["inputs"]), num_steps)
    end = decay @ (start - episode.support["targets"]) + episode.support["targets"]
    want = decay.T @ np.asarray(episode.query["inputs"]) @ (end - episode.query["targets"])
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def finite_differences(function, x, width=1e-5):
    x = np.asarray(x)
    units = np.eye(x.size).reshape(x.size, *x.shape) * width
    return np.array([(function(x + u) - function(x - u)) / (2 * width) for u in units]).reshape(x.shape)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd(0.05, momentum=0.9), optax.adam(0.05, eps_root=1e-8), optax.chain(optax.clip(1.0), optax.sgd(0.1))],
    ids=["momentum", "adam", "clipped"],
)
def test_other_optimizers_agree_with_finite_differences(x64, standard_promotion, strategy, optimizer):
    episode = quadratic_episode(1)
    algorithm = maml(QUADRATIC, OBJECTIVE, optimizer, gradient=STRATEGIES[strategy])
    loss = jax.jit(lambda w: outer_loss(algorithm, {"params": w}, episode, 5))
    start = jnp.asarray([0.3, -0.2, 0.9])
    np.testing.assert_allclose(jax.grad(loss)(start), finite_differences(loss, start), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("per", ["leaf", "element"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_learned_rates_agree_with_finite_differences(x64, per, strategy):
    episode = quadratic_episode(2)
    algorithm = maml(
        QUADRATIC, OBJECTIVE, optax.sgd(0.05), gradient=STRATEGIES[strategy], rates=LearnedRates(per, steps=3)
    )
    meta_params = algorithm.init(jax.random.key(0), episode)
    assert meta_params["log_rates"].shape == ((3, 3) if per == "element" else (3,))
    loss = jax.jit(lambda rates: outer_loss(algorithm, {**meta_params, "log_rates": rates}, episode, 5))
    rates = 0.1 * jnp.arange(meta_params["log_rates"].size, dtype=float).reshape(meta_params["log_rates"].shape)
    got = jax.grad(loss)(rates)
    assert (jnp.abs(got) > 1e-6).all(), "every step's rate must matter"
    np.testing.assert_allclose(got, finite_differences(loss, rates), rtol=1e-6, atol=1e-9)


def meta_objective(inner, theta, scale, data, closed):
    """Three inner steps whose loss reads an argument, data and a closed-over array, all of them differentiable."""

    def loss(w, data, count):
        residual = jnp.tanh(data @ w) * closed - count.astype(w.dtype)
        return jnp.sum(jnp.square(residual)) + jnp.sum(jnp.exp(0.1 * w) * scale), {"w": w}

    gradient = inner(loss)
    for count in range(3):
        (_, aux), grads = gradient(theta, data, jnp.asarray(count, jnp.int32))
        theta = theta - 0.1 * grads
    return jnp.sum(jnp.sin(theta)) + 0.0 * jnp.sum(aux["w"])


@pytest.mark.parametrize("strategy", MIXED)
def test_mixed_terms_survive(x64, strategy):
    rng = np.random.default_rng(3)
    args = [jnp.asarray(rng.normal(size=shape)) for shape in [(4,), (4,), (5, 4), (5,)]]
    value = lambda inner: lambda *a: meta_objective(inner, *a)  # noqa: E731
    want = jax.grad(value(reverse), argnums=(0, 1, 2, 3))(*args)
    got = jax.jit(jax.grad(value(strategy), argnums=(0, 1, 2, 3)))(*args)
    for g, w in zip(got, want, strict=True):
        assert jnp.abs(w).max() > 1e-3
        np.testing.assert_allclose(g, w, rtol=1e-10, atol=1e-12)
    numeric = finite_differences(lambda c: meta_objective(reverse, *args[:3], jnp.asarray(c)), args[3])
    np.testing.assert_allclose(got[3], numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("strategy", MIXED)
def test_mixed_terms_survive_under_vmap_and_scan(x64, strategy):
    rng = np.random.default_rng(4)
    theta, scale, closed = (jnp.asarray(rng.normal(size=n)) for n in (4, 4, 5))
    data = jnp.asarray(rng.normal(size=(3, 5, 4)))

    def mean(inner):
        return lambda *a: jax.vmap(lambda d: meta_objective(inner, a[0], a[1], d, a[2]))(data).mean()

    want = jax.grad(mean(reverse), argnums=(0, 1, 2))(theta, scale, closed)
    got = jax.jit(jax.grad(mean(strategy), argnums=(0, 1, 2)))(theta, scale, closed)
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-10, atol=1e-12), got, want)


@pytest.mark.parametrize("strategy", MIXED)
def test_the_value_of_the_inner_loss_keeps_its_gradient(x64, strategy):
    loss = lambda w: (jnp.sum(w**4), {})  # noqa: E731
    w = jnp.asarray([0.5, 2.0])
    through = lambda inner: jax.grad(lambda w: inner(loss)(w)[0][0] + jnp.sum(inner(loss)(w)[1] ** 2))(w)  # noqa: E731
    np.testing.assert_allclose(through(strategy), through(reverse), rtol=1e-12)


def test_first_order_drops_the_second_derivative_alone(x64):
    episode, start = quadratic_episode(5), jnp.asarray([0.3, -0.2, 0.9])
    algorithm = maml(QUADRATIC, OBJECTIVE, optax.sgd(0.05), gradient=first_order)
    got = jax.grad(lambda w: outer_loss(algorithm, {"params": w}, episode, 3))(start)
    state, _ = adapt(algorithm, jax.random.key(0), {"params": start}, episode.support, num_steps=3)
    want = jax.grad(lambda w: quadratic_loss(w, episode.query)[0])(state.fast)
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("strategy", [reverse, first_order, forward_over_reverse, linearized])
def test_no_gradient_flows_through_what_is_reported(strategy):
    inner = strategy(lambda w: (jnp.sum(w**2), {"w": w}))
    assert jax.grad(lambda w: jnp.sum(inner(w)[0][1]["w"]))(jnp.ones(2)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("strategy", [forward_over_reverse, linearized, first_order])
def test_a_state_that_a_model_carries_passes_through_unchanged(x64, strategy):
    """Statistics that each call updates and the next one reads, as batch normalisation does."""

    def loss(w, statistics, key):
        noisy = w + 0.1 * jax.random.normal(key, w.shape)
        moved = {"mean": 0.9 * statistics["mean"] + 0.1 * jnp.mean(noisy), "calls": statistics["calls"] + 1}
        return jnp.sum((noisy - statistics["mean"]) ** 4), moved

    def meta(inner):
        def outer(w):
            statistics = {"mean": jnp.asarray(0.5), "calls": jnp.asarray(0, jnp.int32)}
            for key in jax.random.split(jax.random.key(0), 3):
                (_, statistics), grads = inner(loss)(w, statistics, key)
                w = w - 0.05 * grads
            return jnp.sum(w**2), statistics

        return jax.jit(jax.grad(outer, has_aux=True))(jnp.asarray([0.4, -0.7]))

    (got, statistics), (want, expected) = meta(strategy), meta(reverse)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), statistics, expected)
    assert statistics["calls"] == 3
    assert np.allclose(got, want, rtol=1e-10) == (strategy is not first_order)


def test_truncation_takes_early_steps_as_constants(x64):
    rate, episode, start = 0.05, quadratic_episode(6), jnp.asarray([0.3, -0.2, 0.9])
    algorithm = maml(QUADRATIC, OBJECTIVE, optax.sgd(rate))
    state, _ = adapt(algorithm, jax.random.key(0), {"params": start}, episode.support, num_steps=5)
    away = np.asarray(episode.query["inputs"]) @ (state.fast - episode.query["targets"])
    decay = np.eye(3) - rate * np.asarray(episode.support["inputs"])
    for last in (0, 2, 5, 9):
        got = jax.grad(lambda w, last=last: outer_loss(algorithm, {"params": w}, episode, 5, f"truncated({last})"))(
            start
        )
        np.testing.assert_allclose(got, np.linalg.matrix_power(decay.T, min(last, 5)) @ away, rtol=1e-11)


@pytest.mark.parametrize("num_steps", [1, 3, 4, 7, 9])
def test_nested_groups_lose_no_step(x64, num_steps):
    episode, start = quadratic_episode(7), jnp.asarray([0.3, -0.2, 0.9])
    algorithm = maml(QUADRATIC, OBJECTIVE, optax.sgd(0.05, momentum=0.5))

    def run(memory):
        states, metrics = adapt(
            algorithm,
            jax.random.key(0),
            {"params": start},
            episode.support,
            num_steps=num_steps,
            memory=memory,
            trace=True,
        )
        return states, metrics

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), run("nested"), run("none"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_parts_of_the_support_give_the_gradient_of_the_whole(x64, strategy):
    rng = np.random.default_rng(8)
    model = Model(lambda key, x: jnp.zeros(3), lambda w, x: jnp.tanh(x @ w)[:, None])
    support = {
        "inputs": jnp.asarray(rng.normal(size=(6, 3))),
        "targets": jnp.asarray(rng.normal(size=(6, 1))),
        "mask": jnp.asarray([True, True, True, True, False, True]),
    }
    episode = Episode(support, support)
    whole, parts = (
        jax.grad(lambda w, n=n: outer_loss(
            maml(model, regression(), optax.sgd(0.3), gradient=STRATEGIES[strategy], microbatches=n),
            {"params": w}, episode, 3,
        ))(jnp.asarray([0.1, 0.5, -0.4]))
        for n in (1, 3)
    )  # fmt: skip
    np.testing.assert_allclose(parts, whole, rtol=1e-11)
    with pytest.raises(ValueError, match="`microbatches` must divide the support, got 4 for 6 examples"):
        outer_loss(maml(model, regression(), optax.sgd(0.3), microbatches=4), {"params": jnp.zeros(3)}, episode, 1)


@jax.custom_vjp
def kernel(x):
    """Stands for a fused kernel: its derivative is a program of its own, which has none."""
    return jnp.sum(x**2)


def kernel_backward(x, cotangent):
    return (
        cotangent
        * jax.pure_callback(lambda x: 2 * x, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims"),
    )


kernel.defvjp(lambda x: (kernel(x), x), kernel_backward)


@pytest.mark.parametrize("strategy", [reverse, forward_over_reverse, linearized])
def test_a_kernel_without_a_second_derivative_is_named_with_the_switch(strategy):
    model = Model(lambda key, x: jnp.ones(3), lambda w, x: kernel(w)[None, None] * x)
    batch = {"inputs": jnp.ones((1, 2, 1)), "targets": jnp.zeros((1, 2, 1))}
    algorithm = maml(model, regression(), optax.sgd(0.1), gradient=strategy)
    estimator = backprop(algorithm, num_steps=1)
    with pytest.raises(TypeError, match=r"cannot be differentiated twice .*use `gradient=jm.first_order`") as caught:
        estimator.estimate(jax.random.key(0), {"params": jnp.ones(3)}, (), Episode(batch, batch))
    assert str(caught.value).count("cannot be differentiated twice") == 1
    estimator = backprop(maml(model, regression(), optax.sgd(0.1), gradient=first_order), num_steps=1)
    gradient, _, _ = estimator.estimate(jax.random.key(0), {"params": jnp.ones(3)}, (), Episode(batch, batch))
    assert np.isfinite(gradient["params"]).all()
