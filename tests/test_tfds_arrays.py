"""Recordings and images as sets of tensorflow-datasets: what npz files give, and sets of others; several sets."""

import dataclasses
import json
import subprocess
import sys
import tomllib

import jax
import numpy as np
import pytest
from tiny_run import jaxmeta, toy_lines, train, write_lines

from jaxmeta import data
from jaxmeta.config import build, load
from jaxmeta.config.image_tasks import ImageTasks
from jaxmeta.config.speech_tasks import SpeechTasks
from jaxmeta.config.tasks import TextTasks
from jaxmeta.config.turns import turns_of
from jaxmeta.core.checks import InputError
from jaxmeta.data.tfds_sets import Contents, library, write_set

pytest.importorskip("array_record")
SPEAKERS, ALPHABETS = ("zoë", "ann", "bob"), ("Zz", "Aa", "Bb")


def spoken(**changes):
    """Recordings of three speakers, whose splits come in turn in the file."""
    rng = np.random.default_rng(0)
    cells = [(s, d, k) for s in range(3) for d in (7, 2) for k in range(8)]
    speaker, digit, index = np.array([cells[place] for place in rng.permutation(len(cells))], np.uint8).T
    offset = np.concatenate([[0], np.cumsum(rng.integers(50, 68, len(cells)))])
    audio = rng.integers(-(2**15), 2**15, offset[-1], np.int16)
    audio[:2] = -(2**15), 2**15 - 1
    return {
        "audio": audio, "offset": offset, "digit": digit, "speaker": speaker, "index": index,
        "speaker_names": np.array(SPEAKERS), "split": np.where(index < 2, 2, 0), "rate": np.int32(8000),
    } | changes  # fmt: skip


def drawn(**changes):
    """Drawings of characters, in no order."""
    rng = np.random.default_rng(1)
    character = rng.permutation(np.repeat(np.arange(9), 4))
    image = rng.integers(0, 256, (len(character), 16, 18), np.uint8)
    names = np.array(ALPHABETS)
    return {"image": image, "character": character, "alphabet": character // 3, "alphabet_names": names} | changes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files, and the sets built of them."""
    path = tmp_path_factory.mktemp("arrays")
    for name, arrays in (("digits", spoken()), ("marked", spoken(split=spoken()["index"] % 3)), ("letters", drawn())):
        (path / name).mkdir()
        np.savez_compressed(path / name / f"{name}.npz", **arrays)
        (path / name / "README.md").write_text("Licence: CC0-1.0", encoding="utf-8")
        made = data.build_tfds(name, path, path / "to")
        assert made == path / "to" / name / "1.0.0"
        assert (made / "README.md").read_text("utf-8") == "Licence: CC0-1.0"
    return path


def same(one, other):
    """Asserts that two sets of rows are equal in every field."""
    assert type(one) is type(other)
    for field in dataclasses.fields(one):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
        assert type(ours) is type(theirs)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype, field.name


def same_tasks(*tasks):
    """Asserts that tasks pose the same problems and train on the same episodes."""
    ours, theirs = tasks
    assert ours.split == theirs.split
    for split in ("dev", "test"):
        for name in ours.languages(split):
            problems = (each.episode(name, shots=1, draw=1, split=split) for each in tasks)
            jax.tree.map(np.testing.assert_array_equal, *problems)
    jax.tree.map(np.testing.assert_array_equal, *(next(each.batches(3, 0, augmented=False)(0)) for each in tasks))


# --- What was built.


@pytest.mark.parametrize("name", ["digits", "marked"])
@pytest.mark.parametrize("dev", [0, 1, 4])
def test_recordings_are_those_of_the_file(folder, name, dev):
    file = data.read_recordings(folder / name / f"{name}.npz", dev=dev)
    same(data.read_tfds(folder / "to" / name, dev=dev), file)
    same(data.read_tfds(name, data_dir=folder / "to", schema="recordings", dev=dev), file)
    assert ("dev" in file.split) == (name == "marked" or dev > 0)


def test_images_are_those_of_the_file(folder):
    same(data.read_tfds(folder / "to" / "letters"), data.read_images(folder / "letters" / "letters.npz"))


@pytest.mark.parametrize("name", ["spoken_digits", "omniglot"])
def test_the_real_sets_are_those_of_their_files(name, data_dir, tmp_path):
    path = data_dir / name / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    made = data.build_tfds(name, data_dir, tmp_path)
    same(data.read_tfds(made), data.read_images(path) if name == "omniglot" else data.read_recordings(path))


def test_others_read_what_was_built(folder):
    import tensorflow_datasets as tfds

    heard = tfds.data_source("digits", data_dir=folder / "to", split="test")
    assert len(heard) == 12
    assert (heard[0]["audio"].dtype, heard[0]["rate"]) == (np.int16, 8000)
    builder = tfds.builder_from_directory(folder / "to" / "digits" / "1.0.0")
    assert builder.info.features["label"].names == ["2", "7"]
    assert list(builder.info.splits) == ["train", "test"], "recordings are set aside as dev when they are read"
    seen = tfds.data_source("letters", data_dir=folder / "to", split="train")[0]
    np.testing.assert_array_equal(seen["image"], drawn()["image"][0])
    assert seen["alphabet"].decode() == ALPHABETS[drawn()["alphabet"][0]]


def test_no_tensorflow(folder, tmp_path):
    code = (
        "import sys\n"
        "from jaxmeta import data\n"
        f"for name in ('digits', 'letters'):\n    data.read_tfds(data.build_tfds(name, {str(folder)!r}, "
        f"{str(tmp_path)!r}))\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("digits", spoken(digit=np.full(48, 3)), "every clip says 3; add clips of at least one other label"),
        ("digits", spoken(offset=spoken()["offset"] + 1), "`offset` runs from 1 to"),
        ("digits", spoken(audio=spoken()["audio"] / 2.0), "`audio` is float64 of 1 axes"),
        ("digits", spoken(speaker_names=np.array(["a", "", "b"])), "store the name of each speaker"),
        ("digits", {"audio": np.zeros(3, np.int16)}, "has no array 'offset', 'digit', 'speaker'"),
        ("letters", drawn(character=np.arange(36) // 3), "number the characters of all alphabets one after another"),
        ("letters", drawn(alphabet_names=np.array(["a", " ", "b"])), "store the name of each alphabet"),
        ("letters", drawn(image=np.zeros((36, 9), np.uint8)), "`image` is uint8 of 2 axes"),
        ("letters", b"no archive", "is not an npz file that numpy can read"),
        ("Letters", drawn(), "cannot be called 'Letters'; use small letters"),
    ],
)
def test_what_is_malformed_leaves_nothing_behind(name, arrays, message, tmp_path, capsys):
    if isinstance(arrays, bytes):
        (tmp_path / f"{name}.npz").write_bytes(arrays)
    else:
        np.savez(tmp_path / f"{name}.npz", **arrays)
    assert jaxmeta("data", "build", name, "--from", str(tmp_path), "--out", str(tmp_path / "sets")) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("jaxmeta: ")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == [f"{name}.npz"]


# --- In configs.

HEARD = {
    "task.source": "npz", "task.seconds": 0.01, "task.shots": 1, "task.queries": 1,
    "task.tasks_per_step": 2, "task.test_languages": ["bob"], "task.dev_languages": ["ann"],
}  # fmt: skip
SEEN = {
    "task.source": "omniglot", "task.ways": 2, "task.shots": 1, "task.queries": 2, "task.tasks_per_step": 2,
    "task.test_languages": ["Bb"], "task.dev_languages": ["Aa"], "model.kind": "conv4", "model.width": 8,
    "train.warm_start": 0,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["classification", "recognition"])
def test_recordings_of_a_set_are_named_in_a_config(folder, kind):
    paths = (folder / "digits" / "digits.npz", folder / "to" / "digits")
    configs = [load(changes=HEARD | {"task.kind": kind, "task.path": str(path)}) for path in paths]
    same_tasks(*map(SpeechTasks, configs))
    turns = [turns_of(load(changes=HEARD | {"task.test_languages": "each", "task.dev_languages": 1,
                                            "task.path": str(path)})) for path in paths]  # fmt: skip
    assert list(turns[0]) == list(turns[1]) == sorted(SPEAKERS)


def test_images_of_a_set_are_named_in_a_config(folder, monkeypatch):
    monkeypatch.setenv("JAXMETA_DATA", str(folder))  # where relative paths are looked up too
    same_tasks(
        *(ImageTasks(load(changes=SEEN | {"task.path": path})) for path in ("letters/letters.npz", "to/letters"))
    )


@pytest.mark.parametrize(("name", "settings"), [("digits", HEARD), ("letters", SEEN)])
def test_the_command_line_builds_a_set_and_says_how_a_config_reads_it(folder, name, settings, tmp_path, capsys):
    assert jaxmeta("data", "build", name, "--from", str(folder), "--out", str(tmp_path)) == 0
    head, _, lines = capsys.readouterr().out.partition("\n\n")
    made = tmp_path / name / "1.0.0"
    assert head == f"Built {made}. In a config:"
    task = tomllib.loads(lines)["task"]
    wanted = {"kind": "classification", "source": "npz", "rate": 8000} if name == "digits" else {"source": "omniglot"}
    assert task == {**wanted, "path": str(made)}
    tasks = build(load(changes=settings | {f"task.{key}": value for key, value in task.items()})).tasks
    assert tasks.facts()["corpus"].startswith(f"{name}: ")
    assert jaxmeta("data", "build", name, "--from", str(folder), "--out", str(tmp_path)) == 2
    assert "is there already" in capsys.readouterr().err


def test_omniglot_is_a_set_where_its_file_is(tmp_path, capsys):
    np.savez(tmp_path / "omniglot.npz", **drawn())
    assert jaxmeta("data", "build", "omniglot", "--from", str(tmp_path), "--out", str(tmp_path / "sets")) == 0
    path = tomllib.loads(capsys.readouterr().out.partition("\n\n")[2])["task"]["path"]
    same(data.read_tfds(path), data.read_images(tmp_path / "omniglot.npz"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (HEARD | {"task.path": "no_set"}, "There is no TFDS set no_set, neither as a folder nor by this name"),
        (
            HEARD | {"task.path": "letters"},
            "has the features alphabet, character, image, row, and lacks audio, label, r",
        ),
        (
            HEARD | {"task.path": "digits", "task.columns": {"text": "label"}},
            "there is no column 'text' in classificat",
        ),
        (
            HEARD | {"task.path": "digits", "task.splits": {"all": "train"}},
            "has the splits train, test; say in `splits`",
        ),
        (HEARD | {"task.path": "digits", "task.columns": {"split": "row"}}, "has splits of its own; say in `splits`"),
        (HEARD | {"task.path": "digits", "task.language": "eng"}, "`task.language` is about a file"),
        (HEARD | {"task.path": "digits", "task.rate": 16000}, "digits has 8000 samples in a second"),
        (
            HEARD | {"task.path": "x.npz", "task.columns": {"audio": "a"}},
            "`task.columns` is about a file or a prepared",
        ),
        (HEARD | {"task.path": "x.npz", "task.splits": {"a": "test"}}, "`task.splits` is about the splits of a prepar"),
        (HEARD | {"task.path": ["digits", "marked"]}, "`task.path` must name one place"),
        (SEEN | {"task.path": "digits"}, "has the features audio, index, label, rate, row, speaker, and lacks alphabe"),
        (
            HEARD | {"task.source": "tfds", "task.path": "digits"},
            "and lacks language, text (it has all of recordings); say",
        ),
    ],
)
def test_what_a_config_cannot_read_is_one_sentence(folder, changes, says, monkeypatch):
    monkeypatch.setenv("JAXMETA_DATA", str(folder / "to"))
    with pytest.raises(InputError) as error:
        build(load(changes=changes))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


# --- Sets of others.


def foreign(path, features, examples, *, name="theirs"):
    """Writes a set with features of its own, all train."""
    return write_set(name, path, Contents(features, {"train": examples}, "Theirs."), path / "README.md")


def as_audio(made, **fields):
    """Makes the feature audio of a set what TFDS writes of its `Audio`, which is stored as a tensor of integers is."""
    described = json.loads((made / "features.json").read_text("utf-8"))
    feature = described["featuresDict"]["features"]["audio"]
    feature["audio"] = {**feature.pop("tensor"), "encoding": "NONE", "fileFormat": "wav", **fields}
    feature["pythonClassName"] = "tensorflow_datasets.core.features.audio_feature.Audio"
    (made / "features.json").write_text(json.dumps(described), encoding="utf-8")
    return made


def clips(count=12, **changes):
    for k in range(count):
        sound = np.arange(k * 100, k * 100 + 20 + k)
        row = {"audio": sound, "mood": ("glad", "sad")[k % 2], "who": f"s{k // 2 % 3}"}
        yield row | {key: value(k) for key, value in changes.items()}


NAMED = {"label": "mood", "speaker": "who"}


def heard(path, names, shape=(None,), dtype=np.int64, rows=None, **more):
    """Writes a set of recordings as others have it."""
    tfds = library()
    features = {
        "audio": tfds.features.Tensor(shape=shape, dtype=dtype), "mood": tfds.features.ClassLabel(names=names),
        "who": tfds.features.Text(), **more,
    }  # fmt: skip
    return foreign(path, features, rows or clips())


def test_audio_of_others_by_a_mapping(tmp_path):
    made = as_audio(heard(tmp_path, ["sad", "glad"]), sampleRate="500")
    found = data.read_tfds(made, columns=NAMED, dev=0)
    assert isinstance(found, data.Recordings)
    assert (found.labels, found.rate, found.languages()) == (("sad", "glad"), 500, ("s0", "s1", "s2"))
    assert found.audio.dtype == np.int16
    np.testing.assert_array_equal(found.clips(np.array([3]), 40)["audio"][0][:24], np.append(np.arange(300, 323), 0))
    assert found.label.tolist() == [1, 0] * 6
    parts = {"train[:50%]": "test", "train[50%:]": "train"}
    changes = {"task.source": "npz", "task.path": str(made), "task.rate": 500, "task.columns": NAMED,
               "task.splits": parts, "task.test_languages": ["s0"], "task.dev_languages": ["s1"]}  # fmt: skip
    with pytest.raises(InputError, match="s0 has 1 train recordings of sad, and 5 are set aside as dev"):
        SpeechTasks(load(changes=changes))
    found = data.read_tfds(made, columns=NAMED, splits=parts, dev=0)
    assert found.split.tolist() == ["test"] * 6 + ["train"] * 6
    with pytest.raises(InputError, match=r"theirs.* has the splits train; say in `splits`"):
        data.read_tfds(made, columns=NAMED, splits={"train[:x%]": "test"})


@pytest.mark.parametrize(
    ("audio", "changes", "columns", "says"),
    [
        ({}, {}, {"label": "mood"}, "lacks speaker; say in `columns` which feature is which column of rec"),
        ({"sampleRate": "0"}, {}, NAMED, "and lacks rate"),
        ({"dtype": np.float32}, {"audio": lambda k: np.ones(9, np.float32)}, NAMED, "audio is float32 of"),
        ({"shape": (None, 2)}, {"audio": lambda k: np.ones((9, 2), int)}, NAMED, "of the shape [9, 2]"),
        ({}, {"audio": lambda k: np.full(9, 2**15)}, NAMED, "1: the audio is int64 of the shape [9], and n"),
        ({}, {"audio": lambda k: np.ones(k % 4, int)}, NAMED, "of the shape [0], and not some samples of"),
        ({}, {"mood": lambda k: -1}, NAMED, "example 1: the label is empty; leave such examples out of it"),
        ({}, {"who": lambda k: ""}, NAMED, "example 1: the speaker is empty"),
        ({}, {"mood": lambda k: "sad"}, NAMED, "every clip says sad; add clips of at least one other label"),
        ({"lazyDecode": True}, {}, NAMED, "keeps wav files, which need TensorFlow"),
        ({"rate": np.int64}, {"rate": lambda k: 8 + k // 2}, NAMED, "recordings of 10 and 11 samples in a second"),
        ({"rate": np.int64}, {"rate": lambda k: 0}, NAMED, "recordings of 0 samples in a second; let it be one whole"),
    ],
)  # fmt: skip
def test_audio_of_others_that_cannot_be_read_is_one_sentence(tmp_path, audio, changes, columns, says):
    stored = {key: audio.pop(key) for key in ("shape", "dtype", "rate") if key in audio}
    made = as_audio(heard(tmp_path, ["glad", "sad"], rows=clips(**changes), **stored), **{"sampleRate": "500", **audio})
    with pytest.raises(InputError) as error:
        data.read_tfds(made, columns=columns, schema="recordings", dev=0)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


def letters(**changes):
    tfds = library()
    features = {
        "image": tfds.features.Tensor(shape=(None, None, 1), dtype=np.uint8, encoding="bytes"), "code": np.int64,
        "alphabet": tfds.features.ClassLabel(names=["Aa", "Bb"]),
    } | changes  # fmt: skip
    return features


def test_images_of_others_by_a_mapping(tmp_path):
    png = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16), np.uint8)
    rows = [{"code": k // 2, "alphabet": k // 4} for k in range(8)]
    features = letters(image=library().features.Image(shape=(16, 16, 1), encoding_format="png"))
    made = [
        foreign(tmp_path, features, [{**row, "image": png.fromarray(pixels[k])} for k, row in enumerate(rows)]),
        foreign(
            tmp_path, letters(), [{**row, "image": pixels[k][..., None]} for k, row in enumerate(rows)], name="its"
        ),
    ]
    for folder in made:
        found = data.read_tfds(folder, columns={"character": "code"})
        np.testing.assert_array_equal(found.image, pixels)
        assert found.character.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert found.alphabet.tolist() == ["Aa"] * 4 + ["Bb"] * 4


@pytest.mark.parametrize(
    ("changes", "row", "says"),
    [
        ({"image": (None, None, 3)}, {"image": np.zeros((9, 9, 3), np.uint8)}, "store one channel of uint8, 255 where"),
        (
            {},
            {"image": np.zeros((8, 9, 1), np.uint8)},
            "example 2: the image is 8 x 9 pixels where the first one is 9 x",
        ),
        ({"code": np.float64}, {"code": 0.5}, "example 1: the character is float64; store an integer"),
        ({}, {"alphabet": 1}, "character 0 is in Aa and in Bb; number the characters of all alphabets"),
        ({}, {"alphabet": -1}, "example 2: the alphabet is empty"),
    ],
)
def test_images_of_others_that_cannot_be_read_are_one_sentence(tmp_path, changes, row, says):
    tfds = library()
    if "image" in changes:
        changes = {"image": tfds.features.Tensor(shape=changes["image"], dtype=np.uint8, encoding="bytes")}
    first = {"image": np.zeros((9, 9, 1), np.uint8), "code": 0, "alphabet": 0}
    rows = [first | (row if changes else {}), first | row]
    made = foreign(tmp_path, letters(**changes), rows)
    with pytest.raises(InputError) as error:
        data.read_tfds(made, columns={"character": "code"}, schema="images")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


# --- Several sets of text.


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Three files of labelled text, and the sets built of them: one is parallel, one has other labels."""
    path = tmp_path_factory.mktemp("several")
    header, *rows = toy_lines()
    parts = {"one": rows[: len(rows) // 2], "two": rows[len(rows) // 2 :], "more": ["gg\ttrain\tugly\tx", *rows[:9]]}
    for name, lines in parts.items():
        write_lines(path / f"{name}.tsv", [header, *lines])
        data.build_tfds(name, path, path / "to", parallel=name == "two")
    return path


@pytest.mark.parametrize("names", [("one", "more"), ("more", "one"), ("one",)])
def test_several_sets_are_read_as_several_files_are(several, names):
    files = data.read_tsv([several / f"{name}.tsv" for name in names], name="+".join(names))
    same(data.read_tfds([several / "to" / name for name in names]), files)
    changes = {"task.test_languages": ["aa"], "task.dev_languages": ["bb"], "task.shots": 1, "task.queries": 1}
    paths = {"tsv": [str(several / f"{name}.tsv") for name in names],
             "tfds": [str(several / "to" / name) for name in names]}  # fmt: skip
    same_tasks(*(TextTasks(load(changes=changes | {"task.source": source, "task.path": path}))
                 for source, path in paths.items()))  # fmt: skip


def test_sentences_of_several_sets_are_kept_apart(several):
    one, two = (data.read_tfds(several / "to" / name) for name in ("one", "two"))
    both = data.read_tfds([several / "to" / "one", several / "to" / "two"])
    np.testing.assert_array_equal(both.sentence[: len(one)], one.sentence)
    np.testing.assert_array_equal(both.sentence[len(one) :], two.sentence + one.sentence.max() + 1)
    assert len(np.unique(two.sentence)) == len(two) // len(two.languages()), "parallel"
    assert both.labels == one.labels


def test_labels_of_several_sets_are_those_of_all(tmp_path):
    tfds = library()
    for name, order in (("a", ["good", "bad"]), ("b", ["good", "bad"]), ("c", ["bad", "good"])):
        features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=order)}
        foreign(tmp_path, features, ({"text": f"{name} {k}", "label": k % 2} for k in range(4)), name=name)
    read = {names: data.read_tfds(list(names), data_dir=tmp_path, language="eng") for names in ("ab", "ac")}
    assert (read["ab"].labels, read["ac"].labels) == (("good", "bad"), ("bad", "good"))
    assert read["ab"].label.tolist() == [0, 1] * 4
    assert read["ac"].label.tolist() == [1, 0] * 2 + [0, 1] * 2


def test_several_sets_of_another_kind_are_refused(folder, several, monkeypatch, capsys):
    with pytest.raises(InputError, match="digits is a set of recordings, and several are read as one where all are"):
        data.read_tfds([several / "to" / "one", folder / "to" / "digits"])
    changes = {"task.kind": "generation", "task.source": "tfds", "task.path": ("to/one", "to/two")}
    monkeypatch.chdir(several)
    assert jaxmeta(*train("run", changes)) == 2
    assert "`task.path` must name one place, got ['to/one', 'to/two']" in capsys.readouterr().err
