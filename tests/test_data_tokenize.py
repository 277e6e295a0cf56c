"""Tokenizers: bytes that lose nothing, subwords that are the same every time, states that JSON can hold."""

import json

import numpy as np
import pytest

from jaxmeta.core.checks import InputError
from jaxmeta.data.cldr import cldr
from jaxmeta.data.tokenize import ByteTokenizer, SentencePieceTokenizer, Tokenizer, count_cut, tokenizer_from_state

TEXTS = ["abc", "", "Größe", "ᨅᨔ ᨕᨘᨁᨗ", "x" * 50]


@pytest.fixture(scope="module")
def corpus_texts():
    return cldr("month", languages=("de", "fr", "sw", "ru")).text


@pytest.fixture(scope="module")
def pieces(corpus_texts):
    return SentencePieceTokenizer.train(corpus_texts, 400, 24)


def test_bytes_are_shifted_by_one_padded_and_cut():
    tokenizer = ByteTokenizer(16)
    tokens = tokenizer.encode(TEXTS)
    assert tokens.shape == (5, 16)
    assert tokens.dtype == np.int32
    assert tokens[0].tolist() == [98, 99, 100] + [0] * 13
    assert not tokens[1].any()
    assert tokens.max() < tokenizer.vocab_size == 257
    assert tokenizer.decode(tokens)[:3] == TEXTS[:3]
    assert tokenizer.decode(tokens)[4] == "x" * 16
    assert tokenizer.encode(["\xff\U0010ffff\0"]).max() <= 256


def test_cutting_inside_a_character_keeps_the_bytes():
    assert ByteTokenizer(1).encode(["é"]).tolist() == [["é".encode()[0] + 1]]


def test_no_texts_give_no_rows(pieces):
    assert ByteTokenizer(7).encode([]).shape == (0, 7)
    assert pieces.encode([]).shape == (0, 24)


def test_byte_statistics():
    statistics = ByteTokenizer(4).statistics(["ab", "éé", "abcde", "жж"])
    assert statistics["tokens_per_character"] == pytest.approx((2 + 4 + 5 + 4) / 11)
    assert statistics["unknown_rate"] == 0.0
    assert statistics["truncation_rate"] == 0.25


def test_texts_that_are_cut_are_counted(pieces):
    assert count_cut(ByteTokenizer(4), ["ab", "éé", "abcde", "жжж", ""]) == 2
    assert ByteTokenizer(4).lengths(["ab", "éé", "abcde", "жжж", ""]) == [2, 4, 5, 6, 0]
    texts = ["Januar", "Januar " * 40]
    assert pieces.lengths(texts)[0] <= pieces.length < pieces.lengths(texts)[1]
    assert count_cut(pieces, texts) == 1


def test_sentencepiece_training_is_deterministic(corpus_texts, pieces):
    again = SentencePieceTokenizer.train(corpus_texts, 400, 24)
    assert again.model == pieces.model
    assert again.vocab_size == pieces.vocab_size <= 400


def test_sentencepiece_spells_the_unseen_in_bytes(pieces):
    tokens = pieces.encode(["ᨅᨔ ᨕᨘᨁᨗ", "Januar"])
    assert tokens.dtype == np.int32
    assert tokens.shape == (2, 24)
    assert not (tokens == 1).any(), "nothing is unknown"
    assert pieces.decode(tokens)[1] == "Januar"
    assert pieces.statistics(["ᨅᨔ"])["unknown_rate"] == 0.0
    assert pieces.statistics(["ᨅᨔ"])["tokens_per_character"] > 1 > pieces.statistics(["Januar"])["tokens_per_character"]


def test_states_pass_through_json(pieces):
    for tokenizer in (ByteTokenizer(9), pieces):
        assert isinstance(tokenizer, Tokenizer)
        again = tokenizer_from_state(json.loads(json.dumps(tokenizer.state())))
        assert (again.vocab_size, again.length) == (tokenizer.vocab_size, tokenizer.length)
        np.testing.assert_array_equal(again.encode(TEXTS), tokenizer.encode(TEXTS))


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"kind": "words"},
        {"kind": "bytes"},
        {"kind": "bytes", "length": 0},
        {"kind": "sentencepiece", "length": 4, "model": "not base64!"},
        {"kind": "sentencepiece", "length": 4, "model": "AAAA"},
        {"kind": "sentencepiece", "length": 4, "model": 3},
    ],
)
def test_damaged_states(state):
    with pytest.raises(InputError, match="tokenizer"):
        tokenizer_from_state(state)


def test_wrong_arguments(corpus_texts):
    with pytest.raises(ValueError, match="`length` must be positive"):
        ByteTokenizer(0)
    with pytest.raises(ValueError, match="`character_coverage`"):
        SentencePieceTokenizer.train(corpus_texts, 400, 24, character_coverage=1.0)
    with pytest.raises(InputError, match="cannot learn 100 pieces"):
        SentencePieceTokenizer.train(corpus_texts, 100, 24)
    with pytest.raises(InputError, match="cannot learn"):
        SentencePieceTokenizer.train([], 400, 24)
