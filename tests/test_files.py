"""Files are written whole or not at all."""

import json
import os

import pytest

from jaxmeta.run.files import PART, write_json, write_whole


def test_text_and_bytes_are_written_as_they_are(tmp_path):
    write_whole(tmp_path / "a.txt", "Größe\n")
    write_whole(tmp_path / "b.png", b"\x89\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "Größe\n".encode()
    assert (tmp_path / "b.png").read_bytes() == b"\x89\r\n"
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "b.png"}


def test_what_was_there_stays_until_all_is_written(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_whole(path, "before")

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, "after")
    assert path.read_text() == "before"
    assert {found.name for found in tmp_path.iterdir()} == {"a.txt", f"a.txt{PART}"}
    write_whole(path, "after")
    assert {found.name: found.read_text() for found in tmp_path.iterdir()} == {"a.txt": "after"}


def test_json_is_for_people_too(tmp_path):
    write_json(tmp_path / "a.json", {"name": "ଓଡ଼ିଆ", "scores": [1.5]})
    text = (tmp_path / "a.json").read_text("utf-8")
    assert json.loads(text) == {"name": "ଓଡ଼ିଆ", "scores": [1.5]}
    assert "ଓଡ଼ିଆ" in text
    assert text.count("\n") > 3
