"""A learned optimizer: what is meta-learned is the rule by which child models are trained (Andrychowicz et al. 2016,
arXiv 1606.04474; Metz et al. 2022, arXiv 2203.11860).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmeta.algorithms.minibatches import on_minibatches
from jaxmeta.algorithms.update_rules import UpdateRule
from jaxmeta.core.checks import check_positive
from jaxmeta.core.gradients import Strategy, first_order
from jaxmeta.core.trees import strip_weak_types
from jaxmeta.core.types import ArrayTree, Batch, Episode, MetaAlgorithm, Model, Objective


class Child(NamedTuple):
    """What adaptation changes."""

    params: ArrayTree  # of the child model
    memory: ArrayTree  # of the rule


def learned_optimizer(
    rule: UpdateRule,
    model: Model,
    objective: Objective,
    *,
    batch_size: int | None = None,
    gradient: Strategy = first_order,
    ceiling: float | None = None,
) -> MetaAlgorithm:
    """Each task is a child model that is trained from scratch on the support by a rule that is meta-learned.

    Nothing of the rule depends on the child, so what was learned on one model trains any other, see `as_optax`; and one
    tree of meta-parameters can be trained on several kinds of children, see `together`.

    Args:
      rule: turns gradients into updates.
      model: the child.
      objective: what its outputs are for.
      batch_size: examples in each inner step, drawn without replacement; None takes the whole support.
      gradient: how the child's gradient is differentiated where the estimator differentiates it; by default it is taken
        as a constant, as in both papers.
      ceiling: the query loss is no more than this, nor is it NaN, so that a child that diverges is bad and no more.

    Returns:
      An algorithm whose meta-parameters are `{"params": the rule's weights}`.

    Raises:
      ValueError: if `batch_size` or `ceiling` is not positive.
    """
    if batch_size is not None:
        check_positive("batch_size", batch_size)
    if ceiling is not None:
        check_positive("ceiling", ceiling)

    def support_loss(params, support: Batch):
        return objective.loss(model.apply(params, support["inputs"]), support)

    support_gradient = gradient(support_loss)

    def init(key, episode: Episode):
        child = jax.eval_shape(model.init, key, episode.support["inputs"])
        return {"params": rule.init(key, jax.tree.leaves(child)[0].dtype)}

    def begin(key, meta_params, support):
        params = strip_weak_types(model.init(key, support["inputs"]))
        return Child(params, strip_weak_types(rule.begin(meta_params["params"], params)))

    def step(key, meta_params, state: Child, support):
        del key
        (value, metrics), grads = support_gradient(state.params, support)
        updates, memory = rule.update(meta_params["params"], state.memory, grads, state.params)
        return Child(optax.apply_updates(state.params, updates), memory), {**metrics, "loss": value}

    def loss(key, meta_params, state: Child, query):
        del key
        value, metrics = objective.loss(predict(meta_params, state, query["inputs"]), query)
        if ceiling is not None:
            value = jnp.where(value < ceiling, value, ceiling)
        return value, metrics

    def predict(meta_params, state: Child, inputs):
        del meta_params
        return model.apply(state.params, inputs)

    return on_minibatches(MetaAlgorithm(init, begin, step, loss, predict), batch_size)
