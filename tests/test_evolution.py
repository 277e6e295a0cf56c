"""Outer gradients out of losses alone: what they are on average, against gradients in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick_jit

from jaxmeta.core.batches import stack_episodes
from jaxmeta.core.types import Episode, MetaAlgorithm
from jaxmeta.estimators import evolution

SCALE, START, GAIN = 0.3, 1.5, 0.8
SAMPLES = 100_000


def moving(step) -> MetaAlgorithm:
    """A task whose state is one number, moved at each step, and whose loss is half of its square."""

    def loss(key, meta_params, state, query):
        del key, meta_params, query
        return 0.5 * jnp.square(state), {}

    return MetaAlgorithm(
        init=lambda key, episode: {"params": jnp.float32(GAIN)},
        begin=lambda key, meta_params, support: jnp.float32(START),
        step=lambda key, meta_params, state, support: (step(meta_params["params"], state), {}),
        loss=loss,
        predict=lambda meta_params, state, inputs: state,
    )


scaled = moving(lambda gain, state: gain * state)
NOTHING = {"inputs": np.zeros((1, 1), np.float32), "targets": np.zeros(1, np.float32)}
EPISODES = stack_episodes([Episode(NOTHING, NOTHING)])


def samples_of(estimator, estimates: int, theta: float = GAIN) -> np.ndarray:
    """Returns many draws of the gradients of consecutive estimates `[N, estimates]`, each from a fresh state."""
    meta_params = {"params": jnp.float32(theta)}

    @quick_jit
    @jax.vmap
    def sample(key):
        keys = jax.random.split(key, estimates + 1)
        state, found = estimator.init(keys[0], meta_params, EPISODES), []
        for number in range(estimates):
            gradient, state, _ = estimator.estimate(keys[number + 1], meta_params, state, EPISODES)
            found.append(gradient["params"])
        return jnp.stack(found)

    return np.asarray(sample(jax.random.split(jax.random.key(1), SAMPLES)), np.float64)


def assert_mean(samples: np.ndarray, want: float):
    """Within four standard errors."""
    error = samples.std(ddof=1) / len(samples) ** 0.5
    assert abs(samples.mean() - want) < 4 * error, f"{samples.mean()} is not {want} within 4 times {error}"
    # Were the error large beside the value, this would say nothing.
    assert error < 0.02 * abs(want)


def smoothed_power(theta: float, power: int) -> float:
    """Returns the derivative of `E (theta + SCALE e) ** power`, e normal, for an even power up to 6."""
    even = {2: [2], 4: [4, 12], 6: [6, 60, 90]}[power]
    return sum(c * theta ** (power - 1 - 2 * k) * SCALE ** (2 * k) for k, c in enumerate(even))


@pytest.mark.parametrize("num_steps", [1, 2])
def test_evolution_is_unbiased_for_the_smoothed_loss(num_steps):
    samples = samples_of(evolution(scaled, num_steps=num_steps, scale=SCALE), 1)[:, 0]
    assert_mean(samples, 0.5 * START**2 * smoothed_power(GAIN, 2 * num_steps))


def test_more_pairs_have_less_variance():
    one, many = (samples_of(evolution(scaled, num_steps=2, scale=SCALE, pairs=pairs), 1)[:, 0] for pairs in (1, 9))
    np.testing.assert_allclose(one.var() / many.var(), 9, rtol=0.2)
    assert_mean(many, 0.5 * START**2 * smoothed_power(GAIN, 4))


def test_both_sides_of_a_pair_draw_the_same_random_numbers():
    """Otherwise a loss that is nothing but a draw would have a gradient."""
    noisy = scaled._replace(
        begin=lambda key, meta_params, support: jax.random.normal(key),
        step=lambda key, meta_params, state, support: (state + jax.random.normal(key), {}),
        loss=lambda key, meta_params, state, query: (state + jax.random.normal(key), {}),
    )
    assert np.all(samples_of(evolution(noisy, num_steps=3, scale=SCALE), 1) == 0)


def test_tasks_in_chunks_are_the_same_tasks():
    episodes = stack_episodes([Episode(NOTHING, NOTHING)] * 5)
    meta_params = {"params": jnp.float32(GAIN)}
    found = [
        evolution(scaled, num_steps=2, scale=SCALE, pairs=3, task_axis=axis).estimate(
            jax.random.key(0), meta_params, (), episodes
        )
        for axis in ("vmap", "sequential", "chunked(2)")
    ]
    for other in found[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found[0], other)


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"pairs": 0}, {"unroll": -1}])
def test_numbers_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be"):
        evolution(scaled, num_steps=1, **wrong)
