"""Prototypes that are refined by the examples they are asked about (soft k-means, Ren et al. 2018, arXiv 1803.00676).

What is asked has no labels, and yet says where the classes lie. The answers of one call therefore depend on each other:
scores are not comparable with those of inductive learners, which see one example at a time.
"""

import jax
import jax.numpy as jnp

from jaxmeta.algorithms.features import features_of
from jaxmeta.algorithms.protonet import Prototypes, protonet
from jaxmeta.core.checks import check_positive
from jaxmeta.core.masks import real_examples
from jaxmeta.core.types import Batch, MetaAlgorithm, Model, Objective


def transductive_protonet(
    model: Model, objective: Objective, *, num_classes: int, refinements: int = 1, initial_scale: float = 10.0
) -> MetaAlgorithm:
    """Classifies as `protonet`, by class means that the query has moved; `num_steps=0`.

    A refinement assigns each query example to the classes in the shares `z = softmax(logits)`, and takes the mean of
    each class anew over its support examples, of weight one, and all query examples, of weight `z`.

    Where the query comes in is `transduce`, which reads inputs and mask and no targets; `predict` of a state that it
    has not seen answers as `protonet` does.

    Args:
      model: its `features` are read (or its outputs where it names none).
      objective: classification.
      num_classes: C.
      refinements: steps of soft k-means; the paper takes one.
      initial_scale: where the scale starts.

    Raises:
      ValueError: if `num_classes`, `refinements` or `initial_scale` is not positive.
    """
    check_positive("refinements", refinements)
    features = features_of(model)
    inductive = protonet(model, objective, num_classes=num_classes, initial_scale=initial_scale)

    def refined(meta_params, state: Prototypes, embedded: jax.Array, query: Batch) -> Prototypes:
        real = real_examples(query, len(embedded))
        # Zero before the products, so that no NaN of a row of padding is in a derivative.
        embedded = jnp.where(real[:, None], embedded, jnp.zeros_like(embedded))
        now = state
        for _ in range(refinements):
            shares = (
                jax.nn.softmax(now.logits(embedded, meta_params["log_scale"])) * real.astype(embedded.dtype)[:, None]
            )
            weight = jnp.maximum(state.sizes + jnp.sum(shares, axis=0), 1)
            means = (state.means * state.sizes[:, None] + shares.T @ embedded) / weight[:, None]
            now = Prototypes(means, state.sizes)
        return now

    def transduce(meta_params, state: Prototypes, query: Batch):
        return refined(meta_params, state, features(meta_params["params"], query["inputs"]), query)

    def loss(key, meta_params, state: Prototypes, query: Batch):
        del key
        embedded = features(meta_params["params"], query["inputs"])  # once, for the means and for the answers
        logits = refined(meta_params, state, embedded, query).logits(embedded, meta_params["log_scale"])
        return objective.loss(logits, query)

    return inductive._replace(loss=loss, transduce=transduce)
