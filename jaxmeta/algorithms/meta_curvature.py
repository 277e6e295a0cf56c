"""Meta-Curvature (Park and Oliva 2019, arXiv 1902.03356): a learned transformation of the inner gradient."""

import math

import jax
import jax.numpy as jnp
import optax

from jaxmeta.algorithms.descent import FastWeights, descent
from jaxmeta.core.checks import check_positive
from jaxmeta.core.gradients import Strategy, forward_over_reverse
from jaxmeta.core.select import Predicate, everything, partition
from jaxmeta.core.types import Episode, MetaAlgorithm, Model, Objective


def meta_curvature(
    model: Model,
    objective: Objective,
    inner_optimizer: optax.GradientTransformation,
    *,
    select: Predicate = everything,
    gradient: Strategy = forward_over_reverse,
    largest: int = 512,
    microbatches: int = 1,
) -> MetaAlgorithm:
    """MAML whose inner gradients are multiplied by a learned matrix along each axis of each parameter array.

    For a kernel `G [I, O]` that is `M_in^T G M_out`: all numbers of its vector multiplied by the Kronecker product of
    both. Axes of a kernel before its last two (the places of a convolution) count as one. All matrices begin as the
    identity, and what is stored is the difference to it, so that weight decay leads back to MAML.

    Args:
      model: what maps inputs to outputs.
      objective: what the outputs are for.
      inner_optimizer: any optax optimizer; it is given the transformed gradient.
      select: which parameters adapt, by path.
      gradient: the inner-gradient strategy, see `jaxmeta.core.gradients`.
      largest: longer axes (the rows of an embedding table) are left as they are.
      microbatches: parts that the support is cut into, one after another, for the inner gradient. The objective's
        loss must then be a mean over the real examples.

    Returns:
      An algorithm whose meta-parameters are `{"params": ..., "curvature": ...}`, the latter a tuple of matrices
      `[D, D]`, or None, for each array that adapts, with the task state of `maml`.

    Raises:
      ValueError: if `largest` or `microbatches` is not positive; at `init` if `select` matches no parameter.
    """
    check_positive("largest", largest)

    def transformed(meta_params, state: FastWeights, grads):
        del state
        return jax.tree.map(_transformed, grads, meta_params["curvature"])

    base = descent(
        model, objective, inner_optimizer,
        select=select, gradient=gradient, microbatches=microbatches, of_gradient=transformed,
    )  # fmt: skip

    def matrices(leaf):
        sizes = _folded(leaf.shape)
        return tuple(jnp.zeros((size, size), leaf.dtype) if size <= largest else None for size in sizes)

    def init(key, episode: Episode):
        meta_params = base.init(key, episode)
        selected, _ = partition(meta_params["params"], select)
        return {**meta_params, "curvature": jax.tree.map(matrices, selected)}

    return base._replace(init=init)


def _folded(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a shape with all axes before the last two as one."""
    return shape if len(shape) <= 2 else (math.prod(shape[:-2]), *shape[-2:])


def _transformed(grad: jax.Array, matrices: tuple[jax.Array | None, ...]) -> jax.Array:
    """Multiplies an array by identity + matrix along each of its axes."""
    found = grad.reshape(_folded(grad.shape))
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            found = found + jnp.moveaxis(jnp.tensordot(found, matrix, axes=(axis, 0)), -1, axis)
    return found.reshape(grad.shape)
