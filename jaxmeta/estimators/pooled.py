"""Joint training: no adaptation, one pooled loss."""

import jax

from jaxmeta.core.trees import joined
from jaxmeta.core.types import Episode, GradientEstimator, MetaAlgorithm
from jaxmeta.estimators.backprop import backprop


def pooled(algorithm: MetaAlgorithm) -> GradientEstimator:
    """The gradient of the mean loss over all examples of all tasks, support and query alike, with no inner step.

    This trains the multilingual baselines (and the warm start of any meta-learner): an algorithm whose `begin` copies
    the parameters, such as `maml`, is trained by it as one ordinary model of all tasks. So is a `meta_network` that is
    to generate without labels. An algorithm whose `begin` reads the support's targets would be trained to repeat them.
    """
    without_adaptation = backprop(algorithm, num_steps=0)

    def estimate(key, meta_params, state, episodes):
        # Joined along the examples, which come after the task axis.
        every = jax.vmap(joined)(episodes.support, episodes.query)
        return without_adaptation.estimate(key, meta_params, state, Episode(episodes.support, every))

    return GradientEstimator(without_adaptation.init, estimate)
