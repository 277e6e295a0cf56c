"""Meta-learners and the baselines they are judged against, each as five pure functions of one task."""

from jaxmeta.algorithms.cavia import cavia
from jaxmeta.algorithms.gates import Part
from jaxmeta.algorithms.imaml import imaml
from jaxmeta.algorithms.linear_head import linear_head
from jaxmeta.algorithms.logistic import logistic
from jaxmeta.algorithms.maml import LearnedRates, maml
from jaxmeta.algorithms.matching_network import matching_network
from jaxmeta.algorithms.meta_curvature import meta_curvature
from jaxmeta.algorithms.meta_network import meta_network
from jaxmeta.algorithms.ngram_memory import ngram_memory
from jaxmeta.algorithms.per_step import per_step
from jaxmeta.algorithms.proto_maml import proto_maml
from jaxmeta.algorithms.protonet import protonet
from jaxmeta.algorithms.relation_network import relation_network
from jaxmeta.algorithms.reptile import reptile
from jaxmeta.algorithms.ridge import ridge
from jaxmeta.algorithms.ridge_alignment import ridge_alignment
from jaxmeta.algorithms.source_replay import source_replay
from jaxmeta.algorithms.target_only import target_only
from jaxmeta.algorithms.transductive_protonet import transductive_protonet

__all__ = [
    "LearnedRates",
    "Part",
    "cavia",
    "imaml",
    "linear_head",
    "logistic",
    "maml",
    "matching_network",
    "meta_curvature",
    "meta_network",
    "ngram_memory",
    "per_step",
    "proto_maml",
    "protonet",
    "relation_network",
    "reptile",
    "ridge",
    "ridge_alignment",
    "source_replay",
    "target_only",
    "transductive_protonet",
]
