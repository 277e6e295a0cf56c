"""Manifests: the same problems again from a file, and a sentence where the data are others."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxmeta.core.checks import InputError
from jaxmeta.data.cldr import cldr
from jaxmeta.data.cldr_pairs import cldr_pairs
from jaxmeta.data.episodes import TextEpisodes
from jaxmeta.data.manifests import (
    check_manifest,
    make_manifest,
    read_manifest,
    row_digest,
    with_problems,
    write_manifest,
)
from jaxmeta.data.pair_episodes import PairEpisodes
from jaxmeta.data.splits import LanguageSplit
from jaxmeta.data.tokenize import ByteTokenizer

SPLIT = LanguageSplit(("de", "fr"), ("uk",), ("he", "th"))
CODES = ("de", "fr", "uk", "he", "th")


@pytest.fixture(scope="module")
def text():
    return TextEpisodes(cldr("weekday", languages=CODES), ByteTokenizer(48), SPLIT, shots=2, queries=2, seed=1)


@pytest.fixture(scope="module")
def pairs():
    table = cldr_pairs("retrieval", languages=CODES, train=20, dev=8, test=8)
    return PairEpisodes(table, ByteTokenizer(32), SPLIT, shots=2, queries=2, seed=1)


@pytest.mark.parametrize("kind", ["text", "pairs"])
def test_the_same_problems_from_a_file(request, tmp_path, kind):
    episodes = request.getfixturevalue(kind)
    manifest = make_manifest(episodes, shots=(1, 3), draws=2, max_queries=6)
    assert len(manifest.problems) == 2 * 2 * 2
    write_manifest(tmp_path / "shots.json", manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["shots.json"]
    again = read_manifest(tmp_path / "shots.json")
    assert again == manifest
    check_manifest(again, episodes.corpus)
    # Of other seeds, so that only the file can say which rows.
    other = type(episodes)(episodes.corpus, episodes.tokenizer, SPLIT, shots=1, queries=1, seed=9)
    fixed = with_problems(other, again)
    for problem in manifest.problems:
        where = {"shots": problem.shots, "draw": problem.draw}
        expected = episodes.evaluation_episode(problem.language, **where, max_queries=6)
        found = fixed.evaluation_episode(problem.language, **where, max_queries=6)
        if kind == "text":
            jax.tree.map(np.testing.assert_array_equal, found, expected)
        else:
            np.testing.assert_array_equal(found.query["inputs"]["left"], expected.query["inputs"]["left"])
        jax.tree.map(np.testing.assert_array_equal, fixed.support(problem.language, **where), found.support)
    assert other.fixed is None
    jax.tree.map(np.testing.assert_array_equal, fixed(3), other(3))
    with pytest.raises(InputError, match="no problem of he with 7 shots and draw 0"):
        fixed.evaluation_rows("he", shots=7, draw=0)
    with pytest.raises(InputError, match="judges no test rows of uk"):
        fixed.query_rows("uk")
    with pytest.raises(InputError, match="on 6 rows, more than the 5 of `max_queries`"):
        fixed.query_rows("he", max_queries=5)


def test_rows_of_other_roles_are_refused(text):
    manifest = make_manifest(text, shots=(1,), draws=2, max_queries=6)
    first = manifest.problems[0]
    swapped = dataclasses.replace(first, support=first.query)
    with pytest.raises(InputError, match="is no train row of he"):
        check_manifest(dataclasses.replace(manifest, problems=(swapped,)), text.corpus)
    shorter = dataclasses.replace(first, query=first.query[1:])
    with pytest.raises(InputError, match="judges he on other test rows"):
        check_manifest(dataclasses.replace(manifest, problems=(shorter, *manifest.problems[1:])), text.corpus)


def test_problems_that_no_draw_gives_are_refused(text):
    manifest = make_manifest(text, shots=(2,), draws=1, max_queries=6)
    first = manifest.problems[0]
    for damage, message in (
        ({"support": first.support[:1] * 2}, "has a row twice among the train rows of a problem of he"),
        ({"query": first.query[:1] * 2}, "has a row twice among the test rows of a problem of he"),
        ({"support": ()}, "has no row among the train rows of a problem of he"),
        ({"query": ()}, "has no row among the test rows of a problem of he"),
        ({"split": "train"}, "judges he on train rows; problems are of dev or test rows"),
        ({"shots": 1}, "a problem of he that adapts to more rows than its 1 shots"),
    ):
        damaged = dataclasses.replace(manifest, problems=(dataclasses.replace(first, **damage),))
        with pytest.raises(InputError, match=message):
            with_problems(text, damaged)


def test_rows_that_changed_are_named(text, pairs):
    manifest = make_manifest(text, shots=(2,), draws=1)
    row = manifest.problems[0].support[3]
    texts = list(text.corpus.text)
    texts[row] += "."
    changed = dataclasses.replace(text.corpus, text=tuple(texts))
    with pytest.raises(InputError, match=f"Row {row} of cldr-weekday, for he, is not what it was") as error:
        check_manifest(manifest, changed)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="is not what it was"):
        check_manifest(manifest, dataclasses.replace(text.corpus, label=(text.corpus.label + 1) % 7))
    with pytest.raises(InputError, match="has 9 rows; use the data"):
        check_manifest(manifest, text.corpus.take(np.arange(9)))
    table = pairs.corpus
    assert len({row_digest(table, row) for row in range(len(table))}) == len(table)
    columns = {**table.columns, "english": tuple("x" for _ in range(len(table)))}
    assert row_digest(dataclasses.replace(table, columns=columns), 0) != row_digest(table, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a manifest of format 1"),
        ("[" * 100_000, "is not JSON"),
        ('{"format": 2}', "is not a manifest of format 1"),
        ('{"format": 1, "problems": []}', "is damaged"),
        ('{"format": 1, "data": "x", "digests": {}, "problems": [{"language": "a"}]}', "is damaged"),
        (json.dumps({"format": 1, "data": "x", "digests": {"a": 1}, "problems": []}), "is damaged"),
        (
            json.dumps({"format": 1, "data": "x", "digests": {}, "problems": [
                {"language": "a", "shots": 1, "draw": 0, "split": "test", "support": [1], "query": []}]}),
            "is damaged",
        ),
    ],
)  # fmt: skip
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / "shots.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        read_manifest(path)
    assert str(path) in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path / "none.json")
