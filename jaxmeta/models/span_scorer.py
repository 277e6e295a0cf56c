"""A scorer of answers: every run of a few words of a context is one, and it is judged by what is told of its words.

It scores whole spans (as Lee et al. 2017 do, arXiv 1611.01436), not where answers begin and end, and it knows no word
of the context: it reads the numbers that `jaxmeta.data.span_features` gives, which mean the same in every language. It
learns words of questions, for some ask for a number and some for a name; those that it has not met say nothing.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmeta.core.checks import check_positive
from jaxmeta.core.trees import sum_dtype
from jaxmeta.core.types import IMPOSSIBLE, Model
from jaxmeta.models.adapters import linen


class SpanScorer(nn.Module):
    """Reads `{"words": [N, L, F], "sentence": [N, L] (int), "question": [N, A], "asked": [N, B] (int)}`.

    Sentence 0 is padding, and so is a word 0 of what is asked.

    It answers logits `[N, L, longest]`: for an answer to begin at each word and to have 1, 2, ... words. They are -1e9
    for what does not lie in one sentence.

    A span is described by its first word with the one before it, its last word with the one after it, the mean of its
    words, their number and the question. Because the first layer is linear in these it is computed for words alone, and
    only its sums are computed for spans.

    Attributes:
      width: of the hidden layers.
      layers: how many there are.
      longest: words in an answer, at most.
      buckets: numbers of words of questions.
      embedding_width: of their embedding.
      dtype: of the parameters.
    """

    width: int = 32
    layers: int = 1
    longest: int = 10
    buckets: int = 2**14
    embedding_width: int = 8
    dtype: Any = jnp.float32

    def __post_init__(self):
        """Checks the sizes."""
        for name in ("width", "layers", "longest", "buckets", "embedding_width"):
            check_positive(name, getattr(self, name))
        super().__post_init__()

    def setup(self):
        """Names the parts; their names are the paths that selections see."""
        # One output more than there are hidden ones: what is said of a span without a hidden layer.
        first = {"features": self.width + 1, "param_dtype": self.dtype}
        zero = nn.initializers.zeros
        self.embedding = nn.Embed(self.buckets + 1, self.embedding_width, embedding_init=zero, param_dtype=self.dtype)
        self.begin = nn.Dense(**first)
        self.stop = nn.Dense(**first, use_bias=False)
        self.inside = nn.Dense(**first, use_bias=False)
        self.asked = nn.Dense(**first, use_bias=False)
        self.sizes = self.param("sizes", zero, (self.longest, self.width + 1), self.dtype)
        self.hidden = [nn.Dense(self.width, param_dtype=self.dtype, name=f"hidden_{i}") for i in range(1, self.layers)]
        self.head = nn.Dense(1, use_bias=False, param_dtype=self.dtype)

    def __call__(self, inputs: Mapping[str, jax.Array]) -> jax.Array:
        """Returns `[N, L, longest]`."""
        sentence = jnp.asarray(inputs["sentence"])
        dtype = self.sizes.dtype  # of the parameters given, which may be lower than theirs at the start
        words = jnp.where(sentence[..., None] > 0, jnp.asarray(inputs["words"]), 0).astype(dtype)
        begin = self.begin(jnp.concatenate([words, _later(words, -1)], axis=-1))
        asked = jnp.asarray(inputs["asked"])
        known = jnp.sum(jnp.where(asked[..., None] > 0, self.embedding(asked), 0), axis=1)
        about = jnp.concatenate([jnp.asarray(inputs["question"]).astype(dtype), known], axis=-1)
        begin = begin + self.asked(about)[:, None]
        stop = self.stop(jnp.concatenate([words, _later(words, 1)], axis=-1))
        inside = self.inside(words)
        # Differences of sums over a whole context: half precision would leave little of them.
        until = jnp.cumsum(inside.astype(sum_dtype(inside.dtype)), axis=1)
        before = _later(until, -1)
        sizes = range(self.longest)
        x = jnp.stack(
            [
                begin
                + _later(stop, k)
                + ((_later(until, k) - before) / (k + 1)).astype(inside.dtype)
                + self.sizes[k][None, None]
                for k in sizes
            ],
            axis=2,
        )
        # Without a kink, for the sake of second derivatives.
        direct, x = x[..., -1], nn.silu(x[..., :-1])
        for layer in self.hidden:
            x = x + nn.silu(layer(x))
        logits = direct + self.head(x)[..., 0]
        within = jnp.stack([(_later(sentence, k) == sentence) & (sentence > 0) for k in sizes], axis=2)
        return jnp.where(within, logits, jnp.asarray(IMPOSSIBLE, logits.dtype))


def _later(x: jax.Array, offset: int) -> jax.Array:
    """Returns what stands `offset` words further on (before, where it is negative); zero beyond either end."""
    length, around = x.shape[1], ((0, 0),) * (x.ndim - 2)
    size = min(abs(offset), length)
    if offset < 0:
        return jnp.pad(x[:, : length - size], ((0, 0), (size, 0), *around))
    return jnp.pad(x[:, size:], ((0, 0), (0, size), *around))


def span_scorer(**options: Any) -> Model:
    """Returns a `SpanScorer` as a `Model`; see its attributes for the options."""
    return linen(SpanScorer(**options))
