"""Which languages are meta-trained on, chosen on and judged on, and proof that they share no sentence."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxmeta.core.checks import InputError, check_not_negative
from jaxmeta.data.corpus import Corpus
from jaxmeta.data.streams import stream


class LanguageSplit(NamedTuple):
    """Three disjoint sets of language codes, each sorted."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]


def split_languages(
    languages: Sequence[str], *, test: int | Sequence[str], dev: int | Sequence[str], seed: int = 0
) -> LanguageSplit:
    """Sets aside `test` and `dev` languages, by name or so many at random; the others are for training.

    Args:
        languages: all codes; their order does not matter.
        test: the codes to judge on, or how many to draw.
        dev: the codes to choose settings on, or how many to draw.
        seed: what the draw depends on, together with the set of codes.

    Raises:
        InputError: a named language does not exist, is in both sets, or none is left to train on.
    """
    known = sorted(set(languages))
    named: dict[str, tuple[str, ...]] = {}
    for role, wanted in (("test", test), ("dev", dev)):
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
    if both := sorted(set(named.get("test", ())) & set(named.get("dev", ()))):
        raise InputError(f"{', '.join(both)} cannot be a test and a dev language at once; remove it from one of them.")
    taken = {language for codes in named.values() for language in codes}
    free = [language for language in known if language not in taken]
    wanted_free = sum(role for role in (test, dev) if isinstance(role, int))
    if len(free) <= wanted_free:
        raise InputError(
            f"{len(known)} languages are too few: {len(known) - len(free) + wanted_free} are set aside for "
            "test and dev, which leaves none to train on; set aside fewer."
        )
    shuffled = [free[i] for i in stream(seed, "languages").permutation(len(free))]
    for role, wanted in (("test", test), ("dev", dev)):
        if isinstance(wanted, int):
            named[role] = tuple(sorted(shuffled[:wanted]))
            shuffled = shuffled[wanted:]
    return LanguageSplit(train=tuple(sorted(shuffled)), dev=named["dev"], test=named["test"])


def _some(codes: Sequence[str], limit: int = 12) -> str:
    return ", ".join(codes[:limit]) + (f" and {len(codes) - limit} more" if len(codes) > limit else "")


class OverlapReport(NamedTuple):
    """What the rows judged (test, of test languages) share with those of meta-training (train, of train)."""

    train_rows: int
    judged_rows: int
    shared_sentences: int  # judged rows whose sentence number a meta-training row has
    shared_texts: int  # judged rows whose text, but for case and spaces, a meta-training row has

    def __str__(self) -> str:
        return (
            f"overlap of {self.train_rows} meta-training rows with {self.judged_rows} judged rows: "
            f"{self.shared_sentences} by sentence, {self.shared_texts} by text"
        )


def overlap(corpus: Corpus, split: LanguageSplit) -> OverlapReport:
    """Counts the judged rows that meta-training has seen, in whatever language."""
    seen = [row for language in split.train for row in corpus.rows(language, "train")]
    judged = [row for language in split.test for row in corpus.rows(language, "test")]
    sentences = {int(corpus.sentence[row]) for row in seen}
    texts = {_normalised(corpus.text[row]) for row in seen}
    return OverlapReport(
        train_rows=len(seen),
        judged_rows=len(judged),
        shared_sentences=sum(int(corpus.sentence[row]) in sentences for row in judged),
        shared_texts=sum(_normalised(corpus.text[row]) in texts for row in judged),
    )


def check_overlap(corpus: Corpus, split: LanguageSplit) -> OverlapReport:
    """Returns the report of `overlap`, or raises `InputError` if sentences are shared.

    Texts that are equal while their sentences differ are only reported: close languages write some things
    alike.
    """
    report = overlap(corpus, split)
    if report.shared_sentences:
        raise InputError(
            f"{report.shared_sentences} of {report.judged_rows} judged rows of {corpus.name} are "
            "translations of rows that are trained on; give each sentence the same split in every language."
        )
    return report


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())
