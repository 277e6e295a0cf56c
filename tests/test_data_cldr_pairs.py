"""The embedded pairs: what they say is what Babel says, answers are where they should be, and splits share nothing."""

import numpy as np
import pytest
from babel.dates import format_date
from babel.units import format_unit

from jaxmeta.core.checks import InputError
from jaxmeta.data.cldr_pairs import CLDR_PAIR_TASKS, QUESTIONS, cldr_pairs, pair_languages
from jaxmeta.data.pair_episodes import PairEpisodes
from jaxmeta.data.splits import LanguageSplit, check_overlap, split_pairs
from jaxmeta.data.tokenize import ByteTokenizer

CODES = ("de", "fr", "he", "ru", "th", "uk")


@pytest.fixture(scope="module")
def tables():
    return {task: cldr_pairs(task, languages=CODES, train=40, dev=10, test=20, seed=2) for task in CLDR_PAIR_TASKS}


def test_how_many_languages_qualify():
    counts = {task: len(pair_languages(task)) for task in CLDR_PAIR_TASKS}
    assert min(counts.values()) > 80
    assert counts["retrieval"] == counts["generation"] >= counts["question_answering"]
    assert all("en" not in pair_languages(task) for task in CLDR_PAIR_TASKS)
    assert set(pair_languages("question_answering")) <= set(pair_languages("translation"))


@pytest.mark.parametrize("task", CLDR_PAIR_TASKS)
def test_rows_and_splits_that_share_nothing(tables, task):
    table = tables[task]
    assert len(table.languages()) == len(CODES)
    sizes = [[len(table.rows(code, split)) for split in ("train", "dev", "test")] for code in table.languages()]
    if task in ("retrieval", "generation"):
        assert np.min(sizes) >= 5
        assert np.max(sizes, axis=0).tolist() == [40, 10, 20]
    else:
        assert sizes == [[40, 10, 20]] * len(CODES)
    split = split_pairs(table, test=["he", "th"], dev=["uk"])
    report = check_overlap(table, split)
    assert report.judged_rows > 10
    of = [set(table.sentence[table.split == part].tolist()) for part in ("train", "dev", "test")]
    assert not of[0] & of[1]
    assert not of[0] & of[2]
    again, other = (cldr_pairs(task, languages=("he", "th"), train=40, dev=10, test=20, seed=s) for s in (2, 3))
    rows = [row for code in again.languages() for row in range(len(table)) if table.language[row] == code]
    texts = [table.texts_of(row) for row in rows]
    assert texts == [again.texts_of(row) for row in range(len(again))], "languages do not change each other's rows"
    assert texts != [other.texts_of(row) for row in range(len(other))]


def test_translations_are_as_babel_writes_them(tables):
    table = tables["translation"]
    table = table.take(np.flatnonzero(table.language == "en-he"))
    units = [f"{kind}-{unit}" for kind, unit in (("length", "kilometer"), ("duration", "hour"), ("mass", "gram"))]
    known = {format_unit(n, u, "long", locale="en"): format_unit(n, u, "long", locale="he")
             for u in units for n in range(2, 100)}  # fmt: skip
    import datetime

    days = (datetime.date(1990, 1, 1) + datetime.timedelta(days=k) for k in range(17_000))
    known |= {format_date(day, "full", locale="en"): format_date(day, "full", locale="he") for day in days}
    pairs = zip(table.texts("src"), table.texts("tgt"), strict=True)
    found = [(known[english], hebrew) for english, hebrew in pairs if english in known]
    assert len(found) > 35
    assert all(expected == written for expected, written in found)
    assert table.codes("en-he") == ("en", "he")


def test_terms_are_what_english_calls_so(tables):
    table = tables["retrieval"]
    german = {
        table.columns["english"][row]: table.columns["text"][row] for row in np.flatnonzero(table.language == "de")
    }
    assert all(a.casefold() != b.casefold() for a, b in german.items())
    everything = cldr_pairs("retrieval", languages=("de",), train=9999, dev=9999, test=9999)
    known = dict(zip(everything.texts("english"), everything.texts("text"), strict=True))
    assert known["Germany"] == "Deutschland"
    assert known["Swahili"] == "Suaheli"
    assert len(set(everything.sentence.tolist())) == len(everything)


def test_answers_are_in_their_place(tables):
    table = tables["question_answering"]
    fields = [table.texts(column) for column in ("context", "question", "answer")]
    asked = set()
    for context, question, answer, start in zip(*fields, table.numbers("answer_start").tolist(), strict=True):
        assert context[start : start + len(answer)] == answer
        asked.add(question)
    assert asked == set(QUESTIONS.values())
    assert not any(chr(0xE000) <= letter <= chr(0xE00F) for context in fields[0] for letter in context)
    split = LanguageSplit(("de", "fr", "ru"), (), ("he", "th"))
    episodes = PairEpisodes(table, ByteTokenizer(512), split, shots=4, queries=4)
    assert (episodes(0, split="test").query["targets"]["start"] > 0).all()
    assert episodes.left_out == 0


def test_wrong_arguments():
    with pytest.raises(InputError, match="task 'translation' has no language en, xx"):
        cldr_pairs("translation", languages=("de", "xx", "en"))
    with pytest.raises(ValueError, match="`task` must be one of"):
        cldr_pairs("summaries")
    with pytest.raises(ValueError, match="`train` must be positive"):
        cldr_pairs("generation", train=0)
