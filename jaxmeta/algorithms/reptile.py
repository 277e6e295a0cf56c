"""Reptile (Nichol et al. 2018, arXiv 1803.02999)."""

import jax
import jax.numpy as jnp
import optax

from jaxmeta.algorithms.maml import maml
from jaxmeta.core.checks import check_positive
from jaxmeta.core.gradients import first_order
from jaxmeta.core.select import Predicate, everything
from jaxmeta.core.trees import leading_size
from jaxmeta.core.types import Batch, Key, MetaAlgorithm, Model, Objective


def reptile(
    model: Model,
    objective: Objective,
    inner_optimizer: optax.GradientTransformation,
    *,
    batch_size: int | None = None,
    select: Predicate = everything,
) -> MetaAlgorithm:
    """Stochastic gradient steps on minibatches of the support; meant for the `displacement` estimator.

    Args:
      model: what maps inputs to outputs.
      objective: what the outputs are for.
      inner_optimizer: any optax optimizer.
      batch_size: examples in each inner step, drawn without replacement; None takes the whole support.
      select: which parameters adapt, by path.

    Returns:
      An algorithm with the states of `maml`.

    Raises:
      ValueError: if `batch_size` is not positive.
    """
    if batch_size is not None:
        check_positive("batch_size", batch_size)
    base = maml(model, objective, inner_optimizer, select=select, gradient=first_order)

    def step(key, meta_params, state, support):
        draw_key, step_key = jax.random.split(key)
        return base.step(step_key, meta_params, state, minibatch(draw_key, support, batch_size))

    return base._replace(step=step)


def minibatch(key: Key, batch: Batch, size: int | None) -> Batch:
    """Draws `size` examples of `batch` without replacement, real ones before padding; all of them if it has fewer."""
    num_examples = leading_size(batch)
    if size is None or size >= num_examples:
        return batch
    scores = jax.random.uniform(key, (num_examples,))
    if "mask" in batch:
        scores = scores + batch["mask"].astype(scores.dtype)
    chosen = jax.lax.top_k(scores, size)[1]
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen], batch)
