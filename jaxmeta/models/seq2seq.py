"""A Transformer encoder-decoder (Vaswani et al. 2017), pre-norm: sequences in, sequences out."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmeta.core.types import PADDING, Model
from jaxmeta.models.adapters import linen
from jaxmeta.models.blocks import Encoder, check_sizes
from jaxmeta.models.decoder import Cache, Context, Decoder
from jaxmeta.models.decoding import Search, generation, greedy
from jaxmeta.models.pointer import Pointer, Source, history_of, mixed
from jaxmeta.models.vocabulary import embedded, output_layer, scored, special_tokens


class Seq2Seq(nn.Module):
    """Reads `{"source": [N, L], "previous": [N, M]}` (int32, 0 is padding at the end), answers logits `[N, M, V]`.

    `previous` is the target shifted right: `bos`, then every token of the target but its last. Source and target share
    a vocabulary and its embedding. Padding changes no number, and no logit depends on a later token.

    Attributes:
      vocab_size: V: tokens, with padding, `bos` and the end.
      bos: the token that every target begins after.
      width: of the vectors; `heads` must divide it.
      layers: of the encoder, and as many of the decoder.
      heads: of every attention.
      expansion: how much wider the feed-forward layers are.
      max_length: the longest source, and the longest target.
      tied: whether the output layer shares the embedding's table; `head` is then its bias alone.
      pointer: whether it may copy from the source, see `jaxmeta.models.pointer`.
      eos: the token that ends every target, which only a pointer needs to know; V - 1 unless it is named.
      dtype: of the parameters.
    """

    vocab_size: int
    bos: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    expansion: int = 4
    max_length: int = 256
    tied: bool = False
    pointer: bool = False
    eos: int | None = None
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        """Checks the sizes."""
        check_sizes(self)
        super().__post_init__()

    def setup(self):
        """Names the parts; their names are the paths that selections see."""
        sizes = (self.layers, self.heads, self.expansion, self.max_length, self.dtype)
        self.embedding = nn.Embed(self.vocab_size, self.width, param_dtype=self.dtype)
        self.encoder = Encoder(*sizes)
        self.decoder = Decoder(self.width, *sizes, reads_memory=True)
        self.head = output_layer(self)
        if self.pointer:
            _, eos = special_tokens(self.vocab_size, self.bos, self.eos)
            self.copying = Pointer(self.vocab_size, self.width, self.bos, eos, self.dtype)

    def __call__(self, inputs: dict[str, jax.Array]) -> jax.Array:
        """Returns logits `[N, M, V]`."""
        source, previous = inputs["source"], inputs["previous"]
        memory = self._memory(source)
        x = self.decoder(*embedded(self.embedding, previous), memory)
        if not self.pointer:
            return scored(self, x)
        places = jnp.arange(previous.shape[1], dtype=previous.dtype)[None]
        return self._pointed(x, history_of(previous), places, self.copying.read(source, memory[0]))

    def begin(self, inputs: dict[str, jax.Array]) -> tuple[jax.Array, Context]:
        """Returns the logits of the first token, `[N, V]`, and what writing on needs; reads `source` alone."""
        source = inputs["source"]
        first = jnp.full((source.shape[0], 1), self.bos, source.dtype)
        memory = self._memory(source)
        end, context = self.decoder.read(*embedded(self.embedding, first), memory)
        if not self.pointer:
            return scored(self, end), context
        history = history_of(first)
        pointed = self.copying.read(source, memory[0])
        places = jnp.zeros((1, 1), source.dtype)
        logits = self._pointed(end[:, None], history, places, pointed)[:, 0]
        return logits, context._replace(source=pointed, history=history)

    def step(self, context: Context, cache: Cache, tokens: jax.Array, place: jax.Array) -> tuple[jax.Array, Cache]:
        """Returns logits `[N, B, V]` of the tokens after `tokens [N, B]`, and the cache that holds those too."""
        x, blocks = self.decoder.step(embedded(self.embedding, tokens)[0], context, cache.blocks, place)
        if context.source is None or cache.history is None:
            return scored(self, x), cache._replace(blocks=blocks)
        history = jnp.concatenate([tokens[..., None], cache.history[..., :-1]], axis=-1)
        places = jnp.full((1, 1), place + 1, tokens.dtype)
        return self._pointed(x, history, places, context.source), Cache(blocks, history)

    def _pointed(self, x: jax.Array, history: jax.Array, places: jax.Array, source: Source) -> jax.Array:
        vectors = self.embedding(history) * (history != PADDING)[..., None].astype(x.dtype)
        shares, x, gate = self.copying(x, history, vectors, places, source)
        return mixed(scored(self, x), shares, gate, source.tokens, source.same)

    def _memory(self, source):
        x, real = embedded(self.embedding, source)
        return self.encoder(x, real), real


def seq2seq(
    *,
    vocab_size: int,
    bos: int | None = None,
    eos: int | None = None,
    search: Search = greedy,
    max_new_tokens: int | None = None,
    **options: Any,
) -> Model:
    """Returns a `Seq2Seq` as a `Model`, whose `generate` writes the target of `{"source": [N, L]}`.

    Args:
      vocab_size: V: the tokenizer's tokens, and `bos` and `eos`.
      bos: the token that begins a target; V - 2 unless it is named.
      eos: the token that ends a target; V - 1 unless it is named.
      search: `greedy`, `beam_search(size)` or `sampling(key)`.
      max_new_tokens: how many tokens `generate` writes at most; `max_length` unless it is named.
      **options: the other attributes of `Seq2Seq`.

    Example:
      model = seq2seq(vocab_size=tokenizer.vocab_size + 2, search=beam_search(4))
    """
    bos, eos = special_tokens(vocab_size, bos, eos)
    module = Seq2Seq(vocab_size=vocab_size, bos=bos, eos=eos, **options)
    generate = generation(module, search, bos=bos, eos=eos, max_new_tokens=max_new_tokens)
    return linen(module)._replace(generate=generate)
