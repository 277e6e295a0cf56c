"""Anybody's model, as it is: the README's example in five libraries, and what importing costs."""

import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmeta as jm

WIDTH = 16


def linen_model():
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.tanh(nn.Dense(WIDTH)(x)))

    return jm.models.linen(Net())


def nnx_model():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.hidden, self.out = nnx.Linear(1, WIDTH, rngs=rngs), nnx.Linear(WIDTH, 1, rngs=rngs)

        def __call__(self, x):
            return self.out(jnp.tanh(self.hidden(x)))

    return jm.models.nnx(Net)


def equinox_model():
    eqx = pytest.importorskip("equinox")
    return jm.models.equinox(lambda key: eqx.nn.MLP(1, 1, WIDTH, 1, activation=jnp.tanh, key=key))


def haiku_model():
    hk = pytest.importorskip("haiku")
    return jm.models.haiku(hk.transform(lambda x: hk.nets.MLP([WIDTH, 1], activation=jnp.tanh)(x)))


def plain_model():
    def init(key, x):
        first, second = jax.random.split(key)
        return {
            "hidden": jax.random.normal(first, (x.shape[-1], WIDTH)),
            "out": jax.random.normal(second, (WIDTH, 1)) / WIDTH**0.5,
        }

    return jm.models.plain(init, lambda params, x: jnp.tanh(x @ params["hidden"]) @ params["out"])


MODELS = {
    "linen": linen_model,
    "nnx": nnx_model,
    "equinox": equinox_model,
    "haiku": haiku_model,
    "plain": plain_model,
}


def lines(seed: int, num_tasks: int = 8) -> jm.Episode:
    """Tasks that only adaptation can tell apart: straight lines of random slope."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (num_tasks, 20, 1)).astype(np.float32)
    y = (rng.uniform(-2, 2, (num_tasks, 1, 1)) * x).astype(np.float32)
    return jm.Episode({"inputs": x[:, :10], "targets": y[:, :10]}, {"inputs": x[:, 10:], "targets": y[:, 10:]})


@pytest.mark.parametrize("library", MODELS)
def test_the_example_runs_with_any_model(library, standard_promotion):
    algorithm = jm.maml(MODELS[library](), jm.objectives.regression(), optax.sgd(0.05))
    learner = jm.build_learner(algorithm, jm.backprop(algorithm, num_steps=1), optax.adam(0.03))
    state = jax.jit(learner.init)(jax.random.key(0), lines(0))
    update = jax.jit(learner.update)
    losses = []
    for step in range(60):
        state, metrics = update(state, lines(step))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])
    task = jax.tree.map(lambda leaf: leaf[0], lines(1000))
    error = {}
    for steps in (0, 1):
        adapted, _ = jm.adapt(algorithm, jax.random.key(0), state.meta_params, task.support, num_steps=steps)
        prediction = algorithm.predict(state.meta_params, adapted, task.query["inputs"])
        assert prediction.shape == (10, 1)
        error[steps] = float(jnp.mean(jnp.square(prediction - task.query["targets"])))
    assert error[1] < error[0]


def test_the_readme_runs_as_written_with_either_meta_learner(standard_promotion):
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text("utf-8")
    example = re.search(r"```python\n(import flax.linen.*?)```", readme, re.DOTALL)[1].replace("range(100)", "range(3)")
    closed_form = re.search(r"`(jm\.ridge\(.*?\))`, which", readme, re.DOTALL)[1]
    maml = re.search(r"jm\.maml\(.*\)", example)[0]
    for algorithm in (maml, closed_form):
        code, found = example.replace(maml, algorithm), {}
        exec(compile(code, "README.md", "exec"), found)
        assert found["prediction"].shape == (10, 1)


def test_importing_costs_little_more_than_jax():
    """No data reader, plotter, checkpointer or other framework is imported before it is asked for."""
    code = "import sys, jax; before = set(sys.modules); import jaxmeta; print(*(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    packages = {module.partition(".")[0] for module in found.split()} - sys.stdlib_module_names
    assert "jaxmeta" in packages
    assert packages <= {"jaxmeta", "jax", "jaxlib", "numpy", "scipy", "ml_dtypes", "optax", "chex", "absl", "toolz"}
