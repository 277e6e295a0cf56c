"""Outer gradients: how the meta-parameters' gradient is estimated from a batch of tasks."""

from jaxmeta.core.solvers import conjugate_gradient, neumann
from jaxmeta.estimators.backprop import backprop
from jaxmeta.estimators.displacement import displacement
from jaxmeta.estimators.evolution import evolution
from jaxmeta.estimators.implicit import implicit
from jaxmeta.estimators.in_turn import in_turn
from jaxmeta.estimators.multistep import multistep
from jaxmeta.estimators.persistent_evolution import persistent_evolution
from jaxmeta.estimators.pooled import pooled
from jaxmeta.estimators.together import together
from jaxmeta.estimators.truncated import truncated_backprop

__all__ = [
    "backprop",
    "conjugate_gradient",
    "displacement",
    "evolution",
    "implicit",
    "in_turn",
    "multistep",
    "neumann",
    "persistent_evolution",
    "pooled",
    "together",
    "truncated_backprop",
]
