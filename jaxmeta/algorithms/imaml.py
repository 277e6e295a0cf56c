"""Implicit MAML (Rajeswaran et al. 2019, arXiv 1909.04630): adaptation that is held to its start."""

import math

import jax
import jax.numpy as jnp
import optax

from jaxmeta.algorithms.descent import FastWeights, descent
from jaxmeta.core.checks import check_positive
from jaxmeta.core.gradients import Strategy, forward_over_reverse
from jaxmeta.core.select import Predicate, everything, merge, partition
from jaxmeta.core.types import ArrayTree, Batch, Episode, MetaAlgorithm, MetaParams, Model, Objective, Stationary


def imaml(
    model: Model,
    objective: Objective,
    inner_optimizer: optax.GradientTransformation,
    *,
    strength: float = 1.0,
    learn_strength: bool = False,
    select: Predicate = everything,
    gradient: Strategy = forward_over_reverse,
    microbatches: int = 1,
) -> MetaAlgorithm:
    """Gradient steps on `L(φ; s) + strength/2 |φ - θ|²`; meant for the `implicit` estimator.

    The meta-gradient at the minimum does not depend on the steps that led there, so with `implicit` their number costs
    no memory. Steps that do not come near the minimum make it biased. Under `backprop` the same five functions are MAML
    with a pull to the start.

    Args:
      model: what maps inputs to outputs.
      objective: what the outputs are for.
      inner_optimizer: any optax optimizer; its state starts anew for each task.
      strength: of the pull; larger than what the loss curves downwards anywhere, so that there is one minimum.
      learn_strength: whether it is meta-learned, in log space.
      select: which parameters adapt, by path.
      gradient: the inner-gradient strategy, for `backprop` alone.
      microbatches: parts that the support is cut into, one after another, for the inner gradient.

    Returns:
      An algorithm whose meta-parameters are `{"params": ..., "log_strength": []}` (the latter if it is learned), with
      the task state of `maml`.

    Raises:
      ValueError: if `strength` or `microbatches` is not positive; at `init` if `select` matches no parameter.
    """
    check_positive("strength", strength)

    def pull_of(meta_params: MetaParams):
        return jnp.exp(meta_params["log_strength"]) if learn_strength else strength

    def pulled(meta_params, state: FastWeights, grads):
        start, pull = partition(meta_params["params"], select)[0], pull_of(meta_params)
        return jax.tree.map(lambda grad, now, then: grad + pull * (now - then), grads, state.fast, start)

    def inner_objective(meta_params: MetaParams, fast: ArrayTree, support: Batch):
        start, rest = partition(meta_params["params"], select)
        loss, _ = objective.loss(model.apply(merge(fast, rest), support["inputs"]), support)
        moved = jax.tree.map(jnp.subtract, fast, start)
        return loss + 0.5 * pull_of(meta_params) * optax.tree.norm(moved, squared=True)

    base = descent(
        model, objective, inner_optimizer,
        select=select, gradient=gradient, microbatches=microbatches, of_gradient=pulled,
    )  # fmt: skip

    def init(key, episode: Episode):
        meta_params = base.init(key, episode)
        if not learn_strength:
            return meta_params
        dtype = jax.tree.leaves(meta_params["params"])[0].dtype
        return {**meta_params, "log_strength": jnp.full((), math.log(strength), dtype)}

    return base._replace(init=init, stationary=Stationary("fast", inner_objective))
