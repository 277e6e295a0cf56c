"""Navigation to a point in the plane that is not shown (Finn et al. 2017, section 5.3)."""

import jax
import jax.numpy as jnp

from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import Environment
from jaxmeta.environments.actions import gaussian

_NEAR, _FASTEST, _SQUARE = 0.01, 0.1, 0.5


def navigation(horizon: int = 100, *, squared: bool = False) -> Environment:
    """A point starts at zero and is to go to a goal, uniform in `[-0.5, 0.5]²`, of which it knows the rewards alone.

    A task is `{"goal": [2]}`. An action of one is a step of 0.1 along its axis, and what is beyond is cut. The rollout
    ends within 0.01 of the goal on both axes.

    Args:
      horizon: most steps.
      squared: whether the reward is minus the squared distance, as the paper writes, or minus the distance, as its code
        has it and its figures say: a rollout that stays at the start returns -38 on average, not -17.

    Raises:
      ValueError: if `horizon` is not positive.
    """
    check_positive("horizon", horizon)

    def draw(key):
        return {"goal": jax.random.uniform(key, (2,), minval=-_SQUARE, maxval=_SQUARE)}

    def reset(key, task):
        del key
        return jnp.zeros_like(task["goal"])

    def step(key, task, position, action):
        del key
        position = position + _FASTEST * jnp.clip(action, -1.0, 1.0)
        apart = position - task["goal"]
        distance = jnp.sum(jnp.square(apart))
        reward = -distance if squared else -jnp.sqrt(distance)
        return position, reward, jnp.all(jnp.abs(apart) < _NEAR)

    return Environment(horizon, gaussian(2), draw, reset, lambda task, position: position, step)
