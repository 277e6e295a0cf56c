"""Bundled Flax models, and adapters that make a `Model` of anybody's."""

from jaxmeta.models.adapters import equinox, haiku, linen, nnx, plain
from jaxmeta.models.augment_audio import augment_audio, spec_augment
from jaxmeta.models.conv4 import Conv4, conv4
from jaxmeta.models.log_mel import MelSettings, log_mel
from jaxmeta.models.mlp import MLP, mlp
from jaxmeta.models.precision import cast
from jaxmeta.models.speech import SpeechEncoder, speech_classifier, speech_recognizer
from jaxmeta.models.transformer import TextEncoder, transformer

__all__ = [
    "MLP",
    "Conv4",
    "MelSettings",
    "SpeechEncoder",
    "TextEncoder",
    "augment_audio",
    "cast",
    "conv4",
    "equinox",
    "haiku",
    "linen",
    "log_mel",
    "mlp",
    "nnx",
    "plain",
    "spec_augment",
    "speech_classifier",
    "speech_recognizer",
    "transformer",
]
