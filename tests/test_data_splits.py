"""Splits by language, and the overlap report on a made-up and on a real parallel corpus."""

import numpy as np
import pytest

from jaxmeta.core.checks import InputError
from jaxmeta.data.cldr import cldr
from jaxmeta.data.corpus import Corpus
from jaxmeta.data.splits import (
    LanguageSplit,
    check_overlap,
    overlap,
    split_languages,
    translated_shots,
    without_sources,
)
from jaxmeta.data.tsv import read_tsv

CODES = tuple("abcdefghij")


def _corpus(rows):
    language, split, label, text, sentence = zip(*rows, strict=True)
    return Corpus(
        "made-up",
        ("no", "yes"),
        np.array(language),
        np.array(split),
        np.array(label, np.int32),
        tuple(text),
        np.array(sentence, np.int64),
    )


def test_drawn_by_number_disjoint_whole_and_seeded():
    split = split_languages(CODES, test=3, dev=2, seed=0)
    assert (len(split.train), len(split.dev), len(split.test)) == (5, 2, 3)
    assert sorted(split.train + split.dev + split.test) == list(CODES)
    assert split == split_languages(CODES[::-1], test=3, dev=2, seed=0)
    assert len({split_languages(CODES, test=3, dev=2, seed=seed) for seed in range(8)}) > 4


def test_named_and_mixed():
    assert split_languages("abc", test=["c"], dev=[], seed=0) == LanguageSplit(("a", "b"), (), ("c",))
    mixed = split_languages(CODES, test=["j", "a"], dev=3, seed=0)
    assert mixed.test == ("a", "j")
    assert len(mixed.dev) == 3
    assert not set(mixed.dev) & set(mixed.test)


@pytest.mark.parametrize(
    ("test", "dev", "message"),
    [
        (["x"], 1, "test languages x are not in the data"),
        (1, ["a", "y", "z"], "dev languages y, z are not in the data"),
        (["a", "b"], ["b"], "b cannot be a test and a dev language"),
        (5, 5, "too few"),
        (list(CODES), 0, "too few"),
        (11, 0, "too few: 0 are named and 11 to be drawn for test and dev, which leaves none to train on"),
    ],
)
def test_impossible_splits(test, dev, message):
    with pytest.raises(InputError, match=message):
        split_languages(CODES, test=test, dev=dev, seed=0)


def test_too_few_beside_those_that_are_trained_on():
    with pytest.raises(InputError, match="10 languages are too few: 9 are named and 2 to be drawn for test and dev;"):
        split_languages(CODES, test=2, dev=[], train=CODES[:9], seed=0)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`test` must be zero or more"):
        split_languages(CODES, test=-1, dev=0, seed=0)
    with pytest.raises(ValueError, match="got the string 'ab'"):
        split_languages(CODES, test="ab", dev=0, seed=0)


def test_overlap_counts_judged_rows():
    rows = [
        ("a", "train", 0, "Hello  World", 1),
        ("a", "train", 1, "other", 2),
        ("a", "test", 1, "never trained on", 3),
        ("b", "train", 0, "support", 4),
        ("b", "test", 0, "hello world", 5),  # the same text
        ("b", "test", 1, "translated", 2),  # the same sentence
        ("b", "test", 1, "new", 3),  # shared with a test row only: nobody trains on that
    ]
    split = LanguageSplit(("a",), (), ("b",))
    report = overlap(_corpus(rows), split)
    assert report == (2, 3, 1, 1, True)
    assert "\n" not in str(report)
    assert "1 by sentence, 1 by text" in str(report)
    with pytest.raises(InputError, match="1 of 3 judged rows of made-up"):
        check_overlap(_corpus(rows), split)
    assert check_overlap(_corpus(rows[:5] + rows[6:]), split).shared_texts == 1
    alone = overlap(_corpus([(*row[:4], number) for number, row in enumerate(rows)]), split)
    assert str(alone).endswith("1 by text (nothing links rows of different tasks)")


def test_cldr_splits_share_no_sentence():
    corpus = cldr("month", languages=("de", "fr", "sw", "ru", "he", "th"))
    report = check_overlap(corpus, split_languages(corpus.languages(), test=2, dev=1, seed=0))
    assert report.train_rows == 3 * 12 * 12
    assert report.judged_rows == 2 * 12 * 8


def test_nusax_shares_no_sentence_unless_test_rows_are_trained_on(data_dir):
    path = data_dir / "nusax_senti" / "nusax_senti.tsv"
    if not path.is_file():
        pytest.skip(f"no {path}")
    corpus = read_tsv(path, parallel=True)
    assert len(corpus) == 12_000
    assert corpus.labels == ("negative", "neutral", "positive")
    assert [len(corpus.rows("bug", split)) for split in ("train", "dev", "test")] == [500, 100, 400]
    assert len(set(corpus.sentence.tolist())) == 1000
    split = split_languages(corpus.languages(), test=["bug", "nij"], dev=["ace"], seed=0)
    report = check_overlap(corpus, split)
    assert (report.train_rows, report.judged_rows, report.shared_sentences) == (9 * 500, 2 * 400, 0)
    leaky = np.where(corpus.language == "ind", "train", corpus.split)
    with pytest.raises(InputError, match="translations of rows that are trained on"):
        check_overlap(
            Corpus("leaky", corpus.labels, corpus.language, leaky, corpus.label, corpus.text, corpus.sentence),
            split,
        )


def test_shots_that_say_what_is_trained_on_are_counted():
    corpus = _corpus([
        ("a", "train", 0, "ja", 1), ("a", "train", 0, "nein", 2), ("b", "train", 1, "yes", 1),
        ("b", "train", 1, "maybe", 3), ("b", "test", 1, "no", 2), ("c", "train", 1, "peut-etre", 3),
    ])  # fmt: skip
    split = LanguageSplit(("a", "c"), (), ("b",))
    assert translated_shots(corpus, split) == (2, 2)
    assert translated_shots(corpus, without_sources(split, ["c"])) == (1, 2)


def test_sources_may_be_left_out_but_not_all():
    split = LanguageSplit(("a", "b"), ("c",), ("d",))
    assert without_sources(split, ()) == split
    assert without_sources(split, ("a",)) == LanguageSplit(("b",), ("c",), ("d",))
    with pytest.raises(InputError, match="c cannot be left out: the train languages are a, b"):
        without_sources(split, ("c",))
    with pytest.raises(InputError, match="All train languages are left out"):
        without_sources(split, ("a", "b"))
