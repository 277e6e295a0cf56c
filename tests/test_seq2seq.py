"""Sequence models: what padding, later tokens and neighbours change (nothing), derivatives, options, adaptation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from derivatives import assert_derivatives
from sequences import BOS, BUILDERS, EOS, LENGTH, SIZES, VOCABULARY, inputs_of, model_of, random_params

from jaxmeta import models, objectives
from jaxmeta.algorithms import maml
from jaxmeta.core.gradients import first_order
from jaxmeta.core.select import matching, partition, path_of
from jaxmeta.core.types import Episode
from jaxmeta.estimators import backprop
from jaxmeta.models.pointer import mixed, same_tokens

KINDS = list(BUILDERS)


def assert_close(got, want, rtol=1e-12, atol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, want)


def paths_of(params):
    return {path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}


class Case:
    """A model in float64, its random parameters and inputs, and its compiled loss with gradient."""

    def __init__(self, kind, **options):
        self.kind, self.inputs = kind, inputs_of(kind)
        self.model = model_of(kind, dtype=jnp.float64, **options)
        self.params = random_params(self.model, self.inputs)
        objective = objectives.translation(VOCABULARY)

        def loss(params, inputs, targets):
            logits = self.model.apply(params, inputs)
            return objective.loss(logits, {"targets": targets})[0], logits

        self.run = jax.jit(jax.value_and_grad(loss, has_aux=True))
        self.targets = np.concatenate([self.inputs["previous"][:, 1:], np.zeros((3, 1), np.int32)], axis=1)

    def __call__(self, inputs, targets=None):
        (value, logits), gradient = self.run(self.params, inputs, self.targets if targets is None else targets)
        return value, np.asarray(logits), gradient


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    with jax.enable_x64(True):
        yield Case(request.param, tied=request.param == "language_model")


def test_padding_changes_no_number(case, x64):
    value, logits, gradient = case(case.inputs)
    longer = {name: np.pad(leaf, ((0, 0), (0, 3))) for name, leaf in case.inputs.items()}
    more_value, more_logits, more_gradient = case(longer, np.pad(case.targets, ((0, 0), (0, 3))))
    assert_close((more_value, more_logits[:, :LENGTH]), (value, logits))
    # Places that only padding took part in have the gradient zero in both.
    assert_close(more_gradient, gradient)


def test_no_logit_depends_on_a_later_token(case, x64):
    _, logits, _ = case(case.inputs)
    for place in range(1, LENGTH):
        changed = case.inputs["previous"].copy()
        changed[0, place] = 1 + changed[0, place] % (BOS - 1)
        _, others, _ = case({**case.inputs, "previous": changed})
        np.testing.assert_array_equal(others[0, :place], logits[0, :place])
        assert np.abs(others[0, place:] - logits[0, place:]).max(axis=-1).min() > 1e-6
        np.testing.assert_array_equal(others[1:], logits[1:])


@pytest.mark.parametrize("kind", ["seq2seq", "pointer"])
def test_every_source_token_is_read_and_none_of_a_neighbour(kind, x64):
    case = Case(kind)
    _, logits, _ = case(case.inputs)
    for place in range(LENGTH):
        changed = case.inputs["source"].copy()
        changed[0, place] = 1 + changed[0, place] % (BOS - 1)
        _, others, _ = case({**case.inputs, "source": changed})
        assert np.abs(others[0] - logits[0]).max(axis=-1).min() > 1e-6
        np.testing.assert_array_equal(others[1:], logits[1:])


def test_derivatives_agree_with_finite_differences(case, x64):
    objective = objectives.translation(VOCABULARY, label_smoothing=0.1)
    batch = {"targets": case.targets}
    assert_derivatives(lambda params: objective.loss(case.model.apply(params, case.inputs), batch)[0], case.params)


@pytest.mark.parametrize("kind", KINDS)
def test_paths_say_which_part_is_which(kind):
    inputs = inputs_of(kind)
    for tied in (False, True):
        params = jax.eval_shape(model_of(kind, tied=tied).init, jax.random.key(0), inputs)
        parts = {"embedding", "decoder", "head"} | ({"encoder"} if kind != "language_model" else set())
        parts |= {"copying"} if kind == "pointer" else set()
        assert set(params) == parts
        head = partition(params, matching("^head/"))[0]
        want = {"head/bias"} if tied else {"head/bias", "head/kernel"}
        assert {path for path in paths_of(head) if path.startswith("head/")} == want
        assert "decoder/block_1/qkv/kernel" in paths_of(params)
    assert ("decoder/memory_0/kernel" in paths_of(params)) == (kind != "language_model")


def test_a_tied_output_layer_is_the_embedding(x64):
    case = Case("language_model", tied=True)
    table = case.params["embedding"]["embedding"]
    _, logits, _ = case(case.inputs)
    case.params["embedding"]["embedding"] = table.at[EOS].add(1.0)  # a token that no input holds
    _, others, _ = case(case.inputs)
    changed = np.abs(others - logits).max(axis=(0, 1)) > 1e-9
    np.testing.assert_array_equal(changed, np.arange(VOCABULARY) == EOS)


@pytest.mark.slow
def test_an_untrained_pointer_copies_its_source_and_stops(x64):
    inputs = inputs_of("pointer")
    model = model_of("pointer", width=32, dtype=jnp.float64)
    params = model.init(jax.random.key(0), inputs)
    written = np.asarray(jax.jit(model.generate)(params, inputs))
    np.testing.assert_array_equal(written[:, :LENGTH], inputs["source"])
    assert not written[:, LENGTH:].any()


def test_what_is_written_is_a_mixture_of_what_is_generated_and_what_is_copied(x64):
    rng = np.random.default_rng(0)
    logits, gate = rng.normal(size=(1, 2, 5)), rng.normal(size=(1, 2, 1))
    shares = np.array([[[0.5, 0.2, 0.3, 0.0], [0.1, 0.6, 0.0, 0.3]]])
    tokens = np.array([[3, 1, 3, 0]], np.int32)
    copied = np.stack([shares[0] @ (tokens[0][:, None] == np.arange(5))])
    share = 1 / (1 + np.exp(-gate))
    want = (1 - share) * np.asarray(jax.nn.softmax(logits, axis=-1)) + share * copied
    same = same_tokens(jnp.asarray(tokens), jnp.float64)
    found = mixed(jnp.asarray(logits), jnp.asarray(shares), jnp.asarray(gate), jnp.asarray(tokens), same)
    assert_close(jax.nn.softmax(found, axis=-1), want)


def test_second_derivatives_of_a_mixture_are_finite_where_nothing_is_copied():
    tokens = jnp.asarray([[1, 2, 0]], jnp.int32)  # no share goes to padding
    same = same_tokens(tokens, jnp.float32)

    def surprise(scores):
        shares = jax.nn.softmax(jnp.concatenate([scores, jnp.full((1, 1, 1), -1e9, jnp.float32)], axis=-1))
        gate = jnp.full((1, 1, 1), 2.0, jnp.float32)
        return -jax.nn.log_softmax(mixed(jnp.zeros((1, 1, 4), jnp.float32), shares, gate, tokens, same))[0, 0, 3]

    scores = jnp.asarray([[[0.0, -70.0]]], jnp.float32)
    found = jax.jvp(jax.grad(surprise), (scores,), (jnp.ones_like(scores),))
    assert np.isfinite(np.asarray(found)).all()


@pytest.mark.slow
def test_an_entry_of_the_lexicon_exchanges_a_word_and_the_pointer_goes_on_after_it(x64):
    source = np.array([[1, 2, 3, 4, 0, 0]], np.int32)
    model = model_of("pointer", width=32, dtype=jnp.float64)
    params = model.init(jax.random.key(0), {"source": source, "previous": source})
    table = params["embedding"]["embedding"]
    params["copying"]["lexicon"]["embedding"] = params["copying"]["lexicon"]["embedding"].at[2].set(20 * table[6])
    params["copying"]["gate"]["bias"] = jnp.full(1, -1.0)  # most is generated, where the other words are not told apart
    params["head"]["bias"] = jnp.full(VOCABULARY, -5.0)
    params["decoder"]["norm"]["scale"] = jnp.zeros(32)
    (written,) = np.asarray(jax.jit(model.generate)(params, {"source": source}))
    np.testing.assert_array_equal(written[:5], [1, 6, 3, 4, 0])


@pytest.mark.slow
def test_rows_of_the_embedding_adapt_alone_with_the_same_gradient(x64):
    def gradient(rows):
        model = model_of("seq2seq", layers=1, dtype=jnp.float64)
        options = {"rows": rows, "gradient": first_order}
        algorithm = maml(model, objectives.translation(VOCABULARY), optax.sgd(0.1), **options)
        inputs = {name: leaf[None] for name, leaf in inputs_of("seq2seq").items()}
        targets = np.concatenate([inputs["previous"][..., 1:], np.full((1, 3, 1), EOS, np.int32)], axis=-1)
        side = {"inputs": inputs, "targets": targets}
        meta_params = {"params": random_params(model, inputs_of("seq2seq"))}
        estimate = jax.jit(backprop(algorithm, num_steps=1).estimate)
        return estimate(jax.random.key(0), meta_params, (), Episode(side, side))[0]

    assert_close(gradient(matching("^embedding/")), gradient(None), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["transformer", *KINDS])
def test_cast_computes_every_product_in_half_precision(kind, standard_promotion):
    inputs = inputs_of("seq2seq")
    if kind == "transformer":
        model, inputs = models.transformer(outputs=3, window=2, stride=2, **SIZES), inputs["source"]
    else:
        model = model_of(kind, max_new_tokens=4)
    cast = models.cast(model, jnp.bfloat16)
    params = jax.eval_shape(model.init, jax.random.key(0), inputs)
    half = jax.eval_shape(cast.init, jax.random.key(0), inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("float32")}
    runs = [cast.apply] + ([cast.generate] if cast.generate else [])
    assert len(runs) == (1 if kind == "transformer" else 2)
    for run in runs:
        text = str(jax.make_jaxpr(run)(params, inputs))
        products = [line.split("=")[0] for line in text.splitlines() if "dot_general[" in line]
        assert products
        assert all("bf16" in line for line in products)
        # Means and variances are another matter.
        assert any("f32" in line and "bf16" not in line for line in text.splitlines() if "reduce_sum" in line)


def test_wrong_arguments_are_named():
    for message, options in {
        r"`heads` must divide `width` \(8\), got 3": {"heads": 3},
        "`layers` must be positive, got 0": {"layers": 0},
        "`bos` must be above 0, which is padding, and below 9, got 9": {"bos": 9},
        "`bos` and `eos` must differ, got 3 for both": {"bos": 3, "eos": 3},
        "`max_new_tokens` must be positive, got 0": {"max_new_tokens": 0},
    }.items():
        for build in BUILDERS.values():
            with pytest.raises(ValueError, match=message):
                build(**{**SIZES, **options})


def test_encoders_refuse_wrong_sizes_and_texts_that_are_too_long():
    sizes, tokens = {**SIZES, "window": 2}, np.ones((2, LENGTH), np.int32)
    options = {**sizes, "outputs": 3}
    for name in ("window", "stride", "embedding_width", "layers"):
        with pytest.raises(ValueError, match=f"`{name}` must be positive, got 0"):
            models.transformer(**{**options, name: 0})
    with pytest.raises(ValueError, match=r"`heads` must divide `width` \(8\), got 3"):
        models.transformer(**{**options, "heads": 3})
    # One place for all would otherwise do: shapes agree.
    with pytest.raises(ValueError, match=r"`max_length` must be at least the 3 places of a sequence, got 1"):
        models.transformer(**options, stride=2, max_length=1).init(jax.random.key(0), tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_that_are_too_long_are_refused(kind):
    inputs = inputs_of(kind)
    with pytest.raises(ValueError, match=f"`max_length` must be at least the {LENGTH} places of a sequence, got 5"):
        jax.eval_shape(model_of(kind, max_length=LENGTH - 1).init, jax.random.key(0), inputs)
    model = model_of(kind, max_length=LENGTH, max_new_tokens=LENGTH + 1)
    params = jax.eval_shape(model.init, jax.random.key(0), inputs)
    with pytest.raises(ValueError, match=r"`max_new_tokens` must be at most .*, got 7"):
        jax.eval_shape(model.generate, params, inputs)
