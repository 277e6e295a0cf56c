"""Adapters against the native call of each library; MLP and Conv-4."""

import subprocess
import sys
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from quick import quick_jit

from jaxmeta import models, objectives
from jaxmeta.core.select import matching, partition, path_of
from jaxmeta.core.types import Model
from jaxmeta.models.conv4 import conv_lax, conv_patches, max_pool, normalized

IN, HIDDEN, OUT, N = 3, 5, 2, 4


class LinenNet(nn.Module):
    """Has the method that adapters look for, and a dropout that its argument turns off."""

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dropout(0.5, deterministic=not train)(nn.tanh(nn.Dense(HIDDEN, name="body")(x)))
        return nn.Dense(OUT, name="head")(x)


class LinenWithFeatures(nn.Module):
    def setup(self):
        self.body, self.head = nn.Dense(HIDDEN), nn.Dense(OUT)

    def __call__(self, x):
        return self.head(self.features(x))

    def features(self, x):
        return nn.tanh(self.body(x))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.body = nnx.List([nnx.Linear(IN, HIDDEN, rngs=rngs), nnx.Linear(HIDDEN, HIDDEN, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(HIDDEN, OUT, rngs=rngs)

    def __call__(self, x):
        return self.head(self.features(x))

    def features(self, x):
        for layer in self.body:
            x = self.dropout(jnp.tanh(layer(x)))
        return x


class EquinoxNet(eqx.Module):
    body: eqx.nn.Linear
    head: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    order: jax.Array
    activation: Any = eqx.field(static=True)

    def __init__(self, key):
        body_key, head_key = jax.random.split(key)
        self.body = eqx.nn.Linear(IN, HIDDEN, key=body_key)
        self.head = eqx.nn.Linear(HIDDEN, OUT, key=head_key)
        self.dropout = eqx.nn.Dropout(0.5)
        self.order = jnp.array([2, 0, 1])
        self.activation = jnp.tanh

    def __call__(self, x):
        return self.head(self.features(x))

    def features(self, x):
        return self.dropout(self.activation(self.body(x[self.order])))


def haiku_trunk(x):
    return jnp.tanh(hk.Linear(HIDDEN, name="body")(x))


def haiku_net(x):
    return hk.Linear(OUT, name="head")(haiku_trunk(x))


class Case(NamedTuple):
    model: Model
    native: Any  # (key, x) -> outputs
    features: Any  # (key, x) -> features, or None


def linen_case(module, *, features=None, **kwargs):
    adapted = models.linen(module, **kwargs)

    def native(key, x):
        return module.apply(module.init(key, x, **kwargs), x, **kwargs)

    def native_features(key, x):
        return module.apply(module.init(key, x), x, method=features)

    return Case(adapted, native, native_features if features else None)


def nnx_case(built=False):
    def module_of(key):
        module = NnxNet(nnx.Rngs(key))
        module.eval()
        return module

    model = models.nnx(NnxNet(nnx.Rngs(jax.random.key(0))) if built else NnxNet)
    return Case(model, lambda key, x: module_of(key)(x), lambda key, x: module_of(key).features(x))


def equinox_case(built=False):
    def module_of(key):
        return eqx.nn.inference_mode(EquinoxNet(key))

    model = models.equinox(EquinoxNet(jax.random.key(0)) if built else EquinoxNet)
    return Case(
        model,
        lambda key, x: jax.vmap(module_of(key))(x),
        lambda key, x: jax.vmap(module_of(key).features)(x),
    )


def haiku_case(transformed, trunk):
    native = hk.without_apply_rng(hk.transform(haiku_net))
    native_trunk = hk.without_apply_rng(hk.transform(haiku_trunk))
    return Case(
        models.haiku(transformed, features=trunk),
        lambda key, x: native.apply(native.init(key, x), x),
        lambda key, x: native_trunk.apply(native.init(key, x), x),
    )


def plain_case():
    def init(key, x):
        return {"w": jax.random.normal(key, (x.shape[-1], OUT))}

    model = models.plain(init, lambda p, x: jnp.tanh(x @ p["w"]), lambda p, x: x @ p["w"])
    return Case(model, lambda key, x: jnp.tanh(x @ init(key, x)["w"]), lambda key, x: x @ init(key, x)["w"])


CASES = {
    "linen": lambda: linen_case(LinenNet(), train=False),
    "linen with features": lambda: linen_case(LinenWithFeatures(), features="features"),
    "nnx": nnx_case,
    "nnx, built": lambda: nnx_case(built=True),
    "equinox": equinox_case,
    "equinox, built": lambda: equinox_case(built=True),
    "haiku": lambda: haiku_case(hk.transform(haiku_net), hk.transform(haiku_trunk)),
    "haiku without rng": lambda: haiku_case(
        hk.without_apply_rng(hk.transform(haiku_net)), hk.without_apply_rng(hk.transform(haiku_trunk))
    ),
    "plain": plain_case,
}


@pytest.fixture(params=list(CASES))
def case(request):
    return CASES[request.param]()


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (N, IN))


def assert_close(first, second, rtol=1e-6, atol=1e-6):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), first, second)


def test_adapted_model_gives_what_the_library_gives(case, key, x):
    params = case.model.init(key, x)
    assert_close(case.model.apply(params, x), case.native(key, x))
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_adapted_features_are_the_librarys(case, key, x):
    if case.features is None:
        assert case.model.features is None
    else:
        assert_close(case.model.features(case.model.init(key, x), x), case.features(key, x))


def test_init_and_apply_under_jit_equal_eager(case, key, x):
    params = jax.jit(case.model.init)(key, x)
    assert_close(params, case.model.init(key, x))
    assert_close(jax.jit(case.model.apply)(params, x), case.model.apply(params, x))
    # The second call finds nothing that a trace left behind.
    assert_close(jax.jit(case.model.init)(key, x), params)


def test_apply_reads_its_parameters_alone(case, key, x):
    params = case.model.init(key, x)
    before = case.model.apply(params, x)
    changed = case.model.apply(jax.tree.map(lambda leaf: 2 * leaf + 1, params), x)
    assert not np.allclose(before, changed)
    assert_close(case.model.apply(params, x), before, rtol=0, atol=0)


def test_vmap_over_parameters_equals_a_loop(case, key, x):
    keys = jax.random.split(key, 3)
    stacked = jax.vmap(case.model.init, (0, None))(keys, x)
    outputs = jax.vmap(case.model.apply, (0, None))(stacked, x)
    looped = [case.model.apply(case.model.init(one, x), x) for one in keys]
    assert_close(outputs, jnp.stack(looped))


def test_gradient_flows_through_an_inner_step(case, key, x):
    params = case.model.init(key, x)
    optimizer = optax.sgd(0.1)

    def loss(params):
        return jnp.mean(jnp.square(case.model.apply(params, x) - 1))

    @jax.jit
    def after_one_step(params):
        updates, _ = optimizer.update(jax.grad(loss)(params), optimizer.init(params))
        return loss(optax.apply_updates(params, updates))

    grads = jax.jit(jax.grad(after_one_step))(params)
    direction = jax.tree.map(jnp.ones_like, params)
    step = 1e-2
    moved = [jax.tree.map(lambda p, d, s=s: p + s * step * d, params, direction) for s in (1, -1)]
    numeric = (after_one_step(moved[0]) - after_one_step(moved[1])) / (2 * step)
    analytic = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(grads))
    np.testing.assert_allclose(analytic, numeric, rtol=1e-2, atol=1e-3)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", ["nnx", "equinox", "haiku", "linen"])
def test_adapter_may_be_made_inside_a_trace(name, key, x):
    outputs = jax.jit(lambda key, x: CASES[name]().model.apply(CASES[name]().model.init(key, x), x))(key, x)
    assert_close(outputs, CASES[name]().native(key, x))


@pytest.mark.parametrize("name", ["nnx, built", "equinox, built"])
def test_donated_parameters_leave_a_built_module_whole(name, key, x):
    model = CASES[name]().model
    start = model.init(key, x)
    jax.jit(lambda params: jax.tree.map(lambda leaf: leaf + 1, params), donate_argnums=0)(start)
    assert np.all(np.isfinite(model.apply(model.init(key, x), x)))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("linen", "head/kernel"),
        ("nnx", "body/0/kernel"),
        ("equinox", "head/weight"),
        ("haiku", "head/w"),
        ("plain", "w"),
    ],
)
def test_paths_are_readable_and_select(name, path, key, x):
    params = CASES[name]().model.init(key, x)
    paths = [path_of(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert path in paths
    selected, _ = partition(params, matching(f"^{path}$"))
    assert len(jax.tree.leaves(selected)) == 1


def test_nnx_parameters_are_plain_dicts_with_string_keys(key, x):
    def check(tree):
        if isinstance(tree, jax.Array):
            return
        assert type(tree) is dict
        assert all(type(name) is str for name in tree)
        for part in tree.values():
            check(part)

    check(models.nnx(NnxNet).init(key, x))


def test_nnx_leaves_the_callers_module_as_it_was(key, x):
    module = NnxNet(nnx.Rngs(key))
    models.nnx(module).apply(models.nnx(module).init(key, x), x)
    assert not module.dropout.deterministic


def test_linen_partitioning_metadata_is_taken_off(key, x):
    boxed = nn.Dense(OUT, kernel_init=nn.with_partitioning(nn.initializers.ones, (None, "model")))
    model = models.linen(boxed)
    params = model.init(key, x)
    assert isinstance(params["kernel"], jax.Array)
    assert_close(model.apply(params, x), jnp.tile(x.sum(axis=1, keepdims=True), (1, OUT)))


def test_features_that_are_a_number_are_not_taken_for_a_method(key, x):
    assert models.linen(nn.Dense(features=OUT)).features is None


def test_features_may_be_a_callable(key, x):
    model = models.linen(LinenWithFeatures(), features=lambda module, x: module.body(x))
    named = models.linen(LinenWithFeatures())
    params = model.init(key, x)
    assert_close(jnp.tanh(model.features(params, x)), named.features(params, x))
    eqx_model = models.equinox(EquinoxNet, features=lambda module, one: module.body(one[module.order]))
    params = eqx_model.init(key, x)
    assert_close(jnp.tanh(eqx_model.features(params, x)), models.equinox(EquinoxNet).features(params, x))


def test_equinox_module_that_takes_batches(key, x):
    class Linear(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return x @ self.w

    model = models.equinox(lambda key: Linear(jax.random.normal(key, (IN, OUT))), batched=True)
    params = model.init(key, x)
    assert_close(model.apply(params, x), x @ params.w)


def test_equinox_builder_may_make_new_static_parts_each_time(key, x):
    class Net(eqx.Module):
        linear: eqx.nn.Linear
        activation: Any = eqx.field(static=True)

        def __call__(self, x):
            return self.activation(self.linear(x))

    model = models.equinox(lambda key: Net(eqx.nn.Linear(IN, OUT, key=key), lambda x: jnp.tanh(x)))
    params = model.init(key, x)
    assert jax.tree.structure(params) == jax.tree.structure(model.init(key, x))
    expected = jnp.tanh(x @ params.linear.weight.T + params.linear.bias[None])
    assert_close(model.apply(params, x), expected)


def nnx_with_norm(rngs):
    return nnx.Sequential(nnx.Linear(IN, OUT, rngs=rngs), nnx.BatchNorm(OUT, rngs=rngs))


def equinox_with_norm(key):
    return eqx.nn.BatchNorm(IN, axis_name="batch", mode="batch")


def haiku_with_norm(x):
    return hk.BatchNorm(True, True, 0.9)(x, is_training=True)


@pytest.mark.parametrize(
    "build",
    [
        lambda key, x: models.linen(nn.BatchNorm(use_running_average=False)).init(key, x),
        lambda key, x: jax.jit(models.linen(nn.BatchNorm(use_running_average=True)).init)(key, x),
        lambda key, x: models.nnx(nnx_with_norm),
        lambda key, x: models.nnx(nnx_with_norm(nnx.Rngs(0))),
        lambda key, x: models.equinox(equinox_with_norm),
        lambda key, x: models.equinox(lambda key: eqx.nn.make_with_state(equinox_with_norm)(key)),
        lambda key, x: models.haiku(hk.transform_with_state(haiku_with_norm)),
        lambda key, x: models.haiku(hk.without_apply_rng(hk.transform_with_state(haiku_with_norm))),
    ],
)
def test_batch_statistics_are_refused(build, key, x):
    with pytest.raises(ValueError, match=r"leak from query to support: normalise with GroupNorm"):
        build(key, x)


def test_wrong_arguments_are_named(key, x):
    with pytest.raises(ValueError, match="'embed', which LinenNet does not have"):
        models.linen(LinenNet(), features="embed")
    with pytest.raises(ValueError, match=r"`transformed` must be what `hk.transform` returns, got function"):
        models.haiku(haiku_net)


def test_importing_models_imports_no_other_library():
    code = (
        "import sys, jaxmeta.models, jaxmeta.objectives\n"
        "print([m for m in ('flax.nnx', 'equinox', 'haiku', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# MLP


def test_mlp_by_hand(key, x):
    model = models.mlp((HIDDEN,), OUT, activation=jnp.tanh)
    params = model.init(key, x)
    hidden = jnp.tanh(x @ params["layer_0"]["kernel"] + params["layer_0"]["bias"][None])
    assert_close(model.features(params, x), hidden)
    assert_close(model.apply(params, x), hidden @ params["head"]["kernel"] + params["head"]["bias"][None])


def test_mlp_flattens_and_may_be_linear(key):
    images = jnp.ones((N, 2, 3), jnp.uint8)
    model = models.mlp((), OUT)
    params = model.init(key, images)
    assert set(params) == {"head"}
    assert model.features(params, images).shape == (N, 6)


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


# Conv-4


def test_convolutions_agree(key):
    for stride, size, channels in ((1, 7, 3), (2, 7, 1), (2, 8, 3)):
        x = jax.random.normal(key, (2, size, size + 1, channels))
        kernel = jax.random.normal(key, (3, 3, channels, 5))
        patches, lax = jax.jit(lambda *args: (conv_patches(*args, stride), conv_lax(*args, stride)))(x, kernel)  # noqa: B023
        assert_close(patches, lax, rtol=1e-5, atol=1e-5)


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
    assert_close(first, second, rtol=1e-3, atol=1e-4)


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
    assert_close(apply(params, images), apply(params, images[..., None]))


def test_normalisation_is_that_of_the_papers(key):
    x = 3 + 2 * jax.random.normal(key, (4, 5, 6, 8))
    for policy, groups, flax_groups in (("group", 4, 4), ("layer", 4, 1)):
        reference = nn.GroupNorm(flax_groups, epsilon=1e-5)
        expected, _ = jax.jit(reference.init_with_output)(key, x)
        assert_close(jax.jit(normalized, static_argnums=(1, 2))(x, policy, groups), expected, 1e-4, 1e-5)
    reference = nn.BatchNorm(use_running_average=False, epsilon=1e-5)
    expected, _ = jax.jit(reference.init_with_output)(key, x)
    assert_close(jax.jit(normalized, static_argnums=(1, 2))(x, "transductive", 4), expected, 1e-4, 1e-5)


def test_max_pool_is_flax_max_pool(key):
    x = jax.random.normal(key, (2, 5, 6, 3))
    assert_close(max_pool(x), nn.max_pool(x, (2, 2), strides=(2, 2)), rtol=0, atol=0)


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
    assert_close(value_and_grad(params, batch), value_and_grad(params, padded), rtol=1e-5, atol=1e-6)


def test_transductive_examples_see_one_another(key):
    images = jax.random.normal(key, (4, 16, 16))
    model = models.conv4(OUT, width=8, normalization="transductive")
    params, apply = jax.jit(model.init)(key, images), jax.jit(model.apply)
    alone, together = apply(params, images[:2]), apply(params, images)[:2]
    assert not np.allclose(alone, together, atol=1e-3)
    # Nothing is stored: the same call gives the same answer.
    assert_close(apply(params, images[:2]), alone, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["group", "transductive"])
def test_conv4_can_be_differentiated_twice(normalization, key, x64):
    images = jax.random.normal(key, (2, 16, 16), jnp.float64)
    model = models.conv4(OUT, width=4, groups=2, normalization=normalization, param_dtype=jnp.float64)
    params = quick_jit(model.init)(key, images)
    ravelled, unravel = ravel_pytree(params)

    def gradient(flat):
        return jax.grad(lambda flat: jnp.mean(jnp.square(model.apply(unravel(flat), images) - 1)))(flat)

    direction = jax.random.normal(key, ravelled.shape, ravelled.dtype)
    forward = quick_jit(lambda flat: jax.jvp(gradient, (flat,), (direction,))[1])(ravelled)
    reverse = quick_jit(jax.grad(lambda flat: jnp.vdot(gradient(flat), direction)))(ravelled)
    assert_close(forward, reverse, rtol=1e-8, atol=1e-10)
    step = 1e-7
    at = quick_jit(gradient)
    numeric = (at(ravelled + step * direction) - at(ravelled - step * direction)) / (2 * step)
    assert_close(forward, numeric, rtol=1e-4, atol=1e-5)


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


def test_mlp_names_what_is_wrong():
    with pytest.raises(ValueError, match="`hidden` must be positive, got 0"):
        models.mlp((4, 0), 1)
    with pytest.raises(ValueError, match="`outputs` must be positive, got 0"):
        models.mlp((4,), 0)
