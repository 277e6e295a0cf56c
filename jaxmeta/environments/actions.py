"""What can be done in an environment, as distributions that a policy's outputs describe."""

import math

import jax
import jax.numpy as jnp

from jaxmeta.core.types import Actions


def gaussian(size: int) -> Actions:
    """Vectors of `size` numbers, independent and normal: outputs are `{"mean": [..., A], "log_std": [..., A]}`."""

    def draw(key, outputs):
        mean = outputs["mean"]
        return mean + jnp.exp(outputs["log_std"]) * jax.random.normal(key, mean.shape, mean.dtype)

    def log_prob(outputs, actions):
        z = (actions - outputs["mean"]) * jnp.exp(-outputs["log_std"])
        return -jnp.sum(0.5 * jnp.square(z) + outputs["log_std"] + 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(outputs):
        return jnp.sum(outputs["log_std"] + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    return Actions(draw, log_prob, entropy, size, lambda actions: actions, discrete=False)


def categorical(size: int) -> Actions:
    """One of `size` actions, a number from zero: outputs are logits `[..., A]`."""

    def draw(key, logits):
        return jax.random.categorical(key, logits).astype(jnp.int32)

    def log_prob(logits, actions):
        return jnp.take_along_axis(jax.nn.log_softmax(logits), actions[..., None], axis=-1)[..., 0]

    def entropy(logits):
        log_probs = jax.nn.log_softmax(logits)
        return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)

    return Actions(draw, log_prob, entropy, size, lambda actions: jax.nn.one_hot(actions, size), discrete=True)
