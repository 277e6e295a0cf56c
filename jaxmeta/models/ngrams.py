"""A bag of hashed character n-grams: what is shared by languages that are related, without anything to pretrain.

Compare TF-IDF of character n-grams, whose weights are counted instead of learned, and the hashing trick (Weinberger et
al. 2009, arXiv 0902.2206).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import PADDING, Model
from jaxmeta.models.adapters import linen
from jaxmeta.models.romanization import romanization_table

_BASE = 0x9E3779B1  # odd and far from a power of two, so that hashes modulo 2^32 mix all their bits
_SPACE = 32
# Bytes of UTF-8: those that go on with a character, those that begin one of two, three and four, capitals of ASCII.
_CONTINUED, _LEADS, _CAPITALS = (0x80, 0xBF), (0xC0, 0xE0, 0xF0), (0x41, 0x5A)
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
      romanize: whether n-grams of the romanized text, with its vowels and without, are counted beside those of its own
        characters, which joins languages of different scripts (of bytes only).
      dtype: of the parameters and the arithmetic.
    """

    outputs: int
    buckets: int = 2**14
    longest: int = 4
    from_bytes: bool = True
    romanize: bool = False
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        """Checks the sizes."""
        for name in ("outputs", "buckets", "longest"):
            check_positive(name, getattr(self, name))
        if self.romanize and not self.from_bytes:
            raise ValueError("`romanize` needs characters, which only tokens that are bytes are put together to")
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
        counts = self._counts(characters(tokens) if self.from_bytes else tokens)
        if self.romanize:
            counts = counts + self._counts(characters(tokens, romanization_table()))
            # Without vowels a short word is another word, which is why its n-grams are others too.
            counts = counts + self._counts(characters(tokens, romanization_table(vowels=False)), seed=1)
        several = jnp.maximum(counts, 1).astype(self.dtype)
        read = jnp.where(counts > 0, 1 + jnp.log(several), jnp.zeros_like(several))
        # The precision of the arithmetic is that of the parameters given; no other could count beyond 256.
        weighted = read.astype(self.log_weight.dtype) * jnp.exp(self.log_weight)[None]
        square = jnp.sum(jnp.square(weighted), axis=-1, keepdims=True)
        return weighted * jax.lax.rsqrt(jnp.where(square > 0, square, jnp.ones_like(square))) * self.buckets**0.5

    def _counts(self, tokens: jax.Array, seed: int = 0) -> jax.Array:
        return ngram_counts(tokens, self.buckets, longest=self.longest, space=_SPACE + 1, seed=seed)


def characters(tokens: jax.Array, table: np.ndarray | None = None) -> jax.Array:
    """Puts bytes together to characters.

    Args:
      tokens: bytes of UTF-8 plus one `[N, L]`, 0 is padding.
      table: the number that stands for each of the first code points, 0 for none, such as `romanization_table()`.

    Returns:
      `[N, L]` int32, the code points plus one and 0 behind the last, ASCII in lower case.
    """
    byte = tokens.astype(jnp.int32) - 1  # padding becomes negative
    capital = (byte >= _CAPITALS[0]) & (byte <= _CAPITALS[1])
    code = jnp.where(capital, byte + 32, byte)
    for size, lead in enumerate(_LEADS, start=2):
        # The first byte says how many there are, and each has six bits behind it.
        whole = byte - lead
        for offset in range(1, size):
            whole = whole * 64 + (_later(byte, offset) & 63)
        code = jnp.where(byte >= lead, whole, code)
    number = code + 1
    if table is not None:
        number = jnp.where(code < len(table), jnp.asarray(table)[jnp.clip(code, 0, len(table) - 1)], number)
    kept = (tokens != PADDING) & ((byte < _CONTINUED[0]) | (byte > _CONTINUED[1])) & (number > 0)
    place = jnp.where(kept, jnp.cumsum(kept, axis=1) - 1, tokens.shape[1])
    rows = jnp.arange(tokens.shape[0])[:, None]
    return jnp.zeros_like(number).at[rows, place].set(number, mode="drop")


def ngram_counts(tokens: jax.Array, buckets: int, *, longest: int, space: int, seed: int = 0) -> jax.Array:
    """Counts n-grams of one to `longest` tokens by the bucket that their hash falls into.

    A space stands before the first token and behind the last. No n-gram has a space but at its ends, and a space alone
    counts for nothing: n-grams are of words, as scikit-learn's `char_wb` has them.

    Args:
      tokens: `[N, L]` int, 0 is padding and stands at the end.
      buckets: how many there are.
      longest: tokens of the longest n-gram.
      space: the token that parts words.
      seed: of the hash; the same n-gram falls into another bucket under another.

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
    hashed = jnp.full_like(tokens, seed)
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
