"""Scores of text from summed statistics against sacrebleu on all of the texts, and against definitions written out."""

import collections
import math
import sys

import numpy as np
import pytest

from jaxmeta.core.checks import InputError
from jaxmeta.run.text_scores import text_scores

sacrebleu = pytest.importorskip("sacrebleu")

WORDS = ["kota", "raja", "(di)", "12", "tahun.", "ñandú", "नमस्ते", "a", "мир,", "!"]


def random_text(random):
    return " ".join(random.choice(WORDS, random.integers(0, 9)))


def random_corpus(seed):
    """Returns texts and references, some of which are alike, some empty."""
    random = np.random.default_rng(seed)
    references = [random_text(random) for _ in range(random.integers(2, 7))]
    written = [text if random.random() < 0.4 else random_text(random) for text in references]
    return written, references


def added(*parts):
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def test_scores_of_sums_are_sacrebleus_of_the_whole_corpus():
    judge = text_scores()
    for seed in range(200):
        written, references = random_corpus(seed)
        cut = 1 + seed % (len(written) - 1)
        counts = added(judge.counts(written[:cut], references[:cut]), judge.counts(written[cut:], references[cut:]))
        scores = judge.scores(counts)
        assert scores["bleu"] == sacrebleu.corpus_bleu(written, [references]).score
        assert scores["chrf"] == sacrebleu.corpus_chrf(written, [references]).score
        assert scores["chrf++"] == sacrebleu.corpus_chrf(written, [references], word_order=2).score
        exact = [a.strip() == b.strip() for a, b in zip(written, references, strict=True)]
        assert scores["exact_match"] == pytest.approx(np.mean(exact))
        assert all(type(value) is float for value in scores.values())


def ngrams(units, n):
    return collections.Counter(tuple(units[i : i + n]) for i in range(len(units) - n + 1))


def slow_bleu(written, references):
    """Papineni et al. 2002; lengths without a match have a half, a quarter, ... of one (Chen & Cherry 2014)."""
    cuts = {"(di)": ["(", "di", ")"], "tahun.": ["tahun", "."], "мир,": ["мир", ","]}
    cut = [[[w for word in text.split() for w in cuts.get(word, [word])] for text in t] for t in (written, references)]
    lengths = [sum(map(len, texts)) for texts in cut]
    logs, missing, some = 0.0, 0, False
    for n in range(1, 5):
        of_both = [[ngrams(text, n) for text in texts] for texts in cut]
        total = sum(found.total() for found in of_both[0])
        matches = sum((a & b).total() for a, b in zip(*of_both, strict=True))
        some |= matches > 0
        if not total or not some:  # one word is the shortest that there is
            return 0.0
        missing += not matches
        logs += math.log(matches / total if matches else 1 / (2**missing * total))
    return 100 * math.exp(logs / 4 + min(0, 1 - lengths[1] / lengths[0]))


def slow_chrf(written, references, words):
    """Popović 2015 and 2017: F2 of mean precision and recall, over lengths that occur on both sides."""

    def units(text):
        ends = {"(di)": ["(di", ")"], "tahun.": ["tahun", "."], "мир,": ["мир", ","]}
        apart = [w for word in text.split() for w in ends.get(word, [word])]
        return [("".join(text.split()), n) for n in range(1, 7)] + [(apart, n) for n in range(1, 1 + words)]

    precisions, recalls = [], []
    for order in range(6 + words):
        said = wanted = same = 0
        for text, reference in zip(written, references, strict=True):
            a, b = (ngrams(*units(each)[order]) for each in (text, reference))
            said += a.total() if b else 0  # a reference too short for the length is no reason to mark a text down
            wanted, same = wanted + b.total(), same + (a & b).total()
        if said and wanted:
            precisions.append(same / said)
            recalls.append(same / wanted)
    if not sum(precisions):
        return 0.0
    precision, recall = np.mean(precisions), np.mean(recalls)
    return 100 * 5 * precision * recall / (4 * precision + recall)


def test_scores_are_those_of_their_definitions():
    judge = text_scores()
    found = []
    for seed in range(200):
        written, references = random_corpus(seed)
        scores = judge.scores(judge.counts(written, references))
        want = {"bleu": slow_bleu(written, references)}
        want |= {name: slow_chrf(written, references, words) for name, words in (("chrf", 0), ("chrf++", 2))}
        assert {name: scores[name] for name in want} == pytest.approx(want, rel=1e-9, abs=1e-9)
        found.append(scores["bleu"])
    assert 0 < np.mean(found) < 100
    assert len(set(found)) > 100


def test_words_of_bleu_are_cut_as_asked():
    written, references = ["原神は楽しい"], ["原神が楽しい"]
    by_character = text_scores(tokenize="char")
    scores = by_character.scores(by_character.counts(written, references))
    assert scores["bleu"] == sacrebleu.corpus_bleu(written, [references], tokenize="char").score
    assert scores["bleu"] > text_scores().scores(text_scores().counts(written, references))["bleu"]
    with pytest.raises(ValueError, match=r"`tokenize` must be one of .*'13a'.*, got 'words'"):
        text_scores(tokenize="words")


def test_no_text_has_no_score_and_adds_nothing():
    judge = text_scores()
    none = judge.counts([], [])
    assert all(np.isnan(value) for value in judge.scores(none).values())
    some = judge.counts(["a b"], ["a c"])
    assert judge.scores(added(some, none)) == judge.scores(some)
    with pytest.raises(ValueError, match="shorter"):
        judge.counts(["a"], [])


def longest_common(first, second):
    table = np.zeros((len(first) + 1, len(second) + 1), int)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return table[-1, -1]


def test_rouge_is_the_mean_overlap_of_longest_common_words():
    pytest.importorskip("rouge_score")
    judge = text_scores(rouge=True)
    words = {"(di)": "di", "tahun.": "tahun", "мир,": "мир", "!": ""}
    corpora = [random_corpus(seed) for seed in range(10)]
    written, references = ([text for corpus in corpora for text in corpus[side]] for side in range(2))
    expected = []
    for text, reference in zip(written, references, strict=True):
        first, second = ([w for w in (words.get(w, w) for w in line.split()) if w] for line in (text, reference))
        common = longest_common(first, second)
        expected.append(2 * common / (len(first) + len(second)) if common else 0.0)
    cut = 17
    counts = added(judge.counts(written[:cut], references[:cut]), judge.counts(written[cut:], references[cut:]))
    assert judge.scores(counts)["rouge_l"] == pytest.approx(np.mean(expected))
    assert np.isnan(judge.scores(judge.counts([], []))["rouge_l"])


@pytest.mark.parametrize(
    ("module", "package"), [("sacrebleu.metrics.bleu", "sacrebleu"), ("rouge_score", "rouge-score")]
)
def test_a_package_that_is_missing_is_named_with_what_to_install(module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        InputError, match=rf"need {package}, which is not installed: run `pip install 'jaxmeta\[eval\]'`"
    ):
        text_scores(rouge=True)
