"""Which rows say the same thing, of rows that are read one by one and never held."""

from array import array
from collections.abc import Iterable

import numpy as np

from jaxmeta.data.row_files import Cell, Fields
from jaxmeta.data.streams import digest
from jaxmeta.data.table import Schema, normalised


def texts_of(schema: Schema, fields: Fields) -> tuple[str, ...]:
    """Returns the texts that identify a row, without what may differ between two copies."""
    return tuple(normalised(fields[column]) for column in schema.sides)


def links_of(schema: Schema, fields: Fields) -> tuple[tuple[str, ...], ...]:
    """Returns what links a row to others, as `link_sentences` does: its sentence, and its texts in their languages."""
    codes = (fields[code].strip() if code in schema.language else code for code in schema.sides.values())
    sides = tuple(zip(codes, texts_of(schema, fields), strict=True))
    return (*sides, (fields["sentence"],)) if "sentence" in fields else sides


def number_sentences(schema: Schema, rows: Iterable[tuple[Cell, Fields]]) -> dict[Cell, np.ndarray]:
    """Returns the sentence number of each row by cell, `[n]` int32: those that `link_sentences` gives to all rows.

    Texts are told apart by 64 bits of each; no text is held.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    order, of, keys = array("q"), array("l"), array("Q")
    numbers: dict[Cell, int] = {}
    for cell, fields in rows:
        of.append(numbers.setdefault(cell, len(numbers)))
        order.append(int(fields.get("row", len(order))))
        keys.extend(digest(*link) for link in links_of(schema, fields))
    count, per_row = len(order), len(keys) // len(order)
    node = np.unique(np.array(keys, np.uint64), return_inverse=True)[1].reshape(-1)
    links = (np.ones(len(node), bool), (np.repeat(np.arange(count), per_row), count + node))
    size = count + int(node.max()) + 1
    group = connected_components(coo_matrix(links, (size, size)), directed=False)[1][:count]
    # They are numbered by the first row of each, in the order that rows had in their file.
    place = np.argsort(np.array(order, np.int64), kind="stable")
    _, first, which = np.unique(group[place], return_index=True, return_inverse=True)
    ranked = np.empty(count, np.int32)
    ranked[place] = np.argsort(np.argsort(first))[which.reshape(-1)]
    cells = np.array(of, np.int64)
    return {cell: ranked[cells == number] for cell, number in numbers.items()}
