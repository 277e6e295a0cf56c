"""What a task asks of a model's outputs: a loss to adapt by, and exact scores over many batches."""

from jaxmeta.objectives.classification import classification
from jaxmeta.objectives.edit_distance import edit_distance
from jaxmeta.objectives.recognition import ctc, greedy, recognition
from jaxmeta.objectives.regression import regression

__all__ = ["classification", "ctc", "edit_distance", "greedy", "recognition", "regression"]
