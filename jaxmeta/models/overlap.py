"""What two parts of one text have in common, token by token: a feature that no reader has to learn."""

import functools

import jax
import jax.numpy as jnp

_BASE = 0x9E3779B1  # odd and far from a power of two, so that hashes modulo 2^32 mix all their bits


def shared_ngrams(tokens: jax.Array, first: jax.Array, second: jax.Array, n: int) -> jax.Array:
    """Returns which tokens of the second part lie in an n-gram that the first part has too.

    It is the exact match of Chen et al. 2017 (arXiv 1704.00051) without words: a byte n-gram serves any language.

    Args:
      tokens: `[N, L]` int.
      first: `[N, L]` bool, the tokens of the first part.
      second: `[N, L]` bool, those of the second.
      n: tokens in a row; they are compared by a hash of 32 bits.

    Returns:
      `[N, L]` bool.
    """
    length = tokens.shape[1]

    def later(x: jax.Array, offset: int) -> jax.Array:
        """What stands `offset` tokens further on, nothing beyond the end."""
        return jnp.pad(x[:, offset:], ((0, 0), (0, min(offset, length))))

    hashed = jnp.zeros(tokens.shape, jnp.uint32)
    for offset in range(n):
        hashed = hashed * jnp.uint32(_BASE) + later(tokens, offset).astype(jnp.uint32) + jnp.uint32(1)

    def whole(part: jax.Array) -> jax.Array:
        """Where an n-gram begins that lies in the part to its end."""
        return functools.reduce(jnp.logical_and, [later(part, offset) for offset in range(n)])

    same = (hashed[:, :, None] == hashed[:, None, :]) & whole(first)[:, None, :]
    begins = jnp.any(same, axis=-1) & whole(second)
    before = [jnp.pad(begins, ((0, 0), (offset, 0)))[:, :length] for offset in range(n)]
    return functools.reduce(jnp.logical_or, before)
