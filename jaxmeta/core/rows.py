"""Sparse embedding rows: of a large table, a task adapts and differentiates only the rows that it reads.

A few texts name some hundred of 250,000 pieces. Copying the table for each task, taking its gradient and updating it
costs more than the rest of a model; the rows that an episode reads, and where they lie, are all that is needed. Which
rows those are is read off the model's own computation, so a model of any library works as it is.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr, Literal

from jaxmeta.core.hoist import evaluate, free_in, inlined, needed_for, part_of
from jaxmeta.core.select import Predicate, partition, path_of
from jaxmeta.core.trees import leading_size
from jaxmeta.core.types import ArrayTree, Batch, Episode, Model

# What may happen to a table on its way to being looked up: the same thing to each of its numbers.
_TRANSPARENT = ("convert_element_type", "copy", "reduce_precision")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LocalInputs:
    """Inputs, and where the rows that they look up lie in tables that hold only the rows of an episode."""

    inputs: ArrayTree  # leaves [N, ...]
    places: tuple[jax.Array, ...]  # one for each lookup, in the order of the computation, [N, ...]
    sizes: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # the rows of each whole table


def compact(model: Model, tables: Predicate, params: ArrayTree, episode: Episode) -> tuple[ArrayTree, Episode]:
    """Finds the rows that an episode reads.

    Args:
      model: what reads them.
      tables: selects the tables among the parameters, `[V, ...]` each.
      params: the whole parameters.
      episode: one task.

    Returns:
      The numbers of the rows of each table, `[U]` (a tree like `params`, None elsewhere), ascending, filled up with V;
      and the episode with `LocalInputs`.

    Raises:
      ValueError: a table is read in another way than row by row, or its rows are chosen by the parameters.
    """
    chosen = partition(params, tables)[0]
    names = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(chosen)]
    sizes = tuple(table.shape[0] for table in jax.tree.leaves(chosen))
    support, query = (_lookups(model, tables, params, side["inputs"]) for side in episode)
    rows = []
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        read = [index.reshape(-1) for table, index in (*support, *query) if table == number]
        if not read:
            raise ValueError(f"`rows`: the model looks up no row of {name}")
        read = jnp.concatenate(read)
        rows.append(jnp.unique(read, size=min(size, read.size), fill_value=size))

    def local(side: Batch, lookups) -> Batch:
        places = tuple(jnp.searchsorted(rows[table], index).astype(index.dtype) for table, index in lookups)
        return {**side, "inputs": LocalInputs(side["inputs"], places, sizes)}

    return (
        jax.tree.unflatten(jax.tree.structure(chosen), rows),
        Episode(local(episode.support, support), local(episode.query, query)),
    )


def reading_rows(model: Model, tables: Predicate) -> Model:
    """Returns `model`, which then also reads `LocalInputs` with parameters whose tables hold only their rows."""

    def apply(params, inputs):
        if not isinstance(inputs, LocalInputs):
            return model.apply(params, inputs)
        sizes = iter(inputs.sizes)
        whole = jax.tree_util.tree_map_with_path(
            lambda path, leaf: _with_rows(leaf, next(sizes)) if tables(path_of(path)) else leaf, params
        )
        traced = _traced(model, tables, whole, inputs.inputs)
        places = iter(inputs.places)
        instead = {id(eqn): partial(_look_up, eqn.params, next(places)) for _, eqn in traced.lookups}
        outputs = evaluate(traced.closed, jax.tree.leaves((params, inputs.inputs)), instead)
        return jax.tree.unflatten(traced.out_tree, outputs)

    return model._replace(apply=apply)


def check_by_row(optimizer: optax.GradientTransformation, fast: ArrayTree, tables: Predicate) -> None:
    """Checks that `optimizer` does to the rows of a table what it does to them alone, and to a row without a gradient
    nothing; by trying.

    Raises:
      ValueError: it does not (weight decay, norms of whole arrays), or its learning rate is not a number yet.
    """
    if not any(tables(path_of(path)) for path, _ in jax.tree_util.tree_leaves_with_path(fast)):
        return  # no table adapts
    whole, some = 256, 200
    try:
        with jax.ensure_compile_time_eval():
            of_all, of_some = (_tried(optimizer, fast, tables, whole, rows, some) for rows in (whole, some))
            exact = all(
                np.array_equal(a[:some], b) and not np.any(a[some:]) for a, b in zip(of_all, of_some, strict=True)
            )
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        raise ValueError("`rows` tries the inner optimizer out: give it a learning rate that is a number") from None
    if not exact:
        raise ValueError(
            "`rows` would not be exact with this inner optimizer: it moves rows that an episode does not read, or lets "
            "them weigh on the others (weight decay, norms of whole arrays); use another, or leave `rows` out"
        )


def _tried(optimizer, fast, tables, whole: int, rows: int, read: int) -> list[np.ndarray]:
    """What two steps add up to for the first `rows` rows of tables, of which the first `read` have a gradient."""
    # As wide as the arrays that optimizers begin to factor.
    noise = np.sin(np.arange(2.0 * whole * 128) ** 1.5).reshape(2, whole, 128).astype(np.float32)
    noise[1, read:] = 0.0

    def like(kind: int):
        def one(path, leaf):
            return jnp.asarray(noise[kind, :rows]) if tables(path_of(path)) else jnp.ones((2,) * jnp.ndim(leaf))

        return jax.tree_util.tree_map_with_path(one, fast)

    start, gradient = like(0), like(1)
    params, state = start, optimizer.init(start)
    for _ in range(2):
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    moved = jax.tree.map(jnp.subtract, params, start)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(partition(moved, tables)[0])]


class _Traced(NamedTuple):
    """A model's computation, and where in it rows are looked up."""

    closed: ClosedJaxpr
    lookups: list[tuple[int, Any]]  # the number of the table, and the equation
    num_params: int
    out_tree: Any


def _traced(model: Model, tables: Predicate, params: ArrayTree, inputs: ArrayTree) -> _Traced:
    leaves, treedef = jax.tree.flatten((params, inputs))
    closed, shapes = jax.make_jaxpr(lambda *flat: model.apply(*jax.tree.unflatten(treedef, flat)), return_shape=True)(
        *leaves
    )
    closed = inlined(closed)
    paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    selected = [place for place, path in enumerate(paths) if tables(path)]
    table_of = {closed.jaxpr.invars[place]: number for number, place in enumerate(selected)}
    lookups = []
    for eqn in closed.jaxpr.eqns:
        read = [var for var in eqn.invars if not isinstance(var, Literal) and var in table_of]
        if not read:
            continue
        if eqn.primitive.name in _TRANSPARENT:
            table_of[eqn.outvars[0]] = table_of[read[0]]
        elif read == [eqn.invars[0]] and _is_lookup(eqn):
            lookups.append((table_of[read[0]], eqn))
        else:
            raise ValueError(
                f"`rows`: {paths[selected[table_of[read[0]]]]} is read by {eqn.primitive.name} too, as a whole; only a "
                "table that is looked up row by row can be adapted by row"
            )
    return _Traced(closed, lookups, len(paths), jax.tree.structure(shapes))


def _is_lookup(eqn) -> bool:
    if eqn.primitive.name != "gather":
        return False
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    whole_rows = (1, *eqn.invars[0].aval.shape[1:])
    return (
        tuple(numbers.start_index_map) == (0,)
        and tuple(numbers.collapsed_slice_dims) == (0,)
        and not numbers.operand_batching_dims
        and tuple(sizes) == whole_rows
    )


def _look_up(params: dict[str, Any], places: jax.Array, table: jax.Array, whole_places: jax.Array) -> list[jax.Array]:
    del whole_places
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    return [jax.lax.gather(table, places[..., None], numbers, sizes, mode="clip")]


def _lookups(model: Model, tables: Predicate, params: ArrayTree, inputs: ArrayTree) -> list[tuple[int, jax.Array]]:
    """The table and the rows of each lookup: `[(number, [N, ...]), ...]`."""
    traced = _traced(model, tables, params, inputs)
    jaxpr = traced.closed.jaxpr
    wanted = [eqn.invars[1] for _, eqn in traced.lookups]
    eqns = needed_for(jaxpr.eqns, wanted)
    known = dict(zip(jaxpr.constvars, traced.closed.consts, strict=True))
    known |= dict(zip(jaxpr.invars[traced.num_params :], jax.tree.leaves(inputs), strict=True))
    needed = list(free_in(eqns, wanted))
    if any(var not in known for var in needed):
        raise ValueError("`rows`: which rows the model looks up depends on its parameters; leave `rows` out")
    values = part_of(jaxpr, eqns, needed, wanted)(*[known[var] for var in needed])
    count = leading_size(inputs)
    for value in values:
        if value.shape[0] != count:
            raise ValueError(f"`rows`: lookups must have the example axis first, [{count}, ...], got {value.shape}")
    return [(table, value[..., 0]) for (table, _), value in zip(traced.lookups, values, strict=True)]


def _with_rows(leaf, size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype)
