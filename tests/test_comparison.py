"""Methods side by side: who won, by how much, and what a step of each needs."""

import contextlib
import io

import jax
import numpy as np
import pytest
from rich.console import Console
from tiny_run import TINY, evaluation, jaxmeta, toy_lines, train, write_lines

from jaxmeta.config import build, commands, compare_methods, load
from jaxmeta.run.comparison import compare, comparison_table, sentence
from jaxmeta.run.judge import conclusion, summary
from jaxmeta.run.statistics import paired_difference

LANGUAGES = ["aa", "bb", "cc", "dd", "ee"]
NOISE = np.random.default_rng(0).normal(size=(5, 2))


def judged(means, dev, *, higher=True, metric="accuracy"):
    """Returns an evaluation of methods whose scores differ by a constant, but for a little noise of each."""
    methods = {}
    for place, (name, mean) in enumerate(means.items()):
        grid = mean + NOISE + 0.1 * np.random.default_rng(place + 1).normal(size=(5, 2))
        methods[name] = summary(
            metric, higher, "meta-learner", grid, LANGUAGES, training_seeds=1, gradient_examples=1200, seconds=3
        )
        methods[name]["adaptation"] = {"dev_score": dev[name]}
    facts = {"metric": metric, "higher_is_better": higher, "languages": LANGUAGES, "task": "toy", "shots": 1}
    return {**facts, "training_seeds": [0], "shot_seeds": [0, 1], "methods": methods}


def verdict_of(found, *baselines):
    for name in baselines:
        found["methods"][name]["kind"] = "baseline"
    scores = {name: np.array(list(method["repetitions"].values())) for name, method in found["methods"].items()}
    facts = {key: value for key, value in found.items() if key != "methods"}
    return conclusion(facts, scores, found["methods"])["verdict"]


def regrid(found, grids, languages):
    """Returns an evaluation in which methods have other scores, `[L, R]` by name."""
    methods = dict(found["methods"])
    for name, grid in grids.items():
        old, higher = methods[name], found["higher_is_better"]
        new = summary(
            found["metric"], higher, old["kind"], grid, languages, training_seeds=1, gradient_examples=1, seconds=1
        )
        methods[name] = {**new, "adaptation": old["adaptation"]}
    return {**found, "methods": methods, "languages": languages}


def diverging(found, name, language):
    """Returns an evaluation in which a method has no finite score in a language."""
    grid = np.array(list(found["methods"][name]["repetitions"].values()))
    grid[found["languages"].index(language), 0] = np.nan
    return regrid(found, {name: grid}, found["languages"])


def told(found):
    return sentence(found, compare(found))


def test_the_winner_is_the_best_on_the_dev_languages_and_differences_are_paired():
    found = judged({"ridge": 60.0, "maml": 55.0, "protonet": 50.0}, {"ridge": 9, "maml": 8, "protonet": 7})
    compared = compare(found)
    assert compared.winner == "ridge"
    assert list(compared.behind) == ["maml", "protonet"]
    grids = {name: np.array(list(method["repetitions"].values())) for name, method in found["methods"].items()}
    assert compared.behind["maml"] == paired_difference(grids["ridge"], grids["maml"])
    assert compared.behind["maml"].wins == 5
    assert told(found).startswith("ridge won: the next one, maml, is behind by ")
    assert told(found).endswith("the difference is real.")


def test_lower_may_be_better():
    found = judged({"ridge": 1.0, "maml": 3.0}, {"ridge": 1, "maml": 3}, higher=False, metric="mse")
    assert compare(found).winner == "ridge"
    assert compare(found).behind["maml"].mean == pytest.approx(2, abs=0.2)
    assert told(found).startswith("ridge won: the next one, maml, is behind by")


def test_what_cannot_be_told_apart_did_not_win():
    found = judged({"ridge": 60.0, "maml": 60.0, "protonet": 50.0}, {"ridge": 9, "maml": 8, "protonet": 7})
    assert told(found).startswith(
        "Nothing won alone: ridge, the best on the dev languages, cannot be told apart from maml;"
    )
    assert told(found).endswith("It is ahead of protonet, and that is real.")


@pytest.mark.parametrize(
    ("ridge", "words", "expected"),
    [
        (60.0, 50.0, "ridge, the best meta-learner on the dev languages, beats words, the best baseline there, by "),
        (50.0, 60.0, "A baseline wins: words is ahead of ridge, the best meta-learner on the dev languages, by "),
        (
            59.95,
            60.0,
            "ridge and words, the best meta-learner and baseline on the dev languages, cannot be told apart: words is "
            "ahead by ",
        ),
    ],
)
def test_a_verdict_counts_from_the_side_of_the_one_that_is_ahead(ridge, words, expected):
    found = judged({"ridge": ridge, "words": words}, {"ridge": 9, "words": 8})
    verdict = verdict_of(found, "words")
    scores = {name: np.array(list(method["repetitions"].values())) for name, method in found["methods"].items()}
    ahead = paired_difference(*(scores[name] for name in (("ridge", "words") if ridge > words else ("words", "ridge"))))
    assert ahead.mean > 0
    assert verdict == (
        f"{expected}{ahead.mean:.2f} accuracy (95% interval {ahead.low:.2f} to {ahead.high:.2f}; "
        f"better in {ahead.wins} languages, worse in {ahead.losses})."
    )


def test_several_that_are_ahead_on_test_alone_are_not_told_apart():
    found = judged({"ridge": 50.0, "maml": 59.9, "protonet": 60.0}, {"ridge": 9, "maml": 8, "protonet": 7})
    said = told(found)
    assert said.startswith("protonet, maml are ahead of ridge, which was the best on the dev languages, protonet by ")
    assert "won" not in said


def test_a_method_that_is_ahead_on_test_alone_is_named():
    found = judged({"ridge": 60.0, "maml": 65.0}, {"ridge": 9, "maml": 8})
    assert told(found).startswith("maml won: it is ahead of ridge, which was the best on the dev languages, by")
    grids = [np.array(list(found["methods"][name]["repetitions"].values())) for name in ("maml", "ridge")]
    ahead = paired_difference(*grids)
    assert f"by {ahead.mean:.2f} accuracy (95% interval {ahead.low:.2f} to {ahead.high:.2f}); the diff" in told(found)


def test_one_that_is_ahead_on_test_alone_is_not_called_the_best_of_three():
    found = judged({"ridge": 60.0, "maml": 65.0, "protonet": 64.9}, {"ridge": 9, "maml": 8, "protonet": 7})
    found["methods"]["protonet"] = judged({"protonet": 60.0}, {"protonet": 7})["methods"]["protonet"]
    assert told(found).startswith("maml is ahead of ridge, which was the best on the dev languages, by ")
    assert told(found).endswith("did not foresee it, and cannot say that maml is the best.")


def test_what_diverged_is_named_and_compared_with_nothing():
    found = judged({"ridge": 60.0, "maml": 50.0, "fomaml": 59.0}, {"ridge": 9, "maml": 8, "fomaml": 10})
    found = diverging(found, "fomaml", "cc")
    assert told(found).startswith("ridge won: the next one, maml, is behind by ")
    assert told(found).endswith("Without a finite score, and so not compared: fomaml in 1 of 5 languages.")
    assert "nan" not in told(found)
    assert compare(found).behind["fomaml"].wins == 5
    alone = judged({"maml": 50.0, "words": 40.0}, {"maml": 9, "words": 8})
    said = verdict_of(diverging(alone, "maml", "aa"), "words")
    assert said.startswith("maml, the best meta-learner on the dev languages, and words, the best baseline there, ca")
    assert "nan" not in said


def test_baselines_beside_the_best_on_dev_are_told_of():
    found = judged(
        {"ridge": 60.0, "joint": 50.0, "tfidf": 60.0, "words": 70.0}, {"ridge": 9, "joint": 8, "tfidf": 7, "words": 6}
    )
    said = verdict_of(found, "joint", "tfidf", "words")
    assert said.startswith(
        "ridge, the best meta-learner on the dev languages, beats joint, the best baseline there, by "
    )
    assert said.endswith(
        " But ahead of ridge, though not the best on the dev languages, each interval by itself: words. Not told apart "
        "from ridge: tfidf."
    )
    found = judged({"ridge": 60.0, "joint": 65.0, "words": 70.0}, {"ridge": 9, "joint": 8, "words": 6})
    said = verdict_of(found, "joint", "words")
    assert said.startswith("A baseline wins: joint is ahead of ridge, the best meta-learner on the dev languages, by ")
    assert said.endswith(" Ahead of it too, each interval by itself: words.")


def one_language(found, cells):
    """Returns an evaluation of the first language alone, with some of its scores."""
    grids = {n: np.array([method["repetitions"]["aa"][:cells]]) for n, method in found["methods"].items()}
    return {**regrid(found, grids, ["aa"]), "shot_seeds": [*range(cells)]}


def test_one_language_decides_nothing_for_others():
    found = one_language(judged({"ridge": 60.0, "words": 50.0}, {"ridge": 9, "words": 8}), 2)
    said = verdict_of(found, "words")
    assert said.startswith(
        "ridge, the best meta-learner on the dev languages, is ahead of words, the best baseline there,"
    )
    assert said.endswith(", in the one held-out language.")
    assert told(found).endswith("the difference is real in this one language.")
    single = one_language(judged({"ridge": 60.0, "words": 50.0}, {"ridge": 9, "words": 8}), 1)
    for said in (verdict_of(single, "words"), told(single)):
        assert "interval" not in said
        assert "one score of each" in said


def test_the_table_has_a_row_for_each_method_and_the_sentence():
    found = judged({"ridge": 60.0, "maml": 55.0, "tfidf": 50.0}, {"ridge": 9, "maml": 8, "tfidf": 7})
    console = Console(width=140, file=io.StringIO())
    found["methods"]["ridge"]["compute"]["step_bytes"] = 3_000_000
    found["methods"]["maml"]["compute"]["step_bytes"] = 5_000_000_000
    console.print(comparison_table(found))
    shown = console.file.getvalue()
    lines = [line for line in shown.splitlines() if line.split()[1:] and line.split()[0] in found["methods"]]
    rows = {line.split()[0]: line for line in lines[:3]}  # before the sentence
    assert list(rows) == ["ridge", "maml", "tfidf"]
    assert "3.0 MB" in rows["ridge"]
    assert "5.0 GB" in rows["maml"]
    assert "B" not in rows["tfidf"]
    assert "1,200" in rows["maml"]
    assert "".join(told(found).split()) in "".join(shown.split())


def test_a_narrow_terminal_folds_names_and_cuts_none():
    name = "ridge_prior_whitened"

    def lines_of(*names):
        found = judged(dict.fromkeys(names, 60.0), dict.fromkeys(names, 9))
        console = Console(width=80, file=io.StringIO())
        console.print(comparison_table(found))
        return console.file.getvalue().splitlines()

    assert any(line.startswith(" method ") for line in lines_of("maml", "boil")), "the heading is whole"
    lines = lines_of(name, "maml")
    place = next(number for number, line in enumerate(lines) if line.startswith(" ridge"))
    assert "".join(line.split()[0] for line in lines[place : place + 2]) == name


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    write_lines(folder / "toy.tsv", toy_lines())
    words = train(str(folder / "run"), {"task.path": str(folder / "toy.tsv")})
    words[0] = "compare"
    place = words.index("--evaluate.methods")
    del words[place : place + 1 + len(TINY["evaluate.methods"])]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as shown:
        patch.setattr(commands, "write_report", lambda run: run)
        assert jaxmeta(*words, "--methods", "joint_finetune", "protonet", "tfidf") == 0
    return folder / "run", shown.getvalue()


def test_a_comparison_is_a_run_of_the_methods_that_were_named(compared):
    folder, shown = compared
    found = evaluation(folder)
    assert set(found["methods"]) == {"joint_finetune", "protonet", "tfidf"}
    costs = {name: method["compute"]["gradient_examples"] for name, method in found["methods"].items()}
    assert costs["joint_finetune"] == costs["protonet"] > 0  # equal compute
    assert "".join(told(found).split()) in "".join(shown.split())


def test_memory_is_that_of_a_compiled_step_of_the_phase(compared, standard_promotion):
    built = build(load(compared[0] / "config.toml"))
    costs = {name: method["compute"] for name, method in evaluation(compared[0])["methods"].items()}
    found = {name: cost["step_bytes"] for name, cost in costs.items() if "step_bytes" in cost}
    assert set(found) == {"joint_finetune", "protonet"}  # n-grams are trained outside jax
    episodes = next(built.tasks.batches(0, 0, augmented=False)(0))
    learner = next(phase.learner for phase in built.experiment.phases if phase.name == "protonet")
    state = jax.jit(learner.init)(jax.random.key(0), episodes)
    analysis = jax.jit(learner.update, donate_argnums=0).lower(state, episodes).compile().memory_analysis()
    assert found["protonet"] == analysis.temp_size_in_bytes > 0


@pytest.mark.parametrize("groups", ["auto", "no_such_parameter"])
def test_all_are_the_methods_that_suit_the_task(groups, tmp_path, monkeypatch):
    configs = []
    monkeypatch.setattr(compare_methods, "train_run", lambda config, folder, table: configs.append(config))
    write_lines(tmp_path / "toy.tsv", toy_lines())
    words = train(str(tmp_path / "run"), {"task.path": str(tmp_path / "toy.tsv"), "transfer.unfreeze": (groups,)})
    words[0] = "compare"
    assert jaxmeta(*words, "--methods", "all") == 0
    named = configs[-1].evaluate.methods
    assert {"zero_shot", "target_only", "tfidf", "maml", "ridge", "protonet", "imaml", "meta_network"} <= set(named)
    assert not {"ridge_alignment", "pixels", "rl2"} & set(named), "they are of other kinds of tasks"
    assert ("gradual_unfreezing" in named) == (groups == "auto"), "a method whose parameters are not there is left out"
    assert named.index("mean_language") == named.index("meta_network_zero_shot") + 1
    assert {"joint_cipher_finetune", "ridge_no_cipher"} <= set(named)
    assert jaxmeta(*words, "--methods", "all", "--train.cipher", "0") == 0
    assert set(named) - set(configs[-1].evaluate.methods) == {"joint_cipher_finetune", "ridge_no_cipher"}, (
        "the same twice"
    )


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ((), "`--methods` must name two methods at least"),
        (("ridge",), "`--methods` must name two methods at least"),
        (("ridge", "magic"), "there is no method 'magic'"),
        (("ridge", "ridge"), "must name each method once"),
    ],
)
def test_methods_that_cannot_be_compared_are_refused(methods, message, tmp_path, capsys):
    words = ["compare", "--out", str(tmp_path / "run"), "--train.steps", "2"]
    assert jaxmeta(*words, *(("--methods", *methods) if methods else ())) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [("compare", "--methods", "ridge", "protonet"), ("search",)])
def test_a_file_of_several_runs_is_refused(words, tmp_path, capsys):
    path = tmp_path / "two.toml"
    path.write_text('name = "two"\n[jobs.one.train]\nsteps = 1\n[jobs.other.train]\nsteps = 2\n', "utf-8")
    assert jaxmeta(words[0], str(path), *words[1:], "--out", str(tmp_path / "run")) == 2
    assert "two asks for several runs, one, other;" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
