"""Forward-over-reverse equals reverse-over-reverse on every bundled model, and padding tokens change no number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmeta.algorithms import LearnedRates, maml
from jaxmeta.core.adapt import adapt
from jaxmeta.core.gradients import forward_over_reverse, reverse
from jaxmeta.core.types import Model, Objective
from jaxmeta.models import conv4, mlp, transformer
from jaxmeta.objectives import classification

CLASSES, EXAMPLES, VOCABULARY = 3, 5, 13
SMALL = {"width": 8, "embedding_width": 4, "layers": 1, "heads": 2, "expansion": 2, "max_length": 16}


def text_encoder(dtype=jnp.float32, **options) -> Model:
    return transformer(vocab_size=VOCABULARY, outputs=CLASSES, dtype=dtype, **{**SMALL, **options})


def images_encoder(dtype=jnp.float32, downsample="stride", **options) -> Model:
    return conv4(CLASSES, width=4, groups=2, downsample=downsample, param_dtype=dtype, **options)


def images(rng, dtype):
    return rng.normal(size=(EXAMPLES, 16, 16)).astype(dtype)


def small_images(rng, dtype):
    return rng.normal(size=(EXAMPLES, 17, 16, 2)).astype(dtype)


def vectors(rng, dtype):
    return rng.normal(size=(EXAMPLES, 4)).astype(dtype)


def texts(rng, dtype):
    del dtype
    real = np.arange(7)[None] < rng.integers(2, 8, size=(EXAMPLES, 1))
    return np.where(real, rng.integers(1, VOCABULARY, size=(EXAMPLES, 7)), 0).astype(np.int32)


# What builds the model for a dtype, and what makes its inputs.
MODELS = {
    "mlp": (lambda dtype: mlp((6, 5), CLASSES, param_dtype=dtype), vectors),
    "conv4, group": (functools.partial(images_encoder, normalization="group"), small_images),
    "conv4, transductive": (functools.partial(images_encoder, normalization="transductive"), small_images),
    "transformer": (text_encoder, texts),
    "transformer of windows": (functools.partial(text_encoder, window=4, stride=2), texts),
}


POOLED = {"conv4 of pooled images": (functools.partial(images_encoder, downsample="max"), images)}


def outer_gradient(name, strategy, dtype, num_steps, memory, rates):
    """Returns what the query loss after adaptation depends on, and its gradient: all that may be differentiated.

    Among it are the meta-parameters with their learned rates, an array `[C]` that the objective closes over, and the
    inputs of support and query, where they are floats.
    """
    build, inputs = (MODELS | POOLED)[name]
    rng = np.random.default_rng(0)
    sides = [inputs(rng, dtype) for _ in range(2)]
    targets = (np.arange(EXAMPLES) % CLASSES).astype(np.int32)
    model, judge = build(dtype), classification(CLASSES)

    def loss(arguments):
        stretch = arguments["closed over"]
        objective = Objective(
            lambda outputs, batch: judge.loss(outputs * stretch[None], batch), judge.counts, judge.scores
        )
        algorithm = maml(model, objective, optax.sgd(0.1), gradient=strategy, rates=rates)
        support, query = ({"inputs": x, "targets": targets} for x in arguments.get("inputs", sides))
        meta_params, key = arguments["meta_params"], jax.random.key(0)
        state, _ = adapt(algorithm, key, meta_params, support, num_steps=num_steps, memory=memory)
        return algorithm.loss(key, meta_params, state, query)[0]

    shapes = jax.eval_shape(model.init, jax.random.key(0), sides[0])
    params = jax.tree.map(lambda leaf: 0.4 * rng.normal(size=leaf.shape).astype(dtype), shapes)
    log_rates = jax.tree.map(
        lambda leaf: (
            0.1 * rng.normal(size=(rates.steps, *(leaf.shape if rates.per == "element" else ()))).astype(dtype)
        ),
        params,
    )
    arguments = {
        "meta_params": {"params": params, "log_rates": log_rates},
        "closed over": rng.uniform(0.5, 1.5, size=CLASSES).astype(dtype),
    }
    if sides[0].dtype == dtype:
        arguments["inputs"] = sides
    return jax.device_get(jax.jit(jax.grad(loss))(arguments))


def groups_of(gradient):
    """Returns the parts that are compared each on its own scale, as vectors."""
    parts = {**gradient["meta_params"], **{name: gradient[name] for name in gradient if name != "meta_params"}}
    return {name: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(part)]) for name, part in parts.items()}


def assert_same(got, want, tolerance):
    got, want = groups_of(got), groups_of(want)
    assert got.keys() == want.keys()
    for name in want:
        scale = np.abs(want[name]).max()
        assert scale > 1e-5, f"{name} has no gradient to compare"
        assert np.abs(got[name] - want[name]).max() <= tolerance * scale, name


RATES = {1: LearnedRates("leaf"), 3: LearnedRates("element", steps=2)}
# Compiling takes long, so the larger models meet each number of steps and each policy, not each pair of them; and what
# is but a variant of another model is compared in float64 alone, which sees more.
CASES = [("mlp", num_steps, memory) for num_steps in (1, 3) for memory in ("none", "per_step")]
CASES += [
    (name, *case) for name in ("conv4, group", "transformer of windows") for case in ((1, "per_step"), (3, "none"))
]
CASES += [(name, 1, "per_step") for name in POOLED]
# These take longest; what they are variants of is compared whenever anything is tested.
LONG = ("transformer of windows", *POOLED)


def marked(cases):
    """Marks as slow the cases, of which the first word is the model, that are."""
    return [pytest.param(*case, marks=pytest.mark.slow if case[0] in LONG else ()) for case in cases]


@functools.cache
def reference(name, dtype, num_steps):
    return outer_gradient(name, reverse, dtype, num_steps, "none", RATES[num_steps])


@pytest.mark.parametrize(("name", "num_steps", "memory"), marked(CASES))
def test_forward_over_reverse_equals_reverse(name, num_steps, memory):
    got = outer_gradient(name, forward_over_reverse, np.float32, num_steps, memory, RATES[num_steps])
    assert_same(got, reference(name, np.float32, num_steps), 1e-5)


@pytest.mark.parametrize("name", marked((name,) for name in MODELS))
def test_forward_over_reverse_equals_reverse_in_float64(name, x64):
    got = outer_gradient(name, forward_over_reverse, np.float64, 3, "per_step", RATES[3])
    assert_same(got, reference(name, np.float64, 3), 1e-10)


# Padding tokens


ENCODERS = {
    "plain": {},
    "windows": {"window": 4},
    "strides": {"stride": 2},
    "windows and strides": {"window": 4, "stride": 3},
}


@pytest.mark.parametrize("options", ENCODERS.values(), ids=ENCODERS)
def test_padding_tokens_change_no_number(options, x64, key):
    model = text_encoder(jnp.float64, **options)
    tokens = texts(np.random.default_rng(0), None)
    assert (tokens[:, -1] != 0).any(), "one text fills its row"
    params = jax.jit(model.init)(key, tokens)

    @jax.jit
    def value_and_grad(params, tokens):
        outputs = lambda params: model.apply(params, tokens)  # noqa: E731
        return outputs(params), jax.grad(lambda params: jnp.sum(jnp.sin(outputs(params))))(params)

    outputs, gradient = value_and_grad(params, tokens)
    assert len(np.unique(np.round(outputs, 9), axis=0)) == EXAMPLES
    for length in (8, 12):
        longer = np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))
        got = value_and_grad(params, longer)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), got, (outputs, gradient))


@pytest.mark.parametrize("options", ENCODERS.values(), ids=ENCODERS)
def test_a_text_does_not_see_the_others_and_an_empty_one_is_harmless(options, key):
    model = text_encoder(**options)
    tokens = texts(np.random.default_rng(1), None)
    tokens[2] = 0
    params = jax.jit(model.init)(key, tokens)
    objective = classification(CLASSES)
    mask = np.arange(EXAMPLES) != 2

    @jax.jit
    def value_and_grad(params, tokens):
        batch = {"targets": jnp.zeros(EXAMPLES, jnp.int32), "mask": mask}

        def loss(params):
            outputs = model.apply(params, tokens)
            return objective.loss(outputs, batch)[0], outputs

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, outputs), gradient = value_and_grad(params, tokens)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((loss, outputs, gradient)))
    other = np.where(mask[:, None], tokens, np.arange(1, 8, dtype=np.int32)[None])
    (other_loss, other_outputs), other_gradient = value_and_grad(params, other)
    assert np.abs(outputs[2] - other_outputs[2]).max() > 1e-4
    np.testing.assert_allclose(outputs[mask], other_outputs[mask], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(loss, other_loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), gradient, other_gradient)
