"""The relatives of MAML and the parts of MAML++ against the same thing done another way."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmeta.algorithms import LearnedRates, cavia, maml, meta_curvature, per_step
from jaxmeta.core.adapt import adapt
from jaxmeta.core.batches import stack_episodes
from jaxmeta.core.gradients import first_order, forward_over_reverse
from jaxmeta.core.learner import build_learner
from jaxmeta.core.select import excluding, matching
from jaxmeta.core.types import Episode, GradientEstimator, Model
from jaxmeta.estimators import backprop, in_turn, multistep
from jaxmeta.estimators.multistep import step_weights
from jaxmeta.models import mlp, plain
from jaxmeta.objectives import classification

CLASSES, DIMENSIONS, RATE = 3, 4, 0.3
OBJECTIVE, SGD = classification(CLASSES), optax.sgd(RATE)


@pytest.fixture(autouse=True)
def _in_float64(x64):
    """Everything here is exact but for rounding."""


def model(hidden=(5,)) -> Model:
    return mlp(hidden, CLASSES, activation=jnp.tanh, param_dtype=jnp.float64)


def episode(seed=0, support=6, query=5) -> Episode:
    rng = np.random.default_rng(seed)
    side = lambda n: {"inputs": rng.normal(size=(n, DIMENSIONS)), "targets": np.arange(n, dtype=np.int32) % CLASSES}  # noqa: E731
    return Episode(side(support), side(query))


def drawn(algorithm, seed=0):
    """Draws every number of the meta-parameters."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0), episode())
    return jax.tree.map(lambda leaf: 0.4 * rng.normal(size=leaf.shape), shapes)


def adapted(algorithm, meta_params, num_steps):
    run = jax.jit(lambda *args: adapt(algorithm, *args, num_steps=num_steps)[0])
    return run(jax.random.key(0), meta_params, episode().support)


def estimate(estimator, meta_params, state=()):
    return jax.jit(estimator.estimate)(jax.random.key(0), meta_params, state, stack_episodes([episode(), episode(1)]))


def assert_close(got, want, rtol=1e-9):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12), got, want)


def differs(first, second) -> bool:
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return any(np.abs(a - b).max() > 1e-6 for a, b in pairs)


def support_gradient(apply):
    support = episode().support
    return jax.grad(lambda moving: OBJECTIVE.loss(apply(moving, support["inputs"]), support)[0])


# BOIL


def test_boil_moves_all_but_the_head_and_learns_both():
    algorithm = maml(model(), OBJECTIVE, SGD, select=excluding("^head/"))
    meta_params = drawn(algorithm)
    state = adapted(algorithm, meta_params, 2)
    assert state.fast["head"] == {"kernel": None, "bias": None}
    body, head = meta_params["params"]["layer_0"], meta_params["params"]["head"]
    slope = support_gradient(lambda body, inputs: model().apply({"layer_0": body, "head": head}, inputs))
    for _ in range(2):
        body = jax.tree.map(lambda p, g: p - RATE * g, body, slope(body))
    assert_close(state.fast["layer_0"], body)
    gradient, _, _ = estimate(backprop(algorithm, num_steps=2), meta_params)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(gradient["params"]))


# CAVIA


def test_a_context_on_the_first_bias_is_a_context_concatenated_to_the_inputs():
    algorithm = cavia(model(), OBJECTIVE, SGD, size=2, select=matching("^layer_0/bias$"))
    meta_params = drawn(algorithm)
    params, rows = meta_params["params"], meta_params["maps"]["layer_0"]["bias"]  # [2, 5]
    wider = {
        **params,
        "layer_0": {**params["layer_0"], "kernel": np.concatenate([params["layer_0"]["kernel"], rows])},
    }

    def concatenated(context, inputs):
        repeated = jnp.broadcast_to(context[None], (len(inputs), 2))
        return model().apply(wider, jnp.concatenate([inputs, repeated], axis=1))

    context, slope = jnp.zeros(2), support_gradient(concatenated)
    for _ in range(3):
        context = context - RATE * slope(context)
    state = adapted(algorithm, meta_params, 3)
    np.testing.assert_allclose(state.context, context, rtol=1e-9)
    inputs = episode().query["inputs"]
    assert_close(algorithm.predict(meta_params, state, inputs), concatenated(context, inputs))
    assert np.abs(context).max() > 1e-3


def test_a_context_begins_at_zero_and_can_move_from_there():
    algorithm = cavia(model(), OBJECTIVE, SGD)
    meta_params = jax.jit(algorithm.init)(jax.random.key(0), episode())
    begun, state = (adapted(algorithm, meta_params, steps) for steps in (0, 1))
    assert not np.any(begun.context)
    assert np.abs(state.context).min() > 0
    inputs = episode().query["inputs"]
    assert_close(algorithm.predict(meta_params, begun, inputs), model().apply(meta_params["params"], inputs))


# Meta-Curvature


def test_meta_curvature_multiplies_by_a_kronecker_product():
    algorithm = meta_curvature(model(), OBJECTIVE, SGD)
    meta_params = drawn(algorithm)
    params, curvature = meta_params["params"], meta_params["curvature"]
    state = adapted(algorithm, meta_params, 1)
    grads = support_gradient(model().apply)(params)
    for layer in ("layer_0", "head"):
        grad, (first, second) = np.asarray(grads[layer]["kernel"]), curvature[layer]["kernel"]
        whole = np.kron(np.eye(len(first)) + first, np.eye(len(second)) + second)
        moved = params[layer]["kernel"] - RATE * (whole.T @ grad.reshape(-1)).reshape(grad.shape)
        np.testing.assert_allclose(state.fast[layer]["kernel"], moved, rtol=1e-9)
        (matrix,) = curvature[layer]["bias"]
        moved = params[layer]["bias"] - RATE * (grads[layer]["bias"] @ (np.eye(len(matrix)) + matrix))
        np.testing.assert_allclose(state.fast[layer]["bias"], moved, rtol=1e-9)


def test_meta_curvature_begins_as_maml_and_spares_long_axes():
    algorithm = meta_curvature(model(), OBJECTIVE, SGD, largest=4)
    meta_params = jax.jit(algorithm.init)(jax.random.key(0), episode())
    matrices = meta_params["curvature"]["layer_0"]["kernel"]  # of a kernel [4, 5]
    assert [None if matrix is None else matrix.shape for matrix in matrices] == [(4, 4), None]
    plain_maml = maml(model(), OBJECTIVE, SGD)
    start = {"params": meta_params["params"]}
    assert_close(adapted(algorithm, meta_params, 2).fast, adapted(plain_maml, start, 2).fast)


def test_places_of_a_convolution_share_a_matrix():
    convolution = plain(
        lambda key, x: {"kernel": jnp.ones((2, 2, DIMENSIONS // 4, CLASSES))},
        lambda params, x: x @ params["kernel"].reshape(DIMENSIONS, CLASSES),
    )
    algorithm = meta_curvature(convolution, OBJECTIVE, SGD)
    meta_params = drawn(algorithm)
    matrices = meta_params["curvature"]["kernel"]
    assert [matrix.shape for matrix in matrices] == [(4, 4), (1, 1), (3, 3)]
    grad = support_gradient(convolution.apply)(meta_params["params"])["kernel"].reshape(4, 1, 3)
    one, two, three = (np.eye(len(matrix)) + matrix for matrix in matrices)
    moved = np.einsum("abc,ax,by,cz->xyz", grad, one, two, three).reshape(2, 2, 1, 3)
    got = adapted(algorithm, meta_params, 1).fast["kernel"]
    np.testing.assert_allclose(got, meta_params["params"]["kernel"] - RATE * moved, rtol=1e-9)


# MAML++


def test_parameters_per_step_are_read_at_their_step():
    base = maml(model(), OBJECTIVE, SGD, select=matching("kernel$"))
    algorithm = per_step(base, select=matching("bias$"), steps=3)
    meta_params = drawn(algorithm)
    params, offsets = meta_params["params"], meta_params["offsets"]

    def at(kernels, number):
        return {
            layer: {"kernel": kernels[layer], "bias": params[layer]["bias"] + offsets[layer]["bias"][number]}
            for layer in params
        }

    kernels = {layer: params[layer]["kernel"] for layer in params}
    inputs = episode().query["inputs"]
    for done in range(5):  # more steps than there are numbers for use the last
        got = algorithm.predict(meta_params, adapted(algorithm, meta_params, done), inputs)
        assert_close(got, model().apply(at(kernels, min(done, 2)), inputs), rtol=1e-8)
        slope = support_gradient(lambda kernels, x, done=done: model().apply(at(kernels, min(done, 2)), x))
        kernels = jax.tree.map(lambda k, g: k - RATE * g, kernels, slope(kernels))


def test_parameters_per_step_begin_as_those_of_all_steps():
    base = maml(model(), OBJECTIVE, SGD, select=matching("kernel$"))
    algorithm = per_step(base, select=matching("bias$"), steps=3)
    meta_params = jax.jit(algorithm.init)(jax.random.key(0), episode())
    start = {"params": meta_params["params"]}
    assert_close(adapted(algorithm, meta_params, 2).fast, adapted(base, start, 2).fast)


def test_what_adapts_cannot_differ_from_step_to_step_too():
    algorithm = per_step(maml(model(), OBJECTIVE, SGD), select=matching("bias$"), steps=3)
    with pytest.raises(ValueError, match="is for parameters that do not adapt, and these do: head/bias, layer_0/bias"):
        adapted(algorithm, jax.jit(algorithm.init)(jax.random.key(0), episode()), 1)


def test_rows_of_tables_stay_exact_under_parameters_per_step():
    words = plain(
        lambda key, tokens: {"table": jnp.ones((9, 4)), "head": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}},
        lambda params, tokens: (
            jnp.tanh(params["table"][tokens].sum(axis=1)) @ params["head"]["kernel"] + params["head"]["bias"][None]
        ),
    )
    rng = np.random.default_rng(0)
    targets = np.tile(np.arange(4, dtype=np.int32) % 3, (2, 1))
    support, query = ({"inputs": rng.integers(0, 9, (2, 4, 3)), "targets": targets} for _ in range(2))
    batch, gradients = Episode(support, query), []
    for rows in (None, matching("^table$")):
        base = maml(words, OBJECTIVE, SGD, select=excluding("bias$"), rows=rows)
        algorithm = per_step(base, select=matching("bias$"), steps=2)
        meta_params = jax.tree.map(
            lambda leaf: 0.1 + 0.01 * np.arange(leaf.size).reshape(leaf.shape) % 0.3,
            jax.eval_shape(algorithm.init, jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], batch)),
        )
        estimator = backprop(algorithm, num_steps=2)
        gradients.append(jax.jit(estimator.estimate)(jax.random.key(0), meta_params, (), batch)[0])
    assert_close(*gradients)
    assert np.abs(gradients[0]["offsets"]["head"]["bias"]).max() > 1e-4


def test_multistep_is_the_weighted_sum_of_what_backprop_gives():
    algorithm = maml(model(), OBJECTIVE, SGD, rates=LearnedRates("leaf", 2))
    meta_params = drawn(algorithm)
    gradient, done, metrics = estimate(
        multistep(algorithm, num_steps=3, anneal_over=10), meta_params, jnp.asarray(4, jnp.int32)
    )
    each = [estimate(backprop(algorithm, num_steps=steps), meta_params) for steps in (1, 2, 3)]
    weights = [0.2, 0.2, 0.6]  # of 0.6 left to anneal, a third each
    want = jax.tree.map(lambda *g: sum(w * leaf for w, leaf in zip(weights, g, strict=True)), *[g for g, _, _ in each])
    assert done == 5
    assert_close(gradient, want)
    loss = sum(w * m["loss"] for w, (_, _, m) in zip(weights, each, strict=True))
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-9)
    assert metrics["accuracy"] == each[-1][2]["accuracy"]


def test_the_weights_of_steps_anneal_to_the_last():
    weights = [step_weights(jnp.asarray(done), 4, 8) for done in (0, 4, 8, 100)]
    np.testing.assert_allclose(weights[0], [0.25] * 4)
    np.testing.assert_allclose(weights[1], [0.125] * 3 + [0.625])
    for after in weights[2:]:
        np.testing.assert_array_equal(after, [0, 0, 0, 1])


def test_the_order_of_derivatives_anneals_at_its_step():
    early, late = (maml(model(), OBJECTIVE, SGD, gradient=g) for g in (first_order, forward_over_reverse))
    estimators = [backprop(algorithm, num_steps=2) for algorithm in (early, late)]
    learner = build_learner(late, in_turn((estimators[0], 2), then=estimators[1]), optax.sgd(0.1))
    batch = stack_episodes([episode(), episode(1)])
    state, update = jax.jit(learner.init)(jax.random.key(0), batch), jax.jit(learner.update)
    for number in range(4):
        before, (state, _) = state.meta_params, update(state, batch)
        moved = jax.tree.map(lambda old, new: (old - new) / 0.1, before, state.meta_params)
        first, second = (estimate(estimator, before)[0] for estimator in estimators)
        assert differs(first, second)
        assert_close(moved, first if number < 2 else second, rtol=1e-7)
    assert state.estimator_state[0] == 4


def test_estimators_in_turn_keep_states_of_their_own_and_report_what_all_report():
    algorithm = maml(model(), OBJECTIVE, SGD)
    silent = GradientEstimator(
        lambda key, meta_params, batch: (),
        lambda key, meta_params, state, batch: (jax.tree.map(jnp.zeros_like, meta_params), state, {"loss": 7.0}),
    )
    both = in_turn((multistep(algorithm, num_steps=2, anneal_over=4), 3), (silent, 1), then=silent)
    batch, meta_params = stack_episodes([episode(), episode(1)]), drawn(algorithm)
    state, run = both.init(jax.random.key(0), meta_params, batch), jax.jit(both.estimate)
    counts, losses = [], []
    for _ in range(5):
        _, state, metrics = run(jax.random.key(0), meta_params, state, batch)
        counts.append(int(state[1][0]))
        losses.append(float(metrics["loss"]))
        assert set(metrics) == {"loss"}
    assert counts == [1, 2, 3, 3, 3]
    assert losses[3:] == [7.0, 7.0]
    assert len(set(losses[:3])) == 3


MAML = maml(model(), OBJECTIVE, SGD)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cavia(model(), OBJECTIVE, SGD, size=0), "`size` must be positive, got 0"),
        (lambda: cavia(model(), OBJECTIVE, SGD, decay=-1), "`decay` must be zero or more, got -1"),
        (lambda: meta_curvature(model(), OBJECTIVE, SGD, largest=0), "`largest` must be positive, got 0"),
        (lambda: per_step(MAML, select=matching("bias"), steps=0), "`steps` must be positive"),
        (lambda: multistep(MAML, num_steps=0, anneal_over=3), "`num_steps` must be positive"),
        (
            lambda: multistep(MAML, num_steps=2, anneal_over=0),
            "`anneal_over` must be positive",
        ),
        (
            lambda: in_turn((backprop(MAML, num_steps=1), 0), then=None),
            "`steps` must be positive",
        ),
    ],
)
def test_wrong_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
