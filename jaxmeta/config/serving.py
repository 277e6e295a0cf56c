"""Models over HTTP: adapts a run to a language whose examples are posted, and answers lines of text."""

import json
import pathlib
import tempfile
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxmeta.config import adapted
from jaxmeta.config.commands import answered
from jaxmeta.config.run_folder import read_adaptable_config
from jaxmeta.core.checks import InputError

if TYPE_CHECKING:
    from starlette.applications import Starlette

_MISSING = "`jaxmeta serve` needs uvicorn and starlette; `pip install 'jaxmeta[serve]'`."
DEFAULT = "default"  # the name of a model that is served from the start


def serve(model: str, host: str, port: int) -> None:
    """Answers over HTTP until it is stopped.

    Raises:
      InputError: what is to be served is unusable, or a package is missing.
    """
    try:
        import uvicorn
    except ImportError:
        raise InputError(_MISSING) from None
    app = application(model)
    print(f"Serving {model} at http://{host}:{port} (GET /, POST /predict, POST /adapt); Ctrl-C ends it.", flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning")


def application(model: str) -> "Starlette":
    """Returns the ASGI application, for a server of your own.

        GET  /         what is served: the kind of task, labels, names of the models
        POST /predict  {"lines": [...], "model": name}            -> {"answers": [...]}, as `jaxmeta predict` has them
        POST /adapt    {"name": ..., "shots": ..., "method": ...}  -> {"says": ...}; `shots` is the text of a TSV file

    "model", "method" and "family" (see `jaxmeta adapt`) may be left out. What is wrong with a request is said in one
    sentence, {"error": ...}, with status 400. Models that were adapted here are kept in memory, and forgotten with the
    process.

    Args:
      model: a run folder, which can be adapted, or a folder that `adapt` or `export` wrote, which is named "default".

    Raises:
      InputError: the folder is unusable, or its model reads no text.
    """
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.exceptions import HTTPException
        from starlette.requests import Request
        from starlette.responses import JSONResponse
        from starlette.routing import Route
    except ImportError:
        raise InputError(_MISSING) from None
    shelf = Shelf(pathlib.Path(model))

    def answering(handle: Callable[[dict[str, Any]], dict[str, Any]]):
        async def respond(request: Request) -> JSONResponse:
            try:
                asked = _read(await request.body()) if request.method == "POST" else {}
                return JSONResponse(await run_in_threadpool(handle, asked))
            except InputError as error:
                return JSONResponse({"error": str(error)}, status_code=400)

        return respond

    def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        what = f"{request.method} {request.url.path}: {error.detail.lower()}"
        return JSONResponse(
            {"error": f"{what}; ask GET /, POST /predict or POST /adapt."}, status_code=error.status_code
        )

    routes = [
        Route("/", answering(lambda asked: shelf.facts()), methods=["GET"]),
        Route("/predict", answering(shelf.predict), methods=["POST"]),
        Route("/adapt", answering(shelf.adapt), methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: refused})


class Shelf:
    """The models that are served, by name."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.lock = folder, threading.Lock()  # one call to the device at a time
        self.models: dict[str, adapted.Adapted] = {}
        self.run = None if (folder / "adapted.json").exists() else read_adaptable_config(folder)
        if self.run is None:
            self.models[DEFAULT] = _reads_text(adapted.load(folder))

    def facts(self) -> dict[str, Any]:
        """Returns what is served."""
        config = self.run or self.models[DEFAULT].config
        labels = {name: model.labels for name, model in dict(self.models).items()}  # others are added meanwhile
        return {"name": config.name, "kind": config.task.kind, "adapts": self.run is not None, "models": labels}

    def predict(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Returns a model's answers to lines."""
        _known(asked, "lines", "model")
        lines, name = asked.get("lines"), asked.get("model", DEFAULT)
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise InputError('`lines` must be a list of texts, such as {"lines": ["one", "two"]}.')
        if not isinstance(name, str) or name not in self.models:
            there = f"there are {', '.join(self.models)}" if self.models else "post examples to /adapt first"
            raise InputError(f"`model`: there is no {name!r}; {there}.")
        with self.lock:
            return {"answers": answered(self.models[name], lines, "`lines`") if lines else []}

    def adapt(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Adapts the run to examples and keeps the model under its name."""
        _known(asked, "name", "shots", "method", "family")
        if self.run is None:
            raise InputError("This is an adapted model already; serve a run folder to adapt over HTTP.")
        if not all(isinstance(asked.get(key), str) and asked[key].strip() for key in ("name", "shots")):
            raise InputError(
                '`name` and `shots` must be texts, such as {"name": "mine", "shots": "label\\ttext\\n..."}.'
            )
        method, family = asked.get("method", self.run.evaluate.main), asked.get("family", "")
        if not (isinstance(method, str) and isinstance(family, str)):
            raise InputError('`method` and `family` must be texts, such as {"method": "ridge"}.')
        with self.lock, tempfile.TemporaryDirectory() as scratch:
            shots, model = pathlib.Path(scratch) / "shots", pathlib.Path(scratch) / "model"
            shots.write_text(asked["shots"], encoding="utf-8")
            try:
                says = adapted.adapt(self.folder, self.run, str(shots), model, method, family)
            except InputError as error:
                # The user knows of no file.
                raise InputError(str(error).replace(str(shots), "`shots`")) from None
            self.models[asked["name"]] = _reads_text(adapted.load(model))
        return {"says": says}


def _reads_text(model: adapted.Adapted) -> adapted.Adapted:
    if model.tokenizer is None:
        raise InputError("This model hears recordings, and lines of text are served; use `jaxmeta predict`.")
    return model


def _read(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
        json.dumps(found, ensure_ascii=False).encode()  # JSON can name halves of characters, which are no text
    except json.JSONDecodeError as error:
        raise InputError(f"The body is not JSON: {error}.") from None
    except UnicodeError as error:
        raise InputError(f"The body is not Unicode text: {error}.") from None
    if not isinstance(found, dict):
        raise InputError('The body must be an object, such as {"lines": ["one", "two"]}.')
    return found


def _known(asked: dict[str, Any], *names: str) -> None:
    if unknown := sorted(set(asked) - set(names)):
        raise InputError(f"`{unknown[0]}` is not known here; there are {', '.join(names)}.")
