"""What the compiler is given: the memory of an outer step, what carries a task axis, and how often things are done."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmeta import estimators
from jaxmeta.algorithms import LearnedRates, imaml, maml
from jaxmeta.core.checks import InputError
from jaxmeta.core.gradients import first_order, forward_over_reverse, linearized, reverse
from jaxmeta.core.select import matching
from jaxmeta.core.task_axis import mean_in_chunks
from jaxmeta.core.trees import leading_size
from jaxmeta.core.types import Episode, Model
from jaxmeta.estimators import backprop, multistep
from jaxmeta.models import mlp, transformer
from jaxmeta.objectives import classification, regression

VOCABULARY, LENGTH, WIDTH = 50, 9, 16


def text_model(vocabulary=VOCABULARY, **options):
    return transformer(vocab_size=vocabulary, outputs=3, width=WIDTH, layers=1, heads=2, max_length=LENGTH, **options)


def text_tasks(tasks=3, examples=4, vocabulary=VOCABULARY):
    rng = np.random.default_rng(0)

    def side():
        tokens = rng.integers(0, vocabulary, (tasks, examples, LENGTH)).astype(np.int32)
        return {"inputs": jnp.asarray(tokens), "targets": jnp.asarray(rng.integers(0, 3, (tasks, examples)))}

    return Episode(side(), side())


def wave_tasks(tasks=5):
    rng = np.random.default_rng(1)

    def side():
        return {name: jnp.asarray(rng.normal(size=(tasks, 10, 1)).astype(np.float32)) for name in ("inputs", "targets")}

    return Episode(side(), side())


def outer_gradient(algorithm, episodes, num_steps=2, **options):
    """Returns the function that gives the outer gradient, and the meta-parameters."""
    estimator = backprop(algorithm, num_steps=num_steps, **options)
    meta_params = jax.jit(algorithm.init)(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], episodes))
    return lambda meta_params, episodes: estimator.estimate(jax.random.key(1), meta_params, (), episodes)[
        0
    ], meta_params


def compiled(algorithm, episodes, **options):
    run, meta_params = outer_gradient(algorithm, episodes, **options)
    return jax.jit(run).lower(meta_params, episodes).compile()


def temporary_bytes(*args, **options) -> int:
    return compiled(*args, **options).memory_analysis().temp_size_in_bytes


def assert_same_gradient(first, second, rtol=2e-5, atol=5e-7):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), first, second)


# The task axis


@pytest.mark.parametrize("task_axis", ["sequential", "chunked(2)", "chunked(5)", "chunked(9)", "auto"])
def test_every_task_axis_gives_the_same_gradient(task_axis):
    episodes = wave_tasks()
    algorithm = maml(mlp((8,), 1), regression(), optax.sgd(0.1))

    def estimate(axis):
        estimator = backprop(algorithm, num_steps=2, task_axis=axis)
        meta_params = jax.jit(algorithm.init)(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], episodes))
        return jax.jit(estimator.estimate)(jax.random.key(1), meta_params, (), episodes)

    assert_same_gradient(estimate(task_axis), estimate("vmap"))


def test_a_chunk_is_traced_once():
    traces = []

    def sizes(batch):
        traces.append(leading_size(batch))
        return jnp.mean(batch, axis=0), batch

    means, each = jax.jit(lambda batch: mean_in_chunks(sizes, batch, 2))(jnp.arange(5.0))
    assert (float(means), each.tolist()) == (2.0, [0.0, 1.0, 2.0, 3.0, 4.0])
    assert traces == [2, 1]


@pytest.mark.parametrize("task_axis", ["chunked(0)", "chunked()", "all", "chunked(-1)"])
def test_an_unknown_task_axis_is_refused(task_axis):
    algorithm = maml(mlp((8,), 1), regression(), optax.sgd(0.1))
    carried = (partial(getattr(estimators, name), horizon=2) for name in ("truncated_backprop", "persistent_evolution"))
    for build in (backprop, partial(multistep, anneal_over=5), estimators.evolution, *carried):
        with pytest.raises(ValueError, match="`task_axis` must be one of vmap, chunked"):
            build(algorithm, num_steps=2, task_axis=task_axis)
    held = imaml(mlp((8,), 1), regression(), optax.sgd(0.1))
    with pytest.raises(ValueError, match="`task_axis` must be one of vmap, chunked"):
        estimators.implicit(held, num_steps=2, task_axis=task_axis)


def test_chunks_of_low_precision_are_summed_in_float32():
    """A thousand gradients of one and a small one: bfloat16 alone would stop counting at 256."""
    model = Model(lambda key, x: jnp.zeros((1,), jnp.bfloat16), lambda w, x: x @ w)
    tasks = 1000
    ones = {"inputs": jnp.ones((tasks, 1, 1), jnp.bfloat16), "targets": -0.5 * jnp.ones((tasks, 1), jnp.bfloat16)}
    run, meta_params = outer_gradient(
        maml(model, regression(), optax.sgd(0.1)), Episode(ones, ones), num_steps=0, task_axis="sequential"
    )
    assert float(jax.jit(run)(meta_params, Episode(ones, ones))["params"][0]) == pytest.approx(1.0, rel=0.01)


# What carries a task axis


def test_frozen_weights_have_no_task_axis():
    """With the head alone adapted, no product has a batch axis over tasks on a weight of the trunk."""
    episodes = text_tasks(tasks=7, examples=5)
    model = mlp((WIDTH,), 3)
    inputs = jnp.ones((7, 5, 11))
    vectors = Episode({**episodes.support, "inputs": inputs}, {**episodes.query, "inputs": inputs})
    head = maml(model, classification(3), optax.sgd(0.1), select=matching("^head/"))
    run, meta_params = outer_gradient(head, vectors, task_axis="vmap")
    text = jax.jit(run).lower(meta_params, vectors).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert products
    for line in products:
        batched = re.search(r"batching_dims = \[[^\]]+\]", line)
        shapes = re.findall(r"tensor<([\dx]+)xf32>", line)
        # A weight of the trunk is [11, 16]; with a task axis it would be [7, 11, 16].
        assert not (batched and any(shape in ("7x11x16", "7x16x11") for shape in shapes)), line


@pytest.mark.parametrize("strategy", [forward_over_reverse, linearized])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "under jit"])
def test_a_frozen_trunk_runs_once_for_the_support_however_many_steps(strategy, wrap):
    """Counted in the program itself: products with the trunk's weight outside and inside the loop over steps."""
    model = Model(
        lambda key, inputs: {"trunk": jnp.ones((inputs.shape[-1], 4)), "head": jnp.ones((4, 2))},
        wrap(lambda params, inputs: jnp.tanh(inputs @ params["trunk"]) @ params["head"]),
    )
    algorithm = maml(model, regression(), optax.sgd(0.1), gradient=strategy, select=matching("^head"))
    rng = np.random.default_rng(0)
    side = {
        "inputs": jnp.asarray(rng.normal(size=(1, 6, 5)).astype(np.float32)),
        "targets": jnp.asarray(rng.normal(size=(1, 6, 2)).astype(np.float32)),
    }
    run, meta_params = outer_gradient(algorithm, Episode(side, side), num_steps=4, task_axis="vmap")
    jaxpr = jax.make_jaxpr(run)(meta_params, Episode(side, side)).jaxpr

    def trunk_products(jaxpr, within_loop=False):
        found = []
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general" and any(var.aval.shape[-2:] == (5, 4) for var in eqn.invars):
                found.append(within_loop)
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    found += trunk_products(inner, within_loop or eqn.primitive.name in ("scan", "while"))
        return found

    places = trunk_products(jaxpr)
    assert places, "the trunk is computed somewhere"
    assert not any(places), "and never inside the loop over steps"
    whole, _ = outer_gradient(
        maml(model, regression(), optax.sgd(0.1), gradient=reverse, select=matching("^head")), Episode(side, side),
        num_steps=4,
    )  # fmt: skip
    assert_same_gradient(run(meta_params, Episode(side, side)), whole(meta_params, Episode(side, side)))


# Rows


def bag_of_tokens():
    """A table, the mean of whose rows a layer reads: the least that has rows, and is quick to compile."""

    def init(key, inputs):
        rows, layer = jax.random.split(key)
        return {
            "embedding": {"table": jax.random.normal(rows, (VOCABULARY, WIDTH))},
            "head": {"kernel": jax.random.normal(layer, (WIDTH, 3))},
        }

    def apply(params, inputs):
        return jnp.tanh(params["embedding"]["table"][inputs].mean(axis=1)) @ params["head"]["kernel"]

    return Model(init, apply)


def assert_rows_are_exact(model, optimizer, rates):
    episodes = text_tasks()
    gradients = []
    for rows in (None, matching("^embedding/")):
        algorithm = maml(model, classification(3), optimizer, rates=rates, rows=rows)
        run, meta_params = outer_gradient(algorithm, episodes)
        gradients.append(jax.jit(run)(meta_params, episodes))
    assert_same_gradient(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd(0.1), optax.sgd(0.1, momentum=0.9), optax.adam(0.01, eps_root=1e-8),
     optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1))],
    ids=["sgd", "momentum", "adam", "clipped"],
)  # fmt: skip
@pytest.mark.parametrize("rates", [None, LearnedRates("element", 2)], ids=["fixed", "learned rates"])
def test_rows_are_exact(optimizer, rates, standard_promotion, x64):
    assert_rows_are_exact(bag_of_tokens(), optimizer, rates)


@pytest.mark.slow
@pytest.mark.parametrize("rates", [None, LearnedRates("element", 2)], ids=["fixed", "learned rates"])
def test_rows_of_a_transformer_are_exact(rates, standard_promotion, x64):
    assert_rows_are_exact(text_model(dtype=jnp.float64), optax.adam(0.01, eps_root=1e-8), rates)


@pytest.mark.slow
def test_rows_that_do_not_adapt_may_be_compacted_all_the_same(standard_promotion, x64):
    episodes, gradients = text_tasks(), []
    for rows in (None, matching("^embedding/")):
        algorithm = maml(
            text_model(dtype=jnp.float64), classification(3), optax.sgd(0.1), select=matching("^head/"), rows=rows
        )
        run, meta_params = outer_gradient(algorithm, episodes)
        gradients.append(jax.jit(run)(meta_params, episodes))
    assert_same_gradient(*gradients, rtol=1e-9, atol=1e-12)


def test_rows_work_along_any_task_axis():
    episodes = text_tasks()
    whole, meta_params = outer_gradient(maml(bag_of_tokens(), classification(3), optax.sgd(0.1)), episodes)
    want = jax.jit(whole)(meta_params, episodes)
    algorithm = maml(bag_of_tokens(), classification(3), optax.sgd(0.1), rows=matching("^embedding/"))
    for task_axis in ("vmap", "sequential", "chunked(2)"):
        run, _ = outer_gradient(algorithm, episodes, task_axis=task_axis)
        assert_same_gradient(jax.jit(run)(meta_params, episodes), want, rtol=1e-4)


def test_rows_of_a_large_vocabulary_cost_no_copy_of_the_table():
    """The table is 25.6 MB: with rows, the temporary memory of a step does not see how large it is."""

    def cost(vocabulary, rows):
        episodes = text_tasks(vocabulary=vocabulary)
        algorithm = maml(text_model(vocabulary), classification(3), optax.sgd(0.1), rows=rows)
        return temporary_bytes(algorithm, episodes, task_axis="sequential")

    table = 4 * WIDTH * 400_000
    assert cost(400_000, matching("^embedding/")) < cost(400, matching("^embedding/")) + 0.1 * table
    assert cost(400_000, None) > 2 * table


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adamw(0.01),
        optax.lamb(0.01),
        optax.adafactor(0.01),
    ],
    ids=["adamw", "lamb", "adafactor"],
)
def test_rows_refuse_an_optimizer_that_moves_other_rows(optimizer, standard_promotion):
    episodes = text_tasks()
    run, meta_params = outer_gradient(
        maml(text_model(), classification(3), optimizer, rows=matching("^embedding/")), episodes
    )
    with pytest.raises(ValueError, match="`rows` would not be exact with this inner optimizer"):
        run(meta_params, episodes)


def test_rows_refuse_a_table_that_is_read_as_a_whole():
    tied = Model(
        lambda key, tokens: {"table": jnp.ones((VOCABULARY, 4))},
        lambda params, tokens: params["table"][tokens].mean(axis=1) @ params["table"].T,
    )
    run, meta_params = outer_gradient(
        maml(tied, classification(3), optax.sgd(0.1), rows=matching("table")), text_tasks()
    )
    with pytest.raises(ValueError, match=r"`rows`: table is read by .* too, as a whole"):
        run(meta_params, text_tasks())


def test_rows_refuse_what_is_never_looked_up():
    run, meta_params = outer_gradient(
        maml(text_model(), classification(3), optax.sgd(0.1), rows=matching("^places$")), text_tasks()
    )
    with pytest.raises(ValueError, match="`rows`"):
        run(meta_params, text_tasks())


# Memory


def test_nested_memory_grows_with_the_root_of_the_steps():
    episodes = wave_tasks()
    algorithm = maml(mlp((40, 40), 1), regression(), optax.sgd(0.01))
    few, many = (temporary_bytes(algorithm, episodes, num_steps=k, memory="nested") for k in (4, 64))
    assert many <= 4 * few
    assert temporary_bytes(algorithm, episodes, num_steps=64) > 2 * many


def test_offload_is_refused_where_there_is_no_host_beside_the_device():
    run, meta_params = outer_gradient(maml(mlp((8,), 1), regression(), optax.sgd(0.1)), wave_tasks(), memory="offload")
    with pytest.raises(InputError, match=r'memory "offload" .* a CPU has no other; use "nested"'):
        run(meta_params, wave_tasks())


def test_offload_moves_states_to_the_host_elsewhere(monkeypatch):
    """Lowered for a GPU: what is kept is placed in the host's pinned memory."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    run, meta_params = outer_gradient(maml(mlp((8,), 1), regression(), optax.sgd(0.1)), wave_tasks(), memory="offload")
    text = jax.jit(run).trace(meta_params, wave_tasks()).lower(lowering_platforms=("cuda",)).as_text()
    assert "pinned_host" in text


# Ceilings: what a change must not cost


def waves_25():
    episodes = wave_tasks(tasks=25)
    return maml(mlp((40, 40), 1), regression(), optax.sgd(0.01)), episodes


def text_of_eight_tasks(**options):
    """Eight tasks of 24 + 24 lines of 64 tokens, for a Transformer of two layers of width 128."""
    rng = np.random.default_rng(2)
    model = transformer(vocab_size=8192, outputs=3, width=128, layers=2, heads=4, max_length=64)
    tokens = jnp.asarray(rng.integers(1, 8192, (8, 24, 64)).astype(np.int32))
    side = {"inputs": tokens, "targets": tokens[..., 0] % 3}
    return maml(model, classification(3), optax.sgd(0.01), **options), Episode(side, side)


@pytest.mark.parametrize(
    ("num_steps", "unroll", "ceiling"),
    [(1, 1, 900_000), (5, 1, 1_800_000), (10, 1, 2_750_000), (5, "auto", 2_400_000), (10, "auto", 4_300_000)],
)
def test_memory_of_the_waves(num_steps, unroll, ceiling):
    assert temporary_bytes(*waves_25(), num_steps=num_steps, unroll=unroll) <= ceiling


@pytest.mark.parametrize(
    ("memory", "num_steps", "ceiling"),
    [("none", 5, 150_000_000), ("nested", 4, 135_000_000), ("nested", 64, 210_000_000)],
)
def test_memory_of_a_transformer(memory, num_steps, ceiling):
    assert temporary_bytes(*text_of_eight_tasks(), num_steps=num_steps, memory=memory) <= ceiling


@pytest.mark.slow
def test_to_keep_products_alone_takes_less_memory_than_to_keep_everything():
    algorithm, episodes = text_of_eight_tasks(gradient=linearized)
    whole = temporary_bytes(algorithm, episodes, num_steps=3)
    assert temporary_bytes(algorithm, episodes, num_steps=3, memory="products") < 0.75 * whole


# Loops


def whiles(algorithm, episodes, **options) -> int:
    """Counts the loops of the compiled program over steps: tasks stand side by side."""
    return len(re.findall(r" while\(", compiled(algorithm, episodes, task_axis="vmap", **options).as_text()))


def test_few_steps_of_a_tiny_task_are_no_loop_unless_it_is_asked_for():
    waves = waves_25()
    assert whiles(*waves, num_steps=5) == whiles(*waves, num_steps=5, unroll=5) == 0
    assert whiles(*waves, num_steps=5, unroll=1) == 2  # over the steps, and back
    assert whiles(*waves, num_steps=11) == 2
    # Memory that is to be saved is not spent on this.
    assert whiles(*waves, num_steps=4, memory="per_step") == 2
    larger = maml(mlp((80, 80), 1), regression(), optax.sgd(0.01))
    assert whiles(larger, waves[1], num_steps=2) == 2


@pytest.mark.parametrize("strategy", [forward_over_reverse, linearized, reverse])
@pytest.mark.parametrize(
    ("memory", "unroll"), [("none", 3), ("none", 2), ("products", 1), ("truncated(3)", 2), ("truncated(4)", 3)]
)
def test_without_a_loop_the_gradient_is_the_same(strategy, memory, unroll):
    episodes = wave_tasks()
    algorithm = maml(mlp((8,), 1, activation=jnp.tanh), regression(), optax.sgd(0.1), gradient=strategy)
    run, meta_params = outer_gradient(algorithm, episodes, num_steps=3, memory=memory, unroll=unroll)
    loop, _ = outer_gradient(algorithm, episodes, num_steps=3, unroll=1)
    assert_same_gradient(jax.jit(run)(meta_params, episodes), jax.jit(loop)(meta_params, episodes))


def test_what_is_traced_before_the_cut_is_differentiated_to_first_order():
    episodes = wave_tasks()
    gradients = []
    for strategy, memory in ((reverse, "truncated(0)"), (first_order, "none")):
        algorithm = maml(mlp((8,), 1, activation=jnp.tanh), regression(), optax.sgd(0.1), gradient=strategy)
        estimator = multistep(algorithm, num_steps=3, anneal_over=10, memory=memory)
        meta_params = jax.jit(algorithm.init)(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], episodes))
        run = jax.jit(partial(estimator.estimate, jax.random.key(1)))
        gradients.append(run(meta_params, jnp.zeros((), jnp.int32), episodes)[0])
    assert_same_gradient(*gradients)


@pytest.mark.parametrize("unroll", [0, -1, "all", 1.5])
def test_what_is_no_number_of_steps_is_refused(unroll):
    algorithm, _ = waves_25()
    with pytest.raises(ValueError, match='`unroll` must be a positive number of steps or "auto"'):
        backprop(algorithm, num_steps=2, unroll=unroll)


@pytest.mark.parametrize("memory", ["products", "per_step", "nested"])
def test_memory_is_not_saved_without_a_loop(memory):
    algorithm, _ = waves_25()
    with pytest.raises(ValueError, match=f"`unroll` must be 1 or .* saved by '{memory}', got 2"):
        backprop(algorithm, num_steps=2, memory=memory, unroll=2)
