"""The rows of learners of policies, whose examples are rollouts."""

import contract_table
import jax.numpy as jnp
import optax
from contract_table import Row, Setting, backprop

from jaxmeta import algorithms, estimators
from jaxmeta.core.gradients import first_order
from jaxmeta.core.rollouts import playing
from jaxmeta.core.types import MetaAlgorithm
from jaxmeta.environments import navigation
from jaxmeta.models import gaussian_policy, recurrent_policy
from jaxmeta.objectives import control

# As few rollouts take their step: nothing that rollouts share, and no second derivative that is meant for many.
SAMPLED = {"coupling": None, "baseline": "none", "normalize": False}


def steering(learn, sampling_term=False, returns=None, **options):
    """Builds a learner of policies on four steps of navigation."""

    def build(s: Setting) -> MetaAlgorithm:
        policy = gaussian_policy((3,), 2, activation=jnp.tanh, param_dtype=s.dtype)
        base = learn(playing(policy, navigation(4)), control(**(returns or {})), optax.sgd(0.1), **options)
        return algorithms.policy_gradient(base, sampling_term=sampling_term)

    return build


def remembering(s: Setting) -> MetaAlgorithm:
    """RL² on four steps of navigation, two rollouts of a support for each step."""
    environment = navigation(4)
    policy = recurrent_policy(3, environment, param_dtype=s.dtype)
    return algorithms.rl2(policy, environment, rollouts=2)


def evolution(algorithm: MetaAlgorithm):
    """The gradient of returns after two steps without a derivative of them."""
    return estimators.evolution(algorithm, num_steps=2, scale=0.1)


def acting(name: str, build, estimator, gradient="random", **options) -> Row:
    """A row of rollouts; which are drawn is not a smooth function of the parameters, so on average is all there is."""
    facts = {"reads": "rollouts", "regresses": True, "draws": True, "fewer_classes": False}
    return Row(name, build, estimator, gradient=gradient, **facts, **options)


ROWS = [
    acting("maml of policies", steering(algorithms.maml), backprop(2)),
    acting("maml of policies, sampling", steering(algorithms.maml, sampling_term=True, returns=SAMPLED), backprop(2)),
    acting("maml of policies, evolution", steering(algorithms.maml, gradient=first_order), evolution),
    acting("cavia of policies", steering(algorithms.cavia, size=2), backprop(2)),
    acting(
        "reptile of policies",
        steering(algorithms.reptile, returns={"baseline": "none"}),
        contract_table.displacement(2),
        "displacement",
        draws_by_shape=True,
    ),
    acting("joint policy", steering(algorithms.maml, gradient=first_order), estimators.pooled, draws_by_shape=True),
    acting("rl2", remembering, backprop(2)),
]
