"""Meta-learners and the baselines they are judged against, each as five pure functions of one task."""

from jaxmeta.algorithms.cavia import cavia
from jaxmeta.algorithms.imaml import imaml
from jaxmeta.algorithms.linear_head import linear_head
from jaxmeta.algorithms.maml import LearnedRates, maml
from jaxmeta.algorithms.meta_curvature import meta_curvature
from jaxmeta.algorithms.ngram_memory import ngram_memory
from jaxmeta.algorithms.per_step import per_step
from jaxmeta.algorithms.protonet import protonet
from jaxmeta.algorithms.reptile import reptile
from jaxmeta.algorithms.ridge import ridge
from jaxmeta.algorithms.ridge_alignment import ridge_alignment
from jaxmeta.algorithms.source_replay import source_replay
from jaxmeta.algorithms.target_only import target_only

__all__ = [
    "LearnedRates",
    "cavia",
    "imaml",
    "linear_head",
    "maml",
    "meta_curvature",
    "ngram_memory",
    "per_step",
    "protonet",
    "reptile",
    "ridge",
    "ridge_alignment",
    "source_replay",
    "target_only",
]
