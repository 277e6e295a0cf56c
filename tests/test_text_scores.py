"""Scores of text from summed statistics against sacrebleu on all of the texts, and ROUGE-L against a table of words."""

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
