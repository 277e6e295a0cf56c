"""Rollouts of policies in environments: scanned over time, side by side."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.core.trees import chosen, leading_size, stop_gradient
from jaxmeta.core.types import ArrayTree, Batch, Environment, Key, Model


class Rollouts(NamedTuple):
    """What came of N rollouts of H steps.

    A rollout that ended early goes on to H in form only: `alive` says which steps were taken.
    """

    observations: jax.Array  # [N, H, O]
    actions: jax.Array  # [N, H, ...]
    rewards: jax.Array  # [N, H], zero where it has ended
    alive: jax.Array  # [N, H] bool
    log_probs: jax.Array  # [N, H] of the actions, zero where it has ended; the only part that has a derivative


class Percept(NamedTuple):
    """What an agent meets at a step, leaves `[N, ...]`."""

    observation: jax.Array  # [N, O]
    action: jax.Array  # the one before, as a vector [N, A]; zeros at the very first step
    reward: jax.Array  # what came of it, [N]
    first: jax.Array  # [N] bool, whether the rollout begins


# (memory, keys [N], percept) -> (memory, actions [N, ...], what to keep of the step, leaves [N, ...])
Agent = Callable[[ArrayTree, Key, Percept], tuple[ArrayTree, jax.Array, ArrayTree]]


class Played(NamedTuple):
    """What `play` returns."""

    rollouts: Rollouts  # with `log_probs` of zero
    memory: ArrayTree  # after the last step that each rollout took, leaves [N, ...]
    percept: Percept  # what the agent would meet next
    kept: ArrayTree  # of every step, leaves [N, H, ...]


def play(
    environment: Environment,
    agent: Agent,
    memory: ArrayTree,
    inputs: ArrayTree,
    last: tuple[jax.Array, jax.Array] | None = None,
) -> Played:
    """Plays N rollouts side by side.

    Args:
      environment: where.
      agent: who.
      memory: what it has before the first step, leaves `[N, ...]`.
      inputs: "task", leaves `[N, ...]`, and "seed" `[N]`, from which all follows that is drawn.
      last: what an agent did before that has played already, as vectors `[N, A]`, and the rewards `[N]` of it.
    """
    task, seeds, horizon = inputs["task"], jnp.asarray(inputs["seed"]), environment.horizon
    # All keys at once: to hash step by step would be most of the time in a small environment.
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed), 2 * horizon + 1))(seeds)
    state = jax.vmap(environment.reset)(keys[:, -1], task)
    observation = jax.vmap(environment.observe)(task, state)
    if last is None:
        still = jnp.zeros((*seeds.shape, environment.actions.size), observation.dtype)
        last = still, jnp.zeros(seeds.shape, observation.dtype)

    def step(carry, keys):
        state, memory, percept, alive = carry
        new_memory, action, kept = agent(memory, keys[:, 0], percept)
        memory = chosen(alive, new_memory, memory)
        state, reward, done = jax.vmap(environment.step)(keys[:, 1], task, state, action)
        reward = jnp.where(alive, reward, jnp.zeros((), reward.dtype))
        told = (percept.observation, action, reward, alive, kept)
        observation = jax.vmap(environment.observe)(task, state)
        vector = environment.actions.vector(action).astype(observation.dtype)
        percept = chosen(alive, Percept(observation, vector, reward, jnp.zeros_like(percept.first)), percept)
        return (state, memory, percept, alive & ~done), told

    alive = jnp.ones(seeds.shape, bool)
    by_step = jnp.swapaxes(keys[:, :-1].reshape(len(seeds), horizon, 2), 0, 1)
    start = (state, memory, Percept(observation, *last, alive), alive)
    (_, memory, percept, _), told = jax.lax.scan(step, start, by_step)
    observations, actions, rewards, alive, kept = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), told)
    rollouts = Rollouts(observations, actions, rewards, alive, jnp.zeros_like(rewards))
    return Played(rollouts, memory, percept, kept)


def playing(policy: Model, environment: Environment) -> Model:
    """Returns a model that reads tasks and seeds, acts, and answers with what came of it.

    Its parameters are those of `policy`. Only `log_probs` have a derivative: what an environment makes of an action
    stays its own business. Given `Rollouts` for inputs it says how likely their actions are.

    Args:
      policy: maps observations `[N, O]` to what `environment.actions` reads.
      environment: where it acts.
    """
    actions = environment.actions

    def init(key, inputs):
        keys = jax.vmap(jax.random.key)(jnp.asarray(inputs["seed"]))
        state = jax.vmap(environment.reset)(keys, inputs["task"])
        return policy.init(key, jax.vmap(environment.observe)(inputs["task"], state))

    def apply(params, inputs) -> Rollouts:
        found = stop_gradient(inputs if isinstance(inputs, Rollouts) else played(params, inputs))
        count, horizon = found.alive.shape
        outputs = policy.apply(params, found.observations.reshape(count * horizon, -1))
        done = found.actions.reshape(count * horizon, *found.actions.shape[2:])
        log_probs = actions.log_prob(outputs, done).reshape(count, horizon)
        return found._replace(log_probs=jnp.where(found.alive, log_probs, jnp.zeros((), log_probs.dtype)))

    def played(params, inputs) -> Rollouts:
        params = stop_gradient(params)

        def agent(memory, keys, percept: Percept):
            return memory, jax.vmap(actions.draw)(keys, policy.apply(params, percept.observation)), ()

        return play(environment, agent, (), inputs).rollouts

    def features(params, inputs):
        del params, inputs
        raise ValueError(
            "a policy in an environment has no vector for each example that a metric or closed-form head could read; "
            "use an algorithm that takes gradient steps, such as maml"
        )

    return Model(init, apply, features)


def with_fresh_seeds(key: Key, batch: Batch) -> dict:
    """Returns a batch of rollouts to play, with other seeds.

    The seed of a rollout depends on its place and not on how many there are, so that padding changes none.
    """
    places = jnp.arange(leading_size(batch["inputs"]["seed"]))
    bits = jax.vmap(lambda place: jax.random.bits(jax.random.fold_in(key, place), dtype=jnp.uint32))(places)
    return {**batch, "inputs": {**batch["inputs"], "seed": (bits >> 1).astype(jnp.int32)}}
