"""Inner-gradient strategies: how the gradient of the inner loss is taken, and how *it* is differentiated.

A strategy turns a loss `(params, *args) -> (scalar, aux)` into `(params, *args) -> ((scalar, aux), gradient)`. All
agree in value. They differ in what the outer derivative costs:

    reverse                reverse-over-reverse: stores every intermediate of every inner backward pass
    forward_over_reverse   the same derivative from one forward-mode product; stores the inner gradient's inputs only
    linearized             that product, half of it done in advance: less arithmetic, for the memory of `reverse`
    first_order            no derivative through the inner gradient (FOMAML, Finn et al. 2017, section 5.2)

`aux` is for reporting, and for what a stateful model hands from call to call: no strategy lets a gradient flow through
it.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from jaxmeta.core.hoist import opened
from jaxmeta.core.select import merge
from jaxmeta.core.trees import stop_gradient, zeros_of

INNER_GRADIENT = "inner_gradient"  # the name under which memory policies find it

Loss = Callable[..., tuple[jax.Array, Any]]
InnerGradient = Callable[..., tuple[tuple[jax.Array, Any], Any]]
Strategy = Callable[[Loss], InnerGradient]

# What jax says of a function that can be differentiated once only: a kernel of a library, a callback.
_NO_DERIVATIVE = ("ifferentiation rule", "do not support JVP", "forward-mode", "ifferentiable primitive")
_SENTENCE = "the inner loss cannot be differentiated twice"


@contextlib.contextmanager
def naming_the_switch() -> Iterator[None]:
    """Says in a sentence that a loss has no second derivative, and what to do, where jax shows a trace of a kernel.

    Raises:
      TypeError: something in the loss cannot be differentiated twice.
    """
    try:
        yield
    except (NotImplementedError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        # What a strategy has said already, the estimator around it does not say again.
        if reason.startswith(_SENTENCE) or not any(known in reason for known in _NO_DERIVATIVE):
            raise
        raise TypeError(
            f"{_SENTENCE} ({reason.rstrip('.')}): switch its fused kernel off "
            '(`jax.nn.dot_product_attention(..., implementation="xla")`), or use `gradient=jm.first_order`'
        ) from error


def reverse(loss: Loss) -> InnerGradient:
    """Plain `jax.value_and_grad`: exact to any order, dear in memory. The reference for the others."""
    inner = jax.value_and_grad(_reporting_aux(loss), has_aux=True)
    return lambda params, *args: _named(inner(params, *args))


def first_order(loss: Loss) -> InnerGradient:
    """The gradient as a constant: second derivatives are dropped on purpose."""
    inner = jax.value_and_grad(_reporting_aux(loss), has_aux=True)

    def value_and_grad(params, *args):
        # Cut at the entrance too, so that a kernel that can be differentiated once only is not differentiated twice.
        return _named(stop_gradient(inner(*stop_gradient((params, *args)))))

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
    return _mixed_mode(loss, _LATER)


def linearized(loss: Loss) -> InnerGradient:
    """The product of `forward_over_reverse`, with all that does not depend on its direction done in advance.

    The gradient is linearised where it is computed, and the backward pass applies the stored linear map. Nothing is
    computed twice, and every intermediate is kept, as `reverse` keeps them: for small models, or where memory is free.
    A memory policy that recomputes takes its advantage away.
    """
    return _mixed_mode(loss, _IN_ADVANCE)


class _Product(NamedTuple):
    """When the second derivative's product is computed: a forward and a backward rule."""

    forward: Callable[..., Any]  # (loss, params, moving, still) -> ((value, aux), gradient), what to save
    backward: Callable[..., Any]  # (loss, saved, still, value's cotangent or None, direction) -> cotangents


def _mixed_mode(loss: Loss, product: _Product) -> InnerGradient:
    loss = _reporting_aux(loss)

    def value_and_grad(params, *args):
        # What the loss reads (its arguments, what it closes over) becomes an argument, and what is dear and does not
        # depend on the parameters is computed here, where an enclosing loop can see that it is constant.
        found = opened(lambda params, args: loss(params, *args), params, args)
        out_tree = jax.tree.structure(found.shapes)

        def whole_loss(params, rest):
            return jax.tree.unflatten(out_tree, found.run(rest, *jax.tree.leaves(params)))

        @jax.custom_vjp
        def inner(params, rest):
            return jax.value_and_grad(whole_loss, has_aux=True)(params, rest)

        def forward(params, rest):
            # Only what somebody differentiates moves: the data, as a rule, do not.
            moving = [leaf.value if leaf.perturbed and _is_floating(leaf.value) else None for leaf in rest]
            still = [leaf.value if kept is None else None for leaf, kept in zip(rest, moving, strict=True)]
            params = jax.tree.map(lambda leaf: leaf.value, params, is_leaf=_is_primal)
            found, saved = product.forward(whole_loss, params, moving, still)
            return found, (saved, still)

        def backward(saved, cotangent):
            (value_cotangent, _), direction = cotangent
            saved, still = saved
            direction = jax.tree.map(_instantiated, direction, is_leaf=_is_zero)
            # Left out where nobody differentiates the loss itself: its gradient would be computed for nothing.
            value_cotangent = None if _is_zero(value_cotangent) else value_cotangent
            params, moving = product.backward(whole_loss, saved, still, value_cotangent, direction)
            return params, moving  # None for what stands still: jax takes it as no cotangent

        inner.defvjp(forward, backward, symbolic_zeros=True)
        return _named(inner(params, found.constants))

    return value_and_grad


def _gradients(loss: Loss, still) -> Callable[..., Any]:
    """`(params, moving) -> ((value, aux), (d loss / d params, d loss / d moving))`."""
    return jax.value_and_grad(lambda params, moving: loss(params, merge(moving, still)), argnums=(0, 1), has_aux=True)


def _forward_later(loss, params, moving, still):
    return jax.value_and_grad(loss, has_aux=True)(params, merge(moving, still)), (params, moving)


def _backward_later(loss, saved, still, value_cotangent, direction):
    params, moving = saved
    gradients = _gradients(loss, still)
    with naming_the_switch():
        gradient, product = jax.jvp(lambda params: gradients(params, moving)[1], (params,), (direction,))
    return _plus_value(gradient, value_cotangent, product)


def _forward_in_advance(loss, params, moving, still):
    def gradients_first(params):
        value_and_aux, gradients = _gradients(loss, still)(params, moving)
        return gradients, value_and_aux

    with naming_the_switch():
        gradients, linear, value_and_aux = jax.linearize(gradients_first, params, has_aux=True)
    return (value_and_aux, gradients[0]), (gradients, linear)


def _backward_in_advance(loss, saved, still, value_cotangent, direction):
    del loss, still
    gradients, linear = saved
    return _plus_value(gradients, value_cotangent, linear(direction))


def _plus_value(gradient, value_cotangent, product):
    if value_cotangent is None:
        return product
    return jax.tree.map(lambda g, p: value_cotangent.astype(g.dtype) * g + p, gradient, product)


_LATER = _Product(_forward_later, _backward_later)
_IN_ADVANCE = _Product(_forward_in_advance, _backward_in_advance)


def _reporting_aux(loss: Loss) -> Loss:
    def wrapped(params, *args):
        value, aux = loss(params, *args)
        return value, stop_gradient(aux)

    return wrapped


def _named(found):
    value_and_aux, gradient = found
    return value_and_aux, jax.tree.map(lambda leaf: checkpoint_name(leaf, INNER_GRADIENT), gradient)


def _is_floating(leaf) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _is_primal(leaf) -> bool:
    return isinstance(leaf, CustomVJPPrimal)


def _is_zero(leaf) -> bool:
    return isinstance(leaf, SymbolicZero)


def _instantiated(leaf):
    return zeros_of(leaf.aval, leaf.dtype) if _is_zero(leaf) else leaf
