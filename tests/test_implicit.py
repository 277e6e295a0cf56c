"""The implicit estimator against closed forms, its memory, and which algorithms each estimator takes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quick import quick_jit

from jaxmeta import algorithms, estimators
from jaxmeta.core.batches import stack_episodes
from jaxmeta.core.select import matching
from jaxmeta.core.types import Episode, Model
from jaxmeta.estimators import backprop, conjugate_gradient, implicit, neumann
from jaxmeta.models import mlp, plain
from jaxmeta.objectives import classification, regression

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
    gradient, _, metrics = quick_jit(estimator.estimate)(jax.random.key(0), meta_params, (), stack_episodes(tasks))
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
    meta_params = quick_jit(algorithm.init)(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], batch))

    def estimate(estimator):
        return quick_jit(estimator.estimate)(jax.random.key(0), meta_params, (), batch)[0]

    got = estimate(implicit(algorithm, num_steps=100, solve=conjugate_gradient(20, 1e-14)))
    want = estimate(backprop(algorithm, num_steps=100))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12), got, want)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(got["params"]))


def temporary_bytes(estimator, algorithm) -> int:
    """What the compiler reports for a batch of waves."""
    rng = np.random.default_rng(1)
    side = {name: rng.normal(size=(5, 10, 1)).astype(np.float32) for name in ("inputs", "targets")}
    batch = Episode(side, side)
    meta_params = quick_jit(algorithm.init)(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], batch))
    run = jax.jit(lambda meta_params, batch: estimator.estimate(jax.random.key(1), meta_params, (), batch))
    return run.lower(meta_params, batch).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("solve", [conjugate_gradient(5), neumann(0.1, 5)], ids=["conjugate gradients", "neumann"])
def test_memory_does_not_depend_on_the_number_of_steps(solve):
    algorithm = algorithms.imaml(mlp((40, 40), 1), regression(), optax.sgd(0.01))
    few, many = (
        temporary_bytes(implicit(algorithm, num_steps=steps, solve=solve, unroll=1), algorithm) for steps in (16, 256)
    )
    assert many == few
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
    **SOLVED,
}
# What each estimator takes; the others it refuses, with this sentence. `backprop` takes all.
TAKEN = {
    "multistep": (
        [name for name in ALGORITHMS if name not in SOLVED or name == "proto_maml"],
        "this algorithm's steps do nothing",
    ),
    "pooled": ([name for name in ALGORITHMS if name not in SOLVED], "learn to repeat them; use `backprop`"),
    "displacement": (
        ["maml", "boil", "reptile", "meta_curvature", "per_step", "imaml", "knowledge_transfer"],
        "`displacement` needs an algorithm that adapts a copy of its parameters",
    ),
    "implicit": (
        ["imaml", "cavia with decay"],
        "`implicit` needs an algorithm whose steps go down to a minimum .* use `backprop`",
    ),
}
ESTIMATORS = {
    "multistep": lambda a: estimators.multistep(a, num_steps=2, anneal_over=5),
    "displacement": lambda a: estimators.displacement(a, num_steps=2),
    "implicit": lambda a: implicit(a, num_steps=2),
    "pooled": estimators.pooled,
}


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
        (lambda: implicit(ALGORITHMS["imaml"], num_steps=2, unroll=0), "`unroll` must be a positive number"),
    ],
)
def test_wrong_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
