"""Kinds of tasks beside classification: a tiny run of each through the command line, on data that need no download."""

import contextlib
import io
import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from tiny_run import evaluation, files, jaxmeta, metrics, train, write_lines

from jaxmeta import data
from jaxmeta.config import build, load
from jaxmeta.config.kinds import KINDS, settled
from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.run.answer_scores import answer_counts
from jaxmeta.run.experiment import restore

CHANGES = {
    "task.source": "cldr", "task.path": "", "task.test-languages": 2, "task.dev-languages": 1, "task.shots": 3,
    "task.queries": 3, "task.tasks-per-step": 2, "train.steps": 2, "train.warm-start": 0, "evaluate.steps": (0, 1),
    "evaluate.max-queries": 8, "tokenizer.length": 24,
}  # fmt: skip
ROWS = {"train": 6, "dev": 4, "test": 4}  # of each language in a file
LANGUAGES = ("aa", "bb", "cc", "dd")


def toy_file(columns: tuple[str, ...], fields) -> list[str]:
    """Returns the lines of a file: `fields(language, number)` are the last columns of row `number`, all different."""
    lines, number = ["\t".join(("language", "split", *columns))], 0
    for language in LANGUAGES:
        for split, count in ROWS.items():
            for _ in range(count):
                lines.append("\t".join((language, split, *map(str, fields(language, number)))))
                number += 1
    return lines


PAIRS = toy_file(("first", "second", "score"), lambda code, n: (f"text {n}", f"{code} {n} {n % 3}", (n * 7) % 5 - 2.5))
SUMMARIES = toy_file(("text", "summary"), lambda code, n: (f"{code} tells {n} of {n}. And {n + 1}.", f"{code} {n}"))


def recalled(built, params, language) -> float:
    """Returns the share of sides, in both directions, that are closest to one of their own, in percent."""
    query = built.tasks.episode(language, shots=3, draw=0, split="test").query
    outputs = jax.jit(built.setting.model.apply)(params, query["inputs"])
    left, right, group = np.asarray(outputs["left"]), np.asarray(outputs["right"]), query["group"]
    hits = []
    for one, other in ((left, right), (right, left)):
        for row in range(len(one)):
            close = [float(one[row] @ other[place]) for place in range(len(other))]
            wrong = [value for place, value in enumerate(close) if group[place] != group[row]]
            own = [value for place, value in enumerate(close) if group[place] == group[row]]
            hits.append(max(own) > max(wrong))
    return 100 * float(np.mean(hits))


def correlated(built, params, language) -> float:
    """Returns Pearson's correlation as numpy has it."""
    query = built.tasks.episode(language, shots=3, draw=0, split="test").query
    outputs = jax.jit(built.setting.model.apply)(params, query["inputs"])
    return float(np.corrcoef(np.asarray(outputs)[:, 0], query["targets"])[0, 1])


def bits(built, params, language) -> float:
    """Returns the bits that each byte takes, token by token."""
    query = built.tasks.episode(language, shots=3, draw=0, split="test").query
    outputs = jax.jit(built.setting.model.apply)(params, query["inputs"])
    spent = 0.0
    for row, targets in zip(np.asarray(outputs, np.float64), query["targets"], strict=True):
        for logits, target in zip(row, targets, strict=True):
            if target:
                spent += np.log2(np.exp(logits - logits[target]).sum())
    texts = built.tasks.table.texts("text", built.tasks.judged_rows(language, "test"))
    return spent / sum(min(len(text.encode()), 24) for text in texts)


def answered(built, params, language) -> float:
    """Returns the F1 of the best spans among all windows, one span after another."""
    tasks = built.tasks
    rows = tasks.judged_rows(language, "test")
    windows = tasks.judged.windows(rows)
    assert len(windows.group) > len(rows)  # some context has several
    logits = np.asarray(jax.jit(built.setting.model.apply)(params, windows.inputs))
    texts = []
    for number, context in enumerate(tasks.table.texts("context", rows)):
        _, begin, end = max(
            (logits[row, first, more], *windows.places[row, [first, first + more], [0, 1]])
            for row in np.flatnonzero(windows.group == number)
            for first in range(logits.shape[1])
            for more in range(min(logits.shape[2], logits.shape[1] - first))
        )
        texts.append(context[begin:end])
    counts = answer_counts(texts, [[answer] for answer in tasks.table.texts("answer", rows)])
    return 100 * counts["f1"] / counts["n"]


def decoded(built, params, language) -> float:
    """Returns chrF, by sacrebleu, of what the model writes when it is asked directly."""
    from sacrebleu.metrics.chrf import CHRF

    tasks, model = built.tasks, built.setting.model
    query = tasks.episode(language, shots=3, draw=0, split="test").query
    tokens = np.asarray(jax.jit(model.generate)(params, {"source": query["inputs"]["source"]}))
    texts = data.decode_sequence(data.ByteTokenizer(tokens.shape[1]), tokens)
    return CHRF().corpus_score(texts, [tasks.references(language, "test")]).score


class Case(NamedTuple):
    """A kind of task, with its score computed another way."""

    kind: str
    metric: str
    higher: bool
    score: Any  # (built, params, language) -> the score of a model that has not adapted
    methods: tuple[str, ...]
    shots: list[str]  # a file of a user's language
    lines: list[str]  # what is asked of the model that adapted to it
    file: list[str] | None = None
    changes: tuple[tuple[str, Any], ...] = ()


RETRIEVAL = ["text\tenglish", "eins\tone", "zwei\ttwo", "drei\tthree"]
ASKED = ["context\tquestion\tanswer\tanswer_start", "es ist Mai\tWhich month is it?\tMai\t7", "2 kg\tHow much?\t2\t0"]
TOLD = ["text\tsummary", "eins und zwei und drei\teins bis drei", "vier und mehr\tvier"]
CASES = [
    Case("retrieval", "recall_at_1", True, recalled,
         ("zero_shot", "joint_alignment", "ngram_overlap", "romanized_overlap", "cl_esa", "ridge_alignment"),
         RETRIEVAL, RETRIEVAL[1:], changes=(("model.kind", "ngrams"), ("model.romanize", True))),
    Case("scored_pairs", "pearson", True, correlated,
         ("zero_shot", "mean_score", "ngram_regression", "ngram_regression_source", "linear_head", "ridge"),
         ["first\tsecond\tscore", "a\tb\t0.5", "c\td\t-1"], ["a\tb", "e\tf", "g\th"], PAIRS),
    Case("question_answering", "f1", True, answered, ("zero_shot", "word_overlap", "span_regression", "reptile"),
         ASKED, ["am Montag im Mai\tWhich day is it?"], changes=(("tokenizer.length", 12),)),
    Case("translation", "chrf", True, decoded, ("zero_shot", "copied_source", "reptile"),
         ["src\ttgt", "one\teins", "two\tzwei"], ["three", "four"], changes=(("task.lexicon", True),)),
    Case("summaries", "chrf", True, decoded, ("zero_shot", "first_words", "reptile"),
         TOLD, ["drei und vier"], SUMMARIES, changes=(("model.pointer", True),)),
    Case("generation", "bits_per_byte", False, bits,
         ("zero_shot", "token_ngrams", "token_ngrams_source_and_shots", "ngram_memory"),
         ["text", "eins", "zwei"], ["dr", "vi"]),
]  # fmt: skip
# Compiling is what takes time: one kind is run whenever anything is tested.
PARAMS = [pytest.param(case, id=case.kind, marks=[pytest.mark.slow] if i else []) for i, case in enumerate(CASES)]


class Run(NamedTuple):
    """A finished run."""

    case: Case
    folder: pathlib.Path
    shown: str

    @property
    def main(self) -> str:
        return self.case.methods[-1]


@pytest.fixture(scope="module", params=PARAMS)
def run(request, tmp_path_factory) -> Run:
    case, folder = request.param, tmp_path_factory.mktemp(request.param.kind)
    changes = {"task.kind": case.kind, "evaluate.methods": case.methods, **dict(case.changes)}
    if case.file is not None:
        write_lines(folder / "rows.tsv", case.file)
        changes |= {"task.source": "tsv", "task.path": str(folder / "rows.tsv")}
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert jaxmeta(*train(str(folder / "run"), CHANGES | changes)) == 0
    return Run(case, folder / "run", shown.getvalue())


def test_a_kind_is_trained_and_judged_like_any_other(run):
    found = json.loads((run.folder / "evaluation.json").read_text("utf-8"))
    assert (found["metric"], found["higher_is_better"]) == (run.case.metric, run.case.higher)
    assert set(found["methods"]) == set(run.case.methods)
    assert all(np.isfinite(method["mean"]) for method in found["methods"].values())
    assert run.main == found["best_meta_learner"]
    assert found["calibration"] == {}
    assert {"methods.png", "gains.png", "learning_curves.png"} <= {p.name for p in (run.folder / "figures").iterdir()}
    assert run.case.metric in (run.folder / "report.html").read_text("utf-8")
    assert run.case.metric in run.shown
    assert metrics(run.folder)[-1]["phase"] == run.main


def test_the_sign_of_a_difference_is_that_of_merit(run):
    found = evaluation(run.folder)
    means = {name: method["mean"] for name, method in found["methods"].items()}
    sign = 1 if run.case.higher else -1
    gain = found["paired"][f"{run.main} - zero_shot"]["mean"]
    assert gain == pytest.approx(sign * (means[run.main] - means["zero_shot"]))
    on_dev = {name: method["adaptation"]["dev_score"] for name, method in found["methods"].items() if name != run.main}
    assert sign * on_dev[found["best_baseline"]] == max(sign * score for score in on_dev.values())


def test_no_row_that_is_trained_on_says_what_a_judged_one_says(run):
    tasks = build(load(run.folder / "config.toml")).tasks
    assert tasks.overlap.shared_sentences == tasks.overlap.shared_texts == 0
    assert f"{tasks.shared} rows that say what a judged row says" in evaluation(run.folder)["data"]["overlap"]


def test_scores_are_those_of_the_outputs(run):
    built = build(load(run.folder / "config.toml"))
    params = restore(built.experiment, run.folder)[0, "joint"]["params"]
    found = evaluation(run.folder)["methods"]["zero_shot"]["per_language"]
    with jax.numpy_dtype_promotion("standard"):
        for language in built.tasks.languages("test"):
            assert found[language] == pytest.approx(run.case.score(built, params, language), abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("run", [PARAMS[0], PARAMS[3]], indirect=True)
def test_it_is_judged_again_the_same(run):
    before, scores = files(run.folder / "checkpoints"), evaluation(run.folder)
    with contextlib.redirect_stdout(io.StringIO()):
        assert jaxmeta("evaluate", str(run.folder)) == 0
    assert files(run.folder / "checkpoints") == before
    assert evaluation(run.folder) == scores


def test_a_run_adapts_to_a_language_of_ones_own_and_answers(run, tmp_path, capsys):
    write_lines(tmp_path / "shots.tsv", run.case.shots)
    write_lines(tmp_path / "lines.txt", run.case.lines)
    mine, shots, lines = (str(tmp_path / name) for name in ("mine", "shots.tsv", "lines.txt"))
    assert jaxmeta("adapt", str(run.folder), "--shots", shots, "--out", mine) == 0
    assert f"Adapted {run.main} to {len(run.case.shots) - 1} examples" in capsys.readouterr().err
    assert jaxmeta("predict", mine, "--input", lines) == 0
    shown = capsys.readouterr().out.splitlines()
    exported = str(tmp_path / "exported")
    assert jaxmeta("export", mine, "--out", exported) == 0
    assert "run on cpu, cuda, tpu" in capsys.readouterr().out
    assert jaxmeta("predict", exported, "--input", lines) == 0
    assert capsys.readouterr().out.splitlines() == shown
    assert len(shown) == len(run.case.lines)
    for line, asked in zip(shown, run.case.lines, strict=True):
        assert line.endswith(f"\t{asked}")
    if run.case.kind == "retrieval":
        nearest, cosine = (line.split("\t")[:2] for line in shown[:2])
        assert {nearest[0], cosine[0]} <= {"one", "two", "three"}
        assert -1 <= float(nearest[1]) <= 1
    if run.case.kind == "question_answering":
        assert shown[0].split("\t")[0] in "am Montag im Mai"
    if run.case.kind == "scored_pairs":
        assert len({float(line.split("\t")[0]) for line in shown}) == 3
    assert jaxmeta("predict", mine, "--input", lines, "--all") == 2
    assert "`--all`" in capsys.readouterr().err
    write_lines(tmp_path / "lines.txt", ["one\ttwo\tthree"])
    assert jaxmeta("predict", mine, "--input", lines) == 2
    error = capsys.readouterr().err
    assert "lines.txt, line 1: 3 fields where this model reads" in error
    assert error.count("\n") == 1


def test_a_model_answers_by_the_search_that_is_asked_for(run, tmp_path, capsys):
    write_lines(tmp_path / "shots.tsv", run.case.shots)
    write_lines(tmp_path / "lines.txt", run.case.lines)
    mine, shots, lines, exported = (str(tmp_path / name) for name in ("mine", "shots.tsv", "lines.txt", "exported"))
    assert jaxmeta("adapt", str(run.folder), "--shots", shots, "--out", mine) == 0

    def predicted(*words, model=mine, code=0):
        capsys.readouterr()
        assert jaxmeta("predict", model, "--input", lines, *words) == code
        found = capsys.readouterr()
        return [line.split("\t")[0] for line in found.out.splitlines()] if code == 0 else found.err

    first = predicted()
    if run.case.kind == "question_answering":
        for best, line in zip(first, predicted("--answers", "3"), strict=True):
            texts, shares = zip(*(part.rsplit("=", 1) for part in line.split(" | ")), strict=True)
            assert texts[0] == best
            assert 1 < len(set(texts)) == len(texts) <= 3
            assert sum(map(float, shares)) == pytest.approx(1, abs=1e-3)
    elif run.case.kind == "retrieval":
        for best, line in zip(first, predicted("--answers", "2"), strict=True):
            texts, cosines = zip(*(part.rsplit("=", 1) for part in line.split(" | ")), strict=True)
            assert texts[0] == best != texts[1]
            assert float(cosines[0]) >= float(cosines[1])
    else:
        assert "a model that answers questions" in predicted("--answers", "3", code=2)
    if run.case.kind not in ("translation", "summaries", "generation"):
        assert "--search is for a model that writes text" in predicted("--search", "beam", code=2)
        return
    assert predicted("--search", "beam", "--beams", "1") == first
    assert predicted("--search", "sample", "--temperature", "1e-4") == first
    drawn = predicted("--search", "sample", "--temperature", "5", "--seed", "1")
    assert drawn == predicted("--search", "sample", "--temperature", "5", "--seed", "1")
    assert drawn != predicted("--search", "sample", "--temperature", "5", "--seed", "2")
    assert "less than or equal to 1" in predicted("--search", "sample", "--top-p", "2", code=2)
    assert jaxmeta("export", mine, "--out", exported) == 0
    assert "exported with" in predicted("--search", "beam", model=exported, code=2)


SOME = {"evaluate.methods": ("zero_shot", "maml")}
REFUSED = [
    ({"task.kind": "retrieval", "evaluate.methods": ("zero_shot", "ridge")},
     "`evaluate.methods`: there is no method 'ridge' for retrieval; known are "),
    ({"task.kind": "retrieval", "evaluate.methods": ("zero_shot", "tfidf")}, "no method 'tfidf' for retrieval"),
    ({"task.kind": "generation", "evaluate.methods": ("maml", "ridge_no_cipher")}, "'ridge_no_cipher' for generation"),
    ({"task.kind": "retrieval", "evaluate.metric": "accuracy", **SOME}, "must be one of recall_at_1, recall_at_10"),
    ({"task.kind": "generation", "evaluate.metric": "chrf", **SOME}, "must be one of bits_per_byte, nll"),
    ({"task.kind": "scored_pairs"}, '`task.kind` "scored_pairs" is not in the embedded data'),
    ({"task.kind": "question_answering", "tokenizer.kind": "sentencepiece", "tokenizer.vocab-size": 400},
     'leave `tokenizer.kind` at "bytes"'),
    ({"task.kind": "retrieval", "model.kind": "mlp"}, '`model.kind` "mlp" reads numbers, not text'),
    ({"task.kind": "generation", "model.kind": "ngrams"}, '`model.kind` "ngrams" reads texts as wholes'),
    ({"task.kind": "retrieval", "model.kind": "ngrams", "model.romanize": True, "tokenizer.kind": "sentencepiece",
      "tokenizer.vocab-size": 2500}, "`model.romanize` reads characters"),
    ({"task.kind": "retrieval", "task.source": "tsv", "task.path": ("rows.tsv", "more.tsv")}, "name one place"),
    ({"task.kind": "retrieval", "task.source": "sinusoid", "model.kind": "mlp"}, '"retrieval" is about text'),
    ({"task.kind": "retrieval", "task.source": "tsv"}, "`task.path` is empty; name a TSV file"),
    ({"task.kind": "retrieval", "task.source": "tfds"}, "`task.path` is empty; name the folder of a prepared set"),
    ({"task.kind": "retrieval", "task.source": "tfds", "task.path": "no_set"},
     "There is no TFDS set no_set, neither as a folder nor by this name"),
    ({"task.kind": "retrieval", "task.source": "tsv", "task.path": "rows.tsv"}, "no column 'english'"),
    ({"task.kind": "retrieve"}, "'retrieve'"),
    ({"task.kind": "retrieval", "model.pointer": True}, "`model.pointer` copies into what is written"),
    ({"task.kind": "translation", "task.source_language": "ind"}, "`task.source_language` is about translations in f"),
    ({"task.kind": "classification", "task.source_language": "ind"}, "`task.source_language` is about translations"),
    ({"task.kind": "classification", "task.lexicon": True}, "`task.lexicon` is about translations; leave it out"),
    ({"task.kind": "generation", "task.source": "tsv", "task.stream": True, "task.lexicon": True},
     "`task.lexicon` is about translations; leave it out"),
    ({"task.kind": "translation", "task.source": "tfds", "task.parallel": True}, "`task.parallel` is about the order"),
    ({"task.kind": "classification", "task.source": "sinusoid", "model.kind": "mlp", "task.left_out_languages": ("a",)},
     "`task.left_out_languages` is about languages, and waves have none"),
    ({"task.kind": "translation", "tokenizer.target-length": -1}, "`tokenizer.target_length`"),
    ({"task.kind": "translation", "gradient.microbatches": 2, **SOME},
     "`gradient.microbatches` must be 1 for translation"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "says"), REFUSED, ids=[says[:40] for _, says in REFUSED])
def test_what_a_kind_cannot_be_is_one_sentence(changes, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAXMETA_DATA", raising=False)
    write_lines(tmp_path / "rows.tsv", SUMMARIES)
    assert jaxmeta(*train("new", CHANGES | changes)) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxmeta: ")
    assert error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "new").exists()


def test_what_follows_from_a_kind_is_written_out():
    for kind in KINDS:
        source = "synthetic_digits" if kind == "recognition" else "cldr"
        config = settled(load(changes={"task.kind": kind, "task.source": source}))
        row, evaluate = KINDS[kind], config.evaluate
        assert evaluate.metric in row.metrics
        assert evaluate.main in evaluate.methods
        assert set(evaluate.curve_methods) <= set(evaluate.methods)
        assert settled(config) == config
    named = {"evaluate.methods": ("ridge_alignment", "zero_shot"), "evaluate.metric": "mrr", "task.kind": "retrieval"}
    evaluate = settled(load(changes=named)).evaluate
    assert (evaluate.metric, *evaluate.methods) == ("mrr", "ridge_alignment", "zero_shot")
    assert evaluate.main == "ridge_alignment"


def test_a_prepared_set_of_tfds_is_read_as_its_file_is(tmp_path):
    pytest.importorskip("array_record")
    write_lines(tmp_path / "toy_pairs.tsv", PAIRS)
    folder = data.build_tfds("toy_pairs", tmp_path, tmp_path / "sets")
    changes = {"task.kind": "scored_pairs", "task.test_languages": ["bb"], "task.dev_languages": ["cc"]}
    read = [
        PairTasks(load(changes=changes | {"task.source": source, "task.path": str(path)}))
        for source, path in (("tsv", tmp_path / "toy_pairs.tsv"), ("tfds", folder))
    ]
    assert read[0].table.columns.keys() == read[1].table.columns.keys()
    for language in ("bb", "cc"):
        episodes = [tasks.episode(language, shots=2, draw=0, split="test") for tasks in read]
        np.testing.assert_array_equal(*(episode.query["targets"] for episode in episodes))
        np.testing.assert_array_equal(*(episode.query["inputs"]["right"] for episode in episodes))


def test_files_of_any_kind_are_looked_at(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "pairs.tsv", PAIRS)
    assert jaxmeta("data", "check", "pairs.tsv") == 0
    assert f"pairs: {len(PAIRS) - 1} rows, 4 languages, of scored_pairs" in capsys.readouterr().out
    assert jaxmeta("data", "show", "pairs.tsv", "--rows", "2") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
