"""Outer gradients: how the meta-parameters' gradient is estimated from a batch of tasks."""

from jaxmeta.estimators.backprop import backprop
from jaxmeta.estimators.displacement import displacement
from jaxmeta.estimators.evolution import evolution
from jaxmeta.estimators.implicit import conjugate_gradient, implicit, neumann
from jaxmeta.estimators.in_turn import in_turn
from jaxmeta.estimators.multistep import multistep
from jaxmeta.estimators.pooled import pooled

__all__ = [
    "backprop",
    "conjugate_gradient",
    "displacement",
    "evolution",
    "implicit",
    "in_turn",
    "multistep",
    "neumann",
    "pooled",
]
