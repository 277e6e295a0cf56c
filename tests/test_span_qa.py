"""Spans against brute force, and the reader that finds them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import assert_derivatives
from quick import quick_jit

from jaxmeta.models import span_reader
from jaxmeta.models.overlap import shared_ngrams
from jaxmeta.models.windows import merged, neighbours, spread
from jaxmeta.objectives import best_spans, span_qa

LENGTH, PADDED = 9, 8
SIZES = {"vocab_size": 13, "width": 8, "embedding_width": 4, "layers": 1, "heads": 2, "expansion": 2}
OPTIONS = {**SIZES, "window": 3, "stride": 4, "max_length": 8, "overlap": (2,)}


def slow_spans(logits, max_length, k):
    """Lists all spans, best first, then earliest, then shortest."""
    length = len(logits)
    spans = [(s, e) for s in range(length) for e in range(s, min(s + max_length, length))]
    scored = [(-(logits[s, 0] + logits[e, 1]), s, e) for s, e in spans]
    return [(s, e, -score) for score, s, e in sorted(scored)][:k]


@pytest.mark.parametrize(("max_length", "k"), [(1, 1), (3, 1), (4, 5), (20, 12)])
def test_best_spans_are_those_of_brute_force(max_length, k):
    random = np.random.default_rng(k)
    for number in range(7):  # 56 rows in each of the four ways, half of them with many equals
        shape = (PADDED, LENGTH, 2)
        logits = random.integers(-2, 3, shape) if number % 2 else random.normal(size=shape)
        logits = logits.astype(np.float32)
        found = best_spans(logits, max_length, k)
        assert found.start.dtype == found.end.dtype == jnp.int32
        for row in range(PADDED):
            got = list(zip(*(np.asarray(leaf[row]) for leaf in found), strict=True))
            assert got == slow_spans(logits[row], max_length, k)


def test_spans_that_do_not_exist_come_last():
    found = best_spans(jnp.zeros((1, 2, 2)), 2, 4)
    np.testing.assert_array_equal(np.isfinite(found.score), [[True, True, True, False]])
    np.testing.assert_array_equal(found.start[0, :3], [0, 0, 1])
    np.testing.assert_array_equal(found.end[0, :3], [0, 1, 1])
    with pytest.raises(ValueError, match="`k` must be at most 4 for 2 tokens, got 5"):
        best_spans(jnp.zeros((1, 2, 2)), 3, 5)
    with pytest.raises(ValueError, match="`max_length` must be positive, got 0"):
        best_spans(jnp.zeros((1, 2, 2)), 0)
    with pytest.raises(ValueError, match="`max_length` must be positive, got 0"):
        span_qa(0)


def random_case(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(1, PADDED + 1))
    logits = random.normal(0, 2, (n, LENGTH, 2)).astype(np.float32)
    logits[:, random.random(LENGTH) < 0.2] = -1e9
    start = random.integers(0, LENGTH, n)
    end = np.minimum(start + random.integers(0, 5, n), LENGTH - 1)
    logits[np.arange(n), start, 0], logits[np.arange(n), end, 1] = random.normal(1, 2, (2, n))
    targets = {"start": start.astype(np.int32), "end": end.astype(np.int32)}
    return logits, {"targets": targets, "mask": random.random(n) < 0.8}


def padded(logits, batch, rubbish=np.nan):
    n = len(logits)
    fill = lambda leaf, value: np.concatenate([leaf, np.full((PADDED - n, *leaf.shape[1:]), value, leaf.dtype)])  # noqa: E731
    targets = {name: fill(leaf, 99) for name, leaf in batch["targets"].items()}
    return fill(logits, rubbish), {"targets": targets, "mask": fill(batch["mask"], False)}


@functools.cache
def compiled():
    objective = span_qa(max_length=4)
    return quick_jit(jax.value_and_grad(objective.loss, has_aux=True)), quick_jit(objective.counts), objective.scores


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_loss_and_scores_are_those_of_a_loop(start):
    loss_of, counts_of, scores_of = compiled()
    for seed in range(start, start + 50):
        logits, batch = random_case(seed)
        case = padded(logits, batch)
        (loss, metrics), gradient = loss_of(*case)
        scores = scores_of(counts_of(*case))
        real = np.flatnonzero(batch["mask"])
        np.testing.assert_array_equal(gradient[np.flatnonzero(~case[1]["mask"])], 0)
        if not len(real):
            assert loss == 0
            assert all(np.isnan(score) for score in scores.values())
            continue
        rows = []
        for i in real:
            first, last = batch["targets"]["start"][i], batch["targets"]["end"][i]
            exponentials = np.exp(logits[i].astype(np.float64))
            shares = exponentials / exponentials.sum(axis=0)
            ends = logits[i].argmax(axis=0)
            begin, stop, _ = slow_spans(logits[i], 4, 1)[0]
            said, wanted = set(range(begin, stop + 1)), set(range(first, last + 1))
            rows.append(
                {
                    "nll": -np.log(shares[first, 0] * shares[last, 1]) / 2,
                    "start_accuracy": ends[0] == first,
                    "end_accuracy": ends[1] == last,
                    "exact_span": said == wanted,
                    "span_f1": 2 * len(said & wanted) / (len(said) + len(wanted)),
                    "both": tuple(ends) == (first, last),
                }
            )
        want = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
        assert float(metrics["exact_span"]) == pytest.approx(want.pop("both"))
        assert float(loss) == pytest.approx(want["nll"], rel=1e-5)
        assert scores == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("rubbish", [3.0, np.nan])
def test_a_window_that_lacks_the_answer_teaches_nothing_and_counts_as_wrong(rubbish):
    loss_of, counts_of, scores_of = compiled()
    logits, batch = random_case(5)
    start, end = (batch["targets"][name] for name in ("start", "end"))
    batch["mask"][:] = True
    logits[0] = -5.0
    logits[0, start[0], 0] = logits[0, end[0], 1] = 5.0  # one is right
    (loss, metrics), gradient = loss_of(*padded(logits, batch))
    scores, n = scores_of(counts_of(*padded(logits, batch))), len(logits)
    assert scores["exact_span"] > 0
    longer = np.concatenate([logits, np.full((2, LENGTH, 2), rubbish, np.float32)])
    longer[n:, -1] = 9.0  # the place that a target of -1 would mean
    targets = {name: np.concatenate([leaf, [-1, -1]]).astype(np.int32) for name, leaf in batch["targets"].items()}
    case = padded(longer, {"targets": targets, "mask": np.ones(n + 2, bool)})
    (more_loss, more_metrics), more_gradient = loss_of(*case)
    assert float(more_loss) == pytest.approx(float(loss), rel=1e-6)
    np.testing.assert_allclose(more_gradient[:n], gradient[:n], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(more_gradient[n:], 0)
    share = n / (n + 2)
    assert float(more_metrics["exact_span"]) == pytest.approx(share * float(metrics["exact_span"]))
    want = {name: score if name == "nll" else share * score for name, score in scores.items()}
    assert scores_of(counts_of(*case)) == pytest.approx(want, rel=1e-6)


def test_without_any_answer_there_is_no_likelihood_and_all_is_wrong():
    loss_of, counts_of, scores_of = compiled()
    logits, batch = random_case(5)
    batch["targets"] = {name: np.full_like(leaf, -1) for name, leaf in batch["targets"].items()}
    (loss, _), gradient = loss_of(*padded(logits, batch))
    assert loss == 0
    assert not np.any(gradient)
    scores = scores_of(counts_of(*padded(logits, batch)))
    assert np.isnan(scores.pop("nll"))
    assert set(scores.values()) == {0.0}


def test_counts_add_up():
    _, counts_of, scores_of = compiled()
    cases = [random_case(seed) for seed in (1, 3)]
    counted = [jax.device_get(counts_of(*padded(*case))) for case in cases]
    whole = scores_of(jax.tree.map(np.add, *counted))
    for name, score in whole.items():
        parts = [scores_of(counts)[name] for counts in counted]
        assert score == pytest.approx(np.average(parts, weights=[counts["n"] for counts in counted]))


def passage(seed, size, length):
    """Returns inputs that begin with a question of three or four tokens and end in padding, and where answers are."""
    random = np.random.default_rng(seed)
    tokens = random.integers(1, 13, (size, length), dtype=np.int32)
    lengths = random.integers(length - 4, length + 1, size)
    tokens = np.where(np.arange(length)[None] < lengths[:, None], tokens, 0)
    question = random.integers(3, 5, size)
    segment = (np.arange(length)[None] >= question[:, None]).astype(np.int32)
    targets = {"start": question.astype(np.int32) + 1, "end": question.astype(np.int32) + 3}
    return {"tokens": tokens, "segment": segment}, targets


def test_derivatives_of_a_reader_in_float64(x64):
    model, objective = span_reader(dtype=jnp.float64, **OPTIONS), span_qa(max_length=4)
    inputs, targets = passage(0, 3, 13)
    batch = {"targets": targets, "mask": np.array([True, False, True])}
    params = quick_jit(model.init)(jax.random.key(0), inputs)
    assert_derivatives(lambda params: objective.loss(model.apply(params, inputs), batch)[0], params)


@pytest.fixture(scope="module")
def reader():
    """A reader with random parameters everywhere, and what it is compiled to."""
    model = span_reader(**OPTIONS)
    inputs, _ = passage(1, 4, 15)
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
    random = np.random.default_rng(4)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)
    return quick_jit(functools.partial(model.apply, params)), inputs


def test_readers_answer_in_the_context_alone_and_padding_changes_nothing(reader):
    apply, inputs = reader
    logits = np.asarray(apply(inputs))
    context = (inputs["tokens"] != 0) & (inputs["segment"] == 1)
    assert logits.shape == (4, 15, 2)
    np.testing.assert_array_equal(logits[~context], -1e9)
    assert np.all(np.abs(logits[context]) < 1e4)
    longer = {
        name: np.pad(leaf, ((0, 0), (0, 6)), constant_values=(name == "segment")) for name, leaf in inputs.items()
    }
    np.testing.assert_allclose(np.asarray(apply(longer))[:, :15], logits, rtol=1e-4, atol=1e-4)
    rubbish = {**inputs, "segment": np.where(inputs["tokens"] == 0, 77, inputs["segment"])}
    np.testing.assert_array_equal(apply(rubbish), logits)


def test_readers_tell_the_tokens_of_a_place_apart_and_heed_the_question(reader):
    apply, inputs = reader
    logits = np.asarray(apply(inputs))
    # Tokens 8 to 11 are one place of the trunk.
    differences = np.abs(np.diff(logits[:, 8:11], axis=1))
    assert np.all(differences > 1e-3)
    other = {**inputs, "tokens": inputs["tokens"].copy()}
    other["tokens"][:, 0] = other["tokens"][:, 0] % 12 + 1
    assert np.all(np.abs(np.asarray(apply(other))[:, 8:11] - logits[:, 8:11]).max(axis=(1, 2)) > 1e-4)


def test_shared_ngrams_are_those_of_brute_force():
    random = np.random.default_rng(0)
    tokens = random.integers(1, 4, (6, 14), dtype=np.int32)
    first, second = np.zeros_like(tokens, bool), np.zeros_like(tokens, bool)
    first[:, :5], second[:, 5:12] = True, True
    for n in (1, 2, 3, 6):
        want = np.zeros_like(second)
        for row, a, b in itertools.product(range(6), range(5 - n + 1), range(5, 12 - n + 1)):
            if np.array_equal(tokens[row, a : a + n], tokens[row, b : b + n]):
                want[row, b : b + n] = True
        np.testing.assert_array_equal(shared_ngrams(jnp.asarray(tokens), first, second, n), want)
        assert n == 6 or want.any()


def test_windows_and_strides_by_hand():
    x = jnp.arange(1.0, 6.0).reshape(1, 5, 1)
    np.testing.assert_array_equal(neighbours(x, 2)[0], [[1, 2], [2, 3], [3, 4], [4, 5], [5, 0]])
    np.testing.assert_array_equal(neighbours(x, 3)[0, :2], [[0, 1, 2], [1, 2, 3]])
    y, real = merged(x, jnp.array([[True, True, True, False, False]]), 2)
    np.testing.assert_array_equal(y[0, :, 0], [2, 4, 5])
    np.testing.assert_array_equal(real, [[True, True, False]])
    np.testing.assert_array_equal(spread(y, 2, 5)[0, :, 0], [2, 2, 4, 4, 5])
