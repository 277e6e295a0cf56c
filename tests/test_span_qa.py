"""Spans against brute force, and the scorer that finds them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import assert_derivatives

from jaxmeta.models import cast, span_scorer
from jaxmeta.models.windows import merged, neighbours
from jaxmeta.objectives import best_spans, span_qa

LENGTH, LONGEST, PADDED = 9, 4, 8
SIZES = {"width": 5, "layers": 2, "longest": LONGEST, "buckets": 11, "embedding_width": 3}


def f1_of(said, wanted):
    """Returns the F1 of two spans `(first, last)`, by their places."""
    said, wanted = (set(range(first, last + 1)) for first, last in (said, wanted))
    return 2 * len(said & wanted) / (len(said) + len(wanted))


def silu(x):
    return x / (1 + np.exp(-x))


def random_case(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(1, PADDED + 1))
    logits = random.normal(0, 2, (n, LENGTH, LONGEST)).astype(np.float32)
    logits[random.random(logits.shape) < 0.2] = -1e9
    logits[:, np.arange(LENGTH)[:, None] + np.arange(LONGEST)[None] >= LENGTH] = -1e9
    start = random.integers(0, LENGTH, n)
    end = np.minimum(start + random.integers(0, 6, n), LENGTH - 1)  # some are longer than any span
    targets = {"start": start.astype(np.int32), "end": end.astype(np.int32)}
    return logits, {"targets": targets, "mask": random.random(n) < 0.8}


def padded(logits, batch, rubbish=np.nan):
    n = len(logits)
    fill = lambda leaf, value: np.concatenate([leaf, np.full((PADDED - n, *leaf.shape[1:]), value, leaf.dtype)])  # noqa: E731
    targets = {name: fill(leaf, 99) for name, leaf in batch["targets"].items()}
    return fill(logits, rubbish), {"targets": targets, "mask": fill(batch["mask"], False)}


@functools.cache
def compiled():
    objective = span_qa(overlap=3.0)
    return jax.jit(jax.value_and_grad(objective.loss, has_aux=True)), jax.jit(objective.counts), objective.scores


def test_the_best_span_is_the_first_of_the_likeliest():
    random = np.random.default_rng(0)
    for whole in (True, False):
        logits = random.integers(-2, 3, (50, 6, 3)) if whole else random.normal(size=(50, 6, 3))
        found = best_spans(jnp.asarray(logits, jnp.float32), 4)
        assert found.start.dtype == found.end.dtype == jnp.int32
        for row, start, end, score in zip(logits, *map(np.asarray, found), strict=True):
            spans = sorted((-row[s, k], s, k) for s in range(6) for k in range(3))[:4]
            assert [*zip(start.tolist(), end.tolist(), strict=True)] == [(s, min(s + k, 5)) for _, s, k in spans]
            np.testing.assert_allclose(score, [-worst for worst, _, _ in spans], rtol=1e-6)
    assert best_spans(jnp.zeros((2, 3, 2)), 9).start.shape == (2, 6), "there are no more"


@pytest.mark.parametrize("start", range(0, 100, 50))
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
        losses, entropies, exact, f1 = [], [], [], []
        for i in real:
            wanted = (batch["targets"]["start"][i], batch["targets"]["end"][i])
            spans = [(s, k) for s in range(LENGTH) for k in range(LONGEST) if logits[i, s, k] > -1e8]
            worth = np.array([f1_of((s, s + k), wanted) for s, k in spans])
            exponentials = np.exp(np.array([logits[i, s, k] for s, k in spans], np.float64))
            shares = exponentials / exponentials.sum()
            said = worth[np.argmax(shares)] if worth.any() else 0.0
            exact.append(said == 1)
            f1.append(said)
            if worth.any():
                entropies.append(-np.log(shares[worth > worth.max() - 1e-6].sum()))
                losses.append(entropies[-1] + 3.0 * (1 - (shares * worth).sum()))
        assert float(loss) == pytest.approx(np.mean(losses) if losses else 0.0, rel=1e-4)
        assert float(metrics["exact_span"]) == pytest.approx(np.mean(exact))
        want = {"exact_span": np.mean(exact), "span_f1": np.mean(f1), "nll": np.mean(entropies) if losses else np.nan}
        assert scores == pytest.approx(want, rel=1e-4, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("rubbish", [3.0, np.nan])
def test_a_window_that_lacks_the_answer_teaches_nothing_and_counts_as_wrong(rubbish):
    loss_of, counts_of, scores_of = compiled()
    logits, batch = random_case(5)
    batch["mask"][:] = True
    start, more = batch["targets"]["start"][0], 0
    batch["targets"]["end"][0] = start
    logits[0, start, more] = 9.0  # one is right
    (loss, metrics), gradient = loss_of(*padded(logits, batch))
    scores, n = scores_of(counts_of(*padded(logits, batch))), len(logits)
    assert scores["exact_span"] > 0
    longer = np.concatenate([logits, np.full((2, LENGTH, LONGEST), rubbish, np.float32)])[:PADDED]
    added = len(longer) - n
    assert added > 0
    targets = {name: np.concatenate([leaf, [-1] * added]).astype(np.int32) for name, leaf in batch["targets"].items()}
    case = padded(longer, {"targets": targets, "mask": np.ones(n + added, bool)})
    (more_loss, more_metrics), more_gradient = loss_of(*case)
    assert float(more_loss) == pytest.approx(float(loss), rel=1e-6)
    np.testing.assert_allclose(more_gradient[:n], gradient[:n], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(more_gradient[n:], 0)
    share = n / (n + added)
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
        weights = [counts["answered" if name == "nll" else "n"] for counts in counted]
        assert score == pytest.approx(np.average(parts, weights=weights))


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="`overlap` must be zero or more, got -1"):
        span_qa(-1)
    for name in SIZES:
        with pytest.raises(ValueError, match=f"`{name}` must be positive, got 0"):
            span_scorer(**{**SIZES, name: 0})


def passage(seed, size, length):
    """Returns described words of two sentences, which end in padding, and where answers are."""
    random = np.random.default_rng(seed)
    lengths = random.integers(length - 3, length + 1, size)
    place = np.arange(length)[None]
    sentence = np.where(place < lengths[:, None], 1 + (place > 4), 0).astype(np.int32)
    inputs = {
        "words": random.normal(size=(size, length, 6)).astype(np.float32),
        "sentence": sentence,
        "question": random.normal(size=(size, 2)).astype(np.float32),
        "asked": random.integers(0, 12, (size, 5)).astype(np.int32),
    }
    return inputs, {"start": np.full(size, 1, np.int32), "end": np.full(size, 3, np.int32)}


def test_derivatives_of_a_scorer_in_float64(x64):
    model, objective = span_scorer(dtype=jnp.float64, **SIZES), span_qa()
    inputs, targets = passage(0, 3, 8)
    batch = {"targets": targets, "mask": np.array([True, False, True])}
    params = jax.jit(model.init)(jax.random.key(0), inputs)
    assert_derivatives(lambda params: objective.loss(model.apply(params, inputs), batch)[0], params)


@pytest.fixture(scope="module")
def scorer():
    """A scorer with random parameters everywhere, and what it is compiled to."""
    model = span_scorer(**SIZES)
    inputs, _ = passage(1, 4, 9)
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
    random = np.random.default_rng(4)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)
    return jax.jit(functools.partial(model.apply, params)), inputs, params


def test_a_score_is_that_of_its_words_one_span_after_another(scorer):
    apply, inputs, params = scorer
    logits = np.asarray(apply(inputs))
    assert logits.shape == (4, 9, LONGEST)
    dense = {name: params[name]["kernel"] for name in ("begin", "stop", "inside", "asked", "hidden_1", "head")}
    for row in range(4):
        real = inputs["sentence"][row] > 0
        words = np.concatenate([np.zeros((1, 6)), inputs["words"][row] * real[:, None], np.zeros((1, 6))])
        known = sum(params["embedding"]["embedding"][i] for i in inputs["asked"][row] if i)
        about = np.concatenate([inputs["question"][row], known])
        for first in range(9):
            for more in range(LONGEST):
                last = first + more
                if last > 8 or not real[last] or inputs["sentence"][row, first] != inputs["sentence"][row, last]:
                    assert logits[row, first, more] == -1e9
                    continue
                x = params["begin"]["bias"] + params["sizes"][more] + about @ dense["asked"]
                x = x + np.concatenate([words[first + 1], words[first]]) @ dense["begin"]
                x = x + np.concatenate([words[last + 1], words[last + 2]]) @ dense["stop"]
                x = x + words[first + 1 : last + 2].mean(axis=0) @ dense["inside"]
                direct, x = x[-1], silu(x[:-1])
                x = x + silu(x @ dense["hidden_1"] + params["hidden_1"]["bias"])
                assert logits[row, first, more] == pytest.approx(direct + (x @ dense["head"])[0], rel=1e-3, abs=1e-3)


def test_padding_changes_nothing(scorer):
    apply, inputs, _ = scorer
    logits = np.asarray(apply(inputs))
    longer = {
        name: np.pad(inputs[name], ((0, 0), (0, 3), (0, 0))[: inputs[name].ndim]) for name in ("words", "sentence")
    }
    np.testing.assert_allclose(np.asarray(apply({**inputs, **longer}))[:, :9], logits, rtol=1e-5, atol=1e-5)
    rubbish = np.where(inputs["sentence"][..., None] > 0, inputs["words"], np.nan)
    np.testing.assert_array_equal(apply({**inputs, "words": rubbish}), logits)


def test_half_precision_is_computed_in_and_long_contexts_survive_it(scorer):
    _, _, params = scorer
    model, length = span_scorer(**SIZES), 600
    halved = cast(model, jnp.bfloat16)
    inputs, _ = passage(2, 1, length)
    inputs = {**inputs, "words": np.abs(inputs["words"]), "sentence": np.ones((1, length), np.int32)}
    products = [
        line for line in str(jax.make_jaxpr(halved.apply)(params, inputs)).split("\n") if "= dot_general" in line
    ]
    assert len(products) > 4
    assert all("bf16[" in line.split("=")[0] for line in products)
    exact, found = (np.asarray(jax.jit(each.apply)(params, inputs)) for each in (model, halved))
    assert 0 < np.abs(found - exact)[exact > -1e8].max() < 0.05 * np.abs(exact[exact > -1e8]).max()


def test_windows_and_strides_by_hand():
    x = jnp.arange(1.0, 6.0).reshape(1, 5, 1)
    np.testing.assert_array_equal(neighbours(x, 2)[0], [[1, 2], [2, 3], [3, 4], [4, 5], [5, 0]])
    np.testing.assert_array_equal(neighbours(x, 3)[0, :2], [[0, 1, 2], [1, 2, 3]])
    y, real = merged(x, jnp.array([[True, True, True, False, False]]), 2)
    np.testing.assert_array_equal(y[0, :, 0], [2, 4, 5])
    np.testing.assert_array_equal(real, [[True, True, False]])
