"""Reptile, joint training and minibatches of the support, against the same thing by hand."""

import jax
import numpy as np
import optax
import pytest
from small_tasks import (
    CLASSES,
    OBJECTIVE,
    RATE,
    adapted,
    assert_close,
    distance,
    episodes,
    estimate,
    examples,
    init,
    model,
)

from jaxmeta.algorithms import LearnedRates, maml, protonet, reptile
from jaxmeta.algorithms.minibatches import minibatch, on_minibatches
from jaxmeta.core.batches import pad_batch, stack_episodes
from jaxmeta.core.select import matching
from jaxmeta.core.types import Episode
from jaxmeta.estimators import displacement, pooled
from jaxmeta.models import mlp


def test_reptile_goes_to_the_mean_of_the_adapted_parameters():
    algorithm = reptile(model(), OBJECTIVE, optax.sgd(RATE))
    meta_params, tasks = init(algorithm), episodes(3)
    gradient, metrics = estimate(displacement(algorithm, num_steps=3), meta_params, stack_episodes(tasks))

    def by_hand(task):
        params = meta_params["params"]
        both = {name: np.concatenate([task.support[name], task.query[name]]) for name in task.support}
        loss = lambda params: OBJECTIVE.loss(model().apply(params, both["inputs"]), both)[0]  # noqa: E731
        slope = jax.jit(jax.grad(loss))
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
    value, slope = jax.jit(jax.value_and_grad(loss))(meta_params["params"])
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
