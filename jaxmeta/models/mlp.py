"""A multilayer perceptron."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import Model
from jaxmeta.models.adapters import linen


class MLP(nn.Module):
    """Reads `[N, ...]`, flattened and cast to `dtype`, and answers `[N, outputs]`.

    `features` gives the last hidden layer, `[N, hidden[-1]]`.

    Attributes:
      hidden: widths of the hidden layers; with none of them it is a linear model and `features` are the
        inputs.
      outputs: width of the last layer, named "head".
      activation: after each hidden layer.
      dtype: of the arithmetic and of the outputs; None means `param_dtype`.
      param_dtype: of the parameters.
    """

    hidden: tuple[int, ...]
    outputs: int
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        """Checks the sizes."""
        for width in self.hidden:
            check_positive("hidden", width)
        check_positive("outputs", self.outputs)
        super().__post_init__()

    def setup(self):
        """Names the layers "layer_0", ..., "head"."""
        dense = {"dtype": self._compute_dtype(), "param_dtype": self.param_dtype}
        self.layer = [nn.Dense(width, **dense) for width in self.hidden]
        self.head = nn.Dense(self.outputs, **dense)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Returns `[N, outputs]`."""
        return self.head(self.features(inputs))

    def features(self, inputs: jax.Array) -> jax.Array:
        """Returns the last hidden layer, `[N, hidden[-1]]`."""
        inputs = jnp.asarray(inputs)
        x = inputs.reshape(inputs.shape[0], math.prod(inputs.shape[1:])).astype(self._compute_dtype())
        for layer in self.layer:
            x = self.activation(layer(x))
        return x

    def _compute_dtype(self):
        return self.param_dtype if self.dtype is None else self.dtype


def mlp(hidden: tuple[int, ...], outputs: int, **options: Any) -> Model:
    """Returns an `MLP` as a `Model`; its attributes are the options.

    Example:
      model = mlp((40, 40), 1)  # the sinusoid regressor of Finn et al. 2017
    """
    return linen(MLP(tuple(hidden), outputs, **options))
