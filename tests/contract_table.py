"""One row for every algorithm with the estimator that trains it; `test_contracts.py` holds each to the same contracts.

A new algorithm adds a row: a name, what builds it from a `Setting` with small arguments, and its estimator. Those of
the relatives of MAML and of prototypes are in `contract_relatives.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from jaxmeta import algorithms, estimators
from jaxmeta.algorithms import LearnedRates
from jaxmeta.core.gradients import first_order, reverse
from jaxmeta.core.select import matching
from jaxmeta.core.types import Episode, GradientEstimator, MetaAlgorithm
from jaxmeta.models import (
    MelSettings,
    language_model,
    mlp,
    ngram_dual_encoder,
    ngrams,
    paired,
    seq2seq,
    span_scorer,
    speech_classifier,
    speech_recognizer,
    transformer,
)  # fmt: skip
from jaxmeta.objectives import classification, generation, recognition, regression, retrieval, span_qa, translation

CLASSES, DIMENSIONS, VOCABULARY, LENGTH = 3, 4, 11, 7
SAMPLES, MEL = 96, MelSettings(window=16, hop=8, bins=3, low=0.0)


class Setting(NamedTuple):
    """What a row is built for: the classes (or regressed dimensions), and the precision of the parameters."""

    classes: int
    dtype: Any

    def mlp(self):
        """A smooth one, so that finite differences meet no kink."""
        return mlp((6,), self.classes, activation=jnp.tanh, param_dtype=self.dtype)

    def transformer(self):
        """One layer that reads windows of four tokens at every second place."""
        sizes = {"width": 8, "embedding_width": 4, "layers": 1, "heads": 2, "expansion": 2, "max_length": LENGTH + 2}
        return transformer(vocab_size=VOCABULARY, outputs=self.classes, window=4, stride=2, dtype=self.dtype, **sizes)

    def scorer(self):
        """Two layers over answers of at most three words."""
        return span_scorer(width=4, layers=2, longest=3, buckets=VOCABULARY, embedding_width=3, dtype=self.dtype)

    def listener(self, build=speech_classifier, layers=0):
        """One convolution, which halves the places in time, over three filters; layers have more kinks to meet."""
        sizes = {
            "width": 4,
            "layers": layers,
            "heads": 2,
            "expansion": 2,
            "strides": (2,),
            "kernel": 3,
            "max_places": 8,
        }
        return build(self.classes, mel=MEL, dtype=self.dtype, **sizes)

    def counter(self):
        """N-grams of one and two tokens in few buckets."""
        return ngrams(self.classes, buckets=9, longest=2, from_bytes=False, dtype=self.dtype)

    def seq2seq(self):
        """One layer on either side."""
        sizes: dict[str, Any] = {"width": 8, "layers": 1, "heads": 2, "expansion": 2, "max_length": LENGTH}
        return seq2seq(vocab_size=VOCABULARY, dtype=self.dtype, **sizes)

    def copyist(self):
        """The same with a pointer to the source."""
        sizes: dict[str, Any] = {"width": 4, "layers": 1, "heads": 2, "expansion": 1, "max_length": LENGTH}
        return seq2seq(vocab_size=VOCABULARY, pointer=True, tied=True, dtype=self.dtype, **sizes)

    def writer(self):
        """One layer, of texts alone."""
        sizes = {"width": 8, "layers": 1, "heads": 2, "expansion": 2, "max_length": LENGTH}
        return language_model(vocab_size=VOCABULARY, dtype=self.dtype, **sizes)

    def classify(self):
        """Cross-entropy."""
        return classification(self.classes)


class Row(NamedTuple):
    """An algorithm, what trains it, and what is true of it that is not true of all.

    Attributes:
      name: of the test.
      build: the algorithm for a `Setting`.
      estimator: what trains it, from the algorithm; None for a baseline that is only ever adapted.
      num_steps: inner steps.
      gradient: what the estimator's outer gradient is: the "derivative" of its loss; the "first order" part of it;
        the "displacement" of the parameters; or a "random" one, right on average.
      idle: parts of the meta-parameters that the loss does not depend on.
      reads: "vectors", "text", "pairs" (of vectors, with groups), "texts" (pairs of them), "passages" (described words
        with an answer), "translations" (of text), "sounds", "strings" (sounds with a transcript), "transcripts" (pairs
        of sounds and texts, with groups) or "rollouts".
      regresses: targets are vectors or sequences, not classes.
      draws: the key matters to adaptation, or to the outer gradient.
      draws_by_shape: what is drawn depends on how many examples there are, padding included.
      fewer_classes: a task of fewer classes is the task of a smaller model (which is not so where something of the size
        of the model is drawn, or the source has all the classes).
      standard_promotion: it calls code of others that promotes types on its own.
      width: of finite differences; less where there are many kinks, each of which makes the inner gradient jump.
    """

    name: str
    build: Callable[[Setting], MetaAlgorithm]
    estimator: Callable[[MetaAlgorithm], GradientEstimator] | None
    num_steps: int = 2
    gradient: str = "derivative"
    idle: tuple[str, ...] = ()
    reads: str = "vectors"
    regresses: bool = False
    draws: bool = False
    draws_by_shape: bool = False
    fewer_classes: bool = True
    standard_promotion: bool = False
    width: float = 1e-5

    def __str__(self):
        return self.name


def maml_with(optimizer=None, **options):
    """Builds MAML on the perceptron."""
    return lambda s: algorithms.maml(s.mlp(), s.classify(), optimizer or optax.sgd(0.3), **options)


def replaying(s: Setting) -> MetaAlgorithm:
    """MAML that sees three of eight source examples at every step."""
    return algorithms.source_replay(maml_with()(s), batch(7, 8, s.dtype, targets=s.classes), num_examples=3)


def backprop(num_steps: int, **options):
    """An estimator of the algorithm that it is then given."""
    return lambda algorithm: estimators.backprop(algorithm, num_steps=num_steps, **options)


def displacement(num_steps: int):
    """An estimator of the algorithm that it is then given."""
    return lambda algorithm: estimators.displacement(algorithm, num_steps=num_steps)


ROWS = [
    Row("maml, reverse", maml_with(gradient=reverse), backprop(2)),
    Row("maml", maml_with(), backprop(2)),
    Row(
        "maml of text",
        lambda s: algorithms.maml(s.transformer(), s.classify(), optax.sgd(0.1)),
        backprop(2, memory="per_step"),
        reads="text",
    ),
    Row(
        "maml of translation",
        lambda s: algorithms.maml(s.seq2seq(), translation(VOCABULARY, label_smoothing=0.1), optax.sgd(0.1)),
        backprop(2),
        reads="translations",
        regresses=True,
        width=1e-7,
    ),
    Row(
        "anil of translation, pointer",
        lambda s: algorithms.maml(
            s.copyist(), translation(VOCABULARY), optax.sgd(0.1), select=matching("^(copying|head)/")
        ),
        backprop(1),
        num_steps=1,
        reads="translations",
        regresses=True,
        width=1e-7,
    ),
    Row(
        "maml of regression",
        lambda s: algorithms.maml(s.mlp(), regression(), optax.sgd(0.1, momentum=0.5)),
        backprop(2),
        regresses=True,
    ),
    Row(
        "maml of retrieval",
        lambda s: algorithms.maml(paired(s.mlp()), retrieval(), optax.sgd(0.1)),
        backprop(2),
        reads="pairs",
        fewer_classes=False,
    ),
    Row(
        "ridge alignment",
        lambda s: algorithms.ridge_alignment(paired(s.mlp()), retrieval()),
        backprop(0),
        num_steps=0,
        reads="pairs",
        fewer_classes=False,
    ),
    Row(
        "ridge alignment of n-grams",
        lambda s: algorithms.ridge_alignment(
            ngram_dual_encoder(s.classes, buckets=9, longest=2, from_bytes=False, dtype=s.dtype), retrieval()
        ),
        backprop(0),
        num_steps=0,
        reads="texts",
        fewer_classes=False,
    ),
    Row(
        "ridge alignment of sounds and texts",
        lambda s: algorithms.ridge_alignment(paired(s.listener(), s.transformer()), retrieval()),
        backprop(0),
        num_steps=0,
        reads="transcripts",
        fewer_classes=False,
    ),
    Row(
        "maml of spans",
        lambda s: algorithms.maml(s.scorer(), span_qa(), optax.sgd(0.1)),
        backprop(1),
        num_steps=1,
        reads="passages",
        fewer_classes=False,
    ),
    Row(
        "maml of strings",
        lambda s: algorithms.maml(s.listener(speech_recognizer, layers=1), recognition(s.classes), optax.sgd(0.1)),
        backprop(1),
        num_steps=1,
        reads="strings",
        fewer_classes=False,
    ),
    Row(
        "protonet of sounds",
        lambda s: algorithms.protonet(s.listener(), s.classify(), num_classes=s.classes),
        backprop(0),
        num_steps=0,
        reads="sounds",
    ),
    Row(
        "maml, adam",
        maml_with(optax.adam(0.05, eps_root=1e-8)),
        backprop(2, memory="per_step"),
        standard_promotion=True,
    ),
    Row("fomaml", maml_with(gradient=first_order), backprop(2), gradient="first order"),
    Row("anil", maml_with(select=matching("^head/")), backprop(2)),
    Row("meta-sgd", maml_with(rates=LearnedRates("element")), backprop(2)),
    Row("lslr", maml_with(rates=LearnedRates("leaf", steps=2)), backprop(3), num_steps=3),
    Row(
        "reptile",
        lambda s: algorithms.reptile(s.mlp(), s.classify(), optax.sgd(0.3)),
        displacement(2),
        2,
        "displacement",
    ),
    Row(
        "reptile, minibatches",
        lambda s: algorithms.reptile(s.mlp(), s.classify(), optax.sgd(0.3), batch_size=3),
        displacement(2),
        gradient="displacement",
        draws=True,
        draws_by_shape=True,
    ),
    Row("protonet", lambda s: algorithms.protonet(s.mlp(), s.classify(), num_classes=s.classes), backprop(0), 0),
    Row(
        "ridge",
        lambda s: algorithms.ridge(s.mlp(), s.classify(), num_outputs=s.classes),
        backprop(0),
        num_steps=0,
        idle=("shift",),  # added to every logit, it changes no probability
    ),
    Row(
        "ridge, prior",
        lambda s: algorithms.ridge(s.mlp(), s.classify(), num_outputs=s.classes, prior=True),
        backprop(0),
        num_steps=0,
        idle=("shift",),
    ),
    Row(
        "ridge of n-grams, prior, whitened",
        lambda s: algorithms.ridge(s.counter(), s.classify(), num_outputs=s.classes, prior=True, whiten=True),
        backprop(0),
        num_steps=0,
        idle=("shift",),
        reads="text",
    ),
    Row(
        "ridge of regression",
        lambda s: algorithms.ridge(s.mlp(), regression(), num_outputs=s.classes, classify=False),
        backprop(0),
        num_steps=0,
        idle=("shift", "log_scale"),
        regresses=True,
    ),
    Row(
        "n-gram memory",
        lambda s: algorithms.ngram_memory(s.writer(), generation(VOCABULARY), longest=3, hidden=4),
        backprop(0),
        num_steps=0,
        reads="translations",
        regresses=True,
    ),
    Row("joint", maml_with(gradient=first_order), estimators.pooled),
    Row("source_replay", replaying, None, draws=True, fewer_classes=False),
    Row(
        "target_only",
        lambda s: algorithms.target_only(s.mlp(), s.classify(), optax.sgd(0.3)),
        None,
        draws=True,
        fewer_classes=False,
    ),
    Row(
        "linear_head",
        lambda s: algorithms.linear_head(s.mlp(), s.classify(), optax.sgd(0.3), num_outputs=s.classes),
        None,
    ),
]


def batch(seed: int, size: int, dtype, *, reads="vectors", regresses=False, targets: Any = CLASSES) -> dict:
    """Makes `size` random examples.

    Args:
      seed: of all that is random.
      size: N.
      dtype: of what is a float.
      reads: "vectors" `[N, 4]`; "text" `[N, 7]`, which ends in padding; "pairs" of vectors, two of them in one group;
        "texts", pairs of such; "passages", words in two sentences that end in padding, with an answer of two words;
        "translations", the target shifted; "sounds" `[N, 96]`, of which some are longer than others; "strings",
        sounds with one or two symbols, of which 0 is none; "transcripts", sounds beside texts, two of them in one
        group; or "rollouts" to a goal, all the same.
      regresses: targets `[N, C]` instead of classes `[N]`.
      targets: the classes there are, or their number; every one of them has an example if there are enough.
    """
    rng = np.random.default_rng(seed)
    if reads == "translations":
        source, target = (text(rng, size, 2)[0] for _ in range(2))
        first = np.full((size, 1), VOCABULARY - 2, np.int32)
        return {"inputs": {"source": source, "previous": np.hstack([first, target[:, :-1]])}, "targets": target}
    if reads == "rollouts":
        goal = rng.uniform(-0.5, 0.5, 2).astype(dtype)
        return {"inputs": {"task": {"goal": np.tile(goal, (size, 1))}, "seed": np.arange(size, dtype=np.int32)}}
    classes = np.arange(targets) if np.ndim(targets) == 0 else np.asarray(targets)
    if regresses:
        answers = rng.normal(size=(size, len(classes))).astype(dtype)
    else:
        answers = classes[np.arange(size) % len(classes)].astype(np.int32)
    if reads == "vectors":
        return {"inputs": rng.normal(size=(size, DIMENSIONS)).astype(dtype), "targets": answers}
    if reads == "pairs":
        sides = {side: rng.normal(size=(size, DIMENSIONS)).astype(dtype) for side in ("left", "right")}
        return {"inputs": sides, "group": np.maximum(np.arange(size, dtype=np.int32), 1)}
    if reads == "texts":
        return {"inputs": {side: text(rng, size, 2)[0] for side in ("left", "right")}}
    if reads in ("sounds", "strings", "transcripts"):
        samples = rng.integers(SAMPLES // 2, SAMPLES + 1, size=size, dtype=np.int32)
        waves = np.sin(rng.uniform(0.1, 2.5, (size, 1)) * np.arange(SAMPLES)[None]) + rng.normal(
            0, 0.1, (size, SAMPLES)
        )
        inputs = {"audio": (0.5 * waves).astype(dtype), "samples": samples}
        if reads == "transcripts":
            sides = {"left": inputs, "right": text(rng, size, 2)[0]}
            return {"inputs": sides, "group": np.maximum(np.arange(size, dtype=np.int32), 1)}
        transcripts = np.stack([np.maximum(answers, 1), answers], axis=1)
        return {"inputs": inputs, "targets": transcripts if reads == "strings" else answers}
    tokens, lengths = text(rng, size, 2 if reads == "text" else LENGTH - 2)
    if reads == "text":
        return {"inputs": tokens, "targets": answers}
    sentence = np.where(tokens > 0, 1 + (np.arange(LENGTH, dtype=np.int32) >= 3)[None], 0).astype(np.int32)
    described = {name: rng.normal(size=shape).astype(dtype) for name, shape in
                 {"words": (size, LENGTH, DIMENSIONS), "question": (size, 2)}.items()}  # fmt: skip
    asked = rng.integers(0, VOCABULARY, size=(size, 3), dtype=np.int32)
    return {
        "inputs": {**described, "sentence": sentence, "asked": asked},
        "targets": {"start": lengths - 2, "end": lengths - 1},
    }


def text(rng: np.random.Generator, size: int, shortest: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws tokens `[N, 7]` that end in padding, and how many of them are real `[N]`."""
    tokens = rng.integers(1, VOCABULARY, size=(size, LENGTH), dtype=np.int32)
    lengths = rng.integers(shortest, LENGTH + 1, size=size, dtype=np.int32)
    return np.where(np.arange(LENGTH)[None] < lengths[:, None], tokens, 0), lengths


def episode(row: Row, seed: int, support: int, query: int, dtype, targets: Any = CLASSES) -> Episode:
    """Makes an episode of `support` and `query` examples for a row."""
    what = {"reads": row.reads, "regresses": row.regresses, "targets": targets}
    return Episode(batch(2 * seed, support, dtype, **what), batch(2 * seed + 1, query, dtype, **what))
