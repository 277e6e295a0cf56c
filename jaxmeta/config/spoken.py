"""What an adapted model reads from a user's npz files of recordings, and what it answers."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxmeta import data
from jaxmeta.config.answering import Run, Support, nearest
from jaxmeta.config.networks import samples_of
from jaxmeta.config.schema import Config
from jaxmeta.config.speech_tasks import transcript_tokenizer
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Batch
from jaxmeta.data import AudioEpisodes, LanguageSplit, Recordings, StringEpisodes, Tokenizer, TranscriptEpisodes
from jaxmeta.data.read_arrays import read_arrays
from jaxmeta.data.string_episodes import LABELS
from jaxmeta.data.transcript_episodes import transcripts
from jaxmeta.objectives import best_path


def read_spoken(config: Config, labels: Sequence[str], path: str) -> Support:
    """Reads the recordings of a user's voice to adapt to; for recognition and retrieval they are dealt into strings.

    Raises:
      InputError: the file is malformed, has another rate, or says what the run does not know.
    """
    recordings = _checked(config, data.read_clips(path, labels), path)
    split = LanguageSplit(train=recordings.languages(), dev=(), test=())
    options: dict[str, Any] = {"shots": 1, "queries": 1, "length": samples_of(config)}
    dealt = {"repeats": config.task.repeats, "seed": config.seed}
    tokenizer = transcript_tokenizer(config)
    if tokenizer is not None:
        episodes = TranscriptEpisodes(recordings, split, tokenizer, **options, **dealt)
    elif config.task.kind == "recognition":
        episodes = StringEpisodes(recordings, split, **options, **dealt)
    else:
        episodes = AudioEpisodes(recordings, split, **options)
    batch = dict(episodes.batch(np.arange(len(recordings))))
    if "classes" in batch:
        batch["classes"] = np.ones_like(batch["classes"])
    return Support(batch, [])


def blank_spoken(config: Config, labels: int, count: int) -> Batch:
    """Returns a batch that is shaped like what `read_spoken` reads, of `count` examples."""
    length, one, tokenizer = samples_of(config), np.ones(count, np.int32), transcript_tokenizer(config)
    batch: dict[str, Any] = {
        "inputs": {"audio": np.ones((count, length), np.int16), "samples": one * length},
        "mask": np.ones(count, bool),
    }
    if tokenizer is not None:
        sides = {"left": batch["inputs"], "right": np.ones((count, tokenizer.length), np.int32)}
        return {**batch, "inputs": sides, "group": one}
    if config.task.kind == "recognition":
        return {**batch, "targets": np.ones((count, LABELS[1]), np.int32)}
    return {**batch, "targets": one * 0, "classes": np.ones((count, labels), bool)}


def heard(config: Config, labels: Sequence[str], run: Run, path: str, show: Callable[[np.ndarray], str]) -> list[str]:
    """Returns what a model hears in each recording of a file.

    Args:
      config: of the run that was adapted.
      labels: what a recording may say.
      run: the adapted model.
      path: the npz file.
      show: writes the probabilities of the labels `[C]`, where one recording has one of them.

    Raises:
      InputError: the file is malformed, or has another rate.
    """
    recordings = _checked(config, data.read_clips(path, labels, labelled=False), path)
    clips, tokenizer = recordings.clips(np.arange(len(recordings)), samples_of(config)), transcript_tokenizer(config)
    if tokenizer is not None:
        return _ranked(run, clips, tokenizer, read_transcripts(path, tokenizer), config.decode.answers)
    found = run(clips)
    if config.task.kind != "recognition":
        return [show(row) for row in np.asarray(jax.nn.softmax(found))]
    words = np.asarray(best_path(found["logits"], found["real"]))
    return transcripts(words, labels)


def read_transcripts(path: str, tokenizer: Tokenizer) -> list[str]:
    """Reads the texts that may be what the recordings of a file say.

    Raises:
      InputError: the file has none, or one is empty, or longer than what is read of it.
    """
    found = read_arrays(path, ("transcripts",))["transcripts"]
    if found.dtype.kind != "U" or found.ndim != 1 or not len(found):
        raise InputError(f"{path}: `transcripts` is no row of strings; store the texts to choose from.")
    texts = [" ".join(text.split()) for text in found.tolist()]
    if not all(texts):
        raise InputError(f"{path}: text {texts.index('')} of `transcripts` is empty; leave it out.")
    # Those that are alike as far as they are read would have the same cosines.
    for text, needed in zip(texts, tokenizer.lengths(texts), strict=True):
        if needed > tokenizer.length:
            raise InputError(
                f"{path}: {text!r} of `transcripts` takes {needed} tokens, and this model reads {tokenizer.length} "
                "(`tokenizer.length` of its run); shorten it, or leave it out."
            )
    return texts


def _ranked(run: Run, clips: Any, tokenizer: Tokenizer, texts: Sequence[str], count: int) -> list[str]:
    """Returns the nearest texts to each recording; there may be more of either."""
    tokens, many = tokenizer.encode(texts), len(clips["samples"])
    places = np.arange(max(many, len(texts)))
    left = {name: leaf[np.where(places < many, places, 0)] for name, leaf in clips.items()}
    found = run({"left": left, "right": tokens[np.where(places < len(texts), places, 0)]})
    return nearest(found["left"][:many] @ found["right"][: len(texts)].T, texts, count)


def _checked(config: Config, recordings: Recordings, path: str) -> Recordings:
    if recordings.rate != config.task.rate:
        raise InputError(
            f"{path} has {recordings.rate} samples in a second, and this run has heard {config.task.rate}; resample it."
        )
    return recordings
