"""Decoding with a cache against decoding without one, against enumeration, and against a nucleus made with numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sequences import (
    BOS,
    BUILDERS,
    EOS,
    LENGTH,
    VOCABULARY,
    beam_reference,
    greedy_reference,
    inputs_of,
    model_of,
    next_logits,
    random_params,
)

from jaxmeta import objectives
from jaxmeta.algorithms import maml
from jaxmeta.core.adapt import adapt
from jaxmeta.core.trees import sum_dtype
from jaxmeta.models import beam_search, greedy, plain, sampling
from jaxmeta.models.decoding import Steps

KINDS, NEW = list(BUILDERS), 5


class Case:
    """A kind of model in float64, inputs of different lengths, and parameters that end sentences early and late."""

    def __init__(self, kind):
        self.kind, self.inputs = kind, inputs_of(kind, size=4)
        self.model = model_of(kind, dtype=jnp.float64)
        self.logits = next_logits(kind, self.model)
        self.params = [random_params(self.model, self.inputs, seed=seed) for seed in (0, 2, 5, 6)]
        for params in self.params:
            params["head"]["bias"] = params["head"]["bias"].at[EOS].add(1.0)

    def writing(self, search):
        return model_of(self.kind, search=search, max_new_tokens=NEW, dtype=jnp.float64).generate

    def generate(self, search):
        return jax.jit(self.writing(search))


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    with jax.enable_x64(True):
        yield Case(request.param)


def lengths(tokens):
    return np.sum(np.asarray(tokens) != 0, axis=1)


def test_greedy_with_a_cache_writes_what_it_writes_without(case, x64):
    generate = case.generate(greedy)
    written = [np.asarray(generate(params, case.inputs)) for params in case.params]
    for params, tokens in zip(case.params, written, strict=True):
        np.testing.assert_array_equal(tokens, greedy_reference(case.logits, params, case.inputs, NEW))
    assert len({*np.concatenate([lengths(tokens) for tokens in written])}) > 2  # some ended early, some late
    assert not np.isin(written, [BOS, EOS]).any()
    assert written[0].dtype == np.int32


@pytest.mark.parametrize(("size", "penalty"), [(3, 0.0), (3, 1.0)])
def test_beams_with_a_cache_write_what_they_write_without(case, size, penalty, x64):
    generate = case.generate(beam_search(size, length_penalty=penalty))
    different = 0
    for params in case.params:
        want = beam_reference(case.logits, params, case.inputs, NEW, size=size, penalty=penalty)
        np.testing.assert_array_equal(generate(params, case.inputs), want)
        different += np.any(want != greedy_reference(case.logits, params, case.inputs, NEW))
    assert different  # otherwise beams are not put to the test


def test_one_beam_is_greedy_and_padding_and_neighbours_change_nothing(case, x64):
    want = case.generate(greedy)(case.params[0], case.inputs)
    generate = case.generate(beam_search(1))
    np.testing.assert_array_equal(generate(case.params[0], case.inputs), want)
    padded = {name: np.pad(leaf, ((0, 2), (0, 2))) for name, leaf in case.inputs.items()}
    np.testing.assert_array_equal(generate(case.params[0], padded)[:4], want)


def test_decoding_with_parameters_of_each_task_is_that_of_the_tasks_alone(case, x64):
    search = beam_search(2)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *case.params)
    together = jax.jit(jax.vmap(case.writing(search), (0, None)))(stacked, case.inputs)
    generate = case.generate(search)
    for params, tokens in zip(case.params, together, strict=True):
        np.testing.assert_array_equal(tokens, generate(params, case.inputs))


def test_an_algorithm_built_on_generate_decodes_with_adapted_parameters(x64):
    model = model_of("seq2seq", max_new_tokens=NEW, dtype=jnp.float64)
    writing = model._replace(apply=model.generate)
    learner, writer = (maml(each, objectives.translation(VOCABULARY), optax.sgd(0.5)) for each in (model, writing))
    inputs = inputs_of("seq2seq")
    support = {"inputs": inputs, "targets": np.roll(inputs["previous"], -1, axis=1)}
    meta_params = {"params": random_params(model, inputs)}

    @jax.jit
    def written(meta_params):
        state, _ = adapt(learner, jax.random.key(0), meta_params, support, num_steps=3)
        return state.fast, writer.predict(meta_params, state, inputs)

    adapted, tokens = written(meta_params)
    np.testing.assert_array_equal(tokens, jax.jit(model.generate)(adapted, inputs))
    assert np.any(tokens != jax.jit(model.generate)(meta_params["params"], inputs))


def test_what_is_left_out_is_what_the_model_has_room_for():
    for kind, room in (("seq2seq", 2 * LENGTH), ("language_model", LENGTH + 1)):
        model, inputs = model_of(kind), inputs_of(kind)
        params = jax.eval_shape(model.init, jax.random.key(0), inputs)
        assert jax.eval_shape(model.generate, params, inputs).shape == (3, room)


# Searches by themselves, on a chain whose next token depends on the last one alone


def chain(table, length, *, eos=1, sentences=1, count=None):
    """Returns `Steps` of a Markov chain: `table [V, V]` has the logits after each token, the first row at the start."""
    table = jnp.asarray(table)

    def step(cache, tokens, place):
        if count is not None:
            jax.debug.callback(count)
        return table[tokens], cache + 1

    first = jnp.broadcast_to(table[0], (sentences, table.shape[1]))
    return Steps(first, lambda beams: jnp.zeros((sentences, beams), jnp.int32), step, length, eos)


def test_wide_beams_find_the_best_of_all_sentences():
    words, length, eos = 4, 3, 1
    for seed, penalty in itertools.product(range(4), (0.0, 0.8)):
        table = np.random.default_rng(seed).normal(0, 2, (words, words)).astype(np.float32)
        table[:, 0] = -np.inf  # padding
        logs = np.asarray(jax.nn.log_softmax(table, axis=-1))
        worths = {}
        for tokens in itertools.product(range(1, words), repeat=length):
            end = tokens.index(eos) + 1 if eos in tokens else length
            total = sum(logs[before, after] for before, after in zip((0, *tokens), tokens[:end], strict=False))
            worths[tokens[:end]] = total / ((5 + end) / 6) ** penalty
        best = [token for token in max(worths, key=worths.__getitem__) if token != eos]
        search = beam_search(words**length, length_penalty=penalty)
        (found,) = jax.jit(lambda table, search=search: search(chain(table, length)))(table)
        assert [token for token in found.tolist() if token] == best


def test_a_search_stops_when_every_sentence_has_ended():
    # From the start one word and then the end, which is nearly certain.
    table = np.full((4, 4), -30.0, np.float32)
    table[0, 2], table[2, 1], table[3, 1] = 0.0, 0.0, 0.0
    for search, most in ((greedy, 1), (sampling(jax.random.key(0)), 1), (beam_search(2), 2)):
        calls = []
        steps = chain(table, 50, sentences=3, count=lambda calls=calls: calls.append(1))
        tokens = jax.jit(lambda search=search, steps=steps: search(steps))()
        jax.effects_barrier()
        np.testing.assert_array_equal(tokens[:, :2], [[2, 0]] * 3)
        assert not tokens[:, 2:].any()
        assert 1 <= len(calls) <= most


def test_draws_stay_in_the_nucleus_with_its_probabilities():
    logits, draws = np.array([-np.inf, 0.4, 2.0, 1.1, -0.5, 1.0, -3.0], np.float32), 20_000
    for top_p, temperature in ((1.0, 1.0), (0.9, 2.0), (1e-6, 1.0)):

        @jax.jit
        def drawn(key, table, top_p=top_p, temperature=temperature):
            search = sampling(key, temperature=temperature, top_p=top_p)
            return search(chain(table, 1, eos=6, sentences=draws))[:, 0]

        tokens = np.asarray(drawn(jax.random.key(3), np.tile(logits, (7, 1))))
        weights = np.exp(logits.astype(np.float64) / temperature)
        weights /= weights.sum()
        order = np.argsort(-weights)
        size = int(np.searchsorted(np.cumsum(weights[order]), top_p - 1e-12)) + 1
        nucleus = np.zeros(7)
        nucleus[order[:size]] = weights[order[:size]]
        nucleus /= nucleus.sum()
        frequency = np.bincount(tokens, minlength=7) / draws
        frequency[6], nucleus[6] = frequency[0], nucleus[0]  # what ends a sentence is written as padding
        nucleus[0] = 0 if top_p < 1 else nucleus[0]
        assert not frequency[1:6][nucleus[1:6] == 0].any()
        np.testing.assert_allclose(frequency[1:6], nucleus[1:6], atol=4 * np.sqrt(0.25 / draws))


def test_draws_of_a_sentence_do_not_depend_on_its_neighbours():
    table = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
    one, more, other = (
        jax.jit(lambda n=n, key=key: sampling(jax.random.key(key))(chain(table, 8, sentences=n)))()
        for n, key in ((2, 0), (5, 0), (2, 1))
    )
    np.testing.assert_array_equal(more[:2], one)
    assert np.any(one != other)
    assert np.any(one[0] != one[1])


def test_models_of_plain_functions_carry_generate_over():
    model = plain(lambda key, x: {"w": jnp.ones(3)}, lambda p, x: x * p["w"][None], generate=lambda p, x: jnp.cumsum(x))
    np.testing.assert_array_equal(model.generate({}, jnp.arange(3)), [0, 1, 3])
    assert plain(model.init, model.apply).generate is None


def test_logits_in_half_precision_are_searched_in_single(standard_promotion):
    from jaxmeta import models

    assert sum_dtype(jnp.bfloat16) == jnp.float32
    model, inputs = model_of("seq2seq", search=beam_search(2), max_new_tokens=NEW), inputs_of("seq2seq")
    params = random_params(model, inputs, jnp.float32)
    tokens = jax.jit(models.cast(model, jnp.bfloat16).generate)(params, inputs)
    assert tokens.shape == (3, NEW)
    assert tokens.dtype == jnp.int32


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="`size` must be positive, got 0"):
        beam_search(0)
    with pytest.raises(ValueError, match="`length_penalty` must be zero or more, got -1"):
        beam_search(2, length_penalty=-1)
    with pytest.raises(ValueError, match="`temperature` must be positive, got 0"):
        sampling(jax.random.key(0), temperature=0)
    for top_p in (0, 1.5):
        with pytest.raises(ValueError, match=f"`top_p` must be above 0 and at most 1, got {top_p}"):
            sampling(jax.random.key(0), top_p=top_p)
