"""The classical baseline of text classification: character n-grams and logistic regression, on the shots alone."""

import numpy as np

from jaxmeta.config.tasks import TextTasks
from jaxmeta.core.types import ArrayTree, Objective


def tfidf_counts(tasks: TextTasks, objective: Objective, language: str, shots: int, draw: int) -> ArrayTree:
    """Fits scikit-learn's TF-IDF of character 1- to 4-grams and logistic regression to the support of one problem.

    Returns:
      What the objective counts of its log-probabilities on the query.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    support_texts, support_labels, query_texts, query = tasks.texts(language, shots=shots, draw=draw)
    model = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True),
        LogisticRegression(C=10.0, max_iter=1000),
    )
    model.fit(support_texts, support_labels)
    logits = np.full((len(query_texts), len(tasks.corpus.labels)), -1e9, np.float32)
    logits[:, model[-1].classes_] = model.predict_log_proba(query_texts)
    return objective.counts(logits, query)
