"""Folding the axes of products changes their shape and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta.core.hoist import equations
from jaxmeta.core.products import folded


def products(function, *args):
    found = equations(jax.make_jaxpr(function)(*args))
    return [eqn for eqn in found if eqn.primitive.name == "dot_general"]


def ranks(function, *args):
    """The ranks of the operands of every product in a function."""
    return [tuple(var.aval.ndim for var in eqn.invars) for eqn in products(function, *args)]


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


PRODUCTS = {
    "dense": (lambda w, x: x @ w, (5, 7), (2, 3, 5)),
    "under jit": (jax.jit(lambda w, x: jnp.tanh(x @ w)), (5, 7), (2, 3, 5)),
    "many heads out": (lambda w, x: jnp.einsum("nld,dhe->nlhe", x, w), (5, 2, 3), (2, 3, 5)),
    "many heads in": (lambda w, x: jnp.einsum("nlhe,hed->nld", x, w), (2, 3, 5), (4, 3, 2, 3)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_folded_products_are_matrices_with_the_same_derivatives(x64, name):
    function, w_shape, x_shape = PRODUCTS[name]
    w, x = normal(0, *w_shape), normal(1, *x_shape)

    def twice(apply):
        def loss(w, x):
            return jnp.sum(jnp.sin(apply(w, x)))

        def product(w, x):
            return jax.jvp(jax.grad(loss, argnums=(0, 1)), (w, x), (normal(2, *w_shape), normal(3, *x_shape)))

        return product

    assert any(max(pair) > 2 for pair in ranks(function, w, x))
    assert set(ranks(twice(folded(function)), w, x)) == {(2, 2)}
    np.testing.assert_allclose(folded(function)(w, x), function(w, x), rtol=1e-12)
    for ours, theirs in zip(*map(jax.tree.leaves, (twice(folded(function))(w, x), twice(function)(w, x))), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("equation", "w_shape", "x_shape"),
    [("ntd,nsd->nts", (2, 4, 5), (2, 3, 5)), ("ndt,de->nte", (5, 7), (2, 5, 3)), ("td,e->tde", (5,), (2, 3))],
)
def test_products_that_would_have_to_move_numbers_stay(equation, w_shape, x_shape):
    def function(w, x):
        return jnp.einsum(equation, x, w)

    w, x = normal(0, *w_shape), normal(1, *x_shape)
    assert ranks(folded(function), w, x) == ranks(function, w, x)
    np.testing.assert_array_equal(folded(function)(w, x), function(w, x))


def test_trees_and_precision_are_kept():
    def function(params, inputs):
        x = inputs["x"].astype(jnp.bfloat16)
        return {"y": jnp.matmul(x, params["w"], precision="highest", preferred_element_type=jnp.float32)}

    params, inputs = {"w": normal(0, 5, 7).astype(jnp.bfloat16)}, {"x": normal(1, 2, 3, 5)}
    (ours,), (theirs,) = products(folded(function), params, inputs), products(function, params, inputs)
    assert ours.params["precision"] == theirs.params["precision"]
    assert ours.params["preferred_element_type"] == theirs.params["preferred_element_type"] == jnp.float32
    assert folded(function)(params, inputs)["y"].dtype == jnp.float32


CONVOLUTIONS = {
    "images": ((2, 7, 6, 3), (3, 3, 3, 4), (1, 1), "SAME", ("NHWC", "HWIO", "NHWC"), (1, 1)),
    "strides": ((2, 7, 6, 3), (3, 2, 3, 4), (2, 3), "VALID", ("NHWC", "HWIO", "NHWC"), (1, 1)),
    "padding": ((2, 7, 6, 3), (3, 3, 3, 4), (2, 1), ((2, 0), (1, 3)), ("NHWC", "HWIO", "NHWC"), (1, 1)),
    "dilation": ((2, 9, 8, 3), (3, 2, 3, 4), (1, 2), "SAME", ("NHWC", "HWIO", "NHWC"), (2, 3)),
    "channels first": ((2, 3, 7, 6), (4, 3, 3, 2), (1, 2), "SAME", ("NCHW", "OIHW", "NCHW"), (1, 1)),
    "anyhow": ((7, 2, 3, 6), (3, 3, 2, 4), (1, 2), "SAME", ("HNCW", "IHWO", "CWHN"), (1, 1)),
    "sequences": ((2, 9, 3), (5, 3, 4), (2,), "SAME", ("NWC", "WIO", "NWC"), (1,)),
    "volumes": ((2, 4, 5, 3, 2), (2, 2, 2, 2, 3), (1, 1, 1), "SAME", ("NDHWC", "DHWIO", "NDHWC"), (1, 1, 1)),
    "pointwise": ((2, 7, 6, 3), (1, 1, 3, 4), (1, 1), "SAME", ("NHWC", "HWIO", "NHWC"), (1, 1)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_are_products_on_a_cpu_with_the_same_derivatives(x64, name):
    if jax.default_backend() != "cpu":
        pytest.skip("convolutions stay what they are on an accelerator")
    x_shape, w_shape, strides, padding, numbers, dilation = CONVOLUTIONS[name]
    w, x = normal(0, *w_shape), normal(1, *x_shape)

    def function(w, x):
        return jax.lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=numbers, rhs_dilation=dilation)

    def primitives(apply):
        return {eqn.primitive.name for eqn in equations(jax.make_jaxpr(apply)(w, x))}

    def derivative(apply):
        def loss(w, x):
            return jnp.sum(jnp.sin(apply(w, x)))

        return jax.jit(lambda w, x: jax.jvp(jax.grad(loss, argnums=(0, 1)), (w, x), (w + 1, x - 1)))

    assert "conv_general_dilated" in primitives(function)
    assert "conv_general_dilated" not in primitives(folded(function))
    np.testing.assert_allclose(folded(function)(w, x), function(w, x), rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(*map(jax.tree.leaves, (derivative(folded(function))(w, x), derivative(function)(w, x))),
                            strict=True):  # fmt: skip
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "options", [{"feature_group_count": 3}, {"lhs_dilation": (2, 2)}], ids=["groups", "transposed"]
)
def test_other_convolutions_stay(options):
    kernel = normal(0, 3, 3, 3 // options.get("feature_group_count", 1), 3)

    def function(w, x):
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME" if "lhs_dilation" not in options else ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"), **options,
        )  # fmt: skip

    x = normal(1, 2, 5, 6, 3)
    found = equations(jax.make_jaxpr(folded(function))(kernel, x))
    assert [eqn.primitive.name for eqn in found if "conv" in eqn.primitive.name] == ["conv_general_dilated"]
    np.testing.assert_allclose(folded(function)(kernel, x), function(kernel, x), rtol=1e-6)
