"""Which examples of a batch are real and which classes it has, and sums and means over the former."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta.core.trees import leading_size
from jaxmeta.core.types import IMPOSSIBLE, Batch


def real_examples(batch: Batch, size: int | None = None) -> jax.Array:
    """Returns the mask of `batch`, all true where it has none: `[N]` bool.

    Args:
      batch: a batch of N examples.
      size: N, for a batch that need not have a leaf to see it from.
    """
    if "mask" in batch:
        return jnp.asarray(batch["mask"], bool)
    # Targets may be a tree, and pairs have none: whichever leaf comes first has the example axis.
    return jnp.ones((leading_size(dict(batch)) if size is None else size,), bool)


def masked_sum(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Sums `values [N]` where `mask [N]` holds; what stands elsewhere, NaN included, changes nothing."""
    return jnp.sum(jnp.where(mask, values, jnp.zeros((), values.dtype)))


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Averages `values [N]` where `mask [N]` holds; zero if it holds nowhere."""
    count = jnp.maximum(jnp.sum(mask), 1).astype(values.dtype)
    return masked_sum(values, mask) / count


def within_reach(logits: Any, batch: Batch) -> jax.Array:
    """Returns logits `[N, C]` in which classes that the batch says are absent (`classes [N, C]`) cannot win."""
    if "classes" not in batch:
        return logits
    return jnp.where(jnp.asarray(batch["classes"], bool), logits, IMPOSSIBLE)
