"""Reading back what a run wrote, `evaluation.json` and `metrics.jsonl`, and checking it first."""

import json
import os
import pathlib
from typing import Annotated, Any

import pydantic

from jaxmeta.core.checks import InputError
from jaxmeta.run.units import LANGUAGE

_Pair = Annotated[list[float], pydantic.Field(min_length=2, max_length=2)]


class _Compute(pydantic.BaseModel):
    gradient_examples: float
    seconds: float


class _Adaptation(pydantic.BaseModel):
    dev_score: float
    on_edge: list[str] = []


class _Method(pydantic.BaseModel):
    metric: str
    mean: float
    ci95: _Pair
    worst_quartile: float
    per_language: dict[str, float] = pydantic.Field(min_length=1)
    repetitions: dict[str, list[float]] = pydantic.Field(min_length=1)
    compute: _Compute
    adaptation: _Adaptation
    kind: str = ""


class _Paired(pydantic.BaseModel):
    mean: float
    ci95: _Pair
    wins: int
    losses: int


class _Point(pydantic.BaseModel):
    x: float
    mean: float
    ci95: _Pair


class _Fit(pydantic.BaseModel):
    x: list[float]
    truth: list[float]
    support_x: list[float]
    support_y: list[float]
    predictions: dict[str, list[float]]


class _Script(pydantic.BaseModel):
    script: str
    languages: list[str]
    texts: int
    bytes_per_character: float
    tokens_per_character: float
    tokens_per_word: float | None
    unknown_rate: float
    truncation_rate: float


class _Data(pydantic.BaseModel):
    scripts: list[_Script] = []


class _Measure(pydantic.BaseModel):
    says: str
    matrix: list[list[float]]


class _Similarity(pydantic.BaseModel):
    languages: list[str] = pydantic.Field(min_length=1)
    roles: list[str]
    scripts: list[str]
    measures: dict[str, _Measure] = pydantic.Field(min_length=1)


class _Said(pydantic.BaseModel):
    says: str


class _Evaluation(pydantic.BaseModel):
    """What `evaluation.json` must hold; keys beyond these are left alone."""

    task: str
    metric: str
    higher_is_better: bool
    languages: list[str] = pydantic.Field(min_length=1)
    unit: str = LANGUAGE
    training_seeds: list[int]
    shot_seeds: list[int]
    shots: int
    methods: dict[str, _Method] = pydantic.Field(min_length=1)
    paired: dict[str, _Paired]
    best_meta_learner: str | None
    best_baseline: str | None
    verdict: str
    curves: dict[str, dict[str, list[_Point]]] = {}
    fits: list[_Fit] = []
    calibration: dict[str, dict[str, float]] = {}
    transfer: _Said | None = None
    guard: _Said | None = None
    leave_one_out: _Said | None = None
    reaching: _Said | None = None
    data: _Data = _Data()


def _again(path: pathlib.Path) -> str:
    return f"run `jaxmeta evaluate {path.parent}` to write it again"


def read_evaluation(folder: str | os.PathLike) -> dict[str, Any]:
    """Reads and checks `<folder>/evaluation.json`.

    Raises:
      InputError: the file is missing, is no JSON, or lacks something; the message names the place in it.
    """
    path = pathlib.Path(folder) / "evaluation.json"
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist; run its `jaxmeta train` to the end, or `jaxmeta evaluate {path.parent}`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not JSON ({error.msg}); {_again(path)}") from None
    try:
        checked = _Evaluation.model_validate(evaluation, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise InputError(f"{path}: `{place}`: {first['msg'].lower()}; {_again(path)}") from None
    for key in ("best_meta_learner", "best_baseline"):
        name = getattr(checked, key)
        if name and name not in checked.methods:
            raise InputError(f"{path}: `{key}` names {name!r}, which is not among `methods`; {_again(path)}")
    for index, fit in enumerate(checked.fits):
        lengths = {len(fit.x), len(fit.truth), *map(len, fit.predictions.values())}
        if len(lengths) > 1 or len(fit.support_x) != len(fit.support_y):
            raise InputError(f"{path}: `fits.{index}`: x and y differ in length; {_again(path)}")
    return evaluation


def read_similarity(folder: str | os.PathLike) -> dict[str, Any]:
    """Reads and checks `<folder>/similarity.json`; a folder without one compares nothing.

    Raises:
      InputError: it is no JSON, or lacks something.
    """
    path = pathlib.Path(folder) / "similarity.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        checked = _Similarity.model_validate(found, strict=True)
    except FileNotFoundError:
        return {"languages": [], "roles": [], "scripts": [], "measures": {}}
    except (OSError, ValueError) as error:  # pydantic's and json's are such
        first = error.errors()[0]["msg"].lower() if isinstance(error, pydantic.ValidationError) else str(error)
        raise InputError(f"{path} is damaged ({first}); {_again(path)}") from None
    count = len(checked.languages)
    shapes = [(len(m.matrix), *map(len, m.matrix)) for m in checked.measures.values()]
    if len(checked.roles) != count or len(checked.scripts) not in (0, count) or {*sum(shapes, ())} != {count}:
        raise InputError(f"{path} is damaged (its parts are of different lengths); {_again(path)}")
    return found


def read_metrics(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads the training lines of `<folder>/metrics.jsonl`: those with a phase, a step and a loss.

    No file gives no lines. A kill may cut a line, and a resumed run goes on behind the cut, so a line that is
    no JSON is left out: it holds at most one point of a curve.

    Raises:
      InputError: a line is JSON, but no object, so the file is none of ours.
    """
    path = pathlib.Path(folder) / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {number}: not a JSON object; delete that line or train again")
        if not record.get("final") and {"phase", "step", "loss"} <= record.keys():
            records.append(record)
    return records
