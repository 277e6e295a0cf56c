"""Environments: what a rollout in each comes to, and that it depends on its seed and its task alone."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmeta import algorithms, environments, estimators
from jaxmeta.core.checks import InputError
from jaxmeta.core.rollouts import Percept, play, playing, with_fresh_seeds
from jaxmeta.environments.actions import categorical, gaussian
from jaxmeta.models import gaussian_policy, plain
from jaxmeta.objectives import classification, control


def steady(action):
    """An agent that always does the same, and counts the steps that it took."""

    def agent(memory, keys, percept: Percept):
        del keys
        count = len(percept.reward)
        return memory + 1, jnp.broadcast_to(jnp.asarray(action), (count, *np.shape(action))), percept

    return agent


def test_a_point_goes_where_it_is_sent_and_stops_at_its_goal():
    environment = environments.navigation(horizon=9)
    goals = jnp.array([[0.35, 0.0], [0.3, 0.0], [-0.1, 0.4]])
    inputs = {"task": {"goal": goals}, "seed": jnp.arange(3, dtype=jnp.int32)}
    action = np.array([5.0, 0.0], np.float32)
    rollouts, steps, _, seen = jax.jit(lambda: play(environment, steady(action), jnp.zeros(3), inputs))()
    # An action of one is as far as it gets, and the second one arrives with its third step.
    x = 0.1 * np.arange(1, 10)
    np.testing.assert_allclose(rollouts.observations[0, :, 0], x - 0.1, atol=1e-6)
    np.testing.assert_allclose(rollouts.rewards[0], -np.abs(x - 0.35), atol=1e-6)
    np.testing.assert_allclose(rollouts.rewards[2], -np.hypot(x + 0.1, 0.4), atol=1e-6)
    np.testing.assert_allclose(rollouts.rewards[1], [-0.2, -0.1, *[0.0] * 7], atol=1e-6)
    np.testing.assert_array_equal(rollouts.alive[1], np.arange(9) < 3)
    np.testing.assert_array_equal(steps, [9, 3, 9])
    # An agent meets what it did and what came of it.
    np.testing.assert_array_equal(seen.first, np.tile(np.arange(9) == 0, (3, 1)))
    np.testing.assert_allclose(seen.reward[:, 1:], np.where(rollouts.alive, rollouts.rewards, 0)[:, :-1], atol=1e-6)
    np.testing.assert_array_equal(seen.action[0], np.where(np.arange(9)[:, None] > 0, action, 0))


def test_squared_distance_is_the_square():
    inputs = {"task": {"goal": jnp.array([[0.3, 0.4]])}, "seed": jnp.zeros(1, jnp.int32)}
    still = np.zeros(2, np.float32)
    for squared, reward in ((False, -0.5), (True, -0.25)):
        environment = environments.navigation(3, squared=squared)
        rollouts = play(environment, steady(still), jnp.zeros(1), inputs).rollouts
        np.testing.assert_allclose(rollouts.rewards, np.full((1, 3), reward), rtol=1e-6)


def test_arms_are_rewarded_as_often_as_they_say_and_states_follow_their_tables():
    environment = environments.tabular(states=3, actions=2, horizon=40)
    task = environment.draw(jax.random.key(4))
    np.testing.assert_allclose(task.transitions.sum(axis=-1), np.ones((3, 2)), rtol=1e-5)
    count = 2000
    many = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), task)
    inputs = {"task": many, "seed": jnp.arange(count, dtype=jnp.int32)}
    rollouts = jax.jit(lambda: play(environment, steady(np.int32(1)), jnp.zeros(count), inputs).rollouts)()
    states = rollouts.observations.argmax(axis=-1)
    assert set(np.unique(rollouts.rewards)) <= {0.0, 1.0}
    np.testing.assert_array_equal(states[:, 0], 0)
    for state in range(3):
        there = states[:, :-1] == state
        rewarded, led = rollouts.rewards[:, :-1][there], np.eye(3)[np.asarray(states[:, 1:][there])]
        error = 4 * 0.5 / len(rewarded) ** 0.5
        assert abs(rewarded.mean() - task.rewards[state, 1]) < error
        assert np.all(np.abs(led.mean(axis=0) - task.transitions[state, 1]) < error)


def test_a_bandit_is_a_process_of_one_state():
    environment = environments.bandits(arms=4, pulls=7)
    assert (environment.horizon, environment.actions.size) == (7, 4)
    assert environment.draw(jax.random.key(0)).rewards.shape == (1, 4)
    with pytest.raises(ValueError, match="`actions` must be positive"):
        environments.bandits(arms=0)


def test_distributions_draw_what_they_say():
    keys = jax.random.split(jax.random.key(0), 20_000)
    outputs = {"mean": jnp.array([1.0, -2.0]), "log_std": jnp.log(jnp.array([0.5, 2.0]))}
    drawn = jax.vmap(gaussian(2).draw, (0, None))(keys, outputs)
    np.testing.assert_allclose(drawn.mean(axis=0), outputs["mean"], atol=0.06)
    np.testing.assert_allclose(drawn.std(axis=0), [0.5, 2.0], rtol=0.03)
    each = jax.scipy.stats.norm.logpdf(drawn[0], outputs["mean"], jnp.array([0.5, 2.0]))
    np.testing.assert_allclose(gaussian(2).log_prob(outputs, drawn[0]), each.sum(), rtol=1e-5)
    logits = jnp.array([0.0, 1.0, -1.0])
    drawn = jax.vmap(categorical(3).draw, (0, None))(keys, logits)
    np.testing.assert_allclose(np.bincount(drawn) / len(keys), jax.nn.softmax(logits), atol=0.02)
    found = categorical(3).log_prob(jnp.tile(logits, (3, 1)), jnp.arange(3))
    np.testing.assert_allclose(found, jax.nn.log_softmax(logits), rtol=1e-6)


def test_rollouts_depend_on_seeds_and_padding_on_nothing():
    model = playing(gaussian_policy((4,), 2), environments.navigation(5))
    batch = {"inputs": {"task": {"goal": jnp.full((4, 2), 0.2)}, "seed": jnp.array([1, 2, 1, 3], jnp.int32)}}
    params = model.init(jax.random.key(0), batch["inputs"])
    found = model.apply(params, batch["inputs"])
    np.testing.assert_array_equal(found.actions[0], found.actions[2])
    assert np.all(found.actions[0] != found.actions[1])
    # What was played is as likely as it was.
    again = model.apply(params, found._replace(log_probs=jnp.zeros_like(found.log_probs)))
    jax.tree.map(np.testing.assert_array_equal, again, found)
    fewer = jax.tree.map(lambda leaf: leaf[:2], batch)
    seeds = [with_fresh_seeds(jax.random.key(5), b)["inputs"]["seed"] for b in (batch, fewer)]
    np.testing.assert_array_equal(seeds[0][:2], seeds[1])
    assert len(set(np.asarray(seeds[0]).tolist())) == 4


def test_returns_are_summed_over_real_rollouts():
    model = playing(gaussian_policy((4,), 2), environments.navigation(5))
    inputs = {"task": {"goal": jnp.full((3, 2), 0.2)}, "seed": jnp.arange(3, dtype=jnp.int32)}
    rollouts = model.apply(model.init(jax.random.key(0), inputs), inputs)
    objective, batch = control(), {"inputs": inputs, "mask": jnp.array([True, False, True])}
    scores = objective.scores(objective.counts(rollouts, batch))
    want = float(np.mean(np.asarray(rollouts.rewards).sum(axis=1)[[0, 2]]))
    np.testing.assert_allclose(scores["return"], want, rtol=1e-6)
    assert scores["steps"] == 5
    np.testing.assert_allclose(objective.loss(rollouts, batch)[0], -want, rtol=1e-6)
    empty = objective.counts(rollouts, {**batch, "mask": jnp.zeros(3, bool)})
    assert np.isnan(objective.scores(empty)["return"])
    with pytest.raises(ValueError, match="`baseline` must be one of 'linear', 'none'"):
        control(baseline="value")


def test_a_baseline_takes_away_what_time_and_place_tell():
    """Of a point that hardly moves, which is better off the farther it goes: 1 + ... + 6 times 2 x 0.3 x 0.1."""
    environment = environments.navigation(6, squared=True)
    policy = plain(
        lambda key, x: {"mean": jnp.zeros(2)},
        lambda params, x: {"mean": params["mean"][None] + jnp.zeros_like(x), "log_std": jnp.full_like(x, -4.0)},
    )
    model = playing(policy, environment)
    inputs = {"task": {"goal": jnp.full((20, 2), 0.3)}, "seed": jnp.arange(20, dtype=jnp.int32)}
    params = model.init(jax.random.key(0), inputs)

    @jax.jit
    def slopes(params):
        def slope(baseline):
            objective = control(baseline=baseline, normalize=False)
            return jax.grad(lambda p: objective.loss(model.apply(p, inputs), {})[0])(params)["mean"]

        return slope("linear"), slope("none")

    with_it, without = slopes(params)
    assert np.abs(with_it + 21 * 0.06).max() < 0.5
    assert np.abs(without + 21 * 0.06).max() > 5


def test_what_means_nothing_for_policies_is_refused_in_a_sentence():
    model = playing(gaussian_policy((4,), 2), environments.navigation(5))
    inputs = {"task": {"goal": jnp.full((3, 2), 0.2)}, "seed": jnp.arange(3, dtype=jnp.int32)}
    batch = {"inputs": inputs, "targets": jnp.zeros(3, jnp.int32)}
    params = {"params": model.init(jax.random.key(0), inputs), "log_scale": jnp.zeros(())}
    heads = algorithms.protonet(model, classification(2), num_classes=2)
    with pytest.raises(ValueError, match="no vector for each example"):
        heads.begin(jax.random.key(0), params, batch)


@pytest.mark.filterwarnings("ignore")  # brax warns of much that is none of our business
def test_a_half_cheetah_is_rewarded_for_its_velocity():
    pytest.importorskip("brax", reason="brax is not installed; pip install -e .[rl]", exc_type=ImportError)
    forward, back = ({"goal": jnp.array([sign])} for sign in (1.0, -1.0))
    environment = environments.half_cheetah(horizon=5)
    action = np.full(6, 0.5, np.float32)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        task = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), forward, back)
        inputs = {"task": task, "seed": jnp.zeros(2, jnp.int32)}
        rollouts = jax.jit(lambda: play(environment, steady(action), jnp.zeros(2), inputs).rollouts)()
    np.testing.assert_allclose(rollouts.rewards.sum(axis=0), np.full(5, -2 * 0.05 * 6 * 0.25), atol=1e-4)
    assert np.abs(rollouts.rewards[0] + 0.05 * 6 * 0.25).max() > 0.01
    assert rollouts.observations.shape == (2, 5, 17)


def test_a_half_cheetah_without_brax_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "brax.envs", None)
    with pytest.raises(InputError, match=r'pip install "jaxmeta\[rl\]"'):
        environments.half_cheetah()
    with pytest.raises(ValueError, match="`goal` must be one of 'direction', 'velocity'"):
        environments.half_cheetah(goal="height")


def test_what_does_not_play_and_what_has_no_minimum_are_refused():
    inputs = {"task": {"goal": jnp.full((3, 2), 0.2)}, "seed": jnp.arange(3, dtype=jnp.int32)}
    batch, key = {"inputs": inputs}, jax.random.key(0)
    still = plain(lambda key, x: {"w": jnp.zeros(())}, lambda params, x: x["task"]["goal"] * params["w"])
    deaf = algorithms.policy_gradient(algorithms.maml(still, control(), optax.sgd(0.1)))
    state = deaf.begin(key, {"params": {"w": jnp.zeros(())}}, batch)
    with pytest.raises(ValueError, match="whose `predict` plays"):
        deaf.step(key, {"params": {"w": jnp.zeros(())}}, state, batch)
    model = playing(gaussian_policy((4,), 2), environments.navigation(5))
    held = algorithms.policy_gradient(algorithms.imaml(model, control(), optax.sgd(0.1)))
    with pytest.raises(ValueError, match="`implicit` needs an algorithm whose steps go down to a minimum"):
        estimators.implicit(held, num_steps=2)
