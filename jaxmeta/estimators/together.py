"""Several estimators at once, each on tasks of its own."""

import jax

from jaxmeta.core.checks import check_positive
from jaxmeta.core.trees import leading_size
from jaxmeta.core.types import GradientEstimator


def together(*estimators: GradientEstimator) -> GradientEstimator:
    """The mean of the gradients of several estimators, the tasks of a batch dealt out among them in equal shares.

    For one tree of meta-parameters that has to serve models of different shapes: an estimator for each.

    Args:
      *estimators: all have the same meta-parameters; as many tasks go to each, the first ones to the first.

    Returns:
      An estimator whose state holds those of all, and whose metrics are the means of those that all report.

    Raises:
      ValueError: if there is no estimator; when it runs, if their number does not divide that of the tasks.

    Example:
      >>> children = [jm.learned_optimizer(rule, jm.models.mlp((width,), 12), objective) for width in (8, 32)]
      >>> jm.together(*(jm.backprop(child, num_steps=20) for child in children))
    """
    check_positive("estimators", len(estimators))

    def dealt(key, episodes):
        num_tasks, count = leading_size(episodes), len(estimators)
        if num_tasks % count:
            raise ValueError(f"`together` deals tasks out in equal shares, got {num_tasks} for {count} estimators")
        share = num_tasks // count
        shares = [jax.tree.map(lambda leaf, n=n: leaf[n * share : (n + 1) * share], episodes) for n in range(count)]
        return zip(estimators, jax.random.split(key, count), shares, strict=True)

    def init(key, meta_params, episodes):
        return tuple(one.init(own, meta_params, share) for one, own, share in dealt(key, episodes))

    def estimate(key, meta_params, states, episodes):
        parts = list(dealt(key, episodes))
        found = [
            one.estimate(own, meta_params, state, share) for (one, own, share), state in zip(parts, states, strict=True)
        ]
        gradients, states, metrics = zip(*found, strict=True)
        common = sorted(set.intersection(*map(set, metrics)))
        mean = lambda *leaves: sum(leaves[1:], leaves[0]) / len(leaves)  # noqa: E731
        kept = [{name: of[name] for name in common} for of in metrics]
        return jax.tree.map(mean, *gradients), states, jax.tree.map(mean, *kept)

    return GradientEstimator(init, estimate)
