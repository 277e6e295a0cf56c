"""A Transformer encoder of text (Vaswani et al. 2017), pre-norm, with one vector and one answer for each sequence."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmeta.core.types import Model
from jaxmeta.models.adapters import linen
from jaxmeta.models.blocks import Block, layer_norm
from jaxmeta.models.vocabulary import embedded
from jaxmeta.models.windows import merged, neighbours


class TextEncoder(nn.Module):
    """Reads tokens `[N, L]` (int, 0 is padding), answers `[N, outputs]`; `features` gives `[N, width]`.

    Tokens are embedded with their neighbours (a window of `window` tokens, one matrix product) and the sequence is
    then read in groups of `stride` places, so that bytes cost a Transformer what pieces would (compare CANINE, Clark et
    al. 2022). Padding is masked at every step: it changes no number.
    """

    vocab_size: int
    outputs: int
    width: int = 64
    embedding_width: int = 32
    layers: int = 2
    heads: int = 4
    window: int = 1
    stride: int = 1
    expansion: int = 4
    max_length: int = 512
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        """Names the parts; their names are the paths that selections see."""
        narrow = self.embedding_width if self.window > 1 else self.width
        self.embedding = nn.Embed(self.vocab_size, narrow, param_dtype=self.dtype)
        self.places = self.param("places", nn.initializers.normal(0.02), (self.max_length, self.width), self.dtype)
        if self.window > 1:
            self.stem = nn.Dense(self.width, param_dtype=self.dtype)
        self.blocks = [Block(self.heads, self.expansion, self.dtype, name=f"block_{i}") for i in range(self.layers)]
        self.norm = layer_norm(self.dtype)
        self.head = nn.Dense(self.outputs, param_dtype=self.dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns `[N, outputs]`."""
        return self.head(self.features(tokens))

    def features(self, tokens: jax.Array) -> jax.Array:
        """Returns the mean over real places of the last layer, `[N, width]`."""
        x, real = self._stem(*embedded(self.embedding, tokens))
        x = x + self.places[None, : x.shape[1]]
        for block in self.blocks:
            x = block(x, real)
        weight = real[..., None].astype(x.dtype)
        return jnp.sum(self.norm(x) * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1)

    def _stem(self, x, real):
        if self.window > 1:
            x = nn.relu(self.stem(neighbours(x, self.window))) * real[..., None].astype(x.dtype)
        return merged(x, real, self.stride)


def transformer(**options) -> Model:
    """Returns a `TextEncoder` as a `Model`; see its attributes for the options."""
    return linen(TextEncoder(**options))
