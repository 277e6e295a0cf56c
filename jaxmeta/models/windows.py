"""Reading a sequence by windows and in strides, so that bytes cost a Transformer what pieces would.

Compare CANINE (Clark et al. 2022, arXiv 2103.06874).
"""

import jax
import jax.numpy as jnp

from jaxmeta.models.pooling import largest


def neighbours(x: jax.Array, window: int) -> jax.Array:
    """Returns every place with those around it, zeros beyond the ends: `[N, L, D]` to `[N, L, window * D]`."""
    length = x.shape[1]
    before = (window - 1) // 2
    padded = jnp.pad(x, ((0, 0), (before, window - 1 - before), (0, 0)))
    return jnp.concatenate([padded[:, i : i + length] for i in range(window)], axis=-1)


def merged(x: jax.Array, real: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """Makes one place of every `stride`: `[N, L, D]` to `[N, ceil(L / stride), D]`, and the same for `real [N, L]`.

    A place is real when any of its tokens is. Its largest responses stand for it, so that a word is the same word
    wherever it begins.
    """
    if stride == 1:
        return x, real
    missing = -x.shape[1] % stride
    x = jnp.pad(x, ((0, 0), (0, missing), (0, 0)))
    x = x.reshape(x.shape[0], -1, stride, x.shape[-1])
    x = largest([x[:, :, i] for i in range(stride)])
    real = jnp.pad(real, ((0, 0), (0, missing))).reshape(real.shape[0], -1, stride).any(axis=-1)
    return x, real
