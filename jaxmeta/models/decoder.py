"""A Transformer decoder: whole sequences at once for training, one token after another from a cache for decoding.

One token after another, N sentences have B continuations each. What all continuations of a sentence read alike (its
source, its prompt) is kept once, in a `Context`; what each has written itself is a cache of its own.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmeta.core.types import IMPOSSIBLE
from jaxmeta.models.blocks import (
    Attention,
    KeysValues,
    attend,
    feed_forward,
    layer_norm,
    masked,
    placed,
    self_attention,
)
from jaxmeta.models.pointer import Source


class Bank(NamedTuple):
    """Keys and values that a search reads: of a sentence, or of each of its B continuations."""

    keys: jax.Array  # [N, H, K, E], or [N, B, H, K, E]
    values: jax.Array  # the same
    allowed: jax.Array  # [N or 1, K] bool


class Context(NamedTuple):
    """What stays as it is while continuations are written."""

    lengths: jax.Array  # [N] int32, of the prompts
    prompt: tuple[Bank, ...]  # for each block
    memory: tuple[Bank, ...]  # for each block; none without a memory
    source: Source | None = None  # what a pointer points at
    history: jax.Array | None = None  # [N, 1, R] int32, what it has read of the prompt's end

    @property
    def width_of_prompt(self) -> int:
        """Returns how many tokens the prompts have, padding included."""
        return self.prompt[0].keys.shape[2]


Blocks = tuple[KeysValues, ...]  # for each block, leaves [N, B, H, T, E]


class Cache(NamedTuple):
    """What each continuation has written."""

    blocks: Blocks
    history: jax.Array | None = None  # [N, B, R] int32, its last tokens, where there is a pointer


class DecoderBlock(nn.Module):
    """Attention to what was written, to a memory if there is one, and a feed-forward layer."""

    heads: int
    expansion: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: jax.Array, attention: Attention, memory: Callable[[jax.Array], jax.Array] | None = None
    ) -> tuple[jax.Array, KeysValues]:
        """Transforms `x [N, L, D]`.

        Args:
          x: the vectors.
          attention: what they do with their queries, keys and values.
          memory: what queries `[N, L, H, E]` find in the memory, `[N, L, H, E]`.
        """
        x, kept = self_attention(x, attention, self.heads, self.dtype)
        if memory is not None:
            width = x.shape[-1]
            narrow = (self.heads, width // self.heads)
            query = nn.DenseGeneral(narrow, param_dtype=self.dtype, name="query")(layer_norm(self.dtype)(x))
            found = memory(query)
            x = x + nn.DenseGeneral(width, axis=(-2, -1), param_dtype=self.dtype, name="recall")(found)
        return feed_forward(x, self.expansion, self.dtype), kept


class Decoder(nn.Module):
    """Adds learned places to vectors and passes them through blocks in which nobody reads what comes later."""

    width: int
    layers: int
    heads: int
    expansion: int
    max_length: int
    dtype: jnp.dtype
    reads_memory: bool = False

    def setup(self):
        """Names the parts; their names are the paths that selections see."""
        numbers, narrow = range(self.layers), (2, self.heads, self.width // self.heads)
        self.places = self.param("places", nn.initializers.normal(0.02), (self.max_length, self.width), self.dtype)
        self.blocks = [DecoderBlock(self.heads, self.expansion, self.dtype, name=f"block_{i}") for i in numbers]
        if self.reads_memory:
            self.memories = [nn.DenseGeneral(narrow, param_dtype=self.dtype, name=f"memory_{i}") for i in numbers]
        self.norm = layer_norm(self.dtype)

    def __call__(self, x: jax.Array, real: jax.Array, memory: tuple[jax.Array, jax.Array] | None = None) -> jax.Array:
        """Transforms whole sequences.

        Args:
          x: `[N, M, D]`.
          real: `[N, M]` bool.
          memory: vectors `[N, L, D]`, and which of them are real `[N, L]`.

        Returns:
          `[N, M, D]`, in which the m-th vector depends on the first m + 1 of `x` alone.
        """
        return self._passed(x, real, memory)[0]

    def read(
        self, x: jax.Array, real: jax.Array, memory: tuple[jax.Array, jax.Array] | None = None
    ) -> tuple[jax.Array, Context]:
        """Returns the vector at the end of each prompt, `[N, D]`, and the context of what follows; arguments as above.

        Padding may only stand at the end of a prompt.
        """
        y, kept, remembered = self._passed(x, real, memory)
        lengths = jnp.sum(real, axis=1, dtype=jnp.int32)
        last = jnp.maximum(lengths - 1, 0)[:, None, None]
        end = jnp.take_along_axis(y, last, axis=1)[:, 0]
        prompt = tuple(_bank(each, real) for each in kept)
        return end, Context(lengths, prompt, tuple(_bank(each, memory[1]) for each in remembered) if memory else ())

    def step(self, x: jax.Array, context: Context, cache: Blocks, place: jax.Array) -> tuple[jax.Array, Blocks]:
        """Transforms one more vector of each continuation.

        Args:
          x: `[N, B, D]`.
          context: of the prompts.
          cache: of what the continuations hold already.
          place: `[]` int32, how many vectors that is.

        Returns:
          `[N, B, D]`, and the cache with one vector more.
        """
        x = x + self.places[context.lengths + place][:, None]
        written = []
        for number, block in enumerate(self.blocks):
            attention = _cached(context.prompt[number], cache[number], place)
            memory = _recalling(context.memory[number]) if context.memory else None
            x, kept = block(x, attention, memory)
            written.append(kept)
        return self.norm(x), tuple(written)

    def _passed(self, x, real, memory):
        length = x.shape[1]
        x = placed(x, self.places)
        attention = masked(jnp.tril(jnp.ones((1, length, length), bool)) & real[:, None])
        kept, remembered = [], []
        for number, block in enumerate(self.blocks):
            recalling = None
            if memory is not None:
                both = self.memories[number](memory[0])
                remembered.append(KeysValues(both[:, :, 0], both[:, :, 1]))
                recalling = _attending(remembered[-1], memory[1])
            x, written = block(x, attention, recalling)
            kept.append(written)
        return self.norm(x), kept, remembered


def empty_cache(context: Context, beams: int, size: int) -> Cache:
    """Returns a cache with room for `size` tokens of each of `beams` continuations."""

    def empty(bank: Bank) -> KeysValues:
        examples, heads, _, width = bank.keys.shape
        room = jnp.zeros((examples, beams, heads, size, width), bank.keys.dtype)
        return KeysValues(room, room)

    history = context.history
    if history is not None:
        history = jnp.broadcast_to(history, (history.shape[0], beams, history.shape[2]))
    return Cache(tuple(empty(bank) for bank in context.prompt), history)


def recall(queries: jax.Array, banks: Sequence[Bank]) -> jax.Array:
    """Returns what `queries [N, B, H, E]` find in all of the banks together, `[N, B, H, E]`."""
    scores = [
        jnp.where(
            bank.allowed[:, None, None],
            jnp.einsum(f"nbhe,{_axes(bank)}->nbhk", queries, bank.keys) / queries.shape[-1] ** 0.5,
            jnp.asarray(IMPOSSIBLE, queries.dtype),
        )
        for bank in banks
    ]
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
    found, first = jnp.zeros_like(queries), 0
    for bank, own in zip(banks, scores, strict=True):
        share = weights[..., first : first + own.shape[-1]]
        found = found + jnp.einsum(f"nbhk,{_axes(bank)}->nbhe", share, bank.values)
        first += own.shape[-1]
    return found


def _axes(bank: Bank) -> str:
    return "nhke" if bank.keys.ndim == 4 else "nbhke"


def _bank(kept: KeysValues, real: jax.Array) -> Bank:
    # Heads first, as the products of a step want it: moved once here, and not at every step.
    return Bank(jnp.moveaxis(kept.keys, 2, 1), jnp.moveaxis(kept.values, 2, 1), real)


def _attending(memory: KeysValues, real: jax.Array) -> Callable[[jax.Array], jax.Array]:
    return lambda queries: attend(queries, memory.keys, memory.values, real[:, None])


def _recalling(bank: Bank) -> Callable[[jax.Array], jax.Array]:
    return lambda queries: recall(queries, [bank])


def _cached(prompt: Bank, cache: KeysValues, place: jax.Array) -> Attention:
    """Returns the attention of one more vector to the prompt, to what the cache holds, and to itself."""

    def attention(queries, keys, values):
        new = [
            jax.lax.dynamic_update_slice_in_dim(old, one[:, :, :, None], place, axis=3)
            for old, one in zip(cache, (keys, values), strict=True)
        ]
        held = jnp.arange(new[0].shape[3], dtype=place.dtype)[None] <= place
        return recall(queries, [prompt, Bank(new[0], new[1], held)]), KeysValues(new[0], new[1])

    return attention
