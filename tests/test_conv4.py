"""Conv-4 against XLA's convolution, flax and arithmetic by hand."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxmeta import models, objectives
from jaxmeta.models.conv4 import conv_lax, conv_patches, max_pool, normalized

OUT = 2


def test_convolutions_agree(key):
    for stride, size, channels in ((1, 7, 3), (2, 7, 1), (2, 8, 3)):
        x = jax.random.normal(key, (2, size, size + 1, channels))
        kernel = jax.random.normal(key, (3, 3, channels, 5))
        patches, lax = jax.jit(lambda *args: (conv_patches(*args, stride), conv_lax(*args, stride)))(x, kernel)  # noqa: B023
        chex.assert_trees_all_close(patches, lax, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("normalization", "downsample"), [("group", "max"), ("transductive", "stride")])
def test_implementations_agree_with_their_gradients(normalization, downsample, key):
    images = jax.random.normal(key, (3, 17, 20, 3))
    options = {"width": 8, "groups": 4, "normalization": normalization, "downsample": downsample}
    patches = models.conv4(OUT, **options)
    lax = models.conv4(OUT, implementation="lax", **options)
    params = jax.jit(patches.init)(key, images)
    assert jax.tree.structure(params) == jax.tree.structure(jax.eval_shape(lax.init, key, images))

    def loss(model):
        return lambda params: jnp.mean(jnp.square(model.apply(params, images) - 1))

    first, second = (jax.jit(jax.value_and_grad(loss(model)))(params) for model in (patches, lax))
    chex.assert_trees_all_close(first, second, rtol=1e-3, atol=1e-4)


def test_conv4_shapes(key):
    images = jax.random.normal(key, (2, 28, 28))
    for options, size in (
        ({}, 8),
        ({"downsample": "stride"}, 4 * 8),
        ({"downsample": "stride", "global_pool": True}, 8),
    ):
        model = models.conv4(OUT, width=8, **options)
        params = jax.eval_shape(model.init, key, images)
        assert jax.eval_shape(model.features, params, images).shape == (2, size)
        assert jax.eval_shape(model.apply, params, images).shape == (2, OUT)
        assert params["block_0"]["kernel"].shape == (3, 3, 1, 8)
        assert set(params) == {"block_0", "block_1", "block_2", "block_3", "head"}
    model = models.conv4(OUT, width=8)
    params, apply = jax.jit(model.init)(key, images), jax.jit(model.apply)
    chex.assert_trees_all_close(apply(params, images), apply(params, images[..., None]))


def test_normalisation_is_that_of_the_papers(key):
    x = 3 + 2 * jax.random.normal(key, (4, 5, 6, 8))
    for policy, groups, flax_groups in (("group", 4, 4), ("layer", 4, 1)):
        reference = nn.GroupNorm(flax_groups, epsilon=1e-5)
        expected, _ = jax.jit(reference.init_with_output)(key, x)
        chex.assert_trees_all_close(
            jax.jit(normalized, static_argnums=(1, 2))(x, policy, groups), expected, rtol=1e-4, atol=1e-5
        )
    reference = nn.BatchNorm(use_running_average=False, epsilon=1e-5)
    expected, _ = jax.jit(reference.init_with_output)(key, x)
    chex.assert_trees_all_close(
        jax.jit(normalized, static_argnums=(1, 2))(x, "transductive", 4), expected, rtol=1e-4, atol=1e-5
    )


def test_max_pool_is_flax_max_pool(key):
    x = jax.random.normal(key, (2, 5, 6, 3))
    chex.assert_trees_all_close(max_pool(x), nn.max_pool(x, (2, 2), strides=(2, 2)), rtol=0, atol=0)


@pytest.mark.parametrize("normalization", ["group", "layer", "none"])
def test_examples_are_independent_and_padding_changes_nothing(normalization, key):
    images = jax.random.normal(key, (3, 16, 16))
    model = models.conv4(OUT, width=8, normalization=normalization)
    objective = objectives.classification(OUT)
    params = jax.jit(model.init)(key, images)
    batch = {"inputs": images, "targets": jnp.array([0, 1, 1])}
    padded = {
        "inputs": jnp.concatenate([images, 100 * images[:2]]),
        "targets": jnp.array([0, 1, 1, 7, -1]),
        "mask": jnp.array([True, True, True, False, False]),
    }

    def loss(params, batch):
        return objective.loss(model.apply(params, batch["inputs"]), batch)[0]

    value_and_grad = jax.jit(jax.value_and_grad(loss))
    chex.assert_trees_all_close(value_and_grad(params, batch), value_and_grad(params, padded), rtol=1e-5, atol=1e-6)


def test_transductive_examples_see_one_another(key):
    images = jax.random.normal(key, (4, 16, 16))
    model = models.conv4(OUT, width=8, normalization="transductive")
    params, apply = jax.jit(model.init)(key, images), jax.jit(model.apply)
    alone, together = apply(params, images[:2]), apply(params, images)[:2]
    assert not np.allclose(alone, together, atol=1e-3)
    # Nothing is stored: the same call gives the same answer.
    chex.assert_trees_all_close(apply(params, images[:2]), alone, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["group", "transductive"])
def test_conv4_can_be_differentiated_twice(normalization, key, x64):
    images = jax.random.normal(key, (2, 16, 16), jnp.float64)
    model = models.conv4(OUT, width=4, groups=2, normalization=normalization, param_dtype=jnp.float64)
    params = jax.jit(model.init)(key, images)
    ravelled, unravel = ravel_pytree(params)

    def gradient(flat):
        return jax.grad(lambda flat: jnp.mean(jnp.square(model.apply(unravel(flat), images) - 1)))(flat)

    direction = jax.random.normal(key, ravelled.shape, ravelled.dtype)
    forward = jax.jit(lambda flat: jax.jvp(gradient, (flat,), (direction,))[1])(ravelled)
    reverse = jax.jit(jax.grad(lambda flat: jnp.vdot(gradient(flat), direction)))(ravelled)
    chex.assert_trees_all_close(forward, reverse, rtol=1e-8, atol=1e-10)
    step = 1e-7
    at = jax.jit(gradient)
    numeric = (at(ravelled + step * direction) - at(ravelled - step * direction)) / (2 * step)
    chex.assert_trees_all_close(forward, numeric, rtol=1e-4, atol=1e-5)


def test_blank_images_have_finite_gradients(key):
    images = jnp.zeros((2, 16, 16))
    model = models.conv4(OUT, width=8)
    params = jax.jit(model.init)(key, images)
    grads = jax.jit(jax.grad(lambda p: model.apply(p, images).sum()))(params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "`width` must be positive, got 0"),
        ({"width": 10, "groups": 4}, r"`groups` must divide `width` \(10\), got 4"),
        ({"normalization": "batch"}, "`normalization` must be one of 'group', 'layer', 'transductive'"),
        ({"implementation": "fft"}, "`implementation` must be one of"),
        ({"downsample": "mean"}, "`downsample` must be one of"),
    ],
)
def test_conv4_names_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        models.conv4(OUT, **options)


def test_conv4_names_what_is_wrong_with_images(key):
    with pytest.raises(ValueError, match=r"at least 16 pixels high and wide .* got 15x28"):
        jax.eval_shape(models.conv4(OUT).init, key, jnp.zeros((1, 15, 28)))
    with pytest.raises(ValueError, match=r"got \[1, 28\]"):
        jax.eval_shape(models.conv4(OUT).init, key, jnp.zeros((1, 28)))
