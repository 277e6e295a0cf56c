"""Bundled Flax models, and adapters that make a `Model` of anybody's."""

from jaxmeta.models.adapters import equinox, haiku, linen, nnx, plain
from jaxmeta.models.augment_audio import augment_audio, spec_augment
from jaxmeta.models.conv4 import SMALLEST_IMAGE, Conv4, conv4
from jaxmeta.models.decoding import beam_search, greedy, sampling
from jaxmeta.models.dual_encoder import dual_encoder, paired
from jaxmeta.models.language_model import LanguageModel, language_model
from jaxmeta.models.log_mel import MelSettings, log_mel, mel_filters
from jaxmeta.models.mlp import MLP, mlp
from jaxmeta.models.ngram_pairs import NgramVectors, ngram_dual_encoder, ngram_pair_regressor
from jaxmeta.models.ngrams import NgramEncoder, ngrams
from jaxmeta.models.pair_regressor import compared, pair_regressor
from jaxmeta.models.policies import GaussianPolicy, RecurrentPolicy, gaussian_policy, recurrent_policy
from jaxmeta.models.precision import cast
from jaxmeta.models.seq2seq import Seq2Seq, seq2seq
from jaxmeta.models.span_scorer import SpanScorer, span_scorer
from jaxmeta.models.speech import SpeechEncoder, speech_classifier, speech_recognizer
from jaxmeta.models.transformer import TextEncoder, transformer

__all__ = [
    "MLP",
    "SMALLEST_IMAGE",
    "Conv4",
    "GaussianPolicy",
    "LanguageModel",
    "MelSettings",
    "NgramEncoder",
    "NgramVectors",
    "RecurrentPolicy",
    "Seq2Seq",
    "SpanScorer",
    "SpeechEncoder",
    "TextEncoder",
    "augment_audio",
    "beam_search",
    "cast",
    "compared",
    "conv4",
    "dual_encoder",
    "equinox",
    "gaussian_policy",
    "greedy",
    "haiku",
    "language_model",
    "linen",
    "log_mel",
    "mel_filters",
    "mlp",
    "ngram_dual_encoder",
    "ngram_pair_regressor",
    "ngrams",
    "nnx",
    "pair_regressor",
    "paired",
    "plain",
    "recurrent_policy",
    "sampling",
    "seq2seq",
    "span_scorer",
    "spec_augment",
    "speech_classifier",
    "speech_recognizer",
    "transformer",
]
