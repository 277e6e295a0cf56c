"""Relation networks (Sung et al. 2018, arXiv 1711.06025): how like two things are is learned too."""

import jax
import jax.numpy as jnp

from jaxmeta.algorithms.features import features_of, without_absent
from jaxmeta.algorithms.protonet import Prototypes, protonet
from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import Episode, MetaAlgorithm, Model, Objective


def relation_network(model: Model, objective: Objective, *, num_classes: int, width: int = 64) -> MetaAlgorithm:
    """Compares class means and examples by a small network that is meta-learned with the encoder; `num_steps=0`.

    The logit of class `c` is `r([mean_c, f(x)])`, where `r` has two hidden layers and one output, the same for every
    class. The paper compares maps of convolutions by convolutions and sums the shots of a class; this compares vectors,
    so that it fits any encoder, and takes their mean. The paper fits scores to zero and one by squared error; this is
    trained by whatever the objective says.

    Args:
      model: its `features` are read (or its outputs where it names none).
      objective: classification.
      num_classes: C.
      width: of the hidden layers.

    Raises:
      ValueError: if `num_classes` or `width` is not positive.
    """
    check_positive("width", width)
    features = features_of(model)
    of_means = protonet(model, objective, num_classes=num_classes)

    def init(key, episode: Episode):
        model_key, *keys = jax.random.split(key, 4)
        params = model.init(model_key, episode.support["inputs"])
        size = jax.eval_shape(features, params, episode.support["inputs"]).shape[-1]
        dtype = jax.tree.leaves(params)[0].dtype
        drawn = jax.nn.initializers.he_normal()
        relation = {
            "first": {"kernel": drawn(keys[0], (2 * size, width), dtype), "bias": jnp.zeros((width,), dtype)},
            "second": {"kernel": drawn(keys[1], (width, width), dtype), "bias": jnp.zeros((width,), dtype)},
            # A bias here would be added to every logit and change no probability.
            "score": {"kernel": drawn(keys[2], (width, 1), dtype)},
        }
        return {"params": params, "relation": relation}

    def loss(key, meta_params, state, query):
        del key
        return objective.loss(predict(meta_params, state, query["inputs"]), query)

    def predict(meta_params, state: Prototypes, inputs):
        embedded, relation = features(meta_params["params"], inputs), meta_params["relation"]
        of_mean, of_example = jnp.split(relation["first"]["kernel"], 2)
        # The first layer of a pair is a sum of two, so that the pairs themselves [N, C, 2 D] are never stored.
        pairs = (state.means @ of_mean)[None] + (embedded @ of_example)[:, None]  # [N, C, width]
        hidden = jax.nn.relu(pairs + relation["first"]["bias"][None, None])
        hidden = jax.nn.relu(hidden @ relation["second"]["kernel"] + relation["second"]["bias"][None, None])
        return without_absent((hidden @ relation["score"]["kernel"])[..., 0], state.present)

    return MetaAlgorithm(init, of_means.begin, of_means.step, loss, predict)
