"""Fixed few-shot problems on disk: which rows each was made of, so that somebody else can repeat a comparison.

What is made of rows follows from them alone, whatever the seed: strings of recordings, given as many labels, silences
and repeats, and the windows of questions.
"""

import copy
import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from jaxmeta.core.checks import InputError, check_positive
from jaxmeta.data.corpus import Corpus, Rows
from jaxmeta.data.few_shot import FewShot, Fixed
from jaxmeta.data.lines import Path
from jaxmeta.data.recordings import Recordings
from jaxmeta.data.streams import digest

FORMAT = 1
_Episodes = TypeVar("_Episodes", bound=FewShot)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One few-shot problem: the rows it adapts on and is judged on, and what these rows held when it was drawn."""

    language: str
    shots: int
    draw: int
    split: str
    support: tuple[int, ...]
    query: tuple[int, ...]
    digests: dict[int, str]  # of each of the rows


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The problems of a comparison, and the name of the data that their rows are of."""

    data: str
    problems: tuple[Problem, ...]


def row_digest(rows: Rows, row: int) -> str:
    """Returns 16 hexadecimal digits that change when anything does that a row holds, samples of audio included."""
    if isinstance(rows, Corpus | Recordings):
        held: list[Any] = [rows.labels[rows.label[row]], *rows.texts_of(row)]
    else:
        held = [item for name in sorted(getattr(rows, "columns", {})) for item in (name, rows.columns[name][row])]  # pyright: ignore
    return f"{digest(rows.language[row], rows.split[row], *held):016x}"


def make_manifest(
    episodes: FewShot, *, shots: Sequence[int], draws: int, split: str = "test", max_queries: int | None = None
) -> Manifest:
    """Returns the problems that `episodes.evaluation_episode` gives in every language of `split`.

    Args:
        episodes: where they come from.
        shots: how many support examples (for each class), once for every problem.
        draws: how many problems of each language and number of shots.
        split: "dev" or "test".
        max_queries: judge on so many rows at most.
    """
    check_positive("draws", draws)
    problems = []
    for language in getattr(episodes.split, split):
        for number in shots:
            for draw in range(draws):
                parts = episodes.evaluation_rows(
                    language, shots=number, draw=draw, split=split, max_queries=max_queries
                )
                support, query = (tuple(part.tolist()) for part in parts)
                digests = {row: row_digest(episodes.corpus, row) for row in (*support, *query)}
                problems.append(Problem(language, number, draw, split, support, query, digests))
    return Manifest(episodes.corpus.name, tuple(problems))


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Writes a manifest as JSON, whole or not at all. Digests are written once for each row of the data."""
    digests = {row: value for problem in manifest.problems for row, value in problem.digests.items()}
    problems = [
        {k: v for k, v in dataclasses.asdict(problem).items() if k != "digests"} for problem in manifest.problems
    ]
    content = {"format": FORMAT, "data": manifest.data, "problems": problems, "digests": digests}
    part = pathlib.Path(f"{os.fspath(path)}.part")
    part.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def read_manifest(path: Path) -> Manifest:
    """Reads what `write_manifest` wrote.

    Raises:
        InputError: the file is missing, damaged, or of another format.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); correct the path.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}); write the manifest again.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not a manifest of format {FORMAT}; write it again.")
    try:
        digests = {int(row): str(value) for row, value in content["digests"].items()}
        problems = tuple(
            Problem(
                language=str(item["language"]),
                shots=int(item["shots"]),
                draw=int(item["draw"]),
                split=str(item["split"]),
                support=tuple(map(int, item["support"])),
                query=tuple(map(int, item["query"])),
                digests={row: digests[row] for row in map(int, (*item["support"], *item["query"]))},
            )
            for item in content["problems"]
        )
        return Manifest(str(content["data"]), problems)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); write the manifest again.") from None


def check_manifest(manifest: Manifest, rows: Rows) -> None:
    """Checks a manifest against the data that it is to be used with.

    Raises:
        InputError: a row of the problems does not hold what it held when they were drawn, or is not of the language or
            the split that it stands for, or is there twice; or a problem has no rows to adapt to or to be judged on, or
            a language is judged on several queries.
    """
    now: dict[int, str] = {}
    queries: dict[tuple[str, str], tuple[int, ...]] = {}
    for problem in manifest.problems:
        for row, before in problem.digests.items():
            if not 0 <= row < len(rows):
                raise InputError(
                    f"The manifest names row {row} of {manifest.data}, and {rows.name} has {len(rows)} rows; use the "
                    "data that it was written for."
                )
            if before != now.setdefault(row, row_digest(rows, row)):
                raise InputError(
                    f"Row {row} of {rows.name}, for {problem.language}, is not what it was when the manifest was "
                    "written; use the data that it was written for, or write it again."
                )
        if problem.split not in ("dev", "test"):
            raise InputError(
                f"The manifest judges {problem.language} on {problem.split} rows; problems are of dev or test rows, so "
                "write it again."
            )
        for part, numbers in (("train", problem.support), (problem.split, problem.query)):
            if not numbers or len(set(numbers)) < len(numbers):
                what = "a row twice" if numbers else "no row"
                raise InputError(
                    f"The manifest has {what} among the {part} rows of a problem of {problem.language}; write it again."
                )
            for row in numbers:
                if (rows.language[row], rows.split[row]) != (problem.language, part):
                    raise InputError(
                        f"Row {row} of {rows.name} is no {part} row of {problem.language}, as the manifest has it; "
                        "write it again."
                    )
        if queries.setdefault((problem.language, problem.split), problem.query) != problem.query:
            raise InputError(
                f"The manifest judges {problem.language} on other {problem.split} rows in one problem than in another; "
                "write it again."
            )


def with_problems(episodes: _Episodes, manifest: Manifest, name: str = "The manifest") -> _Episodes:
    """Returns episodes whose evaluation problems are those of a manifest; meta-training draws as it did.

    Args:
        episodes: of the data that the manifest was written for.
        manifest: the problems.
        name: what messages call it.

    Raises:
        InputError: it does not fit the data, or a problem has more rows to adapt to than it has shots; or later, when a
            problem is asked for that it does not have.
    """
    check_manifest(manifest, episodes.corpus)
    for problem in manifest.problems:
        if episodes.most_of_a_class(np.array(problem.support)) > problem.shots:
            raise InputError(
                f"The manifest has a problem of {problem.language} that adapts to more rows than its {problem.shots} "
                "shots; write it again."
            )
    found = copy.copy(episodes)
    found.fixed = Fixed(
        name,
        {(p.language, p.shots, p.draw): np.array(p.support, np.int64) for p in manifest.problems},
        {(p.language, p.split): np.array(p.query, np.int64) for p in manifest.problems},
    )
    return found
