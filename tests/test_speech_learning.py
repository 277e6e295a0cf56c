"""Five recordings of each digit by a speaker who was never heard, from the data to the accuracy."""

import jax
import numpy as np
import optax
import pytest

import jaxmeta as jm
from jaxmeta import data
from jaxmeta.models import speech_classifier
from jaxmeta.objectives import classification

OBJECTIVE = classification(10)
MODEL = speech_classifier(10, width=16, layers=1, heads=2, segments=3)
ALGORITHM = jm.ridge(MODEL, OBJECTIVE, num_outputs=10)


@jax.jit
def judge(meta_params, episode):
    state, _ = jm.adapt(ALGORITHM, jax.random.key(0), meta_params, episode.support, num_steps=0)
    return OBJECTIVE.counts(ALGORITHM.predict(meta_params, state, episode.query["inputs"]), episode.query)


def untrained_accuracy(recordings, *, length, shots, draws=4):
    """The mean over all speakers, each with `shots` recordings of each digit, of a ridge head on random layers."""
    speakers = recordings.languages()
    split = data.split_languages(speakers, test=len(speakers) - 1, dev=0)
    episodes = data.AudioEpisodes(recordings, split, shots=shots, queries=2, length=length)
    problems = [
        episodes.evaluation_episode(speaker, shots=shots, draw=draw) for speaker in speakers for draw in range(draws)
    ]
    meta_params = jax.jit(ALGORITHM.init)(jax.random.key(0), problems[0])
    counts = [jax.device_get(judge(meta_params, problem)) for problem in problems]
    return OBJECTIVE.scores(jax.tree.map(lambda *leaves: sum(leaves), *counts))["accuracy"]


def test_digits_of_synthetic_voices_by_shots_alone():
    assert untrained_accuracy(data.synthetic_digits(3, recordings=15), length=5000, shots=5) > 0.97


def test_digits_of_real_speakers_by_shots_alone(data_dir):
    """What meta-training has to improve on: 95% before any."""
    path = data_dir / "spoken_digits" / "spoken_digits.npz"
    if not path.is_file():
        pytest.skip(f"no file at {path}")
    assert untrained_accuracy(data.read_recordings(path), length=7200, shots=5) > 0.95


def test_meta_training_lowers_the_loss_of_single_shots(standard_promotion):
    recordings = data.synthetic_digits(3, recordings=5)
    split = data.split_languages(recordings.languages(), test=1, dev=0)
    episodes = data.AudioEpisodes(recordings, split, shots=1, queries=2, length=5000, voices=0.5)
    learner = jm.build_learner(ALGORITHM, jm.backprop(ALGORITHM, num_steps=0), optax.adam(3e-3))
    batch = next(data.batches(episodes, split="train", tasks_per_step=2, start=0, threads=0))
    state, update, losses = jax.jit(learner.init)(jax.random.key(0), batch), jax.jit(learner.update), []
    for _ in range(12):
        state, metrics = update(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert np.isfinite(losses).all()
