"""The map of the packages stays true: who may import whom, how long a file may be, what needs a docstring.

cli -> config -> {run, data, algorithms, estimators, models, objectives, environments} -> core
"""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "jaxmeta"
FILES = sorted(PACKAGE.rglob("*.py"))

PURE = {"core", "algorithms", "estimators", "models", "objectives", "environments"}
MIDDLE = PURE | {"run", "data"}
# What a part of the library may import from it, by the first name under `jaxmeta`; "" is `jaxmeta` itself.
ARROWS = {
    **{name: {name, "core"} for name in MIDDLE},
    "config": MIDDLE | {"config"},
    "cli": {"cli", "config", "run", "core.checks"},
    "__init__": PURE,
    "__main__": {"cli"},
}
NUMERIC = {"jax", "optax", "chex", "numpy"}
LIBRARIES = dict.fromkeys(PURE, NUMERIC) | {
    "models": NUMERIC | {"flax", "equinox", "haiku"},
    "environments": NUMERIC | {"brax"},
}
# In functions only.
LAZY = {
    "equinox",
    "haiku",
    "brax",
    "matplotlib",
    "tensorboardX",
    "sklearn",
    "sacrebleu",
    "rouge_score",
    "PIL",
}
# Pure code knows no files, clocks, processes or hidden randomness.
EFFECTS = {
    *("datetime", "io", "logging", "multiprocessing", "os", "pathlib", "random", "shutil", "signal"),
    *("socket", "subprocess", "tempfile", "threading", "time"),
}
LONGEST_FILE = 400


class Import(NamedTuple):
    """One imported module: its full dotted name, its line, and whether a function body holds it."""

    module: str
    line: int
    lazy: bool


def imports(path: pathlib.Path, root: pathlib.Path = ROOT) -> Iterator[Import]:
    """Yields every import of a file, relative ones resolved, `importlib.import_module("...")` included."""
    relative = path.relative_to(root).with_suffix("").parts
    package = relative[:-1]

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                # `from jaxmeta import core` imports a module, `from jaxmeta.core import adapt` may.
                child = root.joinpath(*module.split("."), alias.name)
                is_module = child.is_dir() or child.with_suffix(".py").is_file()
                is_private = alias.name.startswith("_") and not alias.name.endswith("__")
                whole = f"{module}.{alias.name}" if is_module or is_private else module
                yield Import(whole, node.lineno, lazy)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            name = ast.unparse(node.args[0]) if node.args else ""
            literal = name[1:-1] if name[:1] in ("'", '"') and name[1:-1].replace(".", "").isidentifier() else ""
            yield Import(literal or "<computed>", node.lineno, lazy)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(path.read_text("utf-8")), lazy=False)


def part_of(path: pathlib.Path, root: pathlib.Path = ROOT) -> str:
    """Returns the layer that a file belongs to: the first name under `jaxmeta`."""
    return path.relative_to(root / "jaxmeta").with_suffix("").parts[0]


def complaints(path: pathlib.Path, root: pathlib.Path = ROOT) -> list[str]:
    """Returns what a file imports and may not."""
    part = part_of(path, root)
    if part not in ARROWS:
        return [f"{path}: `jaxmeta.{part}` is on no map; add it to ARROWS and to docs/architecture.md"]
    found = []
    for module, line, lazy in imports(path, root):
        where = f"{path.relative_to(root)}:{line}"
        top, _, rest = module.partition(".")
        if module == "<computed>":
            if path.name != "__init__.py":  # where lazy names of a package are looked up
                found.append(f"{where}: imports a module whose name it computes")
        elif top == "jaxmeta":
            if not any(rest == allowed or rest.startswith(allowed + ".") for allowed in ARROWS[part]):
                found.append(f"{where}: `{part}` must not import `{module}`")
        elif top in LAZY and not lazy:
            found.append(f"{where}: import `{top}` inside the function that needs it")
        elif part in PURE and top in EFFECTS:
            found.append(f"{where}: `{part}` is pure and must not import `{top}`")
        elif part in LIBRARIES and top not in LIBRARIES[part] and top not in sys.stdlib_module_names:
            found.append(f"{where}: `{part}` must not import `{top}`")
        names = module.split(".")
        same_package = top == "jaxmeta" and rest.startswith(part)
        if top != "__future__" and not same_package and any(name.startswith("_") for name in names):
            found.append(f"{where}: `{module}` is private")
    return found


def _name(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_arrows_point_one_way(path):
    assert not complaints(path), "\n".join(complaints(path))


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) in PURE], ids=_name)
def test_pure_code_neither_opens_nor_prints(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    names = {node.func.id for node in calls if isinstance(node.func, ast.Name)}
    assert not names & {"open", "print", "input", "exec", "eval"}
    assert not any(ast.unparse(node.func).startswith(("np.random", "numpy.random")) for node in calls)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_files_are_short(path):
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_public_names_have_docstrings(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    body = ast.parse(path.read_text("utf-8")).body
    bare = [
        node.name
        for node in body
        if isinstance(node, kinds) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert not bare


def test_every_package_is_a_package():
    folders = {path.parent for path in FILES}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").is_file()]
    assert {part_of(path) for path in FILES} <= set(ARROWS)


def test_importing_jaxmeta_is_light():
    heavy = ["babel", "sentencepiece", "grain", "orbax", "tensorflow", "tensorflow_datasets", "matplotlib"]
    heavy += ["pydantic", "tyro", "rich", "sklearn"]
    code = f"import sys, jaxmeta; print(*[name for name in {heavy} if name in sys.modules])"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("core/a.py", "import flax", "`core` must not import `flax`"),
        ("core/a.py", "from ..algorithms import maml", "`core` must not import `jaxmeta.algorithms"),
        ("core/a.py", "from .. import data", "`core` must not import `jaxmeta.data`"),
        ("core/a.py", "import time", "`core` is pure and must not import `time`"),
        ("core/a.py", "def f():\n    import jaxmeta.run.loop", "`core` must not import `jaxmeta.run.loop`"),
        ("core/a.py", "from jax._src import core", "`jax._src` is private"),
        ("algorithms/a.py", "import jaxmeta", "`algorithms` must not import `jaxmeta`"),
        ("algorithms/a.py", "import jaxmeta.estimators.backprop as b", "`algorithms` must not import"),
        ("algorithms/a.py", "import importlib\nimportlib.import_module('jaxmeta.run')", "must not import"),
        ("objectives/a.py", "import importlib\nimportlib.import_module('jaxmeta.' + x)", "it computes"),
        ("models/a.py", "import equinox", "inside the function"),
        ("models/a.py", "import torch", "`models` must not import `torch`"),
        ("run/a.py", "from jaxmeta.data.cldr import load", "`run` must not import `jaxmeta.data.cldr`"),
        ("run/a.py", "import matplotlib.pyplot as plt", "inside the function"),
        ("data/a.py", "from jaxmeta.config import Config", "`data` must not import `jaxmeta.config`"),
        ("data/a.py", "from jaxmeta.core._secret import x", "is private"),
        ("data/a.py", "from jaxmeta.core.checks import _secret", "is private"),
        ("cli.py", "from jaxmeta.core.learner import build", "`cli` must not import `jaxmeta.core.learner`"),
        ("cli.py", "import jaxmeta.data.tsv", "`cli` must not import `jaxmeta.data.tsv`"),
        ("config.py", "from jaxmeta import cli", "`config` must not import `jaxmeta.cli`"),
        ("coremore/a.py", "import jax", "is on no map"),
        ("core/a.py", "from __future__ import annotations\nimport jax.numpy as jnp, numpy, optax", None),
        ("core/a.py", "from .types import Episode\nfrom jaxmeta.core import checks", None),
        ("models/a.py", "import flax.linen as nn\ndef f():\n    import haiku", None),
        ("run/a.py", "import orbax, os\nfrom jaxmeta.core.checks import InputError", None),
        ("config.py", "import pydantic\nfrom jaxmeta.run import loop\nfrom jaxmeta.data import cldr", None),
        ("cli.py", "from jaxmeta.core.checks import InputError\nfrom jaxmeta import config, run", None),
    ],
)
def test_the_test_itself(tmp_path, file, line, message):
    path = tmp_path / "jaxmeta" / file
    for folder in ("core", "algorithms", "data", "run", "config.py", "cli.py", "core/checks.py"):
        target = tmp_path / "jaxmeta" / folder
        if target.suffix:
            target.write_text("")
        else:
            target.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.write_text(line)
    found = complaints(path, tmp_path)
    if message is None:
        assert found == []
    else:
        assert message in "\n".join(found)
