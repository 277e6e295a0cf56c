"""A pointer to the source of what is written (See et al. 2017, arXiv 1704.04368), with a lexicon of what tokens become.

It starts as a copyist: it points at the source token after the one that was written last, and writes it. From there it
learns where to point instead, when not to copy, and what to write in place of a token.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmeta.core.trees import sum_dtype
from jaxmeta.core.types import IMPOSSIBLE, PADDING

REACH = 3  # how many tokens back the pointer compares what was written with what was read
_TINY = 1e-12  # smaller shares are none: a second derivative of their logarithm squares them, which float32 must hold


class Source(NamedTuple):
    """What a pointer points at: the tokens of a source and its end, K = L + 1 places."""

    tokens: jax.Array  # [N, K] int32, `eos` after the last and padding from there on
    before: jax.Array  # [N, K] int32, the token before each place: `bos` and the source
    same: jax.Array  # [N, K, K], one where two places have the same token
    keys: jax.Array  # [N, K, D], what their encodings are found by
    becomes: jax.Array  # [N, K, D], what the lexicon says of `tokens`
    became: jax.Array  # [N, K, D], the same of `before`


class Pointer(nn.Module):
    """Mixes what a decoder would write with what stands in the source.

    The place that token m is taken from has a score of four parts: how well the REACH tokens before it are those that
    were written last, or what the lexicon turns them into; its distance from place m; and how well its encoding answers
    the decoder. The lexicon has a vector for each token, zero at first, which is added to what the decoder answers
    where the token is pointed at. So one entry is enough for a task to learn that a word becomes another one.

    Attributes:
      vocab_size: V.
      width: D.
      bos: the token that every target begins after.
      eos: the token that ends a target; it stands at the end of the source too, to be copied.
      dtype: of the parameters.
    """

    vocab_size: int
    width: int
    bos: int
    eos: int
    dtype: jnp.dtype

    def setup(self):
        """Names the parts; their names are the paths that selections see."""
        self.lexicon = nn.Embed(
            self.vocab_size, self.width, embedding_init=nn.initializers.zeros, param_dtype=self.dtype
        )
        self.key = nn.Dense(self.width, param_dtype=self.dtype)
        # Until they have learned otherwise, the decoder's answers neither move the pointer nor open the gate.
        self.query = nn.Dense(self.width, kernel_init=nn.initializers.zeros, param_dtype=self.dtype)
        self.gate = nn.Dense(
            1, kernel_init=nn.initializers.zeros, bias_init=nn.initializers.constant(2.0), param_dtype=self.dtype
        )
        self.matches = self.param("matches", _aligned, (REACH, REACH), self.dtype)
        self.scales = self.param("scales", _scales, (3,), self.dtype)

    def read(self, source: jax.Array, memory: jax.Array) -> Source:
        """Returns what there is to point at in `source [N, L]`, whose encodings are `memory [N, L, D]`."""
        longer = jnp.pad(source, ((0, 0), (0, 1)))
        lengths = jnp.sum(source != PADDING, axis=1, dtype=source.dtype)
        ends = jnp.arange(longer.shape[1], dtype=source.dtype)[None] == lengths[:, None]
        tokens = jnp.where(ends, jnp.asarray(self.eos, source.dtype), longer)
        before = jnp.pad(source, ((0, 0), (1, 0)), constant_values=self.bos)
        becomes = self.lexicon(tokens)
        # A shift of `becomes`, but for the beginning.
        became = jnp.pad(becomes[:, :-1], ((0, 0), (1, 0), (0, 0)))
        # The end has no encoding, whether or not there is padding in its place.
        memory = jnp.where((source != PADDING)[..., None], memory, jnp.zeros((), memory.dtype))
        keys = self.key(jnp.pad(memory, ((0, 0), (0, 1), (0, 0))))
        return Source(tokens, before, same_tokens(tokens, keys.dtype), keys, becomes, became)

    def __call__(
        self, x: jax.Array, history: jax.Array, vectors: jax.Array, places: jax.Array, source: Source
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Points.

        Args:
          x: what the decoder answers, `[N, M, D]`.
          history: the tokens written before each of them, the last one first, `[N, M, REACH]`, 0 for none.
          vectors: their embeddings, `[N, M, REACH, D]`.
          places: the numbers of the tokens to be written, `[N or 1, M]`.
          source: what there is to point at.

        Returns:
          Shares of the places `[N, M, K]`, the answers with what the lexicon adds `[N, M, D]`, and the log-odds of
          copying `[N, M, 1]`.
        """
        same = (history[..., None] == source.before[:, None, None]) & (history != PADDING)[..., None]
        alike = jnp.einsum("nmrd,nkd->nmrk", vectors, source.became)
        alike = same.astype(x.dtype) + self.scales[1] * alike
        real = source.tokens != PADDING
        # Written r tokens ago is compared with s places ago.
        agreement = jnp.einsum("nmrk,rs->nmsk", alike, self.matches)
        shape = agreement.shape
        scores = sum(
            jnp.pad(agreement[:, :, back, : shape[3] - back], ((0, 0), (0, 0), (back, 0))) for back in range(REACH)
        )
        gaps = jnp.abs(jnp.arange(shape[3], dtype=places.dtype)[None, None] - places[..., None]).astype(x.dtype)
        scores = scores - self.scales[2] * gaps
        scores = scores + jnp.einsum("nmd,nkd->nmk", self.query(x), source.keys) / self.width**0.5
        scores = jnp.where(real[:, None], scores, jnp.asarray(IMPOSSIBLE, scores.dtype))
        shares = jax.nn.softmax(scores, axis=-1)
        x = x + self.scales[0] * jnp.einsum("nmk,nkd->nmd", shares, source.becomes)
        return shares, x, self.gate(x)


def same_tokens(tokens: jax.Array, dtype: Any) -> jax.Array:
    """Returns one where two places of `tokens [N, K]` have the same token, `[N, K, K]`."""
    return (tokens[:, :, None] == tokens[:, None]).astype(dtype)


def mixed(logits: jax.Array, shares: jax.Array, gate: jax.Array, tokens: jax.Array, same: jax.Array) -> jax.Array:
    """Returns logits `[N, M, V]` whose softmax is the mixture of what is generated and what is copied.

    Generated tokens keep their logits; those of the source gain what makes up for their share of the copies. So few
    numbers change for each of the V.

    Args:
      logits: of what is generated, `[N, M, V]`.
      shares: of the places of the source, `[N, M, K]`.
      gate: log-odds of copying, `[N, M, 1]`.
      tokens: of the source, `[N, K]`.
      same: what `same_tokens` returns of those.
    """
    dtype = sum_dtype(logits.dtype)
    logits, gate = logits.astype(dtype), gate.astype(dtype)
    # Places of one token share what it gains.
    share = jnp.einsum("nmk,nkl->nml", shares, same).astype(dtype)
    numbers, rows = (jnp.arange(size, dtype=tokens.dtype) for size in shares.shape[:2])
    at = (numbers[:, None, None], rows[None, :, None], tokens[:, None])
    all_of_them = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    copied = share > jnp.asarray(_TINY, dtype)
    weight = jnp.log(jnp.where(copied, share, jnp.ones((), dtype)))
    gain = jax.nn.softplus(gate + weight + all_of_them - logits[at])
    gain = jnp.where(copied, gain, jnp.zeros((), dtype))
    return logits.at[at].add(gain / jnp.sum(same, axis=-1).astype(dtype)[:, None])


def history_of(previous: jax.Array) -> jax.Array:
    """Returns the REACH tokens before each target, `[N, M, REACH]`, of what a decoder reads, `[N, M]`."""
    length = previous.shape[1]
    return jnp.stack([jnp.pad(previous, ((0, 0), (back, 0)))[:, :length] for back in range(REACH)], axis=-1)


def _aligned(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    # The last token says where to go on; where it is no token of the source, those before it do.
    del key
    return jnp.diag(jnp.asarray([6.0, 3.0, 1.5][: shape[0]], dtype))


def _scales(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    # Of the lexicon in answers, where few steps of Adam make a token likely, and in comparisons; of distance.
    del key, shape
    return jnp.asarray([8.0, 0.5, 0.2], dtype)
