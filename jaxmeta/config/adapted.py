"""A trained run adapted to a user's own language, on disk and back."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pydantic

from jaxmeta import data
from jaxmeta.config.answering import Support, blank_support, read_support
from jaxmeta.config.generating import ZERO_SHOT, described
from jaxmeta.config.kinds import RECORDED, kind_of
from jaxmeta.config.methods import phases_and_methods
from jaxmeta.config.read import changed
from jaxmeta.config.schema import Config
from jaxmeta.config.setting import make_setting
from jaxmeta.config.speech_tasks import transcript_tokenizer
from jaxmeta.config.spoken import blank_spoken, read_spoken
from jaxmeta.core.adapt import adapt as adapt_task
from jaxmeta.core.checks import InputError
from jaxmeta.core.trees import leading_size
from jaxmeta.core.types import ArrayTree, Batch, Episode
from jaxmeta.data import Tokenizer
from jaxmeta.run.checkpoint import Checkpoints
from jaxmeta.run.experiment import as_expected, checkpoints_of
from jaxmeta.run.files import write_json
from jaxmeta.run.plan import Method, rate_of, told
from jaxmeta.run.records import read_evaluation

ROWS = 64  # examples that are answered at once; one shape, one compilation
_YOURS = ""  # the code of the user's language, which no family of the run is that of
COMPILED = "model.stablehlo"  # in the place of the state: the model as a program of its own


class _Task(pydantic.BaseModel):
    """What `task.json` holds."""

    labels: list[str] = []
    tokenizer: dict[str, Any] | None  # None: it reads recordings, and at most their transcripts


class _LabelledTask(_Task):
    """The same of classification."""

    labels: list[str] = pydantic.Field(min_length=2)


class _AdaptedTask(_Task):
    """What `adapted.json` holds."""

    config: Config
    method: str
    examples: pydantic.PositiveInt
    learning_rate: float
    strength: float | None = None  # of what holds adaptation to its source model
    steps: int
    words: dict[str, str] = {}


_Facts = TypeVar("_Facts", bound=_Task)


class Adapted(NamedTuple):
    """A model of a user's language."""

    config: Config  # of the run
    labels: list[str]  # C of them, none but for classification and recordings
    tokenizer: Tokenizer | None  # None: it reads recordings
    # (inputs, leaves [ROWS, ...], and which rows are real [ROWS] bool) -> outputs, leaves [ROWS, ...]
    rows: Callable[[ArrayTree, np.ndarray], ArrayTree]
    words: dict[str, str]  # what the lexicon of the examples exchanges, of translations


def write_task(folder: pathlib.Path, labels: Sequence[str], tokenizer: Tokenizer | None) -> None:
    """Writes `task.json`: what a model of this run reads and answers."""
    write_json(folder / "task.json", {"labels": list(labels), "tokenizer": tokenizer and tokenizer.state()})


def adapt(folder: pathlib.Path, config: Config, shots: str, target: pathlib.Path, name: str, family: str = "") -> str:
    """Adapts method `name` of the run in `folder` to the examples in the file `shots`, with the settings that did best
    on the run's dev languages, and writes the result to `target`.

    Of a method that reads no labels the file needs none. `family`, if given, is that of the language, for descriptors.

    Returns:
      What was done, in a sentence or a few.

    Raises:
      InputError: the run, the method or the file is unusable.
    """
    if family and (not described(config) or family not in config.generator.families.values()):
        known = sorted(set(config.generator.families.values())) if described(config) else []
        raise InputError(
            f"--family {family}: this run knows {', '.join(known) or 'no families'}; leave it out, or name one of them."
        )
    labelled, spoken = config.task.kind == "classification", config.task.source in RECORDED
    remedy = "only a run on text or recordings can be adapted to a file"
    task, tokenizer = _read(folder / "task.json", _LabelledTask if labelled or spoken else _Task, remedy)
    labels = task.labels
    if spoken:
        found = read_spoken(config, labels, shots)
    elif tokenizer is None:
        raise InputError(f"{folder / 'task.json'} is damaged (`tokenizer`: none); train again.")
    elif labelled:
        if name == ZERO_SHOT:
            texts, targets = data.read_unlabelled(shots), None
        else:
            corpus = data.read_shots(shots, labels)
            texts, targets = corpus.text, corpus.label
        found = Support(_batch(config, tokenizer, texts, len(labels), targets, family), list(texts))
    else:
        found = read_support(config, tokenizer, shots)
    support, count = found.batch, len(found.batch["mask"])
    method = _method(config, labels, tokenizer, name)
    chosen = read_evaluation(folder)["methods"].get(name, {}).get("adaptation")
    if not isinstance(chosen, dict) or not {"learning_rate", "steps"} <= chosen.keys():
        raise InputError(f"{folder / 'evaluation.json'} has no settings for {name}; run `jaxmeta evaluate {folder}`.")
    meta_params: Any = {}
    if method.phase is not None:
        with checkpoints_of(folder, config.seed, method.phase) as checkpoints:
            meta_params = jax.tree.map(jnp.asarray, checkpoints.read().tree["meta_params"])
        meta_params = method.complete(meta_params)
    algorithm = method.build(rate_of(chosen))
    if method.phase is not None:
        expected = jax.eval_shape(algorithm.init, jax.random.key(0), Episode(support, support))
        meta_params = as_expected(folder, method.complete(expected), meta_params)
    run = jax.jit(
        lambda key, params, support: adapt_task(algorithm, key, params, support, num_steps=chosen["steps"])[0]
    )
    task_state = run(jax.random.key(config.seed), meta_params, support)
    target.mkdir(parents=True)
    with Checkpoints(target / "state") as checkpoints:
        checkpoints.save(0, {"meta_params": meta_params, "task_state": task_state})
    write_json(
        target / "adapted.json",
        {
            "config": config.model_dump(mode="json"),
            "labels": labels,
            "tokenizer": tokenizer and tokenizer.state(),
            "method": name,
            "examples": count,
            **told(rate_of(chosen)),
            "steps": chosen["steps"],
            "words": dict(found.words),
        },
    )
    read = labelled and name != ZERO_SHOT
    missing = sorted(set(labels) - {labels[i] for i in support["targets"]}) if read else []
    how = f"in {chosen['steps']} steps" if chosen["steps"] else "without a gradient step"
    sentences = [f"Adapted {name} to {count} examples {how}."]
    if missing:
        sentences.append(f"No example is labelled {', '.join(missing)}.")
    if tokenizer is not None and (note := cut_note(tokenizer, found.texts)):
        sentences.append(note)
    return " ".join(sentences)


def load(folder: pathlib.Path, decode: Mapping[str, Any] = MappingProxyType({})) -> Adapted:
    """Reads the adapted or exported model in `folder`.

    Args:
      folder: which it is in.
      decode: keys of the config's table `[decode]` that it is to answer by instead of those of its run.

    Raises:
      InputError: the folder is not one that `adapt` or `export` wrote, or is damaged, or its model does not answer by
        what `decode` names.
    """
    facts, tokenizer = _read(folder / "adapted.json", _AdaptedTask, "name a folder that `jaxmeta adapt` wrote")
    compiled = folder / COMPILED
    if decode:
        facts = facts.model_copy(update={"config": _decoding(facts.config, decode, compiled)})
    rows = read_compiled(compiled) if compiled.exists() else _restored(folder, facts, tokenizer)
    return Adapted(facts.config, facts.labels, tokenizer, rows, facts.words)


def _decoding(config: Config, decode: Mapping[str, Any], compiled: pathlib.Path) -> Config:
    written = sorted(set(decode) - {"answers"})
    if "answers" in decode and config.task.kind not in ("question_answering", "retrieval"):
        raise InputError(
            "--answers is for a model that answers questions or finds texts, and this one does not; leave it out."
        )
    if written and not kind_of(config).writes:
        raise InputError(f"--{written[0]} is for a model that writes text, and this one does not; leave it out.")
    if written and compiled.exists():
        raise InputError(
            f"{compiled} writes by the search that it was exported with; name the folder that `jaxmeta adapt` wrote."
        )
    return changed(config, {f"decode.{key}": value for key, value in decode.items()}, "the command line")


def read_compiled(path: pathlib.Path) -> Callable[[ArrayTree, np.ndarray], ArrayTree]:
    """Reads a model that `jaxmeta.config.exported` wrote.

    Raises:
      InputError: it is damaged, or was not compiled for this kind of device.
    """
    try:
        found = jax.export.deserialize(bytearray(path.read_bytes()))
    except ImportError:
        raise InputError(f"{path} is read by flatbuffers; `pip install 'jaxmeta[export]'` brings it.") from None
    except Exception as error:  # whatever flatbuffers stumbles over
        raise InputError(f"{path} is damaged ({type(error).__name__}); export the model again.") from None
    platform = jax.default_backend()
    if platform not in found.platforms and not (platform == "gpu" and {"cuda", "rocm"} & set(found.platforms)):
        raise InputError(
            f"{path} runs on {', '.join(found.platforms)}, and this is {platform}; export the model with "
            f"--platforms {platform}."
        )
    return found.call


def _restored(folder: pathlib.Path, facts: "_AdaptedTask", tokenizer: Tokenizer | None):
    labels = facts.labels
    method = _method(facts.config, labels, tokenizer, facts.method)
    algorithm = method.build(rate_of(facts.model_dump()))

    def like_saved(key, support):
        episode_params = method.complete(algorithm.init(key, Episode(support, support)))
        return {"meta_params": episode_params, "task_state": algorithm.begin(key, episode_params, support)}

    if tokenizer is None:
        support = blank_spoken(facts.config, len(labels), facts.examples)
    elif labels:
        support = _batch(facts.config, tokenizer, [""] * facts.examples, len(labels))
    else:
        support = blank_support(facts.config, tokenizer, facts.examples)
    with Checkpoints(folder / "state") as checkpoints:
        saved = checkpoints.latest(jax.eval_shape(like_saved, jax.random.key(0), support))
    if saved is None:
        raise InputError(f"{folder} has lost its state; run `jaxmeta adapt` again.")
    tree, transduce = saved.tree, algorithm.transduce

    @jax.jit
    def run(tree, inputs, mask):
        state = tree["task_state"]
        if transduce is not None:
            state = transduce(tree["meta_params"], state, {"inputs": inputs, "mask": mask})
        return algorithm.predict(tree["meta_params"], state, inputs)

    return lambda inputs, mask: run(tree, inputs, mask)


def predict(model: Adapted, texts: Sequence[str]) -> np.ndarray:
    """Returns the probability of each label for each text, `[N, C]`."""
    assert model.tokenizer is not None
    return np.asarray(jax.nn.softmax(outputs(model, model.tokenizer.encode(texts))))


def outputs(model: Adapted, inputs: ArrayTree) -> ArrayTree:
    """Returns what an adapted model answers to inputs `[N, ...]`, as numpy.

    A transductive one sees a call at a time, 64 inputs in the order of the file.
    """
    count = leading_size(inputs)
    # Rows that fill up the last call repeat the first one.
    places = np.arange(-(-count // ROWS) * ROWS)
    real = (places < count).reshape(-1, ROWS)
    places = np.where(places < count, places, 0).reshape(-1, ROWS)
    calls = zip(places, real, strict=True)
    parts = [jax.device_get(model.rows(jax.tree.map(lambda leaf, p=p: leaf[p], inputs), m)) for p, m in calls]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


def cut_note(tokenizer: Tokenizer, texts: Sequence[str]) -> str:
    """Returns a sentence that says how many texts the tokenizer cut, and nothing where it cut none."""
    cut = data.count_cut(tokenizer, texts)
    if not cut:
        return ""
    were = "was" if cut == 1 else "were"
    return f"{cut} of {len(texts)} texts {were} longer than {tokenizer.length} tokens and {were} cut."


def _method(config: Config, labels: Sequence[str], tokenizer: Tokenizer | None, name: str) -> Method:
    reader = tokenizer or transcript_tokenizer(config)
    setting = make_setting(config, classes=len(labels) or 1, vocab_size=reader.vocab_size if reader else 0)
    methods = {method.name: method for method in phases_and_methods(setting)[1]}
    if name not in methods:
        raise InputError(f"--method: this run has no method {name!r} to adapt; it has {', '.join(methods)}.")
    return methods[name]


def _batch(
    config: Config, tokenizer: Tokenizer, texts: Sequence[str], num_classes: int, targets: np.ndarray | None = None,
    family: str = "",
) -> Batch:  # fmt: skip
    count = len(texts)
    batch = {
        "inputs": tokenizer.encode(texts),
        "targets": np.zeros(count, np.int32) if targets is None else np.asarray(targets, np.int32),
        "mask": np.ones(count, bool),
        "classes": np.ones((count, num_classes), bool),
    }
    if not described(config):
        return batch
    families = {**config.generator.families, **({_YOURS: family} if family else {})}
    return {**batch, "descriptor": data.describe(texts, [_YOURS] * len(texts), families)}


def _read(path: pathlib.Path, kind: type[_Facts], remedy: str) -> tuple[_Facts, Tokenizer | None]:
    try:
        facts = kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
        return facts, None if facts.tokenizer is None else data.tokenizer_from_state(facts.tokenizer)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"There is no {path}; {remedy}.") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        reason = f"`{'.'.join(map(str, first['loc']))}`: {first['msg'].lower()}"
    except (json.JSONDecodeError, UnicodeDecodeError, InputError) as error:
        reason = str(error)
    raise InputError(f"{path} is damaged ({reason}); write it again with the command that made it.")
