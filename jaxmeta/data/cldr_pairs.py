"""Translation, retrieval, question answering and generation without a download, out of the Unicode CLDR in Babel.

`translation`: a date or a quantity in English, into another language. `retrieval`: a term, and what it is called in
English. `question_answering`: which part of a list in the language is the day, the amount, the city, the currency, the
language or the territory. `generation`: names of languages, territories and cities.
"""

import datetime
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from jaxmeta.core.checks import check_one_of
from jaxmeta.data.cldr import (
    FIRST_DAY,
    KINDS,
    LAST_DAY,
    checked_sizes,
    chosen_languages,
    date_languages,
    english_terms,
    own_value,
    part_of,
    term_languages,
)
from jaxmeta.data.corpus import SPLITS
from jaxmeta.data.streams import digest, stream
from jaxmeta.data.table import SCHEMAS, Table, link_sentences

CLDR_PAIR_TASKS = ("translation", "retrieval", "question_answering", "generation")
# Units that people count in, whose names differ from each other in most languages.
UNITS = (
    *("duration-second", "duration-minute", "duration-hour", "duration-day", "duration-week", "duration-month"),
    *("duration-year", "length-centimeter", "length-meter", "length-kilometer", "length-mile", "length-inch"),
    *("mass-gram", "mass-kilogram", "volume-liter", "volume-milliliter", "temperature-celsius", "digital-megabyte"),
)
MIN_UNITS = 9
AMOUNTS = range(2, 100)
# What can be asked for, with the question: the question is in English, the list that answers it is not.
QUESTIONS = {
    "date": "Which day is it?",
    "quantity": "How much is it?",
    "city": "Which city is it?",
    "currency": "Which currency is it?",
    "language": "Which language is it?",
    "territory": "Which country or region is it?",
}
_TERMS = ("city", "currency", "language", "territory")  # kinds that lists are made of
_NAMES = ("language", "territory", "city")

_Row = tuple[str, str, Mapping[str, str | int], int]  # language, split, fields, sentence


@functools.cache
def _units(locale: str) -> tuple[str, ...]:
    """Returns the units whose long names a language has of its own."""
    from babel import localedata

    def long(code: str, unit: str) -> object:
        return own_value(localedata.load(code), "unit_patterns", unit, "long", "other")

    return tuple(u for u in UNITS if isinstance(long(locale, u), str) and long(locale, u) != long("root", u))


@functools.cache
def pair_languages(task: str) -> tuple[str, ...]:
    """Returns the languages that suit a task, English apart.

    For translation those that suit "month" of `jaxmeta.data.cldr` and have `MIN_UNITS` units of their own: 121 in Babel
    2.19. For retrieval and generation those that suit "kind": 121. For question answering those that suit both: 110.
    """
    check_one_of("task", task, CLDR_PAIR_TASKS)
    chosen: Iterable[str] = term_languages() if task != "translation" else date_languages("month")
    if task in ("translation", "question_answering"):
        dated = {code for code in date_languages("month") if len(_units(code)) >= MIN_UNITS}
        chosen = (code for code in chosen if code in dated)
    return tuple(code for code in chosen if code != "en")


def cldr_pairs(
    task: str,
    *,
    languages: Sequence[str] | None = None,
    train: int = 60,
    dev: int = 30,
    test: int = 60,
    seed: int = 0,
) -> Table:
    """Returns a task of the Unicode CLDR as the table of its schema, in `languages` beside English.

    A date, a quantity or a term is in one split in every language: half are for training, a sixth for dev and a third
    for test. A list that is asked about is made of terms of its split alone.

    Args:
        task: "translation", "retrieval", "question_answering" or "generation".
        languages: codes of the languages to keep; all that qualify by default.
        train: rows per language in the train split, at most.
        dev: the same for dev.
        test: the same for test.
        seed: what the draw of rows and of splits depends on.
    """
    sizes = checked_sizes(train, dev, test)
    chosen = chosen_languages(task, pair_languages(task), languages)
    rows = [row for code in chosen for split in SPLITS for row in _MAKERS[task](code, split, sizes[split], seed)]
    schema = SCHEMAS[task]
    columns: dict[str, tuple[str, ...] | np.ndarray] = {
        name: tuple(str(fields[name]) for _, _, fields, _ in rows)
        for name in (*schema.texts, *(schema.language if len(schema.language) > 1 else ()))
    }
    numbers = {name: np.array([row[2][name] for row in rows], of) for name, of in schema.numbers.items()}
    language = [f"en-{row[0]}" if task == "translation" else row[0] for row in rows]
    linked = {**columns, "language": [row[0] for row in rows]}
    return Table(
        name=f"cldr-{task}",
        schema=schema,
        language=np.array(language, str),
        split=np.array([row[1] for row in rows], str),
        columns={**columns, **numbers},
        sentence=link_sentences(schema, linked, np.array([row[3] for row in rows], np.int64)),  # pyright: ignore
    )


@functools.cache
def _days(split: str, seed: int) -> tuple[int, ...]:
    return tuple(day for day in range(FIRST_DAY, LAST_DAY + 1) if part_of(seed, "date", day) == split)


def _date(language: str, day: int) -> str:
    from babel.dates import format_date

    return format_date(datetime.date.fromordinal(day), format="full", locale=language)


@functools.cache
def _quantities(language: str) -> dict[tuple[str, int], str]:
    """Returns a language's quantities that are written like no other of its quantities."""
    from babel.units import format_unit

    texts = {(u, n): str(format_unit(n, u, length="long", locale=language)) for u in _units(language) for n in AMOUNTS}
    times: dict[str, int] = {}
    for text in texts.values():
        times[text.casefold()] = times.get(text.casefold(), 0) + 1
    return {key: text for key, text in texts.items() if times[text.casefold()] == 1}


def _drawn_quantities(language: str, split: str, seed: int) -> list[tuple[tuple[str, int], str]]:
    return [(key, text) for key, text in _quantities(language).items() if part_of(seed, "quantity", *key) == split]


def _translation(language: str, split: str, size: int, seed: int) -> Iterator[_Row]:
    generator = stream(seed, "cldr", "translation", language, split)
    pair = {"src_lang": "en", "tgt_lang": language}
    days = _days(split, seed)
    for place in generator.permutation(len(days))[: size - size // 2].tolist():
        fields = {**pair, "src": _date("en", days[place]), "tgt": _date(language, days[place])}
        yield language, split, fields, digest("date", days[place]) >> 1
    english = _quantities("en")
    pool = [(key, text) for key, text in _drawn_quantities(language, split, seed) if key in english]
    for place in generator.permutation(len(pool))[: size // 2].tolist():
        key, text = pool[place]
        yield language, split, {**pair, "src": english[key], "tgt": text}, digest("quantity", *key) >> 1


def _own_terms(language: str, split: str, seed: int, kinds: Sequence[str]) -> list[tuple[str, str, str]]:
    """Returns kind, code and term of a language's terms of `kinds` in `split`."""
    terms: dict[str, dict[str, str]] = dict(zip(KINDS, term_languages()[language], strict=True))
    return [(k, code, terms[k][code]) for k in kinds for code in sorted(terms[k]) if part_of(seed, k, code) == split]


def _retrieval(language: str, split: str, size: int, seed: int) -> Iterator[_Row]:
    english = english_terms()
    pool = [
        (kind, code, term)
        for kind, code, term in _own_terms(language, split, seed, KINDS)
        if english.get((kind, code), term).casefold() != term.casefold()  # the same in English: nothing to learn
    ]
    order = stream(seed, "cldr", "retrieval", language, split).permutation(len(pool))
    for kind, code, term in (pool[place] for place in order[:size].tolist()):
        yield language, split, {"text": term, "english": english[kind, code]}, digest(kind, code) >> 1


def _generation(language: str, split: str, size: int, seed: int) -> Iterator[_Row]:
    pool = _own_terms(language, split, seed, _NAMES)
    order = stream(seed, "cldr", "generation", language, split).permutation(len(pool))
    for line, place in enumerate(order[:size].tolist()):
        kind, code, term = pool[place]
        yield language, split, {"text": term, "line": line}, digest(kind, code) >> 1


def _question_answering(language: str, split: str, size: int, seed: int) -> Iterator[_Row]:
    from babel.lists import format_list

    generator = stream(seed, "cldr", "question_answering", language, split)
    terms = _own_terms(language, split, seed, _TERMS)
    pools = {kind: [term for of, _, term in terms if of == kind] for kind in _TERMS}
    pools["quantity"] = [text for _, text in _drawn_quantities(language, split, seed)]
    days = _days(split, seed)
    for line in range(size):
        facts = {kind: pool[int(generator.integers(len(pool)))] for kind, pool in pools.items() if pool}
        facts["date"] = _date(language, days[int(generator.integers(len(days)))])
        order = [sorted(facts)[i] for i in generator.permutation(len(facts)).tolist()]
        asked = order[int(generator.integers(len(order)))]
        # Places are found with one sign of nobody's for each fact, for one fact may stand inside another.
        signs = {chr(0xE000 + number): kind for number, kind in enumerate(order)}
        context, start = "", -1
        for sign in format_list(list(signs), style="standard", locale=language):
            if signs.get(sign) == asked:
                start = len(context)
            context += facts[signs[sign]] if sign in signs else sign
        fields = {"context": context, "question": QUESTIONS[asked], "answer": facts[asked], "answer_start": start}
        yield language, split, fields, digest("list", language, split, line, seed) >> 1


_MAKERS: dict[str, Callable[[str, str, int, int], Iterator[_Row]]] = {
    "translation": _translation,
    "retrieval": _retrieval,
    "question_answering": _question_answering,
    "generation": _generation,
}
