"""What a language writes like, without a label: the texts that languages are compared by, and the sources nearest."""

import numpy as np

from jaxmeta import data
from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.config.schema import Config
from jaxmeta.config.tasks import TextTasks
from jaxmeta.data.splits import shared_codes
from jaxmeta.models.romanization import romanized
from jaxmeta.run.similarity import text_similarity

_TEXTS_READ = 400  # of a language


def texts_of(tasks: TextTasks | PairTasks, language: str) -> list[str]:
    """Returns texts of the train rows of a language; of pairs, not those of a language that all pairs share.

    Of scored pairs it is both sides, for nothing says which of them is in the language that all share.
    """
    if isinstance(tasks, TextTasks):
        return tasks.corpus.texts(tasks.corpus.rows(language, "train")[:_TEXTS_READ])
    table = tasks.table
    rows = table.rows(language, "train")[:_TEXTS_READ]
    shared = _shared(table)
    found = []
    for column, code in table.schema.sides.items():
        if code in table.columns:
            own = [row for row in rows.tolist() if table.columns[code][row] not in shared]
            found += table.texts(column, np.array(own, np.int64))
        elif code in ("language", ""):
            found += table.texts(column, rows)
    return found


def as_compared(texts: list[str], config: Config) -> list[str]:
    """Returns texts as similarity reads them: romanized beside their own letters, if the model reads both."""
    return [*texts, *("".join(map(romanized, text)) for text in texts)] if config.model.romanize else texts


def nearest_train_languages(tasks: TextTasks, config: Config) -> dict[str, np.ndarray]:
    """Returns the numbers of the train languages whose texts are nearest to those of each held-out one, best first.

    Of a held-out language the texts of its train rows are read, up to 400 of them, which is more than it is adapted to,
    and no label.
    """
    sources, judged = list(tasks.languages("train")), [*tasks.languages("dev"), *tasks.languages("test")]
    texts = [as_compared(texts_of(tasks, name), config) for name in (*sources, *judged)]
    cosines = text_similarity(texts)[len(sources) :, : len(sources)]
    order = np.argsort(-cosines, axis=1, kind="stable")[:, : config.transfer.sources]
    return {name: row.astype(np.int32) for name, row in zip(judged, order, strict=True)}


def _shared(table: data.Table) -> set[str]:
    """Returns the languages that all pairs of a table have in common, and that are not all that a pair has."""
    pairs = [set(table.codes(pair)) for pair in table.languages()]
    shared = shared_codes(pairs)
    return set() if shared in pairs else shared
