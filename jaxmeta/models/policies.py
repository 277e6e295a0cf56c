"""Policies: what a network says of an observation, as a distribution over actions."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import Model
from jaxmeta.models.adapters import linen
from jaxmeta.models.mlp import MLP


class GaussianPolicy(MLP):
    """A perceptron whose outputs are the means of actions; how far they spread is learned, and the same everywhere.

    Attributes:
      spread: the standard deviation at the start.
    """

    spread: float = 1.0

    def setup(self):
        """Adds "log_std" to the layers."""
        super().setup()
        start = nn.initializers.constant(math.log(self.spread))
        self.log_std = self.param("log_std", start, (self.outputs,), self.param_dtype)

    def __call__(self, inputs: jax.Array) -> dict[str, jax.Array]:
        """Returns "mean" and "log_std", `[N, outputs]` each."""
        mean = self.head(self.features(inputs))
        return {"mean": mean, "log_std": jnp.broadcast_to(self.log_std.astype(mean.dtype), mean.shape)}


def gaussian_policy(hidden: tuple[int, ...], actions: int, **options: Any) -> Model:
    """Returns a `GaussianPolicy` as a `Model`; its attributes are the options.

    Raises:
      ValueError: a width, `actions` or `spread` is not positive.
    """
    check_positive("spread", options.get("spread", 1.0))
    return linen(GaussianPolicy(tuple(hidden), actions, **options))
