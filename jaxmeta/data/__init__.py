"""Where tasks come from: corpora, tokenizers, language splits, and episodes that are pure in `(seed, index)`.

Everything here runs on the host with numpy. Babel, SentencePiece and grain are imported when first used.
"""

from jaxmeta.core.batches import pad_batch, stack_episodes
from jaxmeta.data.audio_episodes import AudioEpisodes
from jaxmeta.data.build_omniglot import build_omniglot
from jaxmeta.data.children import CHILD_CLASSES, ChildEpisodes
from jaxmeta.data.cldr import CLDR_TASKS, cldr
from jaxmeta.data.cldr_pairs import CLDR_PAIR_TASKS, cldr_pairs
from jaxmeta.data.corpus import SPLITS, Corpus, Rows
from jaxmeta.data.descriptors import describe, script_shares
from jaxmeta.data.episodes import TextEpisodes
from jaxmeta.data.few_shot import FewShot
from jaxmeta.data.image_episodes import ImageEpisodes
from jaxmeta.data.images import Images, read_images
from jaxmeta.data.lexicon import Lexicon, exchange_words, learn_lexicon
from jaxmeta.data.loader import batches
from jaxmeta.data.manifests import (
    Manifest,
    check_manifest,
    make_manifest,
    read_manifest,
    with_problems,
    write_manifest,
)
from jaxmeta.data.pair_episodes import PairEpisodes
from jaxmeta.data.read_recordings import read_clips, read_recordings
from jaxmeta.data.read_table import read_table
from jaxmeta.data.recordings import Recordings
from jaxmeta.data.rollout_episodes import RolloutEpisodes
from jaxmeta.data.row_files import TsvRows
from jaxmeta.data.scripts import UNSPACED, ScriptFacts, script_facts, script_of, texts_by_language
from jaxmeta.data.sequences import Specials, decode_sequence, specials
from jaxmeta.data.sinusoid import Sinusoid
from jaxmeta.data.spans import Windows, best_answers
from jaxmeta.data.splits import (
    LanguageSplit,
    OverlapReport,
    check_overlap,
    overlap,
    repeated_shots,
    split_languages,
    split_pairs,
    translated_shots,
    without_overlap,
    without_sources,
)
from jaxmeta.data.stream_episodes import StreamEpisodes
from jaxmeta.data.stream_rows import StreamedRows
from jaxmeta.data.string_episodes import StringEpisodes, number_of_strings
from jaxmeta.data.synthetic_digits import synthetic_digits
from jaxmeta.data.table import SCHEMAS, Schema, Table, translated_from
from jaxmeta.data.tfds_arrays import ARRAY_COLUMNS
from jaxmeta.data.tfds_builders import build_tfds, find_sets, find_source, read_rows, read_tfds
from jaxmeta.data.tfds_rows import TfdsRows
from jaxmeta.data.tokenize import (
    ByteTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    count_cut,
    tokenizer_from_state,
)
from jaxmeta.data.transcript_episodes import TranscriptEpisodes, transcripts
from jaxmeta.data.tsv import COLUMNS, read_plain, read_shots, read_tsv, read_unlabelled
from jaxmeta.data.weighting import Weighting, tempered, unimax

__all__ = [
    "ARRAY_COLUMNS",
    "CHILD_CLASSES",
    "CLDR_PAIR_TASKS",
    "CLDR_TASKS",
    "COLUMNS",
    "SCHEMAS",
    "SPLITS",
    "UNSPACED",
    "AudioEpisodes",
    "ByteTokenizer",
    "ChildEpisodes",
    "Corpus",
    "FewShot",
    "ImageEpisodes",
    "Images",
    "LanguageSplit",
    "Lexicon",
    "Manifest",
    "OverlapReport",
    "PairEpisodes",
    "Recordings",
    "RolloutEpisodes",
    "Rows",
    "Schema",
    "ScriptFacts",
    "SentencePieceTokenizer",
    "Sinusoid",
    "Specials",
    "StreamEpisodes",
    "StreamedRows",
    "StringEpisodes",
    "Table",
    "TextEpisodes",
    "TfdsRows",
    "Tokenizer",
    "TranscriptEpisodes",
    "TsvRows",
    "Weighting",
    "Windows",
    "batches",
    "best_answers",
    "build_omniglot",
    "build_tfds",
    "check_manifest",
    "check_overlap",
    "cldr",
    "cldr_pairs",
    "count_cut",
    "decode_sequence",
    "describe",
    "exchange_words",
    "find_sets",
    "find_source",
    "learn_lexicon",
    "make_manifest",
    "number_of_strings",
    "overlap",
    "pad_batch",
    "read_clips",
    "read_images",
    "read_manifest",
    "read_plain",
    "read_recordings",
    "read_rows",
    "read_shots",
    "read_table",
    "read_tfds",
    "read_tsv",
    "read_unlabelled",
    "repeated_shots",
    "script_facts",
    "script_of",
    "script_shares",
    "specials",
    "split_languages",
    "split_pairs",
    "stack_episodes",
    "synthetic_digits",
    "tempered",
    "texts_by_language",
    "tokenizer_from_state",
    "transcripts",
    "translated_from",
    "translated_shots",
    "unimax",
    "with_problems",
    "without_overlap",
    "without_sources",
    "write_manifest",
]
