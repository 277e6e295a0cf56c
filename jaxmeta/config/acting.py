"""Learning to act, in configs: the environments there are, their policies, and what meta-learners do in them."""

import functools
from collections.abc import Callable, Mapping

import jax.numpy as jnp

from jaxmeta import environments, models, objectives
from jaxmeta.algorithms import policy_gradient, rl2
from jaxmeta.config.schema import Config
from jaxmeta.core.checks import InputError
from jaxmeta.core.rollouts import playing
from jaxmeta.core.types import Environment, MetaAlgorithm, Model, Objective

ENVIRONMENTS: Mapping[str, Callable[[], Environment]] = {
    "navigation_2d": environments.navigation,
    "bandits": environments.bandits,
    "half_cheetah": environments.half_cheetah,
}
REMEMBERED = 2  # rollouts that RL² plays one after another at each step
_ENTROPY = 0.003  # without it a policy settles on one action before it reads what came of it
_DISCOUNTS = {"navigation_2d": 0.99, "half_cheetah": 0.99}


@functools.cache
def environment_of(source: str) -> Environment:
    """Returns an environment, made once: a simulator takes seconds to read what it simulates.

    Raises:
      InputError: it needs a library that is not installed.
    """
    return ENVIRONMENTS[source]()


def playing_model(config: Config, outputs: int, vocab_size: int) -> Model:
    """Returns what plays in the environment of a config by a perceptron.

    Raises:
      InputError: the config asks for what rollouts are not computed in.
    """
    del outputs, vocab_size
    settings = config.model
    if settings.precision != "float32":
        raise InputError(f'`model.precision` must be "float32" in environments, got "{settings.precision}".')
    environment = environment_of(config.task.source)
    hidden = (settings.width,) * settings.layers
    size, tanh = environment.actions.size, {"activation": jnp.tanh}
    discrete = environment.actions.discrete
    policy = models.mlp(hidden, size, **tanh) if discrete else models.gaussian_policy(hidden, size, **tanh)
    return playing(policy, environment)


def returns(config: Config, outputs: int, tokens: int) -> Objective:
    """Returns the objective of a config's environment."""
    del outputs, tokens
    return objectives.control(discount=_DISCOUNTS.get(config.task.source, 1.0), coupling=config.inner.coupling)


def remembering_policy(config: Config) -> MetaAlgorithm:
    """Returns RL² in the environment of a config; a step of it plays few of the rollouts that a support has."""
    environment = environment_of(config.task.source)
    policy = models.recurrent_policy(config.model.width, environment)
    # What comes later than a rollout counts little: longer sums of rewards are noise before they are predicted.
    discount = 1 - 1 / environment.horizon
    return rl2(policy, environment, rollouts=min(REMEMBERED, config.task.shots), discount=discount, entropy=_ENTROPY)


def on_fresh_rollouts(build: Callable[..., MetaAlgorithm]) -> Callable[..., MetaAlgorithm]:
    """Returns what builds the same algorithm, on rollouts that are drawn anew for each of its steps."""
    return lambda *args, **options: policy_gradient(build(*args, **options))
