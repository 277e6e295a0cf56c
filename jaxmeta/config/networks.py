"""The model of each kind of task, in the sizes of a config: `(config, number of outputs, token numbers) -> model`."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta import models
from jaxmeta.config.schema import Config
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Model
from jaxmeta.data.span_features import BUCKETS
from jaxmeta.models.decoding import Search

_GROUPS = 8  # of channels that an image's activations are normalised in
_SECONDS = {"classification": 1.0, "recognition": 3.0, "retrieval": 3.0}


def _encoder(config: Config) -> dict[str, Any]:
    """Returns the options that all readers of text have."""
    settings = config.model
    return {
        "width": settings.width,
        "layers": settings.layers,
        "heads": settings.heads,
        "window": settings.window,
        "stride": settings.stride,
        "max_length": -(-config.tokenizer.length // settings.stride),
    }


def mlp(config: Config, outputs: int, vocab_size: int) -> Model:
    """Returns what reads numbers."""
    del vocab_size
    return models.mlp((config.model.width,) * config.model.layers, outputs)


def image_encoder(config: Config, outputs: int, vocab_size: int) -> Model:
    """Returns what reads drawings."""
    del vocab_size
    width = config.model.width
    if width % _GROUPS:
        raise InputError(f"`model.width` must be a multiple of {_GROUPS} for images, got {width}.")
    network = models.conv4(outputs, width=width, groups=_GROUPS, dtype=jnp.dtype(config.model.precision))
    features = network.features
    assert features is not None

    def ink(images):
        # Episodes hold bytes, a quarter of what floats take on the way to the device.
        return images.astype(jnp.float32) / 255

    return Model(
        lambda key, images: network.init(key, ink(images)),
        lambda params, images: network.apply(params, ink(images)),
        lambda params, images: features(params, ink(images)),
    )


def _counter(config: Config) -> dict[str, Any]:
    """Returns the options that all bags of n-grams have."""
    settings, from_bytes = config.model, config.tokenizer.kind == "bytes"
    if settings.romanize and not from_bytes:
        raise InputError('`model.romanize` reads characters; set it to false, or `tokenizer.kind` to "bytes".')
    return {
        "buckets": settings.buckets,
        "longest": settings.window,
        "from_bytes": from_bytes,
        "romanize": settings.romanize,
    }


def text_encoder(config: Config, outputs: int, vocab_size: int) -> Model:
    """Returns what reads a text."""
    if config.model.kind == "ngrams":
        return models.ngrams(outputs, **_counter(config))
    return models.transformer(vocab_size=vocab_size, outputs=outputs, **_encoder(config))


def dual_encoder(config: Config, outputs: int, vocab_size: int) -> Model:
    """Returns what reads the two sides of a pair for a vector each."""
    del outputs
    if config.model.kind == "ngrams":
        return models.ngram_dual_encoder(config.model.width, **_counter(config))
    return models.dual_encoder(vocab_size=vocab_size, outputs=config.model.width, **_encoder(config))


def pair_regressor(config: Config, outputs: int, vocab_size: int) -> Model:
    """Returns what reads a pair for a number."""
    del outputs  # one number
    width = config.model.width
    if config.model.kind == "ngrams":
        return models.ngram_pair_regressor(width, **_counter(config))
    return models.pair_regressor(hidden=(width,), vocab_size=vocab_size, outputs=width, **_encoder(config))


def span_scorer(config: Config, outputs: int, vocab_size: int) -> Model:
    """Returns what scores spans as answers."""
    del outputs, vocab_size
    settings = config.model
    return models.span_scorer(width=settings.width, layers=settings.layers, longest=settings.window, buckets=BUCKETS)


def _writer(config: Config) -> dict[str, Any]:
    """Returns the options that all writers of text have; they read every token by itself."""
    settings, tokens = config.model, config.tokenizer
    return {
        "width": settings.width,
        "layers": settings.layers,
        "heads": settings.heads,
        "max_length": max(tokens.length, tokens.target_length),
    }


def _search(config: Config) -> Search:
    """Returns how text is written."""
    wanted = config.decode
    if wanted.search == "beam":
        return models.beam_search(wanted.beams, length_penalty=wanted.length_penalty)
    if wanted.search == "sample":
        return models.sampling(jax.random.key(wanted.seed), temperature=wanted.temperature, top_p=wanted.top_p)
    return models.greedy


def seq2seq(config: Config, outputs: int, vocab_size: int) -> Model:
    """Returns what writes a text for a text."""
    del outputs
    tokens = config.tokenizer
    # What the lexicon of a pointer says of tokens is said in terms of their embeddings, so those score the output.
    pointer = config.model.pointer
    return models.seq2seq(
        vocab_size=vocab_size + 2, max_new_tokens=tokens.target_length or tokens.length, pointer=pointer, tied=pointer,
        search=_search(config), **_writer(config),
    )  # fmt: skip


def language_model(config: Config, outputs: int, vocab_size: int) -> Model:
    """Returns what predicts every token of a text."""
    del outputs
    return models.language_model(vocab_size=vocab_size + 2, search=_search(config), **_writer(config))


def samples_of(config: Config) -> int:
    """Returns the samples that are read of a recording, or of a string of them."""
    return max(1, round((config.task.seconds or _SECONDS[config.task.kind]) * config.task.rate))


def speech_frames(config: Config) -> models.MelSettings:
    """Returns how recordings become frames of 25 ms, one every 10 ms.

    Raises:
      InputError: there are too few samples in a second.
    """
    rate = config.task.rate
    try:
        settings = models.MelSettings(rate=rate, window=rate // 40, hop=rate // 100)
        models.mel_filters(settings)
    except ValueError:
        raise InputError(f"`task.rate` {rate} is too low for speech; give recordings of at least 8000.") from None
    return settings


def _speech(config: Config) -> dict[str, Any]:
    """Returns the options that all readers of recordings have."""
    settings, mel = config.model, speech_frames(config)
    if settings.window % 2 == 0:
        raise InputError(f"`model.window` must be odd for recordings, got {settings.window}.")
    halvings = settings.stride.bit_length() - 1
    if settings.stride != 1 << halvings:
        raise InputError(f"`model.stride` must be a power of two for recordings, got {settings.stride}.")
    frames = 1 + max(0, samples_of(config) - mel.window) // mel.hop
    return {
        "width": settings.width,
        "layers": settings.layers,
        "heads": settings.heads,
        "kernel": settings.window,
        "strides": (2,) * halvings,
        "max_places": -(-frames // settings.stride),
        "mel": mel,
    }


def speech_classifier(config: Config, outputs: int, vocab_size: int) -> Model:
    """Returns what reads a recording of a word."""
    del vocab_size
    return models.speech_classifier(outputs, segments=config.model.segments, **_speech(config))


def spoken_dual_encoder(config: Config, outputs: int, vocab_size: int) -> Model:
    """Returns what reads a recording of several words on one side, and a transcript on the other."""
    del outputs
    width = config.model.width
    listener = models.speech_classifier(width, segments=config.model.segments, **_speech(config))
    # Every letter of a transcript has a place, for there are few.
    reader = {**_encoder(config), "stride": 1, "max_length": config.tokenizer.length}
    return models.paired(listener, models.transformer(vocab_size=vocab_size, outputs=width, **reader))


def speech_recognizer(config: Config, outputs: int, vocab_size: int) -> Model:
    """Returns what reads a recording of several words."""
    del vocab_size
    return models.speech_recognizer(outputs + 1, **_speech(config))  # and the blank
