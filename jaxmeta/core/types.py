"""The contracts of the library: what an episode, a model, an algorithm and an estimator are.

Shapes: `T` tasks, `S` support examples, `Q` query examples, `N` examples of either, `K` inner steps, `C` classes.
Every callable sees *one* task; the estimators add the task axis. Keys come first and are consumed.

A *batch* of examples is a dict whose every leaf has the example axis first:

    inputs   [N, ...]   what the model reads (an array or a tree of arrays)
    targets  [N, ...]   what it should answer: int classes, floats for regression, a tree; retrieval has none
    mask     [N]        optional, bool: False marks padding (absent: every example is real)
    classes  [N, C]     optional, bool: the classes that exist in this task (absent: all of them)
    source_class [N]    optional, int: in meta-training, the class among those of all tasks, where `targets` are named
                        anew in every task; joint training reads it
    near     [N, M]     optional, int: in a support, the numbers of the source languages nearest to the task's
    descriptor [N, P]   optional, floats: what is told of the examples without their labels; meta-networks read it
    group    [N]        optional, int: in retrieval, examples whose right sides are equally right for each other

Because all leaves share the example axis, batches can be padded, joined, shuffled and cut without knowing more.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

ArrayTree = Any  # any pytree of arrays
Key = jax.Array  # a typed key from `jax.random.key`
Batch = Mapping[str, ArrayTree]
Metrics = dict[str, jax.Array]
MetaParams = ArrayTree  # everything the outer optimizer updates
TaskState = ArrayTree  # everything adaptation changes

PADDING = 0  # the token that stands where a sequence has ended
# The logit of what cannot be: far enough for a probability of exactly zero, and finite so that no derivative is NaN.
IMPOSSIBLE = -1e9


class Episode(NamedTuple):
    """One task: examples to adapt on, and examples to be judged on. With a leading task axis, a batch of tasks."""

    support: Batch  # leaves [S, ...]
    query: Batch  # leaves [Q, ...]


class Mixing(NamedTuple):
    """What else has a say in every token that a model writes, given those right before it: a memory, say."""

    read: int  # R, how many tokens before it reads
    # (logits [N, B, V], the tokens before [N, B, R], 0 where there are fewer) -> logits [N, B, V]
    mixed: Callable[[jax.Array, jax.Array], jax.Array]


class Model(NamedTuple):
    """A parametric function as a pair of pure functions, whatever library it was written in.

    `features` gives the representation under the last layer, `[N, D]`; metric and closed-form heads read it. A model
    without one (None) is read through `apply`.

    `generate` writes sequences, 0 from their end on. An algorithm that is built on
    `model._replace(apply=model.generate)` has a `predict` that decodes with adapted parameters. Bundled models take a
    `Mixing` as its third argument.
    """

    init: Callable[[Key, ArrayTree], ArrayTree]  # (key, inputs [N, ...]) -> params
    apply: Callable[[ArrayTree, ArrayTree], ArrayTree]  # (params, inputs [N, ...]) -> outputs [N, ...]
    features: Callable[[ArrayTree, ArrayTree], jax.Array] | None = None
    generate: Callable[..., jax.Array] | None = None  # (params, inputs) -> tokens [N, M] int32


class Objective(NamedTuple):
    """What a task asks of the outputs.

    `loss` is a mean over the real examples, or over what they consist of (tokens). `counts` are sufficient statistics
    that may be *summed* over batches, so that a score over many batches (macro-F1, calibration) is exact; `scores`
    turns a sum of them into named numbers.
    """

    loss: Callable[[ArrayTree, Batch], tuple[jax.Array, Metrics]]
    counts: Callable[[ArrayTree, Batch], ArrayTree]
    scores: Callable[[ArrayTree], dict[str, float]]


class Actions(NamedTuple):
    """What can be done, and how a policy's outputs for an observation say how likely each of it is."""

    draw: Callable[[Key, ArrayTree], jax.Array]  # (key, outputs of one observation) -> an action
    log_prob: Callable[[ArrayTree, jax.Array], jax.Array]  # (outputs [..., A], actions [..., ...]) -> [...]
    entropy: Callable[[ArrayTree], jax.Array]  # outputs [..., A] -> [...], in nats
    size: int  # A, the numbers in a continuous action, or how many discrete ones there are
    vector: Callable[[jax.Array], jax.Array]  # actions [..., ...] -> [..., A] floats, for a policy that reads them
    discrete: bool


class Environment(NamedTuple):
    """A decision process as pure functions of one rollout; what differs between tasks is an argument.

    In a batch a rollout is an example: `inputs` are `{"task": leaves [N, ...], "seed": [N] int32}`.
    """

    horizon: int  # H, steps after which a rollout ends
    actions: Actions
    draw: Callable[[Key], ArrayTree]  # key -> task
    reset: Callable[[Key, ArrayTree], ArrayTree]  # (key, task) -> state
    observe: Callable[[ArrayTree, ArrayTree], jax.Array]  # (task, state) -> observation [O]
    step: Callable[..., tuple[ArrayTree, jax.Array, jax.Array]]  # (key, task, state, action) -> (state, reward, done)


class Stationary(NamedTuple):
    """What adaptation minimises, for estimators that differentiate the minimum and not the way to it."""

    field: str  # the part of the task state, a named tuple, that is the minimum
    objective: Callable[[MetaParams, ArrayTree, Batch], jax.Array]  # (meta_params, that part, support) -> scalar
    # The same arguments -> the gradient of that, and products with its Gauss-Newton matrix (`core.curvature`).
    gauss_newton: Callable[[MetaParams, ArrayTree, Batch], tuple[ArrayTree, Callable[[ArrayTree], ArrayTree]]]


class MetaAlgorithm(NamedTuple):
    """A meta-learner as five pure functions of one task.

    `step` returns the same tree, shapes and dtypes that it was given, so that it can be scanned.
    """

    init: Callable[[Key, Episode], MetaParams]
    begin: Callable[[Key, MetaParams, Batch], TaskState]
    step: Callable[[Key, MetaParams, TaskState, Batch], tuple[TaskState, Metrics]]
    loss: Callable[[Key, MetaParams, TaskState, Batch], tuple[jax.Array, Metrics]]
    predict: Callable[[MetaParams, TaskState, ArrayTree], ArrayTree]
    # Optional: an exact smaller form of one task, `(meta_params, episode) -> (own, episode)`. Where `own` is not None
    # it stands for that part of the meta-parameters in this task (the rows of a table that the episode reads).
    compact: Callable[[MetaParams, Episode], tuple[ArrayTree, Episode]] | None = None
    # Optional, of transductive learners: `(meta_params, task_state, query) -> task_state`, what the inputs of a whole
    # query say of the task. It reads no targets. `loss` does so by itself; `predict` answers by the state it is given.
    transduce: Callable[[MetaParams, TaskState, Batch], TaskState] | None = None
    # Optional: where adaptation goes down to a minimum that the meta-parameters place.
    stationary: Stationary | None = None


class GradientEstimator(NamedTuple):
    """How the outer gradient is estimated from a batch of tasks (leaves `[T, S, ...]` and `[T, Q, ...]`)."""

    init: Callable[[Key, MetaParams, Episode], ArrayTree]
    estimate: Callable[[Key, MetaParams, ArrayTree, Episode], tuple[MetaParams, ArrayTree, Metrics]]


class LearnerState(NamedTuple):
    """All that training carries from step to step; all arrays; this is the checkpoint."""

    step: jax.Array  # [] int32
    key: jax.Array  # [2] uint32: key data, so that any serializer can write it
    meta_params: MetaParams
    opt_state: ArrayTree
    estimator_state: ArrayTree


class MetaLearner(NamedTuple):
    """A pair of pure functions that train an algorithm."""

    init: Callable[[Key, Episode], LearnerState]  # an episode batch: leaves [T, ...]
    update: Callable[[LearnerState, Episode], tuple[LearnerState, Metrics]]


class TaskDistribution(Protocol):
    """Episodes by number: pure in `(seed, split, index)`, so resuming and sharding need no hidden state."""

    def __call__(self, index: int, *, split: str) -> Episode:
        """Returns the `index`-th episode of `split`; leaves are numpy arrays `[S, ...]` and `[Q, ...]`."""
        ...
