"""Products of matrices for many tasks at once, in fewer and larger pieces.

Side by side, tasks turn a product of matrices into a batch of small ones. Three things are done to a computation here
that no compiler does of itself; none changes a number but by rounding.

    a sum over tasks      The gradient of what tasks share is the sum of a batch of products. That is one product of all
                          rows: of 25 tasks with 10 examples each, one over 250, without a result for each task.
    a sum of products     The derivative of `x.T @ y` is `dx.T @ y + x.T @ dy`: one product over twice as many rows.
    a product of few rows For many tiny tasks XLA is slow at `x.T @ y` on a CPU: each of them is a call. A few outer
                          products are added up instead, which become one loop with whatever is done to the result.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal

from jaxmeta.core.hoist import evaluate, inlined

# What are few rows, small results and many tasks: measured with multilayer perceptrons, within several inner steps.
_FEW_ROWS, _SMALL_RESULT, _MANY_TASKS = 20, 4096, 16

_Instead = dict[int, Callable[..., list[Any]]]


def fused_products(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` with its products for many tasks fused: the same but for rounding.

    Functions with a derivative of their own stay as they are: this is for what nobody differentiates any more.

    Args:
      function: a pure function of arrays, in trees, whose tasks lie along the first axis of its products.
    """

    def with_fused_products(*args):
        leaves, treedef = jax.tree.flatten(args)
        closed, shapes = jax.make_jaxpr(lambda *leaves: function(*treedef.unflatten(leaves)), return_shape=True)(
            *leaves
        )
        return jax.tree.unflatten(jax.tree.structure(shapes), _fused(closed, leaves))

    return with_fused_products


def _fused(closed: ClosedJaxpr, leaves: Sequence[Any]) -> list[Any]:
    closed = inlined(closed)
    return evaluate(closed, leaves, _instead(closed.jaxpr))


class _Product(NamedTuple):
    """A product whose tasks lie along the first axis of both factors, not computed yet."""

    left: jax.Array
    right: jax.Array
    summed: tuple[int, int]  # the axis of either factor that is summed over
    options: Mapping[str, Any]

    def compute(self) -> jax.Array:
        left, right = self.summed
        if _is_tiny(self) and jax.default_backend() == "cpu":
            rows = range(self.left.shape[1])
            return reduce(jnp.add, (self.left[:, row, :, None] * self.right[:, row, None, :] for row in rows))
        return jax.lax.dot_general(self.left, self.right, (((left,), (right,)), ((0,), (0,))), **self.options)

    def sum_over_tasks(self) -> jax.Array:
        left, right = self.summed
        return jax.lax.dot_general(self.left, self.right, (((0, left), (0, right)), ((), ())), **self.options)


class _Sum(NamedTuple):
    """A sum of arrays `[T, ...]`, not added up yet: its parts, each with what happens to it before."""

    parts: tuple[tuple[_Product | jax.Array, tuple[Callable[[jax.Array], jax.Array], ...]], ...]


def _instead(jaxpr) -> _Instead:
    """Returns what to do in place of the equations of a computation that have to do with products for many tasks."""
    made = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}
    reads = Counter(var for eqn in jaxpr.eqns for var in eqn.invars if not isinstance(var, Literal))
    reads.update(var for var in jaxpr.outvars if not isinstance(var, Literal))

    def before(eqn, through: Mapping[str, Callable[..., list[Any]]]) -> tuple[_Instead, int]:
        """What to do in place of the equations between products and their only reader, `eqn`; how many products."""
        found, count = {}, 0
        for var in eqn.invars:
            maker = made.get(var) if not isinstance(var, Literal) and reads[var] == 1 else None
            if maker is None:
                continue
            if _is_product(maker):
                found[id(maker)], count = partial(_put_off, maker), count + 1
            elif maker.primitive.name in through and _keeps_tasks_first(maker):
                inner, products = before(maker, through)
                if products:
                    found |= {id(maker): partial(through[maker.primitive.name], maker), **inner}
                    count += products
        return found, count

    found: _Instead = {}
    for eqn in reversed(jaxpr.eqns):  # who reads comes before what is read
        name = eqn.primitive.name
        if id(eqn) in found:
            continue
        if name == "reduce_sum" and tuple(eqn.params["axes"]) == (0,):
            products, count = before(eqn, _LINEAR)
            found |= {id(eqn): _sum_over_tasks, **products} if count else {}
        elif name in _ADDING:
            products, count = before(eqn, _ADDING)
            found |= {id(eqn): partial(_add_up, eqn), **products} if count > 1 else {}
        elif _is_product(eqn):
            found[id(eqn)] = lambda *factors, eqn=eqn: [_product(eqn, *factors).compute()]
        elif name == "scan":
            found[id(eqn)] = partial(_scan, eqn)
    return found


def _is_product(eqn) -> bool:
    """Whether an equation is a product of matrices for each task."""
    if eqn.primitive.name != "dot_general" or eqn.params.get("out_sharding") is not None:
        return False
    contracted, batch = eqn.params["dimension_numbers"]
    ranks = [var.aval.ndim for var in eqn.invars]
    return tuple(batch) == ((0,), (0,)) and all(len(axes) == 1 for axes in contracted) and ranks == [3, 3]


def _product(eqn, left, right) -> _Product:
    contracted, _ = eqn.params["dimension_numbers"]
    options = {name: eqn.params[name] for name in ("precision", "preferred_element_type")}
    return _Product(left, right, (contracted[0][0], contracted[1][0]), options)


def _is_tiny(product: _Product) -> bool:
    tasks, rows, left = product.left.shape
    return (
        product.summed == (1, 1)
        and rows <= _FEW_ROWS
        and left * product.right.shape[2] <= _SMALL_RESULT
        and tasks >= _MANY_TASKS
        and product.left.dtype == product.right.dtype == product.options["preferred_element_type"]
    )


def _keeps_tasks_first(eqn) -> bool:
    (out,) = eqn.outvars
    if eqn.primitive.name == "transpose":
        return eqn.params["permutation"][0] == 0
    return all(isinstance(var, Literal) or var.aval.shape[:1] == out.aval.shape[:1] for var in eqn.invars)


def _put_off(eqn, left, right) -> list[_Sum]:
    return [_Sum(((_product(eqn, left, right), ()),))]


def _parts(value) -> tuple:
    return value.parts if isinstance(value, _Sum) else ((value, ()),)


def _add(eqn, left, right) -> list[_Sum]:
    del eqn
    return [_Sum(_parts(left) + _parts(right))]


def _and_then(value, do: Callable[[jax.Array], jax.Array]) -> list[_Sum]:
    return [_Sum(tuple((part, (*before, do)) for part, before in _parts(value)))]


def _transpose(eqn, value) -> list[_Sum]:
    order = [axis - 1 for axis in eqn.params["permutation"][1:]]
    return _and_then(value, lambda summed: jnp.transpose(summed, order))


def _reshape(eqn, value) -> list[_Sum]:
    return _and_then(value, lambda summed: jnp.reshape(summed, eqn.params["new_sizes"][1:]))


_ADDING = {"add": _add, "add_any": _add}
_LINEAR = {**_ADDING, "transpose": _transpose, "reshape": _reshape}


def _sum_over_tasks(value) -> list[jax.Array]:
    parts = []
    for part, afterwards in _parts(value):
        summed = part.sum_over_tasks() if isinstance(part, _Product) else jnp.sum(part, axis=0)
        parts.append(reduce(lambda found, do: do(found), afterwards, summed))
    return [reduce(jnp.add, parts)]


def _add_up(eqn, left, right) -> list[jax.Array]:
    del eqn
    arrays, products = [], []
    for part, _ in _parts(left) + _parts(right):
        (products if isinstance(part, _Product) else arrays).append(part)
    while products:
        first = products.pop(0)
        alike = [other for other in products if _is_joinable(first, other)]
        products = [other for other in products if not any(other is each for each in alike)]
        arrays.append(_joined([first, *alike]).compute())
    return [reduce(jnp.add, arrays)]


def _is_joinable(first: _Product, second: _Product) -> bool:
    """Whether two products of the same shape are better done as one: their factors copied is less than a result."""
    rows = first.left.shape[first.summed[0]]
    columns = (first.left.shape[3 - first.summed[0]], first.right.shape[3 - first.summed[1]])
    return (
        first.left.shape == second.left.shape
        and first.right.shape == second.right.shape
        and first.summed == second.summed
        and first.options == second.options
        and rows * sum(columns) <= columns[0] * columns[1]
    )


def _joined(products: Sequence[_Product]) -> _Product:
    first = products[0]
    if len(products) == 1:
        return first
    left = jnp.concatenate([each.left for each in products], axis=first.summed[0])
    right = jnp.concatenate([each.right for each in products], axis=first.summed[1])
    return first._replace(left=left, right=right)


def _scan(eqn, *operands) -> list[Any]:
    body = eqn.params["jaxpr"]
    fused = jax.make_jaxpr(lambda *leaves: _fused(body, leaves))(*body.in_avals)
    return eqn.primitive.bind(*operands, **{**eqn.params, "jaxpr": fused})
