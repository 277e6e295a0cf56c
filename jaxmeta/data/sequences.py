"""Texts as sequences that begin and end: what a decoder reads, what it should write, and how many bytes that is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxmeta.data.tokenize import ByteTokenizer, Tokenizer, tokenizer_from_state


class Specials(NamedTuple):
    """Token numbers beyond those of a tokenizer, so that text means the same with and without them.

    For bytes: 0 is padding, `b + 1` is byte `b`, 257 begins, 258 ends, and a model has 259 rows in its table.
    """

    bos: int  # comes before the first token
    eos: int  # ends a text, and parts two texts in one row
    vocab_size: int  # how many token numbers there are with these


def specials(tokenizer: Tokenizer) -> Specials:
    """Returns the tokens that begin and end a text of `tokenizer`."""
    return Specials(tokenizer.vocab_size, tokenizer.vocab_size + 1, tokenizer.vocab_size + 2)


def with_length(tokenizer: Tokenizer, length: int) -> Tokenizer:
    """Returns the same tokenizer with rows of another length."""
    return tokenizer_from_state({**tokenizer.state(), "length": length})


def ended(tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Returns the tokens of `texts` with an end after each, int32 `[N, M]`; one that is cut has no end."""
    tokens = tokenizer.encode(texts)
    for row, length in zip(tokens, tokenizer.lengths(texts), strict=True):
        if length < tokenizer.length:
            row[length] = specials(tokenizer).eos
    return tokens


def previous(targets: np.ndarray, bos: int) -> np.ndarray:
    """Returns what a decoder has read before each of `targets` `[..., M]`: its beginning and the targets before."""
    before = np.roll(targets, 1, axis=-1)
    before[..., 0] = bos
    return np.where(targets > 0, before, np.zeros_like(before))


def count_bytes(tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Returns how many UTF-8 bytes the tokens of each text stand for, int32 `[N]`: fewer than it has if it is cut."""
    sizes = np.array([len(text.encode()) for text in texts], np.int32)
    if isinstance(tokenizer, ByteTokenizer):
        return np.minimum(sizes, tokenizer.length)
    cut = np.array(tokenizer.lengths(texts)) > tokenizer.length
    kept = tokenizer.decode(tokenizer.encode([text for text, is_cut in zip(texts, cut, strict=True) if is_cut]))
    sizes[cut] = [len(text.encode()) for text in kept]
    return sizes


def decode_sequence(tokenizer: Tokenizer, tokens: np.ndarray) -> list[str]:
    """Returns the texts of `tokens` `[N, M]` up to the end of each."""
    over = np.cumsum(tokens == specials(tokenizer).eos, axis=-1) > 0
    kept = np.where(over | (tokens >= tokenizer.vocab_size), 0, tokens)
    return tokenizer.decode(kept)
