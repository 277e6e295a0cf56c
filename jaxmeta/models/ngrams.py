"""A bag of hashed character n-grams: what is shared by languages that are related, without anything to pretrain.

Compare TF-IDF of character n-grams, whose weights are counted instead of learned, and the hashing trick (Weinberger et
al. 2009, arXiv 0902.2206).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import PADDING, Model
from jaxmeta.models.adapters import linen

_BASE = 0x9E3779B1  # odd and far from a power of two, so that hashes modulo 2^32 mix all their bits
_SPACE = 32
# The bytes that go on with a character of UTF-8, and the capitals of ASCII.
_CONTINUED, _CAPITALS = (0x80, 0xBF), (0x41, 0x5A)
# Logits have features of this length under them: a step of a head on vectors of length one would change nothing.
_HEAD_LENGTH = 8.0


class NgramEncoder(nn.Module):
    """Reads tokens `[N, L]` (int, 0 is padding), answers `[N, outputs]`; `features` gives `[N, buckets]`.

    Characters in a row, of one word with the spaces around it, are hashed to buckets and counted. A count `c` is read
    as `1 + log c`, every bucket has a learned positive weight (as an IDF would be, but the one that serves the task),
    and the vector has the length `sqrt(buckets)`, whatever the text's. The head is linear.

    Attributes:
      outputs: width of the last layer, named "head".
      buckets: B. More of them keep apart more n-grams.
      longest: characters of the longest n-gram.
      from_bytes: whether tokens are bytes of UTF-8 plus one, which are put together to characters, ASCII without
        capitals; otherwise each token is a character.
      dtype: of the parameters and the arithmetic.
    """

    outputs: int
    buckets: int = 2**14
    longest: int = 4
    from_bytes: bool = True
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        """Checks the sizes."""
        for name in ("outputs", "buckets", "longest"):
            check_positive(name, getattr(self, name))
        super().__post_init__()

    def setup(self):
        """Names the parts; their names are the paths that selections see."""
        self.log_weight = self.param("log_weight", nn.initializers.zeros, (self.buckets,), self.dtype)
        self.head = nn.Dense(self.outputs, param_dtype=self.dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns `[N, outputs]`."""
        return self.head(self.features(tokens) * (_HEAD_LENGTH / self.buckets**0.5))

    def features(self, tokens: jax.Array) -> jax.Array:
        """Returns the weighted counts, `[N, buckets]`; all zero for a text without characters."""
        if self.from_bytes:
            tokens = characters(tokens)
        counts = ngram_counts(tokens, self.buckets, longest=self.longest, space=_SPACE + 1)
        several = jnp.maximum(counts, 1).astype(self.dtype)
        read = jnp.where(counts > 0, 1 + jnp.log(several), jnp.zeros_like(several))
        # The precision of the arithmetic is that of the parameters given; no other could count beyond 256.
        weighted = read.astype(self.log_weight.dtype) * jnp.exp(self.log_weight)[None]
        square = jnp.sum(jnp.square(weighted), axis=-1, keepdims=True)
        return weighted * jax.lax.rsqrt(jnp.where(square > 0, square, jnp.ones_like(square))) * self.buckets**0.5


def characters(tokens: jax.Array) -> jax.Array:
    """Puts bytes together to characters.

    Args:
      tokens: bytes of UTF-8 plus one `[N, L]`, 0 is padding.

    Returns:
      `[N, L]` uint32, a number for each character and 0 behind the last: its byte plus one for ASCII, in lower case,
      and a hash for others.
    """
    tokens = tokens.astype(jnp.uint32)
    byte = tokens - 1  # padding becomes the largest number there is
    capital = (byte >= _CAPITALS[0]) & (byte <= _CAPITALS[1])
    tokens = jnp.where(capital, tokens + 32, tokens)
    continues = (byte >= _CONTINUED[0]) & (byte <= _CONTINUED[1])
    number, within = tokens, jnp.ones_like(continues)
    for offset in (1, 2, 3):
        within = within & _later(continues, offset)
        number = jnp.where(within, number * jnp.uint32(_BASE) + _later(tokens, offset), number)
    begins = (tokens != PADDING) & ~continues
    place = jnp.where(begins, jnp.cumsum(begins, axis=1) - 1, tokens.shape[1])
    rows = jnp.arange(tokens.shape[0])[:, None]
    return jnp.zeros_like(tokens).at[rows, place].set(number, mode="drop")


def ngram_counts(tokens: jax.Array, buckets: int, *, longest: int, space: int) -> jax.Array:
    """Counts n-grams of one to `longest` tokens by the bucket that their hash falls into.

    A space stands before the first token and behind the last. No n-gram has a space but at its ends, and a space alone
    counts for nothing: n-grams are of words, as scikit-learn's `char_wb` has them.

    Args:
      tokens: `[N, L]` int, 0 is padding and stands at the end.
      buckets: how many there are.
      longest: tokens of the longest n-gram.
      space: the token that parts words.

    Returns:
      `[N, buckets]` int32.
    """
    tokens = jnp.pad(tokens.astype(jnp.uint32), ((0, 0), (1, 2)))
    ends = jnp.sum(tokens != PADDING, axis=1, keepdims=True) + 1  # the place behind the last token
    place = jnp.arange(tokens.shape[1])[None]
    blank = (place == 0) | (place == ends) | (tokens == space)
    tokens = jnp.where(blank, jnp.uint32(space), tokens)
    rows = jnp.arange(tokens.shape[0])[:, None]
    counts = jnp.zeros((tokens.shape[0], buckets), jnp.int32)
    hashed = jnp.zeros_like(tokens)
    whole = place <= ends  # whether the n-gram lies within the text, and within a word
    for offset in range(longest):
        if offset:
            whole = whole & (place + offset <= ends)
        if offset > 1:
            whole = whole & ~_later(blank, offset - 1)
        hashed = hashed * jnp.uint32(_BASE) + _later(tokens, offset) + jnp.uint32(1)
        # Neither a space alone nor two of them say anything; with a word between them they do.
        counted = whole & ~(blank & _later(blank, offset)) if offset < 2 else whole
        bucket = (_mixed(hashed) % jnp.uint32(buckets)).astype(jnp.int32)
        counts = counts.at[rows, bucket].add(counted.astype(jnp.int32))
    return counts


def _later(x: jax.Array, offset: int) -> jax.Array:
    """Returns what stands `offset` places further on, nothing beyond the end."""
    return jnp.pad(x[:, offset:], ((0, 0), (0, min(offset, x.shape[1]))))


def _mixed(number: jax.Array) -> jax.Array:
    """Returns the numbers with their bits mixed (the end of MurmurHash3, Appleby 2011), for the low ones to be even."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        number = (number ^ (number >> jnp.uint32(shift))) * jnp.uint32(factor)
    return number ^ (number >> jnp.uint32(16))


def ngrams(outputs: int, **options) -> Model:
    """Returns an `NgramEncoder` as a `Model`; see its attributes for the options."""
    return linen(NgramEncoder(outputs, **options))
