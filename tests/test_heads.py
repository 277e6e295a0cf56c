"""Heads on features, in closed form or by gradient steps, against the same thing done another way."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_tasks import CLASSES, DIMENSIONS, OBJECTIVE, adapted, assert_close, examples, init, model, plain_model

from jaxmeta.algorithms import linear_head, protonet, ridge
from jaxmeta.core.batches import pad_batch
from jaxmeta.core.types import Episode, Model
from jaxmeta.models import mlp
from jaxmeta.objectives import classification, regression


@pytest.mark.parametrize("size", [3, 12], ids=["fewer examples than features", "more"])
@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("classify", [True, False])
def test_ridge_is_scikit_learns(size, classify, prior, x64):
    linear_model = pytest.importorskip("sklearn.linear_model")
    objective = OBJECTIVE if classify else regression()
    believed = np.linspace(-1, 2, DIMENSIONS * CLASSES).reshape(DIMENSIONS, CLASSES)
    model = Model(plain_model().init, lambda params, inputs: inputs @ believed, lambda params, inputs: inputs)
    algorithm = ridge(model, objective, num_outputs=CLASSES, classify=classify, prior=prior)
    support, query = examples(0, size, dtype=np.float64), examples(1, 5, dtype=np.float64)
    if not classify:
        support["targets"], query["targets"] = (np.sin(3 * side["inputs"][:, :CLASSES]) for side in (support, query))
    padded = pad_batch(support, size + 2)
    padded["inputs"][size:], padded["targets"][size:] = 1e3, 1
    meta_params = {"params": init(algorithm, Episode(support, query))["params"]}
    meta_params |= {"log_ridge": jnp.log(0.7), "log_scale": jnp.log(4.0), "shift": jnp.asarray(0.25)}
    meta_params |= {"log_prior": jnp.log(0.3)} if prior else {}
    state = adapted(algorithm, meta_params, padded, 0)
    # The constant feature is penalised as the others are, so it is one of them, and there is no intercept.
    design = lambda inputs: np.c_[inputs / np.sqrt(DIMENSIONS), np.ones(len(inputs))]  # noqa: E731
    answers = np.eye(CLASSES)[support["targets"]] if classify else support["targets"]
    # Drawn to other weights than zero is drawn to zero of what these leave.
    start = 0.3 * np.r_[believed * np.sqrt(DIMENSIONS), np.zeros((1, CLASSES))] if prior else 0.0
    left = answers - design(support["inputs"]) @ start if prior else answers
    fitted = linear_model.Ridge(alpha=0.7, fit_intercept=False, solver="cholesky").fit(design(support["inputs"]), left)
    np.testing.assert_allclose(state.weights, fitted.coef_.T, rtol=1e-9, atol=1e-12)
    outputs = algorithm.predict(meta_params, state, query["inputs"])
    predicted = design(query["inputs"]) @ (fitted.coef_.T + start)
    want = 4 * predicted + 0.25 if classify else predicted
    np.testing.assert_allclose(outputs, want, rtol=1e-9)
    loss, _ = algorithm.loss(jax.random.key(0), meta_params, state, query)
    np.testing.assert_allclose(loss, objective.loss(want, query)[0], rtol=1e-9)


def test_whitened_ridge_is_ridge_of_features_weighted_by_their_rarity(x64):
    model, support, query = plain_model(), examples(0, 6, dtype=np.float64), examples(1, 5, dtype=np.float64)
    padded = pad_batch(support, 8)
    padded["inputs"][6:] = 1e3
    algorithm = ridge(model, OBJECTIVE, num_outputs=CLASSES, whiten=True)
    meta_params = init(algorithm, Episode(support, query)) | {"log_floor": jnp.log(0.3), "power": jnp.asarray(1.4)}
    state = adapted(algorithm, meta_params, padded, 0)
    scales = (0.3 + np.mean(support["inputs"] ** 2, axis=0)) ** -0.7
    np.testing.assert_allclose(state.scales, scales, rtol=1e-9)

    def weighted(batch):
        scaled = batch["inputs"] * scales
        # Those of plain ridge are divided by the root of their number.
        return {**batch, "inputs": scaled / np.linalg.norm(scaled, axis=1, keepdims=True) * DIMENSIONS**0.5}

    alike = ridge(model, OBJECTIVE, num_outputs=CLASSES)
    plain = adapted(alike, meta_params, weighted(support), 0)
    got = algorithm.predict(meta_params, state, query["inputs"])
    np.testing.assert_allclose(got, alike.predict(meta_params, plain, weighted(query)["inputs"]), rtol=1e-5)


def test_prototypes_by_hand(x64):
    network = mlp((5,), CLASSES, activation=jnp.tanh, param_dtype=jnp.float64)
    algorithm = protonet(network, OBJECTIVE, num_classes=CLASSES)
    support, query = pad_batch(examples(0, 7, dtype=np.float64), 9), examples(1, 5, dtype=np.float64)
    support["inputs"][7:], support["targets"][7:] = 50.0, 2
    meta_params = init(algorithm, Episode(support, query))
    np.testing.assert_allclose(jnp.exp(meta_params["log_scale"]), 10)
    meta_params["log_scale"] = jnp.log(3.0)
    state = adapted(algorithm, meta_params, support, 0)
    features = lambda batch: np.asarray(network.features(meta_params["params"], batch["inputs"]))  # noqa: E731
    means = [features(support)[:7][support["targets"][:7] == c].mean(axis=0) for c in range(CLASSES)]
    np.testing.assert_allclose(state.means, means, rtol=1e-12)
    away = features(query)[:, None] - np.array(means)[None]
    logits = algorithm.predict(meta_params, state, query["inputs"])
    np.testing.assert_allclose(logits, -3 * np.mean(away**2, axis=-1), rtol=1e-9)


@pytest.mark.parametrize("build", [protonet, ridge])
def test_classes_that_the_support_has_not_are_never_predicted(build):
    sizes = {"num_classes": 5} if build is protonet else {"num_outputs": 5}
    algorithm = build(model(), classification(5), **sizes)
    support = examples(0, 6)
    support["targets"] = np.array([0, 3, 0, 3, 0, 3], np.int32)
    padded = pad_batch(support, 7)
    padded["targets"][6] = 2
    meta_params = init(algorithm, Episode(support, support))
    state = adapted(algorithm, meta_params, padded, 0)
    assert state.present.tolist() == [True, False, False, True, False]
    outputs = algorithm.predict(meta_params, state, 5 * examples(1, 200)["inputs"])
    assert set(np.argmax(outputs, axis=-1).tolist()) == {0, 3}
    assert np.isfinite(outputs).all()
    probabilities = jax.nn.softmax(outputs)
    assert (probabilities[:, [1, 2, 4]] == 0).all()


def test_a_model_without_features_is_read_through_its_outputs():
    whole = model()
    without = Model(whole.init, whole.apply)
    algorithm = protonet(without, OBJECTIVE, num_classes=CLASSES)
    meta_params, support = init(algorithm), examples(0, CLASSES)
    state = adapted(algorithm, meta_params, support, 0)
    np.testing.assert_allclose(state.means, whole.apply(meta_params["params"], support["inputs"]), atol=1e-6)


def test_linear_head_is_logistic_regression_on_unit_features():
    optimizer, network, support, query = optax.sgd(0.5, momentum=0.9), model(), examples(0, 7), examples(1, 5)
    algorithm = linear_head(network, OBJECTIVE, optimizer, num_outputs=CLASSES)
    meta_params = init(algorithm)
    state = adapted(algorithm, meta_params, pad_batch(support, 9), 4)

    def unit(inputs):
        features = np.asarray(network.features(meta_params["params"], inputs))
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    def loss(head):
        log_probabilities = jax.nn.log_softmax(unit(support["inputs"]) @ head["kernel"] + head["bias"][None])
        return -jnp.mean(log_probabilities[np.arange(7), support["targets"]])

    head = {"kernel": jnp.zeros((5, CLASSES)), "bias": jnp.zeros(CLASSES)}
    opt_state = optimizer.init(head)
    for _ in range(4):
        updates, opt_state = optimizer.update(jax.grad(loss)(head), opt_state)
        head = optax.apply_updates(head, updates)
    assert_close(state.head, head)
    outputs = algorithm.predict(meta_params, state, query["inputs"])
    np.testing.assert_allclose(outputs, unit(query["inputs"]) @ head["kernel"] + head["bias"][None], atol=1e-5)
    # What adapts is the head alone: the features of the support are those of before.
    np.testing.assert_allclose(state.features[:7], unit(support["inputs"]), atol=1e-5)


def test_linear_head_learns_what_can_be_separated():
    support = examples(0, 6)
    support["inputs"] = np.eye(DIMENSIONS, dtype=np.float32)[support["targets"]]
    algorithm = linear_head(plain_model(jnp.float32), OBJECTIVE, optax.sgd(1.0), num_outputs=CLASSES)
    meta_params = init(algorithm)
    state = adapted(algorithm, meta_params, support, 50)
    assert algorithm.loss(jax.random.key(0), meta_params, state, support)[1]["accuracy"] == 1
