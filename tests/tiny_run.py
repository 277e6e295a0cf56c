"""A run of a few seconds: a small TSV file in made-up languages, the commands for it, and what it left behind."""

import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax

from jaxmeta.cli import main

LANGUAGES = ("aa", "bb", "cc", "dd", "ee", "ff")
LABELS = ("bad", "fair", "good")
ROWS = {"train": 4, "dev": 2, "test": 2}  # in a language and label; dev like test, so that one program judges both
METHODS = ("zero_shot", "target_only", "joint_finetune", "linear_head", "tfidf", "ridge", "protonet", "maml")

TINY = {
    "name": "toy",
    "task.source": "tsv",
    "task.path": "toy.tsv",
    "task.test-languages": 2,
    "task.dev-languages": 2,
    "tokenizer.length": 16,
    "model.width": 4,
    "model.layers": 1,
    "model.heads": 1,
    "model.window": 2,
    "model.stride": 4,
    "train.steps": 4,
    "train.log-every": 1,
    "inner.steps": 1,
    "evaluate.methods": ("zero_shot", "ridge"),
    "evaluate.steps": (0, 2),
    "evaluate.learning-rates": 0.01,
    "evaluate.sgd-learning-rates": 0.05,
    "evaluate.shot-curve": (),
    "evaluate.draws": 1,
}
WAVES = {
    "task.source": "sinusoid",
    "task.path": "",
    "model.kind": "mlp",
    "evaluate.metric": "mse",
    "evaluate.shot-curve": 2,
}


def toy_text(language: str, label: str, number: int) -> str:
    """Returns a text that says its label in words of its language."""
    return f"{language}{label[0] * 3} {language[::-1]} {number}"


def toy_lines() -> list[str]:
    """Returns the lines of a file for `--task.path`: the header, then the rows, language by language."""
    header = "\t".join(("language", "split", "label", "text"))
    return [header] + [
        "\t".join((language, split, label, toy_text(language, label, 10 * place + number)))
        for language in LANGUAGES
        for place, (split, count) in enumerate(ROWS.items())
        for number in range(count)
        for label in LABELS
    ]


def toy_shots() -> list[str]:
    """Returns the lines of a file for `--shots`: the header, and 20 rows of a language that is not in `toy_lines`."""
    labels = (LABELS * 7)[:20]
    return ["label\ttext"] + [f"{label}\t{toy_text('zz', label, number)}" for number, label in enumerate(labels)]


def write_lines(path: pathlib.Path, lines: Sequence[str]) -> None:
    """Writes a text file."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def train(out: str, changes: dict[str, Any] | None = None) -> list[str]:
    """Returns the words of the command that trains in the folder `out`, with some options changed."""
    words = ["train", "--out", out]
    for key, value in {**TINY, **(changes or {})}.items():
        words += [f"--{key}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def jaxmeta(*words: str) -> int:
    """Runs a command in this process and returns its exit code."""
    with jax.numpy_dtype_promotion("standard"):  # optax promotes types on its own
        return main(words)


def process(*words: str) -> list[str]:
    """Returns the words that run a command in a process of its own."""
    return [sys.executable, "-m", "jaxmeta", *words]


def environment(**more: str) -> dict[str, str]:
    """Returns the environment of such a process: this source, one device, no warnings as errors."""
    source = os.pathsep.join(filter(None, (str(pathlib.Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    flags = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)
    return {**os.environ, "PYTHONPATH": source, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **more}


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns what a folder holds, by path; folders in it have no content."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def metrics(run: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics, without what is a time."""
    return [_timeless(json.loads(line)) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def evaluation(run: pathlib.Path) -> dict[str, Any]:
    """Returns a run's evaluation, without what is a time."""
    return _timeless(json.loads((run / "evaluation.json").read_text("utf-8")))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        times = ("seconds", "seconds_per_task", "examples_per_second")
        return {key: _timeless(part) for key, part in value.items() if key not in times}
    return value
