"""Scores of pairs: correlations against scipy, a regressor of pairs, and baselines that count characters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from derivatives import assert_derivatives, texts

from jaxmeta import algorithms
from jaxmeta.core.adapt import adapt
from jaxmeta.core.types import Episode
from jaxmeta.models import compared, mlp, pair_regressor
from jaxmeta.objectives import scored_pair
from jaxmeta.run.classical_pairs import ngram_regression, ngram_similarities
from jaxmeta.run.correlation import spearman

PADDED = 24
SIZES = {"vocab_size": 13, "outputs": 5, "width": 8, "embedding_width": 4, "layers": 1, "heads": 2, "expansion": 2}


@functools.cache
def compiled(center=0.0):
    objective = scored_pair(center)
    return jax.jit(objective.loss), jax.jit(objective.counts), objective.scores


def padded(outputs, batch):
    fill = lambda leaf, value: np.concatenate([leaf, np.full((PADDED - len(leaf),), value, leaf.dtype)])  # noqa: E731
    batch = {"targets": fill(batch["targets"], np.nan), "mask": fill(batch["mask"], False)}
    return fill(outputs, np.nan), batch


def random_case(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(3, PADDED))
    targets = random.normal(random.normal(), random.uniform(0.1, 3), n).astype(np.float32)
    outputs = (random.normal() * targets + random.normal(size=n)).astype(np.float32)
    mask = random.random(n) < 0.8
    mask[:3] = True
    return outputs, {"targets": targets, "mask": mask}


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_scores_are_scipys(start):
    loss_of, counts_of, scores_of = compiled()
    for seed in range(start, start + 50):
        outputs, batch = random_case(seed)
        case = padded(outputs, batch)
        said, wanted = (values[batch["mask"]].astype(np.float64) for values in (outputs, batch["targets"]))
        want = {
            "pearson": scipy.stats.pearsonr(said, wanted).statistic,
            "mae": np.mean(np.abs(said - wanted)),
            "rmse": np.sqrt(np.mean((said - wanted) ** 2)),
        }
        assert scores_of(counts_of(*case)) == pytest.approx(want, rel=1e-5, abs=1e-5)
        assert float(loss_of(*case)[0]) == pytest.approx(want["rmse"] ** 2, rel=1e-5)
        assert spearman(said, wanted) == pytest.approx(scipy.stats.spearmanr(said, wanted).statistic)


@pytest.mark.parametrize("center", [0.0, 50.0])
def test_correlation_over_batches_is_that_of_all_examples(center):
    _, counts_of, scores_of = compiled(center)
    random = np.random.default_rng(0)
    # Scores of 0 to 100, of which a batch sees a narrow part.
    targets = np.sort(random.uniform(0, 100, 300)).astype(np.float32)
    outputs = (0.5 * targets + random.normal(0, 8, 300) + 30).astype(np.float32)
    total = None
    for first in range(0, 300, 20):
        part = slice(first, first + 20)
        batch = {"targets": targets[part], "mask": np.arange(20) != 3}
        counts = jax.device_get(counts_of(*padded(outputs[part], batch)))
        total = counts if total is None else jax.tree.map(np.add, total, counts)
    real = np.arange(300) % 20 != 3
    want = scipy.stats.pearsonr(outputs[real].astype(np.float64), targets[real].astype(np.float64)).statistic
    assert scores_of(total)["pearson"] == pytest.approx(want, abs=1e-5)
    assert all(leaf.dtype == np.float32 for name, leaf in total.items() if name not in ("n", "batches"))


def test_numbers_far_from_zero_and_close_to_each_other_keep_their_correlation():
    _, counts_of, scores_of = compiled()
    random = np.random.default_rng(0)
    targets = random.normal(size=20)
    outputs = (1000 + 0.01 * (targets + random.normal(size=20))).astype(np.float32)
    counts = counts_of(*padded(outputs, {"targets": targets.astype(np.float32), "mask": np.ones(20, bool)}))
    want = scipy.stats.pearsonr(outputs.astype(np.float64), targets).statistic
    assert scores_of(counts)["pearson"] == pytest.approx(want, abs=1e-3)


def test_constants_tell_nothing():
    _, counts_of, scores_of = compiled()
    varied, mask = np.arange(7, dtype=np.float32), np.ones(7, bool)
    for value in (0.0, 0.1, 1234.567):
        same = np.full(7, value, np.float32)
        assert scores_of(counts_of(*padded(same, {"targets": varied, "mask": mask})))["pearson"] == 0
        assert scores_of(counts_of(*padded(varied, {"targets": same, "mask": mask})))["pearson"] == 0
        assert spearman(same, varied) == 0
        halves = [counts_of(*padded(same, {"targets": varied, "mask": varied % 2 == side})) for side in (0, 1)]
        assert scores_of(jax.tree.map(np.add, *halves))["pearson"] == 0
    alone = scores_of(counts_of(*padded(varied, {"targets": varied, "mask": np.arange(7) < 1})))
    assert np.isnan(alone["pearson"])
    assert alone["mae"] == 0
    none = scores_of(counts_of(*padded(varied, {"targets": varied, "mask": ~mask})))
    assert all(np.isnan(score) for score in none.values())
    broken = np.full(7, np.nan, np.float32)
    assert np.isnan(scores_of(counts_of(*padded(broken, {"targets": varied, "mask": mask})))["pearson"])
    assert np.isnan(spearman([1.0], [2.0]))
    assert np.isnan(spearman(broken, varied))
    with pytest.raises(ValueError, match="`targets` must be as many as outputs, 7, got 1"):
        spearman(varied, [1.0])


def test_columns_will_do_and_other_shapes_are_refused():
    objective = scored_pair()
    targets, outputs = jnp.arange(3.0), jnp.array([1.0, 0.0, 4.0])
    want, _ = objective.loss(outputs, {"targets": targets})
    for column, of_targets in ((outputs[:, None], targets), (outputs, targets[:, None])):
        assert objective.loss(column, {"targets": of_targets})[0] == want
    with pytest.raises(AssertionError):
        objective.loss(jnp.zeros((3, 2)), {"targets": targets})


def test_derivatives_of_a_pair_regressor_in_float64(x64):
    model = pair_regressor(hidden=(4,), symmetric=False, dtype=jnp.float64, window=3, stride=2, max_length=8, **SIZES)
    inputs = {"left": texts(0, 4, 6), "right": texts(1, 4, 5)}
    batch = {"targets": np.arange(4.0), "mask": np.array([True, True, False, True])}
    params = jax.jit(model.init)(jax.random.key(0), inputs)
    assert_derivatives(lambda params: scored_pair().loss(model.apply(params, inputs), batch)[0], params)


def test_a_regressor_compares(key):
    random = np.random.default_rng(0)
    inputs = {side: random.normal(size=(6, 3)).astype(np.float32) for side in ("left", "right")}
    swapped = {"left": inputs["right"], "right": inputs["left"]}
    same = {"left": inputs["left"], "right": inputs["left"]}
    for symmetric in (True, False):
        model = compared(mlp((), 4), hidden=(), symmetric=symmetric)
        params = model.init(key, inputs)
        assert set(params) == {"tower", "head"}
        outputs, features = model.apply(params, inputs), model.features(params, inputs)
        assert outputs.shape == (6, 1)
        assert features.shape == (6, 8 if symmetric else 16)
        assert np.allclose(model.apply(params, swapped), outputs, atol=1e-6) == symmetric
    # |u - v| of one text twice is zero, and the mean of u * v is the cosine.
    u_v = model.features(params, same)[:, 8:]
    np.testing.assert_allclose(u_v[:, :4], 0, atol=1e-6)
    np.testing.assert_allclose(np.mean(u_v[:, 4:], axis=1), 1, rtol=1e-5)
    two = compared(mlp((), 4), mlp((), 4), hidden=(5,))
    params = two.init(key, inputs)
    assert set(params) == {"left", "right", "layer_0", "head"}
    assert two.features(params, inputs).shape == (6, 5)
    assert np.any(params["left"]["head"]["kernel"] != params["right"]["head"]["kernel"])


def test_a_head_in_closed_form_fits_a_regressor(key):
    random = np.random.default_rng(0)
    inputs = {side: random.normal(size=(12, 3)).astype(np.float32) for side in ("left", "right")}
    cosine = np.sum(inputs["left"] * inputs["right"], axis=1, keepdims=True)
    batch = {"inputs": inputs, "targets": cosine.astype(np.float32)}
    model = compared(mlp((), 6), hidden=())
    for algorithm, steps in (
        (algorithms.ridge(model, scored_pair(), num_outputs=1, classify=False, initial_ridge=1e-3), 0),
        (algorithms.maml(model, scored_pair(), optax.sgd(0.05)), 30),
    ):

        @jax.jit
        def losses(key, algorithm=algorithm, steps=steps):
            meta_params = algorithm.init(key, Episode(batch, batch))
            state, _ = adapt(algorithm, key, meta_params, batch, num_steps=steps)
            return algorithm.loss(key, meta_params, state, batch)[0]

        assert losses(key) < 0.3 * np.var(cosine)


def test_similarities_are_cosines_over_character_ngrams():
    left, right = ["Tokyo 1964", "kedi", "qqq"], ["In Tokyo, 1964", "cat", "Tokyo"]
    found = ngram_similarities(left, right)
    assert found.shape == (3, 3)
    assert found[0].argmax() == 0
    assert found[0, 2] > found[0, 1]
    assert np.all(found[2] < 0.1)  # they share the space between words
    np.testing.assert_allclose(np.diag(ngram_similarities(left, left)), 1, rtol=1e-5)
    np.testing.assert_allclose(ngram_similarities(right, left), found.T, rtol=1e-5)


def test_counted_features_predict_what_they_should():
    random = np.random.default_rng(0)
    vocabulary = ["rot", "blau", "haus", "2024", "garten", "fenster", "Berlin", "!"]
    left = [" ".join(random.choice(vocabulary, 6)) for _ in range(60)]
    kept = random.random((60, 6)) < random.random((60, 1))
    right = [
        " ".join(w if k else "xyz" for w, k in zip(t.split(), ks, strict=True))
        for t, ks in zip(left, kept, strict=True)
    ]
    scores = kept.mean(axis=1)
    found = ngram_regression(left[:40], right[:40], scores[:40], left[40:], right[40:])
    assert scipy.stats.pearsonr(found, scores[40:]).statistic > 0.8
    assert found.dtype == np.float32
