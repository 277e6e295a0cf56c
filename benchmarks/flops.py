"""How much arithmetic a computation is, read off its jaxpr.

The compiler's own estimate counts the body of a loop once, however often it runs; here it counts as often as it runs.
Products and convolutions are counted, each multiplication with its addition as two; the rest is cheap beside them.
"""

import math
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr


def count(closed: ClosedJaxpr) -> float:
    """Returns the floating-point operations of a computation, without those whose result nobody reads.

    A `while` loop counts once, since its length is not known; a `cond` counts as its dearest branch.
    """
    live, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return _of_jaxpr(live)


def _of_jaxpr(jaxpr: Jaxpr) -> float:
    return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(eqn: Any) -> float:
    name = eqn.primitive.name
    if name == "dot_general":
        return _of_product(eqn)
    if name == "conv_general_dilated":
        return _of_convolution(eqn)
    inner = [_of_jaxpr(jaxpr) for jaxpr in _jaxprs_in(eqn.params)]
    if name == "scan":
        return eqn.params["length"] * sum(inner)
    return max(inner, default=0) if name == "cond" else sum(inner)


def _of_product(eqn: Any) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return 2 * eqn.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _of_convolution(eqn: Any) -> float:
    kernel = eqn.invars[1].aval
    # A kernel holds the channels of its group only, so groups are accounted for. Places of a kernel that fall on
    # the zeros around or between the numbers are counted.
    outputs = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2 * eqn.outvars[0].aval.size * kernel.size / outputs


def _jaxprs_in(params: dict[str, Any]) -> list[Jaxpr]:
    items = [item for value in params.values() for item in (value if isinstance(value, tuple | list) else (value,))]
    return [
        item.jaxpr if isinstance(item, ClosedJaxpr) else item for item in items if isinstance(item, ClosedJaxpr | Jaxpr)
    ]
