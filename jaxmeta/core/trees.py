"""Pytree arithmetic and hygiene that jax and optax do not have under one name."""

import jax
import jax.numpy as jnp

from jaxmeta.core.types import ArrayTree


def strip_weak_types(tree: ArrayTree) -> ArrayTree:
    """Returns `tree` with strong types, so that a carry keeps its type and nothing is traced twice."""

    def strip(leaf):
        leaf = jnp.asarray(leaf)
        return jax.lax.convert_element_type(leaf, leaf.dtype)

    return jax.tree.map(strip, tree)


def stop_gradient(tree: ArrayTree) -> ArrayTree:
    """Returns `tree` with its derivative cut; leaves that have none pass unchanged."""
    return jax.tree.map(jax.lax.stop_gradient, tree)


def mean_over_tasks(tree: ArrayTree) -> ArrayTree:
    """Averages the leading (task) axis of every leaf: `[T, ...]` to `[...]`."""
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), tree)


def joined(first: ArrayTree, second: ArrayTree) -> ArrayTree:
    """Joins two batches of the same structure along the example axis: `[S, ...]`, `[Q, ...]` to `[S+Q, ...]`."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=0), first, second)
