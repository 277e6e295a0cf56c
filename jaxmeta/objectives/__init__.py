"""What a task asks of a model's outputs: a loss to adapt by, and exact scores over many batches."""

from jaxmeta.objectives.classification import classification
from jaxmeta.objectives.control import control
from jaxmeta.objectives.edit_distance import edit_distance
from jaxmeta.objectives.generation import generation
from jaxmeta.objectives.recognition import best_path, ctc, recognition
from jaxmeta.objectives.regression import regression
from jaxmeta.objectives.retrieval import CSLS, DIRECTIONS, retrieval, similarity_counts
from jaxmeta.objectives.scored_pair import scored_pair
from jaxmeta.objectives.span_qa import Spans, best_spans, span_qa
from jaxmeta.objectives.translation import translation

__all__ = [
    "CSLS",
    "DIRECTIONS",
    "Spans",
    "best_path",
    "best_spans",
    "classification",
    "control",
    "ctc",
    "edit_distance",
    "generation",
    "recognition",
    "regression",
    "retrieval",
    "scored_pair",
    "similarity_counts",
    "span_qa",
    "translation",
]
