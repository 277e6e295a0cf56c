"""Recordings beside their transcripts: batches of audio and tokens, what is right among them, and a run of them."""

import contextlib
import dataclasses
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import evaluation, jaxmeta, metrics, train

import jaxmeta as jm
from jaxmeta import data, models
from jaxmeta.config import build, commands, load
from jaxmeta.config.answering import nearest
from jaxmeta.config.classical import CLASSICAL
from jaxmeta.config.speech_tasks import SpeechTasks
from jaxmeta.core.batches import pad_batch, stack_episodes
from jaxmeta.core.checks import InputError
from jaxmeta.objectives import retrieval
from jaxmeta.run.experiment import restore

VOICES = data.synthetic_digits(4, recordings=4)
SPLIT = data.LanguageSplit(("voice000", "voice001"), ("voice002",), ("voice003",))
OPTIONS: dict[str, Any] = {"shots": 1, "queries": 1, "length": 6000}
CHANGES = {
    "task.kind": "retrieval", "task.source": "synthetic_digits", "task.path": "", "task.shots": 2, "task.queries": 1,
    "task.tasks-per-step": 2, "task.test-languages": 1, "task.dev-languages": 1, "task.speakers": 4,
    "task.seconds": 1.5, "task.repeats": 2, "tokenizer.length": 9, "train.steps": 2, "train.warm-start": 0,
    "train.augment": True, "model.window": 3, "model.stride": 8, "model.segments": 2,
    "evaluate.methods": ("template_cascade", "ridge_alignment"),
}  # fmt: skip


def episodes(length=9, **options):
    return data.TranscriptEpisodes(VOICES, SPLIT, data.ByteTokenizer(length), **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def spoken():
    return episodes(repeats=4.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a baseline and a meta-learner."""
    folder = tmp_path_factory.mktemp("transcripts")
    words = train(str(folder / "run"), CHANGES)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(commands, "write_report", lambda run: run)
        assert jaxmeta(*words) == 0
    return folder / "run"


# Batches


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_batch_holds_recordings_and_their_transcripts(spoken, split):
    twin = data.StringEpisodes(VOICES, SPLIT, **OPTIONS, repeats=4.0)
    for batch, strings in zip(spoken(3, split=split), twin(3, split=split), strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch["inputs"]["left"], strings["inputs"])
        texts = [" ".join(str(word - 1) for word in row if word) for row in strings["targets"].tolist()]
        assert spoken.tokenizer.decode(batch["inputs"]["right"]) == texts
        same = batch["group"][:, None] == batch["group"][None]
        np.testing.assert_array_equal(same, np.array(texts)[:, None] == np.array(texts)[None])
        assert batch.keys() == {"inputs", "group", "mask"}, "nothing says in another way what was said"
    assert same.sum() > len(texts), "some string is there twice, or the assertion above says little"


def test_groups_are_the_same_for_all_speakers(spoken):
    found: dict[str, set[int]] = {}
    for speaker, split in (("voice002", "dev"), ("voice003", "test")):
        query = spoken.evaluation_episode(speaker, shots=1, draw=0, split=split).query
        for text, group in zip(spoken.tokenizer.decode(query["inputs"]["right"]), query["group"].tolist(), strict=True):
            found.setdefault(text, set()).add(group)
    assert all(len(groups) == 1 for groups in found.values())
    assert len(set.union(*found.values())) == len(found)


def test_pretended_speakers_change_what_is_heard_and_not_what_is_read(spoken):
    changed = episodes(repeats=4.0, voices=1.0)(3)
    for batch, plain in zip(changed, spoken(3), strict=True):
        np.testing.assert_array_equal(batch["inputs"]["right"], plain["inputs"]["right"])
        assert np.any(batch["inputs"]["left"]["audio"] != plain["inputs"]["left"]["audio"])


def test_the_loader_brings_both_sides_in_one_batch(spoken):
    batch = next(data.batches(spoken, split="train", tasks_per_step=3, start=2, stop=3))
    assert batch.support["inputs"]["left"]["audio"].shape == (3, 13, 6000)
    assert batch.support["inputs"]["right"].shape == (3, 13, 9)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda leaf: leaf[1], batch), spoken(7))
    padded = pad_batch(spoken(7).support, 16)
    assert padded["mask"].sum() == 13
    np.testing.assert_array_equal(
        padded["inputs"]["left"]["audio"][13:], np.tile(spoken(7).support["inputs"]["left"]["audio"][:1], (3, 1))
    )


def test_words_are_called_as_the_labels_are():
    targets = np.array([[3, 1, 2], [2, 0, 0]])
    assert data.transcripts(targets, ("one", "two", "three")) == ["three one two", "two"]
    with pytest.raises(InputError, match=r"takes up to 9 tokens, and `tokenizer.length` is 8; set it to 9 or more"):
        episodes(length=8)
    with pytest.raises(InputError, match=r"has 10 labels, of which strings of 9 are more than 2\*\*31"):
        episodes(length=19, labels=(1, 9))
    many = dataclasses.replace(VOICES, labels=(*VOICES.labels, *map(str, range(10, 8191))))
    with pytest.raises(InputError, match="has 8191 labels, of which strings of 5 are more"):  # 2**65 wraps to 0
        data.TranscriptEpisodes(many, SPLIT, data.ByteTokenizer(24), **OPTIONS)


def test_a_group_tells_the_labels_of_its_transcript(spoken):
    strings = data.StringEpisodes(VOICES, SPLIT, **OPTIONS, repeats=4.0)
    np.testing.assert_array_equal(spoken.targets(spoken(3).query["group"]), strings(3).query["targets"])


# What is learned


def test_both_sides_are_learned_and_padding_changes_nothing(spoken):
    model = models.paired(
        models.speech_classifier(4, width=4, layers=0, heads=1, strides=(4,), kernel=3, max_places=20),
        models.transformer(vocab_size=257, outputs=4, width=4, embedding_width=2, layers=1, heads=1, max_length=9),
    )
    algorithm = jm.ridge_alignment(model, retrieval())
    estimator = jm.backprop(algorithm, num_steps=0)
    tasks = stack_episodes([jm.Episode(*(pad_batch(batch, 16) for batch in spoken(number))) for number in (1, 2)])
    params = jax.jit(algorithm.init)(jax.random.key(0), spoken(1))
    estimate = jax.jit(lambda params, batch: estimator.estimate(jax.random.key(1), params, (), batch)[::2])
    gradient, found = estimate(params, tasks)
    for side in ("left", "right"):
        leaves = list(map(np.asarray, jax.tree.leaves(gradient["params"][side])))
        assert all(np.isfinite(leaf).all() for leaf in leaves)
        assert any(leaf.any() for leaf in leaves)

    def spoiled(batch):
        return {
            "inputs": jax.tree.map(
                lambda leaf: np.where(row_of(leaf, batch["mask"]), leaf, leaf[:, ::-1]), batch["inputs"]
            ),
            "group": np.where(batch["mask"], batch["group"], batch["group"][:, ::-1]),
            "mask": batch["mask"],
        }

    again, alike = estimate(params, jm.Episode(*map(spoiled, tasks)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), gradient, again)
    assert float(found["loss"]) == pytest.approx(float(alike["loss"]), rel=1e-5)


def row_of(leaf, mask):
    return mask.reshape(*mask.shape, *[1] * (leaf.ndim - mask.ndim))


def test_recall_is_exact_on_a_planted_case(spoken):
    """Every transcript has a vector of its own, which its recordings have too; two are then taken for each other."""
    query = spoken.evaluation_episode("voice003", shots=1, draw=0, split="test").query
    groups = np.unique(query["group"])
    assert len(groups) < len(query["group"]), "a string is said twice, and both are right"
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(len(groups), len(groups))))[0].astype(np.float32)
    place = np.searchsorted(groups, query["group"])
    outputs = {"left": vectors[place], "right": vectors[place], "scale": np.ones(len(place), np.float32)}
    objective = retrieval()

    def scores(outputs):
        return objective.scores(jax.device_get(objective.counts(outputs, query)))

    exact = scores(outputs)
    assert all(exact[name] == 1 for name in ("recall_at_1", "recall_at_10", "mrr"))
    exchanged = place.copy()
    exchanged[place == 0], exchanged[place == 1] = 1, 0
    wrong = np.mean(place < 2)
    found = scores({**outputs, "left": vectors[exchanged]})
    for direction in ("left_to_right", "right_to_left"):
        assert found[f"{direction}_recall_at_1"] == pytest.approx(1 - wrong)


# A run


@pytest.mark.slow
def test_scores_are_those_of_a_loop_over_recordings_and_texts(run):
    built = build(load(run / "config.toml"))
    found = evaluation(run)
    assert (found["metric"], built.tasks.unit) == ("recall_at_1", "speaker")
    (method,) = built.experiment.methods
    params = method.complete(restore(built.experiment, run)[0, "ridge_alignment"])
    algorithm = method.build(0.01)
    (speaker,) = built.tasks.languages("test")
    support, query = built.tasks.episode(speaker, shots=2, draw=0, split="test")

    @jax.jit
    def answered(params, support, inputs):
        return algorithm.predict(params, algorithm.begin(jax.random.key(0), params, support), inputs)

    with jax.numpy_dtype_promotion("standard"):
        outputs = jax.device_get(answered(params, support, query["inputs"]))
    assert found["methods"]["ridge_alignment"]["per_language"][speaker] == pytest.approx(
        100 * recalled(outputs["left"] @ outputs["right"].T, query["group"]), abs=1e-3
    )
    assert {line["phase"] for line in metrics(run) if "phase" in line} == {"ridge_alignment"}


def recalled(closeness, group):
    """The share of sides, in both directions, of which one that says the same is the nearest."""
    hits = []
    for way in (closeness, closeness.T):
        for row, close in enumerate(way):
            own = group == group[row]
            hits.append(close[own].max() > close[~own].max())
    return np.mean(hits)


@pytest.mark.slow
def test_methods_of_text_are_those_of_recordings_beside_it():
    """Their outer steps are traced: what is learned has both sides, and comes back as it went in."""
    named = {
        "evaluate.methods": ("joint_finetune", "reptile", "maml"),
        "train.augment": False,
        "evaluate.steps": (0, 1),
    }
    words = {key.replace("-", "_"): value for key, value in (CHANGES | named).items()}
    built = build(load(changes=words | {"model.layers": 1, "model.width": 4, "model.heads": 1, "inner.steps": 1}))
    batch = next(built.tasks.batches(0, 0, augmented=False)(0))
    phases = {phase.name: phase.learner for phase in built.experiment.phases}
    assert {"joint", "reptile", "maml"} <= phases.keys()
    with jax.numpy_dtype_promotion("standard"):
        for learner in phases.values():
            state = jax.eval_shape(learner.init, jax.random.key(0), batch)
            assert {"left", "right", "log_scale"} <= state.meta_params["params"].keys()
            again, found = jax.eval_shape(learner.update, state, batch)
            assert jax.tree.all(jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, again))
            assert found["loss"].shape == ()


@pytest.mark.slow
def test_the_cascade_ranks_by_the_edits_from_what_it_hears(run):
    from rapidfuzz.distance import Levenshtein

    built = build(load(run / "config.toml"))
    tasks = built.tasks
    assert isinstance(tasks, SpeechTasks)
    # Names with a space within are whole labels too.
    tasks.recordings = tasks.judged.corpus = dataclasses.replace(
        tasks.recordings, labels=tuple(f"turn {name}" for name in tasks.recordings.labels)
    )
    (speaker,) = tasks.languages("test")
    strings = data.StringEpisodes(tasks.recordings, tasks.split, shots=2, queries=1, length=12000, repeats=2.0)
    problem = {"shots": 2, "draw": 0, "split": "test"}
    said = strings.evaluation_episode(speaker, **problem).query["targets"]
    query = tasks.episode(speaker, **problem).query
    cascade = CLASSICAL["template_cascade"](tasks)
    # Two shots of each digit, and strings of other recordings of the same synthetic voice.
    found = retrieval().scores(cascade.counts(5.0, speaker, 2, 0, "test"))
    assert found["recall_at_1"] > 0.5
    # Of a cascade that hears all, transcripts are as close as they share words in their order.
    words = [[word for word in row if word] for row in said.tolist()]
    close = np.array([[1 - Levenshtein.distance(a, b) / max(len(a), len(b)) for b in words] for a in words])
    counts = jax.device_get(retrieval_counts(close, query))
    assert retrieval().scores(counts)["recall_at_1"] == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxmeta.config.classical_speech.connected_words", lambda *_, price: words[::-1])
        wrong = CLASSICAL["template_cascade"](tasks).counts(5.0, speaker, 2, 0, "test")
    jax.tree.map(np.testing.assert_allclose, wrong, jax.device_get(retrieval_counts(close[::-1], query)))


def retrieval_counts(close, query):
    return jm.objectives.similarity_counts(
        jnp.asarray(close, jnp.float32), {name: query[name] for name in ("mask", "group")}
    )


@pytest.mark.slow
def test_texts_are_ranked_for_the_recordings_of_ones_own_voice(run, tmp_path, capsys):
    clips = VOICES.take(VOICES.rows("voice001", "train"))
    audio = np.concatenate([VOICES.audio[s : s + n] for s, n in zip(clips.start, clips.samples, strict=True)])
    own = {"audio": audio, "offset": np.cumsum([0, *clips.samples]), "rate": np.int64(VOICES.rate)}
    np.savez(tmp_path / "shots.npz", digit=clips.label, **own)
    texts = ["3 1 4", "0", "7 7", "3 1 4"]
    np.savez(tmp_path / "asked.npz", transcripts=np.array(texts), **own)
    mine, asked, exported = (str(tmp_path / name) for name in ("mine", "asked.npz", "exported"))
    assert jaxmeta("adapt", str(run), "--shots", str(tmp_path / "shots.npz"), "--out", mine) == 0
    assert "Adapted ridge_alignment to" in capsys.readouterr().err
    assert jaxmeta("predict", mine, "--input", asked) == 0
    shown = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [clip for _, _, clip in shown] == [f"clip {number}" for number in range(len(clips))]
    assert {text for text, _, _ in shown} <= set(texts)
    assert jaxmeta("predict", mine, "--input", asked, "--answers", "3") == 0
    ranked = [line.split("\t")[0].split(" | ") for line in capsys.readouterr().out.splitlines()]
    for (best, cosine, _), row in zip(shown, ranked, strict=True):
        assert row[0] == f"{best}={cosine}"
        assert {text.split("=")[0] for text in row} == set(texts)
        assert sorted((float(text.split("=")[1]) for text in row), reverse=True) == [
            float(t.split("=")[1]) for t in row
        ]
    assert jaxmeta("export", mine, "--out", exported, "--platforms", "cpu") == 0
    capsys.readouterr()
    assert jaxmeta("predict", exported, "--input", asked) == 0
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == shown
    for arrays, words, says in (
        (own, (), "has no array 'transcripts'; it must hold transcripts"),
        ({**own, "transcripts": np.array([3])}, (), "`transcripts` is no row of strings"),
        ({**own, "transcripts": np.array(["1", " "])}, (), "text 1 of `transcripts` is empty"),
        ({**own, "transcripts": np.array(["1", "1 2 3 4 5 6"])}, (), "'1 2 3 4 5 6' of `transcripts` takes 11 tokens"),
        ({**own, "transcripts": np.array(["1"])}, ("--all",), "this model answers in words"),
    ):
        np.savez(asked, **arrays)
        assert jaxmeta("predict", mine, "--input", asked, *words) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_the_nearest_texts_come_first_and_each_once():
    cosines = np.array([[0.1, 0.5, 0.1], [0.3, -0.2, 0.3]])
    assert nearest(cosines, ["a", "b", "a"], 1) == ["b\t0.5000", "a\t0.3000"]
    assert nearest(cosines, ["a", "b", "a"], 3) == ["b=0.5000 | a=0.1000", "a=0.3000 | b=-0.2000"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tokenizer.kind": "sentencepiece"}, 'leave `tokenizer.kind` at "bytes" for retrieval of recordings'),
        ({"tokenizer.length": 8}, "`tokenizer.length` is 8; set it to 9 or more"),
        ({"model.kind": "ngrams"}, '`model.kind` "ngrams" reads texts as wholes'),
        ({"evaluate.methods": ("zero_shot", "cl_esa")}, "no method 'cl_esa' for retrieval of transcripts"),
        ({"evaluate.metric": "accuracy"}, "must be one of recall_at_1, recall_at_10, mrr"),
    ],
)
def test_what_retrieval_of_recordings_cannot_be_is_one_sentence(changes, says, tmp_path, capsys):
    assert jaxmeta(*train(str(tmp_path / "new"), CHANGES | changes)) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()
