"""Searching settings: spaces, samplers, runs side by side, and the command that goes on where it was cut off."""

import functools
import json
import math
import subprocess
import time

import numpy as np
import pytest
from tiny_run import TINY, environment, jaxmeta, process, toy_lines, write_lines

from jaxmeta.config import build, load
from jaxmeta.config import searching as searching_module
from jaxmeta.config.kinds import settled
from jaxmeta.config.read import changed
from jaxmeta.config.search_space import SearchConfig, load_search, space_of
from jaxmeta.config.searching import side_by_side
from jaxmeta.core.checks import InputError
from jaxmeta.run.evaluate import evaluator, pose, tune
from jaxmeta.run.experiment import train
from jaxmeta.run.logging import MetricsLog, progress
from jaxmeta.run.plan import META
from jaxmeta.run.samplers import OPTUNA, Between, Trial, draw, promoted, rungs, share, suggested
from jaxmeta.run.search_figure import parallel_coordinates
from jaxmeta.run.trial_log import opened

SPACE = {"train.learning_rate": Between(1e-4, 1e-1, log=True), "inner.steps": Between(1, 3, whole=True)}


def trial(number: int, score: float, **values) -> Trial:
    return Trial(number, 0, values, (score,), score)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / "toy.tsv"
    write_lines(path, toy_lines())
    return path


def config_of(toy, **changes):
    keys = TINY | {"task.path": str(toy), "train.cipher": 0.0} | changes
    keys |= {key: (keys[key],) for key in ("evaluate.learning-rates", "evaluate.sgd-learning-rates")}
    return load(changes={key.replace("-", "_"): value for key, value in keys.items()})


def toml(toy, path, search: str):
    """Writes a config with a [search] table."""
    path.write_text(
        f"""
name = "toy"
task = {{ source = "tsv", path = '{toy}', queries = 2, tasks_per_step = 2, test_languages = 2, dev_languages = 1 }}
tokenizer = {{ length = 16 }}
model = {{ width = 4, layers = 1, heads = 1, window = 2, stride = 4 }}
train = {{ steps = 3, cipher = 0.0, warm_start = 0.0 }}
evaluate = {{ methods = ["zero_shot", "ridge"], steps = [0, 1], shot_curve = [] }}
{search}
""",
        "utf-8",
    )
    return path


# -- spaces


def test_a_space_is_checked_against_the_config(toy):
    space = space_of(SearchConfig(space={"train.clip": {"low": 0.1, "high": 2.0, "log": True}, "inner.steps": [1, 2]}),
                     config_of(toy))  # fmt: skip
    assert space == {"train.clip": Between(0.1, 2.0, log=True), "inner.steps": (1, 2)}


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "is empty"),
        ({"train.learning_rat": [1, 2]}, "did you mean `train.learning_rate`"),
        ({"evaluate.draws": [1, 2]}, "must stay the same"),
        ({"task.test_languages": [1, 2]}, "must stay the same"),
        ({"train.clip": [1.0]}, "two different values"),
        ({"train.clip": 3}, "a table of low and high"),
        ({"train.clip": {"low": 2.0, "high": 1.0}}, "low must be below high"),
        ({"train.clip": {"low": 0.0, "high": 1.0, "log": True}}, "above zero"),
        ({"train.clip": {"low": -1.0, "high": 1.0}}, "greater than 0"),
        ({"train.clip": {"low": 1.0}}, "required"),
        ({"train.clip": {"low": 1.0, "high": 2.0, "logg": True}}, "logg"),
        ({"inner.optimizer": ["sgd", "adamm"]}, "adam"),
        *(
            ({key: [1, 2]}, f"{key}: trials are compared by it")
            for key in (
                "task.shots",
                "task.ways",
                "train.steps",
                "train.seeds",
                "children.batch_size",
                "evaluate.draws",
            )
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(toy, space, said):
    with pytest.raises(InputError, match=said):
        space_of(SearchConfig(space=space), config_of(toy))


def test_the_table_of_a_file_is_read_and_left_alone_by_others(toy, tmp_path):
    path = toml(toy, tmp_path / "toy.toml", '[search]\ntrials = 4\nspace = { "inner.steps" = [1, 2] }\n')
    assert load_search(str(path), None, {"folds": 2}).model_dump() == {
        "trials": 4, "sampler": "random", "starts": 4, "descent_rate": 0.1, "folds": 2, "at_once": 8, "method": "",
        "space": {"inner.steps": [1, 2]},
    }  # fmt: skip
    assert load(path).name == "toy"
    with pytest.raises(InputError, match="trails"):
        load_search(str(toml(toy, tmp_path / "bad.toml", "[search]\ntrails = 4\n")), None, {})
    with pytest.raises(InputError, match="must be a table"):
        load_search(str(toml(toy, tmp_path / "bad.toml", "search = 4\n")), None, {})
    with pytest.raises(InputError, match=r"`presets.quick.search` must be a table"):
        load_search(str(toml(toy, tmp_path / "bad.toml", "[presets.quick]\nsearch = 4\n")), "quick", {})


# -- samplers


def test_random_trials_depend_on_their_number_alone_and_fill_the_range():
    drawn = [draw(SPACE, 0, number) for number in range(400)]
    assert drawn[7] == draw(SPACE, 0, 7) != draw(SPACE, 1, 7)
    rates = np.log10([values["train.learning_rate"] for values in drawn])
    assert rates.min() > -4
    assert rates.max() < -1
    assert abs(np.median(rates) + 2.5) < 0.2  # evenly in the logarithm
    steps = [values["inner.steps"] for values in drawn]
    assert {1, 2, 3} == set(steps)
    assert min(steps.count(k) for k in (1, 2, 3)) > 100


def test_halving_gives_three_times_the_steps_to_a_third():
    assert rungs(27, 900) == [(27, 33), (9, 100), (3, 300), (1, 900)]
    assert rungs(2, 90) == [(2, 90)]
    assert rungs(9, 2) == [(9, 1), (1, 2)]  # a rung that adds no step is left out
    done = [trial(0, 3.0), trial(1, math.nan), trial(2, 5.0), trial(3, 3.0)]
    assert [t.number for t in promoted(done, 3, higher_is_better=True)] == [2, 0, 3]
    assert [t.number for t in promoted(done, 3, higher_is_better=False)] == [0, 3, 2]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_optuna_looks_where_it_went_well(sampler):
    space = {"rate": Between(0.0, 1.0), "kind": ("a", "b"), "count": Between(1, 9, whole=True)}
    done = [
        trial(n, -((values["rate"] - 0.8) ** 2), **values)
        for n, values in enumerate(draw(space, 0, n) for n in range(40))
    ]
    done.append(trial(40, math.nan, rate=0.1, kind="a", count=3))
    found = suggested(sampler, space, done, 20, seed=0, higher_is_better=True)
    assert found == suggested(sampler, space, done, 20, seed=0, higher_is_better=True)
    assert abs(np.mean([values["rate"] for values in found]) - 0.8) < 0.2
    assert {values["kind"] for values in found} <= {"a", "b"}
    assert all(isinstance(values["count"], int) and 1 <= values["count"] <= 9 for values in found)


@pytest.mark.parametrize("sampler", OPTUNA)
def test_optuna_begins_without_a_trial(sampler):
    found = suggested(sampler, {"rate": Between(0.0, 1.0)}, [], 4, seed=0, higher_is_better=True)
    assert len({values["rate"] for values in found}) == 4


def test_a_sequence_goes_on_where_it_stopped():
    space = {"rate": Between(1e-4, 1.0, log=True), "kind": ("a", "b")}
    whole = suggested("quasi_random", space, [], 16, seed=0, higher_is_better=True)
    done = [trial(n, float(n), **values) for n, values in enumerate(whole[:6])]
    assert suggested("quasi_random", space, done, 10, seed=0, higher_is_better=True) == whole[6:]
    # Each quarter of the range, in the logarithm, has its share; the first trial is at random.
    quarters = np.histogram(np.log10([values["rate"] for values in whole[1:]]), bins=4, range=(-4, 0))[0]
    assert set(quarters.tolist()) <= {3, 4}


# -- runs side by side


@pytest.mark.slow
@pytest.mark.parametrize("method", ["maml", "ridge", "joint_finetune"])
def test_side_by_side_gives_what_runs_of_their_own_give(toy, tmp_path, standard_promotion, method):
    changes = {"evaluate.methods": (method,), "evaluate.main": method, "train.warm_start": 0.4}
    rates = (1e-3, 3e-2)
    built = build(config_of(toy, **changes))
    found = side_by_side(built).scores(
        {"train.learning_rate": np.array(rates)}, built.tasks, training_seed=0, seed=0
    )  # fmt: skip
    for rate, score in zip(rates, found.scores, strict=True):
        alone = build(config_of(toy, **changes, **{"train.learning_rate": rate})).experiment
        assert score == pytest.approx(of_its_own(alone, tmp_path / str(rate), 0.05), abs=1e-6)


def of_its_own(experiment, folder, meta_rate):
    """Returns the dev score of a run that the ordinary loop trains; meta-learners adapt at the rate of training."""
    folder.mkdir()
    with MetricsLog(folder) as log, progress() as display:
        trained = train(experiment, folder, log, display)
    own, judging = experiment.methods[0], experiment.judging
    rates = (meta_rate,) if own.kind == META else own.learning_rates[:1]
    posed = pose(experiment.tasks, "dev", experiment.tasks.languages("dev"), judging.shots, judging.dev_draws)
    run = evaluator(own, experiment.readout, own.steps, judging.tasks_at_once)
    _, score = tune(
        run, own._replace(learning_rates=rates), experiment.readout, judging,
        trained[0, own.phase] if own.phase else {}, posed, seed=0, tasks_per_call=len(posed.cells),
    )  # fmt: skip
    return score


@pytest.mark.slow
def test_a_run_that_diverges_has_no_score_and_spoils_no_other(toy, standard_promotion):
    changes = {"evaluate.methods": ("maml",), "evaluate.main": "maml"}
    built = build(config_of(toy, **changes))
    program = side_by_side(built)
    rates = {"train.learning_rate": np.array([3e-3, np.nan]), "inner.learning_rate": np.array([0.05, 0.05])}
    good, bad = program.scores(rates, built.tasks, training_seed=0, seed=0).scores
    assert math.isfinite(good)
    assert math.isnan(bad) or bad <= good


# -- the command


def lines(folder):
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.slow
def test_a_search_that_was_cut_off_goes_on(toy, tmp_path, monkeypatch, capsys):
    path = toml(
        toy, tmp_path / "toy.toml",
        '[search]\ntrials = 5\nfolds = 2\nat_once = 2\n'
        'space = { "train.learning_rate" = { low = 1e-3, high = 1e-1, log = true }, "inner.steps" = [1, 2] }\n',
    )  # fmt: skip
    words = ("search", str(path), "--out", str(tmp_path / "whole"))
    assert jaxmeta(*words) == 0
    whole = lines(tmp_path / "whole")
    assert sorted(line["trial"] for line in whole) == [0, 1, 2, 3, 4]
    assert all(len(line["scores"]) == 2 for line in whole)
    assert all(line["score"] == pytest.approx(np.mean(line["scores"])) for line in whole)
    best = max(whole, key=lambda line: line["score"])
    written = load(tmp_path / "whole" / "best.toml")
    assert written.train.learning_rate == best["values"]["train.learning_rate"]
    assert written.inner.steps == best["values"]["inner.steps"]
    assert (tmp_path / "whole" / "trials.png").stat().st_size > 1000

    finished, runs = searching_module._Runner.run, []

    def cut_off(self, pending):
        if len(runs) == 1:
            raise KeyboardInterrupt
        runs.append([t.number for t in pending])
        return finished(self, pending)

    again = ("search", str(path), "--out", str(tmp_path / "again"))
    monkeypatch.setattr(searching_module._Runner, "run", cut_off)
    assert jaxmeta(*again) == 130
    before = lines(tmp_path / "again")
    assert [line["trial"] for line in before] == runs[0]
    resumed = []
    monkeypatch.setattr(
        searching_module._Runner, "run", lambda self, p: (resumed.extend(t.number for t in p), finished(self, p))[1]
    )
    assert jaxmeta(*again) == 0
    assert not set(resumed) & set(runs[0])
    assert lines(tmp_path / "again") == whole
    capsys.readouterr()
    assert jaxmeta("search", str(path), "--out", str(tmp_path / "again"), "--trials", "6") == 2
    assert "another search" in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_that_is_killed_repeats_no_trial(toy, tmp_path):
    path = toml(
        toy, tmp_path / "toy.toml",
        '[search]\ntrials = 6\nfolds = 1\nat_once = 1\n'
        'space = { "train.learning_rate" = { low = 1e-3, high = 1e-1, log = true } }\n',
    )  # fmt: skip
    words = process("search", str(path), "--out")
    start = functools.partial(
        subprocess.Popen, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )

    def finished(folder):
        with start([*words, folder]) as running:
            _, error = running.communicate(timeout=240)
            assert running.returncode == 0, error

    finished("whole")
    trials = tmp_path / "killed" / "trials.jsonl"
    deadline = time.monotonic() + 240
    with start([*words, "killed"]) as running:
        while not (trials.exists() and trials.read_bytes().count(b"\n") >= 2):
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        running.kill()  # while the third is trained, or judged
    before = lines(tmp_path / "killed")
    assert 2 <= len(before) < 6
    times = trials.stat().st_mtime_ns
    finished("killed")
    assert lines(tmp_path / "killed")[: len(before)] == before
    assert trials.stat().st_mtime_ns > times
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")


@pytest.mark.parametrize("method", ["source_and_target", "nearest_sources"])
def test_no_fold_replays_what_it_holds_out(toy, method):
    config = searching_module.of_method(settled(config_of(toy)), SearchConfig(method=method))
    runner = searching_module._Runner(config, SearchConfig(method=method, folds=2), {})
    programs, folds = runner._programs({}, 3)
    assert len(set(map(id, programs))) == 2
    own = []
    for fold in folds:
        rows = fold.tasks.corpus.language[np.isin(fold.tasks.corpus.split, "train")]
        dev = set(fold.tasks.languages("dev"))
        assert dev < set(rows.tolist())
        tokens = {tuple(row) for row in fold.setting.source["inputs"].tolist()}
        asked = [fold.tasks.episode(name, shots=2, draw=0, split="dev").support["inputs"] for name in dev]
        assert not tokens & {tuple(row) for inputs in asked for row in inputs.tolist()}
        own.append(frozenset(dev))
    assert not own[0] & own[1]


@pytest.mark.slow
def test_pairs_are_held_out_by_their_languages():
    changes = {"task.kind": "translation", "evaluate.methods": ("maml",), "evaluate.shot_curve": ()}
    config = load(changes={**changes, "task.test_languages": ("he", "uk"), "task.dev_languages": ("th",)})
    config = searching_module.of_method(settled(config), SearchConfig(method="maml"))
    folds = searching_module._fold_changes(build(config), SearchConfig(folds=2))
    held_out = [set(fold["task.dev_languages"]) for fold in folds]
    assert not held_out[0] & held_out[1]
    assert "th" in held_out[0] | held_out[1]
    for fold, dev in zip(folds, held_out, strict=True):
        assert set(fold["task.test_languages"]) == {"he", "uk"}
        tasks = build(changed(config, fold, "here")).tasks
        assert all(dev & set(tasks.codes(pair)) for pair in tasks.languages("dev"))
        assert not any(dev & set(tasks.codes(pair)) for pair in tasks.languages("train"))
        assert all({"he", "uk"} & set(tasks.codes(pair)) for pair in tasks.languages("test"))


def test_folds_with_pieces_of_their_own_have_programs_of_their_own(toy):
    pieces = {"tokenizer.kind": "sentencepiece", "tokenizer.vocab_size": 280}
    for keys, expected in (({}, 1), (pieces, 2)):
        config = searching_module.of_method(settled(config_of(toy, **keys)), SearchConfig())
        runner = searching_module._Runner(config, SearchConfig(folds=2), {})
        assert len(set(map(id, runner._programs({}, 3)[0]))) == expected


@pytest.mark.parametrize("damage", ["{", "[1]\n", '{"trial": 0}\n'])
def test_a_damaged_search_is_one_sentence(toy, tmp_path, capsys, damage):
    path = toml(toy, tmp_path / "toy.toml", "")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "search.json").write_text("{}", "utf-8")
    (tmp_path / "out" / "trials.jsonl").write_text(damage, "utf-8")
    assert jaxmeta("search", str(path), "--folds", "1", "--out", str(tmp_path / "out")) == 2
    assert "is damaged" in capsys.readouterr().err


def test_a_search_that_was_killed_before_it_began_leaves_no_obstacle(tmp_path):
    (tmp_path / "search.json.part").write_text("{", "utf-8")
    assert opened(tmp_path, {"config": 1}) == []
    assert json.loads((tmp_path / "search.json").read_text("utf-8")) == {"config": 1}


@pytest.mark.parametrize(
    "sampler", [pytest.param(name, marks=pytest.mark.slow) for name in ("halving", "hypergradient")] + [*OPTUNA]
)
def test_other_samplers_search_too(toy, tmp_path, sampler):
    path = toml(toy, tmp_path / "toy.toml", "[search]\ntrials = 3\nfolds = 1\nat_once = 3\n")
    assert jaxmeta("search", str(path), "--sampler", sampler, "--out", str(tmp_path / "found")) == 0
    found = lines(tmp_path / "found")
    expected = [(n, 0) for n in range(3)] + ([(found[-1]["trial"], 1)] if sampler == "halving" else [])
    assert [(line["trial"], line["rung"]) for line in found] == expected
    if sampler == "halving":
        best = max(found[:3], key=lambda line: (line["score"], -line["trial"]))
        assert found[-1]["trial"] == best["trial"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--folds", "9"), "at most 2"),
        (("--method", "mamml"), "mamml"),
        (("--trials", "0"), "trials"),
        (("--sampler", "best"), "sampler"),
        (
            ("--task.source", "sinusoid", "--task.path", "", "--model.kind", "mlp", "--evaluate.metric", "mse"),
            "no names",
        ),
    ],
)
def test_bad_searches_are_one_sentence(toy, tmp_path, capsys, words, said):
    path = toml(toy, tmp_path / "toy.toml", "")
    assert jaxmeta("search", str(path), "--out", str(tmp_path / "out"), *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_choices_that_go_together_may_be_searched(toy):
    space = {"model.width": (6, 12), "model.heads": (3, 6)}
    config = searching_module.of_method(settled(config_of(toy)), SearchConfig(folds=1))
    searching_module._Runner(config, SearchConfig(folds=1), space)  # neither goes with the config's own


def test_the_best_config_trains_the_method_that_was_searched(toy, tmp_path):
    space = {"train.learning_rate": Between(1e-3, 1e-1, log=True)}
    done = [
        trial(number, score, **{"train.learning_rate": rate})
        for number, (score, rate) in enumerate([(1, 0.01), (2, 0.02)])
    ]
    config = settled(config_of(toy, **{"evaluate.methods": ("zero_shot", "ridge")}))
    searching_module._report(tmp_path, config, "maml", done, space, "accuracy", higher=True)
    best = load(tmp_path / "best.toml")
    assert best.evaluate.methods == ("zero_shot", "ridge", "maml")
    assert best.train.learning_rate == 0.02
    assert best.train.seeds == config.train.seeds


def test_what_a_task_is_judged_on_is_not_searched(toy):
    queries = SearchConfig(space={"task.queries": [1, 2]})
    assert space_of(queries, config_of(toy)) == {"task.queries": (1, 2)}
    waves = load(changes={"task.source": "sinusoid", "model.kind": "mlp", "task.test_languages": 2})
    with pytest.raises(InputError, match=r"task\.queries: trials are compared by it"):
        space_of(queries, waves)


def test_a_choice_that_makes_no_run_is_found_before_the_first_trial(toy, tmp_path, capsys):
    space = '[search]\nfolds = 1\nspace = { "model.heads" = [1, 2, 3] }\n'
    assert jaxmeta("search", str(toml(toy, tmp_path / "toy.toml", space)), "--out", str(tmp_path / "out")) == 2
    assert "heads" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_picture_of_a_search_has_a_line_for_each_trial_through_what_it_tried():
    pytest.importorskip("matplotlib")
    space = {"train.learning_rate": Between(1e-3, 1e-1, log=True), "inner.steps": (1, 2, 5)}
    tried = [((1e-3, 1), 0.2), ((1e-2, 5), 0.6), ((1e-1, 2), 0.4), ((1e-1, 5), math.nan)]
    trials = [
        Trial(number, 0, {"train.learning_rate": rate, "inner.steps": steps}, (score,), score)
        for number, ((rate, steps), score) in enumerate(tried)
    ]
    axes = parallel_coordinates(trials, space, "accuracy", higher_is_better=True).axes[0]
    lines = [np.asarray(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 3]
    heights = [share(space["inner.steps"], steps) for steps in (1, 2, 5)]
    expected = [
        [0.0, heights[0], 0.0],
        [1.0, heights[1], 0.5],
        [0.5, heights[2], 1.0],
    ]  # the best on top, none diverged
    np.testing.assert_allclose(lines, expected, atol=1e-6)
    assert [label.get_text() for label in axes.get_xticklabels()] == [*space, "dev accuracy"]
