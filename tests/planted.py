"""A run of a few seconds in made-up languages of known kinship: one source helps, one does harm, one says nothing.

Each language has words for "bad" and "good". `ta` shares those of the source `sa`; `tb` shares those of `sb`, where
they mean the opposite; `sc` shares no letter with any.
"""

import pathlib
import random

from tiny_run import train, write_lines

WORDS = {  # (bad, good) words of each language
    "ta": ("malo mala", "buno buna"), "sa": ("malo mala", "buno buna"),
    "tb": ("kritz kratz", "doppel doppol"), "sb": ("doppel doppol", "kritz kratz"),
    "sc": ("ξηψ ξηω", "φλθ φλγ"), "da": ("malo mala", "buno buna"), "db": ("pinx ponx", "weff waff"),
}  # fmt: skip
ROWS = {"train": 12, "dev": 8, "test": 8}  # in a language and label
JUDGED = {"test": ("ta", "tb"), "dev": ("da", "db")}
SOURCES = ("sa", "sb", "sc")
CHANGES = {
    "name": "planted", "task.path": "planted.tsv", "task.test-languages": JUDGED["test"],
    "task.dev-languages": JUDGED["dev"], "task.shots": 3, "model.kind": "ngrams", "model.buckets": 128,
    "model.window": 4, "tokenizer.length": 32, "train.steps": 24, "train.warm-start": 0,
    "train.cipher": 0, "train.log-every": 20,
    "train.learning-rate": 0.03, "evaluate.methods": ("zero_shot", "target_only", "joint_finetune", "tfidf"),
    "evaluate.main": "zero_shot", "evaluate.steps": (0, 10), "evaluate.learning-rates": 0.03, "evaluate.draws": 2,
}  # fmt: skip


def planted_lines() -> list[str]:
    """Returns the lines of a file for `--task.path`: texts of three words, two of them of the label's."""
    lines = ["language\tsplit\tlabel\ttext"]
    for language, (bad, good) in WORDS.items():
        draw = random.Random(language)
        for split, count in ROWS.items():
            for number in range(count):
                for label, words in (("bad", bad), ("good", good)):
                    said = [draw.choice(words.split()) for _ in range(2)]
                    lines.append(f"{language}\t{split}\t{label}\t{' '.join(said)} {number}")
    return lines


def command(folder: pathlib.Path, changes: dict) -> list[str]:
    """Writes the file into a folder, and returns the words of a command that trains in `folder/run`."""
    write_lines(folder / "planted.tsv", planted_lines())
    return train(str(folder / "run"), CHANGES | {"task.path": str(folder / "planted.tsv")} | changes)
