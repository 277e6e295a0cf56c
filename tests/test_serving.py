"""Models over HTTP: what is answered is what `jaxmeta predict` prints, and what is wrong is one sentence."""

import asyncio
import contextlib
import io
import json
import pathlib
import socket
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any, NamedTuple

import jax
import pytest
from tiny_run import environment, jaxmeta, process, toy_lines, toy_shots, toy_text, train, write_lines

from jaxmeta.config.serving import application
from jaxmeta.core.checks import InputError

TEXTS = [toy_text("zz", label, 7) for label in ("good", "bad", "fair")]


class Kept(NamedTuple):
    """A run, a model adapted from it, that model exported, and what they print of `TEXTS`."""

    folder: pathlib.Path
    shown: list[str]


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Kept:
    folder, shown = tmp_path_factory.mktemp("served"), io.StringIO()
    write_lines(folder / "toy.tsv", toy_lines())
    write_lines(folder / "shots.tsv", toy_shots())
    write_lines(folder / "texts.txt", TEXTS)
    with contextlib.chdir(folder):
        with contextlib.redirect_stdout(io.StringIO()):
            assert jaxmeta(*train("run")) == 0
            assert jaxmeta("adapt", "run", "--shots", "shots.tsv", "--out", "adapted") == 0
            assert jaxmeta("export", "adapted", "--out", "exported", "--platforms", "cpu") == 0
        with contextlib.redirect_stdout(shown):
            assert jaxmeta("predict", "adapted", "--input", "texts.txt") == 0
    return Kept(folder, [line.rpartition("\t")[0] for line in shown.getvalue().splitlines()])


@pytest.fixture
def inside(kept, monkeypatch):
    """Works in the folder of the run, whose config names its data from there."""
    monkeypatch.chdir(kept.folder)


def ask(app, path: str, body: Any = None) -> tuple[int, Any]:
    """Sends an ASGI application one request; returns the status and what its JSON says."""
    sent: list[dict[str, Any]] = []
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    scope = {
        "type": "http", "method": "GET" if body is None else "POST", "path": path, "raw_path": path.encode(),
        "headers": [], "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
        "server": ("test", 80), "client": ("test", 1),
    }  # fmt: skip

    async def receive():
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message):
        sent.append(message)

    with jax.numpy_dtype_promotion("standard"):
        asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(b"".join(part.get("body", b"") for part in sent[1:]))


@pytest.mark.parametrize("name", ["adapted", "exported"])
def test_a_model_answers_as_predict_prints(kept, inside, name):
    app = application(name)
    labels = ["bad", "fair", "good"]
    assert ask(app, "/") == (
        200, {"name": "toy", "kind": "classification", "adapts": False, "models": {"default": labels}}
    )  # fmt: skip
    assert ask(app, "/predict", {"lines": TEXTS}) == (200, {"answers": kept.shown})
    assert ask(app, "/predict", {"lines": []}) == (200, {"answers": []})


def test_a_run_adapts_to_examples_that_are_posted(kept, inside):
    app = application("run")
    status, says = ask(app, "/predict", {"lines": TEXTS})
    assert (status, says) == (400, {"error": "`model`: there is no 'default'; post examples to /adapt first."})
    shots = "\n".join(toy_shots())
    assert ask(app, "/adapt", {"name": "zz", "shots": shots}) == (
        200, {"says": "Adapted ridge to 20 examples without a gradient step."}
    )  # fmt: skip
    assert ask(app, "/predict", {"lines": TEXTS, "model": "zz"}) == (200, {"answers": kept.shown})
    assert list(ask(app, "/")[1]["models"]) == ["zz"]
    assert not [path for path in kept.folder.iterdir() if path.name.startswith((".", "tmp"))]


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/predict", b"{", "The body is not JSON: "),
        ("/predict", b'{"lines": ["\\ud800"]}', "The body is not Unicode text: "),
        ("/predict", b"[]", "The body must be an object, such as "),
        ("/predict", {"lines": "one"}, "`lines` must be a list of texts"),
        ("/predict", {"lines": [1]}, "`lines` must be a list of texts"),
        ("/predict", {"texts": []}, "`texts` is not known here; there are lines, model."),
        ("/predict", {"lines": [], "model": "zz"}, "`model`: there is no 'zz'; "),
        ("/predict", {"lines": [], "model": []}, "`model`: there is no []; "),
        ("/adapt", {"name": "zz", "shots": "label\ttext", "method": []}, "`method` and `family` must be texts"),
        ("/adapt", {"name": "zz"}, "`name` and `shots` must be texts"),
        ("/adapt", {"name": "zz", "shots": "a\tb\n"}, "`shots`, line 1: there is no column 'label'"),
        ("/adapt", {"name": "zz", "shots": "label\ttext\nugly\tzz\n"}, "`shots`, line 2: "),
        ("/adapt", {"name": "zz", "shots": "label\ttext\ngood\ta\nbad\tb", "method": "x"}, "no method 'x' to adapt"),
    ],
)
def test_what_is_wrong_with_a_request_is_one_sentence(kept, inside, path, body, says):
    status, found = ask(application("run"), path, body)
    assert status == 400
    assert says in found["error"]
    assert "\n" not in found["error"]
    assert str(kept.folder) not in found["error"]


def test_an_adapted_model_is_not_adapted_again_and_other_paths_are_refused(kept, inside):
    app = application("adapted")
    status, found = ask(app, "/adapt", {"name": "zz", "shots": "label\ttext"})
    assert (status, found["error"][:32]) == (400, "This is an adapted model already")
    assert ask(app, "/labels")[0] == 404
    assert ask(app, "/predict")[0] == 405
    with pytest.raises(InputError, match="no run at nothing"):
        application("nothing")


def test_the_command_listens(kept):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = process("serve", "exported", "--port", str(port))
    server = subprocess.Popen(words, cwd=kept.folder, env=environment(), stderr=subprocess.PIPE)
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", json.dumps({"lines": TEXTS}).encode())
        for _ in range(600):
            assert server.poll() is None, server.stderr and server.stderr.read().decode()
            try:
                with urllib.request.urlopen(request) as answer:
                    assert json.load(answer) == {"answers": kept.shown}
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        else:
            pytest.fail("no answer in a minute")
    finally:
        server.terminate()
        assert server.wait(20) is not None
        assert server.stderr is not None
        server.stderr.close()
