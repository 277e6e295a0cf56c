"""Between tokens and vectors: looking tokens up, and scoring every token of the vocabulary."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmeta.core.checks import check_positive

PADDING = 0


def embedded(embedding: nn.Embed, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Looks up `tokens [N, L]`; returns vectors `[N, L, D]`, zero for padding, and which tokens are real `[N, L]`."""
    real = tokens != PADDING
    x = embedding(tokens)
    return x * real[..., None].astype(x.dtype), real


class TiedHead(nn.Module):
    """Scores vectors by their products with the rows of an embedding table, plus a bias (Press & Wolf 2017)."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
        """`x` is `[..., D]`, `table` is `[V, D]`; returns `[..., V]`."""
        bias = self.param("bias", nn.initializers.zeros, (table.shape[0],), self.dtype)
        return jnp.einsum("...d,vd->...v", x, table) + bias.reshape((1,) * (x.ndim - 1) + (-1,))


def output_layer(module: Any) -> nn.Module:
    """Returns the layer that a module with the options `vocab_size`, `tied` and `dtype` is to call `head`."""
    return TiedHead(module.dtype) if module.tied else nn.Dense(module.vocab_size, param_dtype=module.dtype)


def scored(module: Any, x: jax.Array) -> jax.Array:
    """Returns logits `[..., V]` of vectors `[..., D]` by the `head` of a module, tied to its `embedding` or not."""
    return module.head(x, module.embedding.embedding) if module.tied else module.head(x)


def special_tokens(vocab_size: int, bos: int | None = None, eos: int | None = None) -> tuple[int, int]:
    """Returns the tokens that begin and end a sentence: unless others are named, the last two of the vocabulary.

    Raises:
      ValueError: if they do not differ, or are padding or no tokens.
    """
    bos = vocab_size - 2 if bos is None else bos
    eos = vocab_size - 1 if eos is None else eos
    for name, token in (("bos", bos), ("eos", eos)):
        if not PADDING < token < vocab_size:
            raise ValueError(f"`{name}` must be above 0, which is padding, and below {vocab_size}, got {token}")
    if bos == eos:
        raise ValueError(f"`bos` and `eos` must differ, got {bos} for both")
    return bos, eos


def check_sizes(module: Any) -> None:
    """Raises `ValueError` unless the sizes of a Transformer are positive and `heads` divides `width`."""
    for name in ("vocab_size", "width", "layers", "heads", "expansion", "max_length"):
        check_positive(name, getattr(module, name))
    if module.width % module.heads:
        raise ValueError(f"`heads` must divide `width` ({module.width}), got {module.heads}")
