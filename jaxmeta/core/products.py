"""Products of matrices in the shape that compilers are fastest with.

A dense layer on `[N, L, D]` is a product of a three-dimensional array, and so are its derivatives, to any order. As one
product of `[N * L, D]` it is the same arithmetic, and XLA answers it, and its derivatives even more, with fewer copies
on a CPU. Nobody should have to write their model differently for that, so it is done to the computation.

A convolution is a product too, of patches and a kernel. XLA's convolutions for a CPU are made for one set of weights
and one derivative; second derivatives, and those of weights that differ between tasks, take many times as long as the
product. On a CPU convolutions are computed as products, therefore, and left alone elsewhere.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta.core.hoist import equations, evaluate


def folded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` with its products folded, and on a CPU its convolutions as products: the same derivatives.

    Products inside of loops and of functions with a derivative of their own stay as they are.

    Args:
      function: a pure function of arrays, in trees.
    """

    def with_folded_products(*args):
        leaves, treedef = jax.tree.flatten(args)
        closed, shapes = jax.make_jaxpr(lambda *leaves: function(*treedef.unflatten(leaves)), return_shape=True)(
            *leaves
        )
        found = list(equations(closed))
        instead = {id(eqn): partial(_fold, eqn) for eqn in found if _is_foldable(eqn)}
        if jax.default_backend() == "cpu":
            instead |= {id(eqn): partial(_convolve, eqn) for eqn in found if _is_plain_convolution(eqn)}
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


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int] | None = None,
    **product: Any,
) -> jax.Array:
    """Convolves as one product of matrices.

    Args:
      x: `[N, *space, C]`.
      kernel: `[*window, C, D]`.
      strides: for each axis of space.
      padding: zeros before and after, for each axis of space.
      dilation: of the kernel, for each axis of space; 1 if not given.
      **product: options of `jax.lax.dot_general`, such as `precision`.

    Returns:
      `[N, *places, D]`.
    """
    window, dilation = kernel.shape[:-2], dilation or (1,) * (kernel.ndim - 2)
    padded = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*around, 0) for around in padding), (0, 0, 0)])
    places = [
        (size - (width - 1) * spread - 1) // stride + 1
        for size, width, spread, stride in zip(padded.shape[1:-1], window, dilation, strides, strict=True)
    ]

    def seen_by(corner: tuple[int, ...]) -> jax.Array:
        """Returns what one entry of the kernel sees from every place, `[N, *places, C]`."""
        begin = [offset * spread for offset, spread in zip(corner, dilation, strict=True)]
        end = [b + (count - 1) * stride + 1 for b, count, stride in zip(begin, places, strides, strict=True)]
        return jax.lax.slice(padded, (0, *begin, 0), (len(x), *end, x.shape[-1]), (1, *strides, 1))

    patches = jnp.concatenate([seen_by(corner) for corner in itertools.product(*map(range, window))], axis=-1)
    inner, outer = math.prod(kernel.shape[:-1]), kernel.shape[-1]
    matrix = patches.reshape(len(x) * math.prod(places), inner)
    found = jax.lax.dot_general(matrix, kernel.reshape(inner, outer), (((1,), (0,)), ((), ())), **product)
    return found.reshape(len(x), *places, outer)


def _is_plain_convolution(eqn) -> bool:
    """Whether an equation is a convolution that every channel and every example takes part in alike."""
    if eqn.primitive.name != "conv_general_dilated":
        return False
    params = eqn.params
    return (
        params["feature_group_count"] == params["batch_group_count"] == 1
        and set(params["lhs_dilation"]) <= {1}
        and min(eqn.outvars[0].aval.shape) > 0
        and eqn.outvars[0].aval.ndim > 2
    )


def _convolve(eqn, x: jax.Array, kernel: jax.Array) -> list[jax.Array]:
    numbers, params = eqn.params["dimension_numbers"], eqn.params
    (examples, channels, *space), (outputs, inputs, *window) = numbers.lhs_spec, numbers.rhs_spec
    found = convolution(
        jnp.transpose(x, (examples, *space, channels)),
        jnp.transpose(kernel, (*window, inputs, outputs)),
        params["window_strides"], params["padding"], params["rhs_dilation"],
        precision=params["precision"], preferred_element_type=params["preferred_element_type"],
    )  # fmt: skip
    first, last, *middle = numbers.out_spec
    where = (first, *middle, last)  # the axis of the answer that each axis of `found` becomes
    return [jnp.transpose(found, [where.index(axis) for axis in range(found.ndim)])]
