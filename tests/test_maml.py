"""MAML and what differs from it by an argument: what adapts, first order, learned rates, the inner optimizer."""

import jax
import numpy as np
import optax
import pytest
from small_tasks import OBJECTIVE, RATE, adapted, assert_close, distance, episodes, estimate, examples, init, model

from jaxmeta.algorithms import LearnedRates, maml
from jaxmeta.core.batches import stack_episodes
from jaxmeta.core.gradients import first_order
from jaxmeta.core.select import matching, merge
from jaxmeta.estimators import backprop


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
    assert_close(got, {"params": jax.jit(jax.grad(loss))(end)})
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
    slope = jax.jit(jax.grad(loss))
    for _ in range(3):
        updates, opt_state = optimizer.update(slope(params), opt_state, params)
        params = optax.apply_updates(params, updates)
    state = adapted(algorithm, meta_params, support, 3)
    assert_close((state.fast, state.opt_state), (params, opt_state))
    assert state.step == 3
