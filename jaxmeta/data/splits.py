"""Which languages are meta-trained on, chosen on and judged on, and proof that they share no sentence."""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from jaxmeta.core.checks import InputError, check_not_negative
from jaxmeta.data.corpus import Rows
from jaxmeta.data.streams import stream
from jaxmeta.data.table import normalised

_AnyRows = TypeVar("_AnyRows", bound=Rows)


class LanguageSplit(NamedTuple):
    """Three disjoint sets of language codes, each sorted."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]


def split_languages(
    languages: Sequence[str],
    *,
    test: int | Sequence[str],
    dev: int | Sequence[str],
    train: Sequence[str] = (),
    seed: int = 0,
) -> LanguageSplit:
    """Sets aside `test` and `dev` languages, by name or so many at random; the others are for training.

    Args:
        languages: all codes; their order does not matter.
        test: the codes to judge on, or how many to draw.
        dev: the codes to choose settings on, or how many to draw.
        train: the codes to train on; all others by default.
        seed: what the draw depends on, together with the set of codes.

    Raises:
        InputError: a named language does not exist, is in two sets, or none is left to train on.
    """
    known = sorted(set(languages))
    named: dict[str, tuple[str, ...]] = {}
    for role, wanted in (("test", test), ("dev", dev), *((("train", train),) if len(train) else ())):
        if isinstance(wanted, str):
            raise ValueError(f"`{role}` must be a number or a sequence of codes, got the string {wanted!r}")
        if isinstance(wanted, int):
            check_not_negative(role, wanted)
            continue
        if unknown := sorted(set(wanted) - set(known)):
            raise InputError(
                f"The {role} languages {', '.join(unknown)} are not in the data, which has {_some(known)}; "
                "correct their codes."
            )
        named[role] = tuple(sorted(set(wanted)))
    for one, other in itertools.combinations(named, 2):
        if both := sorted(set(named[one]) & set(named[other])):
            raise InputError(
                f"{', '.join(both)} cannot be a {one} and a {other} language at once; remove it from one of them."
            )
    taken = {language for codes in named.values() for language in codes}
    free = [language for language in known if language not in taken]
    wanted_free = sum(role for role in (test, dev) if isinstance(role, int))
    if len(free) < wanted_free + ("train" not in named):
        counted = f"{len(known) - len(free)} are named and {wanted_free} to be drawn for test and dev"
        none = "" if "train" in named else ", which leaves none to train on"
        raise InputError(f"{len(known)} languages are too few: {counted}{none}; set aside fewer.")
    shuffled = [free[i] for i in stream(seed, "languages").permutation(len(free))]
    for role, wanted in (("test", test), ("dev", dev)):
        if isinstance(wanted, int):
            named[role] = tuple(sorted(shuffled[:wanted]))
            shuffled = shuffled[wanted:]
    return LanguageSplit(named.get("train", tuple(sorted(shuffled))), named["dev"], named["test"])


def without_sources(split: LanguageSplit, left_out: Sequence[str]) -> LanguageSplit:
    """Returns a split whose train languages are fewer; what is judged stays as it is.

    Raises:
        InputError: one of `left_out` is no train language, or none is left to train on.
    """
    if unknown := sorted(set(left_out) - set(split.train)):
        raise InputError(
            f"{', '.join(unknown)} cannot be left out: the train languages are {_some(split.train)}; name some of them."
        )
    kept = tuple(language for language in split.train if language not in left_out)
    if not kept:
        raise InputError("All train languages are left out; leave at least one to train on.")
    return split._replace(train=kept)


def _some(codes: Sequence[str], limit: int = 12) -> str:
    return ", ".join(codes[:limit]) + (f" and {len(codes) - limit} more" if len(codes) > limit else "")


class Tongues(Protocol):
    """Rows whose languages, or pairs of languages, are known: a `Table`, or rows that stay on disk."""

    @property
    def name(self) -> str:
        """What to call them in reports."""
        ...

    def languages(self) -> tuple[str, ...]:
        """Returns the codes of all languages (of all pairs of them), sorted."""
        ...

    def codes(self, language: str) -> tuple[str, ...]:
        """Returns the codes of the languages of a pair, or of a language its own."""
        ...


def split_pairs(
    table: Tongues,
    *,
    test: int | Sequence[str],
    dev: int | Sequence[str],
    train: Sequence[str] = (),
    pivots: Sequence[str] | None = None,
    seed: int = 0,
) -> LanguageSplit:
    """Sets languages aside as `split_languages` does, and returns the pairs of languages that follow.

    A pair is for testing if it has a test language, else for dev if it has a dev language. A pair of a test and a dev
    language is left out, for settings would be chosen on a language that is judged, and so is one that has a language
    of no set. Rows of one language each are split as `split_languages` does.

    Args:
        table: the rows.
        test: the codes of languages to judge on, or how many to draw.
        dev: the codes to choose settings on, or how many to draw.
        train: the codes to train on; all others by default.
        pivots: languages that may be on both sides, such as English in English to many; those that all pairs have in
            common by default.
        seed: what the draw depends on.

    Raises:
        InputError: a named language does not exist, is in two sets, or no pair is left to train on.
    """
    pairs = {pair: table.codes(pair) for pair in table.languages()}
    common = shared_codes(pairs.values()) if pivots is None else set(pivots)
    for role, wanted in (("test", test), ("dev", dev)):
        if not isinstance(wanted, int | str) and (shared := sorted(set(wanted) & common)):
            raise InputError(
                f"{_some(shared)} cannot be for {role}: pairs of {table.name} to train on have it too; name languages "
                "of the other side."
            )
    named = [code for code in train if code not in common]
    if len(train) and not named:
        raise InputError(
            f"Nothing but {_some(sorted(train))} is to be trained on, which all pairs of {table.name} have; name "
            "languages of the other side."
        )
    roles = split_languages(
        sorted({c for codes in pairs.values() for c in codes} - common),
        test=test, dev=dev, train=named, seed=seed,
    )  # fmt: skip
    known = {code for codes in roles for code in codes} | common
    found: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for pair, codes in pairs.items():
        tested, chosen = (bool(set(codes) & set(part)) for part in (roles.test, roles.dev))
        if set(codes) <= known and not (tested and chosen):
            found["test" if tested else "dev" if chosen else "train"].append(pair)
    for role, wanted in roles._asdict().items():
        if wanted and not found[role]:
            raise InputError(
                f"No pair of languages of {table.name} is left for {role}, since its languages are {_some(wanted)}; "
                "set aside fewer or others."
            )
    return LanguageSplit(**{role: tuple(sorted(names)) for role, names in found.items()})


def shared_codes(pairs: Iterable[Iterable[str]]) -> set[str]:
    """Returns the codes that all of several pairs of languages have in common, such as English in English to many."""
    each = [set(codes) for codes in pairs]
    return set.intersection(*each) if len(each) > 1 else set()


class OverlapReport(NamedTuple):
    """What the rows judged (test, of test languages) share with those of meta-training (train, of train)."""

    train_rows: int
    judged_rows: int
    shared_sentences: int  # judged rows whose sentence number a meta-training row has
    shared_texts: int  # judged rows of which a text, but for case and spaces, is one of a meta-training row
    linked: bool  # whether any sentence number is that of rows in two languages: without, none could be shared

    def __str__(self) -> str:
        rows = f"overlap of {self.train_rows} meta-training rows with {self.judged_rows} judged rows: "
        if not self.linked:
            return rows + f"{self.shared_texts} by text (nothing links rows of different tasks)"
        return rows + f"{self.shared_sentences} by sentence, {self.shared_texts} by text"


def overlap(corpus: Rows, split: LanguageSplit) -> OverlapReport:
    """Counts the judged rows that meta-training has seen, in whatever language, on whichever side of a pair."""
    seen, judged = _seen(corpus, split), _judged(corpus, split)
    sentences = set(corpus.sentence[seen].tolist())
    texts = {normalised(text) for row in seen for text in corpus.texts_of(row)}
    return OverlapReport(
        train_rows=len(seen),
        judged_rows=len(judged),
        shared_sentences=sum(number in sentences for number in corpus.sentence[judged].tolist()),
        shared_texts=sum(any(normalised(text) in texts for text in corpus.texts_of(row)) for row in judged),
        linked=_linked(corpus),
    )


def check_overlap(corpus: Rows, split: LanguageSplit) -> OverlapReport:
    """Returns the report of `overlap`, or raises `InputError` if sentences are shared.

    Texts that are equal while their sentences differ are only reported: close languages write some things
    alike.
    """
    return checked_report(overlap(corpus, split), corpus.name)


def checked_report(report: OverlapReport, name: str) -> OverlapReport:
    """Returns a report of the data `name`, or raises `InputError` if sentences are shared."""
    if report.shared_sentences:
        raise InputError(
            f"{report.shared_sentences} of {report.judged_rows} judged rows of {name} are "
            "translations of rows that are trained on; give each sentence the same split in every language."
        )
    return report


def translated_shots(corpus: Rows, split: LanguageSplit) -> tuple[int, int]:
    """Returns how many rows that test languages adapt to say what a meta-training row says, and how many there are.

    That is as it should be in a parallel corpus, where only judged sentences are kept apart. But a method knows such
    shots better than what it is judged on: whatever is fitted to its answers to them is too sure.
    """
    seen = set(corpus.sentence[_seen(corpus, split)].tolist())
    shots = [int(row) for language in split.test for row in corpus.rows(language, "train")]
    return sum(number in seen for number in corpus.sentence[shots].tolist()), len(shots)


def repeated_shots(corpus: Rows, split: LanguageSplit) -> tuple[int, int]:
    """Returns how many rows that held-out languages adapt to are rows that the same language is judged on, and of how
    many: all their texts are equal. Whoever matches strings knows the answer to those.
    """
    repeated = total = 0
    for role in ("dev", "test"):
        for language in getattr(split, role):
            judged = {tuple(map(normalised, corpus.texts_of(row))) for row in corpus.rows(language, role)}
            shots = [tuple(map(normalised, corpus.texts_of(row))) for row in corpus.rows(language, "train")]
            repeated += sum(texts in judged for texts in shots)
            total += len(shots)
    return repeated, total


def without_overlap(corpus: _AnyRows, split: LanguageSplit) -> tuple[_AnyRows, int]:
    """Returns `corpus` without the meta-training rows that say what a judged row says, and how many they were.

    Rows go by sentence number, and by equal text on any side in any language too. What is judged stays as it is.
    """
    seen, judged = _seen(corpus, split), _judged(corpus, split)
    sentences = set(corpus.sentence[judged].tolist())
    texts = {normalised(text) for row in judged for text in corpus.texts_of(row)}
    shared = [
        row
        for row in seen
        if int(corpus.sentence[row]) in sentences or any(normalised(text) in texts for text in corpus.texts_of(row))
    ]
    return corpus.take(np.delete(np.arange(len(corpus)), shared)), len(shared)


def _linked(corpus: Rows) -> bool:
    number, first = np.unique(corpus.sentence, return_index=True)
    return bool(np.any(corpus.language != corpus.language[first[np.searchsorted(number, corpus.sentence)]]))


def _seen(corpus: Rows, split: LanguageSplit) -> list[int]:
    return [int(row) for language in split.train for row in corpus.rows(language, "train")]


def _judged(corpus: Rows, split: LanguageSplit) -> list[int]:
    return [int(row) for language in split.test for row in corpus.rows(language, "test")]
