"""What the Transformers here are made of (Vaswani et al. 2017): pre-norm layers with a residual, and attention.

Attention is written with plain products and a softmax, which can be differentiated twice.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

FORBIDDEN = -1e9  # far enough for a weight of exactly zero, and finite so that no derivative is NaN


class KeysValues(NamedTuple):
    """What attention reads: what is looked for, and what is found there."""

    keys: jax.Array  # [N, K, H, E] for H heads of width E
    values: jax.Array  # [N, K, H, E]


# (queries, keys, values), each [N, L, H, E] -> what was found [N, L, H, E], and what to keep for later.
Attention = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, KeysValues]]


def layer_norm(dtype) -> nn.LayerNorm:
    """Returns a layer norm whose statistics are at least float32; float64 passes where jax is not to promote types."""
    return nn.LayerNorm(param_dtype=dtype, force_float32_reductions=jnp.finfo(dtype).bits <= 32)


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array, allowed: jax.Array) -> jax.Array:
    """Returns means of values, weighted by how well their keys answer the queries.

    Args:
      queries: `[N, Q, H, E]`.
      keys: `[N, K, H, E]`.
      values: `[N, K, H, E]`.
      allowed: `[N or 1, Q or 1, K]` bool, the keys that a query may read.

    Returns:
      `[N, Q, H, E]`.
    """
    scores = jnp.einsum("nqhd,nkhd->nhqk", queries, keys) / queries.shape[-1] ** 0.5
    scores = jnp.where(allowed[:, None], scores, jnp.asarray(FORBIDDEN, scores.dtype))
    return jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores, axis=-1), values)


def masked(allowed: jax.Array) -> Attention:
    """Returns the attention of a sequence to itself, where `allowed [N or 1, L or 1, L]` says who may read whom."""
    return lambda q, k, v: (attend(q, k, v, allowed), KeysValues(k, v))


def self_attention(x: jax.Array, attention: Attention, heads: int, dtype) -> tuple[jax.Array, KeysValues]:
    """Lets the vectors `x [N, L, D]` read one another, as a layer of the compact module that calls it."""
    width = x.shape[-1]
    y = layer_norm(dtype)(x)
    qkv = nn.DenseGeneral((3, heads, width // heads), param_dtype=dtype, name="qkv")(y)
    mixed, kept = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
    return x + nn.DenseGeneral(width, axis=(-2, -1), param_dtype=dtype, name="out")(mixed), kept


def feed_forward(x: jax.Array, expansion: int, dtype) -> jax.Array:
    """Transforms each vector of `x [N, L, D]` by itself, as a layer of the compact module that calls it.

    The activation is a ReLU: on a CPU, differentiating the tanh in a GELU takes longer than the two products around it.
    """
    width = x.shape[-1]
    y = layer_norm(dtype)(x)
    y = nn.relu(nn.Dense(expansion * width, param_dtype=dtype, name="up")(y))
    return x + nn.Dense(width, param_dtype=dtype, name="down")(y)


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a layer norm and a residual."""

    heads: int
    expansion: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, real: jax.Array) -> jax.Array:
        """`x` is `[N, L, D]`, `real` is `[N, L]` bool; returns `[N, L, D]`."""
        x, _ = self_attention(x, masked(real[:, None]), self.heads, self.dtype)
        return feed_forward(x, self.expansion, self.dtype)


class Encoder(nn.Module):
    """Adds learned places to vectors and passes them through blocks and a last layer norm."""

    layers: int
    heads: int
    expansion: int
    max_length: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, real: jax.Array) -> jax.Array:
        """`x` is `[N, L, D]`, `real` is `[N, L]` bool; returns `[N, L, D]`."""
        shape = (self.max_length, x.shape[-1])
        x = placed(x, self.param("places", nn.initializers.normal(0.02), shape, self.dtype))
        for number in range(self.layers):
            x = Block(self.heads, self.expansion, self.dtype, name=f"block_{number}")(x, real)
        return layer_norm(self.dtype)(x)


def placed(x: jax.Array, places: jax.Array) -> jax.Array:
    """Adds the first L of the learned `places [max_length, D]` to vectors `x [N, L, D]`.

    Raises:
      ValueError: if there are not so many.
    """
    length, most = x.shape[1], places.shape[0]
    if length > most:
        raise ValueError(f"`max_length` must be at least the {length} tokens of a sequence, got {most}")
    return x + places[None, :length]
