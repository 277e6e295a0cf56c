"""Answers in words: against definitions written another way, and published rules; a baseline that answers."""

import itertools
import string
import unicodedata

import numpy as np
import pytest

from jaxmeta.core.words import words
from jaxmeta.run.answer_scores import answer_counts, answer_scores, normalized_words
from jaxmeta.run.classical_span_regression import span_regression, span_scores
from jaxmeta.run.classical_spans import overlap_spans

ENGLISH = {"a", "an", "the"}
WORDS = [
    "The",
    "a",
    "An",
    "Super",
    "Bowl",
    "50",
    "super",
    "24–10",
    "Levi's",
    "U.S.",
    "¿no?",
    "co-op",
    "la",
    "...",
    "das",
]


def slow_words(text, articles=ENGLISH, unicode=False):
    """Normalises without regular expressions: cuts at what is no part of a word, and looks each piece up."""
    kept = []
    for character in text.lower():
        if ord(character) < 128 and character in string.punctuation:
            continue
        if unicode and unicodedata.category(character) in ("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"):
            continue
        kept.append(character)
    pieces = [""]
    for character in kept:  # an article ends where letters, digits and underscores do
        if character.isalnum() == (pieces[-1][-1:] or character).isalnum():
            pieces[-1] += character
        else:
            pieces.append(character)
    return "".join(" " if piece in articles else piece for piece in pieces).split()


def slow_f1(said, wanted):
    """Crosses words off a list."""
    rest, same = list(wanted), 0
    for word in said:
        if word in rest:
            rest.remove(word)
            same += 1
    if not same:
        return 0.0
    precision, recall = same / len(said), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def random_answer(random):
    chosen = random.choice(WORDS, size=int(random.integers(0, 5)))
    return str(random.choice([" ", "  ", "\u00a0", "\n"])).join(chosen) + str(random.choice(["", ".", " !"]))


@pytest.mark.parametrize(
    ("convention", "language", "articles"),
    [
        ("squad", "en", ENGLISH),
        ("squad", "de", ENGLISH),
        ("mlqa", "en", ENGLISH),
        ("mlqa", "es", {"un", "una", "unos", "unas", "el", "la", "los", "las"}),
        ("mlqa", "tr", set()),
    ],
)
def test_scores_are_those_of_another_implementation(convention, language, articles):
    random = np.random.default_rng(0)
    total = {"n": 0.0, "exact_match": 0.0, "f1": 0.0}
    exact, f1 = [], []
    for _ in range(200):
        prediction = random_answer(random)
        references = [random_answer(random) for _ in range(int(random.integers(1, 4)))]
        counts = answer_counts([prediction], [references], language=language, convention=convention)
        said, *wanted = (slow_words(t, articles, convention == "mlqa") for t in [prediction, *references])
        assert normalized_words(prediction, language, convention) == said
        exact.append(max(" ".join(said) == " ".join(one) for one in wanted))
        f1.append(max(slow_f1(said, one) for one in wanted))
        assert counts["exact_match"] == exact[-1]
        assert counts["f1"] == pytest.approx(f1[-1])
        total = {name: total[name] + counts[name] for name in total}
    assert 0.01 < np.mean(exact) < np.mean(f1) < 0.9
    assert answer_scores(total) == pytest.approx({"exact_match": np.mean(exact), "f1": np.mean(f1)})


@pytest.mark.parametrize(
    ("language", "convention", "text", "want"),
    [
        ("en", "squad", "The Denver Broncos.", "denver broncos"),
        ("en", "squad", "“an” idea", "“ ” idea"),  # only ASCII punctuation, so the quotes stay
        ("en", "mlqa", "“an” idea", "idea"),
        ("de", "squad", "die Katze", "die katze"),
        ("de", "mlqa", "Die Katze", "katze"),
        ("vi", "mlqa", "của những con mèo", "con mèo"),
        ("ar", "mlqa", "القط والقط", "قط و قط"),
        ("hi", "mlqa", "एक बिल्ली।", "एक बिल्ली"),
        ("ru", "mlqa", "«Кошка»", "кошка"),
        ("zh", "squad", "公元 618 年", "公元 618 年"),
        ("zh", "mlqa", "公元618年，NBA", "公 元 618 年 nba"),
        ("zh-Hans", "mlqa", "丹佛", "丹 佛"),
        ("ja", "mlqa", "ねこ猫", "ね こ 猫"),
        ("th", "mlqa", "แมว", "แ ม ว"),
    ],
)
def test_each_language_has_its_words(language, convention, text, want):
    assert normalized_words(text, language, convention) == want.split()


def test_answers_by_hand():
    counts = answer_counts(["the red cat"], [["a cat", "red dog house"]])
    assert answer_scores(counts) == {"exact_match": 0.0, "f1": pytest.approx(2 / 3)}
    # Nothing is left of an article: equal, and yet without a word in common, as in version 1.1.
    assert answer_scores(answer_counts(["the"], [["a"]])) == {"exact_match": 1.0, "f1": 0.0}
    assert all(np.isnan(score) for score in answer_scores(answer_counts([], [])).values())


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="`references` must be as many as predictions, 1, got 0"):
        answer_counts(["a"], [])
    with pytest.raises(ValueError, match="`references` must have an answer for every question"):
        answer_counts(["a"], [[]])
    with pytest.raises(ValueError, match="`convention` must be one of 'squad', 'mlqa', got 'xquad'"):
        normalized_words("a", "en", "xquad")


def test_words_have_their_places_in_any_script():
    def found(text):
        return [text[word.start : word.end] for word in words(text)]

    assert found("Levi's, at 4:30 (p.m.)") == ["Levi", "s", "at", "4", "30", "p", "m"]
    assert found("दिल्ली में") == ["दिल्ली", "में"]
    assert found("公元618年。NBA") == ["公", "元", "618", "年", "NBA"]
    assert found("") == []


def test_an_answer_stands_among_the_words_of_the_question():
    context = (
        "The castle was finished in 1480. Its gardens were planted by Maria Schmidt in 1512. Today it is a museum. "
        "Tickets are sold at the northern gate."
    )
    # Which words are common is learned from all contexts.
    other = "The doors were shut. The guards were by the fire. The roads are at the river. There were two bridges."
    questions = ["Who planted the gardens?", "Where are tickets sold?", "?", ""]
    spans = overlap_spans(questions, [context] * 3 + [other], max_words=5)
    answers = [context[start:end] for start, end in spans[:3]]
    assert "Maria" in answers[0] or "Schmidt" in answers[0]
    assert "northern" in answers[1] or "gate" in answers[1]
    assert all(0 < len(words(answer)) <= 5 for answer in answers)
    assert overlap_spans(["Who?"], [""]) == [(0, 0)]


def test_the_baseline_finds_a_fifth_of_the_words_of_answers(data_dir):
    lines = (data_dir / "xquad" / "xquad.tsv").read_text("utf-8").splitlines()[1:]
    rows = [row for row in (line.split("\t") for line in lines) if row[:2] == ["en", "dev"]]
    spans = overlap_spans([row[3] for row in rows], [row[2] for row in rows])
    said = [row[2][start:end] for row, (start, end) in zip(rows, spans, strict=True)]
    f1 = answer_scores(answer_counts(said, [[row[4]] for row in rows]))["f1"]
    random = np.random.default_rng(0)
    other = [row[2][start:][:20] for row, start in zip(rows, random.integers(0, 300, len(rows)), strict=True)]
    assert answer_scores(answer_counts(other, [[row[4]] for row in rows]))["f1"] < 0.1 < 0.2 < f1


def test_span_regression_finds_what_is_told_of_answers():
    random = np.random.default_rng(0)
    words = random.normal(size=(60, 12, 5)).astype(np.float32)
    sentence = np.tile(np.repeat([1, 2, 0], [5, 5, 2]), (60, 1))
    start = random.integers(0, 4, 60) + 5 * random.integers(0, 2, 60)
    end = start + random.integers(0, 2, 60)
    words[np.arange(60), start, 2] += 6  # answers begin with something
    words[np.arange(60), end, 3] += 6  # and end with something else
    start[0] = -1  # a window without its answer
    inputs = {"words": words, "sentence": sentence}
    weights = span_regression(inputs, start, end, strength=1.0, longest=3)
    scores = span_scores(weights, inputs)
    assert scores.shape == (60, 12, 3)
    first, more = np.unravel_index(scores.reshape(60, -1).argmax(axis=1), (12, 3))
    assert np.mean((first == start) & (first + more == end)) > 0.9
    for row, begin, longer in itertools.product(range(3), range(12), range(3)):
        last = begin + longer
        if last > 9 or sentence[row, begin] != sentence[row, last]:
            assert scores[row, begin, longer] == -np.inf
            continue
        around = np.pad(words[row], ((1, 1), (0, 0)))
        told = [around[begin + 1], around[begin], around[last + 1], around[last + 2]]
        told += [words[row, begin : last + 1].mean(axis=0), np.eye(3)[longer]]
        assert scores[row, begin, longer] == pytest.approx(weights @ np.concatenate(told), rel=1e-4, abs=1e-4)
