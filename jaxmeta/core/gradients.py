"""Inner-gradient strategies: how the gradient of the inner loss is taken, and how *it* is differentiated.

A strategy turns a loss `(params, *args) -> (scalar, aux)` into `(params, *args) -> ((scalar, aux), gradient)`. All
agree in value. They differ in what the outer derivative costs:

    reverse                reverse-over-reverse: stores every intermediate of every inner backward pass
    forward_over_reverse   the same derivative from one forward-mode product; stores the inner gradient's inputs only
    first_order            no derivative through the inner gradient (FOMAML, Finn et al. 2017, section 5.2)

`aux` is for reporting: no strategy lets a gradient flow through it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jaxmeta.core.select import merge
from jaxmeta.core.trees import stop_gradient

Loss = Callable[..., tuple[jax.Array, Any]]
InnerGradient = Callable[..., tuple[tuple[jax.Array, Any], Any]]
Strategy = Callable[[Loss], InnerGradient]


def _reporting_aux(loss: Loss) -> Loss:
    def wrapped(params, *args):
        value, aux = loss(params, *args)
        return value, stop_gradient(aux)

    return wrapped


def reverse(loss: Loss) -> InnerGradient:
    """Plain `jax.value_and_grad`: exact to any order, dear in memory. The reference for the others."""
    return jax.value_and_grad(_reporting_aux(loss), has_aux=True)


def first_order(loss: Loss) -> InnerGradient:
    """The gradient as a constant: second derivatives are dropped on purpose."""
    inner = jax.value_and_grad(_reporting_aux(loss), has_aux=True)

    def value_and_grad(params, *args):
        value, gradient = inner(params, *args)
        return value, stop_gradient(gradient)

    return value_and_grad


def forward_over_reverse(loss: Loss) -> InnerGradient:
    """The exact second derivative as one `jvp` of the gradient (mixed-mode; Kemaev et al. 2025, arXiv 2505.00793).

    For an inner gradient `g = d loss / d params` and a cotangent `u` of it, the symmetry of second derivatives gives

        u . dg/d(params, rest)  =  d/d(params, rest) (u . d loss/d params)  =  jvp of d loss/d(params, rest) along u,

    which yields the Hessian product and every mixed term (learned rates inside the loss, differentiable data, arrays
    that `loss` closes over) in one forward-mode pass. Closed-over arrays are hoisted into arguments, so they keep
    their gradients. Reverse mode only from outside, to second order: use `reverse` for more.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> inner = forward_over_reverse(lambda w: (jnp.sum(w**4), {}))
      >>> float(jax.grad(lambda w: inner(w)[1])(2.0))  # d/dw of 4 w^3
      48.0
    """
    loss = _reporting_aux(loss)

    def value_and_grad(params, *args):
        # Tracing to a jaxpr names everything the loss reads: its arguments, and what it closes over (`consts`).
        leaves, treedef = jax.tree.flatten((params, args))
        closed, shapes = jax.make_jaxpr(
            lambda *flat: loss(*_unpacked(jax.tree.unflatten(treedef, flat))), return_shape=True
        )(*leaves)
        out_tree = jax.tree.structure(shapes)
        hoisted = jaxpr_as_fun(ClosedJaxpr(_with_consts_as_inputs(closed), []))
        rest = (args, closed.consts)

        def pure_loss(params, rest):
            args, consts = rest
            flat = hoisted(*consts, *jax.tree.leaves((params, args)))
            return jax.tree.unflatten(out_tree, flat)

        @jax.custom_vjp
        def inner(params, rest):
            return jax.value_and_grad(pure_loss, has_aux=True)(params, rest)

        def forward(params, rest):
            params, rest = jax.tree.map(lambda primal: primal.value, (params, rest), is_leaf=_is_primal)
            return inner(params, rest), (params, rest)

        def backward(saved, cotangent):
            params, rest = saved
            (value_cotangent, _), direction = cotangent
            direction = jax.tree.map(_instantiated, direction, is_leaf=_is_zero)
            moving, still = _split_floating(rest)

            def gradients(params):
                scalar = lambda params, moving: pure_loss(params, merge(moving, still))[0]  # noqa: E731
                return jax.grad(scalar, argnums=(0, 1))(params, moving)

            gradient, product = jax.jvp(gradients, (params,), (direction,))
            if not _is_zero(value_cotangent):
                # Left out where nobody differentiates the loss itself: its gradient would be computed for nothing.
                product = jax.tree.map(lambda g, p: value_cotangent.astype(g.dtype) * g + p, gradient, product)
            return product[0], merge(product[1], jax.tree.map(_zero_cotangent, still))

        inner.defvjp(forward, backward, symbolic_zeros=True)
        return inner(params, rest)

    return value_and_grad


def _unpacked(packed):
    params, args = packed
    return (params, *args)


def _with_consts_as_inputs(closed):
    jaxpr = closed.jaxpr
    return jaxpr.replace(constvars=[], invars=[*jaxpr.constvars, *jaxpr.invars])


def _split_floating(tree):
    floating = lambda leaf: jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)  # noqa: E731
    moving = jax.tree.map(lambda leaf: leaf if floating(leaf) else None, tree)
    still = jax.tree.map(lambda leaf: None if floating(leaf) else leaf, tree)
    return moving, still


def _is_primal(leaf):
    return isinstance(leaf, CustomVJPPrimal)


def _is_zero(leaf):
    return isinstance(leaf, SymbolicZero)


def _instantiated(leaf):
    return jnp.zeros(leaf.shape, leaf.dtype) if _is_zero(leaf) else leaf


def _zero_cotangent(leaf):
    return np.zeros(jnp.shape(leaf), dtype=jax.dtypes.float0)
