"""A run of a few seconds: a small TSV file in made-up languages, and the command that trains on it."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from jaxmeta.cli import main

LANGUAGES = ("aa", "bb", "cc", "dd", "ee", "ff")
LABELS = ("bad", "good")
ROWS = {"train": 6, "dev": 2, "test": 3}  # in a language and label
METHODS = ("zero_shot", "target_only", "joint_finetune", "linear_head", "tfidf", "ridge", "protonet", "maml")

MODEL = {
    "tokenizer.length": 16,
    "model.width": 4,
    "model.layers": 1,
    "model.heads": 1,
    "model.window": 2,
    "model.stride": 4,
}
TINY = {
    "name": "toy",
    "task.source": "tsv",
    "task.path": "toy.tsv",
    "task.test-languages": 2,
    "task.dev-languages": 2,
    "train.steps": 4,
    "train.log-every": 1,
    "inner.steps": 1,
    "evaluate.steps": (0, 2),
    "evaluate.learning-rates": 0.01,
    "evaluate.sgd-learning-rates": 0.05,
    "evaluate.shot-curve": 1,
    "evaluate.draws": 2,
} | MODEL


def toy_text(language: str, label: str, number: int) -> str:
    """Returns a text that says its label in words of its language."""
    return f"{language}{label[0] * 3} {language[::-1]} {number}"


def toy_lines() -> list[str]:
    """Returns the lines of a file for `--task.path`: the header, then every language, split and label."""
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
    return ["label\ttext"] + [f"{label}\t{toy_text('zz', label, number)}" for number in range(10) for label in LABELS]


def write_lines(path: pathlib.Path, lines: Sequence[str]) -> None:
    """Writes a text file."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def train(out: str, **changes: Any) -> list[str]:
    """Returns the command that trains in the folder `out`, with options changed (`task__path="a"`) or left out."""
    options = TINY | {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
    words = ["train", "--out", out]
    for key, value in options.items():
        if value is not None:
            words += [f"--{key}", *map(str, value if isinstance(value, Sequence) and value is not str(value) else [value])]
    return words


def jaxmeta(*words: str) -> int:
    """Runs a command in this process; optax promotes types on its own."""
    with jax.numpy_dtype_promotion("standard"):
        return main(words)


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns what a folder holds, by path; folders have no content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")
    }


def metrics(run: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics without those numbers that are times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [_timeless(line) for line in lines]


def evaluation(run: pathlib.Path) -> dict[str, Any]:
    """Returns a run's evaluation without those numbers that are times."""
    return _timeless(json.loads((run / "evaluation.json").read_text()))


def _timeless(value: Any) -> Any:
    times = ("seconds", "seconds_per_task", "examples_per_second")
    if isinstance(value, dict):
        return {key: _timeless(part) for key, part in value.items() if key not in times}
    return value


@contextlib.contextmanager
def compilation_cache(folder: pathlib.Path) -> Iterator[None]:
    """Keeps compiled programs in `folder`, however quick they were to compile, unless they are kept elsewhere."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    if before["jax_compilation_cache_dir"] is not None:
        yield
        return
    _use(folder, 0.0)
    try:
        yield
    finally:
        _use(*before.values())


def _use(folder: pathlib.Path | None, seconds: float) -> None:
    from jax.experimental.compilation_cache import compilation_cache as cache

    jax.config.update("jax_compilation_cache_dir", None if folder is None else str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
    cache.reset_cache()
