"""What an adapted model reads from a user's files and answers, for every kind of task but classification.

    kind                 a line of the file for `predict`    what is printed before it
    retrieval            text, english                       the nearest of all the english texts, its cosine, or the n
                                                             nearest with theirs
    scored_pairs         first, second                       the score
    question_answering   context, question                   the answer, or the n best with their shares
    translation          text                                its translation
    summaries            text                                its summary
    generation           the beginning of a text             how it goes on

Fields are separated by TAB. The file for `adapt` has the columns of the kind under their names, without language and
split.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np

from jaxmeta import data, objectives
from jaxmeta.config.schema import Config
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import ArrayTree, Batch, Episode
from jaxmeta.data import LanguageSplit, PairEpisodes, Tokenizer
from jaxmeta.data.lines import where
from jaxmeta.data.sequences import with_length
from jaxmeta.data.spans import Question, encode_windows, strided_windows

Run = Callable[[ArrayTree], ArrayTree]  # inputs [N, ...] -> outputs [N, ...], as numpy

_SPANS = 4
_FIELDS: dict[str, tuple[str, ...]] = {
    "retrieval": ("text", "english"),
    "scored_pairs": ("first", "second"),
    "question_answering": ("context", "question"),
}


class Support(NamedTuple):
    """What a model adapts to."""

    batch: Batch
    texts: list[str]  # those that have to fit in a row
    words: Mapping[str, str] = MappingProxyType({})  # what the lexicon exchanges, of translations


def read_support(config: Config, tokenizer: Tokenizer, path: str) -> Support:
    """Reads the examples of a user's language.

    Raises:
      InputError: the file is malformed, or holds nothing to adapt to.
    """
    language = "yours" if len(data.SCHEMAS[config.task.kind].language) == 1 else "theirs-yours"
    table = data.read_table(path, config.task.kind, require_splits=False, language=language)
    table = table.take(np.flatnonzero(table.split == "train"))
    if not len(table):
        raise InputError(f"{path} has no train rows; mark some as train, or leave the column split out.")
    languages = table.languages()
    if len(languages) != 1:
        raise InputError(f"{path} has rows in {', '.join(languages)}; give each language a file of its own.")
    (language,) = languages
    split = LanguageSplit(train=(language,), dev=(), test=())
    episodes = PairEpisodes(
        table, tokenizer, split, shots=1, queries=1, target_length=config.tokenizer.target_length or None,
        lexicon=config.task.lexicon,
    )  # fmt: skip
    columns = () if config.task.kind == "question_answering" else table.schema.texts  # those are read whole
    rows = episodes.rows(language, "train")
    texts = [text for column in columns for text in table.texts(column, rows)]
    batch = episodes.batch(rows)
    batch = episodes.informed(Episode(batch, episodes.batch(rows)), rows, rows).support
    if not config.task.lexicon:
        return Support(batch, texts)
    words = data.learn_lexicon(*(table.texts(side, rows) for side in ("src", "tgt"))).words
    return Support(batch, texts, words)


def blank_support(config: Config, tokenizer: Tokenizer, count: int) -> Batch:
    """Returns a batch that is shaped like what `read_support` reads of `count` examples."""
    if config.task.kind == "question_answering":
        found = encode_windows([Question("", "")] * count, np.zeros(count, np.int64), tokenizer.length)
        targets = {"start": found.start, "end": found.end}
        return {"inputs": found.inputs, "targets": targets, "mask": np.ones(count, bool)}
    row = np.ones((count, tokenizer.length), np.int32)
    written = np.ones((count, config.tokenizer.target_length or tokenizer.length), np.int32)
    one = np.ones(count, np.int32)
    sides, tokens = {"left": row, "right": row}, {"source": row, "previous": written}
    shapes = {
        "retrieval": {"inputs": sides, "group": one},
        "scored_pairs": {"inputs": sides, "targets": one.astype(np.float32)},
        "translation": {"inputs": tokens, "targets": written},
        "summaries": {"inputs": tokens, "targets": written},
        "generation": {"inputs": {"previous": written}, "targets": written, "bytes": one},
    }
    return {**shapes[config.task.kind], "mask": np.ones(count, bool)}


def blank_inputs(config: Config, tokenizer: Tokenizer, count: int) -> ArrayTree:
    """Returns inputs that are shaped like what `answers` asks a model about."""
    kind = config.task.kind
    if kind == "question_answering":
        return strided_windows([Question("", "")] * count, tokenizer.length).inputs
    if kind == "generation":
        return {"prompt": _prompts(config, tokenizer, [""] * count)}
    row = np.ones((count, tokenizer.length), np.int32)
    return {"source": row} if kind in ("translation", "summaries") else {"left": row, "right": row}


def answers(
    config: Config, tokenizer: Tokenizer, run: Run, lines: Sequence[str], source: str, words: Mapping[str, str]
) -> list[str]:
    """Returns what a model answers to the lines of a file.

    Args:
      config: of the run that was adapted.
      tokenizer: of that run.
      run: the adapted model.
      lines: the lines of the file.
      source: its name, for sentences on what is wrong.
      words: what the lexicon of the examples exchanges.

    Raises:
      InputError: a line has too many fields or too few.
    """
    kind = config.task.kind
    fields = [_fields(kind, source, number, line) for number, line in enumerate(lines, start=1)]
    first, second = [field[0] for field in fields], [field[-1] for field in fields]
    if kind == "question_answering":
        return _spans(tokenizer, run, first, second, config.decode.answers)
    if kind in ("translation", "summaries"):
        texts = [data.exchange_words(text, words) for text in first] if words else first
        return _decoded(tokenizer, run({"source": tokenizer.encode(texts)}))
    if kind == "generation":
        return _decoded(tokenizer, run({"prompt": _prompts(config, tokenizer, first)}))
    outputs = run({"left": tokenizer.encode(first), "right": tokenizer.encode(second)})
    if kind == "scored_pairs":
        return [f"{float(score):.4f}" for score in outputs.reshape(-1)]
    return nearest(outputs["left"] @ outputs["right"].T, second, config.decode.answers)


def nearest(cosines: np.ndarray, texts: Sequence[str], count: int) -> list[str]:
    """Returns the texts that each anchor is nearest to, best first, with their cosines.

    Args:
      cosines: `[N, M]`.
      texts: M candidates; one that is there more than once is shown once.
      count: how many are shown of each anchor.
    """
    first = sorted({text: place for place, text in reversed([*enumerate(texts)])}.values())
    found = []
    for row in cosines[:, first]:
        best = [(texts[first[place]], row[place]) for place in np.argsort(-row, kind="stable")[:count]]
        shown = [f"{text}={cosine:.4f}" for text, cosine in best]
        found.append(" | ".join(shown) if count > 1 else "{}\t{:.4f}".format(*best[0]))
    return found


def _fields(kind: str, source: str, number: int, line: str) -> list[str]:
    names, found = _FIELDS.get(kind, ("text",)), [field.strip() for field in line.split("\t")]
    if len(found) != len(names) or not all(found):
        raise InputError(
            f"{where(source)}, line {number}: {len(found)} fields where this model reads {len(names)} "
            f"({', '.join(names)}); separate fields by one TAB, and leave none empty."
        )
    return found


def _spans(tokenizer: Tokenizer, run: Run, contexts: Sequence[str], questions: Sequence[str], count: int) -> list[str]:
    asked = [Question(context, question) for context, question in zip(contexts, questions, strict=True)]
    windows = strided_windows(asked, tokenizer.length)
    # Spans that differ in a space have one text, so more are asked for than are shown.
    found = jax.device_get(objectives.best_spans(run(windows.inputs), _SPANS * count))
    answers = data.best_answers(windows, contexts, found, count)
    if count == 1:
        return [best.text for (best,) in answers]
    from scipy.special import softmax

    shares = [softmax([answer.score for answer in best]) for best in answers]
    return [
        " | ".join(f"{answer.text}={share:.4f}" for answer, share in zip(*pair, strict=True))
        for pair in zip(answers, shares, strict=True)
    ]


def _prompts(config: Config, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Returns the beginnings of texts after the token that begins every text; they take half of the room at most."""
    length = config.tokenizer.target_length or tokenizer.length
    begun = with_length(tokenizer, max(length // 2 - 1, 1)).encode(texts)
    first = np.full((len(begun), 1), data.specials(tokenizer).bos, np.int32)
    return np.concatenate([first, begun], axis=1)


def _decoded(tokenizer: Tokenizer, tokens: np.ndarray) -> list[str]:
    # What is written may hold line ends and TABs, which part lines and fields here.
    return [" ".join(text.split()) for text in data.decode_sequence(tokenizer, tokens)]
