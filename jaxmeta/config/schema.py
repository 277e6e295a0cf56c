"""The typed config: every setting of a run, its default, and what it means.

The defaults are the embedded job: the month of a date, in languages never seen, on real CLDR data.
"""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

AUTO = "auto"  # of a setting that follows from the kind of task
Count = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]


class Section(pydantic.BaseModel):
    """A part of the config: frozen, and closed to keys it does not know."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, validate_default=True)


class TaskConfig(Section):
    """What is learned, and what an episode looks like."""

    kind: Literal[
        "classification",
        "retrieval",
        "scored_pairs",
        "question_answering",
        "translation",
        "summaries",
        "generation",
        "recognition",
    ] = "classification"
    """What is asked of a text or a recording; the model, the objective, the scores and the methods follow from it."""
    source: Literal[
        "cldr", "tsv", "tfds", "sinusoid", "npz", "synthetic_digits", "omniglot", "children", "navigation_2d",
        "bandits", "half_cheetah",
    ] = "cldr"  # fmt: skip
    """Where tasks come from: the embedded CLDR, a TSV file, a prepared set of tensorflow-datasets, sine waves,
    recordings of speakers (npz) or drawn characters (omniglot) in an npz file or a prepared set, digits of synthetic
    voices, child models that learn from the embedded CLDR, for learned optimizers, or an environment to act in."""
    cldr: Literal["month", "weekday", "kind"] = "month"
    """Which task of the CLDR (classification only)."""
    path: str | tuple[str, ...] = ""
    """A TSV file with the columns of the kind (of classification: language, split, label, text), an npz file, or the
    folder of a prepared set, or its name in TFDS's own folder; a relative path is looked up in JAXMETA_DATA too. Of
    classification several TSV files, or several prepared sets, are read as one, and where `stream` is set several TSV
    files."""
    stream: bool = False
    """Whether rows of train languages stay on disk, in TSV files or in a prepared set, and are read as they are drawn:
    for text larger than memory, of any kind."""
    columns: dict[str, str] = {}
    """What a column is called in the file or the prepared set, where it is called otherwise: `{text = "sentence", label
    = "labels"}`; of a prepared set, "translation/en" is the feature en inside translation. Recordings have the columns
    audio, label, speaker and rate (the last may be told by the audio), images image, character and alphabet."""
    splits: dict[str, str] = {}
    """Which of train, dev and test each split of a prepared set is, where their names do not say: `{test_matched =
    "test"}`, or for parts of one `{"train[:10%]" = "test", "train[10%:]" = "train"}`; those that are left out are not
    read. Images are all read alike."""
    language: str = ""
    """The language of all rows, where no column says it; of a pair of languages, "SOURCE-TARGET" ("eng-" where a column
    says the target)."""
    parallel: bool = False
    """Whether row k of a split is the same sentence in every language of the TSV file; in those that are left out, it
    need not be."""
    shots: Count = 2
    """Support examples: for each class, or in all where there are no classes."""
    queries: Count = 4
    """Query examples: for each class, or in all where there are no classes."""
    ways: Count = 5
    """Classes of an episode (images, whose classes are others in every episode)."""
    rotations: bool = False
    """Whether a character that is turned by quarters is a class of its own (images)."""
    mixed: bool = False
    """Whether the classes of an episode are of any alphabet of its split, and not of one (images)."""
    problems: Count = 100
    """Problems to judge on, and to choose settings on, where alphabets are mixed."""
    tasks_per_step: Count = 8
    """Tasks in one outer step."""
    source_language: str = ""
    """The language that is translated from, where the file pairs it with the same texts as all others (translation);
    empty: as the file has it."""
    lexicon: bool = False
    """Whether sources are read with the words exchanged for which the support has a translation (translation)."""
    sampling: Literal["temperature", "unimax"] = "temperature"
    """How often each language, or speaker, is drawn: by its size, see `temperature`, or every one alike as far as its
    rows last (UniMax), see `epochs`."""
    temperature: Rate = 1.0
    """A language of n rows is drawn in proportion to n ** (1 / temperature): 1 for every row alike, inf for every
    language alike (sampling temperature)."""
    epochs: Rate = 4.0
    """How often a row is drawn at most, on average, in the training of one method (sampling unimax)."""
    test_languages: int | Literal["each"] | tuple[str, ...] = 40
    """Languages, speakers or alphabets held out for the final judgement: how many, or which; "each": every
    speaker in turn, by a model that is trained anew."""
    train_languages: tuple[str, ...] = ()
    """Languages, speakers or alphabets to train on; all that are not held out by default."""
    dev_languages: int | tuple[str, ...] = 30
    """Languages, speakers or alphabets held out to choose settings on: how many, or which."""
    left_out_languages: tuple[str, ...] = ()
    """Languages, speakers or alphabets that would be trained on and are not: what are they worth to the others?"""
    speakers: int = Field(default=0, ge=0)
    """Synthetic voices (source synthetic_digits); 0: those held out and 16 more."""
    rate: Count = 8000
    """Samples in a second of a recording."""
    seconds: float = Field(default=0, ge=0)
    """Seconds of a recording, or of a string of them, that are read; 0: 1, and 3 of a string."""
    repeats: Rate = 1.0
    """In how many strings a recording of a held-out speaker is, about (recognition and retrieval of recordings): few
    shots make many strings."""


class TokenizerConfig(Section):
    """How text becomes numbers."""

    kind: Literal["bytes", "sentencepiece"] = "bytes"
    """Raw UTF-8 bytes, or a SentencePiece model trained on the train languages alone."""
    length: Count = 64
    """Tokens of a text; what is beyond is cut (a context of a question is read in windows of so many words)."""
    target_length: int = Field(default=0, ge=0)
    """Tokens of what is written (translation, summaries, generation); 0: as many as `length`."""
    vocab_size: Count = 2000
    """Pieces (SentencePiece only)."""


class ModelConfig(Section):
    """The model."""

    kind: Literal["transformer", "ngrams", "mlp", "conv4"] = "transformer"
    """A Transformer of the shape that the kind of task needs for text, a bag of hashed character n-grams for
    classification, retrieval and scored pairs of texts, a multilayer perceptron for numbers, four blocks of
    convolutions for images."""
    width: Count = 64
    """Size of the hidden vectors, or channels of a convolution."""
    layers: Count = 2
    """Transformer blocks, or hidden layers."""
    heads: Count = 4
    """Attention heads."""
    window: Count = 5
    """Neighbouring tokens, or frames of sound, that are embedded together (by models that write nothing), characters of
    the longest n-gram, or words of the longest answer (question answering)."""
    buckets: Count = 2**14
    """Places that n-grams are hashed to."""
    romanize: bool = False
    """Whether n-grams are also those of a crude Latin spelling, which joins languages of different scripts."""
    stride: Count = 4
    """Neighbouring places that are merged before the Transformer reads them (by models that write nothing)."""
    segments: Count = 4
    """Parts of a recording that are averaged apart (classification and retrieval of recordings)."""
    pointer: bool = False
    """Whether tokens of the source may be copied (translation, summaries): a pointer-generator."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the arithmetic; parameters and their gradients are kept in float32."""


class TrainConfig(Section):
    """Training. Every trained method gets the same budget: what `steps` of joint training cost in gradient examples."""

    steps: Count = 500
    """Steps of joint training; the budget of every method."""
    warm_start: float = Field(default=0.4, ge=0, lt=1)
    """The share of the budget that meta-learners spend on joint training first."""
    seeds: Count = 1
    """How many training seeds."""
    at_once: Count = 1
    """Methods and seeds that are trained at the same time, as far as the memory of their steps allows. It changes no
    result, but the seconds that each is said to take."""
    learning_rate: Rate = 3e-3
    """Peak of the outer optimizer's learning rate (AdamW, warm-up, cosine decay)."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of the outer optimizer."""
    cipher: float = Field(default=0.5, ge=0, le=1)
    """The share of a meta-learner's episodes in which letters are exchanged: pretended languages (classification of
    text as bytes)."""
    voices: float = Field(default=0.5, ge=0, le=1)
    """The share of episodes that somebody else seems to speak: pretended speakers (recordings)."""
    augment: bool = False
    """Whether noise is added to recordings and parts of their frames are masked, anew in every step, on the device."""
    clip: Rate = 1.0
    """Largest norm of the outer gradient."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """The share of each target class or token that is spread evenly over all of them, in training and adaptation."""
    log_every: Count = 20
    """Steps between log lines."""
    save_every: Count = 100
    """Steps between checkpoints."""


class InnerConfig(Section):
    """Adaptation during meta-training."""

    steps: Count = 5
    """Inner steps of gradient-based meta-learners."""
    learning_rate: Rate = 0.05
    """Of the inner optimizer."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """The inner optimizer."""
    context: Count = 32
    """Numbers in the context that CAVIA adapts."""
    context_learning_rate: Rate = 1.0
    """Of the inner optimizer where the context adapts, which has few numbers and takes larger steps than weights do."""
    proximal: Rate = 1.0
    """How strongly iMAML holds what adapts to its start."""
    solver: Literal["neumann", "conjugate_gradient", "gauss_newton"] = "neumann"
    """What solves for the outer gradient of iMAML: a Neumann series of the inner learning rate, which bears an inner
    loop that has not converged; conjugate gradients; or conjugate gradients on the Gauss-Newton matrix, which then
    make its inner steps too, each of which goes far nearer the minimum and has no learning rate."""
    newton_steps: Count = 1
    """How many such steps iMAML takes in meta-training, in place of `steps`."""
    solver_steps: Count = 10
    """Terms of the series, or iterations of conjugate gradients."""
    coupling: float = Field(default=0.0, ge=0, le=1)
    """How far past actions share in what comes of later ones, in environments: with 1 the derivative of a policy's
    inner step is unbiased (DiCE), with 0 it has less variance, for which fewer rollouts do."""
    perturbation: Rate = 0.05
    """Standard deviation of what es_maml adds to meta-parameters, in environments."""
    pairs: Count = 1
    """Antithetic pairs of such perturbations for each task."""


class ChildrenConfig(Section):
    """Child models that are trained by a learned optimizer (source children); `[task]` says how many examples each has
    in all."""

    trained: tuple[str, ...] = ("mlp 16", "mlp 32")
    """The kinds of children in meta-training: mlp (of n-grams) or transformer (of bytes), and the width of each layer.
    An equal share of the tasks of a step goes to each."""
    judged: str = "mlp 48 48"
    """The kind of children in judgement."""
    languages: Count = 4
    """Languages that a child learns at once."""
    batch_size: Count = 16
    """Examples in a step of a child."""
    estimator: Literal["truncated_backprop", "persistent_evolution", "evolution"] = "truncated_backprop"
    """How the outer gradient is found."""
    window: Count = 20
    """Steps of a child in one outer step (not of evolution, which takes all)."""
    horizon: Count = 100
    """Steps of a child in meta-training; how many it takes in judgement is said by `evaluate.steps`."""
    scale: Rate = 0.01
    """Standard deviation of the perturbations of evolution strategies."""
    pairs: Count = 1
    """Antithetic pairs of perturbations for each child."""
    width: Count = 16
    """Of the two hidden layers of the learned optimizer."""


class GeneratorConfig(Section):
    """What meta-networks generate for a task, from what is told of it without labels."""

    rank: Count = 4
    """Of the adapters."""
    size: Count = 16
    """Numbers of the code that a task is told to the generator by."""
    reads: Literal["auto", "features"] = "auto"
    """What is told of a task: features, the mean of the model's features over the support; auto: where texts are
    classified, their descriptor (scripts, hashed n-grams, families), and features elsewhere."""
    families: dict[str, str] = {}
    """The family of each language that has one, for the descriptor: `{fin_Latn = "Uralic"}`."""
    gates: bool = True
    """Whether an architecture is generated too: which ranks of which adapters, and of a Transformer of texts which
    blocks, heads and hidden units."""
    cost_weight: float = Field(default=0.01, ge=0)
    """How much the expected size of what is generated, as a share of all, counts beside the loss."""
    centre: bool = True
    """Whether answers are centred over the support, without its labels, so that they have no lean to some classes."""
    learning_rate: Rate = 0.01
    """Of the inner optimizer (Adam) during meta-training, on the adapters."""
    learning_rates: tuple[float, ...] = (1e-2, 3e-2, 1e-1)
    """Inner learning rates (Adam, on the adapters) tried on the dev languages."""


TextSearch = Literal["greedy", "beam", "sample"]


class DecodeConfig(Section):
    """How a model answers in words: what it writes (translation, summaries, generation), or finds (question answering).

    `jaxmeta predict` takes the same options.
    """

    search: TextSearch = "greedy"
    """The likeliest token each time; the best of several continuations; or tokens at random."""
    beams: Count = 4
    """Continuations that are kept of each text (beam)."""
    length_penalty: float = Field(default=0.6, ge=0)
    """0 takes the likeliest text, more a longer one (beam)."""
    temperature: Rate = 1.0
    """What logits are divided by (sample)."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Probability of the nucleus that tokens are drawn from; 1: of all (sample)."""
    seed: int = 0
    """Of the random numbers (sample)."""
    answers: Count = 1
    """How many answers to a question `predict` prints, with the share of each among them; of retrieval how many of the
    nearest texts, with their cosines."""


class GradientConfig(Section):
    """How the gradient of meta-learners is computed where it goes through inner steps; what they learn stays the same.

    `jaxmeta plan` measures which is the fastest that fits.
    """

    strategy: Literal["auto", "reverse", "forward_over_reverse", "linearized"] = "forward_over_reverse"
    """How inner gradients are differentiated; auto measures before training, and chooses the next three keys too."""
    memory: str = "none"
    """What is kept for the outer derivative: none, products, per_step, nested, offload, truncated(n)."""
    task_axis: str = "auto"
    """How many tasks are worked on at once: vmap, chunked(n), sequential, auto."""
    unroll: Count | Literal["auto"] = "auto"
    """Inner steps that are compiled one after another instead of as a loop; auto: all of few steps of a tiny task."""
    microbatches: Count = 1
    """Parts that a support is cut into for an inner gradient, one after another (where a loss is a mean over examples:
    of classes and of numbers)."""
    rows: str = ""
    """Embedding tables adapted by the rows that an episode reads, as a regular expression of names; empty: whole."""


class TransferConfig(Section):
    """Knowledge transfer: what holds a source model that adapts to its shots, and what it reads beside them."""

    strengths: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Strengths of the transfer term tried on the dev languages, each with fewer learning rates than fine-tuning tries,
    so that all of them together are no more settings."""
    temperature: Rate = 2.0
    """Of the answers that distillation compares."""
    unfreeze: tuple[str, ...] = (AUTO,)
    """Groups of parameters that gradual unfreezing begins with, in this order, as regular expressions of names; what is
    in none comes last. auto: the last layer, then the blocks from the last to the first."""
    unfreeze_every: Count = 5
    """Inner steps between two groups."""
    sources: Count = 3
    """Source languages that nearest_sources replays: those whose texts are nearest to the target's."""


class EvaluateConfig(Section):
    """The judgement."""

    metric: str = AUTO
    """The score, such as accuracy, recall_at_1 or bits_per_byte; auto: the usual one of the kind of task."""
    methods: tuple[str, ...] = (AUTO,)
    """Which methods are trained and judged; auto: those that suit the kind of task."""
    main: str = AUTO
    """The method that `jaxmeta adapt` uses; auto: the one that suits the kind of task, or the last that is trained."""
    draws: Count = 3
    """Draws of shots for each test language."""
    dev_draws: Count = 1
    """Draws of shots for each dev language."""
    steps: tuple[int, ...] = (0, 5, 10, 20, 40)
    """Inner steps tried on the dev languages."""
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Inner learning rates (Adam) tried on the dev languages by methods that fine-tune."""
    head_learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    """Inner learning rates (Adam) tried on the dev languages for a new head on frozen features."""
    sgd_learning_rates: tuple[float, ...] = (0.05, 0.1, 0.2)
    """Inner learning rates tried on the dev languages by methods that were meta-trained with SGD."""
    shot_curve: tuple[int, ...] = (1, 2, 4)
    """Shots of the score-against-shots figure, as far as the data have them; empty for no such figure."""
    curve_methods: tuple[str, ...] = (AUTO,)
    """The methods in that figure; auto: a few that suit the kind of task."""
    temperature_methods: tuple[str, ...] = (AUTO,)
    """The methods whose calibration is shown before and after a temperature that is fitted inside the support divides
    their logits (classification); auto: tfidf and the main one; empty for none."""
    guard_methods: tuple[str, ...] = ()
    """The methods for which folds inside the support say where target_only, which must be judged too, would do better
    (classification, with two shots at least)."""
    similarity: bool = False
    """Whether languages are compared by task gradients and by what adaptation changes too; texts always are."""
    leave_out: tuple[str, ...] = ()
    """Source languages to train the main method without, one at a time: names, "nearest" for the one nearest to each
    judged language by its text, or "each"."""
    manifest: str = ""
    """A file of problems, as `jaxmeta data manifest` writes it, to judge on; empty: those that follow from the seed."""
    max_queries: Count = 96
    """Most test rows of a language."""
    tasks_at_once: Count = 4
    """Tasks that are adapted side by side."""


class Config(Section):
    """A whole run."""

    name: str = Field(default="cldr_months", pattern=r"^\w[\w.-]*$")
    """Names the run and its folder."""
    seed: int = Field(default=0, ge=0)
    """Everything random follows from it."""
    task: TaskConfig = TaskConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    inner: InnerConfig = InnerConfig()
    children: ChildrenConfig = ChildrenConfig()
    generator: GeneratorConfig = GeneratorConfig()
    decode: DecodeConfig = DecodeConfig()
    gradient: GradientConfig = GradientConfig()
    transfer: TransferConfig = TransferConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
