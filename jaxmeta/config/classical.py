"""Baselines outside JAX: what counting characters comes to, by kind of task.

Some read the shots (TF-IDF with logistic regression, a regression of scores, an n-gram model), others need none (shared
n-grams, words around those of a question, the source itself).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import data
from jaxmeta.config.classical_speech import mean_spectra, template_cascade, word_templates
from jaxmeta.config.classical_text import tfidf, tfidf_source, tfidf_source_and_shots
from jaxmeta.config.image_tasks import ImageTasks
from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.config.readouts import answers_judged, class_counts, judge_of_texts, rank_counts, ranks_of
from jaxmeta.core.batches import pad_batch
from jaxmeta.core.types import ArrayTree
from jaxmeta.core.words import first_sentence
from jaxmeta.data import best_answers
from jaxmeta.models.romanization import respelled
from jaxmeta.objectives import best_spans, scored_pair, similarity_counts
from jaxmeta.run import classical_pairs
from jaxmeta.run.classical_images import pixel_regression
from jaxmeta.run.classical_span_regression import span_regression as span_regression_weights
from jaxmeta.run.classical_span_regression import span_scores
from jaxmeta.run.classical_spans import overlap_spans
from jaxmeta.run.classical_tokens import KneserNey, ngram_prediction
from jaxmeta.run.plan import Classical

_FITTED = 1024  # questions of the train languages, at most
# As they are, and as `jaxmeta.models.ngrams` reads them romanized.
_SPELLINGS = (str, respelled, functools.partial(respelled, vowels=False))
_LONGEST = 10  # tokens of the n-grams of the train languages


def pixels(tasks: ImageTasks) -> Classical:
    """Returns logistic regression on the pixels of the shots, regularised as dev alphabets say."""

    def counts(strength: float, alphabet: str, shots: int, draw: int, split: str) -> ArrayTree:
        support, query = tasks.episode(alphabet, shots=shots, draw=draw, split=split)
        found = pixel_regression(support["inputs"], support["targets"], query["inputs"], strength=strength)
        return class_counts(tasks.config.task.ways)(found.astype(np.float32), query)

    return Classical("pixels", "C", (1.0, 0.1, 10.0, 0.01, 100.0), counts)


def ngram_overlap(tasks: PairTasks) -> Classical:
    """Returns retrieval by the character n-grams that two sides share; up to which length is for the dev languages.

    It needs no shots, and is the same for every draw of them.
    """
    return _overlap(tasks, "ngram_overlap", (str,))


def romanized_overlap(tasks: PairTasks) -> Classical:
    """Returns the same by all spellings that a bag of n-grams reads: sounds are shared where scripts are not."""
    return _overlap(tasks, "romanized_overlap", _SPELLINGS)


def _overlap(tasks: PairTasks, name: str, spellings: Sequence[Callable[[str], str]]) -> Classical:
    judge = _similarity_judge(tasks)

    @functools.cache
    def of_language(longest: float, language: str, split: str) -> ArrayTree:
        query = tasks.judged_rows(language, split)
        sides = _sides(tasks, query)
        cosines = [
            classical_pairs.ngram_similarities(
                *([spell(text) for text in side] for side in sides), ngrams=(1, int(longest))
            )
            for spell in spellings
        ]
        return judge(np.mean(cosines, axis=0), query)

    return _without_shots(name, "longest_ngram", (2.0, 3.0, 4.0, 6.0), of_language)


def cl_esa(tasks: PairTasks) -> Classical:
    """Returns retrieval by closeness to pairs of the source and to the shots; how sharp is for the dev languages."""
    judge = _similarity_judge(tasks)

    @functools.cache
    def space() -> classical_pairs.SemanticSpace:
        return classical_pairs.SemanticSpace(*_sides(tasks, tasks.source_rows()), _SPELLINGS)

    def counts(power: float, language: str, shots: int, draw: int, split: str) -> ArrayTree:
        support, query = tasks.rows(language, shots=shots, draw=draw, split=split)
        return judge(space().similarities(*_sides(tasks, query), *_sides(tasks, support), power=power), query)

    return Classical("cl_esa", "power", (1.0, 2.0, 3.0, 4.0), counts)


def _sides(tasks: PairTasks, rows: np.ndarray) -> tuple[list[str], list[str]]:
    left, right = (tasks.table.texts(column, rows) for column in tasks.table.schema.texts)
    return left, right


def _similarity_judge(tasks: PairTasks) -> Callable[[np.ndarray, np.ndarray], ArrayTree]:
    """Returns what counts similarities `[Q, Q]` of the rows that they are of."""
    counted, size = jax.jit(similarity_counts), tasks.config.evaluate.max_queries  # one size, one compilation

    def judge(similarities: np.ndarray, rows: np.ndarray) -> ArrayTree:
        padded = np.zeros((size, size), np.float32)
        padded[: len(rows), : len(rows)] = similarities
        return jax.device_get(counted(padded, pad_batch({"group": tasks.judged.batch(rows)["group"]}, size)))

    return judge


def mean_score(tasks: PairTasks) -> Classical:
    """Returns the mean score of the shots as the score of every pair: what a correlation is above, and errors below."""

    def predicted(left, right, scores, one, other, value) -> np.ndarray:
        del left, right, other, value
        return np.full(len(one), scores.mean())

    return _regression(tasks, "mean_score", "weight", (1.0,), predicted)


def ngram_regression(tasks: PairTasks) -> Classical:
    """Returns a ridge regression on what can be counted of a pair; its penalty is for the dev languages to say."""

    def predicted(left, right, scores, one, other, value) -> np.ndarray:
        return classical_pairs.ngram_regression(left, right, scores, one, other, ridge=value)

    return _regression(tasks, "ngram_regression", "ridge", (0.1, 1.0, 10.0, 100.0), predicted)


def ngram_regression_source(tasks: PairTasks) -> Classical:
    """Returns a ridge regression on n-grams that is fitted to the source's pairs, and to no shot."""

    @functools.cache
    def source() -> classical_pairs.SourceRegression:
        rows = tasks.source_rows()
        return classical_pairs.SourceRegression(*_sides(tasks, rows), tasks.table.numbers("score")[rows])

    def predicted(left, right, scores, one, other, value) -> np.ndarray:
        del left, right, scores
        return source().predict(one, other, ridge=value)

    return _regression(tasks, "ngram_regression_source", "ridge", (3.0, 10.0, 30.0, 100.0), predicted)


def _regression(tasks: PairTasks, name: str, setting: str, values: tuple[float, ...], predict: Callable) -> Classical:
    table, objective, size = tasks.table, scored_pair(), tasks.config.evaluate.max_queries
    ranks = jax.jit(lambda outputs, query: ranks_of(objective, outputs, query))

    def counts(value: float, language: str, shots: int, draw: int, split: str) -> ArrayTree:
        support, query = tasks.rows(language, shots=shots, draw=draw, split=split)
        sides = [table.texts(column, rows) for rows in (support, query) for column in table.schema.texts]
        scores = table.numbers("score")
        found = np.asarray(predict(*sides[:2], scores[support], *sides[2:], value), np.float32)
        batch = pad_batch({"targets": scores[query], "outputs": found[:, None]}, size)  # one size, one compilation
        return rank_counts(jax.device_get(ranks(batch.pop("outputs"), batch)))

    return Classical(name, setting, values, counts)


def word_overlap(tasks: PairTasks) -> Classical:
    """Returns the words that stand among those of the question; what a word more costs is for the dev languages."""
    table = tasks.table

    @functools.cache
    def of_language(price: float, language: str, split: str) -> ArrayTree:
        query = tasks.judged_rows(language, split)
        contexts = table.texts("context", query)
        places = overlap_spans(table.texts("question", query), contexts, price=price)
        found = [context[start:end] for context, (start, end) in zip(contexts, places, strict=True)]
        return answers_judged(tasks, found, language, split)

    return _without_shots("word_overlap", "price", (0.25, 0.15, 0.1, 0.5), of_language)


def span_regression(tasks: PairTasks) -> Classical:
    """Returns logistic regression on what is told of spans, fitted to the train languages; its C is for the dev ones.

    It reads what the span scorer reads, but for the words of questions, and the same number of words in an answer.
    """
    longest = tasks.config.model.window

    @functools.cache
    def fitted(strength: float) -> np.ndarray:
        batch = tasks.judged.pool("train", _FITTED)
        places = batch["targets"]["start"], batch["targets"]["end"]
        return span_regression_weights(batch["inputs"], *places, strength=strength, longest=longest)

    @functools.cache
    def of_language(strength: float, language: str, split: str) -> ArrayTree:
        windows, query = tasks.windows(language, split)
        best = jax.device_get(best_spans(jnp.asarray(span_scores(fitted(strength), windows.inputs), jnp.float32)))
        found = [first.text for (first,) in best_answers(windows, tasks.table.texts("context", query), best)]
        return answers_judged(tasks, found, language, split)

    return _without_shots("span_regression", "C", (0.1, 0.01, 1.0), of_language)


def copied_source(tasks: PairTasks) -> Classical:
    """Returns the source as its own translation: what names and loanwords are worth."""
    return _cut_source(tasks, "copied_source", "copies", (1.0,), lambda text, copies: text)


def lexicon(tasks: PairTasks) -> Classical:
    """Returns the source with the words exchanged for which the shots have a translation; dev says how readily."""
    judge = judge_of_texts(tasks)

    def counts(kept: float, language: str, shots: int, draw: int, split: str) -> ArrayTree:
        support, query = tasks.rows(language, shots=shots, draw=draw, split=split)
        found = data.learn_lexicon(*(tasks.table.texts(side, support) for side in ("src", "tgt")), kept=kept)
        texts = [data.exchange_words(text, found.words) for text in tasks.table.texts("src", query)]
        return judge.counts(texts, tasks.references(language, split))

    return Classical("lexicon", "kept", (0.6, 0.1, 1.5), counts)


def first_words(tasks: PairTasks) -> Classical:
    """Returns the first words of a text as its summary; how many is for the dev languages to say."""

    def cut(text: str, words: float) -> str:
        return " ".join(text.split()[: int(words)])

    return _cut_source(tasks, "first_words", "words", (6.0, 9.0, 12.0, 18.0, 27.0), cut)


def _first_sentence(tasks: PairTasks) -> Classical:
    """Returns the first sentence of a text as its summary."""
    return _cut_source(tasks, "first_sentence", "sentences", (1.0,), lambda text, sentences: first_sentence(text))


def _cut_source(
    tasks: PairTasks, name: str, setting: str, values: tuple[float, ...], cut: Callable[[str, float], str]
) -> Classical:
    judge = judge_of_texts(tasks)

    @functools.cache
    def of_language(value: float, language: str, split: str) -> ArrayTree:
        sources = tasks.table.texts(tasks.table.schema.texts[0], tasks.judged_rows(language, split))
        return judge.counts([cut(text, value) for text in sources], tasks.references(language, split))

    return _without_shots(name, setting, values, of_language)


def token_ngrams(tasks: PairTasks) -> Classical:
    """Returns an n-gram model of the shots' tokens; its order is for the dev languages to say."""

    def predicted(order: float, shown: np.ndarray, asked: np.ndarray) -> Mapping[str, np.ndarray]:
        model = KneserNey(shown, vocab_size=tasks.judged.specials.vocab_size, order=int(order))
        return ngram_prediction([model], [1.0], asked)

    return _of_tokens(tasks, "token_ngrams", "order", (4.0, 6.0, 8.0, 10.0, 12.0), predicted)


def token_ngrams_source_and_shots(tasks: PairTasks) -> Classical:
    """Returns an n-gram model of the shots beside one of all train languages, whose weight dev languages choose."""
    sizes = {"vocab_size": tasks.judged.specials.vocab_size, "order": _LONGEST}

    @functools.cache
    def source() -> KneserNey:
        rows = np.concatenate([tasks.judged.rows(code, "train") for code in tasks.split.train])
        return KneserNey(tasks.judged.batch(rows)["targets"], **sizes)

    def predicted(weight: float, shown: np.ndarray, asked: np.ndarray) -> Mapping[str, np.ndarray]:
        return ngram_prediction([KneserNey(shown, **sizes), source()], [1 - weight, weight], asked)

    weights = (0.05, 0.1, 0.2, 0.3, 0.4)
    return _of_tokens(tasks, "token_ngrams_source_and_shots", "weight of the source", weights, predicted)


def _of_tokens(
    tasks: PairTasks, name: str, setting: str, values: tuple[float, ...],
    predicted: Callable[[float, np.ndarray, np.ndarray], Mapping[str, np.ndarray]],
) -> Classical:  # fmt: skip
    """Returns a language model: `predicted` reads its setting, and the tokens of the shots and of the queries."""

    def counts(value: float, language: str, shots: int, draw: int, split: str) -> ArrayTree:
        support, query = (
            tasks.judged.batch(rows) for rows in tasks.rows(language, shots=shots, draw=draw, split=split)
        )
        targets = query["targets"]
        found = predicted(value, support["targets"], targets)
        tokens = (targets > 0).sum(axis=1)
        return {
            "n": np.int64(len(targets)),
            "tokens": tokens.sum(),
            "nll": found["nll"].sum(),
            "correct": found["correct"].sum(),
            "exact": (found["correct"] == tokens).sum(),
            "bytes": query["bytes"].sum(),
        }

    return Classical(name, setting, values, counts)


def _without_shots(name: str, setting: str, values: tuple[float, ...], of_language: Callable) -> Classical:
    return Classical(name, setting, values, lambda value, code, shots, draw, split: of_language(value, code, split))


CLASSICAL: dict[str, Callable[[Any], Classical]] = {
    "tfidf": tfidf,
    "tfidf_source": tfidf_source,
    "tfidf_source_and_shots": tfidf_source_and_shots,
    "mean_spectra": mean_spectra,
    "pixels": pixels,
    "word_templates": word_templates,
    "template_cascade": template_cascade,
    "ngram_overlap": ngram_overlap,
    "romanized_overlap": romanized_overlap,
    "cl_esa": cl_esa,
    "mean_score": mean_score,
    "ngram_regression": ngram_regression,
    "ngram_regression_source": ngram_regression_source,
    "word_overlap": word_overlap,
    "span_regression": span_regression,
    "copied_source": copied_source,
    "first_words": first_words,
    "first_sentence": _first_sentence,
    "lexicon": lexicon,
    "token_ngrams": token_ngrams,
    "token_ngrams_source_and_shots": token_ngrams_source_and_shots,
}
