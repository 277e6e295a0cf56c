"""A reader that finds the answer to a question in a text: where it begins, where it ends (SQuAD, Rajpurkar et al. 2016,
arXiv 1606.05250).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmeta.core.types import Model
from jaxmeta.models.adapters import linen
from jaxmeta.models.blocks import Block, layer_norm
from jaxmeta.models.overlap import shared_ngrams
from jaxmeta.models.vocabulary import PADDING
from jaxmeta.models.windows import merged, neighbours, spread

CONTEXT = 1  # the segment that answers lie in; every other number is the question's
OUTSIDE = -1e9  # far enough for a probability of exactly zero, and finite so that no derivative is NaN


class SpanReader(nn.Module):
    """Reads `{"tokens": [N, L], "segment": [N, L]}` (int): 0 is padding; segment 0 is the question, 1 the context.

    It answers logits `[N, L, 2]`, for an answer to begin and to end (inclusive) at each token. They are -1e9 outside of
    the context.

    Question and context are one sequence, so that attention compares them. As in `TextEncoder`, tokens are embedded
    with a window of their neighbours, and blocks read places of `stride` tokens each: 1,000 bytes cost what 250 pieces
    would. What the blocks found is then given back to each token beside its own embedding, so that answers are exact to
    the byte (compare the upsampling of CANINE, Clark et al. 2022, arXiv 2103.06874).

    Attributes:
      vocab_size: numbers of tokens, padding included.
      width: of the blocks.
      embedding_width: of the embedding, where `window` is more than 1.
      layers: blocks.
      heads: of the attention.
      window: tokens that are embedded together.
      stride: tokens in a place.
      expansion: of the feed-forward layers.
      max_length: places at most.
      overlap: lengths of n-grams for which a token is told whether it lies in one that question and context share.
      dtype: of the parameters.
    """

    vocab_size: int
    width: int = 64
    embedding_width: int = 32
    layers: int = 2
    heads: int = 4
    window: int = 1
    stride: int = 1
    expansion: int = 4
    max_length: int = 512
    overlap: tuple[int, ...] = ()
    dtype: Any = jnp.float32

    def setup(self):
        """Names the parts; their names are the paths that selections see."""
        narrow = self.embedding_width if self.window > 1 else self.width
        small = nn.initializers.normal(0.02)
        self.embedding = nn.Embed(self.vocab_size, narrow, param_dtype=self.dtype)
        self.segments = self.param("segments", small, (2, narrow), self.dtype)
        if self.overlap:
            self.shared = self.param("shared", small, (len(self.overlap), 2, narrow), self.dtype)
        self.places = self.param("places", small, (self.max_length, self.width), self.dtype)
        if self.window > 1:
            self.stem = nn.Dense(self.width, param_dtype=self.dtype)
        self.blocks = [Block(self.heads, self.expansion, self.dtype, name=f"block_{i}") for i in range(self.layers)]
        self.norm = layer_norm(self.dtype)
        self.join = nn.Dense(self.width, param_dtype=self.dtype)
        self.head = nn.Dense(2, param_dtype=self.dtype)

    def __call__(self, inputs: Mapping[str, jax.Array]) -> jax.Array:
        """Returns `[N, L, 2]`."""
        tokens = jnp.asarray(inputs["tokens"])
        real = tokens != PADDING
        context = real & (jnp.asarray(inputs["segment"]) == CONTEXT)
        x = self._embedded(tokens, real, context)
        y, of_places = merged(x, real, self.stride)
        y = y + self.places[None, : y.shape[1]]
        for block in self.blocks:
            y = block(y, of_places)
        y = spread(self.norm(y), self.stride, tokens.shape[1])
        logits = self.head(nn.relu(self.join(jnp.concatenate([x, y], axis=-1))))
        return jnp.where(context[..., None], logits, jnp.asarray(OUTSIDE, logits.dtype))

    def _embedded(self, tokens: jax.Array, real: jax.Array, context: jax.Array) -> jax.Array:
        x = self.embedding(tokens) + _either(context, self.segments)
        for number, n in enumerate(self.overlap):
            x = x + _either(shared_ngrams(tokens, real & ~context, context, n), self.shared[number])
        x = x * real[..., None].astype(x.dtype)
        if self.window > 1:
            x = nn.relu(self.stem(neighbours(x, self.window))) * real[..., None].astype(x.dtype)
        return x


def _either(which: jax.Array, vectors: jax.Array) -> jax.Array:
    """Returns the second of two vectors `[2, D]` where `which [N, L]` holds, else the first: `[N, L, D]`."""
    # Not a lookup: whatever stands in padding, no number of a row is out of bounds.
    return jnp.where(which[..., None], vectors[None, None, 1], vectors[None, None, 0])


def span_reader(**options: Any) -> Model:
    """Returns a `SpanReader` as a `Model`; see its attributes for the options."""
    return linen(SpanReader(**options))
