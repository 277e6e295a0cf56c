"""Outer gradients out of losses alone: what they are on average, against gradients in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmeta.core.batches import stack_episodes
from jaxmeta.core.learner import build_learner
from jaxmeta.core.types import Episode, MetaAlgorithm
from jaxmeta.estimators import evolution, persistent_evolution, truncated_backprop

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
pushed = moving(lambda push, state: 0.9 * state + push)
WINDOWS = 3
NOTHING = {"inputs": np.zeros((1, 1), np.float32), "targets": np.zeros(1, np.float32)}
EPISODES = stack_episodes([Episode(NOTHING, NOTHING)])


def samples_of(estimator, estimates: int, theta: float = GAIN) -> np.ndarray:
    """Returns many draws of the gradients of consecutive estimates `[N, estimates]`, each from a fresh state."""
    meta_params = {"params": jnp.float32(theta)}

    @jax.jit
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


def unrolled(algorithm: MetaAlgorithm, theta: jax.Array) -> jax.Array:
    """Returns the mean of the losses after one, two and three steps."""
    state, total = jnp.float32(START), jnp.float32(0)
    for _ in range(WINDOWS):
        state, _ = algorithm.step(jax.random.key(0), {"params": theta}, state, NOTHING)
        total += algorithm.loss(jax.random.key(0), {}, state, NOTHING)[0]
    return total / WINDOWS


def test_persistent_evolution_is_unbiased_for_the_whole_unrolled_task():
    """The loss is quadratic in the meta-parameter, which smoothing leaves alone but for a constant."""
    want = float(jax.grad(lambda theta: unrolled(pushed, theta))(jnp.float32(GAIN)))
    estimator = persistent_evolution(pushed, num_steps=1, horizon=WINDOWS, scale=SCALE)
    assert_mean(samples_of(estimator, WINDOWS).mean(axis=1), want)
    # It goes on: the second task is worth as much as the first.
    assert_mean(samples_of(estimator, 2 * WINDOWS)[:, WINDOWS:].mean(axis=1), want)
    # What is cut off at windows is another gradient, so the test can tell.
    truncated = truncated_backprop(pushed, num_steps=1, horizon=WINDOWS)
    assert samples_of(truncated, WINDOWS)[0].mean() < 0.6 * want


def test_persistent_evolution_is_unbiased_where_smoothing_bends_the_loss():
    """`E prod (theta + SCALE e_i) ** 2` over w windows is `(theta ** 2 + SCALE ** 2) ** w`."""
    estimator = persistent_evolution(scaled, num_steps=1, horizon=WINDOWS, scale=SCALE, pairs=2)
    smooth = GAIN**2 + SCALE**2
    want = np.mean([0.5 * START**2 * w * smooth ** (w - 1) * 2 * GAIN for w in range(1, WINDOWS + 1)])
    assert_mean(samples_of(estimator, WINDOWS).mean(axis=1), want)


def test_persistent_evolution_of_one_window_is_evolution():
    estimator = persistent_evolution(scaled, num_steps=2, horizon=2, scale=SCALE)
    assert_mean(samples_of(estimator, 2).mean(axis=1), 0.5 * START**2 * smoothed_power(GAIN, 4))


def test_truncated_backprop_of_one_window_is_the_derivative():
    found = samples_of(truncated_backprop(scaled, num_steps=3, horizon=3), 2)[0]
    np.testing.assert_allclose(found, 0.5 * START**2 * 6 * GAIN**5, rtol=1e-6)


counting = MetaAlgorithm(
    init=lambda key, episode: {"params": jnp.float32(GAIN)},
    begin=lambda key, meta_params, support: jnp.float32(0),
    step=lambda key, meta_params, state, support: (state + 1, {}),
    # What is reported is the number of the episode and how many steps were taken on it.
    loss=lambda key, meta_params, state, query: (meta_params["params"] * state, {"episode": query["targets"][0]}),
    predict=lambda meta_params, state, inputs: state,
)


@pytest.mark.parametrize("axis", ["vmap", "sequential"])
@pytest.mark.parametrize("build", [truncated_backprop, persistent_evolution])
def test_slots_begin_anew_in_turn_and_hold_their_episode(build, axis):
    def batch(number):
        episodes = [{**NOTHING, "targets": np.full(1, 10 * number + slot, np.float32)} for slot in range(2)]
        return stack_episodes([Episode(NOTHING, query) for query in episodes])

    estimator = build(counting, num_steps=2, horizon=8, task_axis=axis)
    meta_params = {"params": jnp.float32(1)}
    state = estimator.init(jax.random.key(0), meta_params, batch(1))
    steps, held = [], []
    for number in range(1, 8):
        _, state, _ = estimator.estimate(jax.random.key(number), meta_params, state, batch(number))
        task = state.task if build is truncated_backprop else state.task.states[:, 0, 0]
        steps.append(np.asarray(task).tolist())
        held.append(np.asarray(state.episode.query["targets"][:, 0]).tolist())
    # The second slot has its first task for two windows, and then for four as the first has.
    assert steps == [[2, 2], [4, 4], [6, 2], [8, 4], [2, 6], [4, 8], [6, 2]]
    assert held == [[10, 11], [10, 11], [10, 31], [10, 31], [50, 31], [50, 31], [50, 71]]


def test_training_by_persistent_evolution_finds_the_push_that_ends_at_zero():
    """The mean of the three losses is least at the push where its derivative, a line, is zero."""
    slope_at = lambda theta: float(jax.grad(lambda t: unrolled(pushed, t))(jnp.float32(theta)))  # noqa: E731
    best = -slope_at(0) / (slope_at(1) - slope_at(0))
    learner = build_learner(
        pushed, persistent_evolution(pushed, num_steps=1, horizon=WINDOWS, scale=0.1, pairs=4), optax.sgd(0.02)
    )
    episodes = stack_episodes([Episode(NOTHING, NOTHING)] * 6)
    state = learner.init(jax.random.key(0), episodes)
    update = jax.jit(learner.update)
    for _ in range(400):
        state, _ = update(state, episodes)
    np.testing.assert_allclose(state.meta_params["params"], best, atol=0.1)


@pytest.mark.parametrize("build", [truncated_backprop, persistent_evolution])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0, "horizon": 4}, "`num_steps` must be positive"),
        ({"num_steps": 3, "horizon": 4}, "`horizon` must be a multiple of `num_steps`"),
    ],
)
def test_windows_that_do_not_fill_the_horizon_are_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(scaled, **options)


@pytest.mark.parametrize("build", [truncated_backprop, persistent_evolution])
def test_algorithms_whose_steps_do_nothing_are_refused(build):
    still = scaled._replace(step=lambda key, meta_params, state, support: (state, {}))
    with pytest.raises(ValueError, match=f"`{build.__name__}` is about what each inner step adds.*steps do nothing"):
        build(still, num_steps=1, horizon=2).init(jax.random.key(0), {"params": jnp.float32(1)}, EPISODES)
