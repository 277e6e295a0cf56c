"""Decision processes of a few states, in tables; bandits are those of one state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import Environment
from jaxmeta.environments.actions import categorical


class Tables(NamedTuple):
    """A process of `M` states and `A` actions."""

    rewards: jax.Array  # [M, A], the probability that an action is rewarded with one
    transitions: jax.Array  # [M, A, M], where it leads; rows sum to one


def tabular(states: int, actions: int, horizon: int) -> Environment:
    """Random processes: rewards are one or zero, with probabilities that are uniform; places follow a flat Dirichlet.

    A rollout starts in state 0. An observation is one-hot, so that a linear policy has a number for each state and
    action.

    Raises:
      ValueError: if a number is not positive.
    """
    for name, value in {"states": states, "actions": actions, "horizon": horizon}.items():
        check_positive(name, value)

    def draw(key):
        reward_key, place_key = jax.random.split(key)
        places = jax.random.dirichlet(place_key, jnp.ones(states), (states, actions))
        return Tables(jax.random.uniform(reward_key, (states, actions)), places)

    def reset(key, task):
        del key, task
        return jnp.zeros((), jnp.int32)

    def observe(task: Tables, state):
        return (jnp.arange(states, dtype=jnp.int32) == state).astype(task.rewards.dtype)

    def step(key, task: Tables, state, action):
        reward_key, place_key = jax.random.split(key)
        chance = task.rewards[state, action]
        reward = (jax.random.uniform(reward_key, (), chance.dtype) < chance).astype(chance.dtype)
        place = jax.random.categorical(place_key, jnp.log(task.transitions[state, action])).astype(jnp.int32)
        return place, reward, jnp.zeros((), bool)

    return Environment(horizon, categorical(actions), draw, reset, observe, step)


def bandits(arms: int = 5, pulls: int = 10) -> Environment:
    """Bernoulli bandits, whose arms are rewarded with uniform probabilities; a rollout is some pulls (Duan et al. 2016,
    arXiv 1611.02779).

    Raises:
      ValueError: if a number is not positive.
    """
    return tabular(1, arms, pulls)
