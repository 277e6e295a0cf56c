"""Recordings and what may be wrong with them; episodes and strings of speech."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from jaxmeta.core.checks import InputError
from jaxmeta.data import (
    AudioEpisodes,
    LanguageSplit,
    StringEpisodes,
    check_manifest,
    check_overlap,
    make_manifest,
    overlap,
    read_clips,
    read_recordings,
    split_languages,
    with_problems,
)
from jaxmeta.data.streams import stream
from jaxmeta.data.voices import other_voice

SPEAKERS = ("ann", "bob", "cat")


def columns(recordings=6, test=2):
    """Three speakers say three digits; every clip is a constant, all different, of 50 to 67 samples."""
    rng = np.random.default_rng(0)
    cells = [(s, d, k) for s in range(3) for d in (2, 5, 7) for k in range(recordings)]
    speaker, digit, index = np.array(cells, np.uint8).T
    lengths = rng.integers(50, 68, len(cells))
    return {
        "audio": np.repeat(np.arange(1, len(cells) + 1, dtype=np.int16) * 100, lengths),
        "offset": np.concatenate([[0], np.cumsum(lengths)]),
        "digit": digit,
        "speaker": speaker,
        "speaker_names": np.array(SPEAKERS),
        "index": index,
        "split": np.where(index < test, 2, 0).astype(np.uint8),
        "rate": np.array(1000, np.int32),
    }


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        arrays = {name: values for name, values in (columns() | changes).items() if values is not None}
        path = tmp_path / "spoken.npz"
        np.savez_compressed(path, **arrays)
        return path

    return write


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    path = tmp_path_factory.mktemp("spoken") / "spoken.npz"
    np.savez(path, **columns())
    return read_recordings(path, dev=1)


SPLIT = LanguageSplit(("ann", "bob"), (), ("cat",))


def test_reading_gives_the_columns_and_sets_dev_recordings_aside(write):
    found = read_recordings(write(), name="digits", dev=1)
    assert (found.name, found.labels, found.rate, len(found)) == ("digits", ("2", "5", "7"), 1000, 54)
    assert found.languages() == SPEAKERS
    assert np.bincount(found.label).tolist() == [18] * 3
    for split, numbers in (("test", [0, 1]), ("train", [2, 3, 4]), ("dev", [5])):
        rows = found.rows("bob", split)
        assert (columns()["index"][rows].reshape(3, -1) == numbers).all()
    clips = found.clips(np.array([4, 0]), 60)
    assert clips["audio"].dtype == np.int16
    for row, audio, samples in zip((4, 0), clips["audio"], clips["samples"], strict=True):
        assert samples == min(found.samples[row], 60)
        assert (audio[:samples] == (row + 1) * 100).all()
        assert not audio[samples:].any()
    assert found.count_cut(60) == (np.diff(columns()["offset"]) > 60).sum() > 0
    with pytest.raises(ValueError, match=r"`label` must have the shape \(54,\), one for each row, got \(53,\)"):
        dataclasses.replace(found, label=found.label[:-1])
    with pytest.raises(ValueError, match=r"`label` must lie in \[0, 3\), the number of `labels`"):
        dataclasses.replace(found, label=found.label + 1)
    with pytest.raises(ValueError, match="`length` must be positive, got 0"):
        found.clips(np.array([0]), 0)
    some = found.take(np.array([7, 4]))
    np.testing.assert_array_equal(some.clips(np.array([1]), 60)["audio"][0], clips["audio"][0])
    assert (some.language[0], some.label[0]) == (found.language[7], found.label[7])
    assert (read_recordings(write(), dev=0).split != "dev").all()
    kept = read_recordings(write(split=np.tile([2, 2, 1, 0, 0, 0], 9)), dev=2)
    assert np.unique(kept.split, return_counts=True)[1].tolist() == [9, 18, 27], "dev clips of the file stay"


def _cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def _flipped(path):
    raw = bytearray(path.read_bytes())
    for place in range(100, 130):
        raw[place] ^= 0xFF
    path.write_bytes(raw)


def _packed(path):
    """Says that it is packed in a way that nobody knows, as software may that knows more."""
    raw = bytearray(path.read_bytes())
    for mark, place in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        at = raw.index(mark) + place
        raw[at : at + 2] = (99).to_bytes(2, "little")
    path.write_bytes(raw)


def _single(path):
    with path.open("wb") as file:
        np.save(file, np.arange(3))


def _with(name, place, value):
    values = columns()[name].copy()
    values[place] = value
    return {name: values}


MALFORMED = {
    "an array missing": ({"digit": None}, "has no array 'digit'; it must hold audio, offset"),
    "two arrays missing": ({"rate": None, "split": None}, "has no array 'split', 'rate'"),
    "audio of floats": ({"audio": columns()["audio"] / 2.0}, "`audio` is float64 of 1 axes; store all clips"),
    "audio of two axes": ({"audio": np.ones((9, 9), np.int16)}, "`audio` is int16 of 2 axes"),
    "audio of 32 bits": ({"audio": columns()["audio"].astype(np.int32)}, "`audio` is int32"),
    "no clips": ({"offset": np.array([0]), "audio": np.zeros(0, np.int16)}, "has no clips; add recordings"),
    "no audio": ({"audio": np.zeros(0, np.int16)}, "has no clips"),
    "offsets of floats": ({"offset": columns()["offset"] / 1.0}, "`offset` is float64 of 1 axes; store one row"),
    "offsets beyond the audio": (_with("offset", -1, 10**6), r"`offset` runs from 0 to 1000000 and `audio` from 0 to"),
    "offsets that begin late": (_with("offset", 0, 7), "`offset` runs from 7 to"),
    "offsets that go back": (_with("offset", 3, 1), r"clip 2: `offset` goes from \d+ to 1; let it grow"),
    "an empty clip": (_with("offset", 1, 0), "clip 0: `offset` goes from 0 to 0; .* leave empty clips out"),
    "too few digits": ({"digit": columns()["digit"][:-1]}, r"`digit` has the shape \[53\] where `offset` has 54 clips"),
    "digits as text": ({"digit": columns()["digit"].astype(str)}, "`digit` is str.*; store an integer for each clip"),
    "one digit": ({"digit": np.full(54, 3)}, "every clip says 3; add clips of at least one other label"),
    "a speaker without a name": (_with("speaker", 9, 3), "clip 9: `speaker` is 3 where 3 `speaker_names` are"),
    "an unknown split": (_with("split", 5, 3), "clip 5: `split` is 3 where 3 splits are, 0 train, 1 dev and 2 test"),
    "names that are numbers": ({"speaker_names": np.arange(3)}, "`speaker_names` is no row of strings"),
    "two speakers of one name": ({"speaker_names": np.array(["a", "b", "a"])}, "two of `speaker_names` are the same"),
    "no rate": ({"rate": np.array(0)}, "`rate` is no positive whole number"),
    "a rate of a half": ({"rate": np.array(0.5)}, "`rate` is no positive whole number"),
    "objects": ({"digit": np.array([None] * 54, object)}, "is not an npz file that numpy can read; save the arrays"),
    "nothing left to train on": ({"index": np.zeros(54, int), "split": np.full(54, 0)}, None),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_one_sentence(write, name):
    changes, message = MALFORMED[name]
    path = write(**changes)
    dev = 6 if message is None else 1
    message = message or "ann has 6 train recordings of 2, and 6 are set aside as dev.* add some, or say yourself which"
    with pytest.raises(InputError, match=message) as error:
        read_recordings(path, dev=dev)
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    assert text.endswith(".")
    assert text.count(". ") == 0, "one sentence"


def test_clips_say_labels_by_name_or_by_number(write):
    said = np.array(["no", "turn left", "yes"])[np.arange(54) % 3]
    found = read_clips(write(digit=said), ("yes", "no", "turn left"))
    assert found.label.tolist() == [1, 2, 0] * 18
    assert found.label.dtype == np.int32
    assert read_clips(write(), ("7", "2", "5")).label.tolist() == ([1] * 6 + [2] * 6 + [0] * 6) * 3
    for digit, message in (
        (np.where(said == "no", "maybe", said), "clip 0: `digit` is maybe, and this model knows yes, no, turn left"),
        (said[1:], r"`digit` has the shape \[53\] where `offset` has 54 clips"),
        (np.ones(54), "`digit` is float64; store an integer or a string for each clip"),
    ):
        with pytest.raises(InputError, match=message):
            read_clips(write(digit=digit), ("yes", "no", "turn left"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "does not exist; correct the path"),
        (lambda path: (path.unlink(), path.mkdir()), "is a directory; name a file in it"),
        (lambda path: path.write_text("zero one two"), "is not an npz file"),
        (lambda path: path.write_bytes(b""), "is not an npz file"),
        (_cut, "is not an npz file"),
        (_flipped, "is not an npz file"),
        (_single, "is not an npz file"),
        (_packed, "is not an npz file"),
    ],
    ids=["missing", "a directory", "text", "empty", "cut off", "damaged", "a single array", "packed by others"],
)
def test_a_file_that_is_none_is_one_sentence(write, damage, message):
    path = write()
    damage(path)
    with pytest.raises(InputError, match=message) as error:
        read_recordings(path)
    assert str(path) in str(error.value)


def test_a_recording_must_not_be_in_two_splits(write):
    arrays = columns()
    start, end = arrays["offset"][2], arrays["offset"][3]
    lengths = np.diff(arrays["offset"])
    clips = np.split(arrays["audio"], arrays["offset"][1:-1])
    clips[1], lengths[1] = arrays["audio"][start:end], lengths[2]
    path = write(audio=np.concatenate(clips), offset=np.concatenate([[0], np.cumsum(lengths)]))
    with pytest.raises(InputError, match=r"clip 1 \(test\) and clip 2 \(train\) are the same recording; give it one"):
        read_recordings(path, dev=0)
    # Nor when the file does not say which are dev: clip 4 is train, and clip 5 would be set aside.
    clips = np.split(arrays["audio"], arrays["offset"][1:-1])
    clips[5], lengths = clips[4], np.diff(arrays["offset"])
    lengths[5] = lengths[4]
    path = write(audio=np.concatenate(clips), offset=np.concatenate([[0], np.cumsum(lengths)]))
    assert len(read_recordings(path, dev=0)) == len(lengths)
    with pytest.raises(InputError, match=r"clip 4 \(train\) and clip 5 \(dev\) are the same recording"):
        read_recordings(path, dev=1)


# Episodes


def rows_of(batch):
    """The rows of the clips of `columns`, whose level is their number."""
    pairs = zip(batch["inputs"]["audio"], batch["inputs"]["samples"], strict=True)
    return np.array([audio[samples // 2] // 100 - 1 for audio, samples in pairs])[batch["mask"]]


@pytest.mark.parametrize("split", ["train", "test"])
def test_episodes_are_of_one_speaker_balanced_and_disjoint(spoken, split):
    episodes = AudioEpisodes(spoken, SPLIT, shots=1, queries=2, length=64)
    seen = set()
    for index in range(12):
        episode = episodes(index, split=split)
        assert episode.support["inputs"]["audio"].shape == (3, 64)
        assert episode.query["inputs"]["samples"].dtype == np.int32
        assert episode.query["classes"].all()
        support, query = (rows_of(batch) for batch in episode)
        assert spoken.label[support].tolist() == episode.support["targets"].tolist() == [0, 1, 2]
        assert spoken.label[query].tolist() == episode.query["targets"].tolist() == [0, 1, 2] * 2
        assert not set(support) & set(query)
        assert set(spoken.split[support]) == {"train"}
        assert set(spoken.split[query]) == {split}
        speakers = set(spoken.language[[*support, *query]])
        assert len(speakers) == 1
        seen |= speakers
    assert seen == set(getattr(SPLIT, split))


def test_episodes_are_pure_and_evaluation_is_nested(spoken):
    episodes, twin = (AudioEpisodes(spoken, SPLIT, shots=1, queries=2, length=64, voices=0.5) for _ in range(2))
    for index in (5, 2, 5):
        jax.tree.map(np.testing.assert_array_equal, episodes(index), twin(index))
    few, many = (episodes.evaluation_episode("cat", shots=shots, draw=1) for shots in (1, 3))
    np.testing.assert_array_equal(many.support["inputs"]["audio"][:3], few.support["inputs"]["audio"])
    assert set(spoken.split[rows_of(many.query)]) == {"test"}
    dev = episodes.evaluation_episode("ann", shots=1, draw=0, split="dev")
    assert set(spoken.split[rows_of(dev.query)]) == {"dev"}
    pool = episodes.pool("train")
    assert set(spoken.language[rows_of(pool)]) == {"ann", "bob"}
    assert set(spoken.split[rows_of(pool)]) == {"train"}
    with pytest.raises(InputError, match="The dev language dan of spoken has no train rows"):
        AudioEpisodes(spoken, LanguageSplit(("ann",), ("dan",), ()), shots=1, queries=1)


def test_a_digit_that_a_speaker_never_says_is_absent(spoken):
    kept = np.flatnonzero(~((spoken.language == "cat") & (spoken.label == 1)))
    episodes = AudioEpisodes(spoken.take(kept), SPLIT, shots=1, queries=2, length=64)
    assert episodes(0).support["classes"].all()
    absent = episodes(0, split="test")
    assert absent.query["classes"].tolist() == [[True, False, True]] * 6
    assert absent.query["mask"].tolist() == [True, False, True] * 2


def test_problems_on_disk_notice_another_recording(spoken):
    episodes = AudioEpisodes(spoken, SPLIT, shots=1, queries=2, length=64)
    manifest = make_manifest(episodes, shots=[1], draws=2)
    check_manifest(manifest, spoken)
    other = AudioEpisodes(spoken, SPLIT, shots=1, queries=2, length=64, seed=9)
    again = with_problems(other, manifest).evaluation_episode("cat", shots=1, draw=1)
    jax.tree.map(np.testing.assert_array_equal, again, episodes.evaluation_episode("cat", shots=1, draw=1))
    row = manifest.problems[0].query[0]
    changed = spoken.audio.copy()
    changed[spoken.start[row]] += 1
    with pytest.raises(InputError, match=f"Row {row} of spoken, for cat, is not what it was"):
        check_manifest(manifest, dataclasses.replace(spoken, audio=changed))


def test_a_recording_of_two_speakers_is_an_overlap(write):
    assert check_overlap(read_recordings(write(), dev=1), SPLIT).shared_sentences == 0
    arrays = columns()
    clips, split = np.split(arrays["audio"], arrays["offset"][1:-1]), arrays["split"]
    clips[36], split[36] = clips[2], 2  # the first clip of "cat" is one that "ann" trains on
    split[2] = 2  # as the file must say, and no longer does below
    lengths = [len(clip) for clip in clips]
    path = write(audio=np.concatenate(clips), offset=np.concatenate([[0], np.cumsum(lengths)]), split=split)
    found = read_recordings(path, dev=0)
    assert found.sentence[36] == found.sentence[2] == 2
    trained = found.split.copy()
    trained[2] = "train"
    assert overlap(dataclasses.replace(found, split=trained), SPLIT)[2:] == (1, 1, True)


# Strings


def read_string(recordings, audio, samples, target):
    """The rows that a string of `columns` is made of, and the silences around them, in samples."""
    levels = audio.astype(int) // 100
    assert not levels[samples:].any()
    borders = np.flatnonzero(np.diff(levels[:samples], prepend=0, append=0))
    starts, ends = borders[::2], borders[1::2]
    rows = levels[starts] - 1
    np.testing.assert_array_equal(ends - starts, recordings.samples[rows], "clips are whole")
    assert (recordings.label[rows] + 1).tolist() == target[target > 0].tolist()
    assert (np.diff((target > 0).astype(int)) <= 0).all(), "padded on the right"
    gaps = np.concatenate([[starts[0]], starts[1:] - ends[:-1], [samples - ends[-1]]])
    return rows, gaps


def read_strings(recordings, batch):
    return [read_string(recordings, *row) for row in zip(*batch["inputs"].values(), batch["targets"], strict=True)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_strings_are_clips_of_one_speaker_and_their_labels(spoken, split):
    strings = StringEpisodes(
        spoken, SPLIT, shots=2, queries=1, labels=(1, 4), silence=(0.005, 0.02), repeats=4.0, length=260
    )  # fmt: skip
    clips = AudioEpisodes(spoken, SPLIT, shots=2, queries=1, length=64)
    lengths = set()
    for index in range(5):
        for batch, same, size in zip(strings(index, split=split), clips(index, split=split), (6, 3), strict=True):
            assert batch["targets"].shape == (round(4 * size / 2.5), 4)
            assert batch["mask"].all()
            assert batch["targets"].dtype == batch["inputs"]["samples"].dtype == np.int32
            found = read_strings(spoken, batch)
            assert min(gaps[:-1].min() for _, gaps in found) >= 5
            assert max(gaps.max() for _, gaps in found) <= 20
            rows = np.concatenate([rows for rows, _ in found])
            lengths |= {len(rows) for rows, _ in found}
            counts = np.bincount(spoken.label[rows], minlength=3)
            assert counts.max() - counts.min() <= 1, "labels come in rounds"
            assert set(rows) == set(rows_of(same)), "the recordings that an episode of single clips has"
    assert {1, 2, 3} <= lengths, "a fourth clip seldom fits"


def test_strings_are_pure_and_judged_on_the_same(spoken):
    strings, twin = (
        StringEpisodes(spoken, SPLIT, shots=2, queries=1, labels=(2, 3), length=300, voices=0.5) for _ in range(2)
    )
    for index in (4, 1):
        jax.tree.map(np.testing.assert_array_equal, strings(index), twin(index))
    # Problems on disk say which recordings, and the strings follow from these, whatever the seed.
    manifest = make_manifest(strings, shots=(1,), draws=1)
    seeded = StringEpisodes(spoken, SPLIT, shots=1, queries=1, labels=(2, 3), length=300, seed=9)
    assert make_manifest(seeded, shots=(1,), draws=1) != manifest
    where = {"shots": 1, "draw": 0}
    fixed = with_problems(seeded, manifest).evaluation_episode("cat", **where)
    jax.tree.map(np.testing.assert_array_equal, fixed, strings.evaluation_episode("cat", **where))
    one, other = (strings.evaluation_episode("cat", shots=1, draw=draw) for draw in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, one.query, other.query)
    assert not np.array_equal(one.support["inputs"]["audio"], other.support["inputs"]["audio"])
    assert len(strings.evaluation_episode("cat", shots=1, draw=0, max_queries=5).query["mask"]) == 2
    for rows, _ in read_strings(spoken, strings.pool("train")):
        assert len(set(spoken.language[rows])) == 1, "no string is of two speakers"
    with pytest.raises(InputError, match="dan is in no set"):
        strings.evaluation_episode("dan", shots=1, draw=0)
    with pytest.raises(ValueError, match="`labels` must be a least and a largest number, got 3 and 2"):
        StringEpisodes(spoken, SPLIT, shots=1, queries=1, labels=(3, 2))


def test_where_nothing_is_left_to_judge_strings_are_masked(spoken):
    """One train recording of each digit is in the support alone."""
    rows = [spoken.rows("ann", "train")[spoken.label[spoken.rows("ann", "train")] == label][0] for label in range(3)]
    single = spoken.take(np.array(rows))
    strings = StringEpisodes(single, LanguageSplit(("ann",), (), ()), shots=1, queries=1, length=260)
    episode = strings(0)
    assert episode.support["mask"].all()
    assert not episode.query["mask"].any()
    assert not episode.query["targets"].any()


# Speakers who do not exist


def test_a_pretended_speaker_is_another_rate_of_the_same_wave():
    rate, length = 8000, 4000
    tone = np.sin(2 * np.pi * 400 * np.arange(length) / rate)
    samples = np.array([2000, 3000], np.int32)
    audio = np.where(np.arange(length)[None] < samples[:, None], np.round(9830 * tone[None]), 0).astype(np.int16)
    ratios = set()
    for seed in range(6):
        change = other_voice(stream(seed), rate=rate, speed=0.3, colour=0.0)
        found = change({"audio": audio, "samples": samples})
        assert found["audio"].shape == audio.shape
        assert found["audio"].dtype == np.int16
        ratio = 3000 / found["samples"][1]
        ratios.add(round(ratio, 2))
        np.testing.assert_allclose(found["samples"], samples / ratio, atol=1)
        for row, count in zip(found["audio"], found["samples"], strict=True):
            assert not row[count:].any()
            middle, times = slice(200, count - 200), np.arange(length) / rate
            # The ratio is known to one sample in three thousand: the best one near it.
            waves = [9830 * np.sin(2 * np.pi * 400 * r * times) for r in ratio * (1 + np.linspace(-1e-3, 1e-3, 81))]
            assert min(np.abs(row - wave)[middle].max() for wave in waves) < 983
    assert max(ratios) / min(ratios) > 1.2
    coloured = other_voice(stream(1), rate=rate, speed=0.0, colour=6.0)({"audio": audio, "samples": samples})
    np.testing.assert_array_equal(coloured["samples"], samples)
    gain = coloured["audio"][:, 500:1500].std(axis=1) / audio[:, 500:1500].std(axis=1)
    assert gain[0] == pytest.approx(gain[1], rel=0.02)
    assert abs(gain[0] - 1) > 0.05


def test_pretended_speakers_change_whole_train_episodes(spoken):
    plain, changed = (AudioEpisodes(spoken, SPLIT, shots=1, queries=2, length=64, voices=v) for v in (0.0, 1.0))
    before, after = plain(3), changed(3)
    np.testing.assert_array_equal(after.support["targets"], before.support["targets"])
    ratios = [after[side]["inputs"]["samples"] / before[side]["inputs"]["samples"] for side in (0, 1)]
    every = np.concatenate(ratios)
    uncut = np.concatenate([after[side]["inputs"]["samples"] for side in (0, 1)]) < 64
    assert np.ptp(every[uncut]) < 0.05, "all alike"
    jax.tree.map(np.testing.assert_array_equal, changed(3, split="test"), plain(3, split="test"))


def test_the_spoken_digits_are_read(data_dir: pathlib.Path):
    path = data_dir / "spoken_digits" / "spoken_digits.npz"
    if not path.is_file():
        pytest.skip(f"no file at {path}")
    digits = read_recordings(path)
    assert len(digits) == 800
    assert digits.labels == tuple("0123456789")
    speakers = digits.languages()
    assert {len(digits.rows(s, "train")) for s in speakers} == {100}
    assert {len(digits.rows(s, "dev")) for s in speakers} == {50}
    assert {len(digits.rows(s, "test")) for s in speakers} == {50}
    assert digits.count_cut(8000) == 1
    split = split_languages(speakers, test=1, dev=1)
    assert sorted(speaker for role in split for speaker in role) == list(speakers)
    assert check_overlap(digits, split).shared_texts == 0
    episode = AudioEpisodes(digits, split, shots=5, queries=5)(0)
    assert np.bincount(episode.support["targets"]).tolist() == [5] * 10
    assert episode.support["mask"].all()
    strings = StringEpisodes(digits, split, shots=4, queries=4)(0)
    assert (strings.support["targets"] > 0).any(axis=1).all()
