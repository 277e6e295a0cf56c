"""Pytree arithmetic and hygiene that jax and optax do not have under one name."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta.core.types import ArrayTree, Batch


def strip_weak_types(tree: ArrayTree) -> ArrayTree:
    """Returns `tree` with strong types, so that a carry keeps its type and nothing is traced twice."""

    def strip(leaf):
        leaf = jnp.asarray(leaf)
        return jax.lax.convert_element_type(leaf, leaf.dtype)

    return jax.tree.map(strip, tree)


def owned(tree: ArrayTree) -> ArrayTree:
    """Copies every leaf, as strong-typed arrays that nobody else holds and that may be donated."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.asarray(leaf).dtype, copy=True), tree)


def stop_gradient(tree: ArrayTree) -> ArrayTree:
    """Returns `tree` with its derivative cut; leaves that have none pass unchanged."""
    return jax.tree.map(jax.lax.stop_gradient, tree)


def sum_dtype(dtype):
    """Returns the precision to add up numbers of a floating `dtype` in."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def at_least_float32(values: jax.Array) -> jax.Array:
    """Casts half precision up, because a sum or a loss in it has two or three digits."""
    values = jnp.asarray(values)
    return values.astype(sum_dtype(values.dtype))


def unit(x: jax.Array, *, floor: float = 1e-8) -> jax.Array:
    """Returns `x [N, D]` with every row at length one; smooth at zero, which stays zero.

    Args:
      x: vectors, in the precision that their lengths are to be taken in.
      floor: beside the squared lengths; rows that are short beside its root stay shorter than one.
    """
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + floor)


def leading_size(tree: ArrayTree) -> int:
    """Returns the size of the leading axis, which all leaves share: the tasks of a batch, the examples of a task."""
    return jax.tree.leaves(tree)[0].shape[0]


def mean_over_tasks(tree: ArrayTree) -> ArrayTree:
    """Averages the leading (task) axis of every leaf: `[T, ...]` to `[...]`."""
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), tree)


def blank(shapes: ArrayTree, *axes: int) -> ArrayTree:
    """Returns zeros in the shapes and types of a tree, with more axes in front."""
    return jax.tree.map(lambda leaf: jnp.zeros((*axes, *leaf.shape), leaf.dtype), shapes)


def chosen(mask: jax.Array, yes: ArrayTree, no: ArrayTree) -> ArrayTree:
    """Returns the leaves of one tree where the mask holds, of the other elsewhere; its axes are their first ones."""

    def of_leaves(a, b):
        return jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - mask.ndim)), a, b)

    return jax.tree.map(of_leaves, yes, no)


def joined(first: Batch, second: Batch) -> dict:
    """Joins two batches along the example axis: leaves `[S, ...]` and `[Q, ...]` to `[S + Q, ...]`.

    A `mask` or `classes` that only one of them has is all true for the other, which is what leaving it out means.
    """
    first, second = _completed(first, second), _completed(second, first)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=0), first, second)


def _completed(batch: Batch, other: Batch) -> dict:
    size = leading_size(batch)
    missing = [name for name in ("mask", "classes") if name in other and name not in batch]
    return {**batch, **{name: jnp.ones((size, *other[name].shape[1:]), bool) for name in missing}}


def zeros_of(kind: Any, dtype: Any) -> jax.Array:
    """Returns zeros in the shape of an abstract array or `jax.ShapeDtypeStruct`.

    Under `shard_map` an array differs from device to device or it does not; zeros that stand for one must say the same.
    """
    zeros = jnp.zeros(kind.shape, dtype)
    axes = getattr(kind, "manual_axis_type", None)
    return jax.lax.pcast(zeros, tuple(axes.varying), to="varying") if axes and axes.varying else zeros
