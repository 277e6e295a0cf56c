"""A causal Transformer language model (Radford et al. 2018), pre-norm, of bytes or pieces."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmeta.core.types import Model
from jaxmeta.models.adapters import linen
from jaxmeta.models.blocks import check_sizes
from jaxmeta.models.decoder import Cache, Context, Decoder
from jaxmeta.models.decoding import Search, generation, greedy
from jaxmeta.models.vocabulary import embedded, output_layer, scored, special_tokens


class LanguageModel(nn.Module):
    """Reads `{"previous": [N, M]}` (int32, 0 is padding at the end), answers logits `[N, M, V]`.

    `previous` is the text shifted right: the token that begins every text, then every token but the last. Padding
    changes no number, and no logit depends on a later token.

    Attributes:
      vocab_size: V: tokens, with padding, and with those that begin and end a text.
      width: of the vectors; `heads` must divide it.
      layers: how many blocks.
      heads: of every attention.
      expansion: how much wider the feed-forward layers are.
      max_length: the longest text.
      tied: whether the output layer shares the embedding's table; `head` is then its bias alone.
      dtype: of the parameters.
    """

    vocab_size: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    expansion: int = 4
    max_length: int = 256
    tied: bool = False
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        """Checks the sizes."""
        check_sizes(self)
        super().__post_init__()

    def setup(self):
        """Names the parts; their names are the paths that selections see."""
        self.embedding = nn.Embed(self.vocab_size, self.width, param_dtype=self.dtype)
        self.decoder = Decoder(self.width, self.layers, self.heads, self.expansion, self.max_length, self.dtype)
        self.head = output_layer(self)

    def __call__(self, inputs: dict[str, jax.Array]) -> jax.Array:
        """Returns logits `[N, M, V]`."""
        return scored(self, self.decoder(*embedded(self.embedding, inputs["previous"])))

    def begin(self, inputs: dict[str, jax.Array]) -> tuple[jax.Array, Context]:
        """Returns the logits after the prompts `previous [N, P]`, `[N, V]`, and what writing on needs."""
        end, context = self.decoder.read(*embedded(self.embedding, inputs["previous"]))
        return scored(self, end), context

    def step(self, context: Context, cache: Cache, tokens: jax.Array, place: jax.Array) -> tuple[jax.Array, Cache]:
        """Returns logits `[N, B, V]` of the tokens after `tokens [N, B]`, and the cache that holds those too."""
        x, blocks = self.decoder.step(embedded(self.embedding, tokens)[0], context, cache.blocks, place)
        return scored(self, x), cache._replace(blocks=blocks)


def language_model(
    *,
    vocab_size: int,
    bos: int | None = None,
    eos: int | None = None,
    search: Search = greedy,
    max_new_tokens: int | None = None,
    **options: Any,
) -> Model:
    """Returns a `LanguageModel` as a `Model`, whose `generate` continues the prompts `{"previous": [N, P]}`.

    Prompts of a batch may differ in length: padding stands at their ends. What `generate` returns is the continuation
    alone.

    Args:
      vocab_size: V: the tokenizer's tokens, and `bos` and `eos`.
      bos: the token that begins a text; V - 2 unless it is named.
      eos: the token that ends a text; V - 1 unless it is named.
      search: `greedy`, `beam_search(size)` or `sampling(key)`.
      max_new_tokens: how many tokens `generate` writes at most; what `max_length` leaves unless it is named.
      **options: the other attributes of `LanguageModel`.

    Example:
      model = language_model(vocab_size=tokenizer.vocab_size + 2, search=sampling(key, top_p=0.9))
    """
    bos, eos = special_tokens(vocab_size, bos, eos)
    module = LanguageModel(vocab_size=vocab_size, **options)
    generate = generation(module, search, bos=bos, eos=eos, max_new_tokens=max_new_tokens)
    return linen(module)._replace(generate=generate)
