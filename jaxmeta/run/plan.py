"""What a run consists of: phases of training, methods to judge, and how tasks are judged."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxmeta.core.types import (
    ArrayTree,
    Batch,
    Episode,
    LearnerState,
    MetaAlgorithm,
    MetaLearner,
    MetaParams,
    Objective,
    TaskState,
)

META, BASELINE = "meta-learner", "baseline"


class Phase(NamedTuple):
    """A stretch of training; several methods may start from, or be read off, the same one."""

    name: str
    learner: MetaLearner
    steps: int
    examples_per_step: int  # examples read in a step, for the progress bar
    gradients_per_step: float  # gradient examples a step costs: one is the gradient of one example's loss
    start_from: str | None = None  # an earlier phase whose parameters this one starts with
    augmented: bool = False  # whether its episodes are augmented, where the tasks know how


class Pulled(NamedTuple):
    """A learning rate beside the strength of what holds adaptation to its source model: chosen together."""

    learning_rate: Any
    strength: Any


Rate = float | Pulled


def told(rate: Rate) -> dict[str, float]:
    """Returns what a record says of a rate."""
    return rate._asdict() if isinstance(rate, Pulled) else {"learning_rate": rate}


def rate_of(record: Mapping[str, Any]) -> Rate:
    """Returns the rate that a record tells of."""
    rate, strength = record["learning_rate"], record.get("strength")
    return rate if strength is None else Pulled(rate, strength)


# (meta-parameters, the state that a task begins with) -> numbers [] by name
Tells = Callable[[MetaParams, TaskState], Mapping[str, jax.Array]]


class Method(NamedTuple):
    """A way to learn a new task from shots.

    `build(learning_rate)` may be called with a traced learning rate, so that one compilation serves every rate tried.
    """

    name: str
    kind: str  # META or BASELINE
    phase: str | None  # whose meta-parameters it starts from; None: nothing was trained
    build: Callable[[Any], MetaAlgorithm]
    learning_rates: tuple[Rate, ...]  # tried on the dev languages, in this order
    steps: tuple[int, ...]  # inner steps tried, ascending
    gradients_per_step: float = 0.0  # gradient examples of one inner step
    complete: Callable[[MetaParams], MetaParams] = lambda meta_params: meta_params  # adds what its phase did not train
    tells: Tells | None = None  # what there is to report of a task state beside its answers


class Classical(NamedTuple):
    """A baseline outside JAX: reads the texts of a problem, answers with what the readout counts on its query."""

    name: str
    setting: str  # what it calls the one number that is chosen on the dev languages
    values: tuple[float, ...]  # of that number, tried in this order
    counts: Callable[[float, str, int, int, str], ArrayTree]  # (value, *cell) -> counts
    # Of classification: (value, *cell, held out) -> logits and the batch they are of: the query, or those shots that
    # `held out` says of their labels, by the others.
    logits: Callable[..., tuple[np.ndarray, Batch]] | None = None


class Tasks(Protocol):
    """Where tasks come from, for training and for judgement."""

    unit: str  # what a task is of, and scores are averaged over: "language", "speaker", "wave"

    def batches(self, seed: int, first: int, *, augmented: bool) -> Callable[[int], Iterator[Episode]]:
        """Returns what `train_phase` takes as `make_batches`, for a phase whose first step is number `first`."""
        ...

    def languages(self, split: str) -> Sequence[str]:
        """Returns the names of the tasks that are judged in `split`, "dev" or "test"."""
        ...

    def episode(self, language: str, *, shots: int, draw: int, split: str) -> Episode:
        """Returns one few-shot problem."""
        ...


class Cell(NamedTuple):
    """Which few-shot problem it is: what `Tasks.episode` was asked for."""

    language: str
    shots: int
    draw: int
    split: str


class Readout(NamedTuple):
    """What is made of an adapted state: something is read off on the device, and counted and scored on the host.

    Most kinds of tasks are judged by what their objective counts (`readout_of`). Others write text, or have to choose
    among several windows, and texts are compared on the host.
    """

    read: Callable[[MetaAlgorithm, MetaParams, TaskState, Batch], ArrayTree]  # jitted; its last argument is the query
    counts: Callable[[ArrayTree, Cell], ArrayTree]  # (what `read` returned, as numpy, whose it is) -> sums
    scores: Callable[[ArrayTree], dict[str, float]]  # of such sums, or of a sum of them
    # Of classification, whose `read` has "logits": (logits, query) -> counts.
    of_logits: Callable[[ArrayTree, Batch], ArrayTree] | None = None


def answers_to(query: Batch, algorithm: MetaAlgorithm, meta_params: MetaParams, state: TaskState) -> ArrayTree:
    """Returns what an adapted state answers to a query, whose inputs say something themselves where a learner asks."""
    if algorithm.transduce is not None:
        state = algorithm.transduce(meta_params, state, query)
    return algorithm.predict(meta_params, state, query["inputs"])


def readout_of(objective: Objective) -> Readout:
    """Returns the judgement by what an objective counts of the query as one batch."""

    def read(algorithm, meta_params, state, query):
        return objective.counts(answers_to(query, algorithm, meta_params, state), query)

    return Readout(read, lambda counts, cell: counts, objective.scores)


class Judging(NamedTuple):
    """How methods are judged."""

    metric: str  # a score of the readout
    higher_is_better: bool
    shots: int
    draws: int
    dev_draws: int
    shot_curve: tuple[int, ...]  # numbers of shots beside `shots`
    curve_methods: tuple[str, ...]  # the methods whose score against shots is drawn
    tasks_at_once: int
    temperature_methods: tuple[str, ...] = ()  # whose calibration is shown with temperatures
    guard_methods: tuple[str, ...] = ()  # that are compared with `target_only` by folds inside the support


class Experiment(NamedTuple):
    """A whole run, ready to go."""

    name: str
    seed: int
    training_seeds: tuple[int, ...]
    phases: tuple[Phase, ...]
    methods: tuple[Method, ...]
    classical: tuple[Classical, ...]
    main: str  # the method that `adapt` uses; its phase's parameters are the run's result
    tasks: Tasks
    readout: Readout
    judging: Judging
    log_every: int
    save_every: int
    data_facts: dict[str, Any]  # overlap report, tokenizer statistics: for the report
    at_once: int = 1  # phases that are trained at the same time


def chain_of(phases: Sequence[Phase], name: str | None) -> list[Phase]:
    """Returns the phase called `name` and all that it builds on, the first one first."""
    by_name = {phase.name: phase for phase in phases}
    chain: list[Phase] = []
    while name is not None:
        chain.insert(0, by_name[name])
        name = by_name[name].start_from
    return chain


def steps_before(phases: Sequence[Phase], phase: Phase) -> int:
    """Returns how many steps the phases took that `phase` builds on: it goes on there, and meets no episode twice."""
    return sum(link.steps for link in chain_of(phases, phase.start_from))


def warm_started(state: LearnerState, meta_params: MetaParams) -> LearnerState:
    """Returns a fresh state with the parameters of an earlier phase; scales, ridges and rates stay as they began."""
    return state._replace(meta_params={**state.meta_params, "params": meta_params["params"]})


def training_cost(phases: Sequence[Phase], name: str | None) -> float:
    """Returns the gradient examples that training a phase took, with all that it builds on."""
    return sum(phase.steps * phase.gradients_per_step for phase in chain_of(phases, name))
