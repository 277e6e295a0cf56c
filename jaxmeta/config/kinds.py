"""What follows from the kind of a task: the model, the objective, the scores, and the methods that mean something."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxmeta import models, objectives
from jaxmeta.config import networks
from jaxmeta.config.acting import ENVIRONMENTS, playing_model, returns
from jaxmeta.config.child_methods import MLP_RULE, child_model
from jaxmeta.config.schema import AUTO, Config
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import ArrayTree, Mixing, Model, Objective

CLASSES, NUMBERS = "classes", "numbers"  # what a head on one vector for each example can answer
RECORDED = ("npz", "synthetic_digits")  # sources of recordings
# The models of other sources read text, or recordings.
_READERS = {"sinusoid": "mlp", "omniglot": "conv4", **dict.fromkeys(ENVIRONMENTS, "mlp")}
_READ = {"mlp": "numbers", "conv4": "images"}
UNSCALED = ("tfidf_source", "mean_spectra", "pixels")  # classical methods of classes that show no logits
_SCALED = ("tfidf",)  # whose calibration is shown with temperatures, beside the main method's
_WRITES = "^(head|copying)/"  # where there is a pointer, it is part of what writes
_COUNTED = ("classification", "retrieval", "scored_pairs")  # kinds that bags of n-grams serve
_TRAINED_BASELINES = ("zero_shot", "target_only", "joint_finetune", "source_and_target")


class Kind(NamedTuple):
    """One kind of task, as a config names it."""

    title: str  # in sentences
    model: Callable[[Config, int, int], Model]  # (config, number of outputs, token numbers) -> model
    objective: Callable[[Config, int, int], Objective]  # (config, number of outputs, token numbers) -> objective
    metrics: Mapping[str, bool]  # scores to judge by, the usual one first, and whether a higher one is better
    methods: tuple[str, ...]  # that are trained and judged unless a config says otherwise
    main: str
    curve_methods: tuple[str, ...]
    classical: tuple[str, ...] = ()  # methods outside JAX, see `jaxmeta.config.classical`
    head: str = ""  # CLASSES or NUMBERS where an example has one vector that heads can read
    last_layer: str = "^head/"  # the part of the parameters that ANIL adapts
    cipher: bool = False  # whether there are pretended languages
    renamed: bool = False  # whether a class is another one in every task, so that no model of all of them names it
    pairs: bool = False  # whether there are vectors of two sides, which a map can bring together
    children: bool = False  # whether a task is to train a model from scratch, and methods are optimizers
    continues: bool = False  # whether every token is predicted from those before it alone
    acts: bool = False  # whether examples are rollouts of a policy
    writes: bool = False  # whether a model of it answers with text that it writes


def kind_of(config: Config) -> Kind:
    """Returns the row of a config's kind of task.

    Raises:
      InputError: there is no such task.
    """
    kind, source = config.task.kind, config.task.source
    if source in RECORDED:
        heard = {"classification": _SPEAKERS, "recognition": KINDS["recognition"], "retrieval": _TRANSCRIPTS}
        if kind not in heard:
            raise InputError(
                f'`task.kind` "{kind}" is about text, and `task.source` "{source}" has recordings; use it with '
                f"{', '.join(heard)}."
            )
        return heard[kind]
    if source == "omniglot":
        if kind != "classification":
            raise InputError(f'`task.kind` "{kind}" is not about images; leave it out with `task.source` "omniglot".')
        return _CHARACTERS
    if kind == "recognition":
        raise InputError(
            f'`task.kind` "recognition" is about recordings, and `task.source` "{source}" has none; set that to "npz", '
            'for a file or a prepared set, or to "synthetic_digits".'
        )
    others = {"sinusoid": _WAVES, "children": _CHILDREN, **_WORLDS}
    if source not in others:
        return KINDS[kind]
    if kind != "classification":
        raise InputError(f'`task.kind` "{kind}" is about text; leave it out with `task.source` "{source}".')
    return others[source]


def settled(config: Config) -> Config:
    """Returns a config in which everything that follows from the kind of task is written out."""
    kind, evaluate = kind_of(config), config.evaluate
    methods = kind.methods if evaluate.methods == (AUTO,) else evaluate.methods
    trained = [name for name in (kind.main, *reversed(methods)) if name in methods and name not in kind.classical]
    found: dict[str, Any] = {"methods": methods}
    if evaluate.metric == AUTO:
        found["metric"] = next(iter(kind.metrics))
    if evaluate.main == AUTO:
        found["main"] = next(iter(trained), AUTO)
    if evaluate.curve_methods == (AUTO,):
        drawn = kind.curve_methods if evaluate.shot_curve else ()
        found["curve_methods"] = tuple(name for name in drawn if name in methods)
    if evaluate.temperature_methods == (AUTO,):
        shown = dict.fromkeys((*_SCALED, found.get("main", evaluate.main))) if kind.head == CLASSES else ()
        found["temperature_methods"] = tuple(name for name in shown if name in methods)
    return config.model_copy(update={"evaluate": evaluate.model_copy(update=found)})


def make_model(config: Config, outputs: int, vocab_size: int = 0) -> Model:
    """Returns the model of a config.

    Args:
      config: says the kind of task and the sizes.
      outputs: classes or numbers that it answers with, where the kind has such.
      vocab_size: token numbers of the tokenizer.

    Raises:
      InputError: the model does not read what the task gives.
    """
    settings, source = config.model, config.task.source
    if source == "children":
        return child_model(config.children.judged)
    right = _READERS.get(source, "transformer")
    reads = _READ.get(settings.kind, "text")
    if reads != _READ.get(right, "text"):
        gives = "recordings" if source in RECORDED else _READ.get(right, "text")
        raise InputError(f'`model.kind` "{settings.kind}" reads {reads}, not {gives}; set it to "{right}".')
    if settings.kind == "ngrams" and (config.task.kind not in _COUNTED or source in RECORDED):
        raise InputError(
            f'`model.kind` "ngrams" reads texts as wholes, for {", ".join(_COUNTED)} of texts; set it to '
            '"transformer", or leave it out.'
        )
    if settings.pointer and config.task.kind not in ("translation", "summaries"):
        raise InputError("`model.pointer` copies into what is written, of translations and summaries; leave it out.")
    if reads == "text" and settings.width % settings.heads:
        raise InputError(
            f"`model.width` must be a multiple of `model.heads`, got {settings.width} and {settings.heads}."
        )
    model = kind_of(config).model(config, outputs, vocab_size)
    model = model if settings.precision == "float32" else models.cast(model, settings.precision)
    return model if model.generate is None else writing(model)


def writing(model: Model) -> Model:
    """Returns a model that decodes where it is not told the tokens before each token.

    So whatever algorithm is built on it, its `predict` of `{"source"}`, or of `{"prompt"}` for a language model, writes
    with the adapted parameters; with "previous" it answers logits, as ever.
    """
    write = model.generate
    assert write is not None

    def generate(params: ArrayTree, inputs: Mapping[str, Any], *mixing: Mixing) -> ArrayTree:
        return write(params, {"previous": inputs["prompt"]} if "prompt" in inputs else inputs, *mixing)

    def apply(params: ArrayTree, inputs: Mapping[str, Any]) -> ArrayTree:
        return (model.apply if "previous" in inputs else generate)(params, inputs)

    return model._replace(apply=apply, generate=generate)


def _written(*scores: str) -> dict[str, bool]:
    return dict.fromkeys(scores, True)


def _classes(config: Config, outputs: int, tokens: int) -> Objective:
    del tokens
    return objectives.classification(outputs, label_smoothing=config.train.label_smoothing)


def _sentences(config: Config, outputs: int, tokens: int) -> Objective:
    del outputs
    return objectives.translation(tokens + 2, label_smoothing=config.train.label_smoothing)


def _text(config: Config, outputs: int, tokens: int) -> Objective:
    del outputs
    return objectives.generation(tokens + 2, label_smoothing=config.train.label_smoothing)


_META = ("maml", "reptile")
_WAVES = Kind(
    "sine waves", networks.mlp, lambda config, outputs, tokens: objectives.regression(), {"mse": False, "mae": False},
    methods=("zero_shot", "target_only", "joint_finetune", "linear_head", "ridge", "maml"), main="maml",
    curve_methods=("joint_finetune", "maml", "ridge"), head=NUMBERS,
)  # fmt: skip
_WORLDS = {
    source: Kind(
        "environments", playing_model, returns, {"return": True},
        methods=("zero_shot", "target_only", "joint_finetune", "maml"), main="maml",
        curve_methods=(), last_layer="(^|/)head/", acts=True,
    )
    for source in ENVIRONMENTS
}  # fmt: skip
_CLASS_SCORES: dict[str, bool] = dict.fromkeys(("accuracy", "macro_precision", "macro_recall", "macro_f1"), True)
_SPEAKERS = Kind(
    "classification of recordings", networks.speech_classifier,
    _classes, _CLASS_SCORES,
    methods=(*_TRAINED_BASELINES, "linear_head", "prototypes", "mean_spectra", "ridge"), main="ridge",
    curve_methods=("joint_finetune", "mean_spectra", "ridge"), classical=("mean_spectra",), head=CLASSES,
)  # fmt: skip
_RANKED = _written(
    *(f"{ranked}{way}{score}" for ranked in ("", objectives.CSLS)
      for way in ("", *(f"{direction}_" for direction in objectives.DIRECTIONS))
      for score in ("recall_at_1", "recall_at_10", "mrr"))
)  # fmt: skip
_TRANSCRIPTS = Kind(
    "retrieval of transcripts", networks.spoken_dual_encoder, lambda config, outputs, tokens: objectives.retrieval(),
    _RANKED,
    methods=(*_TRAINED_BASELINES, "joint_alignment", "template_cascade", *_META, "ridge_alignment"),
    main="ridge_alignment", curve_methods=("joint_finetune", "template_cascade", "maml", "ridge_alignment"),
    classical=("template_cascade",), last_layer="^(left|right)/head/", pairs=True,
)  # fmt: skip
_CHARACTERS = Kind(
    "classification of images", networks.image_encoder, _classes,
    _CLASS_SCORES,
    methods=("target_only", "linear_head", "prototypes", "pixels", "protonet", "ridge", "maml"), main="protonet",
    curve_methods=("prototypes", "pixels", "protonet"), classical=("pixels",), head=CLASSES, renamed=True,
)  # fmt: skip
_CHILDREN = Kind(
    "children of a learned optimizer", lambda config, outputs, tokens: child_model(config.children.judged),
    _classes, {"nll": False, **_CLASS_SCORES},
    methods=("sgd", "adam", "adamw", MLP_RULE), main=MLP_RULE, curve_methods=(), children=True,
)  # fmt: skip
KINDS: dict[str, Kind] = {
    "classification": Kind(
        "classification", networks.text_encoder, _classes,
        _CLASS_SCORES,
        methods=(*_TRAINED_BASELINES, "linear_head", "prototypes", "tfidf", "ridge"), main="ridge",
        curve_methods=("joint_finetune", "linear_head", "tfidf", "ridge"),
        classical=("tfidf", "tfidf_source", "tfidf_source_and_shots"), head=CLASSES, cipher=True,
    ),
    "retrieval": Kind(
        "retrieval", networks.dual_encoder, lambda config, outputs, tokens: objectives.retrieval(),
        _RANKED,
        methods=(
            *_TRAINED_BASELINES, "joint_alignment", "ngram_overlap", "romanized_overlap", "cl_esa", *_META,
            "ridge_alignment",
        ),
        main="ridge_alignment", curve_methods=("joint_finetune", "cl_esa", "maml", "ridge_alignment"),
        classical=("ngram_overlap", "romanized_overlap", "cl_esa"), last_layer="^tower/head/", pairs=True,
    ),
    "scored_pairs": Kind(
        "scored pairs", networks.pair_regressor, lambda config, outputs, tokens: objectives.scored_pair(),
        {"pearson": True, "spearman": True, "mae": False, "rmse": False},
        methods=(*_TRAINED_BASELINES, "linear_head", "mean_score", "ngram_regression", "ridge", *_META), main="ridge",
        curve_methods=("joint_finetune", "ngram_regression", "ridge", "maml"),
        classical=("mean_score", "ngram_regression", "ngram_regression_source"), head=NUMBERS,
    ),
    "question_answering": Kind(
        "question answering", networks.span_scorer, lambda config, outputs, tokens: objectives.span_qa(),
        _written("f1", "exact_match"),
        methods=(*_TRAINED_BASELINES, "word_overlap", "span_regression", *_META), main="maml",
        curve_methods=("joint_finetune", "word_overlap", "maml"), classical=("word_overlap", "span_regression"),
    ),
    "translation": Kind(
        "translation", networks.seq2seq, _sentences,
        _written("chrf", "chrf++", "bleu", "exact_match"),
        methods=(*_TRAINED_BASELINES, "copied_source", "lexicon", *_META), main="maml",
        curve_methods=("joint_finetune", "lexicon", "maml"), classical=("copied_source", "lexicon"), last_layer=_WRITES,
        writes=True,
    ),
    "summaries": Kind(
        "summaries", networks.seq2seq, _sentences,
        _written("chrf", "chrf++", "rouge_l", "bleu", "exact_match"),
        methods=(*_TRAINED_BASELINES, "first_words", "first_sentence", *_META), main="maml",
        curve_methods=("joint_finetune", "first_words", "maml"), classical=("first_words", "first_sentence"),
        last_layer=_WRITES, writes=True,
    ),
    "generation": Kind(
        "generation", networks.language_model, _text,
        {"bits_per_byte": False, "nll": False, "perplexity": False, "token_accuracy": True},
        methods=(*_TRAINED_BASELINES, "token_ngrams", "token_ngrams_source_and_shots", "ngram_memory", *_META),
        main="ngram_memory", curve_methods=("joint_finetune", "token_ngrams", "ngram_memory"),
        classical=("token_ngrams", "token_ngrams_source_and_shots"), continues=True, writes=True,
    ),
    "recognition": Kind(
        "recognition", networks.speech_recognizer, lambda config, outputs, tokens: objectives.recognition(outputs + 1),
        {"word_error_rate": False, "exact": True, "nll": False},
        methods=(*_TRAINED_BASELINES, "word_templates", *_META), main="maml",
        curve_methods=("joint_finetune", "word_templates", "maml"), classical=("word_templates",),
    ),
}  # fmt: skip
