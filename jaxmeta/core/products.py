"""Products of matrices in the shape that compilers are fastest with.

A dense layer on `[N, L, D]` is a product of a three-dimensional array, and so are its derivatives, to any order. As one
product of `[N * L, D]` it is the same arithmetic, and XLA answers it, and its derivatives even more, with fewer copies
on a CPU. Nobody should have to write their model differently for that, so it is done to the computation.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from jaxmeta.core.hoist import equations, evaluate


def folded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` with the axes of its products folded: the same numbers, the same derivatives.

    Products inside of loops and of functions with a derivative of their own stay as they are.

    Args:
      function: a pure function of arrays, in trees.
    """

    def with_folded_products(*args):
        leaves, treedef = jax.tree.flatten(args)
        closed, shapes = jax.make_jaxpr(lambda *leaves: function(*treedef.unflatten(leaves)), return_shape=True)(
            *leaves
        )
        instead = {id(eqn): partial(_fold, eqn) for eqn in equations(closed) if _is_foldable(eqn)}
        outputs = evaluate(closed, leaves, instead)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return with_folded_products


def _is_foldable(eqn) -> bool:
    """Whether an equation is a product whose operands become matrices without moving a number."""
    if eqn.primitive.name != "dot_general" or eqn.params.get("out_sharding") is not None:
        return False
    sides = list(zip((var.aval.shape for var in eqn.invars), _contracted(eqn), strict=True))
    return (
        not eqn.params["dimension_numbers"][1][0]
        and any(len(shape) > 2 for shape, _ in sides)
        and all(0 < len(axes) < len(shape) and _at_an_end(len(shape), axes) for shape, axes in sides)
    )


def _contracted(eqn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes that a product sums over, of either operand, in the order of the first."""
    pairs = sorted(zip(*eqn.params["dimension_numbers"][0], strict=True))
    return tuple(left for left, _ in pairs), tuple(right for _, right in pairs)


def _at_an_end(ndim: int, axes: tuple[int, ...]) -> bool:
    return axes in (tuple(range(len(axes))), tuple(range(ndim - len(axes), ndim)))


def _fold(eqn, left: jax.Array, right: jax.Array) -> list[jax.Array]:
    left_axes, right_axes = _contracted(eqn)
    left_matrix, left_axis, rows = _matrix(left, left_axes)
    right_matrix, right_axis, columns = _matrix(right, right_axes)
    kept = {name: eqn.params[name] for name in ("precision", "preferred_element_type")}
    product = jax.lax.dot_general(left_matrix, right_matrix, (((left_axis,), (right_axis,)), ((), ())), **kept)
    return [product.reshape(*rows, *columns)]


def _matrix(array: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, int, tuple[int, ...]]:
    """Returns `array` as a matrix, its axis that is summed over, and the shape that the other one stands for."""
    inner = math.prod(array.shape[axis] for axis in axes)
    if axes[0] == 0:
        free = array.shape[len(axes) :]
        return array.reshape(inner, math.prod(free)), 0, free
    free = array.shape[: -len(axes)]
    return array.reshape(math.prod(free), inner), 1, free
