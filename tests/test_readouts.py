"""What is read off adapted states: texts and spans are compared as an independent count of them says."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from jaxmeta.config import Config, load
from jaxmeta.config.classical import CLASSICAL
from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.config.read import changed
from jaxmeta.config.readouts import judge_of_texts, readout_for
from jaxmeta.core.batches import stack_episodes
from jaxmeta.core.checks import InputError
from jaxmeta.core.words import first_sentence
from jaxmeta.objectives import scored_pair, span_qa
from jaxmeta.run.classical_tokens import KneserNey, ngram_prediction
from jaxmeta.run.plan import Cell
from jaxmeta.run.text_scores import text_scores


def tasks_of(tmp_path, kind: str, columns: tuple[str, ...], rows: list[tuple], **more) -> PairTasks:
    """Returns the tasks of a file in three languages, whose rows are the same in each but for their code."""
    lines = ["\t".join(("language", "split", *columns))]
    for code in ("aa", "bb", "cc"):
        for split in ("train", "dev", "test"):
            lines += ["\t".join((code, split, *(str(f).replace("@", f"{code}{split}") for f in row))) for row in rows]
    path = tmp_path / "rows.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    changes = {
        "task.kind": kind, "task.source": "tsv", "task.path": str(path), "task.test_languages": ["bb"],
        "task.dev_languages": ["cc"], "task.shots": 2, "task.queries": 2, **more,
    }  # fmt: skip
    return PairTasks(changed(Config(), changes, "here"))


@dataclasses.dataclass
class Said:
    """An algorithm that answers what it is told to."""

    outputs: object

    def predict(self, meta_params, state, inputs):
        del meta_params, state, inputs
        return self.outputs


CELL = Cell("bb", 2, 0, "test")


def judged(tasks, objective, outputs) -> dict[str, float]:
    """Returns the scores of some outputs, by way of the device, the host and the sums."""
    readout = readout_for(tasks, objective)
    query = tasks.episode("bb", shots=2, draw=0, split="test").query
    arrays = readout.read(Said(outputs), {}, {}, query)  # pyright: ignore
    return readout.scores(readout.counts(arrays, CELL))


CONTEXT = "@ lies far away from here, where nobody goes; then on the left there is a small town called Oxbridge. " * 2
QUESTIONS = [
    (CONTEXT, "Which town is it?", "Oxbridge"),
    (CONTEXT, "Who goes there?", "nobody"),
    ("@ is short.", "How is it?", "short"),
]


@pytest.fixture
def questions(tmp_path):
    lines = ["language\tsplit\tcontext\tquestion\tanswer\tanswer_start"]
    for code in ("aa", "bb", "cc"):
        for split in ("train", "dev", "test"):
            for context, question, answer in QUESTIONS:
                text = context.replace("@", f"{code}{split}").strip()
                lines.append("\t".join((code, split, text, question, answer, str(text.index(answer)))))
    path = tmp_path / "questions.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    changes = {
        "task.kind": "question_answering", "task.source": "tsv", "task.path": str(path), "tokenizer.length": 14,
        "task.test_languages": ["bb"], "task.dev_languages": ["cc"], "task.shots": 2, "task.queries": 2,
    }  # fmt: skip
    return PairTasks(changed(Config(), changes, "here"))


def logits_of(query, places) -> np.ndarray:
    """Returns logits `[R, L, 4]` that are high for the span of words of each row, where it has such."""
    sentence = query["inputs"]["sentence"]
    logits = np.where(sentence[..., None] > 0, 0.0, -1e9).repeat(4, axis=-1).astype(np.float32)
    for row, (start, end) in enumerate(places):
        if start >= 0:
            logits[row, start, end - start] = 5.0
    return logits


def test_answers_are_looked_for_in_every_window(questions):
    query = questions.episode("bb", shots=2, draw=0, split="test").query
    windows, rows = questions.windows("bb", "test")
    assert len(windows.group) > len(rows) == 3
    right = list(zip(query["targets"]["start"], query["targets"]["end"], strict=True))
    assert judged(questions, span_qa(), logits_of(query, right)) == {"exact_match": 1.0, "f1": 1.0}
    # The first question is answered with one word too many, "called Oxbridge".
    wrong = [
        (start - (group == 0), end) if start >= 0 else (-1, -1)
        for (start, end), group in zip(right, windows.group, strict=False)
    ]
    found = judged(questions, span_qa(), logits_of(query, wrong))
    assert found["exact_match"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx((2 + 2 / 3) / 3)


def test_rows_that_fill_up_windows_answer_nothing(questions):
    by_split = [questions.episode(code, shots=2, draw=0, split=s).query for code, s in (("bb", "test"), ("cc", "dev"))]
    assert len({len(query["mask"]) for query in by_split}) == 1
    query = by_split[0]
    real = int(query["mask"].sum())
    places = [(s, e) for s, e in zip(query["targets"]["start"][:real], query["targets"]["end"][:real], strict=True)]
    logits = logits_of(query, places)
    logits[real:] = 99.0
    assert judged(questions, span_qa(), logits)["exact_match"] == 1.0


def test_what_is_written_is_scored_as_text(tmp_path):
    rows = [(f"@ says {n} things at once", f"@ {n} things") for n in range(5)]
    more = {"tokenizer.length": 40, "tokenizer.target_length": 24}
    tasks = tasks_of(tmp_path, "summaries", ("text", "summary"), rows, **more)
    references = tasks.references("bb", "test")
    assert references == [f"bbtest {n} things" for n in range(5)]
    tokenizer = tasks.judged.targets_tokenizer
    assert tokenizer.length == 24
    exact = judged(tasks, scored_pair(), tokenizer.encode(references))
    assert (exact["chrf"], exact["exact_match"], exact["rouge_l"]) == (100, 1.0, 1.0)
    said = [text.replace("things", "thongs") for text in references[:3]] + references[3:]
    judge = text_scores(rouge=True)
    padded = np.concatenate([tokenizer.encode(said), tokenizer.encode(["of a row that fills up"])])
    assert judged(tasks, scored_pair(), padded) == judge.scores(judge.counts(said, references))


@pytest.mark.parametrize(
    ("said", "tokenize"), [("我喜欢@的猫和狗", "zh"), ("ผมชอบ@แมวและหมา", "char"), ("Ich mag @", "13a")]
)
def test_words_of_scripts_without_spaces_are_found_for_bleu(said, tokenize):
    tasks: Any = SimpleNamespace(config=load(changes={"task.kind": "translation"}))
    written, references = [said.replace("@", "很多") + said[0]], [said.replace("@", "很多") + said[-1]]
    found, expected = judge_of_texts(tasks), text_scores(tokenize=tokenize)
    assert found.scores(found.counts(written, references)) == expected.scores(expected.counts(written, references))


def test_first_words_are_the_summary_that_they_are(tmp_path):
    rows = [(f"@ says {n} things at once and then no more", f"@ says {n} things") for n in range(5)]
    tasks = tasks_of(tmp_path, "summaries", ("text", "summary"), rows)
    readout, classical = readout_for(tasks, scored_pair()), CLASSICAL["first_words"](tasks)
    scores = {value: readout.scores(classical.counts(value, *CELL)) for value in classical.values}
    assert scores[6.0]["rouge_l"] == pytest.approx(2 * 4 / (4 + 6))
    assert scores[27.0]["rouge_l"] == pytest.approx(2 * 4 / (4 + 10))


def test_the_first_sentence_is_the_summary_that_it_is(tmp_path):
    rows = [(f"@ says {n} things. And then, e.g. this, no more", f"@ says {n} things.") for n in range(5)]
    tasks = tasks_of(tmp_path, "summaries", ("text", "summary"), rows)
    readout, classical = readout_for(tasks, scored_pair()), CLASSICAL["first_sentence"](tasks)
    assert readout.scores(classical.counts(1.0, *CELL))["exact_match"] == 1
    assert first_sentence("…") == "…"
    assert first_sentence("1. Wort?  Da. Dort") == "1."
    assert first_sentence("一。二。") == "一。"


@pytest.fixture
def pairs(tmp_path):
    rows = [(f"@ one {n}", f"@ two {n}", (n * 5) % 7 - 3.0) for n in range(7)]
    return tasks_of(tmp_path, "scored_pairs", ("first", "second", "score"), rows, **{"evaluate.max_queries": 9})


def test_ranks_are_those_of_scipy(pairs):
    query = pairs.episode("bb", shots=2, draw=0, split="test").query
    outputs = np.sin(np.arange(7, dtype=np.float32))[:, None]
    found = judged(pairs, scored_pair(), outputs)
    assert found["spearman"] == pytest.approx(stats.spearmanr(outputs[:, 0], query["targets"])[0])
    assert found["pearson"] == pytest.approx(np.corrcoef(outputs[:, 0], query["targets"])[0, 1], abs=1e-5)


def test_pairs_outside_jax_are_judged_on_the_same_rows(pairs):
    support, query = pairs.rows("bb", shots=2, draw=0, split="test")
    scores = pairs.table.numbers("score")
    readout = readout_for(pairs, scored_pair())
    mean = readout.scores(CLASSICAL["mean_score"](pairs).counts(1.0, *CELL))
    assert mean["mae"] == pytest.approx(np.abs(scores[query] - scores[support].mean()).mean(), rel=1e-5)
    assert (mean["pearson"], mean["spearman"]) == (0.0, 0.0)
    ridge = CLASSICAL["ngram_regression"](pairs)
    assert all(np.isfinite(list(readout.scores(ridge.counts(value, *CELL)).values())).all() for value in ridge.values)


def test_an_ngram_model_is_kneser_and_neys():
    model = KneserNey(np.array([[1, 2, 1, 2, 3, 0]]), vocab_size=5, order=2)
    queries = np.array([[1, 2, 0], [2, 4, 0]])
    found = ngram_prediction([model], [1.0], queries)
    # Different tokens before 1 are two, before 2 and 3 one each; as discounts 2 / (2 + 2) and 3 / (3 + 2).
    of_one = {t: (c - min(c, 0.5) + 3 * 0.5 / 4) / 4 for t, c in ((1, 2), (2, 1), (3, 1), (4, 0))}
    first = {1: 1 - 0.6 + 0.6 * of_one[1], 2: 0.6 * of_one[2]}
    after_one, after_two = {2: (2 - 0.6 + 0.6 * of_one[2]) / 2}, {4: 2 * 0.6 * of_one[4] / 2}
    expected = [-np.log(first[1] * after_one[2]), -np.log(first[2] * after_two[4])]
    np.testing.assert_allclose(found["nll"], expected)
    assert found["correct"].tolist() == [2, 0]
    assert model.predicted((2,)).sum() == pytest.approx(1)
    other = KneserNey(np.array([[4, 4]]), vocab_size=5, order=1)
    mixed = ngram_prediction([model, other], [0.75, 0.25], np.array([[4], [0]]))
    np.testing.assert_allclose(np.exp(-mixed["nll"]), [0.75 * 0.6 * of_one[4] + 0.25 * other.predicted(())[4], 1.0])


def test_rows_that_say_what_a_judged_row_says_are_left_out_of_training(tmp_path):
    lines = ["language\tsplit\ttext\tenglish"]
    for code in ("aa", "bb", "cc"):
        for split in ("train", "dev", "test"):
            lines += [f"{code}\t{split}\t{code} {split} {n}\t{split} {n}" for n in range(4)]
    lines.append("aa\ttrain\taa again\tTEST  2")  # but for case and spaces it is judged in bb
    path = tmp_path / "rows.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    changes = {
        "task.kind": "retrieval", "task.source": "tsv", "task.path": str(path), "task.test_languages": ["bb"],
        "task.dev_languages": ["cc"],
    }  # fmt: skip
    tasks = PairTasks(changed(Config(), changes, "here"))
    assert tasks.shared == 1
    assert "1 rows" in tasks.facts()["overlap"]
    assert "aa again" not in tasks.table.texts("text")
    assert tasks.facts()["corpus"].endswith("37 rows, 3 languages")


@pytest.mark.parametrize("kind", ["scored_pairs", "summaries"])
def test_what_is_not_embedded_is_refused(kind):
    with pytest.raises(InputError, match=f'`task.kind` "{kind}" is not in the embedded data.*`task.path`'):
        PairTasks(changed(Config(), {"task.kind": kind}, "here"))


def test_queries_of_a_language_are_the_same_for_every_draw(pairs):
    episodes = [pairs.episode("bb", shots=2, draw=draw, split="test") for draw in (0, 1)]
    stacked = stack_episodes(episodes)
    np.testing.assert_array_equal(stacked.query["targets"][0], stacked.query["targets"][1])
    assert not np.array_equal(stacked.support["targets"][0], stacked.support["targets"][1])


def test_tatoeba_has_no_sentence_on_both_sides(data_folder):
    changes = {
        "task.kind": "retrieval", "task.source": "tsv", "task.path": str(data_folder("tatoeba")),
        "task.test_languages": ["ang", "cym"], "task.dev_languages": ["nov"], "tokenizer.length": 32,
    }  # fmt: skip
    tasks = PairTasks(changed(Config(), changes, "here"))
    assert tasks.overlap.shared_sentences == tasks.overlap.shared_texts == 0
    assert len(tasks.languages("train")) == 71
