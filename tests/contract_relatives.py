"""The rows of relatives of MAML and of prototypes, and those of `contract_table.py`: what `test_contracts` reads."""

import contract_table
import jax.numpy as jnp
import optax
from contract_table import Row, Setting, backprop, maml_with

from jaxmeta import algorithms, estimators
from jaxmeta.algorithms import LearnedRates
from jaxmeta.core.gradients import first_order
from jaxmeta.core.rollouts import playing
from jaxmeta.core.select import excluding, matching
from jaxmeta.core.types import GradientEstimator, MetaAlgorithm
from jaxmeta.environments import navigation
from jaxmeta.models import gaussian_policy, recurrent_policy
from jaxmeta.objectives import control


def imaml_with(rate: float):
    """Builds iMAML on the perceptron, its strength learned."""
    return lambda s: algorithms.imaml(s.mlp(), s.classify(), optax.sgd(rate), learn_strength=True)


def cavia_with(rate: float, **options):
    """Builds CAVIA on the perceptron."""
    return lambda s: algorithms.cavia(s.mlp(), s.classify(), optax.sgd(rate), size=2, **options)


def curved(s: Setting) -> MetaAlgorithm:
    """Meta-Curvature on the perceptron, which has an axis of six numbers that is left as it is."""
    return algorithms.meta_curvature(s.mlp(), s.classify(), optax.sgd(0.3), largest=5)


def maml_plus_plus(s: Setting) -> MetaAlgorithm:
    """MAML with rates for each step and array, and biases for each step, which do not adapt otherwise."""
    base = maml_with(select=excluding("bias$"), rates=LearnedRates("leaf", steps=2))(s)
    return algorithms.per_step(base, select=matching("bias$"), steps=3)


def annealed(algorithm: MetaAlgorithm) -> GradientEstimator:
    """A multi-step loss for two outer steps, then the last step's."""
    early = estimators.multistep(algorithm, num_steps=2, anneal_over=2)
    return estimators.in_turn((early, 2), then=estimators.backprop(algorithm, num_steps=2))


def implicit(num_steps: int):
    """An estimator of the algorithm that it is then given, exact where adaptation has converged."""
    solve = estimators.conjugate_gradient(80, 1e-14)
    return lambda algorithm: estimators.implicit(algorithm, num_steps=num_steps, solve=solve)


def steering(learn, rate=0.1, sampling_term=False, returns=None, **options):
    """Builds a learner of policies on five steps of navigation."""

    def build(s: Setting) -> MetaAlgorithm:
        policy = gaussian_policy((3,), 2, activation=jnp.tanh, param_dtype=s.dtype)
        base = learn(playing(policy, navigation(5)), control(**(returns or {})), optax.sgd(rate), **options)
        return algorithms.policy_gradient(base, sampling_term=sampling_term)

    return build


def remembering(s: Setting) -> MetaAlgorithm:
    """RL² on five steps of navigation, two rollouts of a support for each step."""
    environment = navigation(5)
    policy = recurrent_policy(3, environment, param_dtype=s.dtype)
    return algorithms.rl2(policy, environment, rollouts=2)


def acting(name: str, build, estimator, gradient="expectation", **options) -> Row:
    """A row of rollouts."""
    facts = {"reads": "rollouts", "regresses": True, "draws": True, "fewer_classes": False}
    return Row(name, build, estimator, gradient=gradient, **facts, **options)


# As few rollouts take their step: nothing that rollouts share, and no second derivative that is meant for many.
SAMPLED = {"coupling": None, "baseline": "none", "normalize": False}

ROWS = [
    *contract_table.ROWS,
    Row(
        "transductive_protonet",
        lambda s: algorithms.transductive_protonet(s.mlp(), s.classify(), num_classes=s.classes, refinements=2),
        backprop(0),
        num_steps=0,
    ),
    Row(
        "matching_network",
        lambda s: algorithms.matching_network(s.mlp(), s.classify(), num_classes=s.classes),
        backprop(0),
        num_steps=0,
    ),
    Row(
        "relation_network",
        lambda s: algorithms.relation_network(s.mlp(), s.classify(), num_classes=s.classes, width=6),
        backprop(0),
        num_steps=0,
    ),
    Row(
        "proto_maml",
        lambda s: algorithms.proto_maml(s.mlp(), s.classify(), optax.sgd(0.3), num_classes=s.classes),
        backprop(2),
    ),
    Row("logistic", lambda s: algorithms.logistic(s.mlp(), s.classify(), num_classes=s.classes), backprop(0), 0),
    Row("boil", maml_with(select=excluding("^head/")), backprop(2)),
    Row("maml++", maml_plus_plus, annealed),
    Row("imaml", imaml_with(0.2), implicit(150), num_steps=150),
    Row("imaml, backprop", imaml_with(0.3), backprop(2)),
    Row("cavia", cavia_with(0.3), backprop(2)),
    Row("cavia, implicit", cavia_with(0.2, decay=1.0), implicit(150), num_steps=150),
    Row(
        "cavia of text",
        lambda s: algorithms.cavia(s.transformer(), s.classify(), optax.sgd(0.1), select=matching("(bias|scale)$")),
        backprop(2),
        reads="text",
    ),
    Row("meta-curvature", curved, backprop(2), fewer_classes=False),
    acting("maml of policies", steering(algorithms.maml), backprop(2)),
    acting("maml of policies, low variance", steering(algorithms.maml, returns={"coupling": 0.0}), backprop(2)),
    acting("maml of policies, sampling", steering(algorithms.maml, sampling_term=True, returns=SAMPLED), backprop(2)),
    acting("fomaml of policies", steering(algorithms.maml, gradient=first_order), backprop(2)),
    acting("anil of policies", steering(algorithms.maml, select=matching("head/")), backprop(2)),
    acting("meta-sgd of policies", steering(algorithms.maml, rates=LearnedRates("element")), backprop(2)),
    acting("cavia of policies", steering(algorithms.cavia, size=2), backprop(2)),
    acting("maml of policies, several steps", steering(algorithms.maml), annealed),
    acting(
        "reptile of policies",
        steering(algorithms.reptile, returns={"baseline": "none"}),
        contract_table.displacement(2),
        "displacement",
        draws_by_shape=True,
    ),
    acting("rl2", remembering, backprop(2)),
    acting("joint policy", steering(algorithms.maml, gradient=first_order), estimators.pooled, draws_by_shape=True),
]
