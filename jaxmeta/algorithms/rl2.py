"""A recurrent policy whose memory is its learning algorithm (RL², Duan et al. 2016, arXiv 1611.02779)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.checks import check_not_negative, check_positive
from jaxmeta.core.rollouts import Percept, Played, Rollouts, play, with_fresh_seeds
from jaxmeta.core.trees import leading_size, stop_gradient
from jaxmeta.core.types import Environment, Episode, MetaAlgorithm, Model


class Trial(NamedTuple):
    """What adaptation changes: what the policy remembers, and what its training has to know of how it came there."""

    memory: jax.Array  # [M]
    action: jax.Array  # the last one, [A]
    reward: jax.Array  # of it, []
    # Discounted sums over the steps so far, whose derivatives matter: of log-probabilities, and of predicted returns.
    likely: jax.Array  # []
    expected: jax.Array  # []
    cost: jax.Array  # [], what training goes down by, of the steps so far
    steps: jax.Array  # [], how many there were


def rl2(
    policy: Model,
    environment: Environment,
    *,
    rollouts: int | None = None,
    discount: float = 0.99,
    critic: float = 0.5,
    entropy: float = 0.0,
) -> MetaAlgorithm:
    """Plays the rollouts of the support one after another and remembers; no parameter changes.

    A policy reads what it sees, what it did and what came of it, and is trained by the policy gradient of all rewards
    of a trial, support and query, with its own prediction of the return as a baseline. Past actions share in what comes
    of later rollouts, so that it may learn to explore.

    Predicted returns are in units of the horizon, a reward of one in every step of a rollout, so that they are of the
    size of a reward wherever the policy acts, and the same weights do.

    Args:
      policy: `apply(params, {"memory": [N, M], "percept": Percept})` is `{"memory", "outputs", "value"}`, of which
        `environment.actions` reads the outputs (`jm.models.recurrent_policy`).
      environment: where it acts.
      rollouts: how many of the support each step plays; all by default.
      discount: of later rewards, through the whole trial; a rollout that ends early counts with its whole horizon.
      critic: the weight of the squared error of predicted returns.
      entropy: the weight of the entropy of what may be done at each step, in nats, which training goes up by too: a
        policy that settles on one action before it has learned to read what came of it never learns to (Mnih et al.
        2016, arXiv 1602.01783).

    Returns:
      An algorithm for `backprop`, whose meta-parameters are `{"params": ...}`.

    Raises:
      ValueError: if `rollouts` is not positive, or `critic` or `entropy` negative.
    """
    if rollouts is not None:
        check_positive("rollouts", rollouts)
    check_not_negative("critic", critic)
    check_not_negative("entropy", entropy)

    def init(key, episode: Episode):
        inputs = episode.support["inputs"]
        count = leading_size(inputs["seed"])
        state = jax.vmap(environment.reset)(jax.random.split(key, count), inputs["task"])
        seen = jax.vmap(environment.observe)(inputs["task"], state)
        nothing = jnp.zeros(count, seen.dtype)
        percept = Percept(seen, jnp.zeros((count, environment.actions.size), seen.dtype), nothing, nothing > 0)
        return {"params": policy.init(key, {"memory": None, "percept": percept})}

    def begin(key, meta_params, support):
        del key
        inputs = jax.tree.map(lambda leaf: leaf[:1], support["inputs"])
        state = jax.vmap(environment.reset)(jax.vmap(jax.random.key)(inputs["seed"]), inputs["task"])
        seen = jax.vmap(environment.observe)(inputs["task"], state)
        nothing = jnp.zeros((), seen.dtype)
        action = jnp.zeros((environment.actions.size,), seen.dtype)
        percept = Percept(seen, action[None], nothing[None], jnp.ones(1, bool))
        memory = jax.eval_shape(policy.apply, meta_params["params"], {"memory": None, "percept": percept})["memory"]
        return Trial(jnp.zeros(memory.shape[1:], memory.dtype), action, *[nothing] * 5)

    def played(params, state: Trial, inputs) -> tuple[Played, jax.Array, jax.Array, jax.Array]:
        """Plays from what is remembered; returns log-probabilities, predicted returns and entropies too, `[N, H]`."""

        def agent(memory, keys, percept: Percept):
            found = policy.apply(params, {"memory": memory, "percept": percept})
            action = jax.vmap(environment.actions.draw)(keys, stop_gradient(found["outputs"]))
            outputs = found["outputs"]
            told = environment.actions.log_prob(outputs, action), found["value"], environment.actions.entropy(outputs)
            return found["memory"], action, told

        count = leading_size(inputs["seed"])
        start = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), (state.memory, state[1:3]))
        found = play(environment, agent, start[0], inputs, last=start[1])
        alive = found.rollouts.alive
        log_probs, values, entropies = (jnp.where(alive, leaf, jnp.zeros((), leaf.dtype)) for leaf in found.kept)
        return found, log_probs, values, entropies

    def sums(state: Trial, rollouts: Rollouts, log_probs, values, entropies):
        """Returns `likely`, `expected`, `cost` and `steps` after each of N rollouts that go on from `state`."""
        places = np.arange(rollouts.rewards.shape[1])
        ahead = places[None] - places[:, None]
        weights = jnp.asarray(np.where(ahead >= 0, float(discount) ** np.maximum(ahead, 0), 0.0), values.dtype)
        carried = jnp.asarray(float(discount) ** (places + 1.0), values.dtype)
        likely = log_probs @ weights + carried[None] * state.likely
        expected = values @ weights + carried[None] * state.expected
        rewards = rollouts.rewards / environment.horizon
        gain = jnp.sum(rewards * likely - log_probs * stop_gradient(values), axis=1)
        error = jnp.sum(0.5 * jnp.square(values) - rewards * expected, axis=1)
        steps = jnp.sum(rollouts.alive, axis=1).astype(values.dtype)
        cost = critic * error - entropy * jnp.sum(entropies, axis=1) - gain
        return likely[:, -1], expected[:, -1], state.cost + cost, state.steps + steps

    def step(key, meta_params, state: Trial, support):
        support = with_fresh_seeds(key, support)
        mask = support.get("mask", jnp.ones(leading_size(support["inputs"]["seed"]), bool))
        chosen = jax.tree.map(lambda leaf: leaf[:rollouts], (support["inputs"], mask))

        def one(state: Trial, example):
            inputs, real = example
            found, *told = played(meta_params["params"], state, jax.tree.map(lambda leaf: leaf[None], inputs))
            after = (found.memory, found.percept.action, found.percept.reward, *sums(state, found.rollouts, *told))
            after = Trial(*[leaf[0] for leaf in after])
            state = jax.tree.map(lambda new, old: jnp.where(real, new, old), after, state)
            return state, jnp.where(real, jnp.sum(found.rollouts.rewards), jnp.zeros((), after.reward.dtype))

        state, returns = jax.lax.scan(one, state, chosen)
        return state, {"return": jnp.sum(returns) / jnp.maximum(jnp.sum(chosen[1]), 1).astype(returns.dtype)}

    def loss(key, meta_params, state: Trial, query):
        query = with_fresh_seeds(key, query)
        found, *told = played(meta_params["params"], state, query["inputs"])
        _, _, cost, steps = sums(state, found.rollouts, *told)
        mask = query.get("mask", jnp.ones(cost.shape, bool))
        count = jnp.maximum(jnp.sum(mask), 1).astype(cost.dtype)
        mean = lambda leaf: jnp.sum(jnp.where(mask, leaf, jnp.zeros((), leaf.dtype))) / count  # noqa: E731
        gained = mean(jnp.sum(found.rollouts.rewards, axis=1))
        surrogate = mean(cost / jnp.maximum(steps, jnp.ones((), steps.dtype)))
        return surrogate - stop_gradient(surrogate) - gained, {"return": gained}

    def predict(meta_params, state: Trial, inputs):
        found, log_probs, *_ = played(meta_params["params"], state, inputs)
        return found.rollouts._replace(log_probs=log_probs)

    return MetaAlgorithm(init, begin, step, loss, predict)
