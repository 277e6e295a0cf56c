"""Small tasks, a small model, and what is done to them: shared by the tests of algorithms and estimators."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.adapt import adapt
from jaxmeta.core.types import Episode
from jaxmeta.models import mlp
from jaxmeta.objectives import classification

CLASSES, DIMENSIONS, RATE = 3, 4, 0.3
OBJECTIVE = classification(CLASSES)


def examples(seed, size, classes=CLASSES, dtype=np.float32):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(size, DIMENSIONS)).astype(dtype)
    return {"inputs": inputs, "targets": (np.arange(size) % classes).astype(np.int32)}


def episodes(count=3, support=6, query=5):
    return [Episode(examples(2 * t, support), examples(2 * t + 1, query)) for t in range(count)]


def model(dtype=jnp.float32):
    return mlp((5,), CLASSES, activation=jnp.tanh, param_dtype=dtype)


def plain_model(dtype=jnp.float64):
    """Its features are its inputs."""
    return mlp((), CLASSES, param_dtype=dtype)


def init(algorithm, task=None):
    return jax.jit(algorithm.init)(jax.random.key(0), task or episodes(1)[0])


def adapted(algorithm, meta_params, support, num_steps, seed=0):
    run = jax.jit(lambda *args: adapt(algorithm, *args, num_steps=num_steps)[0])
    return run(jax.random.key(seed), meta_params, support)


def estimate(estimator, meta_params, batch):
    gradient, state, metrics = jax.jit(estimator.estimate)(jax.random.key(0), meta_params, (), batch)
    assert state == ()
    return gradient, metrics


def assert_close(got, want, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, want)


def distance(first, second):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), first, second)))
