"""A half-cheetah that is to run at some speed or in some direction, simulated by brax (Finn et al. 2017)."""

import jax
import jax.numpy as jnp

from jaxmeta.core.checks import InputError, check_one_of, check_positive
from jaxmeta.core.types import Environment
from jaxmeta.environments.actions import gaussian

GOALS = ("direction", "velocity")
_EFFORT, _FASTEST = 0.05, 2.0


def half_cheetah(horizon: int = 100, *, goal: str = "direction", backend: str = "spring") -> Environment:
    """The half-cheetah of brax with six joints; a step is a twentieth of a second. Observations do not show the goal.

    A task is `{"goal": []}`: of "direction", one or minus one, and the reward is the velocity that way; of "velocity",
    uniform in `[0, 2]`, and the reward is minus the distance to it. Either way less 0.05 of the squared action.

    Args:
      horizon: steps of a rollout.
      goal: see above.
      backend: of brax, which simulates in other ways, coarser and faster or the other way round.

    Raises:
      ValueError: if `horizon` is not positive or `goal` unknown.
      InputError: if brax is not installed.
    """
    check_positive("horizon", horizon)
    check_one_of("goal", goal, GOALS)
    try:
        from brax.envs import get_environment  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f'The half-cheetah is simulated by brax, which cannot be imported ({error}); run pip install "jaxmeta[rl]".'
        ) from None
    cheetah = get_environment("halfcheetah", backend=backend)

    def draw(key):
        if goal == "direction":
            return {"goal": jax.random.rademacher(key, (), jnp.float32)}
        return {"goal": jax.random.uniform(key, (), maxval=_FASTEST)}

    def reset(key, task):
        del task
        return cheetah.reset(key)

    def step(key, task, state, action):
        del key
        action = jnp.clip(action, -1.0, 1.0)
        state = cheetah.step(state, action)
        velocity = state.metrics["x_velocity"]
        reward = velocity * task["goal"] if goal == "direction" else -jnp.abs(velocity - task["goal"])
        return state, reward - _EFFORT * jnp.sum(jnp.square(action)), jnp.zeros((), bool)

    return Environment(horizon, gaussian(cheetah.action_size), draw, reset, lambda task, state: state.obs, step)
