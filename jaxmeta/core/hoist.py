"""Finding what does not change during adaptation, so that it is computed once.

A frozen trunk under an adapted head gives the same features at every inner step. Nobody should have to say so: the
functions here read it off the computation itself, for any model of any library.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from jaxmeta.core.types import ArrayTree

# What is worth the memory of its result. Masks, casts and broadcasts are not: they are cheaper to do again.
_DEAR = {"dot_general", "conv_general_dilated", "ragged_dot", "cholesky", "lu", "eigh", "qr", "svd", "triangular_solve"}


class Opened(NamedTuple):
    """A function as a computation with nothing hidden: what it closes over is an argument too."""

    run: Callable[..., list[jax.Array]]  # (constants, *varying leaves) -> output leaves
    constants: list[jax.Array]  # closed-over arrays, and results that need no varying argument
    shapes: ArrayTree  # what the function returns, as shapes


def opened(function: Callable[..., Any], varying: ArrayTree, *fixed: ArrayTree) -> Opened:
    """Traces `function(varying, *fixed)` and does at once whatever is dear and needs none of `varying`.

    Args:
      function: a pure function of arrays.
      varying: its first argument: what will change from call to call.
      *fixed: its other arguments: what will not.

    Returns:
      The rest of the computation, as a function of constants and of the leaves of `varying`.
    """
    leaves, treedef = jax.tree.flatten(varying)
    # Under the names of one argument each, so that the trace holds every fixed array, floating or not.
    fixed_leaves, fixed_treedef = jax.tree.flatten(fixed)

    def flat(*arrays):
        varying = jax.tree.unflatten(treedef, arrays[: len(leaves)])
        return function(varying, *jax.tree.unflatten(fixed_treedef, arrays[len(leaves) :]))

    closed, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves, *fixed_leaves)
    if any(_is_call(eqn) and _is_dear(eqn) for eqn in closed.jaxpr.eqns):
        # A function under `jit` is one equation, which is either all constant or not at all.
        closed = inlined(closed)
    jaxpr: Jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    known |= dict(zip(jaxpr.invars[len(leaves) :], fixed_leaves, strict=True))
    early, late = _split(jaxpr.eqns, set(known))
    if early:
        inputs, outputs = list(free_in(early, [])), _handed_on(early, late, jaxpr.outvars)
        results = part_of(jaxpr, early, inputs, outputs)(*[known[var] for var in inputs])
        known |= dict(zip(outputs, results, strict=True))
    needed = free_in(late, jaxpr.outvars)
    names = [var for var in known if var in needed]
    run = part_of(jaxpr, late, [*names, *jaxpr.invars[: len(leaves)]], jaxpr.outvars)
    return Opened(lambda constants, *arrays: run(*constants, *arrays), [known[var] for var in names], shapes)


def _is_dear(eqn) -> bool:
    """Whether an equation is a product, a convolution or a solution of equations, or has one in it."""
    return eqn.primitive.name in _DEAR or any(_is_dear(e) for inner in jaxprs_in(eqn.params) for e in inner.eqns)


def jaxprs_in(params: dict[str, Any]) -> list[Jaxpr]:
    """Returns the computations that an equation holds: branches, bodies, functions with their own derivative."""
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, Jaxpr):
                found.append(item)
    return found


def _is_call(eqn) -> bool:
    return eqn.primitive.name in ("jit", "pjit")


def inlined(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Returns a computation with the functions under `jit` that it calls written out."""
    return jax.make_jaxpr(lambda *arrays: evaluate(closed, arrays))(*closed.in_avals)


def equations(closed: ClosedJaxpr) -> Iterator[Any]:
    """Yields the equations that `evaluate` comes to: those of functions under `jit` too."""
    for eqn in closed.jaxpr.eqns:
        if _is_call(eqn):
            yield from equations(eqn.params["jaxpr"])
        else:
            yield eqn


def evaluate(
    closed: ClosedJaxpr, arrays: Sequence[Any], instead: Mapping[int, Callable[..., list[Any]]] | None = None
) -> list[Any]:
    """Evaluates a computation, functions under `jit` written out.

    Args:
      closed: the computation.
      arrays: its arguments.
      instead: what to do in place of an equation, by its `id`, from the equation's inputs to its outputs.
    """
    jaxpr, instead = closed.jaxpr, instead or {}
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *arrays), strict=True))

    def read(var):
        return var.val if isinstance(var, Literal) else values[var]

    # What stays as it is stays together: each part on its own costs as much to begin as several equations.
    for stays, eqns in itertools.groupby(jaxpr.eqns, lambda eqn: not (id(eqn) in instead or _is_call(eqn))):
        if stays:
            part = list(eqns)
            names, made = list(free_in(part, [])), [var for eqn in part for var in eqn.outvars]
            values.update(zip(made, part_of(jaxpr, part, names, made)(*map(read, names)), strict=True))
            continue
        for eqn in eqns:
            arguments = map(read, eqn.invars)
            if id(eqn) in instead:
                outputs = instead[id(eqn)](*arguments)
            else:
                outputs = evaluate(eqn.params["jaxpr"], list(arguments), instead)
            values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(var) for var in jaxpr.outvars]


def needed_for(eqns: Sequence[Any], wanted: Iterable[Any]) -> list[Any]:
    """Returns those of `eqns` that the variables `wanted` come from."""
    wanted, found = set(wanted), []
    for eqn in reversed(eqns):
        if any(var in wanted for var in eqn.outvars):
            found.append(eqn)
            wanted.update(var for var in eqn.invars if not isinstance(var, Literal))
    return found[::-1]


def _split(eqns: Sequence[Any], known: set) -> tuple[list, list]:
    """Splits equations into the dear ones that `known` suffices for, with all they need, and the others."""
    reachable, within = [], set(known)
    for eqn in eqns:
        if not eqn.effects and all(isinstance(var, Literal) or var in within for var in eqn.invars):
            reachable.append(eqn)
            within.update(eqn.outvars)
    dear = [var for eqn in reachable if _is_dear(eqn) for var in eqn.outvars]
    early = needed_for(reachable, dear)
    chosen = {id(eqn) for eqn in early}
    return early, [eqn for eqn in eqns if id(eqn) not in chosen]


def _handed_on(early, late, outvars) -> list:
    """What the other equations, or the result, read from the early ones."""
    made = {var for eqn in early for var in eqn.outvars}
    return [var for var in free_in(late, outvars) if var in made]


def free_in(eqns, outvars) -> dict:
    """Returns the variables that equations read, or hand on, and do not make; a dict, to keep their order."""
    made, free = set(), {}
    for eqn in eqns:
        free.update((var, None) for var in eqn.invars if not isinstance(var, Literal) and var not in made)
        made.update(eqn.outvars)
    free.update((var, None) for var in outvars if not isinstance(var, Literal) and var not in made)
    return free


def part_of(jaxpr: Jaxpr, eqns, invars, outvars) -> Callable[..., list[jax.Array]]:
    """Returns some equations of a computation as a function of `invars` that gives `outvars`."""
    part = jaxpr.replace(constvars=[], invars=list(invars), outvars=list(outvars), eqns=list(eqns))
    return jaxpr_as_fun(ClosedJaxpr(part, []))
