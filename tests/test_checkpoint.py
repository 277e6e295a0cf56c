"""A checkpoint is used only if every byte of it is what was saved."""

import json
import os
import pathlib
import shutil
import threading
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta.core.checks import InputError
from jaxmeta.run import checkpoint
from jaxmeta.run.checkpoint import Checkpoints, tree_digests, tree_sha256
from jaxmeta.run.experiment import as_expected


class Pair(NamedTuple):
    first: object
    second: object


def tree(value: float):
    return Pair(
        {"w": jnp.full((3, 4), value), "a/b.c%": np.arange(5, dtype=np.int8), "none": None, "empty": ()},
        [jnp.array(value, jnp.bfloat16), jnp.zeros((0, 2)), jnp.array([True, False]), np.uint32(7)],
    )


class Reporting(Checkpoints):
    def __init__(self, folder: pathlib.Path, **options):
        self.reports: list[str] = []
        super().__init__(folder, report=self.reports.append, **options)


def saved(folder: pathlib.Path, *values: int, **options) -> Reporting:
    checkpoints = Reporting(folder, **options)
    for value in values:
        checkpoints.save(value, tree(value), extra={"seconds": value / 3})
    checkpoints.wait()
    return checkpoints


def largest_file(folder: pathlib.Path) -> pathlib.Path:
    files = [path for path in (folder / "state").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def flip_bit(path: pathlib.Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << at % 8
    path.write_bytes(data)


def assert_same(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert tree_digests(a) == tree_digests(b)


def test_restores_what_was_saved(tmp_path):
    with saved(tmp_path, 10) as checkpoints:
        restored = checkpoints.latest(tree(0))
    assert restored is not None
    assert restored.step == 10
    assert restored.extra == {"seconds": 10 / 3}
    assert_same(restored.tree, tree(10))
    assert isinstance(restored.tree.first["w"], jax.Array)
    assert isinstance(restored.tree.first["a/b.c%"], np.ndarray)


def test_restores_into_an_abstract_template(tmp_path):
    with saved(tmp_path, 3) as checkpoints:
        restored = checkpoints.latest(jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree(0))))
    assert restored is not None
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored.tree))
    assert_same(restored.tree, tree(3))


def test_restores_the_sharding_of_the_template(tmp_path):
    mesh = jax.make_mesh((2,), ("task",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("task"))
    sharded = {"w": jax.device_put(np.arange(8.0, dtype=np.float32), sharding), "free": jnp.ones(2)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, sharded)
        restored = checkpoints.latest(sharded)
    assert restored is not None
    assert restored.tree["w"].sharding == sharding
    assert not restored.tree["free"].committed
    assert_same(restored.tree, sharded)


def test_reads_without_a_template(tmp_path):
    with saved(tmp_path, 1, 2) as checkpoints:
        read = checkpoints.read()
        first = checkpoints.read(1)
    assert (read.step, first.step) == (2, 1)
    assert set(read.tree["first"]) == {"w", "a/b.c%"}
    assert set(read.tree["second"]) == {"0", "1", "2", "3"}
    assert read.tree["second"]["1"].shape == (0, 2)
    np.testing.assert_array_equal(first.tree["first"]["w"], np.ones((3, 4), np.float32))
    with pytest.raises(InputError, match=r"no checkpoint of step 7; its steps are: 1, 2"):
        checkpoints.read(7)


def test_the_caller_may_change_arrays_after_save(tmp_path):
    array = np.ones(1000)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": array})
        array[:] = 2
        assert checkpoints.read().tree["a"].max() == 1


def test_empty_folder(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.latest(tree(0)) is None
    assert checkpoints.steps() == []
    assert not (tmp_path / "none").exists()
    with pytest.raises(InputError, match="holds no finished checkpoint"):
        checkpoints.read()


def test_keeps_the_newest(tmp_path):
    with saved(tmp_path, 1, 2, 3, 4, keep=2) as checkpoints:
        assert checkpoints.steps() == [3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000003", "00000004"]


def test_saving_a_step_again_replaces_it(tmp_path):
    with saved(tmp_path, 1) as checkpoints:
        checkpoints.save(1, tree(5))
        restored = checkpoints.latest(tree(0))
        assert restored is not None
        assert_same(restored.tree, tree(5))
        assert checkpoints.steps() == [1]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_flipped_bit_anywhere_is_found(tmp_path):
    saved(tmp_path / "run", 1, 2).close()
    newest = tmp_path / "run" / "00000002"
    copy = shutil.copytree(newest, tmp_path / "copy")
    for path in sorted(path for path in copy.rglob("*") if path.is_file()):
        for at in np.random.default_rng(0).integers(path.stat().st_size, size=3) if path.stat().st_size else ():
            damaged = newest / path.relative_to(copy)
            flip_bit(damaged, int(at))
            checkpoints = saved(tmp_path / "run")
            restored = checkpoints.latest(tree(0))
            assert restored is not None
            assert restored.step == 1
            assert_same(restored.tree, tree(1))
            (report,) = checkpoints.reports
            assert str(newest) in report
            assert "step 1 is used" in report
            assert damaged.name in report
            damaged.write_bytes(path.read_bytes())
    restored = saved(tmp_path / "run").latest(tree(0))
    assert restored is not None
    assert restored.step == 2


def test_orbax_alone_would_not_have_noticed(tmp_path):
    """Why the digests exist: with the file digests forged, the leaf digests still catch the flipped bit."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": np.random.default_rng(0).normal(size=(64, 64))})
    path = largest_file(tmp_path / "00000001")
    flip_bit(path, path.stat().st_size // 2)
    digests = tmp_path / "00000001" / "digests.json"
    manifest = json.loads(digests.read_text())
    del manifest["sha256"]
    manifest["files"][str(path.relative_to(digests.parent))] = checkpoint._file_digest(path)
    digests.write_text(json.dumps({**manifest, "sha256": checkpoint.json_digest(manifest)}))
    with pytest.raises(InputError, match="the array w differs from what was saved"):
        Checkpoints(tmp_path).read()


@pytest.mark.parametrize("damage", ["truncated", "missing", "no digests", "cut digests", "empty digests", "no state"])
def test_damage_is_named_and_the_older_one_used(tmp_path, damage):
    saved(tmp_path, 1, 2).close()
    newest = tmp_path / "00000002"
    file = largest_file(newest)
    digests = newest / "digests.json"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
        reason = f"{file.name} is truncated"
    elif damage == "missing":
        file.unlink()
        reason = f"{file.name} is missing"
    elif damage == "no digests":
        digests.unlink()
        reason = "digests.json is missing"
    elif damage == "no state":
        shutil.rmtree(newest / "state")
        reason = "is missing"
    else:
        digests.write_bytes(digests.read_bytes()[: 100 if damage == "cut digests" else 0])
        reason = "digests.json is truncated"
    with saved(tmp_path) as checkpoints:
        restored = checkpoints.latest(tree(0))
        assert restored is not None
        assert restored.step == 1
        assert len(checkpoints.reports) == 1
        assert reason in checkpoints.reports[0]
        with pytest.raises(InputError, match=r"00000002: .*; put the folder back"):
            checkpoints.read(2)
        checkpoints.save(3, tree(3))
        checkpoints.wait()
        assert checkpoints.steps() == [1, 3]  # the damaged one went, the good one before it stayed


def test_reports_go_to_the_log_by_default(tmp_path, caplog):
    saved(tmp_path, 1, 2).close()
    (tmp_path / "00000002" / "digests.json").unlink()
    Checkpoints(tmp_path).read()
    assert [record.name for record in caplog.records] == ["jaxmeta.run.checkpoint"]


def test_none_good_is_an_error_that_names_all(tmp_path):
    saved(tmp_path, 1, 2).close()
    for path in tmp_path.iterdir():
        (path / "digests.json").unlink()
    with pytest.raises(InputError, match=r"No checkpoint in .*00000002: .*00000001: .*remove it to start again"):
        Checkpoints(tmp_path).latest(tree(0))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ({"w": np.zeros((4, 3), np.float32), "b": np.zeros(2)}, r"w is float32\[3,4\] in it, float32\[4,3\]"),
        ({"w": np.zeros((3, 4), np.float64), "b": np.zeros(2)}, r"w is float32\[3,4\] in it, float64\[3,4\]"),
        ({"w": np.zeros((3, 4), np.float32)}, "b is what it has and this model has not"),
        (
            {"w": np.zeros((3, 4), np.float32), "b": np.zeros(2), "c": np.zeros(1)},
            "c is what this model has and it has not",
        ),
    ],
)
def test_another_structure_is_refused(tmp_path, template, reason):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": np.zeros((3, 4), np.float32), "b": np.zeros(2)})
        with pytest.raises(InputError, match=reason):
            checkpoints.latest(template)


def test_an_unfinished_save_does_not_count(tmp_path):
    """What a SIGKILL in the first save leaves is no checkpoint, and goes with the next save."""
    saved(tmp_path, 1).close()
    (tmp_path / "00000001").rename(tmp_path / "tmp-00000001")
    with saved(tmp_path) as checkpoints:
        assert checkpoints.latest(tree(0)) is None
        assert checkpoints.reports == []
        checkpoints.save(2, tree(2))
    assert [path.name for path in tmp_path.iterdir()] == ["00000002"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it and nothing cleans up after it."""


class Knife:
    """Lets some operations on a folder through and kills the next one. What other threads do elsewhere is none."""

    def __init__(self, folder: pathlib.Path, left: int):
        self._folder, self._left, self._remove_tree = folder, left, shutil.rmtree
        self._removing: set[int] = set()  # threads that remove a tree, by the names in it alone

    def at(self, function):
        def cuttable(path, *args, **kwargs):
            thread, place = threading.get_ident(), pathlib.Path(path)
            if thread not in self._removing and self._folder not in (place, *place.parents):
                return function(path, *args, **kwargs)
            self._left -= 1
            if self._left < 0:
                raise Killed
            if function is not self._remove_tree:
                return function(path, *args, **kwargs)
            self._removing.add(thread)
            try:
                return function(path, *args, **kwargs)
            finally:
                self._removing.discard(thread)

        return cuttable


def test_killed_at_any_moment_of_a_save(tmp_path, monkeypatch):
    saved(tmp_path / "before", 1, 2).close()
    moment, finished, outcomes = 0, False, []
    while not finished:
        folder = shutil.copytree(tmp_path / "before", tmp_path / str(moment))
        knife = Knife(folder, moment)
        with monkeypatch.context() as patch:
            for owner, name in [
                (checkpoint, "_fsync"),
                (pathlib.Path, "rename"),
                (shutil, "rmtree"),
                (os, "unlink"),
            ]:
                patch.setattr(owner, name, knife.at(getattr(owner, name)))
            checkpoints = saved(folder)
            checkpoints.save(3, tree(3))
            try:
                checkpoints.close()
                finished = True
            except Killed:
                moment += 1
        with saved(folder) as checkpoints:
            restored = checkpoints.latest(tree(0))
            assert restored is not None
            assert_same(restored.tree, tree(restored.step))
            assert checkpoints.reports == []
            outcomes.append(restored.step)
            checkpoints.save(4, tree(4))
        assert sorted(path.name for path in folder.iterdir()) == [f"0000000{restored.step}", "00000004"]
    assert moment > 10
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {2, 3}


def test_a_save_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    checkpoints.save(1, tree(1))
    with pytest.raises(InputError, match=r"could not be written to .*file.checkpoints"):
        checkpoints.wait()
    checkpoints.close()


def test_a_save_that_reads_back_differently_does_not_count(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 1)
    write = checkpoint._write_arrays
    monkeypatch.setattr(
        checkpoint,
        "_write_arrays",
        lambda folder, leaves: write(folder, {name: np.array(leaf + leaf) for name, leaf in leaves.items()}),
    )
    checkpoints.save(2, tree(2))
    with pytest.raises(InputError, match="differs from what was saved"):
        checkpoints.wait()
    assert checkpoints.steps() == [1]
    monkeypatch.undo()
    checkpoints.save(2, tree(2))
    checkpoints.close()
    assert checkpoints.steps() == [1, 2]


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="`keep` must be positive, got 0"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="`tree` must be a container of arrays"):
        Checkpoints(tmp_path).save(1, {})
    with pytest.raises(ValueError, match="`tree` must be a container of arrays"):
        Checkpoints(tmp_path).save(1, np.ones(3))
    with pytest.raises(TypeError):
        Checkpoints(tmp_path).save(1, tree(1), extra={"no": object()})


def test_digests_see_dtype_shape_bytes_and_path():
    base = {"a": np.zeros(4, np.float32), "b": np.ones(2, np.float32)}
    others = [
        {"a": np.zeros(4, np.int32), "b": base["b"]},
        {"a": np.zeros((2, 2), np.float32), "b": base["b"]},
        {"a": -np.zeros(4, np.float32), "b": base["b"]},
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"]},
    ]
    digests = {tree_sha256(tree) for tree in [base, *others]}
    assert len(digests) == 6
    assert tree_sha256({"b": base["b"], "a": jnp.asarray(base["a"])}) == tree_sha256(base)
    assert tree_sha256({"x": np.asfortranarray(np.arange(6.0).reshape(2, 3))}) == tree_sha256(
        {"x": np.arange(6.0).reshape(2, 3)}
    )
    assert set(tree_digests({"p": {"q/r": np.zeros(1)}, "s": [np.zeros(1)]})) == {"p/q%2Fr", "s/0"}


def test_parameters_are_read_in_the_structure_that_their_model_has(tmp_path):
    """Nested dicts of arrays forget what was a list, and where there was nothing."""
    saved = {"layers": [{"kernel": np.ones((2, 3))}, {"kernel": np.zeros(3)}], "maps": {"a": None, "b": np.arange(4.0)}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, {"meta_params": saved})
        found = checkpoints.read().tree["meta_params"]
    assert jax.tree.structure(found) != jax.tree.structure(saved)
    chex.assert_trees_all_equal(as_expected(tmp_path, saved, found), saved)
    other = {**saved, "layers": [saved["layers"][0], {"kernel": np.zeros(4)}]}
    with pytest.raises(InputError, match="another model"):
        as_expected(tmp_path, other, found)
