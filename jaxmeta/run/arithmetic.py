"""The arithmetic of a computation, counted before it is compiled."""

import math

from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from jaxmeta.core.hoist import jaxprs_in


def operations(closed: ClosedJaxpr) -> float:
    """Returns the floating-point operations of the products and convolutions whose result somebody reads.

    A multiplication and an addition are two operations. The body of a scan counts as often as it runs (the compiler's
    own analysis counts it once), that of a `while` once, since nobody knows how often it runs. Of branches the dearest
    one counts.
    """
    live, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return _of_jaxpr(live)


def _of_jaxpr(jaxpr: Jaxpr) -> float:
    return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(eqn) -> float:
    name = eqn.primitive.name
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * eqn.outvars[0].aval.size * _size(eqn.invars[0].aval.shape, contracted)
    if name == "conv_general_dilated":
        # Every number of the output is a product of all of the kernel that leads to its channel.
        kernel, numbers = eqn.invars[1].aval, eqn.params["dimension_numbers"]
        return 2.0 * eqn.outvars[0].aval.size * kernel.size / kernel.shape[numbers.rhs_spec[0]]
    inner = [_of_jaxpr(jaxpr) for jaxpr in jaxprs_in(eqn.params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (eqn.params["length"] if name == "scan" else 1)


def _size(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    return math.prod(shape[axis] for axis in axes)
