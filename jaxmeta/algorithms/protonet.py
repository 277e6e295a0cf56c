"""Prototypical networks (Snell et al. 2017, arXiv 1703.05175), with a learned temperature (Oreshkin et al. 2018)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.algorithms.features import closed_form, features_of, masked_one_hot, real_rows, scaled, without_absent
from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import Batch, MetaAlgorithm, Model, Objective


class Prototypes(NamedTuple):
    """The support in one vector for each class."""

    means: jax.Array  # [C, D]
    sizes: jax.Array  # [C], examples of each class in the support

    @property
    def present(self) -> jax.Array:
        """Says of which classes the support holds an example, `[C]` bool."""
        return self.sizes > 0

    def logits(self, embedded: jax.Array, log_scale: jax.Array) -> jax.Array:
        """Returns `-exp(log_scale) * |x - mean_c|^2 / D` of vectors `[N, D]`, as `[N, C]`."""
        # |a - b|^2 expanded, so that the [N, C, D] differences are never stored.
        distances = (
            jnp.sum(jnp.square(embedded), axis=-1)[:, None]
            - 2 * (embedded @ self.means.T)
            + jnp.sum(jnp.square(self.means), axis=-1)[None]
        )
        return without_absent(-jnp.exp(log_scale) / embedded.shape[-1] * distances, self.present)


def protonet(model: Model, objective: Objective, *, num_classes: int, initial_scale: float = 10.0) -> MetaAlgorithm:
    """Classifies by the nearest class mean of features; adaptation is one mean, so `num_steps=0`.

    The logits are `-exp(log_scale) * |f(x) - mean_c|^2 / D`.

    Args:
      model: its `features` are read (or its outputs where it names none).
      objective: classification.
      num_classes: C.
      initial_scale: where the scale starts.

    Raises:
      ValueError: if `num_classes` or `initial_scale` is not positive.
    """
    check_positive("num_classes", num_classes)
    check_positive("initial_scale", initial_scale)
    features = features_of(model)

    def begin(key, meta_params, support: Batch):
        del key
        embedded = real_rows(features(meta_params["params"], support["inputs"]), support)
        members = masked_one_hot(support, num_classes, embedded.dtype)
        sizes = members.sum(axis=0)
        means = (members.T @ embedded) / jnp.maximum(sizes, 1)[:, None]
        return Prototypes(means, sizes)

    def predict(meta_params, state: Prototypes, inputs):
        return state.logits(features(meta_params["params"], inputs), meta_params["log_scale"])

    return closed_form(objective, scaled(model, initial_scale), begin, predict)
