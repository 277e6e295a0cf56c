"""The implicit estimator against closed forms, its memory, and which algorithms each estimator takes."""

import contextlib
import itertools

import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.test_util
import numpy as np
import optax
import pytest

from jaxmeta import algorithms, estimators
from jaxmeta.core.adapt import adapt
from jaxmeta.core.batches import stack_episodes
from jaxmeta.core.curvature import gauss_newton
from jaxmeta.core.select import matching
from jaxmeta.core.types import Episode, Model
from jaxmeta.estimators import backprop, conjugate_gradient, implicit, neumann
from jaxmeta.models import dual_encoder, mlp, plain
from jaxmeta.objectives import classification, regression, retrieval

DIMENSIONS, STRENGTH, RATE = 3, 0.7, 0.2


def linear() -> Model:
    return plain(lambda key, x: {"w": jnp.zeros((x.shape[-1], 1))}, lambda params, x: x @ params["w"])


def line(seed, support=5, query=4):
    rng = np.random.default_rng(seed)
    slope = rng.normal(size=(DIMENSIONS, 1))

    def side(size):
        x = rng.normal(size=(size, DIMENSIONS))
        return {"inputs": x, "targets": x @ slope + 0.3 * rng.normal(size=(size, 1))}

    return Episode(side(support), side(query))


def by_hand(start, strength, task):
    """The minimum and the outer gradients, to the start and to the log of the strength, of a linear model in numpy."""
    x, y = task.support["inputs"], task.support["targets"]
    matrix = 2 * x.T @ x / len(x) + strength * np.eye(DIMENSIONS)
    minimum = np.linalg.solve(matrix, 2 * x.T @ y / len(x) + strength * start)
    x, y = task.query["inputs"], task.query["targets"]
    slope = np.linalg.solve(matrix, 2 * x.T @ (x @ minimum - y) / len(x))
    return strength * slope, -strength * np.sum(slope * (minimum - start))


SOLVERS = {
    "conjugate gradients": conjugate_gradient(iterations=DIMENSIONS, tolerance=1e-12),
    "neumann": neumann(RATE, iterations=400),
}


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("task_axis", ["vmap", "sequential", "chunked(2)"])
def test_on_a_quadratic_it_is_the_closed_form(solve, task_axis, x64):
    algorithm = algorithms.imaml(
        linear(), regression(), optax.sgd(RATE), strength=STRENGTH, learn_strength=True
    )  # fmt: skip
    tasks = [line(seed) for seed in range(3)]
    start = np.random.default_rng(9).normal(size=(DIMENSIONS, 1))
    meta_params = {"params": {"w": start}, "log_strength": np.log(STRENGTH)}
    estimator = implicit(algorithm, num_steps=400, solve=solve, task_axis=task_axis)
    gradient, _, metrics = jax.jit(estimator.estimate)(jax.random.key(0), meta_params, (), stack_episodes(tasks))
    wanted = [by_hand(start, STRENGTH, task) for task in tasks]
    np.testing.assert_allclose(gradient["params"]["w"], np.mean([w for w, _ in wanted], axis=0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(gradient["log_strength"], np.mean([s for _, s in wanted]), rtol=1e-6)
    assert metrics["inner_gradient_norm"] < 1e-9


def test_neumann_is_the_derivative_of_as_many_steps_at_the_minimum(x64):
    """What `backprop` gives when the steps start at the minimum, for a start that stays where it is."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    matrix, right = root @ root.T / 8 + np.eye(4), rng.normal(size=4)
    jacobian = np.eye(4) - 0.3 * matrix
    wanted = 0.3 * sum(np.linalg.matrix_power(jacobian, n) @ right for n in range(6))
    np.testing.assert_allclose(neumann(0.3, 5)(lambda v: matrix @ v, right), wanted, rtol=1e-12)


def test_after_many_steps_it_is_what_backprop_gives(x64):
    """For a network, of which the head alone adapts, with what does not adapt in the mixed term."""
    model = mlp((4,), 2, activation=jnp.tanh, param_dtype=jnp.float64)
    algorithm = algorithms.imaml(model, classification(2), optax.sgd(0.5), select=matching("^head/"))
    rng = np.random.default_rng(1)
    side = lambda n: {"inputs": rng.normal(size=(n, 3)), "targets": np.arange(n, dtype=np.int32) % 2}  # noqa: E731
    batch = stack_episodes([Episode(side(6), side(4)) for _ in range(2)])
    meta_params = jax.jit(algorithm.init)(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], batch))

    def estimate(estimator):
        return jax.jit(estimator.estimate)(jax.random.key(0), meta_params, (), batch)[0]

    got = estimate(implicit(algorithm, num_steps=100, solve=conjugate_gradient(20, 1e-14)))
    want = estimate(backprop(algorithm, num_steps=100))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12), got, want)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(got["params"]))


def test_gauss_newton_is_what_jacobians_make_of_the_loss(x64):
    """`JᵀHJ` and the gradient, written out; outputs that are no real numbers are left alone."""
    model, rng = mlp((4,), 3, activation=jnp.tanh, param_dtype=jnp.float64), np.random.default_rng(5)
    inputs, targets = rng.normal(size=(6, 2)), rng.integers(0, 3, 6)
    params = model.init(jax.random.key(0), inputs)
    flat, tree_of = jax.flatten_util.ravel_pytree(params)
    outputs = lambda params: {"logits": model.apply(params, inputs), "count": jnp.arange(3)}  # noqa: E731

    def loss(found):
        losses = optax.softmax_cross_entropy_with_integer_labels(found["logits"], targets)
        return losses.mean(), {"count": found["count"].sum()}

    (value, metrics), slope, product = gauss_newton(outputs, loss, params)
    logits_of = lambda flat: model.apply(tree_of(flat), inputs)  # noqa: E731
    of_logits = lambda logits: loss({"logits": logits, "count": jnp.arange(3)})[0]  # noqa: E731
    jacobian = jax.jacobian(logits_of)(flat).reshape(18, -1)
    middle = jax.hessian(of_logits)(logits_of(flat)).reshape(18, 18)
    vector = rng.normal(size=flat.shape)
    found = jax.flatten_util.ravel_pytree(product(tree_of(vector)))[0]
    np.testing.assert_allclose(found, jacobian.T @ middle @ jacobian @ vector, rtol=1e-9, atol=1e-12)
    assert value == of_logits(logits_of(flat))
    assert metrics["count"] == 3
    jax.tree.map(np.testing.assert_allclose, slope, jax.grad(lambda params: loss(outputs(params))[0])(params))


@pytest.mark.parametrize("curvature", ["exact", "gauss_newton"])
def test_one_gauss_newton_step_ends_a_quadratic(curvature, x64):
    solve = conjugate_gradient(DIMENSIONS, 1e-12)
    algorithm = algorithms.imaml(linear(), regression(), solve, strength=STRENGTH, learn_strength=True)
    start = np.random.default_rng(9).normal(size=(DIMENSIONS, 1))
    meta_params = {"params": {"w": start}, "log_strength": np.log(STRENGTH)}
    estimator = implicit(algorithm, num_steps=1, solve=solve, curvature=curvature)
    gradient, _, metrics = jax.jit(estimator.estimate)(jax.random.key(0), meta_params, (), stack_episodes([line(0)]))
    want, of_strength = by_hand(start, STRENGTH, line(0))
    np.testing.assert_allclose(gradient["params"]["w"], want, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(gradient["log_strength"], of_strength, rtol=1e-6)
    assert metrics["inner_gradient_norm"] < 1e-9


def test_gauss_newton_steps_come_near_a_minimum_that_gradient_steps_do_not(x64):
    """Of a network with kinks, which is held so loosely that its loss curves downwards; and no step makes it worse."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-5, 5, size=(10, 1))
    support = {"inputs": x, "targets": 3 * np.sin(x)}
    model = mlp((40, 40), 1, param_dtype=jnp.float64)

    def left(inner):
        algorithm = algorithms.imaml(model, regression(), inner, strength=0.1)
        meta_params = algorithm.init(jax.random.key(0), Episode(support, support))
        state, metrics = jax.jit(lambda: adapt(algorithm, jax.random.key(1), meta_params, support, num_steps=16))()
        end = algorithm.stationary.objective(meta_params, state.fast, support)
        return float(end), np.asarray(metrics["loss"])

    newton, losses = left(conjugate_gradient(6))
    descended, _ = left(optax.sgd(0.01))
    assert newton < 0.4 * descended
    assert losses[-1] < 0.2 * losses[0]


def test_a_gauss_newton_step_that_overflows_is_not_taken():
    rng = np.random.default_rng(0)
    support = {"inputs": (1e3 * rng.normal(size=(8, 3))).astype(np.float32), "targets": rng.integers(0, 2, 8)}
    algorithm = algorithms.imaml(mlp((6,), 2), classification(2), neumann(1.0, 60))
    meta_params = jax.jit(algorithm.init)(jax.random.key(0), Episode(support, support))
    state, _ = jax.jit(lambda: adapt(algorithm, jax.random.key(1), meta_params, support, num_steps=2))()
    jax.tree.map(np.testing.assert_array_equal, state.fast, meta_params["params"])


@pytest.mark.parametrize("shift", [0.0, -20.0])
@pytest.mark.parametrize("scale", [1, 50])
def test_no_gauss_newton_step_makes_what_is_minimised_much_larger(scale, shift, x64):
    """Whatever the sign of the loss, and of logits so large that the quadratic says nothing: it stays there then."""
    rng = np.random.default_rng(0)
    support = {"inputs": rng.normal(size=(8, 3)), "targets": rng.integers(0, 2, 8).astype(np.int32)}
    base = mlp((6,), 2, activation=jnp.tanh, param_dtype=jnp.float64)
    model = base._replace(apply=lambda params, x: scale * base.apply(params, x))
    told = classification(2)
    objective = told._replace(loss=lambda *args: (told.loss(*args)[0] + shift, {}))
    algorithm = algorithms.imaml(model, objective, conjugate_gradient(6), strength=1e-3)
    meta_params = algorithm.init(jax.random.key(0), Episode(support, support))
    state = algorithm.begin(jax.random.key(1), meta_params, support)
    step, losses = jax.jit(algorithm.step), []
    for _ in range(6):
        losses.append(float(algorithm.stationary.objective(meta_params, state.fast, support)))
        state, _ = step(jax.random.key(1), meta_params, state, support)
    assert all(after <= before + abs(before) for before, after in itertools.pairwise(losses))
    assert losses[-1] < losses[0] - 0.3 if scale == 1 else losses[-1] <= losses[0]


def test_a_solver_that_has_converged_stays_and_is_differentiated_as_done(x64):
    """The derivative of two iterations is theirs, not that of an exact solution."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    matrix, right = root @ root.T + np.eye(4), rng.normal(size=4)
    solve = lambda right, n: conjugate_gradient(n, 1e-13)(lambda v: matrix @ v, right)  # noqa: E731
    np.testing.assert_allclose(solve(right, 40), np.linalg.solve(matrix, right), rtol=1e-9)
    np.testing.assert_array_equal(solve(np.zeros(4), 3), np.zeros(4))
    jax.test_util.check_grads(lambda right: solve(right, 2), (right,), order=1, modes=["rev"], rtol=1e-5)
    slope = jax.grad(lambda right: solve(right, 40).sum())(right)
    np.testing.assert_allclose(slope, np.linalg.solve(matrix, np.ones(4)), rtol=1e-6)


def temporary_bytes(estimator, algorithm) -> int:
    """What the compiler reports for a batch of waves."""
    rng = np.random.default_rng(1)
    side = {name: rng.normal(size=(5, 10, 1)).astype(np.float32) for name in ("inputs", "targets")}
    batch = Episode(side, side)
    meta_params = jax.jit(algorithm.init)(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], batch))
    run = jax.jit(lambda meta_params, batch: estimator.estimate(jax.random.key(1), meta_params, (), batch))
    return run.lower(meta_params, batch).compile().memory_analysis().temp_size_in_bytes


WAYS = {
    "conjugate gradients": (optax.sgd(0.01), conjugate_gradient(5), "exact"),
    "neumann": (optax.sgd(0.01), neumann(0.1, 5), "exact"),
    "gauss-newton": (conjugate_gradient(5), conjugate_gradient(5), "gauss_newton"),
}


@pytest.mark.parametrize("way", WAYS)
def test_memory_does_not_depend_on_the_number_of_steps(way):
    inner, solve, curvature = WAYS[way]
    algorithm = algorithms.imaml(mlp((40, 40), 1), regression(), inner)
    few, many = (
        temporary_bytes(implicit(algorithm, num_steps=n, solve=solve, curvature=curvature, unroll=1), algorithm)
        for n in (16, 256)
    )
    assert many == few
    algorithm = algorithms.imaml(mlp((40, 40), 1), regression(), optax.sgd(0.01))
    unrolled = backprop(algorithm, num_steps=16, unroll=1)
    assert few < 0.5 * temporary_bytes(unrolled, algorithm)


# Which algorithms an estimator takes

MODEL, OBJECTIVE, SGD = mlp((4,), 2), classification(2), optax.sgd(0.1)
MAML = algorithms.maml(MODEL, OBJECTIVE, SGD)
# Those that have read the support's targets when they begin.
SOLVED = {
    "protonet": algorithms.protonet(MODEL, OBJECTIVE, num_classes=2),
    "transductive_protonet": algorithms.transductive_protonet(MODEL, OBJECTIVE, num_classes=2),
    "matching_network": algorithms.matching_network(MODEL, OBJECTIVE, num_classes=2),
    "relation_network": algorithms.relation_network(MODEL, OBJECTIVE, num_classes=2),
    "logistic": algorithms.logistic(MODEL, OBJECTIVE, num_classes=2),
    "ridge": algorithms.ridge(MODEL, OBJECTIVE, num_outputs=2),
    "proto_maml": algorithms.proto_maml(MODEL, OBJECTIVE, SGD, num_classes=2),
}
ALGORITHMS = {
    "maml": MAML,
    "boil": algorithms.maml(MODEL, OBJECTIVE, SGD, select=lambda path: not path.startswith("head")),
    "reptile": algorithms.reptile(MODEL, OBJECTIVE, SGD, batch_size=2),
    "meta_curvature": algorithms.meta_curvature(MODEL, OBJECTIVE, SGD),
    "per_step": algorithms.per_step(
        algorithms.maml(MODEL, OBJECTIVE, SGD, select=matching("kernel$")), select=matching("bias$"), steps=3
    ),
    "imaml": algorithms.imaml(MODEL, OBJECTIVE, SGD),
    "cavia": algorithms.cavia(MODEL, OBJECTIVE, SGD),
    "cavia with decay": algorithms.cavia(MODEL, OBJECTIVE, SGD, decay=0.1),
    "knowledge_transfer": algorithms.knowledge_transfer(MODEL, OBJECTIVE, SGD, algorithms.l2_sp),
    "source_replay": algorithms.source_replay(
        algorithms.imaml(MODEL, OBJECTIVE, SGD),
        {"inputs": np.ones((4, 3), np.float32), "targets": np.zeros(4, np.int32)},
        num_examples=2,
    ),
    "linear_head": algorithms.linear_head(MODEL, OBJECTIVE, SGD, num_outputs=2),
    "learned_optimizer": algorithms.learned_optimizer(algorithms.mlp_rule((3,)), MODEL, OBJECTIVE),
    **SOLVED,
}
# What each estimator takes; the others it refuses, with this sentence.
ALL = [*ALGORITHMS]
STEPPING = ([name for name in ALL if name not in SOLVED or name == "proto_maml"], "this algorithm's steps do nothing")
TAKEN = {
    "backprop": (ALL, ""),
    "evolution": (ALL, ""),
    "multistep": STEPPING,
    "truncated_backprop": STEPPING,
    "persistent_evolution": STEPPING,
    "pooled": (
        [name for name in ALL if name not in (*SOLVED, "learned_optimizer")],
        "learn to repeat them; use `backprop`|owes nothing to what is learned; use an estimator with steps",
    ),
    "displacement": (
        ["maml", "boil", "reptile", "meta_curvature", "per_step", "imaml", "knowledge_transfer", "source_replay"],
        "`displacement` needs an algorithm that adapts a copy of its parameters",
    ),
    "implicit": (
        ["imaml", "cavia with decay"],
        "`implicit` needs an algorithm whose steps go down to a minimum .* use `backprop`",
    ),
}
ESTIMATORS = {
    "backprop": lambda a: backprop(a, num_steps=2),
    "evolution": lambda a: estimators.evolution(a, num_steps=2),
    "truncated_backprop": lambda a: estimators.truncated_backprop(a, num_steps=2, horizon=4),
    "persistent_evolution": lambda a: estimators.persistent_evolution(a, num_steps=2, horizon=4),
    "multistep": lambda a: estimators.multistep(a, num_steps=2, anneal_over=5),
    "displacement": lambda a: estimators.displacement(a, num_steps=2),
    "implicit": lambda a: implicit(a, num_steps=2),
    "pooled": estimators.pooled,
}


def test_joint_training_refuses_what_was_fitted_to_the_other_side_of_pairs():
    model = dual_encoder(vocab_size=20, outputs=4, max_length=5, width=4, layers=1, heads=1)
    side = {"inputs": {name: np.ones((2, 4, 5), np.int32) for name in ("left", "right")}}
    aligned, batch, key = algorithms.ridge_alignment(model, retrieval()), Episode(side, side), jax.random.key(0)
    for algorithm, refused in ((aligned, True), (algorithms.maml(model, retrieval(), SGD), False)):
        meta_params = jax.eval_shape(algorithm.init, key, jax.tree.map(lambda leaf: leaf[0], batch))
        with pytest.raises(ValueError, match="learn to repeat them") if refused else contextlib.nullcontext():
            jax.eval_shape(estimators.pooled(algorithm).init, key, meta_params, batch)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_pair_makes_sense_or_is_refused_in_a_sentence(estimator, algorithm):
    side = {"inputs": np.ones((2, 4, 3), np.float32), "targets": np.tile(np.arange(4, dtype=np.int32) % 2, (2, 1))}
    batch, key = Episode(side, side), jax.random.key(0)
    taken, sentence = TAKEN[estimator]

    def shapes():
        chosen, built = ALGORITHMS[algorithm], ESTIMATORS[estimator](ALGORITHMS[algorithm])
        meta_params = jax.eval_shape(chosen.init, key, jax.tree.map(lambda leaf: leaf[0], batch))
        state = jax.eval_shape(built.init, key, meta_params, batch)
        return meta_params, jax.eval_shape(built.estimate, key, meta_params, state, batch)[0]

    if algorithm in taken:
        meta_params, gradient = shapes()
        assert jax.tree.map(lambda leaf: leaf.shape, gradient) == jax.tree.map(lambda leaf: leaf.shape, meta_params)
    else:
        with pytest.raises(ValueError, match=sentence):
            shapes()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: conjugate_gradient(0), "`iterations` must be positive, got 0"),
        (lambda: neumann(0.0), "`rate` must be positive, got 0.0"),
        (lambda: neumann(0.1, 0), "`iterations` must be positive, got 0"),
        (lambda: algorithms.imaml(MODEL, OBJECTIVE, SGD, strength=0), "`strength` must be positive, got 0"),
        (
            lambda: algorithms.imaml(MODEL, OBJECTIVE, conjugate_gradient(2), microbatches=2),
            "`microbatches` must be 1 for Gauss-Newton steps, got 2",
        ),
        (
            lambda: implicit(ALGORITHMS["imaml"], num_steps=2, curvature="none"),
            "`curvature` must be one of 'exact', 'gauss_newton'",
        ),
        (lambda: implicit(ALGORITHMS["imaml"], num_steps=2, unroll=0), "`unroll` must be a positive number"),
    ],
)
def test_wrong_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
