"""The rows of relatives of MAML and of prototypes, and those of `contract_table.py`: what `test_contracts` reads."""

import contract_table
import optax
from contract_table import Row, Setting, backprop, maml_with

from jaxmeta import algorithms, estimators
from jaxmeta.algorithms import LearnedRates, Part
from jaxmeta.core.gradients import forward_over_reverse
from jaxmeta.core.select import excluding, matching
from jaxmeta.core.types import GradientEstimator, MetaAlgorithm


def imaml_with(rate: float):
    """Builds iMAML on the perceptron, its strength learned."""
    return lambda s: algorithms.imaml(s.mlp(), s.classify(), optax.sgd(rate), learn_strength=True)


def cavia_with(rate: float, **options):
    """Builds CAVIA on the perceptron."""
    return lambda s: algorithms.cavia(s.mlp(), s.classify(), optax.sgd(rate), size=2, **options)


def curved(s: Setting) -> MetaAlgorithm:
    """Meta-Curvature on the perceptron, which has an axis of six numbers that is left as it is."""
    return algorithms.meta_curvature(s.mlp(), s.classify(), optax.sgd(0.3), largest=5)


BLOCK = (Part("block", matching("block_0/(out|down)/"), matching("block_0/")),)


def generated(model: str = "mlp", **options):
    """Builds a meta-network that reads features."""
    options = {"rank": 2, "size": 2, "reads": "features", "gradient": forward_over_reverse, **options}
    return lambda s: algorithms.meta_network(getattr(s, model)(), s.classify(), optax.sgd(0.3), **options)


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
    Row("meta-network", generated(), backprop(2)),
    # Gates cost what they remove, as a share of a model of this size.
    Row("meta-network, gates", generated(gates="relaxed", cost_weight=0.1), backprop(2), fewer_classes=False),
    Row(
        "meta-network, drawn gates",
        generated(gates="sampled", cost_weight=0.1),
        backprop(1),
        num_steps=1,
        draws=True,
        fewer_classes=False,
    ),
    Row("meta-network, zero-shot", generated(centre=True), estimators.pooled, num_steps=0),
    Row(
        "meta-network of text, gates",
        generated("transformer", gates="relaxed", parts=BLOCK),
        backprop(1),
        num_steps=1,
        reads="text",
        fewer_classes=False,
    ),
]
