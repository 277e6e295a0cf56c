"""The Gauss-Newton matrix of a loss: its curvature less that of the outputs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmeta.core.select import merge, unselected
from jaxmeta.core.solvers import Product
from jaxmeta.core.types import ArrayTree, Metrics


def gauss_newton(
    outputs: Callable[[ArrayTree], ArrayTree],
    loss: Callable[[ArrayTree], tuple[jax.Array, Metrics]],
    point: ArrayTree,
) -> tuple[tuple[jax.Array, Metrics], ArrayTree, Product]:
    """Returns a loss and its metrics, its gradient, and products with its Gauss-Newton matrix.

    The matrix is `JᵀHJ`, with `J` the derivative of the outputs and `H` the second derivative of the loss by them. It
    curves nowhere downwards if the loss is convex in the outputs, as squared errors and cross-entropies are, and is
    the second derivative where the outputs are linear or the loss is at its least (Schraudolph 2002, Neural
    Computation 14(7)). A product costs one forward and one backward pass.

    Args:
      outputs: of a point; leaves that are no real numbers are constants.
      loss: of outputs.
      point: where.
    """

    def moving(point):
        found = outputs(point)
        moves = jax.tree.map(lambda leaf: leaf if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) else None, found)
        return moves, unselected(found, moves)

    now, forward, constant = jax.linearize(moving, point, has_aux=True)
    backward = jax.linear_transpose(forward, point)

    def loss_of(now):
        return loss(merge(now, constant))

    # Reported as it is; what is differentiated twice is the number alone.
    slope, bend = jax.linearize(jax.grad(lambda now: loss_of(now)[0]), now)
    return loss_of(now), backward(slope)[0], lambda vector: backward(bend(forward(vector)))[0]
