"""The embedded tasks: what they say is what Babel says, and no sentence is in two splits."""

import datetime
import subprocess
import sys

import babel
import numpy as np
import pytest
from babel import Locale
from babel.dates import format_date

from jaxmeta.core.checks import InputError
from jaxmeta.data.cldr import KINDS, MONTHS, WEEKDAYS, cldr, date_languages

FEW = ("de", "he", "ko", "sw", "th", "vi")


def test_how_many_languages_qualify():
    months, weekdays = date_languages("month"), date_languages("weekday")
    counts = {"2.18.0": (276, 275), "2.19.0": (292, 289)}.get(babel.__version__)
    assert counts in (None, (len(months), len(weekdays)))
    assert 270 <= len(months) <= 300
    assert 270 <= len(weekdays) <= 300
    assert {"en", "de", "ko", "vi", "fi", "smn"} <= set(months)
    assert not {"zh", "ja", "yue"} & set(months), "their full date writes the month as a number"
    assert not {"kkj", "nb", "ht", "vo", "root", "sr_Latn"} & set(months)
    assert {"hnj", "lrc"} <= set(months) - set(weekdays), "their weekdays come from the root"


@pytest.mark.parametrize(("task", "labels"), [("month", MONTHS), ("weekday", WEEKDAYS)])
def test_dates_are_balanced_true_and_as_babel_writes_them(task, labels):
    corpus = cldr(task, languages=FEW, train=5, dev=2, test=3, seed=1)
    assert corpus.labels == labels
    assert corpus.languages() == FEW
    for language in FEW:
        for split, size in (("train", 5), ("dev", 2), ("test", 3)):
            rows = corpus.rows(language, split)
            assert np.bincount(corpus.label[rows]).tolist() == [size] * len(labels)
            assert len(set(corpus.sentence[rows].tolist())) == len(rows)
    for text, language, label, ordinal in zip(corpus.text, corpus.language, corpus.label, corpus.sentence, strict=True):
        day = datetime.date.fromordinal(int(ordinal))
        assert text == format_date(day, format="full", locale=Locale.parse(str(language)))
        assert label == (day.month - 1 if task == "month" else day.weekday())


def test_a_date_holds_the_name_of_its_month():
    corpus = cldr("month", languages=("de",))
    names = [datetime.date(2000, month, 1) for month in range(1, 13)]
    names = [format_date(day, format="LLLL", locale="de") for day in names]
    assert all(names[label] in text for text, label in zip(corpus.text, corpus.label, strict=True))


@pytest.mark.parametrize("task", ["month", "weekday", "kind"])
def test_a_sentence_is_in_one_split_in_every_language(task):
    corpus = cldr(task, languages=("de", "he", "ko", "th", "el", "ru"))
    parts = {s: set(corpus.sentence[corpus.split == s].tolist()) for s in ("train", "dev", "test")}
    assert all(parts.values())
    assert not parts["train"] & parts["dev"]
    assert not parts["train"] & parts["test"]
    assert not parts["dev"] & parts["test"]


def test_languages_are_drawn_apart_but_from_one_pool():
    corpus = cldr("month", languages=("de", "he"), train=30)
    ours, theirs = (set(corpus.sentence[corpus.rows(la, "train")].tolist()) for la in ("de", "he"))
    assert ours != theirs
    alone = cldr("month", languages=("he",), train=30)
    assert list(alone.text) == corpus.texts(np.flatnonzero(corpus.language == "he"))


def test_a_seed_gives_other_rows():
    first, again, other = (cldr("month", languages=("de",), seed=seed) for seed in (0, 0, 1))
    assert first.text == again.text
    assert first.text != other.text


def test_kinds_are_own_and_unambiguous():
    corpus = cldr("kind", train=12, dev=4, test=8)
    assert corpus.labels == KINDS
    assert len(corpus.languages()) > 110
    for language in corpus.languages():
        rows = np.flatnonzero(corpus.language == language)
        texts = [corpus.text[row].casefold() for row in rows]
        assert len(set(texts)) == len(texts), language
        assert np.bincount(corpus.label[rows], minlength=6).min() > 0
        assert not any(character.isdigit() for text in texts for character in text)
    german = {corpus.text[row]: KINDS[corpus.label[row]] for row in np.flatnonzero(corpus.language == "de")}
    assert any(kind == "currency" and "dollar" in text.casefold() for text, kind in german.items())
    counts = [np.bincount(corpus.label[corpus.rows("de", s)], minlength=6).max() for s in ("train", "dev", "test")]
    assert counts == [12, 4, 8]


@pytest.mark.slow
def test_tasks_do_not_disturb_each_other():
    """Babel caches what it loads: reading terms first must not change how dates are written."""
    program = (
        "import hashlib, sys\n"
        "from jaxmeta.data.cldr import cldr\n"
        "texts = {task: cldr(task, train=1, dev=1, test=1).text for task in sys.argv[1:]}\n"
        "print(hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest())"
    )
    digests = {
        subprocess.run([sys.executable, "-c", program, *order], capture_output=True, text=True, check=True).stdout
        for order in (("month", "kind", "weekday"), ("kind", "weekday", "month"))
    }
    assert len(digests) == 1


def test_wrong_arguments():
    with pytest.raises(InputError, match="no language xx"):
        cldr("month", languages=("de", "xx"))
    with pytest.raises(ValueError, match="`task` must be one of"):
        cldr("year")
    with pytest.raises(ValueError, match="`train` must be at most"):
        cldr("month", languages=("de",), train=2000)
    with pytest.raises(ValueError, match="`train` must be positive"):
        cldr("month", train=0)
