"""Where tasks come from: corpora, tokenizers, language splits, and episodes that are pure in `(seed, index)`.

Everything here runs on the host with numpy. Babel, SentencePiece and grain are imported when first used.
"""

from jaxmeta.core.batches import pad_batch, stack_episodes
from jaxmeta.data.cldr import CLDR_TASKS, cldr
from jaxmeta.data.corpus import SPLITS, Corpus
from jaxmeta.data.episodes import TextEpisodes
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
from jaxmeta.data.tsv import read_plain, read_shots, read_tsv

__all__ = [
    "CLDR_TASKS",
    "SPLITS",
    "ByteTokenizer",
    "Corpus",
    "LanguageSplit",
    "OverlapReport",
    "SentencePieceTokenizer",
    "Sinusoid",
    "TextEpisodes",
    "Tokenizer",
    "batches",
    "check_overlap",
    "cldr",
    "count_cut",
    "overlap",
    "pad_batch",
    "read_plain",
    "read_shots",
    "read_tsv",
    "split_languages",
    "stack_episodes",
    "tokenizer_from_state",
]
