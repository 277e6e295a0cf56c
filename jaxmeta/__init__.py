"""jaxmeta: meta-learning in JAX. Models that learn a new task, such as a new language, from a few examples.

    import jaxmeta as jm

    algorithm = jm.maml(jm.models.linen(my_module), jm.objectives.classification(5), optax.sgd(0.1))
    learner = jm.build_learner(algorithm, jm.backprop(algorithm, num_steps=5), optax.adam(1e-3))

Everything named here is a pure function or a plain type. The command line, data and training loops are in
`jaxmeta.cli`, `jaxmeta.config`, `jaxmeta.data` and `jaxmeta.run`, and are not imported until asked for.
"""

import importlib
from typing import TYPE_CHECKING

from jaxmeta.algorithms import (
    LearnedRates,
    Part,
    UpdateRule,
    as_optax,
    cavia,
    imaml,
    knowledge_transfer,
    learned_optimizer,
    linear_head,
    logistic,
    lstm_rule,
    maml,
    matching_network,
    meta_curvature,
    meta_network,
    mlp_rule,
    ngram_memory,
    per_step,
    policy_gradient,
    proto_maml,
    protonet,
    relation_network,
    reptile,
    ridge,
    ridge_alignment,
    rl2,
    source_replay,
    target_only,
    transductive_protonet,
)
from jaxmeta.core.adapt import adapt
from jaxmeta.core.batches import pad_batch, stack_episodes
from jaxmeta.core.checks import InputError
from jaxmeta.core.gradients import first_order, forward_over_reverse, linearized, reverse
from jaxmeta.core.learner import build_learner
from jaxmeta.core.rollouts import playing
from jaxmeta.core.select import everything, excluding, matching
from jaxmeta.core.types import (
    Episode,
    GradientEstimator,
    LearnerState,
    MetaAlgorithm,
    MetaLearner,
    Model,
    Objective,
    TaskDistribution,
)
from jaxmeta.estimators import (
    backprop,
    conjugate_gradient,
    displacement,
    evolution,
    implicit,
    in_turn,
    multistep,
    neumann,
    persistent_evolution,
    pooled,
    together,
    truncated_backprop,
)

if TYPE_CHECKING:
    from jaxmeta import environments, models, objectives

__version__ = "0.1.0"

__all__ = [
    "Episode",
    "GradientEstimator",
    "InputError",
    "LearnedRates",
    "LearnerState",
    "MetaAlgorithm",
    "MetaLearner",
    "Model",
    "Objective",
    "Part",
    "TaskDistribution",
    "UpdateRule",
    "adapt",
    "as_optax",
    "backprop",
    "build_learner",
    "cavia",
    "conjugate_gradient",
    "displacement",
    "environments",
    "everything",
    "evolution",
    "excluding",
    "first_order",
    "forward_over_reverse",
    "imaml",
    "implicit",
    "in_turn",
    "knowledge_transfer",
    "learned_optimizer",
    "linear_head",
    "linearized",
    "logistic",
    "lstm_rule",
    "maml",
    "matching",
    "matching_network",
    "meta_curvature",
    "meta_network",
    "mlp_rule",
    "models",
    "multistep",
    "neumann",
    "ngram_memory",
    "objectives",
    "pad_batch",
    "per_step",
    "persistent_evolution",
    "playing",
    "policy_gradient",
    "pooled",
    "proto_maml",
    "protonet",
    "relation_network",
    "reptile",
    "reverse",
    "ridge",
    "ridge_alignment",
    "rl2",
    "source_replay",
    "stack_episodes",
    "target_only",
    "together",
    "transductive_protonet",
    "truncated_backprop",
]


def __getattr__(name: str):
    # Flax is half of the time that importing everything takes; who brings another model never pays it.
    if name in ("environments", "models", "objectives"):
        return importlib.import_module(f"jaxmeta.{name}")
    raise AttributeError(f"module 'jaxmeta' has no attribute {name!r}")
