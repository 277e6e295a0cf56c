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

    def weights(meta_params, *of_child):
        return meta_params["params"] if ceiling is None else _finite_derivative(meta_params["params"], _any(of_child))

    def begin(key, meta_params, support):
        params = strip_weak_types(model.init(key, support["inputs"]))
        return Child(params, strip_weak_types(rule.begin(weights(meta_params, params, support), params)))

    def step(key, meta_params, state: Child, support):
        del key
        (value, metrics), grads = support_gradient(state.params, support)
        updates, memory = rule.update(weights(meta_params, state.params, grads), state.memory, grads, state.params)
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


def _any(tree: ArrayTree) -> jax.Array:
    """Returns a number that depends on every leaf, and so is one for each child if any leaf is."""
    return sum((jnp.ravel(leaf)[0].astype(jnp.float32) for leaf in jax.tree.leaves(tree)), jnp.zeros((), jnp.float32))


@jax.custom_vjp
def _finite_derivative(tree: ArrayTree, number: jax.Array) -> ArrayTree:
    """Returns `tree`, whose derivative is zero where it would not be finite; `number` is any that is the child's own.

    At the ceiling a loss has the derivative zero, and zero times what a diverged child computes is not a number.
    """
    return _own(tree, number)


def _own(tree: ArrayTree, number: jax.Array) -> ArrayTree:
    """Returns `tree`, of which each child of a batch has its own, so that derivatives are looked at one by one.

    The function and its forward rule must be batched alike, or a loop refuses them.
    """
    return jax.tree.map(lambda leaf: jnp.where(number == 0, leaf, leaf), tree)


def _forward(tree: ArrayTree, number: jax.Array) -> tuple[ArrayTree, jax.Array]:
    return _own(tree, number), jnp.zeros_like(number)


def _backward(zero: jax.Array, slopes: ArrayTree) -> tuple[ArrayTree, jax.Array]:
    return jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, jnp.zeros_like(leaf)), slopes), zero


_finite_derivative.defvjp(_forward, _backward)
