"""TF-IDF baselines that read source languages, on a toy whose answers are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxmeta import objectives
from jaxmeta.config.classical_text import tfidf_source, tfidf_source_and_shots

LABELS = ("bad", "good", "odd")
SOURCE = (["mala vita", "mala luna", "buna vita", "buna luna", "buna", "mala"], np.array([0, 0, 1, 1, 1, 0]))
# The new language shares one pair of words with the source, and has one of its own.
SHOTS = (["mala pez", "pez", "buna kot", "kot"], np.array([0, 0, 1, 1]))
QUERIES = ["mala", "buna", "pez", "kot", "luna mala", "vita buna"]
ANSWERS = np.array([0, 1, 0, 1, 0, 1], np.int32)


class Toy:
    corpus = SimpleNamespace(labels=LABELS)

    def texts(self, language, *, shots, draw, split, held_out=None):
        return *SHOTS, *self.queries(language, split)

    def queries(self, language, split):
        return QUERIES, {"inputs": np.zeros((6, 1)), "targets": ANSWERS}

    def source_texts(self):
        return SOURCE


@pytest.fixture(autouse=True)
def sklearn():
    return pytest.importorskip("sklearn")


def scores(classical, value):
    found = classical.counts(value, "new", 2, 0, "test")
    return objectives.classification(len(LABELS)).scores(found)


def test_the_source_is_fitted_as_scikit_learn_fits_it():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    for strength in (0.1, 10.0):
        model = LogisticRegression(C=strength).fit(vectorizer.fit_transform(SOURCE[0]), SOURCE[1])
        # Whatever the source has not seen is no feature of the one, and an unused one of the other but for the length.
        kept = [number for number, query in enumerate(QUERIES) if not set(query) & set("pezkot")]
        wanted = model.predict_log_proba(vectorizer.transform([QUERIES[number] for number in kept]))

        class Known(Toy):
            def queries(self, language, split, kept=kept):
                queries, query = super().queries(language, split)
                return [queries[k] for k in kept], {name: rows[kept] for name, rows in query.items()}

        found = tfidf_source(Known()).counts(strength, "new", 2, 0, "test")
        nll = -wanted[np.arange(len(kept)), ANSWERS[kept]].mean()
        np.testing.assert_allclose(float(found["nll"]) / int(found["n"]), nll, rtol=1e-4)


def test_each_knows_what_it_has_read():
    alone = scores(tfidf_source(Toy()), 10.0)
    assert alone["accuracy"] < 1  # never heard of two of the words
    both = tfidf_source_and_shots(Toy())
    found = {share: scores(both, share) for share in both.values}
    assert all(score["accuracy"] == 1 for score in found.values())
    # The more the source counts, the surer is what it knows.
    losses = [score["nll"] for score in found.values()]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < alone["nll"]


def test_a_class_without_a_row_is_never_answered():
    for classical in (tfidf_source(Toy()), tfidf_source_and_shots(Toy())):
        counts = classical.counts(classical.values[-1], "new", 2, 0, "test")
        assert np.asarray(counts["confusion"])[:, 2].sum() == 0
