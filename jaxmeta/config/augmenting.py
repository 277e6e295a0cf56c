"""Recordings that are disturbed on the device, in another way in every step."""

import jax

from jaxmeta import models
from jaxmeta.config.kinds import RECORDED
from jaxmeta.config.networks import speech_frames
from jaxmeta.config.schema import Config
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Batch, Episode, Key, LearnerState, MetaLearner

_APART = 2**31 + 1  # of the keys that the learner draws with, which are numbered by step


def augmenting(learner: MetaLearner, config: Config) -> MetaLearner:
    """Returns a learner that trains on recordings with noise, at other loudness, and with masked frames.

    What is drawn follows from the learner's key and the number of the step, so a resumed run draws what an
    uninterrupted one draws. A learner is returned as it is where `train.augment` is off.

    Raises:
      InputError: it is on, and there are no recordings.
    """
    if not config.train.augment:
        return learner
    if config.task.source not in RECORDED:
        raise InputError("`train.augment` is about recordings; leave it out.")
    frames = speech_frames(config)

    def disturbed(key: Key, batch: Batch) -> Batch:
        tasks = batch["mask"].shape[0]
        beside = "left" in batch["inputs"]  # of transcripts
        heard = batch["inputs"]["left"] if beside else batch["inputs"]
        inputs = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), heard)
        audio_key, frames_key = jax.random.split(key)
        audio = models.augment_audio(audio_key, inputs["audio"], inputs["samples"], noise=(10.0, 40.0), gain=3.0)
        found = models.log_mel(audio, inputs["samples"], frames)
        mel = models.spec_augment(frames_key, found["mel"], found["real"], frequency_width=5, time_width=8)
        inputs = {"mel": mel, "real": found["real"]}
        inputs = jax.tree.map(lambda leaf: leaf.reshape(tasks, -1, *leaf.shape[1:]), inputs)
        return {**batch, "inputs": {**batch["inputs"], "left": inputs} if beside else inputs}

    def update(state: LearnerState, episodes: Episode):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(state.key), _APART), state.step)
        keys = jax.random.split(key)
        return learner.update(state, Episode(disturbed(keys[0], episodes.support), disturbed(keys[1], episodes.query)))

    return learner._replace(update=update)
