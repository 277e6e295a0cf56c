"""The perceptron, and the types that plain models compute in."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import models

IN, HIDDEN, OUT, N = 3, 5, 2, 4


def test_mlp_by_hand(key):
    x = jax.random.normal(jax.random.key(1), (N, IN))
    model = models.mlp((HIDDEN,), OUT, activation=jnp.tanh)
    params = model.init(key, x)
    hidden = jnp.tanh(x @ params["layer_0"]["kernel"] + params["layer_0"]["bias"][None])
    outputs = hidden @ params["head"]["kernel"] + params["head"]["bias"][None]
    chex.assert_trees_all_close((model.features(params, x), model.apply(params, x)), (hidden, outputs))


def test_mlp_flattens_and_may_be_linear(key):
    images = jnp.ones((N, 2, 3), jnp.uint8)
    model = models.mlp((), OUT)
    params = model.init(key, images)
    assert set(params) == {"head"}
    assert model.features(params, images).shape == (N, 6)


def test_mlp_names_what_is_wrong():
    with pytest.raises(ValueError, match="`hidden` must be positive, got 0"):
        models.mlp((4, 0), 1)
    with pytest.raises(ValueError, match="`outputs` must be positive, got 0"):
        models.mlp((4,), 0)


def dtypes_of(tree):
    return {leaf.dtype for leaf in jax.tree.leaves(tree)}


MODELS = {
    "mlp": (lambda **dtypes: models.mlp((4,), OUT, **dtypes), (N, IN)),
    "conv4": (lambda **dtypes: models.conv4(OUT, width=8, groups=2, **dtypes), (N, 16, 16)),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_dtypes_are_what_was_asked_for(name, key, x64):
    build, shape = MODELS[name]
    for given in (np.float64, np.float32, np.uint8):
        inputs = np.ones(shape, given)
        for param_dtype, dtype, expected in (
            (jnp.float32, None, jnp.float32),
            (jnp.float64, None, jnp.float64),
            (jnp.float32, jnp.bfloat16, jnp.bfloat16),
        ):
            model = build(param_dtype=param_dtype, dtype=dtype)
            params = jax.eval_shape(model.init, key, inputs)
            assert dtypes_of(params) == {jnp.dtype(param_dtype)}
            assert jax.eval_shape(model.apply, params, inputs).dtype == expected
            loss = lambda params, inputs: model.apply(params, inputs).sum()  # noqa: B023, E731
            assert dtypes_of(jax.eval_shape(jax.grad(loss), params, inputs)) == {jnp.dtype(param_dtype)}
