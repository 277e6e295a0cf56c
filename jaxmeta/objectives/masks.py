"""What objectives share: which examples are real, means over those, and the precision of losses."""

import jax
import jax.numpy as jnp

from jaxmeta.core.types import Batch


def real_examples(batch: Batch) -> jax.Array:
    """Returns the mask of `batch`, all true where it has none: `[N]` bool."""
    if "mask" in batch:
        return jnp.asarray(batch["mask"], bool)
    # Targets may be a tree, and pairs have none: whichever leaf comes first has the example axis.
    return jnp.ones(jnp.shape(jax.tree.leaves(dict(batch))[0])[:1], bool)


def masked_sum(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Sums `values [N]` where `mask [N]` holds; what stands elsewhere, NaN included, changes nothing."""
    return jnp.sum(jnp.where(mask, values, jnp.zeros((), values.dtype)))


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Averages `values [N]` where `mask [N]` holds; zero if it holds nowhere."""
    count = jnp.maximum(jnp.sum(mask), 1).astype(values.dtype)
    return masked_sum(values, mask) / count


def at_least_float32(values: jax.Array) -> jax.Array:
    """Casts half precision up, because a loss in it has two or three digits."""
    values = jnp.asarray(values)
    return values.astype(jnp.float32) if jnp.finfo(values.dtype).bits < 32 else values
