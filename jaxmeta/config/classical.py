"""Baselines outside JAX: what counting characters comes to, by kind of task.

For classification it is TF-IDF with logistic regression, for retrieval the character n-grams that two sides share.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.config.tasks import TextTasks
from jaxmeta.core.batches import pad_batch
from jaxmeta.core.types import ArrayTree, Objective
from jaxmeta.objectives import classification, similarity_counts
from jaxmeta.run.classical_pairs import ngram_similarities
from jaxmeta.run.plan import Classical

# The logit of a class that no shot shows: far enough for a probability of zero, and finite.
_UNSEEN = -1e9


def tfidf(tasks: TextTasks) -> Classical:
    """Returns TF-IDF with logistic regression; how little the latter is regularised is for the dev languages to say."""
    objective = classification(len(tasks.corpus.labels))
    return Classical("tfidf", "C", (1.0, 10.0, 100.0, 1e3, 1e4), functools.partial(tfidf_counts, tasks, objective))


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


def ngram_overlap(tasks: PairTasks) -> Classical:
    """Returns retrieval by the character n-grams that two sides share; up to which length is for the dev languages.

    It needs no shots, and is the same for every draw of them.
    """
    counted = jax.jit(similarity_counts)

    @functools.cache
    def of_language(longest: float, language: str, split: str) -> ArrayTree:
        _, query = tasks.rows(language, shots=1, draw=0, split=split)
        sides = (tasks.table.texts(column, query) for column in tasks.table.schema.texts)
        size = tasks.config.evaluate.max_queries  # one size, one compilation
        similarities = np.zeros((size, size), np.float32)
        similarities[: len(query), : len(query)] = ngram_similarities(*sides, ngrams=(1, int(longest)))
        batch = pad_batch({"group": tasks.judged.batch(query)["group"]}, size)
        return jax.device_get(counted(similarities, batch))

    return Classical(
        "ngram_overlap", "longest_ngram", (2.0, 3.0, 4.0, 6.0),
        lambda value, language, shots, draw, split: of_language(value, language, split),
    )  # fmt: skip


CLASSICAL: dict[str, Callable[[Any], Classical]] = {"tfidf": tfidf, "ngram_overlap": ngram_overlap}
