"""Synthesised digits: voices are pure, differ, and share what they are said to share."""

import numpy as np
import pytest
import scipy.signal

from jaxmeta.data import (
    AudioEpisodes,
    LanguageSplit,
    Recordings,
    synthetic_digits,
)


@pytest.fixture(scope="module")
def synthetic():
    return synthetic_digits(4, recordings=5, seed=1)


def test_synthetic_voices_are_pure_and_differ(synthetic):
    assert isinstance(synthetic, Recordings)
    assert synthetic.name == "synthetic_digits"
    assert len(synthetic) == 4 * 10 * 5
    assert synthetic.languages() == ("voice000", "voice001", "voice002", "voice003")
    assert {split: len(synthetic.rows("voice002", split)) for split in ("train", "dev", "test")} == {
        "train": 30, "dev": 10, "test": 10
    }  # fmt: skip
    fewer = synthetic_digits(2, recordings=5, seed=1)
    np.testing.assert_array_equal(fewer.audio, synthetic.audio[: len(fewer.audio)])
    assert synthetic.samples.min() > 700
    assert synthetic.samples.max() < 8000
    clips = np.split(synthetic.audio, synthetic.start[1:])
    assert [len(clip) for clip in clips] == synthetic.samples.tolist()
    assert all(clip.dtype == np.int16 and np.abs(clip).max() > 1000 for clip in clips)
    assert len({clip.tobytes() for clip in clips}) == len(clips)
    other = synthetic_digits(1, recordings=3, seed=2).audio[:500]
    assert (other != synthetic.audio[:500]).any()
    with pytest.raises(ValueError, match="`recordings` must be at least 3"):
        synthetic_digits(1, recordings=2)


def nearest_mean_accuracy(recordings, own):
    """By mean log spectra, in fifths, with the shots of each voice itself or with those of another."""
    codes = recordings.languages()[1:]
    episodes = AudioEpisodes(recordings, LanguageSplit(recordings.languages()[:1], (), codes), shots=3, queries=1)

    def spectra(batch):
        found = []
        for audio, samples in zip(*batch["inputs"].values(), strict=True):
            bands = (
                np.abs(scipy.signal.stft(audio[:samples] / 32768, nperseg=128)[2][:56]).reshape(14, 4, -1).sum(axis=1)
            )
            parts = np.array_split(np.log(bands + 1e-4), 5, axis=1)
            vector = np.concatenate([part.mean(axis=1) for part in parts])
            found.append(vector - vector.mean())
        return np.array(found)

    problems = [episodes.evaluation_episode(code, shots=3, draw=0) for code in codes]
    scores = []
    for number, problem in enumerate(problems):
        source, query = problem if own else problems[number - 1], spectra(problem.query)
        support = spectra(source.support)
        means = np.stack([support[source.support["targets"] == digit].mean(axis=0) for digit in range(10)])
        nearest = ((query[:, None] - means[None]) ** 2).sum(axis=-1).argmin(axis=1)
        scores.append((nearest == problem.query["targets"]).mean())
    return np.mean(scores)


def test_shots_of_a_voice_tell_its_digits_apart_and_those_of_another_only_where_words_are_shared(synthetic):
    assert nearest_mean_accuracy(synthetic, own=True) > 0.7
    assert nearest_mean_accuracy(synthetic, own=False) < 0.35
    shared = synthetic_digits(4, recordings=5, own_words=False, seed=1)
    assert nearest_mean_accuracy(shared, own=False) > 0.5
