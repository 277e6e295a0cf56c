"""Learners by comparison and closed-form heads, each against the same thing done another way."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmeta.algorithms import (
    linear_head,
    logistic,
    matching_network,
    proto_maml,
    protonet,
    relation_network,
    ridge,
    transductive_protonet,
)
from jaxmeta.core.adapt import adapt
from jaxmeta.core.batches import pad_batch, stack_episodes
from jaxmeta.core.types import Episode
from jaxmeta.estimators import backprop
from jaxmeta.models import mlp
from jaxmeta.objectives import classification
from jaxmeta.run.plan import readout_of

CLASSES, DIMENSIONS = 3, 4
OBJECTIVE = classification(CLASSES)
NETWORK = mlp((5,), CLASSES, activation=jnp.tanh, param_dtype=jnp.float64)
IDENTITY = mlp((), CLASSES, param_dtype=jnp.float64)  # its features are its inputs
SOLVED = (protonet, transductive_protonet, matching_network, relation_network, logistic)


def examples(seed, size):
    rng = np.random.default_rng(seed)
    return {"inputs": rng.normal(size=(size, DIMENSIONS)), "targets": (np.arange(size) % CLASSES).astype(np.int32)}


def padded(seed, size, rows):
    """Pads with what would be noticed."""
    batch = pad_batch(examples(seed, size), rows)
    batch["inputs"][size:], batch["targets"][size:] = 50.0, 1
    return batch


def init(algorithm):
    return jax.jit(algorithm.init)(jax.random.key(0), Episode(examples(0, 6), examples(1, 5)))


def adapted(algorithm, meta_params, support, num_steps=0):
    run = jax.jit(lambda *args: adapt(algorithm, jax.random.key(0), *args, num_steps=num_steps)[0])
    return run(meta_params, support)


def features(meta_params, batch):
    return np.asarray(NETWORK.features(meta_params["params"], batch["inputs"]))


def probabilities(logits):
    return np.asarray(jax.nn.softmax(logits))


# Matching networks


def test_a_matching_network_is_attention_by_cosine(x64):
    algorithm = matching_network(NETWORK, OBJECTIVE, num_classes=CLASSES)
    meta_params = init(algorithm) | {"log_scale": jnp.log(7.0)}
    state, query = adapted(algorithm, meta_params, padded(0, 7, 9)), examples(1, 5)
    support = examples(0, 7)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    attention = np.exp(7 * unit(features(meta_params, query)) @ unit(features(meta_params, support)).T)
    attention /= attention.sum(axis=1, keepdims=True)
    want = attention @ np.eye(CLASSES)[support["targets"]]
    np.testing.assert_allclose(probabilities(algorithm.predict(meta_params, state, query["inputs"])), want, rtol=1e-4)


def test_attention_that_is_sure_does_not_underflow():
    algorithm = matching_network(mlp((), CLASSES), OBJECTIVE, num_classes=CLASSES)
    support = {"inputs": np.eye(3, 4, dtype=np.float32), "targets": np.arange(3, dtype=np.int32)}
    meta_params = jax.jit(algorithm.init)(jax.random.key(0), Episode(support, support))
    meta_params |= {"log_scale": jnp.log(jnp.float32(500.0))}
    state = adapted(algorithm, meta_params, support)
    loss = lambda inputs: algorithm.loss(jax.random.key(0), meta_params, state, {**support, "inputs": inputs})[0]  # noqa: E731
    value, slope = jax.jit(jax.value_and_grad(loss))(support["inputs"][::-1])
    assert value > 100
    assert np.isfinite(slope).all()


# Relation networks


def test_a_relation_network_scores_every_pair_by_the_same_network(x64):
    algorithm = relation_network(NETWORK, OBJECTIVE, num_classes=CLASSES, width=6)
    meta_params = init(algorithm)
    meta_params["relation"]["first"]["bias"] = jnp.linspace(-1, 1, 6)
    meta_params["relation"]["second"]["bias"] = jnp.linspace(1, -1, 6)
    state, support, query = adapted(algorithm, meta_params, padded(0, 7, 9)), examples(0, 7), examples(1, 5)
    embedded, relation = features(meta_params, support), jax.device_get(meta_params["relation"])
    means = [embedded[support["targets"] == c].mean(axis=0) for c in range(CLASSES)]
    want = np.zeros((5, CLASSES))
    for row, vector in enumerate(features(meta_params, query)):
        for c, mean in enumerate(means):
            hidden = np.concatenate([mean, vector])
            for layer in ("first", "second"):
                hidden = np.maximum(hidden @ relation[layer]["kernel"] + relation[layer]["bias"], 0)
            want[row, c] = (hidden @ relation["score"]["kernel"])[0]
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(algorithm.predict(meta_params, state, query["inputs"]), want, rtol=1e-9)


# The logistic head


@pytest.mark.parametrize("strength", [0.05, 1.0])
@pytest.mark.parametrize("size", [5, 30], ids=["few examples", "more than features"])
def test_the_logistic_head_is_scikit_learns(size, strength, x64):
    linear_model = pytest.importorskip("sklearn.linear_model")
    algorithm = logistic(IDENTITY, OBJECTIVE, num_classes=CLASSES, newton_steps=12)
    meta_params = init(algorithm) | {"log_ridge": jnp.log(strength), "log_scale": jnp.log(2.0)}
    state, support, query = (
        adapted(algorithm, meta_params, padded(0, size, size + 2)),
        examples(0, size),
        examples(1, 5),
    )
    # The constant feature is penalised as the others are, so it is one of them, and there is no intercept.
    design = lambda batch: np.c_[batch["inputs"] / np.sqrt(DIMENSIONS), np.ones(len(batch["inputs"]))]  # noqa: E731
    for c in range(CLASSES):
        fitted = linear_model.LogisticRegression(
            C=1 / strength, fit_intercept=False, tol=1e-12, solver="newton-cholesky"
        )
        fitted.fit(design(support), support["targets"] == c)
        np.testing.assert_allclose(state.weights[:, c], fitted.coef_[0], rtol=1e-6, atol=1e-9)
    outputs = algorithm.predict(meta_params, state, query["inputs"])
    np.testing.assert_allclose(outputs, 2 * design(query) @ state.weights, rtol=1e-9)


def test_five_newton_steps_come_close(x64):
    support = examples(0, 12)
    weights = []
    for steps in (5, 30):
        algorithm = logistic(IDENTITY, OBJECTIVE, num_classes=CLASSES, newton_steps=steps)
        weights.append(adapted(algorithm, init(algorithm), support).weights)
    np.testing.assert_allclose(*weights, rtol=1e-4, atol=1e-5)
    one = logistic(IDENTITY, OBJECTIVE, num_classes=CLASSES, newton_steps=1)
    assert np.abs(adapted(one, init(one), support).weights - weights[1]).max() > 1e-2


def test_the_first_newton_step_is_ridge_regression(x64):
    """At zero every example has the curvature 1/4, and answers are a half from where they should be."""
    support = examples(0, 6)
    algorithm = logistic(IDENTITY, OBJECTIVE, num_classes=CLASSES, newton_steps=1)
    meta_params = init(algorithm) | {"log_ridge": jnp.log(0.3)}
    state = adapted(algorithm, meta_params, support)
    design = np.c_[support["inputs"] / np.sqrt(DIMENSIONS), np.ones(6)]
    answers = 4 * (np.eye(CLASSES)[support["targets"]] - 0.5)
    want = np.linalg.solve(design.T @ design + 4 * 0.3 * np.eye(DIMENSIONS + 1), design.T @ answers)
    np.testing.assert_allclose(state.weights, want, rtol=1e-9)


def test_the_logistic_head_has_a_derivative_where_answers_are_sure():
    algorithm = logistic(mlp((), CLASSES), OBJECTIVE, num_classes=CLASSES, newton_steps=20)
    support = {"inputs": 100 * np.eye(3, 4, dtype=np.float32), "targets": np.arange(3, dtype=np.int32)}
    task = Episode(support, support)
    meta_params = jax.jit(algorithm.init)(jax.random.key(0), task) | {"log_ridge": jnp.float32(-3.0)}
    estimate = backprop(algorithm, num_steps=0).estimate
    gradient, _, metrics = jax.jit(estimate)(jax.random.key(0), meta_params, (), stack_episodes([task]))
    assert metrics["accuracy"] == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


# Proto-MAML


def test_proto_maml_without_a_step_is_protonet(x64):
    whole = protonet(NETWORK, OBJECTIVE, num_classes=CLASSES)
    algorithm = proto_maml(NETWORK, OBJECTIVE, optax.sgd(0.3), num_classes=CLASSES)
    meta_params = init(algorithm) | {"log_scale": jnp.log(3.0)}
    task = Episode(padded(0, 7, 9), padded(1, 5, 6))
    for side in task:  # one class has no example
        side["targets"] = np.minimum(side["targets"], 1)

    def found(algorithm):
        state = adapted(algorithm, meta_params, task.support)
        estimate = backprop(algorithm, num_steps=0).estimate
        gradient, _, metrics = jax.jit(estimate)(jax.random.key(0), meta_params, (), stack_episodes([task]))
        return probabilities(algorithm.predict(meta_params, state, task.query["inputs"])), gradient, metrics

    got, want = found(algorithm), found(whole)
    assert (want[0][:, 2] == 0).all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), got, want)


def test_a_step_of_proto_maml_moves_the_encoder_and_the_head(x64):
    algorithm = proto_maml(NETWORK, OBJECTIVE, optax.sgd(0.3), num_classes=CLASSES)
    meta_params, support, query = init(algorithm), examples(0, 7), examples(1, 5)
    state = adapted(algorithm, meta_params, support, num_steps=2)
    embedded, scale = features(meta_params, support), 10 / 5
    means = np.stack([embedded[support["targets"] == c].mean(axis=0) for c in range(CLASSES)])
    now = (meta_params["params"], 2 * scale * means.T, -scale * np.square(means).sum(axis=1))

    def answers(now, batch):
        return NETWORK.features(now[0], batch["inputs"]) @ now[1] + now[2][None]

    slope = jax.jit(jax.grad(lambda now: OBJECTIVE.loss(answers(now, support), support)[0]))
    for _ in range(2):
        now = jax.tree.map(lambda leaf, g: leaf - 0.3 * g, now, slope(now))
    outputs = algorithm.predict(meta_params, state, query["inputs"])
    np.testing.assert_allclose(outputs, answers(now, query), rtol=1e-9)
    before = answers((meta_params["params"], *now[1:]), query)
    assert np.abs(before - outputs).max() > 1e-3  # the encoder is not where it was


# Transductive prototypes


def refined_by_hand(meta_params, support, query, scale, refinements):
    shown, asked = features(meta_params, support), features(meta_params, query)
    members = np.eye(CLASSES)[support["targets"]]
    means = (members.T @ shown) / members.sum(axis=0)[:, None]
    for _ in range(refinements):
        away = np.mean(np.square(asked[:, None] - means[None]), axis=-1)
        shares = np.exp(-scale * away)
        shares /= shares.sum(axis=1, keepdims=True)
        means = (members.T @ shown + shares.T @ asked) / (members.sum(axis=0) + shares.sum(axis=0))[:, None]
    return -scale * np.mean(np.square(asked[:, None] - means[None]), axis=-1)


@pytest.mark.parametrize("refinements", [1, 3])
def test_transductive_prototypes_are_soft_k_means(refinements, x64):
    algorithm = transductive_protonet(NETWORK, OBJECTIVE, num_classes=CLASSES, refinements=refinements)
    meta_params = init(algorithm) | {"log_scale": jnp.log(9.0)}
    support, query = padded(0, 7, 9), padded(1, 5, 8)
    state = adapted(algorithm, meta_params, support)
    want = refined_by_hand(meta_params, examples(0, 7), examples(1, 5), 9, refinements)
    seen = jax.jit(algorithm.transduce)(meta_params, state, query)
    np.testing.assert_allclose(algorithm.predict(meta_params, seen, query["inputs"])[:5], want, rtol=1e-9)
    loss, _ = algorithm.loss(jax.random.key(0), meta_params, state, query)
    np.testing.assert_allclose(loss, OBJECTIVE.loss(want, examples(1, 5))[0], rtol=1e-9)


def test_without_its_query_a_transductive_learner_answers_as_an_inductive_one(x64):
    algorithm = transductive_protonet(NETWORK, OBJECTIVE, num_classes=CLASSES)
    other = protonet(NETWORK, OBJECTIVE, num_classes=CLASSES)
    meta_params, support, query = init(algorithm), examples(0, 6), examples(1, 5)
    got = algorithm.predict(meta_params, adapted(algorithm, meta_params, support), query["inputs"])
    want = other.predict(meta_params, adapted(other, meta_params, support), query["inputs"])
    np.testing.assert_array_equal(got, want)
    assert other.transduce is None


def test_judgement_shows_a_transductive_learner_the_query_without_its_targets(x64):
    """Two clouds that have moved away from the one shot of each are found again."""
    network, objective = mlp((), 2, param_dtype=jnp.float64), classification(2)
    support = {"inputs": np.array([[0.0], [1.0]]), "targets": np.arange(2, dtype=np.int32)}
    query = {"inputs": np.array([[0.55], [0.6], [0.65], [1.5], [1.6]]), "targets": np.array([0, 0, 0, 1, 1], np.int32)}
    query |= {"mask": np.ones(5, bool)}
    readout, found = readout_of(objective), {}
    for name, algorithm in {
        "inductive": protonet(network, objective, num_classes=2),
        "transductive": transductive_protonet(network, objective, num_classes=2, refinements=20),
    }.items():
        meta_params = jax.jit(algorithm.init)(jax.random.key(0), Episode(support, query))
        meta_params |= {"log_scale": jnp.log(9.0)}
        state = adapted(algorithm, meta_params, support)
        blind = {**query, "targets": np.zeros(5, np.int32)}
        counts = [readout.read(algorithm, meta_params, state, batch) for batch in (query, blind)]
        found[name] = [readout.scores(one)["accuracy"] for one in counts]
    # Of five, those are right that are told to be of the second cloud, or of the first one where all are called so.
    assert found == {"inductive": pytest.approx([0.4, 0.0]), "transductive": pytest.approx([1.0, 0.6])}


# All of them


@pytest.mark.parametrize("build", [*SOLVED, proto_maml])
def test_classes_that_the_support_has_not_are_never_predicted(build):
    network, objective, extra = mlp((5,), 5), classification(5), (optax.sgd(0.3),) if build is proto_maml else ()
    algorithm = build(network, objective, *extra, num_classes=5)
    rng = np.random.default_rng(0)
    support = {
        "inputs": rng.normal(size=(7, DIMENSIONS)).astype(np.float32),
        "targets": np.array([0, 3, 0, 3, 0, 3, 2], np.int32),
        "mask": np.arange(7) < 6,
    }
    meta_params = jax.jit(algorithm.init)(jax.random.key(0), Episode(support, support))
    state = adapted(algorithm, meta_params, support, num_steps=3 if build is proto_maml else 0)
    outputs = algorithm.predict(meta_params, state, 5 * rng.normal(size=(200, DIMENSIONS)).astype(np.float32))
    assert set(np.argmax(outputs, axis=-1).tolist()) == {0, 3}
    assert np.isfinite(outputs).all()
    assert (probabilities(outputs)[:, [1, 2, 4]] == 0).all()


@pytest.mark.parametrize("build", [*SOLVED, ridge, linear_head])
def test_features_in_half_precision_are_answered_from_in_single(build):
    """Distances, solutions and heads of features that are told in three digits have more of them."""
    half, single = (mlp((16,), CLASSES, dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32))
    # What a model of half precision computes, in single: the head alone is compared.
    rounded = single._replace(features=lambda params, x: half.features(params, x).astype(jnp.float32))
    support = jax.tree.map(lambda leaf: leaf.astype(np.float32) if leaf.dtype == float else leaf, examples(0, 30))
    size = {"num_classes" if build in SOLVED else "num_outputs": CLASSES}
    extra, steps = ((optax.sgd(0.3),), 3) if build is linear_head else ((), 0)
    outputs = []
    for model in (half, rounded):
        algorithm = build(model, OBJECTIVE, *extra, **size)
        meta_params = jax.jit(algorithm.init)(jax.random.key(0), Episode(support, support))
        state = adapted(algorithm, meta_params, support, num_steps=steps)
        outputs.append(algorithm.predict(meta_params, state, support["inputs"]))
        assert outputs[-1].dtype == jnp.float32
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "build", [protonet, transductive_protonet, logistic, ridge, partial(ridge, whiten=True), linear_head]
)
def test_what_a_model_makes_of_padding_is_not_seen(build, x64):
    """A model may divide by a length, which padding does not have."""

    def divided(params, x):
        return NETWORK.features(params, x) / jnp.sum(jnp.square(x), axis=1, keepdims=True)

    model = NETWORK._replace(features=divided)
    extra, steps = ((optax.sgd(0.3),), 2) if build is linear_head else ((), 0)
    by_class = build in (protonet, transductive_protonet, logistic)
    algorithm = build(model, OBJECTIVE, *extra, **{"num_classes" if by_class else "num_outputs": CLASSES})
    support, query = examples(0, 9), examples(1, 5)["inputs"]
    empty = {name: np.concatenate([leaf, np.zeros_like(leaf[:2])]) for name, leaf in support.items()}
    meta_params = init(algorithm)
    want, got = (
        algorithm.predict(meta_params, adapted(algorithm, meta_params, batch, steps), query)
        for batch in (support, {**empty, "mask": np.arange(11) < 9})
    )
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", [*SOLVED, ridge])
def test_labels_are_smoothed_over_the_classes_that_the_support_holds(build):
    objective = classification(5, label_smoothing=0.2)
    algorithm = build(mlp((5,), 5), objective, **{"num_outputs" if build is ridge else "num_classes": 5})
    support, query = examples(0, 6), examples(1, 6)  # two classes are neither there nor said not to exist
    meta_params = jax.jit(algorithm.init)(jax.random.key(0), Episode(support, support))
    state = adapted(algorithm, meta_params, support)
    loss = algorithm.loss(jax.random.key(0), meta_params, state, query)[0]
    known = {**query, "classes": np.tile(np.arange(5) < CLASSES, (6, 1))}
    assert loss < 100
    np.testing.assert_allclose(loss, algorithm.loss(jax.random.key(0), meta_params, state, known)[0], rtol=1e-5)


@pytest.mark.parametrize("build", [*SOLVED, ridge])
def test_wrong_arguments(build):
    name = "num_outputs" if build is ridge else "num_classes"
    with pytest.raises(ValueError, match=f"`{name}` must be positive, got 0"):
        build(NETWORK, OBJECTIVE, **{name: 0})


@pytest.mark.parametrize(
    ("build", "option"),
    [
        (matching_network, "initial_scale"),
        (relation_network, "width"),
        (logistic, "newton_steps"),
        (logistic, "initial_ridge"),
        (logistic, "initial_scale"),
        (transductive_protonet, "refinements"),
    ],
)
def test_wrong_options(build, option):
    with pytest.raises(ValueError, match=f"`{option}` must be positive, got 0"):
        build(NETWORK, OBJECTIVE, num_classes=2, **{option: 0})
