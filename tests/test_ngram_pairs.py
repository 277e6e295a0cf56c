"""Pairs read as bags of n-grams, the map between two sides in closed form, and the baselines that count n-grams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import algorithms
from jaxmeta.core.adapt import adapt
from jaxmeta.core.types import Episode
from jaxmeta.data import ByteTokenizer
from jaxmeta.models import mlp, ngram_dual_encoder, ngram_pair_regressor, ngrams, paired
from jaxmeta.models.romanization import respelled, romanized
from jaxmeta.objectives import retrieval
from jaxmeta.run.classical_pairs import SemanticSpace, SourceRegression

LEFT = ["obama 1984", "Обама", "aa bb", "", "cafe"]
RIGHT = ["Obama in 1984", "obama", "zz", "x", "café"]
SIZES = {"buckets": 2**12, "longest": 3, "romanize": True}


def tokens(texts):
    return jnp.asarray(ByteTokenizer(24).encode(texts))


def cosines(x, y):
    x, y = (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) for side in (x, y))
    return x @ y.T


@pytest.mark.slow
def test_products_are_cosines_of_bags_and_of_their_projections():
    model, bag = ngram_dual_encoder(8, **SIZES), ngrams(8, **SIZES)
    assert bag.features is not None
    inputs = {"left": tokens(LEFT), "right": tokens(RIGHT)}
    params = model.init(jax.random.key(0), inputs)
    params["tower"]["log_odds"] = jnp.full((), 0.7)
    answers = jax.device_get(jax.jit(model.apply)(params, inputs))
    tower = {name: leaf for name, leaf in params["tower"].items() if name != "log_odds"}
    left, right = (np.asarray(bag.features(tower, inputs[side])) for side in ("left", "right"))
    kernel = np.asarray(tower["head"]["kernel"])
    share = 1 / (1 + np.exp(-0.7))
    expected = share * cosines(left, right) + (1 - share) * cosines(left @ kernel, right @ kernel)
    np.testing.assert_allclose(answers["left"] @ answers["right"].T, expected, atol=1e-5)
    assert np.argmax(expected[1]) == 1  # another script, the same name
    assert np.isfinite(answers["left"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("odds", [-100.0, 20.0, 100.0])
def test_a_share_that_is_all_or_nothing_has_finite_derivatives(odds):
    model = ngram_dual_encoder(2, buckets=32, longest=1)
    inputs = {"left": tokens(LEFT[:2]), "right": tokens(RIGHT[:2])}
    params = model.init(jax.random.key(0), inputs)

    def loss(log_odds):
        moved = {**params, "tower": {**params["tower"], "log_odds": log_odds}}
        return retrieval().loss(model.apply(moved, inputs), {"inputs": inputs})[0]

    for derivative in (jax.grad(loss), jax.grad(jax.grad(loss))):
        assert np.isfinite(derivative(jnp.float32(odds)))


@pytest.mark.slow
def test_a_regressor_of_bags_sees_either_side_by_itself():
    model = ngram_pair_regressor(4, **SIZES)
    assert model.features is not None
    inputs = {"left": tokens(LEFT), "right": tokens(RIGHT)}
    params = model.init(jax.random.key(0), inputs)
    answers, features = model.apply(params, inputs), model.features(params, inputs)
    assert answers.shape == (5, 1)
    assert features.shape == (5, 16)
    swapped = model.apply(params, {"left": inputs["right"], "right": inputs["left"]})
    assert not np.allclose(answers, swapped, atol=1e-3)


def test_the_map_is_that_of_the_normal_equations():
    model, rng = paired(mlp((), 4)), np.random.default_rng(0)
    sides = {side: rng.normal(size=(7, 3)).astype(np.float32) for side in ("left", "right")}
    support = {"inputs": jax.tree.map(lambda x: x[:5], sides), "mask": np.arange(5) < 4}
    algorithm = algorithms.ridge_alignment(model, retrieval(), initial_ridge=0.3, initial_gain=1.2)
    meta_params = algorithm.init(jax.random.key(0), Episode(support, support))
    state, _ = adapt(algorithm, jax.random.key(0), meta_params, support, num_steps=0)
    found = algorithm.predict(meta_params, state, sides)
    plain = jax.device_get(model.apply(meta_params["params"], sides))
    x, y = plain["left"][:4], plain["right"][:4]  # the last one is padding
    w = np.linalg.solve(x.T @ x + 0.3 * np.eye(4), x.T @ (1.2 * y - x))
    moved = plain["left"] @ (np.eye(4) + w)
    np.testing.assert_allclose(found["left"], moved / np.linalg.norm(moved, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(found["right"], plain["right"], atol=1e-6)
    rigid = {**meta_params, "log_ridge": jnp.full((), 20.0)}
    state, _ = adapt(algorithm, jax.random.key(0), rigid, support, num_steps=0)
    np.testing.assert_allclose(algorithm.predict(rigid, state, sides)["left"], plain["left"], atol=1e-5)


def test_a_map_finds_what_a_rotation_hid():
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0].astype(np.float32)
    right = rng.normal(size=(40, 6)).astype(np.float32)
    examples = {"inputs": {"left": right @ rotation, "right": right}}
    support, query = (jax.tree.map(lambda x, r=r: x[r], examples) for r in (slice(0, 20), slice(20, 40)))
    model, objective = paired(mlp((), 6)), retrieval()
    identity = {"tower": {"head": {"kernel": jnp.eye(6), "bias": jnp.zeros(6)}}, "log_scale": jnp.zeros(())}
    algorithm = algorithms.ridge_alignment(model, objective, initial_ridge=0.01)
    meta_params = {**algorithm.init(jax.random.key(0), Episode(support, query)), "params": identity}
    state, _ = adapt(algorithm, jax.random.key(0), meta_params, support, num_steps=0)
    _, metrics = algorithm.loss(jax.random.key(0), meta_params, state, query)
    assert float(metrics["recall_at_1"]) > 0.9
    assert float(objective.loss(model.apply(identity, query["inputs"]), query)[1]["recall_at_1"]) < 0.5


@pytest.mark.parametrize("options", [{"initial_ridge": 0.0}, {"initial_gain": -1.0}])
def test_sizes_of_the_map_are_checked(options):
    with pytest.raises(ValueError, match="must be positive"):
        algorithms.ridge_alignment(paired(mlp((), 2)), retrieval(), **options)


def test_a_text_is_spelled_letter_by_letter():
    assert respelled("Обама 𝄞") == "".join(map(romanized, "Обама 𝄞")) == "obama 𝄞"
    assert respelled("Обама Ñu", vowels=False) == "bm n"


def test_texts_without_a_letter_in_common_meet_in_known_pairs():
    pytest.importorskip("sklearn")
    words = {"miau": "cat", "wuff": "dog", "piep": "bird", "muh": "cow"}
    left, right = list(words), list(words.values())
    space = SemanticSpace(left[:3], right[:3], (str, respelled))
    found = space.similarities(left, right, left[3:], right[3:], power=2.0)
    assert (found.argmax(axis=1) == np.arange(4)).all()  # the last pair is a shot's
    assert (np.diag(found)[:3] > 0.99).all()  # nearly the same place
    assert found.max() <= 2 + 1e-5


def test_a_regression_of_the_source_reads_either_side():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    left, right = (rng.choice(["good text", "poor line", "fair word"], 60).tolist() for _ in range(2))
    scores = np.array([(a == "good text") - 2.0 * (b == "poor line") for a, b in zip(left, right, strict=True)])
    fitted = SourceRegression(left[:40], right[:40], scores[:40])
    np.testing.assert_allclose(fitted.predict(left[40:], right[40:], ridge=1e-4), scores[40:], atol=1e-2)
    assert np.ptp(fitted.predict(left[40:], right[40:], ridge=1e6)) < 1e-2
