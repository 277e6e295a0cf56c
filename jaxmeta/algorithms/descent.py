"""Gradient steps on a part of the parameters: what MAML and its relatives share."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmeta.core.checks import check_positive
from jaxmeta.core.gradients import InnerGradient, Strategy
from jaxmeta.core.select import Predicate, merge, partition
from jaxmeta.core.trees import leading_size, strip_weak_types
from jaxmeta.core.types import ArrayTree, Batch, Episode, MetaAlgorithm, MetaParams, Model, Objective


class FastWeights(NamedTuple):
    """What adaptation changes."""

    fast: ArrayTree  # the adapted subset of the parameters, None where a parameter does not adapt
    opt_state: ArrayTree
    step: jax.Array  # [] int32


# (meta_params, state before the step, a tree like `state.fast`) -> such a tree
Change = Callable[[MetaParams, FastWeights, ArrayTree], ArrayTree]
# (loss of the support, parameters now, those that adaptation began with, support) -> scalar
Penalty = Callable[[jax.Array, ArrayTree, ArrayTree, Batch], jax.Array]


def descent(
    model: Model,
    objective: Objective,
    inner_optimizer: optax.GradientTransformation,
    *,
    select: Predicate,
    gradient: Strategy,
    microbatches: int = 1,
    of_loss: Penalty | None = None,
    of_gradient: Change | None = None,
    of_update: Change | None = None,
) -> MetaAlgorithm:
    """Steps of an optimizer on the support's loss, from `meta_params["params"]`.

    Args:
      model: what maps inputs to outputs.
      objective: what the outputs are for.
      inner_optimizer: any optax optimizer; its state starts anew for each task.
      select: which parameters adapt, by path.
      gradient: the inner-gradient strategy, see `jaxmeta.core.gradients`.
      microbatches: parts that the support is cut into, one after another, for the inner gradient. The objective's
        loss must then be a mean over the real examples.
      of_loss: what is minimised in place of the support's loss.
      of_gradient: what is done to an inner gradient before the optimizer sees it.
      of_update: what is done to the optimizer's update before it is added.

    Returns:
      An algorithm whose meta-parameters are `{"params": ...}`; whoever learns more adds it to `init`.

    Raises:
      ValueError: if `microbatches` is not positive; at `init` if `select` matches no parameter; when adapting if
        `microbatches` does not divide the support.
    """

    def support_loss(fast, others, support: Batch):
        rest, start = others
        params = merge(fast, rest)
        loss, metrics = objective.loss(model.apply(params, support["inputs"]), support)
        return of_loss(loss, params, start, support) if of_loss else loss, metrics

    support_gradient = in_parts(gradient(support_loss), microbatches)

    def init(key, episode: Episode):
        params = model.init(key, episode.support["inputs"])
        partition(params, select)  # says so where it matches nothing
        return {"params": params}

    def begin(key, meta_params, support):
        del key, support
        fast, _ = partition(meta_params["params"], select)
        opt_state = strip_weak_types(inner_optimizer.init(fast))
        return FastWeights(fast, opt_state, jnp.zeros((), jnp.int32))

    def step(key, meta_params, state: FastWeights, support):
        del key
        _, rest = partition(meta_params["params"], select)
        start = meta_params["params"] if of_loss else None
        (loss, metrics), grads = support_gradient(state.fast, (rest, start), support)
        grads = of_gradient(meta_params, state, grads) if of_gradient else grads
        updates, opt_state = inner_optimizer.update(grads, state.opt_state, state.fast)
        updates = of_update(meta_params, state, updates) if of_update else updates
        fast = optax.apply_updates(state.fast, updates)
        return FastWeights(fast, opt_state, state.step + 1), {**metrics, "loss": loss}

    def loss(key, meta_params, state: FastWeights, query):
        del key
        return objective.loss(predict(meta_params, state, query["inputs"]), query)

    def predict(meta_params, state: FastWeights, inputs):
        _, rest = partition(meta_params["params"], select)
        return model.apply(merge(state.fast, rest), inputs)

    return MetaAlgorithm(init, begin, step, loss, predict)


def in_parts(support_gradient: InnerGradient, parts: int) -> InnerGradient:
    """The same gradient, a part of the support after the other: the mean weighted by the real examples of each.

    Raises:
      ValueError: if `parts` is not positive; when it is called if `parts` does not divide the support.
    """
    check_positive("microbatches", parts)
    if parts == 1:
        return support_gradient

    def gradient(fast, others, support: Batch):
        size = leading_size(support)
        if size % parts:
            raise ValueError(f"`microbatches` must divide the support, got {parts} for {size} examples")
        cut = jax.tree.map(lambda leaf: jnp.reshape(leaf, (parts, size // parts, *jnp.shape(leaf)[1:])), dict(support))
        real = jnp.sum(cut["mask"], axis=1) if "mask" in cut else jnp.full(parts, size // parts)

        def add(total, part):
            batch, count = part
            found = support_gradient(fast, others, batch)
            share = count / jnp.maximum(jnp.sum(real), 1)
            return jax.tree.map(lambda t, leaf: t + share.astype(t.dtype) * leaf, total, found), None

        first = jax.tree.map(lambda leaf: leaf[0], cut)
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(support_gradient, fast, others, first))
        return jax.lax.scan(add, zeros, (cut, real))[0]

    return gradient
