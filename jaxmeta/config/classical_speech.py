"""Baselines outside JAX of recordings: mean spectra, and the shots as templates of words."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.config.networks import speech_frames
from jaxmeta.config.readouts import class_counts
from jaxmeta.config.speech_tasks import SpeechTasks
from jaxmeta.core.types import IMPOSSIBLE, ArrayTree
from jaxmeta.data import TranscriptEpisodes
from jaxmeta.models import log_mel
from jaxmeta.objectives import edit_distance, similarity_counts
from jaxmeta.run.classical_audio import spectral_regression
from jaxmeta.run.classical_strings import connected_words, levelled
from jaxmeta.run.plan import Classical

# (price of a word, rows of the shots, recordings) -> the words of each recording, by number from 1
Hears = Callable[[float, np.ndarray, ArrayTree], list[list[int]]]
_PRICES = (5.0, 2.0, 10.0, 0.0, 20.0)
_AT_ONCE = 8  # a multiple of what strings are padded to, so that few lengths are compiled


def mean_spectra(tasks: SpeechTasks) -> Classical:
    """Returns logistic regression on the mean spectra of fifths of the recordings, regularised as dev speakers say."""
    frames = jax.jit(lambda inputs: log_mel(**inputs, settings=speech_frames(tasks.config)))

    def counts(strength: float, speaker: str, shots: int, draw: int, split: str) -> ArrayTree:
        support, query = tasks.episode(speaker, shots=shots, draw=draw, split=split)
        logits = np.full((len(query["mask"]), len(tasks.recordings.labels)), IMPOSSIBLE, np.float32)
        labels, there = support["targets"], support["mask"]
        seen = np.unique(labels[there])
        if len(seen) > 1:
            shown, asked = (jax.device_get(frames(side["inputs"])) for side in (support, query))
            shown = {name: leaf[there] for name, leaf in shown.items()}
            logits[:, seen] = spectral_regression(shown, labels[there], asked, parts=5, strength=strength)
        else:
            logits[:, seen] = 0.0
        return class_counts(len(tasks.recordings.labels))(logits, query)

    # Of equals the first one is taken: a dev speaker whose digits are all told apart by any must not choose an extreme.
    return Classical("mean_spectra", "C", (1.0, 0.1, 10.0, 0.01, 100.0), counts)


def word_templates(tasks: SpeechTasks) -> Classical:
    """Returns the shots as templates, end to end by `connected_words`; what a word costs is for the dev speakers."""
    hear = _hearing(tasks)

    def counts(price: float, speaker: str, shots: int, draw: int, split: str) -> ArrayTree:
        shown, _ = tasks.rows(speaker, shots=shots, draw=draw, split=split)
        query = tasks.episode(speaker, shots=shots, draw=draw, split=split).query
        written = _in_rows(hear(price, shown, query["inputs"]))
        edits = np.asarray(edit_distance(jnp.asarray(written), query["targets"]))
        real = query["mask"]
        edits = np.where(real, edits, 0)
        return {
            "n": real.sum(), "exact": (real & (edits == 0)).sum(), "edits": edits.sum(),
            "symbols": np.count_nonzero(query["targets"][real]),
            "aligned": np.int64(0), "nll": np.float64(0),  # it knows no probabilities
        }  # fmt: skip

    return Classical("word_templates", "price", _PRICES, counts)


def template_cascade(tasks: SpeechTasks) -> Classical:
    """Returns recognition by `word_templates`, and transcripts ranked by their edits from what it has heard.

    It reads the labels of the candidates, which a text tells where no name has a space: a candidate is as close as one
    minus the edits over the words of the longer of both.
    """
    hear, counted, episodes = _hearing(tasks), jax.jit(similarity_counts), tasks.judged
    assert isinstance(episodes, TranscriptEpisodes)

    def counts(price: float, speaker: str, shots: int, draw: int, split: str) -> ArrayTree:
        shown, _ = tasks.rows(speaker, shots=shots, draw=draw, split=split)
        query = tasks.episode(speaker, shots=shots, draw=draw, split=split).query
        heard = _in_rows(hear(price, shown, query["inputs"]["left"]))
        offered = _in_rows(episodes.targets(query["group"]).tolist())
        batch = {name: query[name] for name in ("mask", "group")}
        return jax.device_get(counted(jnp.asarray(_closeness(heard, offered)), batch))

    return Classical("template_cascade", "price", _PRICES, counts)


def _hearing(tasks: SpeechTasks) -> Hears:
    """Returns what hears words in recordings by templates of the shots alone."""
    recordings = tasks.recordings
    settings = dataclasses.replace(speech_frames(tasks.config), normalization="none")
    frames = jax.jit(lambda inputs: log_mel(**inputs, settings=settings))

    def read(clips: ArrayTree) -> tuple[np.ndarray, np.ndarray]:
        found = jax.device_get(frames(clips))
        return levelled(found["mel"], found["real"]), found["real"]

    def hear(price: float, shown: np.ndarray, asked: ArrayTree) -> list[list[int]]:
        single = zip(*read(recordings.clips(shown, tasks.judged.length)), strict=True)
        templates = [mel[real] for mel, real in single]
        return connected_words(templates, recordings.label[shown] + 1, *read(asked), price=price)

    return hear


def _in_rows(words: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns words `[N, L]` int32, padded with 0."""
    longest = max(map(len, words), default=0)
    rows = np.zeros((len(words), -(-max(longest, 1) // _AT_ONCE) * _AT_ONCE), np.int32)
    for row, found in zip(rows, words, strict=True):
        row[: len(found)] = found
    return rows


def _closeness(heard: np.ndarray, offered: np.ndarray) -> np.ndarray:
    """Returns one minus the edits over the words of the longer, of each heard string and each that is offered."""
    edits = np.asarray(
        edit_distance(
            jnp.asarray(np.repeat(heard, len(offered), axis=0)), jnp.asarray(np.tile(offered, (len(heard), 1)))
        )
    ).reshape(len(heard), len(offered))
    lengths = np.maximum((heard > 0).sum(axis=1)[:, None], (offered > 0).sum(axis=1)[None])
    return (1 - edits / np.maximum(lengths, 1)).astype(np.float32)
