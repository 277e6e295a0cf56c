"""A network that generates a task's adapters and its architecture from what is told of it, without its labels.

Hypernetworks are of Ha, Dai and Le 2017 (arXiv 1609.09106), adapters of low rank of Hu et al. 2022 (arXiv 2106.09685),
adapters generated from a description of a language of Üstün et al. 2020 (arXiv 2004.14327).
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmeta.algorithms.descent import in_parts
from jaxmeta.algorithms.features import FEATURE_FLOOR
from jaxmeta.algorithms.gates import Part, check_parts, discrete, open_probability, relaxed, remove_parts, sampled
from jaxmeta.core.checks import check_not_negative, check_one_of, check_positive
from jaxmeta.core.gradients import Strategy, first_order
from jaxmeta.core.select import Predicate, matching, partition, path_of
from jaxmeta.core.trees import strip_weak_types, unit
from jaxmeta.core.types import ArrayTree, Batch, Episode, MetaAlgorithm, Model, Objective

KERNELS = matching(r"(^|/)(kernel|bias|weight)$")
_OPEN = 3.0  # the logit that gates begin at: `relaxed` is one there, and the model that of its parameters
Gates = Literal["none", "sampled", "relaxed", "discrete"]


class Generated(NamedTuple):
    """What is generated for a task, and what steps then change of it."""

    adapters: ArrayTree  # {"left": {path: [m, r]}, "right": {path: [r, n]}} of the parameters that have one
    opt_state: optax.OptState
    gates: ArrayTree  # {"adapters": {path: [r]}, "parts": {name: [number of gates]}}; {} without gates
    cost: jax.Array  # [] Q, the expected share of what can be removed that is kept
    offset: jax.Array  # [C] of the outputs, where they are centred, else a zero


def meta_network(
    model: Model,
    objective: Objective,
    inner_optimizer: optax.GradientTransformation,
    *,
    rank: int = 4,
    size: int = 16,
    select: Predicate = KERNELS,
    reads: Literal["descriptor", "features"] = "descriptor",
    description: jax.Array | None = None,
    gates: Gates = "none",
    parts: tuple[Part, ...] = (),
    cost_weight: float = 0.0,
    centre: bool = False,
    gradient: Strategy = first_order,
    microbatches: int = 1,
) -> MetaAlgorithm:
    """A generator from the mean of what is told of a support's texts to low-rank adapters of a model, and gates.

    A short code `z = tanh(A e + a) / E`, of E numbers, is made of the mean `e` of what is told of the real examples, at
    length one. Each selected parameter, as a matrix `[m, n]`, gets an adapter of rank r whose factors are linear in
    `z`; a vector gets an offset. Adapters enter the model through its parameters, so any model of any library has them,
    at no change to it. At the start they are zero: the model is that of its parameters.

    No label is read by `begin`. With no inner step this is zero-shot; inner steps are gradient steps on the generated
    adapters alone.

    Args:
      model: what maps inputs to outputs.
      objective: what the outputs are for.
      inner_optimizer: any optax optimizer; its state starts anew for each task.
      rank: r, of the adapters; less where a matrix is smaller.
      size: of the code.
      select: which parameters get adapters, by path.
      reads: what is told of the support: its leaf "descriptor" `[N, P]` (see `jaxmeta.data.describe`), or the model's
        features of its inputs.
      description: what to generate from whatever the support is, `[P]`, such as the mean over languages.
      gates: whether every rank of every adapter, and every part in `parts`, has a generated gate: "none"; "sampled"
        from relaxed ones, for training; "relaxed", without chance; "discrete", 0 or 1, for use. The last three have
        the same meta-parameters.
      parts: what else gates can remove: layers (depth), heads or hidden units (width).
      cost_weight: λ, of the expected cost Q of the generated architecture in the loss.
      centre: of outputs `[N, C]`, whether an offset of them is generated too: minus a learned multiple, one at first,
        of what the generated model answers to the support on average. Answers that are drawn to some classes in a new
        language then have no such lean (batch calibration, Zhou et al. 2024, arXiv 2309.17249). It takes the support's
        classes to be about as frequent as those of training. With a `description` the offset is zero.
      gradient: the inner-gradient strategy, see `jaxmeta.core.gradients`.
      microbatches: parts that the support is cut into, one after another, for the inner gradient. The objective's
        loss must then be a mean over the real examples.

    Returns:
      An algorithm whose meta-parameters are `{"params": ..., "generator": ...}`. With gates its metrics have "cost", Q.

    Raises:
      ValueError: if an argument is out of its range, or there are `parts` or `cost_weight` without gates; at `init` if
        `select` matches no parameter, a part none of its own, or there is nothing to generate from.
    """
    check_positive("rank", rank)
    check_positive("size", size)
    check_not_negative("cost_weight", cost_weight)
    check_one_of("reads", reads, ("descriptor", "features"))
    check_one_of("gates", gates, ("none", "sampled", "relaxed", "discrete"))
    if gates == "none" and (parts or cost_weight):
        raise ValueError('`parts` and `cost_weight` need gates; name some, such as `gates="sampled"`')

    def told(params, support: Batch) -> jax.Array:
        """Returns what is told of a support, `[P]` at length one; its targets are not read."""
        if description is not None:
            mean = jnp.asarray(description)
        else:
            mean = _mean_of_real(_told_of_each(model, reads, params, support), support)
        return unit(mean[None], floor=FEATURE_FLOOR)[0]

    def weights(meta_params, adapters, gates) -> ArrayTree:
        def moved(key_path, leaf):
            path = path_of(key_path)
            if path not in adapters["left"]:
                return leaf
            left = adapters["left"][path] * gates["adapters"][path][None] if gates else adapters["left"][path]
            return leaf + jnp.reshape(left @ adapters["right"][path], leaf.shape)

        whole = jax.tree_util.tree_map_with_path(moved, meta_params["params"])
        return remove_parts(whole, parts, gates.get("parts", {}))

    def outputs(meta_params, adapters, gates, offset, inputs) -> ArrayTree:
        found = model.apply(weights(meta_params, adapters, gates), inputs)
        return found + offset[None] if centre else found

    def support_loss(adapters, meta_params, gates, offset, support: Batch):
        return objective.loss(outputs(meta_params, adapters, gates, offset, support["inputs"]), support)

    support_gradient = in_parts(lambda fast, rest, batch: gradient(support_loss)(fast, *rest, batch), microbatches)

    def init(key, episode: Episode):
        params_key, code_key, left_key = jax.random.split(key, 3)
        params = model.init(params_key, episode.support["inputs"])
        selected = _by_path(partition(params, select)[0])
        width = jax.eval_shape(told, params, episode.support).shape[0]
        dtype = next(iter(selected.values())).dtype
        lefts, rights, keys = {}, {}, jax.random.split(left_key, len(selected))
        for left_key, (path, leaf) in zip(keys, selected.items(), strict=True):
            m, n = matrix_shape(leaf.shape)
            r = min(rank, m, n)
            # Signs, so that a step on the right factor moves the matrix as much as a step on the matrix itself.
            lefts[path] = jax.random.rademacher(left_key, (m, r), leaf.dtype) / r**0.5
            rights[path] = jnp.zeros((r, n), leaf.dtype)
        generator: dict[str, Any] = {
            "code": {"kernel": jax.random.normal(code_key, (width, size), dtype), "bias": jnp.zeros(size, dtype)},
            "left": _linear(lefts, size),
            "right": _linear(rights, size),
        }
        if gates != "none":
            logits = {"adapters": {path: jnp.full(left.shape[1], _OPEN, dtype) for path, left in lefts.items()}}
            if parts:
                counts = check_parts(params, parts)
                logits["parts"] = {name: jnp.full(count, _OPEN, dtype) for name, (count, _) in counts.items()}
            generator["gates"] = _linear(logits, size)
        if centre:
            generator["centre"] = jnp.ones((), dtype)
        return {"params": params, "generator": generator}

    def begin(key, meta_params, support):
        generator = meta_params["generator"]
        code = generator["code"]
        told_of = told(meta_params["params"], support).astype(code["kernel"].dtype)
        z = jnp.tanh(told_of @ code["kernel"] + code["bias"]) / size
        adapters = {side: _generated(generator[side], z) for side in ("left", "right")}
        opened, cost = {}, jnp.ones((), z.dtype)
        if gates != "none":
            logits = _generated(generator["gates"], z)
            cost = expected_cost(logits, costs_of(meta_params["params"], adapters, parts))
            opened = _gates(gates, key, logits)
        offset = jnp.zeros((), z.dtype)
        if centre:
            found = model.apply(weights(meta_params, adapters, opened), support["inputs"])
            offset = -generator["centre"] * _mean_of_real(found, support)
            offset = offset if description is None else jnp.zeros_like(offset)
        return Generated(adapters, strip_weak_types(inner_optimizer.init(adapters)), opened, cost, offset)

    def step(key, meta_params, state: Generated, support):
        del key
        rest = (meta_params, state.gates, state.offset)
        (loss, metrics), grads = support_gradient(state.adapters, rest, support)
        updates, opt_state = inner_optimizer.update(grads, state.opt_state, state.adapters)
        adapters = optax.apply_updates(state.adapters, updates)
        return state._replace(adapters=adapters, opt_state=opt_state), {**metrics, "loss": loss}

    def loss(key, meta_params, state: Generated, query):
        del key
        value, metrics = objective.loss(predict(meta_params, state, query["inputs"]), query)
        if gates == "none":
            return value, metrics
        return value + cost_weight * state.cost.astype(value.dtype), {**metrics, "cost": state.cost}

    def predict(meta_params, state: Generated, inputs):
        return outputs(meta_params, state.adapters, state.gates, state.offset, inputs)

    return MetaAlgorithm(init, begin, step, loss, predict)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the shape `[m, n]` of a parameter as a matrix: cut where `m + n`, what a rank costs, is least."""
    sizes = [1, *shape] if len(shape) < 2 else [*shape]
    cuts = [(_product(sizes[:place]), _product(sizes[place:])) for place in range(1, len(sizes))]
    return min(cuts, key=sum) if cuts else (1, 1)


def costs_of(params: ArrayTree, adapters: ArrayTree, parts: tuple[Part, ...]) -> ArrayTree:
    """Returns how many numbers each gate removes, in the structure of the gates."""
    of_rank = jax.tree.map(lambda left, right: left.shape[0] + right.shape[1], adapters["left"], adapters["right"])
    if not parts:
        return {"adapters": of_rank}
    return {"adapters": of_rank, "parts": {name: cost for name, (_, cost) in check_parts(params, parts).items()}}


def expected_cost(logits: ArrayTree, costs: ArrayTree) -> jax.Array:
    """Returns Q: the numbers that are expected to be kept when gates are drawn, as a share of all that have a gate."""
    kept = jax.tree.map(lambda logit, cost: jnp.sum(open_probability(logit)) * cost, logits, costs)
    total = sum(jax.tree.leaves(jax.tree.map(lambda logit, cost: logit.size * cost, logits, costs)))
    return jnp.asarray(sum(jax.tree.leaves(kept))) / total


def kept_numbers(gates: ArrayTree, costs: ArrayTree) -> jax.Array:
    """Returns how many numbers the open gates of a state keep, `[]`; with relaxed gates, in proportion."""
    kept = jax.tree.map(lambda gate, cost: jnp.sum(gate) * cost, gates, costs)
    return jnp.asarray(sum(jax.tree.leaves(kept)))


def _told_of_each(model: Model, reads: str, params: ArrayTree, support: Batch) -> jax.Array:
    if reads == "descriptor":
        if "descriptor" not in support:
            raise ValueError('`reads="descriptor"` needs the leaf "descriptor" in a support; add it, or read features')
        return jnp.asarray(support["descriptor"])
    if model.features is None:
        raise ValueError('`reads="features"` needs a model with features; give it some, or read a descriptor')
    return model.features(params, support["inputs"])


def _mean_of_real(rows: jax.Array, support: Batch) -> jax.Array:
    """Returns the mean of `rows [N, D]` over the real examples, `[D]`."""
    if "mask" not in support:
        return jnp.mean(rows, axis=0)
    real = jnp.asarray(support["mask"])
    # `where`, so that what stands in padding is not even multiplied.
    total = jnp.sum(jnp.where(real[:, None], rows, jnp.zeros_like(rows)), axis=0)
    return total / jnp.maximum(jnp.sum(real), 1).astype(rows.dtype)


def _by_path(tree: ArrayTree) -> dict[str, jax.Array]:
    """Returns the leaves of a tree by path: what is generated is stored so, for it has no place for the others."""
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _linear(base: ArrayTree, size: int) -> ArrayTree:
    """Returns what generates a tree: `base`, and a map of the code that is zero at first."""
    return {"base": base, "maps": jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), base)}


def _generated(linear: ArrayTree, z: jax.Array) -> ArrayTree:
    return jax.tree.map(lambda base, m: base + jnp.tensordot(z.astype(m.dtype), m, 1), linear["base"], linear["maps"])


def _gates(how: str, key: jax.Array, logits: ArrayTree) -> ArrayTree:
    if how != "sampled":
        return jax.tree.map(relaxed if how == "relaxed" else discrete, logits)
    leaves, treedef = jax.tree.flatten(logits)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(treedef, [sampled(key, leaf) for key, leaf in zip(keys, leaves, strict=True)])


def _product(sizes) -> int:
    found = 1
    for size in sizes:
        found *= size
    return found
