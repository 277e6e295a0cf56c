"""The rows of relatives of MAML and of prototypes, and those of the other tables: what `test_contracts` reads."""

import contract_policies
import contract_table
import numpy as np
import optax
from contract_table import Row, Setting, backprop, maml_with

from jaxmeta import algorithms, estimators
from jaxmeta.algorithms import LearnedRates, Part
from jaxmeta.core.gradients import first_order, forward_over_reverse
from jaxmeta.core.select import excluding, matching
from jaxmeta.core.types import GradientEstimator, MetaAlgorithm


def imaml_with(inner):
    """Builds iMAML on the perceptron, its strength learned, with an optimizer or a solver."""
    return lambda s: algorithms.imaml(s.mlp(), s.classify(), inner, learn_strength=True)


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


def held(regularizer, **options):
    """Builds knowledge transfer on the perceptron."""
    return lambda s: algorithms.knowledge_transfer(s.mlp(), s.classify(), optax.sgd(0.3), regularizer, **options)


def annealed(algorithm: MetaAlgorithm) -> GradientEstimator:
    """A multi-step loss for two outer steps, then the last step's."""
    early = estimators.multistep(algorithm, num_steps=2, anneal_over=2)
    return estimators.in_turn((early, 2), then=estimators.backprop(algorithm, num_steps=2))


def implicit(num_steps: int, solve=estimators.conjugate_gradient(80, 1e-14)):  # noqa: B008
    """An estimator of the algorithm that it is then given, exact where adaptation has converged."""
    return lambda algorithm: estimators.implicit(algorithm, num_steps=num_steps, solve=solve)


def evolution(num_steps: int):
    """An estimator of the algorithm that it is then given, of two pairs."""
    return lambda algorithm: estimators.evolution(algorithm, num_steps=num_steps, scale=0.1, pairs=2)


def carried(build, **options):
    """An estimator of the algorithm that it is then given, whose tasks last for two windows of two steps."""
    return lambda algorithm: build(algorithm, num_steps=2, horizon=4, **options)


def learned(rule, batch_size: int | None = None, **options):
    """Builds a learned optimizer of perceptrons."""
    return lambda s: algorithms.learned_optimizer(rule, s.mlp(), s.classify(), batch_size=batch_size, **options)


def one_kind(algorithm: MetaAlgorithm) -> GradientEstimator:
    """Tasks that are dealt out to a single estimator; which has which of several, the order would decide."""
    each = estimators.backprop(algorithm, num_steps=2)
    return estimators.together(each)


RULE, RECURRENT = algorithms.mlp_rule((3,), rate=0.1), algorithms.lstm_rule(3, 1, rate=0.3)

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
    *(
        Row(f"{name}, first order", maml_with(select=select, gradient=first_order), backprop(2), 2, "first order")
        for name, select in (("anil", matching("^head/")), ("boil", excluding("^head/")))
    ),
    Row("imaml", imaml_with(optax.sgd(0.2)), implicit(150), num_steps=150),
    Row("imaml, neumann", imaml_with(optax.sgd(0.2)), implicit(150, estimators.neumann(0.2, 200)), num_steps=150),
    Row("imaml, backprop", imaml_with(optax.sgd(0.3)), backprop(2)),
    Row("imaml, Gauss-Newton", imaml_with(estimators.conjugate_gradient(60, 1e-14)), implicit(25), num_steps=25),
    Row("imaml, Gauss-Newton, backprop", imaml_with(estimators.conjugate_gradient(4)), backprop(2)),
    Row("cavia", cavia_with(0.3), backprop(2)),
    Row("cavia, implicit", cavia_with(0.2, decay=1.0), implicit(150), num_steps=150),
    Row(
        "cavia of text",
        lambda s: algorithms.cavia(s.transformer(), s.classify(), optax.sgd(0.1), select=matching("(bias|scale)$")),
        backprop(2),
        reads="text",
    ),
    Row(
        "maml, evolution",
        maml_with(gradient=first_order),
        evolution(2),
        gradient="random",
        draws=True,
        fewer_classes=False,
    ),
    Row(
        "protonet, evolution",
        lambda s: algorithms.protonet(s.mlp(), s.classify(), num_classes=s.classes),
        evolution(0),
        num_steps=0,
        gradient="random",
        draws=True,
        fewer_classes=False,
    ),
    Row("maml, truncated", maml_with(), carried(estimators.truncated_backprop)),
    Row(
        "maml, persistent evolution",
        maml_with(gradient=first_order),
        carried(estimators.persistent_evolution, scale=0.1, pairs=2),
        gradient="random",
        draws=True,
        fewer_classes=False,
    ),
    Row(
        "learned optimizer",
        learned(RULE, gradient=forward_over_reverse),
        backprop(2),
        draws=True,
        fewer_classes=False,
    ),
    Row(
        "learned optimizer, truncated",
        learned(RULE, gradient=forward_over_reverse, ceiling=50.0),
        carried(estimators.truncated_backprop),
        draws=True,
        fewer_classes=False,
        width=1e-6,
    ),
    Row(
        "learned optimizer, persistent evolution, minibatches",
        learned(RULE, batch_size=3),
        carried(estimators.persistent_evolution, scale=0.1),
        gradient="random",
        draws=True,
        draws_by_shape=True,
        fewer_classes=False,
    ),
    Row(
        "learned optimizer, lstm",
        learned(RECURRENT, gradient=forward_over_reverse),
        one_kind,
        draws=True,
        fewer_classes=False,
    ),
    Row("transfer, l2-sp", held(algorithms.l2_sp, strength=0.5), backprop(2)),
    Row("transfer, distillation", held(algorithms.distillation(), strength=2.0), backprop(2)),
    Row("transfer, features", held(algorithms.feature_matching(), strength=2.0), backprop(2)),
    Row(
        "transfer, unfreezing",
        held(None, unfreezing=algorithms.Unfreezing((matching("^head/"),), 1)),
        backprop(2),
    ),
    Row("transfer, joint", held(algorithms.distillation()), estimators.pooled),
    Row(
        "nearest sources",
        lambda s: algorithms.source_replay(
            maml_with()(s),
            contract_table.batch(7, 8, s.dtype, targets=s.classes),
            num_examples=3,
            languages=np.arange(8) % 3,
        ),
        None,
        draws=True,
        fewer_classes=False,
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
    *contract_policies.ROWS,
]
