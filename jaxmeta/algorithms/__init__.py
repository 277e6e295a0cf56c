"""Meta-learners and the baselines they are judged against, each as five pure functions of one task."""

from jaxmeta.algorithms.cavia import cavia
from jaxmeta.algorithms.gates import Part
from jaxmeta.algorithms.imaml import imaml
from jaxmeta.algorithms.learned_optimizer import learned_optimizer
from jaxmeta.algorithms.linear_head import linear_head
from jaxmeta.algorithms.logistic import logistic
from jaxmeta.algorithms.lstm_rule import lstm_rule
from jaxmeta.algorithms.maml import LearnedRates, maml
from jaxmeta.algorithms.matching_network import matching_network
from jaxmeta.algorithms.meta_curvature import meta_curvature
from jaxmeta.algorithms.meta_network import meta_network
from jaxmeta.algorithms.minibatches import on_minibatches
from jaxmeta.algorithms.mlp_rule import mlp_rule
from jaxmeta.algorithms.ngram_memory import ngram_memory
from jaxmeta.algorithms.per_step import per_step
from jaxmeta.algorithms.policy_gradient import policy_gradient
from jaxmeta.algorithms.proto_maml import proto_maml
from jaxmeta.algorithms.protonet import protonet
from jaxmeta.algorithms.relation_network import relation_network
from jaxmeta.algorithms.reptile import reptile
from jaxmeta.algorithms.ridge import ridge
from jaxmeta.algorithms.ridge_alignment import ridge_alignment
from jaxmeta.algorithms.rl2 import rl2
from jaxmeta.algorithms.source_replay import source_replay
from jaxmeta.algorithms.target_only import target_only
from jaxmeta.algorithms.transductive_protonet import transductive_protonet
from jaxmeta.algorithms.transfer import Unfreezing, distillation, feature_matching, knowledge_transfer, l2_sp
from jaxmeta.algorithms.update_rules import UpdateRule, as_optax

__all__ = [
    "LearnedRates",
    "Part",
    "Unfreezing",
    "UpdateRule",
    "as_optax",
    "cavia",
    "distillation",
    "feature_matching",
    "imaml",
    "knowledge_transfer",
    "l2_sp",
    "learned_optimizer",
    "linear_head",
    "logistic",
    "lstm_rule",
    "maml",
    "matching_network",
    "meta_curvature",
    "meta_network",
    "mlp_rule",
    "ngram_memory",
    "on_minibatches",
    "per_step",
    "policy_gradient",
    "proto_maml",
    "protonet",
    "relation_network",
    "reptile",
    "ridge",
    "ridge_alignment",
    "rl2",
    "source_replay",
    "target_only",
    "transductive_protonet",
]
