"""Where tasks come from: corpora, tokenizers, language splits, and episodes that are pure in `(seed, index)`.

Everything here runs on the host with numpy. Babel, SentencePiece and grain are imported when first used.
"""

from jaxmeta.core.batches import pad_batch, stack_episodes
from jaxmeta.data.audio import Recordings, read_recordings
from jaxmeta.data.audio_episodes import AudioEpisodes, StringEpisodes
from jaxmeta.data.cldr import CLDR_TASKS, cldr
from jaxmeta.data.corpus import SPLITS, Corpus, Labelled
from jaxmeta.data.episodes import LabelledEpisodes, TextEpisodes
from jaxmeta.data.loader import batches
from jaxmeta.data.sinusoid import Sinusoid
from jaxmeta.data.splits import LanguageSplit, OverlapReport, check_overlap, overlap, split_languages
from jaxmeta.data.tokenize import (
    ByteTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    count_cut,
    tokenizer_from_state,
)
from jaxmeta.data.tones import tones
from jaxmeta.data.tsv import read_plain, read_shots, read_tsv

__all__ = [
    "CLDR_TASKS",
    "SPLITS",
    "AudioEpisodes",
    "ByteTokenizer",
    "Corpus",
    "Labelled",
    "LabelledEpisodes",
    "LanguageSplit",
    "OverlapReport",
    "Recordings",
    "SentencePieceTokenizer",
    "Sinusoid",
    "StringEpisodes",
    "TextEpisodes",
    "Tokenizer",
    "batches",
    "check_overlap",
    "cldr",
    "count_cut",
    "overlap",
    "pad_batch",
    "read_plain",
    "read_recordings",
    "read_shots",
    "read_tsv",
    "split_languages",
    "stack_episodes",
    "tokenizer_from_state",
    "tones",
]
