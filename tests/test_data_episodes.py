"""Episodes: pure in their number, disjoint, balanced, nested in their shots, honest in their masks."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxmeta.core.batches import pad_batch, stack_episodes
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Episode
from jaxmeta.data.cldr import cldr
from jaxmeta.data.corpus import Corpus
from jaxmeta.data.episodes import TextEpisodes
from jaxmeta.data.sinusoid import Sinusoid
from jaxmeta.data.splits import LanguageSplit
from jaxmeta.data.tokenize import ByteTokenizer

SPLIT = LanguageSplit(("de", "fr", "ru"), ("sw",), ("he", "th"))
LENGTH = 128  # no text is cut


@pytest.fixture(scope="module")
def corpus():
    return cldr("weekday", languages=("de", "fr", "ru", "sw", "he", "th"))


@pytest.fixture(scope="module")
def episodes(corpus):
    return TextEpisodes(corpus, ByteTokenizer(LENGTH), SPLIT, shots=3, queries=4, seed=5)


def _texts(batch):
    real = batch["inputs"] if "mask" not in batch else batch["inputs"][batch["mask"]]
    return ByteTokenizer(LENGTH).decode(real)


def _known(corpus, languages, split):
    tokenizer = ByteTokenizer(LENGTH)
    rows = [row for language in languages for row in corpus.rows(language, split)]
    return {
        text: (str(corpus.language[row]), int(corpus.label[row]))
        for text, row in zip(tokenizer.decode(tokenizer.encode(corpus.texts(rows))), rows, strict=True)
    }


def _small(counts, labels=("x", "y", "z")):
    """A corpus with so many rows for each (language, split, label)."""
    rows = [(*cell, f"{'-'.join(map(str, cell))}-{k}") for cell, count in counts.items() for k in range(count)]
    language, split, label, text = zip(*rows, strict=True)
    columns = np.array(language), np.array(split), np.array(label, np.int32), text, np.arange(len(rows))
    return Corpus("small", labels, *columns)


def test_shapes_types_and_balance(episodes):
    episode = episodes(0, split="train")
    for batch, shots in ((episode.support, 3), (episode.query, 4)):
        assert {name: (leaf.shape, leaf.dtype) for name, leaf in batch.items()} == {
            "inputs": ((shots * 7, LENGTH), np.int32),
            "targets": ((shots * 7,), np.int32),
            "mask": ((shots * 7,), bool),
            "classes": ((shots * 7, 7), bool),
        }
        assert np.bincount(batch["targets"]).tolist() == [shots] * 7
        assert batch["mask"].all()
        assert batch["classes"].all()


@pytest.mark.parametrize(("split", "judged"), [("train", "train"), ("dev", "dev"), ("test", "test")])
def test_one_language_disjoint_and_from_the_right_rows(corpus, episodes, split, judged):
    languages = getattr(SPLIT, split)
    support, query = _known(corpus, languages, "train"), _known(corpus, languages, judged)
    seen = set()
    for index in range(30):
        episode = episodes(index, split=split)
        ours, theirs = _texts(episode.support), _texts(episode.query)
        assert len(set(ours)) == len(ours) == 21
        assert len(set(theirs)) == len(theirs) == 28
        assert not set(ours) & set(theirs)
        codes = {support[text][0] for text in ours} | {query[text][0] for text in theirs}
        assert len(codes) == 1
        seen |= codes
        assert [support[text][1] for text in ours] == episode.support["targets"].tolist()
        assert [query[text][1] for text in theirs] == episode.query["targets"].tolist()
    assert seen == set(languages)


def test_pure_in_seed_split_and_index(corpus, episodes):
    twin = TextEpisodes(corpus, ByteTokenizer(LENGTH), SPLIT, shots=3, queries=4, seed=5)
    other = TextEpisodes(corpus, ByteTokenizer(LENGTH), SPLIT, shots=3, queries=4, seed=6)
    np.random.seed(1)  # noqa: NPY002  the state of the process must not matter
    order = [7, 3, 3, 0]
    first = {index: episodes(index, split="train") for index in order}
    for index in sorted(set(order)):
        jax.tree.map(np.testing.assert_array_equal, twin(index, split="train"), first[index])
    inputs = [
        first[0].support["inputs"],
        first[3].support["inputs"],
        other(0, split="train").support["inputs"],
        episodes(0, split="test").support["inputs"],
        episodes(2**40, split="train").support["inputs"],
    ]
    assert len({array.tobytes() for array in inputs}) == len(inputs)


def test_the_same_in_every_process():
    program = (
        "import hashlib\n"
        "from jaxmeta.data import *\n"
        "corpus = cldr('month', languages=('de', 'fr', 'he'))\n"
        "split = split_languages(corpus.languages(), test=1, dev=0, seed=3)\n"
        "d = TextEpisodes(corpus, ByteTokenizer(32), split, shots=2, queries=2)\n"
        "e = [d(4, split='train'), d.evaluation_episode(split.test[0], shots=2, draw=1), Sinusoid()(3)]\n"
        "arrays = [b[k] for x in e for b in x for k in sorted(b)] + [d.pool(size=9)['inputs']]\n"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in arrays)).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_temperature_flattens_the_draw():
    counts = {(code, "train", label): rows for code, rows in (("a", 45), ("b", 5)) for label in (0, 1)}
    corpus = _small(counts, ("x", "y"))
    split = LanguageSplit(("a", "b"), (), ())

    def episodes(temperature):
        return TextEpisodes(corpus, ByteTokenizer(16), split, shots=1, queries=1, temperature=temperature)

    np.testing.assert_allclose(episodes(1.0).weights("train"), [0.9, 0.1])
    np.testing.assert_allclose(episodes(2.0).weights("train"), [0.75, 0.25])
    np.testing.assert_allclose(episodes(np.inf).weights("train"), [0.5, 0.5])
    draws = [_texts(episodes(1.0)(index).support)[0][0] for index in range(400)]
    assert draws.count("a") / 400 == pytest.approx(0.9, abs=0.05)


def test_masks_where_rows_or_classes_are_lacking():
    counts = {("a", "train", 0): 9, ("a", "train", 1): 3}
    counts |= {("b", "train", 0): 2, ("b", "train", 2): 1, ("b", "test", 2): 1}
    corpus = _small(counts)
    split = LanguageSplit(("a",), (), ("b",))
    episodes = TextEpisodes(corpus, ByteTokenizer(LENGTH), split, shots=2, queries=3)
    for index in range(10):
        episode = episodes(index, split="train")
        support = episode.support["mask"].reshape(2, 3).sum(0)
        query = episode.query["mask"].reshape(3, 3).sum(0)
        assert support.tolist() == [2, 1, 0]
        assert query.tolist() == [3, 2, 0], "three rows: a fair share for each side, and all are used"
        assert not set(_texts(episode.support)) & set(_texts(episode.query))
        for batch in episode:
            assert batch["classes"].tolist() == [[True, True, False]] * len(batch["mask"])
            assert batch["inputs"].any(1).all(), "padding holds a real text"
            assert batch["classes"][np.arange(len(batch["targets"])), batch["targets"]].all()
    episode = episodes(0, split="test")
    assert episode.support["mask"].reshape(2, 3).sum(0).tolist() == [2, 0, 1]
    assert episode.query["mask"].reshape(3, 3).sum(0).tolist() == [0, 0, 1]
    assert episode.query["classes"][0].tolist() == [True, False, True]


def test_a_class_with_one_row_supports_and_judges_nothing():
    corpus = _small({("a", "train", 0): 1, ("a", "train", 1): 1})
    episode = TextEpisodes(corpus, ByteTokenizer(8), LanguageSplit(("a",), (), ()), shots=1, queries=1)(0)
    assert episode.support["mask"].tolist() == [True, True, False]
    assert not episode.query["mask"].any()
    assert episode.query["inputs"].any(1).all()


def test_evaluation_support_is_nested_and_the_query_is_everything(corpus, episodes):
    few, many = (episodes.evaluation_episode("he", shots=shots, draw=2) for shots in (2, 6))
    for name, leaf in few.support.items():
        np.testing.assert_array_equal(leaf, many.support[name][: len(leaf)])
    assert few.support["targets"].tolist() == list(range(7)) * 2
    rows = corpus.rows("he", "test")
    np.testing.assert_array_equal(few.query["targets"], corpus.label[rows])
    np.testing.assert_array_equal(few.query["inputs"], ByteTokenizer(LENGTH).encode(corpus.texts(rows)))
    assert set(_texts(few.support)) <= set(_known(corpus, ("he",), "train"))
    again, other, elsewhere = (
        episodes.evaluation_episode(language, shots=2, draw=draw)
        for language, draw in (("he", 2), ("he", 3), ("th", 2))
    )
    np.testing.assert_array_equal(again.support["inputs"], few.support["inputs"])
    assert (other.support["inputs"] != few.support["inputs"]).any()
    np.testing.assert_array_equal(other.query["inputs"], few.query["inputs"])
    assert (elsewhere.support["inputs"] != few.support["inputs"]).any()


def test_evaluation_on_fewer_queries_is_the_same_for_every_draw(episodes):
    queries = [
        episodes.evaluation_episode("th", shots=shots, draw=draw, max_queries=10).query["inputs"]
        for shots, draw in ((1, 0), (4, 3))
    ]
    assert queries[0].shape == (10, LENGTH)
    np.testing.assert_array_equal(*queries)
    dev = episodes.evaluation_episode("sw", shots=1, draw=0, split="dev").query
    assert len(dev["targets"]) == 8 * 7


def test_pool(corpus, episodes):
    everything = episodes.pool()
    assert len(everything["targets"]) == 3 * 12 * 7
    assert set(_texts(everything)) == set(_known(corpus, SPLIT.train, "train"))
    some = episodes.pool(size=24)
    assert sorted(np.bincount(some["targets"]).tolist()) == [3, 3, 3, 3, 4, 4, 4]
    assert len(set(_texts(some))) == 24
    np.testing.assert_array_equal(some["inputs"], episodes.pool(size=24)["inputs"])
    assert (some["inputs"] != episodes.pool(size=24, index=1)["inputs"]).any()
    languages = {_known(corpus, SPLIT.train, "train")[text][0] for text in _texts(some)}
    assert len(languages) > 1


def test_pad_batch_repeats_a_real_example_and_masks_it():
    batch = {"inputs": {"a": np.arange(6).reshape(3, 2)}, "targets": np.array([1, 2, 3])}
    padded = pad_batch(batch, 5)
    assert padded["mask"].tolist() == [True, True, True, False, False]
    assert padded["targets"].tolist() == [1, 2, 3, 1, 1]
    assert padded["inputs"]["a"].tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [0, 1]]
    again = pad_batch({**padded, "mask": np.array([False, True, True, False, False])}, 6)
    assert again["mask"].tolist() == [False, True, True, False, False, False]
    with pytest.raises(ValueError, match="`size` must be at least 3"):
        pad_batch(batch, 2)


def test_stack_episodes_pads_to_the_longest(episodes):
    def half(batch):
        return {name: leaf[:5] for name, leaf in batch.items() if name != "mask"}

    whole = episodes(0)
    stacked = stack_episodes([whole, Episode(whole.support, half(whole.query))])
    assert stacked.support["inputs"].shape == (2, 21, LENGTH)
    assert stacked.query["classes"].shape == (2, 28, 7)
    assert stacked.query["mask"].sum(1).tolist() == [28, 5]
    waves = stack_episodes([Sinusoid()(index) for index in range(3)])
    assert waves.support["inputs"].shape == (3, 10, 1)
    assert "mask" not in waves.support
    with pytest.raises(ValueError, match="at least one"):
        stack_episodes([])


def test_wrong_languages_and_arguments(corpus, episodes):
    tokenizer = ByteTokenizer(8)
    with pytest.raises(InputError, match="train language xx of cldr-weekday has no train rows"):
        TextEpisodes(corpus, tokenizer, LanguageSplit(("xx",), (), ()), shots=1, queries=1)
    unjudged = _small({("a", "train", 0): 2, ("a", "train", 1): 2})
    with pytest.raises(InputError, match="test language a of small has no test rows"):
        TextEpisodes(unjudged, tokenizer, LanguageSplit((), (), ("a",)), shots=1, queries=1)
    many = TextEpisodes(unjudged, tokenizer, LanguageSplit(("a",), (), ()), shots=3, queries=1)
    with pytest.raises(
        InputError, match=r"`task.shots` is 3, but no class of a language of small has more than 2 train"
    ):
        many.check_shots()
    trains = TextEpisodes(unjudged, tokenizer, LanguageSplit(("a",), (), ()), shots=1, queries=1)
    with pytest.raises(InputError, match="No language is set aside for test"):
        trains(0, split="test")
    with pytest.raises(InputError, match="a of small has no test rows to be judged on"):
        trains.evaluation_episode("a", shots=1, draw=0)
    with pytest.raises(InputError, match="xx is in no set"):
        episodes.evaluation_episode("xx", shots=1, draw=0)
    with pytest.raises(ValueError, match="`split` must be one of"):
        episodes(0, split="valid")
    with pytest.raises(ValueError, match="`index` must be zero or more"):
        episodes(-1, split="train")
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        TextEpisodes(corpus, tokenizer, SPLIT, shots=1, queries=1, temperature=0.0)


def test_sinusoids():
    waves = Sinusoid(shots=5, queries=7, seed=1)
    episode = waves(3, split="train")
    assert episode.support["inputs"].shape == (5, 1)
    assert episode.query["targets"].shape == (7, 1)
    assert {leaf.dtype for batch in episode for leaf in batch.values()} == {np.dtype(np.float32)}
    jax.tree.map(np.testing.assert_array_equal, episode, Sinusoid(shots=5, queries=7, seed=1)(3))
    assert waves(3, split="test").support["inputs"][0] != episode.support["inputs"][0]
    x = np.concatenate([episode.support["inputs"], episode.query["inputs"]])[:, 0]
    y = np.concatenate([episode.support["targets"], episode.query["targets"]])[:, 0]
    assert np.abs(x).max() <= 5
    basis = np.stack([np.sin(x), -np.cos(x)], 1)  # A sin(x - p) = A cos(p) sin(x) - A sin(p) cos(x)
    solution, *_ = np.linalg.lstsq(basis.astype(np.float64), y.astype(np.float64), rcond=None)
    np.testing.assert_allclose(basis @ solution, y, atol=1e-5)
    assert 0.1 <= np.hypot(*solution) <= 5.0
    assert 0.0 <= np.arctan2(solution[1], solution[0]) <= np.pi
    few, many = (waves.evaluation_episode(2, shots=shots, draw=0) for shots in (5, 10))
    np.testing.assert_array_equal(few.support["inputs"], many.support["inputs"][:5])
    np.testing.assert_array_equal(few.query["targets"], many.query["targets"])
    np.testing.assert_allclose(few.query["inputs"][[0, -1], 0], [-5, 5])
    assert few.query["inputs"].shape == (100, 1)


def test_numbers_of_numpy_are_numbers():
    """Shifted in 64 bits, all of them would be the first task."""
    waves = Sinusoid(shots=5, queries=7, seed=1)
    for index in np.arange(3):
        jax.tree.map(np.testing.assert_array_equal, waves(index), waves(int(index)))
    with pytest.raises(TypeError):
        waves(1.0)  # pyright: ignore[reportArgumentType]
