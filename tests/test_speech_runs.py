"""Tasks of recordings through the command line: classification in turns from a file, and strings of digits."""

import contextlib
import io
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import evaluation, files, jaxmeta, metrics, train

from jaxmeta import data
from jaxmeta.config import build, commands, load
from jaxmeta.config.augmenting import augmenting
from jaxmeta.config.kinds import kind_of, settled
from jaxmeta.config.turns import turns_of
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Episode, LearnerState, MetaLearner
from jaxmeta.run.experiment import restore
from jaxmeta.run.report import write_report
from jaxmeta.run.statistics import bootstrap_interval, paired_difference
from jaxmeta.run.turns import pooled

RECORDED = {
    "task.source": "npz", "task.path": "digits.npz", "task.shots": 1, "task.queries": 1, "task.tasks-per-step": 1,
    "task.dev-languages": 1, "train.steps": 1, "train.warm-start": 0, "evaluate.steps": (0, 1), "model.window": 3,
    "model.stride": 4, "model.segments": 2, "task.seconds": 0.5,
}  # fmt: skip
CLASSES = {
    **RECORDED, "task.test-languages": "each", "evaluate.methods": ("mean_spectra", "ridge"),
    "evaluate.draws": 2,
}  # fmt: skip
STRINGS = {
    **RECORDED, "task.kind": "recognition", "task.source": "synthetic_digits", "task.path": "", "task.seconds": 1.5,
    "task.test-languages": 1, "task.speakers": 3, "evaluate.methods": ("word_templates", "zero_shot"),
    "model.stride": 8, "train.augment": True,
}  # fmt: skip
VOICES = data.synthetic_digits(3, recordings=4)


def write(path, **changes):
    """Writes the voices as an npz file, with some arrays changed."""
    names = VOICES.languages()
    np.savez(
        path,
        **{
            "audio": VOICES.audio, "offset": np.append(VOICES.start, len(VOICES.audio)), "digit": VOICES.label,
            "speaker": np.array([names.index(name) for name in VOICES.language]), "speaker_names": np.array(names),
            "split": np.array([data.SPLITS.index(part) for part in VOICES.split]),
            "index": np.tile(np.arange(4), 30), "rate": np.int64(VOICES.rate),
        } | changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("speech")
    write(found / "digits.npz")
    return found


@pytest.fixture(scope="module")
def spoken(folder):
    """A run in which each of three speakers is held out in turn."""
    words = train(str(folder / "turns"), CLASSES | {"task.path": str(folder / "digits.npz")})
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        # Pictures take seconds; those of all turns together are enough.
        patch.setattr(commands, "write_report", lambda run: write_report(run) if run.name == "turns" else run)
        assert jaxmeta(*words) == 0
    return folder / "turns", words


@pytest.fixture(scope="module")
def strings(folder):
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(commands, "write_report", lambda run: run)
        assert jaxmeta(*train(str(folder / "strings"), STRINGS)) == 0
    return folder / "strings"


def test_every_speaker_is_held_out_in_turn(spoken):
    folder, _ = spoken
    found = evaluation(folder)
    assert found["languages"] == list(VOICES.languages())
    for name in VOICES.languages():
        turn = evaluation(folder / name)
        assert turn["languages"] == [name]
        for method, result in found["methods"].items():
            assert result["per_language"][name] == turn["methods"][method]["per_language"][name]
        tasks = build(load(folder / name / "config.toml")).tasks
        assert tasks.languages("test") == (name,)
        assert len({*tasks.languages("train"), *tasks.languages("dev"), name}) == 3
    assert (folder / "report.html").exists()
    assert found["data"]["corpus"] == "digits: 120 recordings, 3 speakers"
    assert (found["best_baseline"], found["best_meta_learner"]) == ("mean_spectra", "ridge")


@pytest.mark.parametrize("command", ["adapt", "serve"])
def test_turns_are_adapted_one_by_one(spoken, command, tmp_path, capsys):
    folder, _ = spoken
    options = {"adapt": ("--shots", "shots.npz", "--out", str(tmp_path / "mine")), "serve": ()}[command]
    assert jaxmeta(command, str(folder), *options) == 2
    assert f"name one of them, such as {folder / VOICES.languages()[0]}." in capsys.readouterr().err


def test_what_one_turn_says_of_its_data_is_kept(spoken):
    turns = [json.loads((spoken[0] / name / "evaluation.json").read_text("utf-8")) for name in VOICES.languages()]
    turns[1]["data"]["problems"] = "3 of shots.json"
    found = pooled(turns)["data"]
    assert found["problems"] == f"{VOICES.languages()[1]}: 3 of shots.json"
    assert found.keys() - {"problems"} == turns[0]["data"].keys()


def test_turns_are_pooled_as_if_they_were_one_run(spoken):
    folder, _ = spoken
    found = evaluation(folder)
    turns = [json.loads((folder / name / "evaluation.json").read_text("utf-8")) for name in VOICES.languages()]
    grids = {
        method: np.array([row for turn in turns for row in turn["methods"][method]["repetitions"].values()])
        for method in found["methods"]
    }
    for method, grid in grids.items():
        assert grid.shape == (3, 2)
        interval, result = bootstrap_interval(grid), found["methods"][method]
        assert (result["mean"], *result["ci95"]) == pytest.approx(tuple(interval))
        dev = [turn["methods"][method]["adaptation"]["dev_score"] for turn in turns]
        assert result["adaptation"]["dev_score"] == pytest.approx(np.mean(dev))
        assert len(result["adaptation"]["turns"]) == 3
    difference = paired_difference(grids["ridge"], grids["mean_spectra"])
    pair = found["paired"]["ridge - mean_spectra"]
    assert (pair["mean"], *pair["ci95"]) == pytest.approx(tuple(difference)[:3])
    one = pooled(turns[:1])
    assert one["methods"]["ridge"]["ci95"] == pytest.approx(turns[0]["methods"]["ridge"]["ci95"])
    assert one["verdict"] == turns[0]["verdict"]


def test_mean_spectra_are_fitted_to_the_shots_alone(spoken):
    from sklearn.linear_model import LogisticRegression

    from jaxmeta.models import log_mel

    folder, _ = spoken
    name = VOICES.languages()[1]
    built = build(load(folder / name / "config.toml"))
    scores = []
    for draw in range(2):
        sides = []
        for side in built.tasks.episode(name, shots=1, draw=draw, split="test"):
            frames = jax.device_get(log_mel(**side["inputs"]))
            whole = zip(frames["mel"], frames["real"], strict=True)
            fifths = [np.array_split(mel[: real.sum()], 5) for mel, real in whole]
            sides.append(np.array([np.concatenate([part.mean(axis=0) for part in parts]) for parts in fifths]))
        episode = built.tasks.episode(name, shots=1, draw=draw, split="test")
        mean, deviation = sides[0].mean(axis=0), sides[0].std(axis=0)
        shown, asked = ((side - mean) / deviation for side in sides)
        strength = evaluation(folder / name)["methods"]["mean_spectra"]["adaptation"]["C"]
        model = LogisticRegression(C=strength, max_iter=1000).fit(shown, episode.support["targets"])
        scores.append(100 * np.mean(model.predict(asked) == episode.query["targets"]))
    assert evaluation(folder)["methods"]["mean_spectra"]["repetitions"][name] == pytest.approx(scores)


def test_the_same_command_again_judges_what_is_not_judged(spoken, monkeypatch):
    folder, words = spoken
    monkeypatch.setattr(commands, "write_report", lambda run: run)
    before, scores = files(folder), evaluation(folder)
    assert jaxmeta(*words) == 0
    after = files(folder)
    turned = {path: content for path, content in before.items() if path.startswith("voice")}
    assert {path: after[path] for path in turned} == turned
    assert evaluation(folder) == scores
    (folder / VOICES.languages()[2] / "evaluation.json").unlink()
    assert jaxmeta(*words) == 0
    assert evaluation(folder) == scores


@pytest.mark.slow
def test_strings_are_judged_by_their_words(strings):
    from rapidfuzz.distance import Levenshtein

    found = json.loads((strings / "evaluation.json").read_text("utf-8"))
    assert (found["metric"], found["higher_is_better"]) == ("word_error_rate", False)
    assert metrics(strings)[-1]["phase"] == "joint"
    built = build(load(strings / "config.toml"))
    params = restore(built.experiment, strings)[0, "joint"]["params"]
    (speaker,) = built.tasks.languages("test")
    query = built.tasks.episode(speaker, shots=1, draw=0, split="test").query
    with jax.numpy_dtype_promotion("standard"):
        outputs = jax.device_get(jax.jit(built.setting.model.apply)(params, query["inputs"]))
    edits = words = 0
    for logits, real, target in zip(outputs["logits"], outputs["real"], query["targets"], strict=True):
        path = np.argmax(logits[real], axis=1)
        read = [word for place, word in enumerate(path) if word and (not place or path[place - 1] != word)]
        said = [word for word in target if word]
        edits, words = edits + Levenshtein.distance(read, said), words + len(said)
    assert found["methods"]["zero_shot"]["per_language"][speaker] == pytest.approx(100 * edits / words, abs=1e-3)
    assert words == np.count_nonzero(query["targets"]) > 0
    assert found["methods"]["word_templates"]["mean"] < 80  # one recording of each word tells something


@pytest.mark.slow
def test_a_run_adapts_to_a_voice_of_ones_own(spoken, strings, folder, tmp_path, capsys):
    clips = VOICES.take(VOICES.rows("voice001", "train")[::2])
    offsets = np.cumsum([0, *clips.samples])
    audio = np.concatenate([VOICES.audio[s : s + n] for s, n in zip(clips.start, clips.samples, strict=True)])
    own = {"audio": audio, "offset": offsets, "rate": np.int64(8000)}
    np.savez(tmp_path / "shots.npz", digit=clips.label, **own)
    np.savez(tmp_path / "asked.npz", **own)
    shots, asked = str(tmp_path / "shots.npz"), str(tmp_path / "asked.npz")
    for run, main, answers in ((spoken[0] / "voice000", "ridge", 10), (strings, "zero_shot", 10)):
        mine = str(tmp_path / main)
        assert jaxmeta("adapt", str(run), "--shots", shots, "--out", mine) == 0
        assert f"Adapted {main} to {10 if main == 'ridge' else 3} examples" in capsys.readouterr().err
        assert jaxmeta("predict", mine, "--input", asked) == 0
        shown = capsys.readouterr().out.splitlines()
        assert [line.split("\t")[-1] for line in shown] == [f"clip {number}" for number in range(answers)]
        exported = f"{mine}_exported"
        assert jaxmeta("export", mine, "--out", exported, "--platforms", "cpu") == 0
        capsys.readouterr()
        assert jaxmeta("predict", exported, "--input", asked) == 0
        assert capsys.readouterr().out.splitlines() == shown
        said = [line.split("\t")[0] for line in shown]
        if main == "ridge":  # it was shown the very same recordings
            assert said == [str(digit) for digit in clips.label]
        assert {word for words in said for word in words.split()} <= set("0123456789")
    assert jaxmeta("predict", str(tmp_path / "ridge"), "--input", asked, "--all") == 0
    assert capsys.readouterr().out.count("9=") == 10


def test_files_that_no_run_can_adapt_to_are_one_sentence(spoken, tmp_path, capsys):
    run = str(spoken[0] / "voice000")
    for changes, says in (
        ({"digit": VOICES.label + 3}, "`digit` is 10, and this model knows 0, 1"),
        ({"rate": np.int64(16000)}, "has 16000 samples in a second, and this run has heard 8000"),
        ({"audio": VOICES.audio[:9]}, "`offset` runs from 0 to"),
    ):
        write(tmp_path / "shots.npz", **changes)
        assert jaxmeta("adapt", run, "--shots", str(tmp_path / "shots.npz"), "--out", str(tmp_path / "new")) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


SYNTHETIC = {"task.source": "synthetic_digits", "task.path": ""}
REFUSED = [
    ({"task.kind": "translation"}, '"translation" is about text, and `task.source` "npz" has recordings'),
    ({"task.kind": "recognition", "task.source": "cldr"}, '"recognition" is about recordings, and `task.source`'),
    ({"task.kind": "recognition", "evaluate.methods": "ridge"}, "no method 'ridge' for recognition"),
    ({"evaluate.methods": ("tfidf", "ridge")}, "no method 'tfidf' for classification of recordings"),
    ({"evaluate.methods": ("ridge", "ridge_no_cipher")}, "no method 'ridge_no_cipher'"),
    ({"model.kind": "mlp"}, '`model.kind` "mlp" reads numbers, not recordings'),
    ({"model.window": 4}, "`model.window` must be odd for recordings, got 4"),
    ({"model.stride": 6}, "`model.stride` must be a power of two for recordings, got 6"),
    ({"task.rate": 16000}, "digits has 8000 samples in a second of its recordings, and `task.rate` is 16000; set it"),
    ({**SYNTHETIC, "task.rate": 1000}, "`task.rate` is 1000"),
    ({"task.path": ""}, "`task.path` is empty; name an npz file"),
    ({"task.path": "none.npz"}, "There is no file at none.npz"),
    ({"task.test-languages": ("ann",)}, "test languages ann are not in the data"),
    ({"task.test-languages": "each", "task.dev-languages": 2}, "3 speakers are too few"),
    ({"task.test-languages": "each", "task.dev-languages": ("voice001",)}, "`task.dev_languages` must be a number"),
    *(({"task.test-languages": "each", key: ("voice001",)}, f"`{key.replace('-', '_')}` names voice001, and where")
      for key in ("task.train-languages", "task.left-out-languages", "evaluate.leave-out")),
    ({"task.test-languages": "each", "evaluate.leave-out": "each"}, "`evaluate.leave_out` names each, and where"),
    ({"task.test-languages": "each", "evaluate.guard-methods": "ridge"}, "`evaluate.guard_methods` must be empty"),
    ({**SYNTHETIC, "task.test-languages": "each"}, "`task.speakers` must say how many voices"),
    ({"task.source": "cldr", "task.path": "", "task.test-languages": "each"}, '`task.test_languages` "each" is for'),
    ({"task.source": "cldr", "task.path": "", "train.augment": True}, "`train.augment` is about recordings"),
    ({"train.voices": 2}, "`train.voices`"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "says"), REFUSED, ids=[says[:40] for _, says in REFUSED])
def test_what_recordings_cannot_be_is_one_sentence(changes, says, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("JAXMETA_DATA", raising=False)
    words = {**RECORDED, "task.test-languages": 1, "evaluate.methods": ("zero_shot", "ridge")}
    assert jaxmeta(*train(str(tmp_path / "new"), words | changes)) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxmeta: ")
    assert error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "new").exists()


def test_a_file_of_recordings_is_looked_at(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert jaxmeta("data", "check", "digits.npz") == 0
    assert "digits: 120 rows, 3 languages, labels 0, 1" in capsys.readouterr().out
    assert jaxmeta("data", "show", "digits.npz", "--rows", "2") == 0
    assert f"{VOICES.samples[0] / 8000:.2f}" in capsys.readouterr().out


def test_a_plan_says_that_turns_are_several_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    words = [word for word in train("", CLASSES) if word not in ("train", "--out", "")]
    assert jaxmeta("plan", *words) == 2
    assert '"each" makes several runs' in capsys.readouterr().err


def test_synthetic_voices_are_as_many_as_are_needed():
    changes = {"task.source": "synthetic_digits", "task.test_languages": 2, "task.dev_languages": 1, "task.shots": 1,
               "task.queries": 1, "evaluate.shot_curve": (), "task.seconds": 0.2}  # fmt: skip
    tasks = build(load(changes=changes)).tasks
    assert [len(tasks.languages(split)) for split in data.SPLITS] == [16, 1, 2]
    batch = next(tasks.batches(0, 0, augmented=False)(0))
    assert batch.query["mask"].all()
    assert batch.support["inputs"]["audio"].shape == (8, 10, 1600)
    turns = turns_of(load(changes=changes | {"task.test_languages": "each", "task.speakers": 4}))
    assert [config.task.dev_languages for config in turns.values()][-1] == ("voice000",)


def test_what_follows_from_recordings_is_written_out():
    for kind in ("classification", "recognition", "retrieval"):
        config = settled(load(changes={"task.kind": kind, "task.source": "npz"}))
        row, evaluate = kind_of(config), config.evaluate
        assert evaluate.metric in row.metrics
        assert evaluate.main in evaluate.methods
        assert set(evaluate.curve_methods) <= set(evaluate.methods)


def test_disturbance_follows_from_the_step_and_is_off_by_default():
    learner: Any = MetaLearner(lambda *_: None, lambda state, episodes: (state, episodes))  # pyright: ignore
    assert augmenting(learner, load(changes={"task.source": "npz"})) is learner
    disturbed = jax.jit(augmenting(learner, load(changes={"task.source": "npz", "train.augment": True})).update)
    batch = {"inputs": VOICES.clips(np.arange(4), 3000), "mask": np.ones((2, 2), bool)}
    batch["inputs"] = {name: leaf.reshape(2, 2, *leaf.shape[1:]) for name, leaf in batch["inputs"].items()}
    key = jax.random.key_data(jax.random.key(0))

    def frames(step):
        _, episodes = disturbed(LearnerState(jnp.int32(step), key, {}, (), ()), Episode(batch, batch))
        return [side["inputs"]["mel"] for side in episodes]

    support, query = frames(3)
    assert support.shape[:2] == (2, 2)
    np.testing.assert_array_equal(support, frames(3)[0])
    assert np.abs(support - frames(4)[0]).max() > 0.1
    assert np.abs(support - query).max() > 0.1


def test_disturbance_is_refused_where_there_is_no_recording():
    learner: Any = None
    with pytest.raises(InputError, match="about recordings"):
        augmenting(learner, load(changes={"train.augment": True}))
