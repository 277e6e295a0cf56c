"""Tasks spread over devices by `jax.shard_map`: the gradient is that of one device, whatever stands still or moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import jaxmeta as jm

DEVICES, TASKS = 4, 8


@pytest.fixture(scope="module")
def waves():
    rng = np.random.default_rng(0)

    def side(count: int) -> dict[str, jax.Array]:
        inputs, targets = rng.normal(size=(2, TASKS, count, 1)).astype(np.float32)
        return {"inputs": jnp.asarray(inputs), "targets": jnp.asarray(targets)}

    return jm.Episode(side(5), side(6))


def on_devices(estimator, params, episodes):
    """The gradient with two tasks to a device, averaged over devices."""
    mesh = jax.make_mesh((DEVICES,), ("task",), axis_types=(jax.sharding.AxisType.Auto,))

    def on_one(params, episodes):
        # Parameters that are the same everywhere would have their inner gradients added up over devices.
        params = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, "task", to="varying"), params)
        gradient, _, metrics = estimator.estimate(jax.random.key(0), params, (), episodes)
        return jax.tree.map(lambda leaf: jax.lax.pmean(leaf, "task"), (gradient, metrics["loss"]))

    tasks = PartitionSpec("task")
    spread = jax.shard_map(on_one, mesh=mesh, in_specs=(PartitionSpec(), tasks), out_specs=PartitionSpec())
    return jax.jit(spread)(params, episodes)


@pytest.mark.parametrize("gradient", [jm.forward_over_reverse, jm.linearized, jm.reverse, jm.first_order])
@pytest.mark.parametrize(
    ("task_axis", "select"), [("vmap", "^layer_1/"), ("sequential", ".")], ids=["a frozen layer", "all adapt"]
)
def test_tasks_spread_over_devices_give_the_gradient_of_one(gradient, task_axis, select, waves):
    model = jm.models.mlp((8, 8), 1, activation=jnp.tanh)
    algorithm = jm.maml(
        model, jm.objectives.regression(), optax.sgd(0.1), gradient=gradient, select=jm.matching(select)
    )
    params = algorithm.init(jax.random.key(1), jax.tree.map(lambda leaf: leaf[0], waves))
    estimator = jm.backprop(algorithm, num_steps=2, task_axis=task_axis)
    expected, _, metrics = jax.jit(estimator.estimate)(jax.random.key(0), params, (), waves)
    found, loss = on_devices(estimator, params, waves)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-6), found, expected))
    assert np.allclose(loss, metrics["loss"], atol=1e-6)


@pytest.mark.parametrize("name", ["imaml", "neumann", "cavia", "meta_curvature"])
def test_relatives_of_maml_spread_over_devices_too(name, waves):
    parts = (jm.models.mlp((8,), 1, activation=jnp.tanh), jm.objectives.regression(), optax.sgd(0.1))
    build = {"imaml": jm.imaml, "neumann": jm.imaml, "cavia": jm.cavia, "meta_curvature": jm.meta_curvature}[name]
    algorithm = build(*parts)
    if build is jm.imaml:
        solve = jm.neumann(0.1, 3) if name == "neumann" else jm.conjugate_gradient(3)
        estimator = jm.implicit(algorithm, num_steps=2, solve=solve)
    else:
        estimator = jm.backprop(algorithm, num_steps=2)
    params = algorithm.init(jax.random.key(1), jax.tree.map(lambda leaf: leaf[0], waves))
    expected, _, metrics = jax.jit(estimator.estimate)(jax.random.key(0), params, (), waves)
    found, loss = on_devices(estimator, params, waves)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-6), found, expected))
    assert np.allclose(loss, metrics["loss"], atol=1e-6)


@pytest.mark.slow
def test_batches_of_audio_and_tokens_are_spread_too():
    """Both sides of every pair go to the device of their task."""
    rng = np.random.default_rng(0)

    def side(count: int):
        audio = rng.normal(0, 0.1, (TASKS, count, 96)).astype(np.float32)
        heard = {"audio": audio, "samples": rng.integers(48, 97, (TASKS, count), dtype=np.int32)}
        read = rng.integers(1, 11, (TASKS, count, 5), dtype=np.int32)
        return {
            "inputs": {"left": heard, "right": read},
            "group": rng.integers(0, count, (TASKS, count), dtype=np.int32),
        }

    episodes = jax.tree.map(jnp.asarray, jm.Episode(side(4), side(5)))
    mel = jm.models.MelSettings(window=16, hop=8, bins=3, low=0.0)
    listener = jm.models.speech_classifier(3, mel=mel, width=4, layers=0, heads=1, strides=(2,), kernel=3, max_places=8)
    reader = jm.models.transformer(
        vocab_size=11, outputs=3, width=4, embedding_width=2, layers=1, heads=1, max_length=5
    )
    algorithm = jm.maml(jm.models.paired(listener, reader), jm.objectives.retrieval(), optax.sgd(0.1))
    params = jax.jit(algorithm.init)(jax.random.key(1), jax.tree.map(lambda leaf: leaf[0], episodes))
    estimator = jm.backprop(algorithm, num_steps=0)
    expected, _, metrics = jax.jit(estimator.estimate)(jax.random.key(0), params, (), episodes)
    found, loss = on_devices(estimator, params, episodes)
    assert all(np.isfinite(leaf).all() for leaf in map(np.asarray, jax.tree.leaves(expected)))
    assert jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-5), found, expected))
    assert np.allclose(loss, metrics["loss"], atol=1e-6)
