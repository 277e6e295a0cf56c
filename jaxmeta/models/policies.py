"""Policies: what a network says of an observation, as a distribution over actions."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import Environment, Model
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


class RecurrentPolicy(nn.Module):
    """A GRU that reads what was seen, done and earned, and answers with a distribution and a predicted return.

    Attributes:
      width: M, of its memory.
      actions: A, the numbers in an action, or how many discrete ones there are.
      discrete: whether outputs are logits, or "mean" and "log_std".
      param_dtype: of parameters and arithmetic.
    """

    width: int
    actions: int
    discrete: bool
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Returns "memory" `[N, M]`, "outputs" and "value" `[N]`; a memory of None is one of nothing."""
        percept, kinds = inputs["percept"], {"dtype": self.param_dtype, "param_dtype": self.param_dtype}
        told = [percept.observation, percept.action, percept.reward[:, None], percept.first[:, None]]
        seen = jnp.concatenate([leaf.astype(self.param_dtype) for leaf in told], axis=-1)
        memory = inputs["memory"]
        memory = jnp.zeros((len(seen), self.width), self.param_dtype) if memory is None else memory
        memory, hidden = nn.GRUCell(self.width, name="memory", **kinds)(memory, seen)
        outputs: Any = nn.Dense(self.actions, name="head", kernel_init=_SMALL, **kinds)(hidden)
        if not self.discrete:
            log_std = self.param("log_std", nn.initializers.zeros, (self.actions,), self.param_dtype)
            outputs = {"mean": outputs, "log_std": jnp.broadcast_to(log_std, outputs.shape)}
        value = nn.Dense(1, name="critic", kernel_init=_SMALL, **kinds)(hidden)[:, 0]
        return {"memory": memory, "outputs": outputs, "value": value}


_SMALL = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")


def recurrent_policy(width: int, environment: Environment, **options: Any) -> Model:
    """Returns a `RecurrentPolicy` for an environment as a `Model`; its attributes are the options.

    Raises:
      ValueError: if `width` is not positive.
    """
    check_positive("width", width)
    return linen(RecurrentPolicy(width, environment.actions.size, environment.actions.discrete, **options))
