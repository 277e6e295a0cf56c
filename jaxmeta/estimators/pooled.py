"""Joint training: no adaptation, one pooled loss."""

import jax

from jaxmeta.core.trees import joined
from jaxmeta.core.types import Batch, Episode, GradientEstimator, MetaAlgorithm
from jaxmeta.estimators.backprop import backprop


def pooled(algorithm: MetaAlgorithm) -> GradientEstimator:
    """The gradient of the mean over tasks of the loss of all their examples, support and query, with no inner step.

    A task weighs as much as another, however many of its examples are real.

    This trains the multilingual baselines (and the warm start of any meta-learner): an algorithm whose `begin` copies
    the parameters, such as `maml`, is trained by it as one ordinary model of all tasks. So is a `meta_network` that is
    to generate without labels.

    Raises:
      ValueError: at `init` if what adaptation begins with owes nothing to the meta-parameters, or if it reads the
        support's answers (targets, or the right side of pairs), which it would be trained to repeat.
    """
    without_adaptation = backprop(algorithm, num_steps=0)

    def init(key, meta_params, episodes):
        first = jax.tree.map(lambda leaf: leaf[0], episodes)

        def loss(meta_params):
            begun = algorithm.begin(key, meta_params, first.support)
            return algorithm.loss(key, meta_params, begun, first.query)[0]

        def begun(answers):
            return algorithm.begin(key, meta_params, _with_answers(first.support, answers))

        if _depends(jax.make_jaxpr(begun)(_answers(first.support)).jaxpr):
            raise ValueError(
                "`pooled` trains on the support's answers too, and this algorithm has read them when it begins, so "
                "that it would learn to repeat them; use `backprop` (without a step: `num_steps=0`)"
            )
        if not _depends(jax.make_jaxpr(loss)(meta_params).jaxpr):
            raise ValueError(
                "`pooled` takes no inner step, and without one this algorithm's loss owes nothing to what is learned; "
                "use an estimator with steps (backprop, truncated_backprop, evolution, persistent_evolution)"
            )
        return without_adaptation.init(key, meta_params, episodes)

    def estimate(key, meta_params, state, episodes):
        # Joined along the examples, which come after the task axis.
        every = jax.vmap(joined)(episodes.support, episodes.query)
        return without_adaptation.estimate(key, meta_params, state, Episode(episodes.support, every))

    return GradientEstimator(init, estimate)


def _answers(support: Batch) -> Batch:
    """Returns what of a support is its answers: the targets, or the right side of pairs, which have none."""
    if "targets" in support:
        return {"targets": support["targets"]}
    inputs = support["inputs"]
    return {"right": inputs["right"]} if isinstance(inputs, dict) and "right" in inputs else {}


def _with_answers(support: Batch, answers: Batch) -> Batch:
    return {**support, "inputs": {**support["inputs"], **answers}} if "right" in answers else {**support, **answers}


def _depends(jaxpr) -> bool:
    """Returns whether an output of a computation has come from an input, as far as its steps show from outside."""
    wanted = {id(of) for of in jaxpr.outvars}
    for step in reversed(jaxpr.eqns):
        if any(id(of) in wanted for of in step.outvars):
            wanted |= {id(of) for of in step.invars}
    return any(id(of) in wanted for of in jaxpr.invars)
