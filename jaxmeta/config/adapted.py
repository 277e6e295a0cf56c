"""A trained run adapted to a user's own language, on disk and back."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import data, objectives
from jaxmeta.config.build import make_model
from jaxmeta.config.methods import Setting, phases_and_methods
from jaxmeta.config.schema import Config
from jaxmeta.core.adapt import adapt as adapt_task
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Batch, Episode
from jaxmeta.data import Tokenizer
from jaxmeta.run.checkpoint import Checkpoints
from jaxmeta.run.experiment import checkpoints_of
from jaxmeta.run.plan import Method
from jaxmeta.run.records import read_evaluation

_ROWS = 64  # texts that are labelled at once; one shape, one compilation


def write_task(folder: pathlib.Path, labels: Sequence[str], tokenizer: Tokenizer) -> None:
    """Writes `task.json`: what a model of this run reads and answers."""
    _write_json(folder / "task.json", {"labels": list(labels), "tokenizer": tokenizer.state()})


def adapt(folder: pathlib.Path, config: Config, shots: str, target: pathlib.Path, name: str) -> str:
    """Adapts method `name` of the run in `folder` to the examples in the file `shots`, with the settings that did best
    on the run's dev languages, and writes the result to `target`.

    Returns:
      A sentence that says what was done.

    Raises:
      InputError: the run, the method or the file is unusable.
    """
    labels, tokenizer = _read_task(folder)
    corpus = data.read_shots(shots, labels)
    method = _method(config, labels, tokenizer, name)
    chosen = read_evaluation(folder)["methods"].get(name, {}).get("adaptation")
    if chosen is None:
        raise InputError(f"{folder / 'evaluation.json'} has no settings for {name}; run `jaxmeta evaluate {folder}`.")
    support = _batch(tokenizer.encode(corpus.text), len(labels), corpus.label)
    meta_params: Any = {}
    if method.phase is not None:
        with checkpoints_of(folder, config.seed, method.phase) as checkpoints:
            meta_params = jax.tree.map(jnp.asarray, checkpoints.read().tree["meta_params"])
        meta_params = method.complete(meta_params)
    algorithm = method.build(chosen["learning_rate"])
    run = jax.jit(
        lambda key, params, support: adapt_task(algorithm, key, params, support, num_steps=chosen["steps"])[0]
    )
    task_state = run(jax.random.key(config.seed), meta_params, support)
    target.mkdir(parents=True)
    with Checkpoints(target / "state") as checkpoints:
        checkpoints.save(0, {"meta_params": meta_params, "task_state": task_state})
    _write_json(
        target / "adapted.json",
        {
            "config": config.model_dump(mode="json"),
            "labels": list(labels),
            "tokenizer": tokenizer.state(),
            "method": name,
            "examples": len(corpus),
            "learning_rate": chosen["learning_rate"],
            "steps": chosen["steps"],
        },
    )
    missing = sorted(set(labels) - {labels[i] for i in corpus.label})
    warning = f" No example is labelled {', '.join(missing)}." if missing else ""
    return f"Adapted {name} to {len(corpus)} examples in {chosen['steps']} steps.{warning}"


def predict(folder: pathlib.Path, texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Labels texts with the adapted model in `folder`.

    Returns:
      The labels `[C]`, and the probability of each for each text, `[N, C]`.

    Raises:
      InputError: the folder is not one that `adapt` wrote, or is damaged.
    """
    facts = _read_json(folder / "adapted.json", "name a folder that `jaxmeta adapt` wrote")
    config, labels = Config.model_validate(facts["config"]), facts["labels"]
    tokenizer = data.tokenizer_from_state(facts["tokenizer"])
    method = _method(config, labels, tokenizer, facts["method"])
    algorithm = method.build(facts["learning_rate"])

    def like_saved(key, support):
        episode_params = method.complete(algorithm.init(key, Episode(support, support)))
        return {"meta_params": episode_params, "task_state": algorithm.begin(key, episode_params, support)}

    support = _batch(np.ones((facts["examples"], tokenizer.length), np.int32), len(labels))
    with Checkpoints(folder / "state") as checkpoints:
        saved = checkpoints.latest(jax.eval_shape(like_saved, jax.random.key(0), support))
    if saved is None:
        raise InputError(f"{folder} has lost its state; run `jaxmeta adapt` again.")
    run = jax.jit(
        lambda tree, tokens: jax.nn.softmax(algorithm.predict(tree["meta_params"], tree["task_state"], tokens))
    )
    tokens = tokenizer.encode(texts)
    padded = np.zeros((-(-len(tokens) // _ROWS) * _ROWS, tokens.shape[1]), np.int32)
    padded[: len(tokens)] = tokens
    rows = [run(saved.tree, padded[start : start + _ROWS]) for start in range(0, len(padded), _ROWS)]
    return labels, np.concatenate(rows)[: len(tokens)]


def _method(config: Config, labels: Sequence[str], tokenizer: Tokenizer, name: str) -> Method:
    setting = Setting(
        config, make_model(config, len(labels), tokenizer.vocab_size), objectives.classification(len(labels)),
        num_outputs=len(labels), classify=True, support=1, query=1, source=None,
    )  # fmt: skip
    methods = {method.name: method for method in phases_and_methods(setting)[1]}
    if name not in methods:
        raise InputError(f"--method: this run has no method {name!r} to adapt; it has {', '.join(methods)}.")
    return methods[name]


def _batch(tokens: np.ndarray, num_classes: int, targets: np.ndarray | None = None) -> Batch:
    count = len(tokens)
    return {
        "inputs": tokens,
        "targets": np.zeros(count, np.int32) if targets is None else np.asarray(targets, np.int32),
        "mask": np.ones(count, bool),
        "classes": np.ones((count, num_classes), bool),
    }


def _read_task(folder: pathlib.Path) -> tuple[list[str], Tokenizer]:
    facts = _read_json(folder / "task.json", "only a run on text can be adapted to a file of text")
    return facts["labels"], data.tokenizer_from_state(facts["tokenizer"])


def _read_json(path: pathlib.Path, remedy: str) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"There is no {path}; {remedy}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}); write it again with the command that made it.") from None


def _write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
