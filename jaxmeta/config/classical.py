"""The classical baseline of text classification: character n-grams and logistic regression, on the shots alone."""

import functools
from collections.abc import Sequence

import numpy as np

from jaxmeta.config.tasks import TextTasks
from jaxmeta.core.types import ArrayTree, Objective
from jaxmeta.run.plan import Classical

TFIDF = "tfidf"
# The logit of a class that no shot shows: far enough for a probability of zero, and finite.
_UNSEEN = -1e9


def tfidf(tasks: TextTasks, objective: Objective) -> Classical:
    """Returns TF-IDF with logistic regression; how little the latter is regularised is for the dev languages to say."""
    return Classical(TFIDF, "C", (1.0, 10.0, 100.0, 1e3, 1e4), functools.partial(tfidf_counts, tasks, objective))


def tfidf_counts(
    tasks: TextTasks, objective: Objective, inverse_strength: float, language: str, shots: int, draw: int, split: str
) -> ArrayTree:
    """Fits scikit-learn's TF-IDF of character 1- to 4-grams and logistic regression to the support of one problem.

    Returns:
      What the objective counts of its log-probabilities on the query.
    """
    support_texts, support_labels, query_texts, query = tasks.texts(language, shots=shots, draw=draw, split=split)
    logits = np.full((len(query_texts), len(tasks.corpus.labels)), _UNSEEN, np.float32)
    seen = np.unique(support_labels)
    if len(seen) > 1:
        logits[:, seen] = _fitted(support_texts, support_labels, query_texts, inverse_strength)
    else:  # there is nothing to fit, and scikit-learn refuses to
        logits[:, seen] = 0.0
    return objective.counts(logits, query)


def _fitted(texts: Sequence[str], labels: np.ndarray, queries: Sequence[str], inverse_strength: float) -> np.ndarray:
    """Returns the log-probabilities of the queries, `[N, classes that occur]`, in the order of the labels."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True),
        LogisticRegression(C=inverse_strength, max_iter=1000),
    )
    return model.fit(texts, labels).predict_log_proba(queries)
