"""The memory of n-grams against counting with dictionaries, and its writing against writing without a cache."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sequences import BOS, EOS, VOCABULARY, beam_reference, greedy_reference, inputs_of, model_of, next_logits

from jaxmeta import objectives
from jaxmeta.algorithms import ngram_memory
from jaxmeta.core.types import Episode
from jaxmeta.models import beam_search, greedy

LONGEST, NEW = 3, 5
TEXTS = [[1, 2, 1, 2, 3, EOS], [2, 1, 2, 4, EOS], [5, 5, 5, 5], [1, 2, 3]]


class Case:
    """A tiny language model in float64 with a memory of some texts, and meta-parameters drawn at random."""

    def __init__(self, search=greedy):
        self.model = model_of("language_model", search=search, max_new_tokens=NEW, dtype=jnp.float64)
        objective = objectives.generation(VOCABULARY)
        self.algorithm = ngram_memory(self.model, objective, longest=LONGEST, hidden=4, buckets=7, width=3)
        rows = np.zeros((len(TEXTS), max(map(len, TEXTS))), np.int32)
        for row, text in zip(rows, TEXTS, strict=True):
            row[: len(text)] = text
        previous = np.hstack([np.full((len(rows), 1), BOS), rows[:, :-1]]).astype(np.int32)
        self.support = {"inputs": {"previous": np.where(rows > 0, previous, 0)}, "targets": rows}
        meta_params = self.algorithm.init(jax.random.key(0), Episode(self.support, self.support))
        rng = np.random.default_rng(0)
        self.meta_params = jax.tree.map(lambda leaf: leaf + 0.5 * rng.normal(size=leaf.shape), meta_params)

    def predict(self, meta_params, inputs, support=None):
        @jax.jit
        def predicted(meta_params, support):
            state = self.algorithm.begin(jax.random.key(0), meta_params, support)
            return self.algorithm.predict(meta_params, state, inputs)

        return np.asarray(predicted(meta_params, support or self.support))


def counts_of_kneser_and_ney():
    """Returns what followed each context: once for each token before it, where it is not of the greatest length."""
    followers = collections.defaultdict(set)
    for number, text in enumerate(TEXTS):
        tokens = [BOS, *text]
        for place in range(1, len(tokens)):
            for length in range(min(LONGEST, place + 1)):
                first = place - length
                counts_once = length < LONGEST - 1 and first > 0
                before = tokens[first - 1] if counts_once else (number, place)
                followers[tuple(tokens[first:place])].add((before, tokens[place]))
    return {context: collections.Counter(token for _, token in found) for context, found in followers.items()}


def test_where_gates_are_open_it_answers_with_the_counts_after_the_longest_context_seen(x64):
    case, counts = Case(), counts_of_kneser_and_ney()
    weights = jax.tree.map(jnp.zeros_like, case.meta_params["gates"])
    weights["outer_bias"] = jnp.full(LONGEST, 50.0)
    open_gates = {**case.meta_params, "gates": weights, "discount": jnp.full(LONGEST, -50.0)}
    rows = np.array([[BOS, 1, 2, 1, 5, 6, 2], [BOS, 4, 5, 5, 2, 1, 0]], np.int32)
    found = np.exp(case.predict(open_gates, {"previous": rows}))
    lengths = set()
    for row, probabilities in zip(rows.tolist(), found, strict=True):
        for place in range(sum(token > 0 for token in row)):
            contexts = [tuple(row[place + 1 - length : place + 1]) for length in range(min(LONGEST, place + 2))]
            after = counts[max((c for c in contexts if c in counts), key=len)]
            lengths.add(max(len(c) for c in contexts if c in counts))
            want = [after[token] / sum(after.values()) for token in range(VOCABULARY)]
            np.testing.assert_allclose(probabilities[place], want, atol=1e-7)
    assert lengths == {0, 1, 2}  # otherwise the lengths are not put to the test


def test_without_a_support_it_answers_what_was_learned_and_with_one_probabilities_sum_to_one(x64):
    case, inputs = Case(), inputs_of("language_model")
    nothing = {**case.support, "mask": np.zeros(len(TEXTS), bool)}
    alone = {**case.meta_params, "read": jnp.zeros_like(case.meta_params["read"])}
    real = inputs["previous"] > 0
    want = jax.nn.log_softmax(case.model.apply(alone["params"], inputs))
    np.testing.assert_allclose(case.predict(alone, inputs, nothing)[real], np.asarray(want)[real], atol=1e-4)
    found = case.predict(case.meta_params, inputs)
    np.testing.assert_allclose(np.exp(found).sum(-1)[real], 1, atol=1e-6)
    assert np.abs(found - case.predict(case.meta_params, inputs, nothing))[real].max() > 0.1


@pytest.mark.parametrize(("search", "size"), [(greedy, 1), (beam_search(3, length_penalty=1.0), 3)])
def test_what_it_writes_with_a_cache_is_what_it_writes_without(search, size, x64):
    case, inputs = Case(search), inputs_of("language_model", size=4)
    state = case.algorithm.begin(jax.random.key(0), case.meta_params, case.support)
    reader = case.model._replace(apply=lambda params, inputs: case.algorithm.predict(params, state, inputs))
    logits = next_logits("language_model", reader)
    want = beam_reference(logits, case.meta_params, inputs, NEW, size=size, penalty=1.0)
    # Anything without "previous" is written on, as the model's `generate` has it.
    prompts = {"prompt": inputs["previous"]}
    generate = case.model.generate
    assert generate is not None
    writer = case.model._replace(
        generate=lambda params, given, *more: generate(params, {"previous": given["prompt"]}, *more)
    )
    algorithm = ngram_memory(writer, objectives.generation(VOCABULARY), longest=LONGEST, hidden=4, buckets=7, width=3)
    got = jax.jit(lambda params: algorithm.predict(params, state, prompts))(case.meta_params)
    np.testing.assert_array_equal(got, want)
    plain = greedy_reference(next_logits("language_model", case.model), case.meta_params["params"], inputs, NEW)
    assert np.any(want != plain)  # the memory has a say


def test_it_writes_without_a_context_too(x64):
    """The memory of single tokens, whose only context is the empty one."""
    model, inputs = model_of("language_model", search=greedy, max_new_tokens=NEW), inputs_of("language_model", size=4)
    assert model.generate is not None
    writer = model._replace(generate=lambda params, given, mixing: model.generate(params, given["prompt"], mixing))
    algorithm = ngram_memory(writer, objectives.generation(VOCABULARY), longest=1)
    support = {"inputs": inputs, "targets": inputs["previous"]}

    def written(key):
        meta_params = algorithm.init(key, Episode(support, support))
        return algorithm.predict(meta_params, algorithm.begin(key, meta_params, support), {"prompt": inputs})

    assert jax.eval_shape(written, jax.random.key(0)).shape == (4, NEW)
