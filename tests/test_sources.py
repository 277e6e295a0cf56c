"""Languages of known kinship through the command line: similarity, transfer, sources left out, problems on disk."""

import contextlib
import io
import itertools
import json
import shutil
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from planted import SOURCES, WORDS, command
from tiny_run import evaluation, files, jaxmeta

from jaxmeta import data
from jaxmeta.config import build, commands, load
from jaxmeta.config.comparing import similarity_of, text_measures
from jaxmeta.config.language_texts import texts_of
from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.config.read import changed
from jaxmeta.config.sources import sources_to_leave_out
from jaxmeta.core.checks import InputError
from jaxmeta.run.report import write_report
from jaxmeta.run.similarity import nearest_sources

pytestmark = pytest.mark.slow  # they train whole runs

CHANGES: dict[str, Any] = {"evaluate.leave-out": "sb", "evaluate.similarity": True}


@contextlib.contextmanager
def quiet(folder):
    """Draws no pictures, which take seconds, and prints nothing."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as shown:
        patch.setattr(commands, "write_report", lambda run: run)
        yield shown


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    with quiet(folder) as shown:
        assert jaxmeta(*command(folder, CHANGES)) == 0
    write_report(folder / "run")
    return folder, shown.getvalue()


@pytest.fixture
def again(planted, tmp_path):
    """A copy of the run, whose data stay where they were."""
    shutil.copytree(planted[0] / "run", tmp_path / "run")
    return tmp_path / "run"


def into(run, folder):
    """Returns the words of the command that made the run, with a copy of it for the run."""
    return [str(run) if word == str(folder / "run") else word for word in command(folder, CHANGES)]


def similarity(run):
    return json.loads((run / "similarity.json").read_text("utf-8"))


def of(found, measure, one, other):
    matrix, names = found["measures"][measure]["matrix"], found["languages"]
    return matrix[names.index(one)][names.index(other)]


def test_twins_write_alike_and_pull_apart(planted):
    found = similarity(planted[0] / "run")
    assert found["languages"] == ["ta", "tb", *SOURCES]
    assert found["roles"] == ["test"] * 2 + ["train"] * 3
    assert found["scripts"] == ["LATIN"] * 4 + ["GREEK"]
    for measure in found["measures"].values():
        matrix = np.array(measure["matrix"])
        np.testing.assert_allclose(matrix, matrix.T)
        np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-3)
    assert nearest_sources(found, at_most=1).keys() == {"ta", "tb"}
    assert [pairs[0][0] for pairs in nearest_sources(found).values()] == ["sa", "sb"]
    assert of(found, "texts", "tb", "sb") > 0.95 > of(found, "texts", "tb", "sc")
    assert of(found, "scripts", "tb", "sb") == 1
    assert of(found, "scripts", "tb", found["languages"][found["scripts"].index("GREEK")]) < 0.1
    assert of(found, "distances", "tb", "sb") < 0.5 < of(found, "distances", "ta", "sa")
    # The same words for the opposite: what one is taught undoes what the other knows.
    for measure in ("gradients", "displacements"):
        assert of(found, measure, "tb", "sb") < -0.3 < of(found, measure, "ta", "sa")


def test_the_source_that_does_harm_is_found_out(planted):
    folder, shown = planted
    found = evaluation(folder / "run")
    assert found["methods"]["zero_shot"]["per_language"] == {"ta": 100.0, "tb": 0.0}
    harm = found["transfer"]["methods"]["zero_shot"]
    assert (harm["hurt"], harm["hurt_languages"]) == (1, ["tb"])
    assert found["transfer"]["per_language"]["tb"]["nearest"][0][0] == "sb"
    left = found["leave_one_out"]
    assert (left["method"], list(left["sources"])) == ("zero_shot", ["sb"])
    # Without it, `tb` is guessed, and to the other language it means nothing.
    assert left["sources"]["sb"]["per_language"]["tb"] < -25
    assert left["sources"]["sb"]["per_language"]["ta"] == pytest.approx(0, abs=10)
    assert left["nearest"]["removed"] == {"tb": "sb"}
    for sentence in (found["transfer"]["says"], left["says"]):
        assert sentence in " ".join(shown.split())
    page = (folder / "run" / "report.html").read_text("utf-8")
    assert all(word in page for word in ("Sources left out", "Transfer by language", "Calibration by a temperature"))
    pictures = {path.name for path in (folder / "run" / "figures").iterdir()}
    assert {"reliability.png", *(f"similarity_{n}.png" for n in ("texts", "gradients", "displacements"))} <= pictures


def test_a_run_without_a_source_is_the_same_but_for_it(planted):
    whole, less = (build(load(planted[0] / path / "config.toml")) for path in ("run", "run/without_sb"))
    assert less.tasks.languages("train") == ("sa", "sc")
    for split in ("dev", "test"):
        assert less.tasks.languages(split) == whole.tasks.languages(split)
    first, second = (b.tasks.judged.evaluation_rows("tb", shots=3, draw=1) for b in (whole, less))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    costs = [evaluation(planted[0] / path)["methods"]["zero_shot"]["compute"] for path in ("run", "run/without_sb")]
    assert costs[0]["gradient_examples"] == costs[1]["gradient_examples"]


def test_calibration_is_shown_with_temperatures(planted):
    found = evaluation(planted[0] / "run")["temperature"]
    assert found["folds"] == 3
    assert list(found["methods"]) == ["zero_shot", "tfidf"]
    # `tb` is answered wrongly with confidence, and its shots say so; TF-IDF doubts what is always right.
    sure, unsure = found["methods"]["zero_shot"], found["methods"]["tfidf"]
    assert sure["temperature"]["high"] > 3 > 1 > unsure["temperature"]["high"]
    for result in (sure, unsure):
        assert result["after"]["nll"] < result["before"]["nll"]
        assert result["after"]["ece"] < result["before"]["ece"]


def test_a_run_that_was_cut_off_before_a_source_was_judged_goes_on(planted):
    folder, _ = planted
    before, scores = files(folder / "run"), evaluation(folder / "run")
    (folder / "run" / "without_sb" / "evaluation.json").unlink()
    found = json.loads((folder / "run" / "evaluation.json").read_text("utf-8"))
    del found["leave_one_out"]
    (folder / "run" / "evaluation.json").write_text(json.dumps(found))
    with quiet(folder):
        assert jaxmeta(*command(folder, CHANGES)) == 0
    after = files(folder / "run")
    kept = {path: content for path, content in before.items() if "checkpoints" in path}
    assert {path: after[path] for path in kept} == kept
    assert evaluation(folder / "run") == scores


def test_a_source_that_is_asked_for_later_is_added_to_those_of_the_config(planted, again):
    before = evaluation(again)["leave_one_out"]["sources"]["sb"]
    with quiet(planted[0]):
        assert jaxmeta("evaluate", str(again), "--leave-out", "sc") == 0
    found = evaluation(again)
    assert list(found["leave_one_out"]["sources"]) == ["sb", "sc"]
    assert found["leave_one_out"]["sources"]["sb"]["per_language"] == before["per_language"]
    with quiet(planted[0]):
        assert jaxmeta(*into(again, planted[0])) == 0
    assert evaluation(again) == found, "what was asked for later is kept"


def test_what_was_judged_on_other_problems_is_judged_again_by_the_command_of_the_run(planted, again, tmp_path):
    scores, part = evaluation(again), evaluation(again / "without_sb")
    path = tmp_path / "shots.json"
    assert jaxmeta("data", "manifest", str(again), "--out", str(path)) == 0
    (again / "without_sb" / "evaluation.json").unlink()
    with quiet(planted[0]):
        assert jaxmeta("evaluate", str(again), "--manifest", str(path)) == 0
    for folder in (again, again / "without_sb"):
        assert json.loads((folder / "evaluation.json").read_text("utf-8"))["manifest"] == str(path)
        assert load(folder / "config.toml").evaluate.manifest == ""
    with quiet(planted[0]):
        assert jaxmeta(*into(again, planted[0])) == 0
    assert evaluation(again) == scores
    assert evaluation(again / "without_sb") == part


def test_problems_on_disk_are_judged_instead_of_drawn_ones(planted, again, tmp_path, capsys):
    path = tmp_path / "shots.json"
    assert jaxmeta("data", "manifest", str(again), "--out", str(path)) == 0
    assert "Wrote 6 problems in 4 languages" in capsys.readouterr().out
    assert jaxmeta("data", "manifest", str(again), "--out", str(path)) == 2
    config = load(again / "config.toml")
    drawn, other = build(config).tasks, build(changed(config, {"seed": 5}, "here")).tasks
    fixed = build(changed(config, {"seed": 5, "evaluate.manifest": str(path)}, "here"))
    assert fixed.experiment.data_facts["problems"] == "6 of shots.json"
    for split, draws in (("dev", 1), ("test", 2)):
        for language, draw in itertools.product(drawn.languages(split), range(draws)):
            expected, found, else_ = (
                tasks.episode(language, shots=3, draw=draw, split=split) for tasks in (drawn, fixed.tasks, other)
            )
            jax.tree.map(np.testing.assert_array_equal, found, expected)
            assert not np.array_equal(else_.support["inputs"], expected.support["inputs"])
    # Two draws that change places in the file do so in what is counted.
    manifest = json.loads(path.read_text("utf-8"))
    first, second = (problem for problem in manifest["problems"] if problem["language"] == "tb")
    first["support"], second["support"] = second["support"], first["support"]
    path.write_text(json.dumps(manifest))
    swapped = build(changed(config, {"evaluate.manifest": str(path)}, "here"))
    nll = [
        [float(built.experiment.classical[0].counts(1.0, "tb", 3, draw, "test")["nll"]) for draw in range(2)]
        for built in (fixed, swapped)
    ]
    assert nll[0] == nll[1][::-1]
    assert nll[0] != nll[1]


@pytest.mark.parametrize(("damage", "says"), [
    (lambda m: m["digests"].update({str(m["problems"][0]["support"][0]): "0" * 16}), "is not what it was"),
    (lambda m: m["problems"].pop(), "has no problem of tb with 3 shots and draw 1"),
    (lambda m: m["problems"][0]["support"].pop(), "digests"),
])  # fmt: skip
def test_problems_that_do_not_fit_are_refused(planted, again, tmp_path, capsys, damage, says):
    path = tmp_path / "shots.json"
    assert jaxmeta("data", "manifest", str(again), "--out", str(path)) == 0
    manifest = json.loads(path.read_text("utf-8"))
    damage(manifest)
    if says == "digests":
        says, manifest["digests"] = "is damaged", {}
    path.write_text(json.dumps(manifest))
    before = files(again)
    capsys.readouterr()
    assert jaxmeta("evaluate", str(again), "--manifest", str(path)) == 2
    message = capsys.readouterr().err
    assert says in message
    assert str(path) in message
    assert message.count("\n") == 1
    assert files(again) == before


def test_the_nearest_and_each_are_found(planted):
    config = load(planted[0] / "run" / "config.toml")

    def sources(*wanted, **changes):
        return sources_to_leave_out(build(changed(config, {"evaluate.leave_out": wanted, **changes}, "here")))

    assert sources("nearest") == ("sa", "sb")
    assert sources("each") == SOURCES
    assert sources("sc", "nearest") == ("sc", "sa", "sb")
    assert sources() == ()
    with pytest.raises(InputError, match="tb, xx is no source language; name some of sa, sb, sc"):
        sources("tb", "xx")
    with pytest.raises(InputError, match="sa is the only source language"):
        sources("each", **{"task.left_out_languages": ("sb", "sc")})
    with pytest.raises(InputError, match="target_only has none"):
        sources("each", **{"evaluate.main": "target_only"})
    with pytest.raises(InputError, match="ta cannot be left out: the train languages are sa, sb, sc"):
        sources(**{"task.left_out_languages": ("ta",)})
    with pytest.raises(InputError, match="All train languages are left out"):
        sources(**{"task.left_out_languages": SOURCES})
    with pytest.raises(InputError, match="no method of the run takes inner steps"):
        sources(**{"evaluate.methods": ("zero_shot",), "evaluate.temperature_methods": ()})
    with pytest.raises(InputError, match="temperature_methods` must be some of zero_shot, "):
        sources(**{"evaluate.temperature_methods": ("maml",)})


def test_waves_have_no_sources_but_gradients(tmp_path):
    config = load(changes={
        "task": {"source": "sinusoid", "test_languages": 3, "dev_languages": 1}, "model": {"kind": "mlp", "width": 4},
        "evaluate": {"methods": ("joint_finetune",), "steps": (0, 2), "similarity": True, "shot_curve": ()},
    })  # fmt: skip
    built = build(config)
    episodes = next(built.tasks.batches(0, 0, augmented=False)(0))
    params = built.experiment.phases[-1].learner.init(jax.random.key(0), episodes).meta_params
    chosen = {"methods": {"joint_finetune": {"adaptation": {"learning_rate": 0.01, "steps": 2}}}}
    with jax.numpy_dtype_promotion("standard"):
        found = similarity_of(built, {(0, "joint"): params}, chosen)
    assert found is not None
    assert (found["roles"], found["scripts"]) == (["test"] * 3, [])
    assert list(found["measures"]) == ["gradients", "displacements", "distances"]
    assert np.shape(found["measures"]["gradients"]["matrix"]) == (3, 3)
    (tmp_path / "shots.json").write_text("{}")
    with pytest.raises(InputError, match="Waves have no rows"):
        build(changed(config, {"evaluate.manifest": str(tmp_path / "shots.json")}, "here"))
    with pytest.raises(InputError, match="Waves have no sources"):
        sources_to_leave_out(build(changed(config, {"evaluate.leave_out": ("each",)}, "here")))


@pytest.mark.parametrize("kind", ["translation", "retrieval"])
def test_pairs_are_compared_by_the_texts_of_their_own_language(kind):
    config = load(changes={
        "task": {"kind": kind, "test_languages": ("he", "uk"), "dev_languages": ("th",)}, "evaluate.shot_curve": (),
    })  # fmt: skip
    tasks = PairTasks(config)
    found = text_measures(tasks, config)
    assert found is not None
    names = dict(zip(found["languages"], found["scripts"], strict=True))
    assert [names[code] for code in tasks.languages("test")] == ["HEBREW", "CYRILLIC"]
    assert found["scripts"].count("LATIN") < len(names)


def test_a_language_that_all_pairs_share_is_no_text_of_theirs(tmp_path):
    pairs = [("en", "de"), ("de", "en"), ("en", "fr"), ("fr", "en")]
    rows = ["\t".join((*pair, f"{pair[0]} text", f"{pair[1]} text")) for pair in pairs]
    (tmp_path / "both.tsv").write_text("\n".join(["src_lang\ttgt_lang\tsrc\ttgt", *rows]) + "\n")
    tasks: Any = SimpleNamespace(table=data.read_table(tmp_path / "both.tsv", require_splits=False))
    assert texts_of(tasks, "en-de") == texts_of(tasks, "de-en") == ["de text"]
    assert texts_of(tasks, "fr-en") == ["fr text"]
    # Of two languages either way both count, for none is beside what is shared.
    two = data.read_table(tmp_path / "both.tsv", require_splits=False).take(np.arange(2))
    assert texts_of(SimpleNamespace(table=two), "en-de") == ["en text", "de text"]  # pyright: ignore


def test_words_are_what_is_planted():
    assert WORDS["ta"] == WORDS["sa"]
    assert WORDS["tb"] == WORDS["sb"][::-1]
