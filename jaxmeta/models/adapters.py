"""Turns a model of any library into a `Model`, with no change to it.

A `Model` is a function of its parameters and inputs alone, so each adapter

* refuses modules that keep batch statistics or other state: what one call writes the next would read, and a
  query would be judged by its support's statistics, or by its neighbours', without anybody having asked for
  it;
* runs modules as at inference (dropout off) where the library has a switch for that (NNX, Equinox). Linen and
  Haiku have none: there the module decides, by an argument (`linen(module, deterministic=True)`) or in its
  function;
* folds the axes of its products (`jaxmeta.core.products`), which changes no number.

The libraries are imported when their adapter is called.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax

from jaxmeta.core.products import folded
from jaxmeta.core.trees import owned
from jaxmeta.core.types import ArrayTree, Key, Model

FEATURES = "features"  # the method that is looked for unless another is named
Features = str | Callable[..., Any] | None


def plain(
    init: Callable[[Key, ArrayTree], ArrayTree],
    apply: Callable[[ArrayTree, ArrayTree], ArrayTree],
    features: Callable[[ArrayTree, ArrayTree], jax.Array] | None = None,
    generate: Callable[[ArrayTree, ArrayTree], jax.Array] | None = None,
) -> Model:
    """Makes a `Model` of pure functions.

    Args:
      init: `(key, inputs [N, ...]) -> params`.
      apply: `(params, inputs [N, ...]) -> outputs [N, ...]`.
      features: `(params, inputs [N, ...]) -> [N, D]`, where the model has a representation.
      generate: `(params, inputs [N, ...]) -> tokens [N, M]`, where the model writes. Models of the other adapters take
        theirs by `model._replace(generate=...)`.

    Example:
      model = plain(lambda key, x: {"w": jax.random.normal(key, (x.shape[-1], 1))}, lambda p, x: x @ p["w"])
    """
    return Model(
        init,
        folded(apply),
        None if features is None else folded(features),
        None if generate is None else folded(generate),
    )


def linen(module: Any, *, features: Features = FEATURES, **apply_kwargs: Any) -> Model:
    """Makes a `Model` of a Flax Linen module that reads `inputs` as its one positional argument.

    Parameters are the "params" collection, a plain nested dict; partitioning metadata is taken off.

    Args:
      module: a `flax.linen.Module`.
      features: a method's name, or a callable `(bound module, inputs [N, ...]) -> [N, D]`. The default finds
        the method `features` if there is one.
      **apply_kwargs: given to every call of the module, such as `train=False`. A method named by `features`
        gets them too; give a callable where it does not take them.

    Returns:
      A model whose `init` raises `ValueError` if the module makes a collection besides "params".

    Raises:
      ValueError: if `features` names a method that the module has not.
    """
    from flax.core import meta, unfreeze

    def init(key: Key, inputs: ArrayTree) -> ArrayTree:
        variables = unfreeze(module.init(key, inputs, **apply_kwargs))
        _refuse("Linen module", variables.keys() - {"params"})
        return meta.unbox(variables.get("params", {}))

    def apply(params: ArrayTree, inputs: ArrayTree) -> ArrayTree:
        return module.apply({"params": params}, inputs, **apply_kwargs)

    read = _reader(module, features, apply_kwargs)
    if read is None:
        return plain(init, apply)
    return plain(init, apply, lambda params, inputs: module.apply({"params": params}, inputs, method=read))


def nnx(module_or_builder: Any, *, features: Features = FEATURES) -> Model:
    """Makes a `Model` of a Flax NNX module that is called as `module(inputs [N, ...])`.

    Parameters are the `nnx.Param` variables as a plain nested dict of arrays; the places of a list are the
    keys "0", "1", ... Random number state and variables of the caller's own kinds are constants, drawn once
    from a fixed key; what a call writes in them is forgotten. The module runs in `eval()` mode.

    Args:
      module_or_builder: `(nnx.Rngs) -> nnx.Module`, or a module that is built already, from whose parameters
        `init` then starts, whatever the key.
      features: a method's name, or a callable `(module, inputs [N, ...]) -> [N, D]`. The default finds the
        method `features` if there is one.

    Raises:
      ValueError: if the module holds batch statistics or a cache, or has no method of the name in `features`.
    """
    from flax import nnx as flax_nnx

    built = isinstance(module_or_builder, flax_nnx.Module)

    def build(key: Key) -> Any:
        # A copy, because `eval` writes in the module, and the caller's may be in training.
        module = flax_nnx.clone(module_or_builder) if built else module_or_builder(flax_nnx.Rngs(key))
        module.eval()
        return module

    def constants_of(key: Key) -> Any:
        return flax_nnx.split(build(key), flax_nnx.Param, ...)[2]

    abstract = flax_nnx.eval_shape(lambda: build(jax.random.key(0)))
    graph, template, _ = flax_nnx.split(abstract, flax_nnx.Param, ...)
    stateful = (flax_nnx.BatchStat, flax_nnx.Cache)
    _refuse("NNX module", {k.__name__ for k in stateful if jax.tree.leaves(flax_nnx.state(abstract, k))})
    with jax.ensure_compile_time_eval():
        # Compiled, so that the parameters, which are not kept, are never made.
        constants = jax.jit(constants_of)(jax.random.key(0))

    def init(key: Key, inputs: ArrayTree) -> ArrayTree:
        del inputs
        params = flax_nnx.split(build(key), flax_nnx.Param, ...)[1]
        return owned(_with_string_keys(flax_nnx.to_pure_dict(params)))

    def bind(params: ArrayTree) -> Any:
        state = jax.tree.map(lambda leaf: leaf, template)  # a new one, because the next line writes in it
        flax_nnx.replace_by_pure_dict(state, params)
        return _merged(flax_nnx.merge, graph, state, constants)

    def apply(params: ArrayTree, inputs: ArrayTree) -> ArrayTree:
        return bind(params)(inputs)

    read = _reader(abstract, features, {})
    if read is None:
        return plain(init, apply)
    return plain(init, apply, lambda params, inputs: read(bind(params), inputs))


def equinox(module_or_builder: Any, *, batched: bool = False, features: Features = FEATURES) -> Model:
    """Makes a `Model` of an Equinox module, which by that library's convention reads one example.

    Parameters are the module itself with None for all that is not an inexact array, so paths are those of its
    attributes (`layers/0/weight`). The rest (functions, sizes, integer arrays) is a constant, taken from one
    module built from a fixed key. The module runs in inference mode.

    Args:
      module_or_builder: `(key) -> eqx.Module`, or a module that is built already, from whose parameters
        `init` then starts, whatever the key.
      batched: whether the module takes `[N, ...]` itself; otherwise it is mapped over the examples.
      features: a method's name, or a callable `(module, inputs) -> features`; like the module it reads one
        example, `[...] -> [D]`, and is mapped, or with `batched` it reads all of them, `[N, ...] -> [N, D]`.
        The default finds the method `features` if there is one.

    Raises:
      ValueError: if the module keeps state (`eqx.nn.State`), or has no method of the name in `features`.
    """
    import equinox as eqx

    built = isinstance(module_or_builder, eqx.Module)

    def build(key: Key) -> Any:
        return module_or_builder if built else module_or_builder(key)

    with jax.ensure_compile_time_eval():
        module = build(jax.random.key(0))
    stateful = (eqx.nn.State, eqx.nn.StateIndex)
    parts = jax.tree.leaves(module, is_leaf=lambda leaf: isinstance(leaf, stateful))
    _refuse("Equinox module", {"eqx.nn.State" for leaf in parts if isinstance(leaf, stateful)})
    params_of_first, static = eqx.partition(eqx.nn.inference_mode(module), eqx.is_inexact_array)
    structure = jax.tree.structure(params_of_first)
    read = _reader(module, features, {})
    del module, params_of_first

    def init(key: Key, inputs: ArrayTree) -> ArrayTree:
        del inputs
        leaves = jax.tree.leaves(eqx.filter(build(key), eqx.is_inexact_array))
        # Each build may make its own static parts (a lambda, say), which would be another structure to jax.
        return jax.tree.unflatten(structure, owned(leaves))

    def mapped(function: Callable, inputs: ArrayTree) -> ArrayTree:
        return function(inputs) if batched else jax.vmap(function)(inputs)

    def apply(params: ArrayTree, inputs: ArrayTree) -> ArrayTree:
        return mapped(eqx.combine(params, static), inputs)

    if read is None:
        return plain(init, apply)

    def read_features(params: ArrayTree, inputs: ArrayTree) -> jax.Array:
        bound = eqx.combine(params, static)
        return mapped(lambda one: read(bound, one), inputs)

    return plain(init, apply, read_features)


def haiku(transformed: Any, *, features: Any = None) -> Model:
    """Makes a `Model` of `hk.transform(f)`, where `f` reads `inputs [N, ...]`.

    It may have passed through `hk.without_apply_rng` or not. Parameters are Haiku's dict of dicts. No random
    key reaches `apply`: Haiku itself says so if the function asks for one.

    Args:
      transformed: an `hk.Transformed`.
      features: another `hk.Transformed`, `inputs [N, ...] -> [N, D]`, whose modules have the same names as
        those of `transformed` and so read its parameters.

    Raises:
      ValueError: if either is not an `hk.Transformed`, or keeps state (`hk.transform_with_state`).
    """
    apply = _haiku_apply("transformed", transformed)

    def init(key: Key, inputs: ArrayTree) -> ArrayTree:
        return transformed.init(key, inputs)

    return plain(init, apply, None if features is None else _haiku_apply("features", features))


def _haiku_apply(name: str, transformed: Any) -> Callable[[ArrayTree, ArrayTree], Any]:
    import haiku as hk

    if isinstance(transformed, hk.TransformedWithState):
        _refuse("Haiku function", {"hk.transform_with_state"})
    if not isinstance(transformed, hk.Transformed):
        raise ValueError(f"`{name}` must be what `hk.transform` returns, got {type(transformed).__name__}")
    if "rng" in inspect.signature(transformed.apply).parameters:
        return lambda params, inputs: transformed.apply(params, None, inputs)
    return lambda params, inputs: transformed.apply(params, inputs)


def _refuse(what: str, kinds: Any) -> None:
    if kinds:
        raise ValueError(
            f"the {what} keeps state besides its parameters ({', '.join(sorted(kinds))}), through which "
            "batch statistics would leak from query to support: normalise with GroupNorm or LayerNorm "
            "instead, or see the `normalization` policies of `jaxmeta.models.conv4`"
        )


def _reader(module: Any, features: Features, kwargs: dict[str, Any]) -> Callable[[Any, Any], Any] | None:
    """Returns `(module, inputs) -> features`, or None where there are none."""
    if features is None or not isinstance(features, str):
        return features
    name = features
    # Looked for in the class: `features` is a number in many modules, and methods are made there.
    if callable(getattr(type(module), name, None)):
        return lambda module, inputs: getattr(module, name)(inputs, **kwargs)
    if name != FEATURES:
        raise ValueError(f"`features` names the method {name!r}, which {type(module).__name__} does not have")
    return None


def _merged(merge: Callable, *parts: Any) -> Any:
    # Flax merges into the given variables since it has `copy`; before, it always made new ones.
    if "copy" in inspect.signature(merge).parameters:
        return merge(*parts, copy=True)
    return merge(*parts)


def _with_string_keys(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {str(name): _with_string_keys(part) for name, part in tree.items()}
    return tree
