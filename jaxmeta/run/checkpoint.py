"""Checkpoints that count only once they were read back and found equal.

Orbax writes the arrays. Beside them stands `digests.json` with a digest of every leaf and of every file,
because orbax restores flipped bits without a word. A checkpoint is prepared under a name that nobody reads,
read back, compared, and renamed into place last; so whatever kills the process, the newest in place is whole.

    FOLDER/00000040/state/...         what orbax wrote
    FOLDER/00000040/digests.json      {"step", "extra", "leaves", "empty", "files", "sha256"}
    FOLDER/tmp-...                    unfinished or about to be deleted; never read
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import urllib.parse
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxmeta.core.checks import InputError, check_positive
from jaxmeta.core.types import ArrayTree

_NAME = re.compile(r"(\d{8,})(?:\.(\d+))?")  # a step, and a number when the step was saved again
_DIGESTS = "digests.json"
_STATE = "state"
_TEMPORARY = "tmp-"

# Orbax narrates every save at INFO through absl's logger; its warnings and errors still pass.
logging.getLogger("absl").addFilter(lambda r: r.levelno > logging.INFO or "orbax" not in r.pathname)


class Restored(NamedTuple):
    """A checkpoint that was found good."""

    step: int
    tree: ArrayTree
    extra: dict[str, Any]


class _UnusableError(ValueError):
    """One checkpoint cannot be used; the message is the reason."""


def tree_digests(tree: ArrayTree) -> dict[str, str]:
    """Hashes every leaf of a tree of arrays: path -> sha256 over dtype, shape and bytes.

    Paths join the names from root to leaf with `/` (`%`, `.` and `/` inside a name are percent-encoded),
    so a named tuple, a dict and a list with the same names have the same paths.
    """
    return {path: _leaf_digest(leaf) for path, leaf in _flatten(jax.device_get(tree)).items()}


def tree_sha256(tree: ArrayTree) -> str:
    """Hashes a whole tree of arrays into one hex digest that does not depend on the order of dict keys."""
    return json_digest(tree_digests(tree))


class Checkpoints:
    """The checkpoints of one training phase, in one folder; one process writes them.

    Args:
      folder: where they are; made at the first save.
      keep: how many good ones stay; older ones go only after a newer one was verified.
      report: called with a sentence for each checkpoint that is passed over; logs a warning unless given.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 2, report: Callable[[str], None] | None = None):
        check_positive("keep", keep)
        self.folder = pathlib.Path(folder).absolute()
        self._keep = keep
        self._report = report or logging.getLogger(__name__).warning
        self._pool: ThreadPoolExecutor | None = None
        self._saving: Future[None] | None = None
        self._unusable: set[pathlib.Path] = set()

    def save(self, step: int, tree: ArrayTree, *, extra: Mapping[str, Any] | None = None) -> None:
        """Copies `tree` to the host and starts to write it; at most one save is under way.

        The copy is made before this returns, so the caller may donate or change the arrays.

        Args:
          step: the step this is the state after.
          tree: any container of arrays.
          extra: what else is to be kept, as JSON can say it.

        Raises:
          InputError: the *previous* save could not be written, or was not read back as it was written.
        """
        self.wait()
        leaves = {path: np.array(leaf) for path, leaf in _flatten(jax.device_get(tree)).items()}
        if "" in leaves or not any(leaf.size for leaf in leaves.values()):
            raise ValueError(f"`tree` must be a container of arrays, got {jax.tree.structure(tree)}")
        kept = json.loads(json.dumps(dict(extra or {})))
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._saving = self._pool.submit(self._commit, step, leaves, kept)

    def wait(self) -> None:
        """Waits until the save under way is committed.

        Raises:
          InputError: it could not be written, or was not read back as it was written.
        """
        saving, self._saving = self._saving, None
        if saving is None:
            return
        try:
            saving.result()
        except (OSError, ValueError) as error:  # the array store reports a full disk as a ValueError
            raise InputError(
                f"A checkpoint could not be written to {self.folder}: {error}; "
                "make room there (or choose another folder) and run the same command again."
            ) from error

    def steps(self) -> list[int]:
        """Returns the steps of the committed checkpoints, oldest first, without looking inside them."""
        return sorted({_number(path)[0] for path in self._committed()})

    def latest(self, template: ArrayTree) -> Restored | None:
        """Restores the newest good checkpoint into the shape of `template`.

        Args:
          template: a tree of arrays or of `jax.ShapeDtypeStruct`. A numpy leaf is restored as numpy, any
            other as a `jax.Array`, with the sharding of the template where it has one.

        Returns:
          The checkpoint, or None when the folder holds none.

        Raises:
          InputError: there are checkpoints and none of them is good.
        """
        self.wait()
        return self._newest(lambda leaves: _unflatten(leaves, template))

    def read(self, step: int | None = None) -> Restored:
        """Reads a checkpoint without a template, as nested dicts of numpy arrays.

        Args:
          step: which one; the newest good one unless given.

        Raises:
          InputError: there is none, or it is not good.
        """
        self.wait()
        wanted = None if step is None else [path for path in self._committed() if _number(path)[0] == step]
        if wanted == []:
            found = ", ".join(map(str, self.steps())) or "none"
            raise InputError(f"{self.folder} has no checkpoint of step {step}; its steps are: {found}.")
        restored = self._newest(_unescaped, wanted)
        if restored is None:
            raise InputError(
                f"{self.folder} holds no finished checkpoint; train first, or name the folder of another run."
            )
        return restored

    def close(self) -> None:
        """Waits for the save under way and ends the thread that writes."""
        try:
            self.wait()
        finally:
            if self._pool is not None:
                self._pool.shutdown()
                self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _committed(self) -> list[pathlib.Path]:
        """Lists the committed checkpoints, newest first."""
        if not self.folder.is_dir():
            return []
        paths = (path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))
        return sorted(paths, key=_number, reverse=True)

    def _newest(
        self, build: Callable[[dict[str, np.ndarray]], ArrayTree], paths: list[pathlib.Path] | None = None
    ) -> Restored | None:
        reasons = []
        for path in self._committed() if paths is None else paths:
            try:
                manifest, leaves = _read(path)
                tree = build(leaves)
            except _UnusableError as error:
                self._unusable.add(path)
                reasons.append(f"{path.name}: {error}")
                continue
            for reason in reasons:
                self._report(f"Checkpoint {self.folder}/{reason}. It is passed over; step {manifest['step']} is used.")
            return Restored(manifest["step"], tree, manifest["extra"])
        if reasons:
            raise InputError(
                f"No checkpoint in {self.folder} can be used ({'; '.join(reasons)}); "
                "put the folder back from a copy, or remove it to start again."
            )
        return None

    def _commit(self, step: int, leaves: dict[str, np.ndarray], extra: dict[str, Any]) -> None:
        """Writes, reads back, compares, and only then gives the checkpoint the name under which it counts."""
        for leftover in self.folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(leftover)
        stage = self.folder / f"{_TEMPORARY}{step:08d}"
        stage.mkdir(parents=True)
        digests = {path: _leaf_digest(leaf) for path, leaf in leaves.items()}
        _write_arrays(stage / _STATE, leaves)
        files = [path for path in sorted(stage.rglob("*")) if path.is_file()]
        for path in files:
            _fsync(path)
        manifest: dict[str, Any] = {
            "step": step,
            "extra": extra,
            "leaves": digests,
            "empty": {p: [str(x.dtype), list(x.shape)] for p, x in leaves.items() if not x.size},
            "files": {str(path.relative_to(stage)): _file_digest(path) for path in files},
        }
        manifest["sha256"] = json_digest(manifest)
        (stage / _DIGESTS).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for path in [stage / _DIGESTS, *(p for p in stage.rglob("*") if p.is_dir()), stage]:
            _fsync(path)
        _read(stage)
        again = [_number(path)[1] for path in self._committed() if _number(path)[0] == step]
        final = self.folder / (f"{step:08d}" if not again else f"{step:08d}.{max(again) + 1}")
        stage.rename(final)
        _fsync(self.folder)
        self._prune(final)

    def _prune(self, newest: pathlib.Path) -> None:
        """Removes damaged checkpoints, earlier saves of the same step, and all but the last `keep`."""
        others = [path for path in self._committed() if path != newest]
        same = {path for path in others if _number(path)[0] == _number(newest)[0]}
        whole = [path for path in others if path not in same | self._unusable]
        for path in [*same, *(set(others) & self._unusable), *whole[self._keep - 1 :]]:
            # Renamed first: a deletion that is cut short must not leave what looks like a damaged checkpoint.
            doomed = self.folder / f"{_TEMPORARY}old-{path.name}"
            with contextlib.suppress(FileNotFoundError):
                path.rename(doomed)
                shutil.rmtree(doomed)
            self._unusable.discard(path)


def _number(path: pathlib.Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2] or 0)) if match else (-1, 0)


def _read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads one checkpoint and compares every file and every leaf with its digest.

    Raises:
      _UnusableError: something is missing or has changed.
    """
    try:
        manifest = json.loads((path / _DIGESTS).read_text(encoding="utf-8"))
        sound = manifest.pop("sha256") == json_digest(manifest)
    except FileNotFoundError:
        raise _UnusableError(f"{_DIGESTS} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise _UnusableError(f"{_DIGESTS} is truncated or has changed since it was written")
    for name, digest in manifest["files"].items():
        try:
            changed = _file_digest(path / name) != digest
        except FileNotFoundError:
            raise _UnusableError(f"the file {name} is missing") from None
        except OSError as error:
            raise _UnusableError(f"the file {name} cannot be read ({error.strerror})") from None
        if changed:
            raise _UnusableError(f"the file {name} is truncated or has changed since it was written")
    try:
        leaves = _read_arrays(path / _STATE)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _UnusableError(f"its arrays cannot be restored ({str(error).partition(chr(10))[0]})") from error
    for name, (dtype, shape) in manifest["empty"].items():
        leaves[name] = np.zeros(shape, jnp.dtype(dtype))
    if leaves.keys() != manifest["leaves"].keys():
        raise _UnusableError("it holds other arrays than were saved")
    for name, leaf in leaves.items():
        if _leaf_digest(leaf) != manifest["leaves"][name]:
            raise _UnusableError(f"the array {name} differs from what was saved")
    return manifest, leaves


def _write_arrays(folder: pathlib.Path, leaves: Mapping[str, np.ndarray]) -> None:
    # Orbax refuses arrays without elements; their dtype and shape stand in the digests.
    full = {path: leaf for path, leaf in leaves.items() if leaf.size}
    with contextlib.closing(ocp.Checkpointer(ocp.PyTreeCheckpointHandler())) as checkpointer:
        checkpointer.save(folder, args=ocp.args.PyTreeSave(_nested(full)))


def _read_arrays(folder: pathlib.Path) -> dict[str, np.ndarray]:
    with contextlib.closing(ocp.Checkpointer(ocp.PyTreeCheckpointHandler())) as checkpointer:
        nested = checkpointer.restore(folder, args=ocp.args.PyTreeRestore())
    found = jax.tree_util.tree_flatten_with_path(nested)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in found}


def _escape(name: str) -> str:
    # Orbax joins names with dots, we join them with slashes; Haiku has slashes inside its names.
    return name.replace("%", "%25").replace(".", "%2E").replace("/", "%2F")


def _path(keys: tuple[Any, ...]) -> str:
    return "/".join(_escape(jax.tree_util.keystr((key,), simple=True)) for key in keys)


def _flatten(tree: ArrayTree) -> dict[str, Any]:
    found = [(_path(keys), leaf) for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]
    leaves = dict(found)
    if len(leaves) != len(found):
        raise ValueError("`tree` must give every leaf a path of its own, got two keys that read the same")
    return leaves


def _unflatten(leaves: Mapping[str, np.ndarray], template: ArrayTree) -> ArrayTree:
    expected = _flatten(template)
    for path in sorted(expected.keys() ^ leaves.keys()):
        where = "this model has and it has not" if path in expected else "it has and this model has not"
        raise _UnusableError(f"it is of another model or optimizer: {path} is what {where}")
    for path, like in expected.items():
        here, there = _describe(like), _describe(leaves[path])
        if here != there:
            raise _UnusableError(f"it is of another model or optimizer: {path} is {there} in it, {here} in this model")
    placed = [_place(leaves[path], like) for path, like in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(template), placed)


def _describe(leaf: Any) -> str:
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _place(array: np.ndarray, like: Any) -> Any:
    if isinstance(like, np.ndarray):
        return array
    sharding = getattr(like, "sharding", None)
    # An uncommitted array stays one: only then may `jit` still choose where it lives.
    if sharding is None or not getattr(like, "committed", True):
        return jnp.array(array)
    return jax.device_put(array, sharding)


def _nested(leaves: Mapping[str, np.ndarray], rename: Callable[[str], str] = str) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = map(rename, path.split("/"))
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def _unescaped(leaves: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return _nested(leaves, urllib.parse.unquote)


def _leaf_digest(leaf: Any) -> str:
    array = np.asarray(leaf)
    digest = hashlib.sha256(_describe(array).encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def json_digest(value: Any) -> str:
    """Hashes what JSON can say into one hex digest that does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _file_digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: pathlib.Path) -> None:
    """Puts a file or a folder on the disk, so that a power cut cannot undo what follows from it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
