"""Edit distance between sequences of symbols, on the device (Levenshtein 1966)."""

import jax
import jax.numpy as jnp

from jaxmeta.core.types import PADDING


def edit_distance(first: jax.Array, second: jax.Array) -> jax.Array:
    """Returns the fewest insertions, deletions and substitutions that turn one sequence into the other, `[N]` int32.

    Args:
      first: `[N, A]` int, padded with 0 on the right.
      second: `[N, B]` int, padded in the same way.
    """
    second = jnp.asarray(second).astype(jnp.int32)
    first = jnp.asarray(first).astype(jnp.int32)
    count, width = second.shape
    place = jnp.arange(width + 1, dtype=jnp.int32)[None]

    def advance(row: jax.Array, symbol: jax.Array) -> tuple[jax.Array, None]:
        # Row j is the distance of what was read so far to the first j symbols of `second`.
        changed = row[:, :-1] + (second != symbol[:, None]).astype(jnp.int32)
        best = jnp.concatenate([row[:, :1] + 1, jnp.minimum(row[:, 1:] + 1, changed)], axis=1)
        # Insertions run along the row: the least of best[i] + (j - i) for i up to j.
        best = jax.lax.cummin(best - place, axis=1) + place
        return jnp.where((symbol != PADDING)[:, None], best, row), None

    start = jnp.broadcast_to(place, (count, width + 1))
    row, _ = jax.lax.scan(advance, start, first.T)
    length = jnp.sum(second != PADDING, axis=1, dtype=jnp.int32)
    return jnp.take_along_axis(row, length[:, None], axis=1)[:, 0]
