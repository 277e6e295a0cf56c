"""Adapters against the native call of each library."""

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

from jaxmeta import models
from jaxmeta.core.select import matching, partition, path_of
from jaxmeta.core.types import Model

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
