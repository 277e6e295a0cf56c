"""What a task asks of a model's outputs: a loss to adapt by, and exact scores over many batches."""

from jaxmeta.objectives.classification import classification
from jaxmeta.objectives.generation import generation
from jaxmeta.objectives.regression import regression
from jaxmeta.objectives.translation import translation

__all__ = ["classification", "generation", "regression", "translation"]
