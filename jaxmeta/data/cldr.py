"""Real multilingual tasks without a download: Babel ships the Unicode CLDR, in hundreds of languages.

`month` and `weekday`: read the month (the weekday) off a full date. `kind`: tell what a term names: a
language, a script, a territory, a currency, a unit or a city.
"""

import collections
import datetime
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from jaxmeta.core.checks import InputError, check_not_negative, check_one_of, check_positive
from jaxmeta.data.corpus import SPLITS, Corpus
from jaxmeta.data.streams import digest, stream

CLDR_TASKS = ("month", "weekday", "kind")
MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
KINDS = ("language", "script", "territory", "currency", "unit", "city")
MIN_TERMS = 10
# Codes that stand for no language, script, territory or currency, or for a test of software.
_NOTHING = frozenset(
    {"root", "und", "mul", "zxx", "mis", "Zinh", "Zxxx", "Zyyy", "Zzzz", "ZZ", "XA", "XB", "XTS", "XXX"}
)
FIRST_DAY = datetime.date(1990, 1, 1).toordinal()
LAST_DAY = datetime.date(2035, 12, 31).toordinal()


@functools.cache  # a term is asked for in every language
def part_of(seed: int, *name: object) -> str:
    """Half of all things are for training, a sixth for dev, a third for test, whatever the language."""
    draw = digest(seed, "split", *name) % 6
    return "train" if draw < 3 else "dev" if draw < 4 else "test"


@functools.cache
def _parents() -> dict[str, str]:
    """Returns each language's locale with the locale that it inherits from: the root, but for a few.

    There is one locale per language. Those of a territory or of another script are the same language again,
    which a split by languages must not put on both sides.
    """
    from babel import localedata
    from babel.core import get_global

    codes = sorted(code for code in localedata.locale_identifiers() if "_" not in code and code != "root")
    exceptions = get_global("parent_exceptions")
    return {code: exceptions.get(code, "root") for code in codes}


def _full_date(locale: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Returns the pattern of a full date ("%(EEEE)s, %(d)s. %(MMMM)s %(y)s"), the months and the weekdays."""
    from babel import localedata

    data = localedata.load(locale)
    months, days = (data[field]["format"]["wide"] for field in ("months", "days"))
    pattern = data["date_formats"]["full"].format
    return pattern, tuple(months[i] for i in range(1, 13)), tuple(days[i] for i in range(7))


@functools.cache
def date_languages(task: str = "month") -> tuple[str, ...]:
    """Returns the languages whose full dates suit `task`: 292 for "month", 289 for "weekday" in Babel 2.19.

    A language qualifies when its full date pattern has a month in letters (MMM or more, or LLL) and a weekday
    (E or c), when its twelve months (its seven weekdays) are distinct, none a bare number and none taken from
    the root locale ("M01", "Sun"), and when it does not write dates in another language: Bokmål inherits all
    of Norwegian, and Haitian the dates of French. Chinese, Japanese and Cantonese write the month of a full
    date as a number ("M月") and do not qualify; Korean and Vietnamese have names that hold a number ("1월",
    "tháng 1") and do. Kako would, but for its eleventh month, which is the root's.
    """
    place = 1 if task == "month" else 2
    inherited = set(_full_date("root")[place])
    found = []
    for code, parent in _parents().items():
        date = _full_date(code)
        pattern, names = date[0], date[place]
        named = ("(MMM" in pattern or "(LLL" in pattern) and ("(E" in pattern or "(c" in pattern)
        own = not any(name.isdigit() or name in inherited for name in names) and date != _full_date(parent)
        if named and own and len(set(names)) == len(names):
            found.append(code)
    return tuple(found)


def _dates(task: str, languages: Sequence[str], sizes: dict[str, int], seed: int) -> Corpus:
    from babel import Locale
    from babel.dates import format_date

    ordinals = np.arange(FIRST_DAY, LAST_DAY + 1)
    days = [datetime.date.fromordinal(o) for o in ordinals.tolist()]
    labels = MONTHS if task == "month" else WEEKDAYS
    label = np.array([d.month - 1 if task == "month" else d.weekday() for d in days])
    part = np.array([part_of(seed, "date", o) for o in ordinals.tolist()])
    pools = {(s, c): np.flatnonzero((part == s) & (label == c)) for s in SPLITS for c in range(len(labels))}
    for (split, _), pool in pools.items():
        if sizes[split] > len(pool):
            raise ValueError(f"`{split}` must be at most {len(pool)}, the days there are, got {sizes[split]}")
    rows = []
    for language in languages:
        locale = Locale.parse(language)
        for (split, number), pool in pools.items():
            generator = stream(seed, "cldr", task, language, split, number)
            for i in generator.choice(pool, sizes[split], replace=False).tolist():
                text = format_date(days[i], format="full", locale=locale)
                rows.append((language, split, number, text, int(ordinals[i])))
    return _corpus(task, labels, rows)


def own_value(data: object, *path: str) -> object:
    """Returns what is at `path` in the data of a locale, None where the locale itself says nothing.

    Since Babel 2.19 what CLDR refers elsewhere is that reference, or a pair of the reference and of what the locale
    says in its place.
    """
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
        data = data[1] if isinstance(data, tuple) else data
    return data if isinstance(data, str | Mapping) else None


def _named(locale: str) -> list[dict[str, object]]:
    """Returns the terms of each kind by code, inherited ones too."""
    from babel import localedata

    data = localedata.load(locale)
    return [
        dict(data.get("languages", {})),
        dict(data.get("scripts", {})),
        dict(data.get("territories", {})),
        dict(data.get("currency_names", {})),
        {code: own_value(data, "unit_display_names", code, "long") for code in data.get("unit_display_names", {})},
        {code: zone.get("city") for code, zone in data.get("time_zones", {}).items()},
    ]


@functools.cache
def term_languages() -> dict[str, tuple[dict[str, str], ...]]:
    """Returns the terms of each kind by code for all languages that suit "kind": 122 in Babel 2.19.

    A language qualifies with at least `MIN_TERMS` terms of each kind that are its own. Not its own are terms
    that it inherits, and names equal to the code (or, for a city, to the English name in its time zone's
    code). A term that names two things is left out, for it would have two labels or be in two splits. So is
    one with a digit: years mark former currencies in every language alike, which takes no adaptation to see.
    """
    found = {}
    for language, parent in _parents().items():
        terms = [
            {code: term for code, term in of_kind.items() if term != inherited.get(code) and _own(code, term)}
            for of_kind, inherited in zip(_named(language), _named(parent), strict=True)
        ]
        times = collections.Counter(str(term).casefold() for of_kind in terms for term in of_kind.values())
        terms = tuple(
            {code: str(term) for code, term in of_kind.items() if times[str(term).casefold()] == 1} for of_kind in terms
        )
        if min(map(len, terms)) >= MIN_TERMS:
            found[language] = terms
    return found


@functools.cache
def english_terms() -> dict[tuple[str, str], str]:
    """Returns the English term of each `(kind, code)` that has one, without those that name two things."""
    named = {
        (kind, code): str(term)
        for kind, terms in zip(KINDS, _named("en"), strict=True)
        for code, term in terms.items()
        if isinstance(term, str)
    }
    # Cities of the name that their time zone has are not named once more.
    cities = {code for terms in term_languages().values() for code in terms[KINDS.index("city")]}
    for code in cities:
        named.setdefault(("city", code), code.rpartition("/")[2].replace("_", " "))
    times = collections.Counter(term.casefold() for term in named.values())
    return {key: term for key, term in named.items() if times[term.casefold()] == 1}


def _own(code: str, term: object) -> bool:
    if not isinstance(term, str) or code in _NOTHING or code.startswith("Etc/"):
        return False
    english = code.rpartition("/")[2].replace("_", " ").casefold()
    return term.casefold() not in (code.casefold(), english) and not any(c.isdigit() for c in term)


def _kinds(languages: Sequence[str], sizes: dict[str, int], seed: int) -> Corpus:
    rows = []
    for language in languages:
        for number, (kind, terms) in enumerate(zip(KINDS, term_languages()[language], strict=True)):
            codes: dict[str, list[str]] = {split: [] for split in SPLITS}
            for code in sorted(terms):
                codes[part_of(seed, kind, code)].append(code)
            for split, pool in codes.items():
                order = stream(seed, "cldr", "kind", language, split, kind).permutation(len(pool))
                for i in order[: sizes[split]].tolist():
                    sentence = digest(kind, pool[i]) >> 1  # 63 bits: they are stored as int64
                    rows.append((language, split, number, terms[pool[i]], sentence))
    return _corpus("kind", KINDS, rows)


def _corpus(task: str, labels: tuple[str, ...], rows: list[tuple[str, str, int, str, int]]) -> Corpus:
    language, split, label, text, sentence = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return Corpus(
        name=f"cldr-{task}",
        labels=labels,
        language=np.array(language, str),
        split=np.array(split, str),
        label=np.array(label, np.int32),
        text=tuple(text),
        sentence=np.array(sentence, np.int64),
    )


def checked_sizes(train: int, dev: int, test: int) -> dict[str, int]:
    """Returns rows by split; all may be left out but those to train on."""
    check_positive("train", train)
    check_not_negative("dev", dev)
    check_not_negative("test", test)
    return {"train": train, "dev": dev, "test": test}


def chosen_languages(task: str, qualified: tuple[str, ...], languages: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the languages of a task that are asked for, each once; all that qualify where none is named.

    Raises:
        InputError: one of them does not qualify.
    """
    chosen = qualified if languages is None else tuple(dict.fromkeys(languages))
    if unknown := sorted(set(chosen) - set(qualified)):
        raise InputError(
            f"The CLDR task {task!r} has no language {', '.join(unknown)}; leave it out, or name no "
            f"languages and get all {len(qualified)}."
        )
    return chosen


def cldr(
    task: str,
    *,
    languages: Sequence[str] | None = None,
    train: int = 12,
    dev: int = 8,
    test: int = 8,
    seed: int = 0,
) -> Corpus:
    """Returns a task of the Unicode CLDR, balanced over labels and parallel across languages.

    A sentence (a date, a term's code) is in one split in every language: half are for training, a sixth for
    dev and a third for test.

    Args:
        task: "month", "weekday" or "kind".
        languages: codes of the languages to keep; all that qualify by default.
        train: rows per language and label in the train split; at most so many for "kind".
        dev: the same for dev.
        test: the same for test.
        seed: what the draw of rows and of splits depends on.
    """
    check_one_of("task", task, CLDR_TASKS)
    sizes = checked_sizes(train, dev, test)
    chosen = chosen_languages(task, tuple(term_languages()) if task == "kind" else date_languages(task), languages)
    return _kinds(chosen, sizes, seed) if task == "kind" else _dates(task, chosen, sizes, seed)
