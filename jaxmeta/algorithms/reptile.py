"""Reptile (Nichol et al. 2018, arXiv 1803.02999)."""

import optax

from jaxmeta.algorithms.maml import maml
from jaxmeta.algorithms.minibatches import on_minibatches
from jaxmeta.core.checks import check_positive
from jaxmeta.core.gradients import first_order
from jaxmeta.core.select import Predicate, everything
from jaxmeta.core.types import MetaAlgorithm, Model, Objective


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
    return on_minibatches(base, batch_size)
