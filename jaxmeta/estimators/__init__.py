"""Outer gradients: how the meta-parameters' gradient is estimated from a batch of tasks."""

from jaxmeta.estimators.backprop import backprop
from jaxmeta.estimators.displacement import displacement
from jaxmeta.estimators.pooled import pooled

__all__ = ["backprop", "displacement", "pooled"]
