"""Policy gradients against what they estimate: sums over all rollouts there can be, finite differences of returns."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmeta import algorithms, estimators
from jaxmeta.core.adapt import adapt
from jaxmeta.core.gradients import first_order
from jaxmeta.core.rollouts import Percept, Rollouts, playing
from jaxmeta.core.types import Episode, Model
from jaxmeta.environments import Tables, bandits, navigation, tabular
from jaxmeta.environments.actions import categorical, gaussian
from jaxmeta.models import gaussian_policy, plain
from jaxmeta.objectives import control

STATES = ACTIONS = 2
EXACT = {"baseline": "none", "normalize": False}


def process(horizon: int):
    """Returns a small process, every rollout there can be `[P, H]`, and what their probabilities are made of."""
    tables = Tables(np.array([[0.9, 0.3], [0.2, 0.6]]), np.array([[[0.3, 0.7], [0.8, 0.2]], [[0.5, 0.5], [0.1, 0.9]]]))
    states, actions, rewards, chances = [], [], [], []
    for path in itertools.product(*[range(ACTIONS), range(2), range(STATES)] * horizon):
        steps = np.array(path).reshape(horizon, 3)
        at = np.concatenate([[0], steps[:-1, 2]])
        if steps[-1, 2]:  # where the last step leads changes nothing
            continue
        won = tables.rewards[at, steps[:, 0]]
        led = tables.transitions[at[:-1], steps[:-1, 0], steps[:-1, 2]]
        states.append(np.eye(STATES)[at])
        actions.append(steps[:, 0].astype(np.int32))
        rewards.append(steps[:, 1].astype(float))
        chances.append(np.prod(np.where(steps[:, 1] == 1, won, 1 - won)) * np.prod(led))
    alive = np.ones((len(chances), horizon), bool)
    rollouts = Rollouts(*map(np.array, (states, actions, rewards)), alive, np.zeros(alive.shape))
    return tables, rollouts, np.array(chances)


def table_policy():
    """One number for each state and action."""
    return plain(lambda key, x: jnp.zeros((STATES, ACTIONS)), lambda params, x: x @ params)


def recorded(model: Model) -> Model:
    """Returns a model whose rollouts are those that stand where the task should."""

    def apply(params, inputs):
        return model.apply(params, inputs if isinstance(inputs, Rollouts) else inputs["task"])

    return Model(lambda key, inputs: jnp.zeros((STATES, ACTIONS)), apply)


def batch_of(rollouts: Rollouts) -> dict:
    return {"inputs": {"task": rollouts, "seed": np.zeros(len(rollouts.alive), np.int32)}}


def returns_of(params, rollouts, chances, model):
    """The expected return of a policy, summed over all rollouts."""
    likely = jnp.exp(jnp.sum(model.apply(params, rollouts).log_probs, axis=1))
    return jnp.sum(chances * likely * jnp.sum(rollouts.rewards, axis=1))


@pytest.mark.parametrize("coupling", [1.0, 0.0, None])
def test_second_derivatives_are_unbiased_where_past_actions_are_coupled(x64, coupling):
    _, rollouts, chances = process(horizon=2)
    model, objective = playing(table_policy(), tabular(STATES, ACTIONS, 2)), control(coupling=coupling, **EXACT)
    params = jnp.array([[0.3, -0.5], [0.8, 0.1]])

    def loss(params, rollout):
        return objective.loss(model.apply(params, jax.tree.map(lambda leaf: leaf[None], rollout)), {})[0]

    @jax.jit
    def both(params):
        likely = chances * jnp.exp(jnp.sum(model.apply(params, rollouts).log_probs, axis=1))
        orders = [lambda f: f, jax.grad, jax.hessian]
        got = [jnp.tensordot(likely, jax.vmap(order(loss), (None, 0))(params, rollouts), 1) for order in orders]
        want = [-order(returns_of)(params, rollouts, chances, model) for order in orders]
        return jnp.sum(likely), got, want

    total, got, want = both(params)
    np.testing.assert_allclose(total, 1, rtol=1e-12)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
    np.testing.assert_allclose(got[1], want[1], atol=1e-14)
    error = np.abs(got[2] - want[2]).max()
    assert error < 1e-14 if coupling == 1 else error > 1e-2


@pytest.mark.parametrize(("horizon", "support"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("sampling_term", [True, False])
def test_the_meta_gradient_with_its_sampling_term_is_that_of_the_expected_return(x64, horizon, support, sampling_term):
    _, rollouts, chances = process(horizon)
    model = recorded(playing(table_policy(), tabular(STATES, ACTIONS, horizon)))
    base = algorithms.maml(model, control(coupling=None, **EXACT), optax.sgd(0.7))
    algorithm = algorithms.policy_gradient(base, sampling_term=sampling_term)
    params = {"params": jnp.array([[0.3, -0.5], [0.8, 0.1]])}
    seen = np.array(list(itertools.product(range(len(chances)), repeat=support)))
    supports = jax.tree.map(lambda leaf: leaf[seen], rollouts)  # [all pairs, S, H]
    key = jax.random.key(0)

    def adapted(meta_params, support):
        return adapt(algorithm, key, meta_params, batch_of(support), num_steps=1)[0]

    def likely(fast):
        return chances * jnp.exp(jnp.sum(model.apply(fast, rollouts).log_probs, axis=1))

    def expected(meta_params):
        """The mean return after a step, over every support and every query that there can be."""

        def after(support):
            state = adapted(meta_params, support)
            return likely((state.base if sampling_term else state).fast) @ jnp.sum(rollouts.rewards, axis=1)

        return -jnp.prod(likely(meta_params["params"])[seen], axis=1) @ jax.vmap(after)(supports)

    def estimated(meta_params):
        """The mean of what `backprop` differentiates, its probabilities held."""

        def of(support, chance):
            state = adapted(meta_params, support)
            fast = (state.base if sampling_term else state).fast
            ask = lambda one: algorithm.loss(key, meta_params, state, batch_of(jax.tree.map(lambda x: x[None], one)))[0]  # noqa: E731
            return chance * jax.lax.stop_gradient(likely(fast)) @ jax.vmap(ask)(rollouts)

        probability = jax.lax.stop_gradient(jnp.prod(likely(meta_params["params"])[seen], axis=1))
        return jnp.sum(jax.vmap(of)(supports, probability))

    value, got = jax.jit(jax.value_and_grad(estimated))(params)
    exact, want = jax.jit(jax.value_and_grad(expected))(params)
    np.testing.assert_allclose(value, exact, rtol=1e-12)
    error = np.abs(got["params"] - want["params"]).max()
    assert error < 1e-13 if sampling_term else error > 1e-2


def tasks_of(environment, key, tasks: int, rollouts: int):
    drawn = jax.vmap(environment.draw)(jax.random.split(key, tasks))
    spread = jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], rollouts, 1), drawn)
    side = {"inputs": {"task": spread, "seed": jnp.zeros((tasks, rollouts), jnp.int32)}}
    return Episode(side, side)


def test_with_many_rollouts_the_gradient_is_that_of_a_step_along_the_expected_gradient(x64):
    """A bandit by its own dice, through `backprop` as it is trained, against closed forms."""
    bandit = Tables(jnp.array([[0.95, 0.05, 0.4]]), jnp.ones((1, 3, 1)))
    environment = bandits(arms=3, pulls=1)._replace(draw=lambda key: bandit)
    model = playing(plain(lambda key, x: jnp.zeros((1, 3)), lambda params, x: x @ params), environment)
    params, rate, count = {"params": jnp.array([[0.5, -0.2, 0.1]])}, 5.0, 50
    tasks = tasks_of(environment, jax.random.key(3), count, 1000)
    chances = bandit.rewards[0]

    def exact(params):
        gain = lambda logits: jax.nn.softmax(logits[0]) @ chances  # noqa: E731
        return -gain(params + rate * jax.grad(gain)(params))

    def means(**options):
        base = algorithms.maml(model, control(**EXACT), optax.sgd(rate), **options)
        estimator = estimators.backprop(algorithms.policy_gradient(base), num_steps=1)
        one = lambda key, task: estimator.estimate(key, params, (), jax.tree.map(lambda x: x[None], task))[0]  # noqa: E731
        keys = jax.random.split(jax.random.key(1), count)
        found = jax.jit(lambda: jax.lax.map(lambda pair: one(*pair), (keys, tasks)))()["params"][:, 0]
        return found.mean(axis=0), found.std(axis=0) / count**0.5

    want = jax.grad(exact)(params["params"])[0]
    mean, error = means()
    assert np.all(error < 0.05 * np.abs(want).max())
    assert np.all(np.abs(mean - want) < 4 * error + 1e-3)
    mean, error = means(gradient=first_order)
    assert np.any(np.abs(mean - want) > 8 * error)


def test_the_gradient_of_navigation_agrees_with_finite_differences_of_returns():
    """Of thousands of rollouts, within four standard errors of the two means."""
    environment, rate, count, rollouts, width = navigation(horizon=4), 0.2, 64, 500, 0.05
    policy = gaussian_policy((4,), 2, activation=jnp.tanh, spread=0.7)
    base = algorithms.maml(playing(policy, environment), control(normalize=False, discount=1.0), optax.sgd(rate))
    algorithm = algorithms.policy_gradient(base)
    tasks = tasks_of(environment, jax.random.key(5), count, rollouts)
    params = algorithm.init(jax.random.key(2), jax.tree.map(lambda leaf: leaf[0], tasks))
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(4), len(leaves))
    direction = jax.tree.unflatten(treedef, [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])

    def loss(params, key, task):
        state, _ = adapt(algorithm, key, params, task.support, num_steps=1)
        return algorithm.loss(jax.random.fold_in(key, 1), params, state, task.query)[0]

    @jax.jit
    def both(keys):
        def one(pair):
            key, task = pair
            slope = jax.tree.map(jnp.vdot, jax.grad(loss)(params, key, task), direction)
            ends = [
                loss(jax.tree.map(lambda p, d, w=w: p + w * d, params, direction), key, task) for w in (width, -width)
            ]
            return sum(jax.tree.leaves(slope)), (ends[0] - ends[1]) / (2 * width)

        return jax.lax.map(one, (keys, tasks))

    slopes, numeric = (np.asarray(x, np.float64) for x in both(jax.random.split(jax.random.key(6), count)))
    difference = slopes - numeric
    error = difference.std() / count**0.5
    assert error < 0.1 * abs(numeric.mean())
    assert abs(difference.mean()) < 4 * error


@pytest.mark.parametrize("actions", [categorical(3), gaussian(3)], ids=["categorical", "gaussian"])
def test_the_entropy_is_minus_the_mean_log_probability(actions):
    outputs = jnp.array([[0.3, -1.0, 2.0]])
    outputs = outputs if actions.discrete else {"mean": outputs, "log_std": 0.5 * outputs}
    alone = jax.tree.map(lambda leaf: leaf[0], outputs)
    drawn = jax.vmap(lambda key: actions.draw(key, alone))(jax.random.split(jax.random.key(0), 20_000))
    told = -actions.log_prob(jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (20_000, 3)), outputs), drawn)
    found = actions.entropy(outputs)
    assert found.shape == (1,)
    assert abs(float(found[0]) - told.mean()) < 4 * told.std() / 20_000**0.5


@pytest.mark.parametrize("entropy", [0.0, 0.5])
def test_a_policy_that_remembers_is_trained_by_the_return_of_the_whole_trial(entropy):
    """RL² on two arms: a pull to learn from and one to use it, against a sum over all that can happen.

    Entropies count where they are met: that an action leads to others with more entropy is no reason to take it.
    """
    chances, count = jnp.array([[0.9, 0.2]]), 20_000
    bandit = Tables(chances, jnp.ones((1, 2, 1)))
    environment = bandits(arms=2, pulls=1)

    def act(params, inputs):
        percept = inputs["percept"]
        told = jnp.concatenate([percept.action, percept.reward[:, None]], axis=-1)
        memory = jnp.zeros((len(told), 2)) if inputs["memory"] is None else inputs["memory"]
        memory = jnp.tanh(memory + told @ params["in"])
        return {"memory": memory, "outputs": memory @ params["out"] + params["bias"][None], "value": memory[:, 0]}

    shapes = {"in": (3, 2), "out": (2, 2), "bias": (2,)}
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    policy = plain(lambda key, x: params, act)
    algorithm = algorithms.rl2(policy, environment, discount=1.0, critic=0.0, entropy=entropy)
    task = jax.tree.map(lambda leaf: leaf[None], bandit)
    batch = {"inputs": {"task": task, "seed": jnp.zeros(1, jnp.int32)}}

    def expected(params):
        def pulled(memory, action, reward):
            one_hot = jnp.broadcast_to(jnp.asarray(action, jnp.float32), (1, 2))
            percept = Percept(jnp.ones((1, 1)), one_hot, jnp.full(1, reward), jnp.ones(1, bool))
            found = act(params, {"memory": memory, "percept": percept})
            return found["memory"], jax.nn.softmax(found["outputs"][0])

        spread = lambda probs: -entropy * jnp.sum(probs * jnp.log(probs))  # noqa: E731
        memory, first = pulled(None, 0.0, 0.0)
        total = first @ chances[0] + spread(first)
        for arm in range(2):
            for reward, chance in ((1.0, chances[0, arm]), (0.0, 1 - chances[0, arm])):
                _, second = pulled(memory, np.eye(2)[arm], reward)
                total += first[arm] * chance * (second @ chances[0])
                total += jax.lax.stop_gradient(first[arm] * chance) * spread(second)
        return -total / 2  # a mean over the two steps

    def estimate(key):
        def loss(params):
            meta_params = {"params": params}
            state, _ = adapt(algorithm, key, meta_params, batch, num_steps=1)
            return algorithm.loss(jax.random.fold_in(key, 1), meta_params, state, batch)[0]

        return jax.grad(loss)(params)

    found = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(1), count))
    want = jax.jit(jax.grad(expected))(params)
    for name in shapes:
        mean, error = found[name].mean(axis=0), found[name].std(axis=0) / count**0.5
        assert np.all(np.abs(mean - want[name]) < 4 * error + 1e-6), name
    assert np.abs(want["in"]).max() > 5 * np.max(found["in"].std(axis=0)) / count**0.5
