"""Dual encoders and in-batch retrieval, against loops over anchors and candidates."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import assert_derivatives, texts

from jaxmeta.core.rows import compact, reading_rows
from jaxmeta.core.select import matching
from jaxmeta.core.trees import unit
from jaxmeta.core.types import Episode
from jaxmeta.models import dual_encoder, mlp, paired
from jaxmeta.objectives import retrieval, similarity_counts

SIZES = {"vocab_size": 13, "outputs": 5, "width": 8, "embedding_width": 4, "layers": 1, "heads": 2, "expansion": 2}
OPTIONS = {**SIZES, "window": 3, "stride": 2, "max_length": 8}
PADDED = 16


def random_case(seed):
    """Returns outputs and a batch; similarities are multiples of 1/4, so that many of them are equal."""
    random = np.random.default_rng(seed)
    n = int(random.integers(1, PADDED))
    left, right = (random.integers(-2, 3, (n, 3)).astype(np.float32) / 2 for _ in range(2))
    outputs = {"left": left, "right": right, "scale": np.full(n, random.uniform(0.1, 20), np.float32)}
    batch = {"mask": random.random(n) < 0.8}
    if seed % 2:
        batch["group"] = random.integers(0, max(n, 2), n).astype(np.int32)
    return outputs, batch


def padded(outputs, batch, rubbish=np.nan):
    """Brings a case to one size, so that all of them share a compilation."""
    n = len(batch["mask"])
    batch = {"group": np.arange(n, dtype=np.int32) + 100, **batch}
    extra = {"mask": False, "group": 0}
    fill = lambda leaf, value: np.concatenate([leaf, np.full((PADDED - n, *leaf.shape[1:]), value, leaf.dtype)])  # noqa: E731
    return {k: fill(v, rubbish) for k, v in outputs.items()}, {k: fill(v, extra[k]) for k, v in batch.items()}


@functools.cache
def compiled():
    objective = retrieval()
    return jax.jit(objective.loss), jax.jit(objective.counts), objective.scores


def slow(outputs, batch):
    """Returns loss and scores, one anchor after another."""
    real = np.flatnonzero(batch["mask"])
    group = batch.get("group", np.arange(len(batch["mask"])))
    losses, found = [], {}
    for direction, (anchors, others) in {
        "left_to_right": ("left", "right"),
        "right_to_left": ("right", "left"),
    }.items():
        ranks = []
        for i in real:
            close = {j: float(np.float64(outputs[anchors][i]) @ np.float64(outputs[others][j])) for j in real}
            right = {j for j in real if j == i or group[j] == group[i]}
            weights = {j: np.exp(float(outputs["scale"][i]) * c) for j, c in close.items()}
            losses.append(-np.log(sum(weights[j] for j in right) / sum(weights.values())))
            order = sorted(real, key=lambda j: (-close[j], j in right))  # the wrong before the right that ties with it
            ranks.append(1 + next(place for place, j in enumerate(order) if j in right))
        ranks = np.array(ranks)
        found[f"{direction}_recall_at_1"] = np.mean(ranks == 1)
        found[f"{direction}_recall_at_10"] = np.mean(ranks <= 10)
        found[f"{direction}_mrr"] = np.mean(1 / ranks)
    for name in ("recall_at_1", "recall_at_10", "mrr"):
        found[name] = (found[f"left_to_right_{name}"] + found[f"right_to_left_{name}"]) / 2
    return np.mean(losses), found


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered")
@pytest.mark.parametrize("start", range(0, 200, 50))
def test_loss_and_scores_are_those_of_a_loop(start):
    loss_of, counts_of, scores_of = compiled()
    for seed in range(start, start + 50):
        outputs, batch = random_case(seed)
        case = padded(outputs, batch)
        loss, metrics = loss_of(*case)
        scores = scores_of(counts_of(*case))
        if not batch["mask"].any():
            assert loss == 0
            assert all(np.isnan(score) for score in scores.values())
            continue
        want_loss, want = slow(outputs, batch)
        assert float(loss) == pytest.approx(want_loss, rel=1e-5, abs=1e-5)
        assert set(scores) == {*want, *(f"csls_{name}" for name in want)}
        assert {name: scores[name] for name in want} == pytest.approx(want, rel=1e-6)
        assert float(metrics["recall_at_1"]) == pytest.approx(want["recall_at_1"])


@pytest.mark.parametrize("start", range(0, 200, 100))
def test_csls_is_that_of_a_loop(start):
    _, counts_of, scores_of = compiled()
    for seed in range(start, start + 100):
        random = np.random.default_rng(seed)
        n = int(random.integers(1, PADDED + 1))
        left, right = (random.normal(size=(n, 3)).astype(np.float32) for _ in range(2))
        batch = {"mask": random.random(n) < 0.9, "group": random.integers(0, 2 * n, n).astype(np.int32)}
        real = np.flatnonzero(batch["mask"])
        outputs = {"left": left, "right": right, "scale": np.ones(n, np.float32)}
        scores = scores_of(counts_of(*padded(outputs, batch)))
        if not len(real):
            continue
        close = np.float64(left[real]) @ np.float64(right[real]).T
        near = [[sorted(row)[-10:] for row in way] for way in (close, close.T)]
        for direction, way in (("left_to_right", 0), ("right_to_left", 1)):
            ranks = []
            for i, row in enumerate(close if way == 0 else close.T):
                scaled = [2 * c - np.mean(near[way][i]) - np.mean(near[1 - way][j]) for j, c in enumerate(row)]
                right = batch["group"][real] == batch["group"][real[i]]
                ranks.append(1 + np.sum(np.array(scaled)[~right] >= np.array(scaled)[right].max()))
            assert scores[f"csls_{direction}_recall_at_1"] == pytest.approx(np.mean(np.array(ranks) == 1))
            assert scores[f"csls_{direction}_recall_at_10"] == pytest.approx(np.mean(np.array(ranks) <= 10))
            assert scores[f"csls_{direction}_mrr"] == pytest.approx(np.mean(1 / np.array(ranks)))


def test_a_text_that_is_near_to_all_is_no_answer_to_each():
    similarities = jnp.array([[0.5, 0.1, 0.6], [0.1, 0.5, 0.6], [0.0, 0.0, 0.7]])
    scores = retrieval().scores(jax.device_get(similarity_counts(similarities, {})))
    assert scores["left_to_right_recall_at_1"] == pytest.approx(1 / 3)
    assert scores["csls_left_to_right_recall_at_1"] == 1


def test_counts_add_up_and_are_those_of_similarities():
    _, counts_of, scores_of = compiled()
    cases = [random_case(seed) for seed in (3, 5)]
    counted = [jax.device_get(counts_of(*padded(*case))) for case in cases]
    scores = [scores_of(counts) | slow(*case)[1] for counts, case in zip(counted, cases, strict=True)]
    sizes = [case[1]["mask"].sum() for case in cases]
    whole = scores_of(jax.tree.map(np.add, *counted))
    for name, score in whole.items():
        assert score == pytest.approx(np.average([one[name] for one in scores], weights=sizes))
    outputs, batch = cases[0]
    direct = similarity_counts(jnp.asarray(outputs["left"] @ outputs["right"].T), batch)
    jax.tree.map(np.testing.assert_allclose, jax.device_get(direct), counted[0])
    assert similarity_counts(jnp.eye(3), {})["n"] == 3  # without a mask all are real


def test_a_model_that_has_collapsed_or_burst_finds_nothing():
    _, counts_of, scores_of = compiled()
    for value in (1.0, np.nan, np.inf):
        side = np.full((5, 3), value, np.float32)
        outputs = {"left": side, "right": side, "scale": np.ones(5, np.float32)}
        scores = scores_of(counts_of(*padded(outputs, {"mask": np.ones(5, bool)})))
        assert scores["recall_at_1"] == scores["csls_recall_at_1"] == 0
        assert scores["mrr"] == pytest.approx(1 / 5)


def test_what_is_said_twice_is_right_twice():
    outputs = {"left": np.eye(3, dtype=np.float32), "right": np.eye(3, dtype=np.float32)[[1, 0, 2]]}
    outputs["scale"] = np.ones(3, np.float32)
    loss_of, counts_of, scores_of = compiled()
    apart = padded(outputs, {"mask": np.ones(3, bool), "group": np.array([0, 1, 2], np.int32)})
    together = padded(outputs, {"mask": np.ones(3, bool), "group": np.array([7, 7, 2], np.int32)})
    assert scores_of(counts_of(*apart))["recall_at_1"] == pytest.approx(1 / 3)
    assert scores_of(counts_of(*together))["recall_at_1"] == 1
    assert loss_of(*together)[0] < loss_of(*apart)[0]


@pytest.mark.parametrize("rubbish", [3.0, np.nan])
def test_padding_has_no_gradient_and_changes_none(rubbish):
    outputs, batch = random_case(11)
    gradient = jax.jit(jax.grad(lambda outputs, batch: retrieval().loss(outputs, batch)[0]))
    n = len(batch["mask"])
    found = gradient(*padded(outputs, batch, rubbish))
    want = gradient(*padded(outputs, batch, 0.0))
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf[:n], want[name][:n], rtol=1e-6)
        assert np.any(leaf[:n] != 0)
        np.testing.assert_array_equal(leaf[n:], 0)


@pytest.mark.parametrize("shared", [True, False])
def test_derivatives_of_a_dual_encoder_in_float64(shared, x64):
    model, objective = dual_encoder(shared=shared, dtype=jnp.float64, **OPTIONS), retrieval()
    inputs = {"left": texts(0, 4, 6), "right": texts(1, 4, 5)}
    batch = {"mask": np.array([True, True, False, True]), "group": np.array([0, 1, 1, 0], np.int32)}
    params = jax.jit(model.init)(jax.random.key(0), inputs)
    assert_derivatives(lambda params: objective.loss(model.apply(params, inputs), batch)[0], params)


def test_unit_vectors_are_smooth_at_zero_and_have_length_one():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0], [30.0, -40.0]])
    np.testing.assert_allclose(unit(x), [[0.6, 0.8], [0, 0], [0.6, -0.8]], rtol=1e-6)
    assert np.all(np.isfinite(jax.jit(jax.hessian(lambda x: jnp.sum(unit(x) ** 3)))(x)))
    assert unit(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    np.testing.assert_allclose(unit(x, floor=75.0)[0], [0.3, 0.4], rtol=1e-6)


def test_encoders_read_padding_as_nothing_and_sides_by_their_tower(key):
    inputs = {"left": texts(0, 3, 6), "right": texts(1, 3, 5)}
    longer = {side: np.pad(tokens, ((0, 0), (0, 3))) for side, tokens in inputs.items()}
    swapped = {"left": inputs["right"], "right": inputs["left"]}
    for shared in (True, False):
        model = dual_encoder(shared=shared, initial_scale=5.0, **OPTIONS)
        params = jax.jit(model.init)(key, inputs)
        assert set(params) == ({"tower"} if shared else {"left", "right"}) | {"log_scale"}
        apply = jax.jit(model.apply)
        outputs = apply(params, inputs)
        np.testing.assert_allclose(np.linalg.norm(outputs["left"], axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(outputs["scale"], [5.0] * 3, rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), apply(params, longer), outputs)
        same = np.allclose(apply(params, swapped)["right"], outputs["left"], atol=1e-6)
        assert same == shared
    top = jax.jit(model.apply)({**params, "log_scale": jnp.float32(9.0)}, inputs)
    np.testing.assert_allclose(top["scale"], [100.0] * 3, rtol=1e-5)


@pytest.mark.parametrize(("log_scale", "slope"), [(1.0, math.exp(1.0)), (9.0, 100.0)])
def test_the_scale_can_come_back_from_beyond_the_largest(log_scale, slope, key):
    model, inputs = dual_encoder(**OPTIONS), {"left": texts(0, 3, 6), "right": texts(1, 3, 5)}
    params = jax.jit(model.init)(key, inputs)
    scale = lambda value: model.apply({**params, "log_scale": value}, inputs)["scale"][0]  # noqa: E731
    np.testing.assert_allclose(jax.jit(jax.grad(scale))(jnp.float32(log_scale)), slope, rtol=1e-5)


def test_rows_of_an_embedding_can_be_read_alone(key):
    model, predicate = dual_encoder(**OPTIONS), matching("/embedding/")
    # Texts that leave letters out, so that rows are fewer than the table has.
    episode = Episode(*({"inputs": {"left": texts(s, 1, 3), "right": texts(s + 1, 1, 3)}} for s in (0, 2)))
    params = jax.jit(model.init)(key, episode.support["inputs"])
    rows, local = compact(model, predicate, params, episode)
    table, read = params["tower"]["embedding"]["embedding"], jax.tree.leaves(rows)[0]
    assert len(read) < len(table)
    tower = {**params["tower"], "embedding": {"embedding": table[np.minimum(read, len(table) - 1)]}}
    narrow = {**params, "tower": tower}
    got = jax.jit(reading_rows(model, predicate).apply)(narrow, local.query["inputs"])
    want = jax.jit(model.apply)(params, episode.query["inputs"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


def test_wrong_arguments_and_shapes_are_refused():
    with pytest.raises(ValueError, match="`initial_scale` must be positive, got 0"):
        paired(mlp((), 2), initial_scale=0)
    outputs = {"left": jnp.ones((3, 2)), "right": jnp.ones((4, 2)), "scale": jnp.ones(3)}
    with pytest.raises(AssertionError):
        retrieval().loss(outputs, {})
    with pytest.raises(AssertionError):
        similarity_counts(jnp.ones((3, 4)), {})
