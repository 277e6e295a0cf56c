"""Baselines that take steps: from scratch on the support, and with source examples beside it."""

import jax
import numpy as np
import optax
import pytest
from small_tasks import OBJECTIVE, RATE, adapted, assert_close, distance, episodes, examples, init, model

from jaxmeta.algorithms import maml, source_replay, target_only
from jaxmeta.core.adapt import adapt
from jaxmeta.core.batches import pad_batch, stack_episodes


def test_target_only_reads_its_own_support_and_nothing_else():
    algorithm = target_only(model(), OBJECTIVE, optax.sgd(RATE))
    tasks = episodes(3)
    assert algorithm.init(jax.random.key(0), tasks[0]) == {}
    keys = jax.random.split(jax.random.key(1), 3)

    @jax.jit
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
    got, metrics = jax.jit(algorithm.step)(jax.random.key(3), meta_params, state, support)
    chosen = jax.random.randint(jax.random.split(jax.random.key(3))[0], (4,), 0, 8)
    both = {name: np.concatenate([support[name], source[name][chosen]]) for name in source}
    if masked:
        both["mask"] = np.concatenate([support["mask"], np.ones(4, bool)])
    want, want_metrics = jax.jit(base.step)(jax.random.key(0), meta_params, state, both)
    assert_close((got, metrics), (want, want_metrics))
    alone, _ = jax.jit(base.step)(jax.random.key(0), meta_params, state, support)
    assert distance(got.fast, alone.fast) > 1e-4
    others = {int(jax.random.randint(jax.random.split(jax.random.key(k))[0], (4,), 0, 8)[0]) for k in range(8)}
    assert len(others) > 2, "each step draws anew"
