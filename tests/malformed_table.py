"""What people give by mistake, one row each; `test_cli.py` holds every row to the same answer.

A row is tried in a folder with `toy.tsv`, `shots.tsv`, `texts.txt`, a finished run in `run` and a model that was
adapted from it in `adapted`. The answer is exit code 2, one sentence, and a folder that is as it was.
"""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

from tiny_run import WAVES, toy_lines, train, write_lines

Damage = Callable[[], object]


class Row(NamedTuple):
    """One mistake.

    Attributes:
      name: of the test.
      words: the command.
      says: what must be in the message: the file, the line where there is one, the remedy.
      damage: what makes the folder malformed; it is the working folder.
      stdin: of the command.
    """

    name: str
    words: list[str]
    says: tuple[str, ...]
    damage: Damage | None = None
    stdin: bytes = b""

    def __str__(self):
        return self.name


def written(name: str, content: str | bytes) -> Damage:
    """Writes a file whole."""
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda: pathlib.Path(name).write_bytes(raw)


def replaced(name: str, old: str | bytes, new: str | bytes, count: int = -1) -> Damage:
    """Puts `new` in place of `old` in a file, everywhere or `count` times."""
    before, after = (part if isinstance(part, bytes) else part.encode() for part in (old, new))

    def damage():
        path = pathlib.Path(name)
        content = path.read_bytes()
        assert before in content, f"{old!r} is not in {name}"
        path.write_bytes(content.replace(before, after, count))

    return damage


def removed(name: str) -> Damage:
    """Removes a file or a folder."""
    path = pathlib.Path(name)
    return lambda: shutil.rmtree(path) if path.is_dir() else path.unlink()


def largest(folder: str, change: Callable[[bytearray], bytes | bytearray]) -> Damage:
    """Changes the largest file of every checkpoint in a folder."""

    def damage():
        checkpoints = [path.parent for path in pathlib.Path(folder).rglob("digests.json")]
        assert checkpoints
        for checkpoint in checkpoints:
            path = max((p for p in checkpoint.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
            path.write_bytes(change(bytearray(path.read_bytes())))

    return damage


def truncated(raw: bytearray) -> bytearray:
    """Cuts a file in half."""
    return raw[: len(raw) // 2]


def flipped(raw: bytearray) -> bytearray:
    """Flips one bit in the middle of a file."""
    raw[len(raw) // 2] ^= 4
    return raw


def in_json(name: str, change: Callable[[Any], object]) -> Damage:
    """Changes what a JSON file says."""

    def damage():
        path = pathlib.Path(name)
        value = json.loads(path.read_text("utf-8"))
        change(value)
        path.write_text(json.dumps(value), encoding="utf-8")

    return damage


def without(language: str, split: str) -> Damage:
    """Removes the rows of a language's split from the training data."""
    kept = [line for line in toy_lines() if not line.startswith(f"{language}\t{split}\t")]
    return lambda: write_lines(pathlib.Path("toy.tsv"), kept)


def one_label(label: str) -> Damage:
    """Keeps the rows of one label of the training data."""
    kept = [line for line in toy_lines() if line.split("\t")[2] in ("label", label)]
    return lambda: write_lines(pathlib.Path("toy.tsv"), kept)


def tsv(name: str, says: tuple[str, ...], damage: Damage, **changes: Any) -> Row:
    """A mistake in the file that is trained on."""
    return Row(f"tsv: {name}", train("new", changes), ("toy.tsv", *says), damage)


def config(name: str, text: str | bytes, *says: str, words: tuple[str, ...] = ()) -> Row:
    """A mistake in a config file."""
    return Row(
        f"config: {name}", ["train", "my.toml", "--out", "new", *words], ("my.toml", *says), written("my.toml", text)
    )


def option(name: str, changes: dict[str, Any], *says: str) -> Row:
    """A mistake on the command line of `train`."""
    return Row(f"option: {name}", train("new", changes), says)


def evaluate(name: str, damage: Damage, *says: str) -> Row:
    """A mistake in a run that is judged again."""
    return Row(f"evaluate: {name}", ["evaluate", "run"], says, damage)


def adapt(name: str, damage: Damage | None, *says: str, words: tuple[str, ...] = ("--out", "new")) -> Row:
    """A mistake in what a run is adapted to."""
    return Row(f"adapt: {name}", ["adapt", "run", "--shots", "shots.tsv", *words], says, damage)


def predict(name: str, damage: Damage | None, *says: str, model: str = "adapted", text: str = "texts.txt") -> Row:
    """A mistake in what is predicted from."""
    return Row(f"predict: {name}", ["predict", model, "--input", text], says, damage)


ROLES = {"task.test-languages": ("aa",), "task.dev-languages": ("bb",)}
SAVE = "save it as UTF-8"

MALFORMED = [
    # What is trained on.
    tsv("no such column", ("line 1", "'label'", "must name the columns"), replaced("toy.tsv", "label", "class", 1)),
    tsv("a column twice", ("line 1", "'label'", "twice"), replaced("toy.tsv", "text\n", "text\tlabel\n", 1)),
    tsv("empty", ("empty", "write at least one line"), written("toy.tsv", "")),
    tsv("blank", ("empty", "write at least one line"), written("toy.tsv", "\n \n\n")),
    tsv("header only", ("header and no rows", "add rows"), written("toy.tsv", toy_lines()[0] + "\n")),
    tsv("not UTF-8", ("line 3", SAVE), replaced("toy.tsv", "aafff aa 0", b"\xe9t\xe9", 1)),
    tsv("UTF-16", ("UTF-16", SAVE), written("toy.tsv", "\n".join(toy_lines()).encode("utf-16"))),
    tsv("a NUL byte", ("line 2", "NUL", SAVE), replaced("toy.tsv", "aabbb aa 0", "aa\0", 1)),
    tsv("one label only", ("one label", "'good'", "add rows"), one_label("good")),
    tsv("a field too many", ("line 5", "5 fields", "4", "TAB"), replaced("toy.tsv", "aabbb aa 1", "aabbb\taa", 1)),
    tsv("a field too few", ("line 5", "3 fields", "4", "TAB"), replaced("toy.tsv", "bad\taabbb aa 1", "bad", 1)),
    tsv("an empty text", ("line 7", "text is empty", "remove the line"), replaced("toy.tsv", "aaggg aa 1\n", "\n", 1)),
    tsv("an empty label", ("line 2", "label is empty"), replaced("toy.tsv", "\tbad\t", "\t\t", 1)),
    tsv("no such split", ("line 2", "'trian'", "train, dev, test"), replaced("toy.tsv", "\ttrain\t", "\ttrian\t", 1)),
    tsv("no train rows", ("cc", "no train rows", "remove the language"), without("cc", "train")),
    Row("tsv: no test rows", train("new", ROLES), ("aa", "no test rows", "add some"), without("aa", "test")),
    tsv("not parallel in length", ("not parallel", "bb has 11", "aa has 12"),
        replaced("toy.tsv", "bb\ttrain\tbad\tbbbbb bb 0\n", "", 1), **{"task.parallel": True}),
    tsv("not parallel in labels", ("line 28", "line 4", "not parallel", "same order"),
        replaced("toy.tsv", "good\tbbggg bb 0", "bad\tbbggg bb 0", 1), **{"task.parallel": True}),
    tsv("missing", ("no file", "correct the path"), removed("toy.tsv")),
    # Configs in a file.
    config("unknown key", "[train]\nstesp = 3\n", "unknown key `train.stesp`", "did you mean `train.steps`"),
    config("wrong type", "[train]\nsteps = 'many'\n", "`train.steps`", "valid integer", "'many'"),
    config("not TOML", "[train]\nsteps = = 3\n", "not TOML", "line 2", "mend that line"),
    config("not UTF-8", b"name = 'x'\nseed = '\xff'\n", "line 2", SAVE),
    config("no such preset", "[presets.long.train]\nsteps = 9\n", "no preset 'short'", "it has long",
           words=("--preset", "short")),
    config("wrong preset", "[presets.long.train]\nstep = 9\n", "preset long", "`train.step`", "`train.steps`",
           words=("--preset", "long")),
    config("presets that are no tables", "presets = 3\n", "`presets`", "[presets.NAME]"),
    config("read though it stands last", "[train]\nstesp = 3\n", "unknown key `train.stesp`")._replace(
        words=["train", "--out", "new", "--steps", "3", "my.toml"]
    ),
    Row("config: a folder", ["train", "run"], ("run is a folder", "name a TOML config in it")),
    Row("config: missing", ["train", "no.toml"], ("no.toml does not exist", "name a TOML config")),
    # Options.
    option("unknown key", {"train.stpes": 3}, "unknown key `train.stpes`", "did you mean `train.steps`"),
    option("wrong type", {"train.steps": "many"}, "`train.steps` must be a whole number", "'many'"),
    option("no number", {"train.learning-rate": "fast"}, "`train.learning-rate` must be a number", "'fast'"),
    option("more shots than rows", {"task.shots": 500}, "`task.shots` is 500", "take 4 or fewer"),
    option("negative steps", {"train.steps": -4}, "`train.steps`", "greater than 0", "-4"),
    option("steps that are no number", {"steps": "x"}, "--steps", "'x'", "--help"),
    option("no such source", {"task.source": "web"}, "--task.source", "'web'", "'tsv'"),
    option("no such preset", {"preset": "tiny"}, "no preset 'tiny'", "quick, full"),
    option("no such method", {"evaluate.methods": ("ridge", "mamal")}, "`evaluate.methods`", "'mamal'", "are maml, "),
    option("no method", {"evaluate.methods": ()}, "`evaluate.methods`", "add one"),
    option("a method twice", {"evaluate.methods": ("ridge", "ridge")}, "`evaluate.methods`", "once", "ridge, ridge"),
    option("nothing to train", {"evaluate.methods": ("target_only",), "evaluate.main": "target_only",
                                "train.warm-start": 0}, "`evaluate.methods`", "add one"),
    option("main is not judged", {"evaluate.main": "maml"}, "`evaluate.main`", "zero_shot, ridge", "'maml'"),
    option("no such score", {"evaluate.metric": "bleu"}, "`evaluate.metric`", "accuracy", "'bleu'"),
    option("steps not ascending", {"evaluate.steps": (5, 0)}, "`evaluate.steps`", "ascending", "[5, 0]"),
    option("no rates", {"evaluate.learning-rates": ()}, "`evaluate.learning_rates`", "at least one"),
    option("no rates of a head", {"evaluate.head-learning-rates": ()}, "`evaluate.head_learning_rates`", "positive"),
    option("a rate that is no number", {"evaluate.learning-rates": "nan"}, "`evaluate.learning_rates`", "positive"),
    option("zero shots", {"task.shots": 0}, "`task.shots`", "greater than 0"),
    option("zero shots in the curve", {"evaluate.shot-curve": (0, 2)}, "`evaluate.shot_curve`", "positive", "[0, 2]"),
    option("warm start takes all", {"train.steps": 1, "train.warm-start": 0.7}, "`train.warm_start`", "lower it"),
    option("a seed too large", {"seed": 2**70}, "`seed`", "below 2**31"),
    option("a negative seed", {"seed": -1}, "`seed`", "greater than or equal to 0"),
    option("a name that is a path", {"name": "../x"}, "`name`", "'../x'"),
    option("no such language", {"task.test-languages": ("aa", "xx")}, "test languages xx", "aa, bb", "correct"),
    option("a language on both sides", {"task.test-languages": ("aa", "bb"), "task.dev-languages": ("bb",)},
           "bb cannot be a test and a dev language", "remove it"),
    option("too many held out", {"task.test-languages": 4}, "6 languages are too few", "set aside fewer"),
    option("none held out", {"task.test-languages": 0}, "`task.test_languages`", "at least one", "got 0"),
    option("fewer than none held out", {"task.dev-languages": -2}, "`task.dev_languages`", "at least one", "got -2"),
    option("no data file named", {"task.path": ""}, "`task.path` is empty", "name a TSV file"),
    option("a folder for data", {"task.path": "run"}, "no file at run", "correct the path"),
    option("heads that do not fit", {"model.heads": 3}, "`model.width`", "multiple of `model.heads`", "4 and 3"),
    option("numbers for a model of text", WAVES | {"model.kind": "transformer"}, "`model.kind`", 'set it to "mlp"'),
    option("text for a model of numbers", {"model.kind": "mlp"}, "`model.kind`", 'set it to "transformer"'),
    option("pieces are not spelled", {"model.kind": "ngrams", "model.romanize": True, "tokenizer.kind": "sentencepiece",
                                      "tokenizer.vocab-size": 300, "train.cipher": 0}, "`model.romanize`", "bytes"),
    option("waves with names", WAVES | {"task.test-languages": ("aa",)}, "`task.test_languages`", "a number"),
    option("too few pieces", {"tokenizer.kind": "sentencepiece", "tokenizer.vocab-size": 9, "train.cipher": 0},
           "SentencePiece", "9 pieces", "room for 256 bytes"),
    option("a cipher of pieces", {"tokenizer.kind": "sentencepiece", "tokenizer.vocab-size": 300},
           "`train.cipher`", "set it to 0"),
    # How gradients are computed.
    option("no such strategy", {"gradient.strategy": "forward"}, "--gradient.strategy", "'forward'", "'linearized'"),
    option("no such memory", {"gradient.memory": "all"}, "`gradient.memory` must be one of none, products", "'all'"),
    option("truncated to no number", {"gradient.memory": "truncated"}, "`gradient.memory`", "truncated(n)"),
    option("no host beside the device", {"gradient.memory": "offload"}, "`gradient.memory`", "CPU", 'use "nested"'),
    option("no such task axis", {"gradient.task-axis": "all"}, "`gradient.task_axis` must be one of vmap", "'all'"),
    option("chunks of nothing", {"gradient.task-axis": "chunked(0)"}, "`gradient.task_axis`", "n a positive number"),
    option("no step to unroll", {"gradient.unroll": 0}, "`gradient.unroll`", "greater than 0"),
    option("no loop, and memory saved", {"gradient.unroll": 2, "gradient.memory": "nested"}, "`gradient.unroll`",
           "nested"),
    option("no microbatch", {"gradient.microbatches": 0}, "`gradient.microbatches`", "greater than 0"),
    option("uneven microbatches", {"gradient.microbatches": 4}, "`gradient.microbatches`", "divide the 6 examples"),
    option("auto, and memory too", {"gradient.strategy": "auto", "gradient.memory": "nested"}, "`gradient.strategy`",
           "leave them out"),
    option("no pattern of rows", {"gradient.rows": "("}, "`gradient.rows`", "regular expression", "'('"),
    option("rows of no table", {"gradient.rows": "^places$", "evaluate.methods": ("zero_shot", "ridge", "maml")},
           "`gradient.rows`", "maml", "places", "row"),
    option("rows of nothing", {"gradient.rows": "^table$", "evaluate.methods": ("zero_shot", "ridge", "maml")},
           "`gradient.rows`", "matches no parameter", "block_0"),
    option("no such precision", {"model.precision": "float16"}, "--model.precision", "'float16'", "'bfloat16'"),
    config("strategy in a file", "[gradient]\nstrategy = 'forward'\n", "`gradient.strategy`", "'auto'", "'forward'"),
    config("where memory was", "[inner]\nmemory = 'none'\n", "unknown key `inner.memory`", "`gradient.memory`"),
    # Plans.
    Row("plan: no size", ["plan", *train("new")[3:], "--memory", "lots"], ("`--memory`", "8GiB", "'lots'")),
    Row("plan: no such method", ["plan", *train("new")[3:], "--method", "mamal"], ("`--method`", "maml", "'mamal'")),
    Row("plan: no inner steps", ["plan", *train("new")[3:], "--method", "ridge"], ("`--method`", "maml", "'ridge'")),
    Row("plan: unknown key", ["plan", "--gradient.memroy", "none"], ("`gradient.memroy`", "`gradient.memory`")),
    Row("plan: no config", ["plan", "no.toml"], ("no.toml does not exist", "name a TOML config")),
    # Where a run goes.
    Row("out: a file", train("toy.tsv"), ("toy.tsv exists", "another folder with --out")),
    Row("out: under a file", train("toy.tsv/run"), ("toy.tsv/run", "Not a directory", "another path")),
    Row("out: no run", train("adapted"), ("adapted exists and is not a run", "--out")),
    Row("out: of another config", train("run", {"train.steps": 9}), ("run holds a run of another config",
        "train.steps: 4 against 9", "--out")),
    Row("out: of very many others", train("run", {"train.steps": 9, "seed": 3, "model.width": 8, "task.shots": 3,
        "name": "x"}), ("another config", "name: 'toy' against 'x'; seed: 0 against 3", "and 4 more")),
    Row("out: config damaged", train("run"), ("run/config.toml", "damaged", "restore it"),
        written("run/config.toml", "name = [")),
    # Commands.
    Row("command: unknown", ["trian"], ("trian", "--help")),
    Row("command: no run", ["evaluate"], ("The run folder", "jaxmeta evaluate --help")),
    Row("command: two runs", ["evaluate", "run", "run2"], ("run2", "jaxmeta evaluate --help")),
    Row("command: no shots", ["adapt", "run", "--out", "new"], ("--shots", "jaxmeta adapt --help")),
    Row("command: unknown option", ["predict", "adapted", "--inptu", "x"], ("--inptu", "jaxmeta predict --help")),
    Row("data: no such action", ["data", "lsit"], ("'lsit'", "'list', 'show', 'check'")),
    Row("data: nothing named", ["data", "check"], ("month, weekday, kind", "or a file")),
    Row("data: missing", ["data", "check", "no.tsv"], ("no.tsv", "correct the path")),
    Row("data: no set named", ["data", "build"], ("NAME.tsv", "--from FOLDER")),
    Row("data: nothing to build", ["data", "build", "no", "--out", "new"], ("no.tsv", "correct the path")),
    Row("data: built from nowhere", ["data", "build", "toy", "--from", "no"], ("no folder at no", "correct the path")),
    Row("data: manifest over a file", ["data", "manifest", "run", "--out", "toy.tsv"], ("toy.tsv exists", "--out")),
    Row("data: manifest of nothing", ["data", "manifest", "no.toml"], ("no.toml does not exist", "name a TOML")),
    Row("data: manifest of several runs", ["data", "manifest", "two.toml"], ("two.toml asks for several runs (a, b)",
        "name the folder of one"), written("two.toml", "[jobs.a]\n[jobs.b]\n")),
    Row("data: no rows", ["data", "show", "month", "--rows", "0"], ("`--rows` must be positive",)),
    Row("evaluate: no manifest", ["evaluate", "run", "--manifest", "no.json"], ("no.json", "correct the path")),
    Row("evaluate: no source", ["evaluate", "run", "--leave-out", "zz"], ("zz is no source language", "name some of")),
    Row("data: malformed", ["data", "check", "toy.tsv"], ("toy.tsv, line 3", SAVE),
        replaced("toy.tsv", "aafff aa 0", b"\xff", 1)),
    # Runs that are judged again.
    Row("evaluate: missing", ["evaluate", "runs"], ("no run at runs", "jaxmeta train --out runs")),
    Row("evaluate: no run", ["evaluate", "adapted"], ("adapted is not a run", "config.toml", "name a folder")),
    evaluate("config damaged", written("run/config.toml", "name = \xff"), "run/config.toml", "damaged", "restore it"),
    evaluate("config of another version", replaced("run/config.toml", "queries", "quests"), "run/config.toml",
             "unknown key `task.quests`", "`task.queries`"),
    evaluate("config changed", replaced("run/config.toml", "width = 4", "width = 8"), "another model", "config.toml",
             "put that back"),
    evaluate("no checkpoint", removed("run/checkpoints"), "no finished checkpoint", "train first"),
    evaluate("not finished", replaced("run/config.toml", "steps = 4", "steps = 40", 1), "not finished", "step 2 of",
             "jaxmeta train"),
    evaluate("checkpoint truncated", largest("run/checkpoints", truncated), "00000002", "truncated or has changed",
             "put the folder back"),
    evaluate("a bit flipped", largest("run/checkpoints", flipped), "00000002", "truncated or has changed"),
    evaluate("data gone", removed("toy.tsv"), "toy.tsv", "correct the path"),
    # What a run is adapted to.
    Row("adapt: missing run", ["adapt", "runs", "--shots", "shots.tsv", "--out", "new"], ("no run at runs",)),
    adapt("no shots", removed("shots.tsv"), "shots.tsv does not exist", "correct the path"),
    adapt("shots are a folder", None, "run is a directory", "name a file", words=("--shots", "run", "--out", "new")),
    adapt("empty", written("shots.tsv", ""), "shots.tsv is empty", "write at least one line"),
    adapt("no text", replaced("shots.tsv", "text", "texts", 1), "shots.tsv, line 1", "'text'", "label, text"),
    adapt("unknown label", replaced("shots.tsv", "bad", "ugly", 1), "shots.tsv, line 2", "'ugly'", "bad, fair, good"),
    adapt("one label only", written("shots.tsv", "label\ttext\ngood\tzz\ngood\tyy\n"), "shots.tsv", "one label", "add"),
    adapt("not UTF-8", replaced("shots.tsv", "zzggg", b"\xfc", 1), "shots.tsv, line 4", SAVE),
    adapt("a field too few", replaced("shots.tsv", "good\t", "good ", 1), "shots.tsv, line 4", "1 field", "TAB"),
    adapt("two languages", written("shots.tsv", "language\tlabel\ttext\nzz\tgood\ta\nyy\tbad\tb\n"),
          "shots.tsv, line 3", "yy", "a file of its own"),
    adapt("not UTF-8, out in new folders", written("shots.tsv", b"\xff"), "shots.tsv, line 1", SAVE,
          words=("--out", "a/new/folder")),
    adapt("out exists", None, "adapted exists", "--out", words=("--out", "adapted")),
    adapt("out under a file", None, "toy.tsv/", "Not a directory", words=("--out", "toy.tsv/new")),
    adapt("no such method", None, "--method", "'mamal'", "it has zero_shot",
          words=("--out", "new", "--method", "mamal")),
    adapt("a method outside jax", None, "--method", "'tfidf'", "it has zero_shot",
          words=("--out", "new", "--method", "tfidf")),
    adapt("not a run on text", removed("run/task.json"), "run/task.json", "only a run on text"),
    adapt("task.json cut", written("run/task.json", '{"labels": ["bad"'), "run/task.json is damaged", "write it again"),
    adapt("task.json of another kind", written("run/task.json", "[]"), "run/task.json is damaged", "write it again"),
    adapt("task.json without its tokenizer", in_json("run/task.json", lambda task: task["tokenizer"].pop("length")),
          "run/task.json is damaged", "tokenizer", "write it again"),
    adapt("task.json with another label", in_json("run/task.json", lambda task: task["labels"].append("ugly")),
          "another model", "put that back"),
    adapt("evaluation.json missing", removed("run/evaluation.json"), "run/evaluation.json does not exist",
          "jaxmeta evaluate run"),
    adapt("evaluation.json cut", written("run/evaluation.json", '{"task":\n"toy",'), "run/evaluation.json, line 2",
          "jaxmeta evaluate"),
    adapt("evaluation.json without a key", in_json("run/evaluation.json", lambda found: found.pop("methods")),
          "run/evaluation.json", "`methods`", "jaxmeta evaluate"),
    adapt("evaluation.json without settings",
          in_json("run/evaluation.json", lambda found: found["methods"]["ridge"].pop("adaptation")),
          "run/evaluation.json", "ridge", "jaxmeta evaluate run"),
    adapt("no checkpoint", removed("run/checkpoints/seed_0/ridge"), "no finished checkpoint", "train first"),
    adapt("checkpoint truncated", largest("run/checkpoints", truncated), "00000002", "truncated or has changed"),
    adapt("a bit flipped", largest("run/checkpoints", flipped), "00000002", "truncated or has changed"),
    # What is predicted from.
    predict("missing", None, "no models/adapted.json", "jaxmeta adapt", model="models"),
    predict("a run", None, "no run/adapted.json", "jaxmeta adapt", model="run"),
    predict("adapted.json cut", written("adapted/adapted.json", '{"labels": ['), "adapted/adapted.json is damaged",
            "write it again"),
    predict("adapted.json without a key", in_json("adapted/adapted.json", lambda facts: facts.pop("method")),
            "adapted/adapted.json is damaged", "`method`", "write it again"),
    predict("adapted.json changed", in_json("adapted/adapted.json", lambda f: f["config"]["model"].update(width=8)),
            "adapted/state", "another model", "put the folder back"),
    predict("no state", removed("adapted/state"), "adapted has lost its state", "jaxmeta adapt"),
    predict("state truncated", largest("adapted/state", truncated), "adapted/state", "truncated or has changed"),
    predict("a bit flipped", largest("adapted/state", flipped), "adapted/state", "truncated or has changed"),
    # What is exported, and served.
    Row("export: a run", ["export", "run", "--out", "new"], ("no run/adapted.json", "jaxmeta adapt")),
    Row("export: out exists", ["export", "adapted", "--out", "run"], ("run exists", "--out")),
    Row("export: no such platform", ["export", "adapted", "--out", "new", "--platforms", "abacus"], ("abacus",)),
    predict("an exported model cut", written("adapted/model.stablehlo", b"\x00"), "model.stablehlo is damaged",
            "export the model again"),
    Row("serve: missing", ["serve", "models"], ("no run at models",)),
    Row("serve: port", ["serve", "adapted", "--port", "ten"], ("`port` must be a whole number", "ten")),
    Row("serve: adapted.json cut", ["serve", "adapted"], ("adapted/adapted.json is damaged",),
        written("adapted/adapted.json", "{")),
    predict("digests gone", removed("adapted/state/00000000/digests.json"), "adapted/state", "digests.json is missing"),
    predict("no text", None, "no.txt does not exist", "correct the path", text="no.txt"),
    predict("text is a folder", None, "run is a directory", "name a file", text="run"),
    predict("empty", written("texts.txt", ""), "texts.txt is empty", "write at least one line"),
    predict("a blank line", written("texts.txt", "one\n\ntwo\n"), "texts.txt, line 2", "remove it"),
    predict("not UTF-8", written("texts.txt", b"one\ntw\xf6\n"), "texts.txt, line 2", SAVE),
    predict("a NUL byte", written("texts.txt", b"one\ntwo\nthr\0e\n"), "texts.txt, line 3", "NUL"),
    predict("missing, and nothing typed", None, "no models/adapted.json", "jaxmeta adapt", model="models", text="-"),
    predict("nothing on standard input", None, "standard input is empty", "write at least one line", text="-"),
    predict("standard input not UTF-8", None, "standard input, line 2", SAVE, text="-")._replace(stdin=b"a\n\xff\n"),
]  # fmt: skip
