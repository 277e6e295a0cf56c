"""Environments to learn to act in, as pure functions that are scanned and vectorised."""

from jaxmeta.environments.half_cheetah import half_cheetah
from jaxmeta.environments.navigation import navigation
from jaxmeta.environments.tabular import Tables, bandits, tabular

__all__ = ["Tables", "bandits", "half_cheetah", "navigation", "tabular"]
