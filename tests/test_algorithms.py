"""Each algorithm and estimator against the same thing done another way: by hand, or by another library."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quick import quick_jit

from jaxmeta.algorithms import (
    LearnedRates,
    linear_head,
    maml,
    protonet,
    reptile,
    ridge,
    source_replay,
    target_only,
)
from jaxmeta.algorithms.minibatches import minibatch, on_minibatches
from jaxmeta.core.adapt import adapt
from jaxmeta.core.batches import pad_batch, stack_episodes
from jaxmeta.core.gradients import first_order
from jaxmeta.core.select import matching, merge
from jaxmeta.core.types import Episode, Model
from jaxmeta.estimators import backprop, displacement, pooled
from jaxmeta.models import mlp
from jaxmeta.objectives import classification, regression

CLASSES, DIMENSIONS, RATE = 3, 4, 0.3
OBJECTIVE = classification(CLASSES)


def examples(seed, size, classes=CLASSES, dtype=np.float32):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(size, DIMENSIONS)).astype(dtype)
    return {"inputs": inputs, "targets": (np.arange(size) % classes).astype(np.int32)}


def episodes(count=3, support=6, query=5):
    return [Episode(examples(2 * t, support), examples(2 * t + 1, query)) for t in range(count)]


def model(dtype=jnp.float32):
    return mlp((5,), CLASSES, activation=jnp.tanh, param_dtype=dtype)


def plain_model(dtype=jnp.float64):
    """Its features are its inputs."""
    return mlp((), CLASSES, param_dtype=dtype)


def init(algorithm, task=None):
    return quick_jit(algorithm.init)(jax.random.key(0), task or episodes(1)[0])


def adapted(algorithm, meta_params, support, num_steps, seed=0):
    run = quick_jit(lambda *args: adapt(algorithm, *args, num_steps=num_steps)[0])
    return run(jax.random.key(seed), meta_params, support)


def estimate(estimator, meta_params, batch):
    gradient, state, metrics = quick_jit(estimator.estimate)(jax.random.key(0), meta_params, (), batch)
    assert state == ()
    return gradient, metrics


def assert_close(got, want, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, want)


def distance(first, second):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), first, second)))


# Closed forms


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


# Heads and baselines


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


def test_target_only_reads_its_own_support_and_nothing_else():
    algorithm = target_only(model(), OBJECTIVE, optax.sgd(RATE))
    tasks = episodes(3)
    assert algorithm.init(jax.random.key(0), tasks[0]) == {}
    keys = jax.random.split(jax.random.key(1), 3)

    @quick_jit
    def outputs(keys, meta_params, batch):
        def one(key, task):
            state, _ = adapt(algorithm, key, meta_params, task.support, num_steps=3)
            return algorithm.predict(meta_params, state, task.query["inputs"])

        return jax.vmap(one)(keys, batch)

    batch = stack_episodes(tasks)
    want = outputs(keys, {}, batch)
    trained = init(maml(model(), OBJECTIVE, optax.sgd(RATE)))
    np.testing.assert_array_equal(outputs(keys, trained, batch), want)
    other = stack_episodes([tasks[0], *episodes(5)[3:]])
    got = outputs(keys, {}, other)
    np.testing.assert_array_equal(got[0], want[0])
    assert distance(got[1], want[1]) > 1e-3
    # Each task starts elsewhere.
    starts = [algorithm.begin(key, {}, tasks[0].support).fast for key in keys[:2]]
    assert distance(starts[0]["head"]["kernel"], starts[1]["head"]["kernel"]) > 1e-3


def test_target_only_is_maml_from_parameters_of_its_own():
    algorithm, other = target_only(model(), OBJECTIVE, optax.sgd(RATE)), maml(model(), OBJECTIVE, optax.sgd(RATE))
    support = examples(0, 6)
    begin_key, _ = jax.random.split(jax.random.key(4))
    own = {"params": algorithm.begin(begin_key, {}, support).fast}
    assert_close(adapted(algorithm, {}, support, 3, seed=4).fast, adapted(other, own, support, 3).fast)


@pytest.mark.parametrize("masked", [False, True])
def test_a_step_of_source_replay_is_the_step_on_both_batches(masked):
    base, support, source = maml(model(), OBJECTIVE, optax.sgd(RATE)), examples(0, 5), examples(1, 8)
    if masked:  # the source has no padding, and need not say so
        support = pad_batch(support, 6)
    algorithm = source_replay(base, source, num_examples=4)
    meta_params = init(base)
    state = algorithm.begin(jax.random.key(0), meta_params, support)
    got, metrics = quick_jit(algorithm.step)(jax.random.key(3), meta_params, state, support)
    chosen = jax.random.randint(jax.random.split(jax.random.key(3))[0], (4,), 0, 8)
    both = {name: np.concatenate([support[name], source[name][chosen]]) for name in source}
    if masked:
        both["mask"] = np.concatenate([support["mask"], np.ones(4, bool)])
    want, want_metrics = quick_jit(base.step)(jax.random.key(0), meta_params, state, both)
    assert_close((got, metrics), (want, want_metrics))
    alone, _ = quick_jit(base.step)(jax.random.key(0), meta_params, state, support)
    assert distance(got.fast, alone.fast) > 1e-4
    others = {int(jax.random.randint(jax.random.split(jax.random.key(k))[0], (4,), 0, 8)[0]) for k in range(8)}
    assert len(others) > 2, "each step draws anew"


# Reptile and joint training


def test_reptile_goes_to_the_mean_of_the_adapted_parameters():
    algorithm = reptile(model(), OBJECTIVE, optax.sgd(RATE))
    meta_params, tasks = init(algorithm), episodes(3)
    gradient, metrics = estimate(displacement(algorithm, num_steps=3), meta_params, stack_episodes(tasks))

    def by_hand(task):
        params = meta_params["params"]
        both = {name: np.concatenate([task.support[name], task.query[name]]) for name in task.support}
        loss = lambda params: OBJECTIVE.loss(model().apply(params, both["inputs"]), both)[0]  # noqa: E731
        slope = quick_jit(jax.grad(loss))
        for _ in range(3):
            params = jax.tree.map(lambda p, g: p - RATE * g, params, slope(params))
        return params

    ends = [by_hand(task) for task in tasks]
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *ends)
    assert_close(gradient["params"], jax.tree.map(np.subtract, meta_params["params"], mean))
    losses = [
        OBJECTIVE.loss(model().apply(end, task.query["inputs"]), task.query)[0]
        for end, task in zip(ends, tasks, strict=True)
    ]
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)


def test_one_step_of_reptile_is_joint_training():
    algorithm = reptile(model(), OBJECTIVE, optax.sgd(RATE))
    meta_params, batch = init(algorithm), stack_episodes(episodes(3))
    moved, _ = estimate(displacement(algorithm, num_steps=1), meta_params, batch)
    joint, _ = estimate(pooled(algorithm), meta_params, batch)
    assert_close(moved, jax.tree.map(lambda leaf: RATE * leaf, joint))


@pytest.mark.parametrize("algorithm", [reptile, maml])
def test_what_does_not_adapt_is_not_displaced(algorithm):
    algorithm = algorithm(model(), OBJECTIVE, optax.sgd(RATE), select=matching("^head/"))
    gradient, _ = estimate(displacement(algorithm, num_steps=2), init(algorithm), stack_episodes(episodes(2)))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["params"]["layer_0"]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient["params"]["head"]))


def test_learned_rates_are_not_displaced():
    algorithm = maml(model(), OBJECTIVE, optax.sgd(RATE), rates=LearnedRates())
    meta_params = init(algorithm)
    gradient, _ = estimate(displacement(algorithm, num_steps=2), meta_params, stack_episodes(episodes(2)))
    assert_close(gradient["log_rates"], jax.tree.map(np.zeros_like, meta_params["log_rates"]))


def test_displacement_needs_adapted_parameters():
    algorithm = protonet(model(), OBJECTIVE, num_classes=CLASSES)
    with pytest.raises(ValueError, match="`displacement` needs an algorithm that adapts a copy of its parameters"):
        estimate(displacement(algorithm, num_steps=1), init(algorithm), stack_episodes(episodes(2)))


def test_pooled_is_the_gradient_of_the_mean_loss_over_all_examples():
    algorithm = maml(model(), OBJECTIVE, optax.sgd(RATE))
    meta_params, tasks = init(algorithm), episodes(3)
    gradient, metrics = estimate(pooled(algorithm), meta_params, stack_episodes(tasks))
    sides = [side for task in tasks for side in task]
    every = {name: np.concatenate([side[name] for side in sides]) for name in sides[0]}
    loss = lambda params: OBJECTIVE.loss(model().apply(params, every["inputs"]), every)[0]  # noqa: E731
    value, slope = quick_jit(jax.value_and_grad(loss))(meta_params["params"])
    assert_close(gradient["params"], slope)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-6)


@pytest.mark.parametrize("name", ["pooled", "displacement"])
def test_support_and_query_are_joined_though_one_alone_is_padded(name):
    algorithm = reptile(model(), OBJECTIVE, optax.sgd(RATE))
    estimator = pooled(algorithm) if name == "pooled" else displacement(algorithm, num_steps=2)
    tasks = [Episode(examples(t, size), examples(t + 9, 5)) for t, size in enumerate((6, 4))]
    batch = stack_episodes(tasks)
    assert ("mask" in batch.support, "mask" in batch.query) == (True, False)
    meta_params = init(algorithm)
    got, _ = estimate(estimator, meta_params, batch)
    alone = [estimate(estimator, meta_params, stack_episodes([task]))[0] for task in tasks]
    assert_close(got, jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *alone))


def test_minibatches_are_drawn_without_replacement_and_real_examples_first():
    batch = pad_batch(examples(0, 5), 9)
    batch["inputs"][:, 0] = np.arange(9)
    seen = set()
    for seed in range(20):
        drawn = minibatch(jax.random.key(seed), batch, 4)
        numbers = np.asarray(drawn["inputs"][:, 0]).tolist()
        assert len(set(numbers)) == 4
        assert drawn["mask"].all()
        np.testing.assert_array_equal(drawn["targets"], batch["targets"][np.array(numbers, int)])
        seen |= set(numbers)
    assert seen == {0, 1, 2, 3, 4}
    six = minibatch(jax.random.key(0), batch, 6)
    assert six["mask"].tolist() == [True] * 5 + [False]
    assert minibatch(jax.random.key(0), batch, 9) is batch
    whole = maml(mlp((5,), CLASSES), OBJECTIVE, optax.sgd(RATE))
    assert on_minibatches(whole, None) is whole


def test_reptile_steps_on_other_examples_each_time():
    support = examples(0, 6)
    algorithm = reptile(model(), OBJECTIVE, optax.sgd(RATE), batch_size=2)
    meta_params = init(algorithm)
    first, second = (adapted(algorithm, meta_params, support, 1, seed).fast for seed in (0, 1))
    assert distance(first, second) > 1e-3
    whole = reptile(model(), OBJECTIVE, optax.sgd(RATE), batch_size=6)
    assert_close(adapted(whole, meta_params, support, 1, 0).fast, adapted(whole, meta_params, support, 1, 1).fast)


# MAML and what differs from it by an argument


def test_anil_leaves_the_trunk_as_it_is_but_learns_it():
    algorithm = maml(model(), OBJECTIVE, optax.sgd(RATE), select=matching("^head/"))
    meta_params, task = init(algorithm), episodes(1)[0]
    state = adapted(algorithm, meta_params, task.support, 3)
    assert state.fast["layer_0"] == {"kernel": None, "bias": None}
    assert distance(state.fast["head"], meta_params["params"]["head"]) > 1e-3
    # Nothing else adapts: the outputs are those of the old trunk under the new head.
    network, now = model(), merge(state.fast, meta_params["params"])
    np.testing.assert_array_equal(now["layer_0"]["kernel"], meta_params["params"]["layer_0"]["kernel"])
    want = network.apply(now, task.query["inputs"])
    np.testing.assert_allclose(algorithm.predict(meta_params, state, task.query["inputs"]), want, rtol=1e-6)
    gradient, _ = estimate(backprop(algorithm, num_steps=3), meta_params, stack_episodes([task]))
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(gradient["params"]))


def test_fomaml_is_the_query_gradient_where_adaptation_ends():
    algorithm = maml(model(), OBJECTIVE, optax.sgd(RATE), gradient=first_order)
    meta_params, task = init(algorithm), episodes(1)[0]
    got, _ = estimate(backprop(algorithm, num_steps=3), meta_params, stack_episodes([task]))
    end = adapted(algorithm, meta_params, task.support, 3).fast
    loss = lambda params: OBJECTIVE.loss(model().apply(params, task.query["inputs"]), task.query)[0]  # noqa: E731
    assert_close(got, {"params": quick_jit(jax.grad(loss))(end)})
    exact, _ = estimate(
        backprop(maml(model(), OBJECTIVE, optax.sgd(RATE)), num_steps=3), meta_params, stack_episodes([task])
    )
    assert distance(got, exact) > 1e-3


@pytest.mark.parametrize("per", ["leaf", "element"])
def test_a_log_rate_of_log_2_doubles_the_step(per):
    algorithm = maml(model(), OBJECTIVE, optax.sgd(RATE), rates=LearnedRates(per))
    meta_params, support = init(algorithm), examples(0, 6)
    plain = adapted(maml(model(), OBJECTIVE, optax.sgd(RATE)), {"params": meta_params["params"]}, support, 1).fast
    assert_close(adapted(algorithm, meta_params, support, 1).fast, plain)
    log_rates = jax.tree.map(np.array, meta_params["log_rates"])
    log_rates["head"]["kernel"][0, ...] = np.log(2)
    if per == "element":
        log_rates["head"]["kernel"][0, 1:] = 0
    got = adapted(algorithm, {**meta_params, "log_rates": log_rates}, support, 1).fast
    start = meta_params["params"]["head"]["kernel"]
    factor = np.ones(start.shape, np.float32)
    factor[: 1 if per == "element" else None] = 2
    want = {**plain, "head": {**plain["head"], "kernel": start + factor * (plain["head"]["kernel"] - start)}}
    assert_close(got, want)


def test_more_inner_steps_than_rates_use_the_last():
    start, support = init(maml(model(), OBJECTIVE, optax.sgd(RATE))), examples(0, 6)

    def end(steps, values):
        algorithm = maml(model(), OBJECTIVE, optax.sgd(RATE), rates=LearnedRates("leaf", steps=steps))
        log_rates = jax.tree.map(lambda leaf: np.array(values, np.float32), start["params"])
        return adapted(algorithm, {**start, "log_rates": log_rates}, support, 4).fast

    assert_close(end(2, [0.5, -0.7]), end(4, [0.5, -0.7, -0.7, -0.7]))
    assert distance(end(2, [0.5, -0.7]), end(4, [0.5, -0.7, 0.5, 0.5])) > 1e-3


def test_the_inner_optimizers_state_starts_anew_and_carries_over():
    optimizer, support = optax.sgd(RATE, momentum=0.9), examples(0, 6)
    algorithm = maml(model(), OBJECTIVE, optimizer)
    meta_params = init(algorithm)
    params, opt_state = meta_params["params"], optimizer.init(meta_params["params"])
    loss = lambda params: OBJECTIVE.loss(model().apply(params, support["inputs"]), support)[0]  # noqa: E731
    slope = quick_jit(jax.grad(loss))
    for _ in range(3):
        updates, opt_state = optimizer.update(slope(params), opt_state, params)
        params = optax.apply_updates(params, updates)
    state = adapted(algorithm, meta_params, support, 3)
    assert_close((state.fast, state.opt_state), (params, opt_state))
    assert state.step == 3


# Wrong arguments


BASE = maml(model(), OBJECTIVE, optax.sgd(RATE))


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (maml, {"rates": LearnedRates("row")}, "`rates.per` must be one of 'leaf', 'element', got 'row'"),
        (maml, {"rates": LearnedRates("leaf", 0)}, "`rates.steps` must be positive, got 0"),
        (reptile, {"batch_size": 0}, "`batch_size` must be positive, got 0"),
        (linear_head, {"num_outputs": 0}, "`num_outputs` must be positive, got 0"),
    ],
)
def test_wrong_arguments_of_algorithms_that_take_gradient_steps(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(model(), OBJECTIVE, optax.sgd(RATE), **options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: protonet(model(), OBJECTIVE, num_classes=0), "`num_classes` must be positive, got 0"),
        (
            lambda: protonet(model(), OBJECTIVE, num_classes=2, initial_scale=0),
            "`initial_scale` must be positive, got 0",
        ),
        (lambda: ridge(model(), OBJECTIVE, num_outputs=-1), "`num_outputs` must be positive, got -1"),
        (lambda: ridge(model(), OBJECTIVE, num_outputs=2, initial_ridge=0), "`initial_ridge` must be positive, got 0"),
        (lambda: ridge(model(), OBJECTIVE, num_outputs=2, initial_scale=0), "`initial_scale` must be positive, got 0"),
        (lambda: source_replay(BASE, examples(0, 4), num_examples=0), "`num_examples` must be positive, got 0"),
        (lambda: init(maml(model(), OBJECTIVE, optax.sgd(RATE), select=matching("tail"))), "matches no parameter"),
    ],
)
def test_other_wrong_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
