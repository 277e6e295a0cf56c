"""Configs from TOML and back, with one clear sentence for whatever is wrong in them."""

import difflib
import os
import pathlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pydantic
import tomli_w

from jaxmeta.config.presets import PRESETS
from jaxmeta.config.schema import Config
from jaxmeta.core.checks import InputError

Path = str | os.PathLike[str]


class Jobs(NamedTuple):
    """The runs that a file asks for: one, or several that share settings and run one after another."""

    name: str
    configs: dict[str, Config]  # by the name of the job; "" where there is one run and no jobs

    @property
    def several(self) -> bool:
        """Whether the file has `[jobs.NAME]`: the runs are folders in a folder."""
        return "" not in self.configs


def load(path: Path | None = None, *, preset: str | None = None, changes: Mapping[str, Any] | None = None) -> Config:
    """Returns the config of a file of one run, of the embedded default job without one.

    Args:
      path: a TOML file.
      preset: one of the config's `[presets.NAME]` (of the default job: quick, full), applied over it.
      changes: dotted keys to values, applied last.

    Raises:
      InputError: the file cannot be read, asks for several runs, or has a key or value that is not allowed; the message
        names it.
    """
    jobs = load_jobs(path, preset=preset)
    if jobs.several:
        raise InputError(f"{path} asks for several runs ({', '.join(jobs.configs)}); read it with `load_jobs`.")
    return changed(jobs.configs[""], changes or {}, _named(path, preset))


def load_jobs(path: Path | None = None, *, preset: str | None = None) -> Jobs:
    """Returns the runs of a file: of each `[jobs.NAME]`, a table of changes, the settings that all share and its own.

    A preset may change both, in `[presets.NAME.train]` what all share, in `[presets.NAME.jobs.JOB.train]` one job.

    Args:
      path: a TOML file; none for the embedded default job.
      preset: one of the file's `[presets.NAME]`, applied over it.

    Raises:
      InputError: as of `load`.
    """
    where = _named(path, None)
    values = read_toml(pathlib.Path(path)) if path is not None else {"presets": PRESETS}
    presets, jobs = _tables(where, values, "presets"), _tables(where, values, "jobs")
    if unfit := [name for name in jobs if not re.fullmatch(r"\w[\w-]*", name)]:
        raise InputError(f"{where}: a job cannot be called {unfit[0]!r}; use letters, digits, - and _.")
    if preset is not None:
        if preset not in presets:
            there = f"it has {', '.join(presets)}" if presets else "it has none"
            raise InputError(f"{where} has no preset {preset!r}; {there}.")
        where = _named(path, preset)
        if unknown := [name for name in _tables(where, presets[preset], "jobs") if name not in jobs]:
            raise InputError(f"{where}: there is no job {unknown[0]!r}; the file has {', '.join(jobs) or 'none'}.")
        values = _merged(values, presets[preset])
    # What is stored with a run is what it does, not what it might have done. Searches read their table for themselves.
    shared = {k: v for k, v in values.items() if k not in ("presets", "jobs", "search")}
    if not jobs:
        config = validated(shared, where)
        return Jobs(config.name, {"": config})
    name = validated({k: v for k, v in shared.items() if k == "name"}, where).name
    configs = {
        job: validated(_merged({**shared, "name": f"{name}.{job}"}, changes), f"{where}, job {job}")
        for job, changes in values["jobs"].items()
    }
    return Jobs(name, configs)


def changed(config: Config, changes: Mapping[str, Any], where: str) -> Config:
    """Returns `config` with the values of some dotted keys replaced.

    Raises:
      InputError: a key or a value is not allowed.
    """
    values = config.model_dump()
    for key, value in changes.items():
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        values = _merged(values, nested)
    return validated(values, where)


def validated(values: Mapping[str, Any], where: str) -> Config:
    """Returns `values` as a config.

    Raises:
      InputError: with the first thing that is wrong, and `where` it is.
    """
    try:
        return Config.model_validate(values)
    except pydantic.ValidationError as error:
        raise refusal(error, where) from None


def refusal(error: pydantic.ValidationError, where: str) -> InputError:
    """Returns the first thing that pydantic refused as a sentence."""
    first, *others = error.errors()
    key = _key(first["loc"])
    if first["type"] == "extra_forbidden":
        return InputError(f"{where}: unknown key `{key}`; {nearest_key(key)}")
    # Where several types are allowed there is a reason for each.
    reasons = [first["msg"], *(other["msg"] for other in others if _key(other["loc"]) == key)]
    reason = ", or ".join(reason[0].lower() + reason[1:] for reason in reasons)
    reason = re.sub(r"a valid dictionary or instance of \w+", "a table", reason).replace("a valid tuple", "a list")
    got = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
    return InputError(f"{where}: `{key}`: {reason}{got}.")


def dump(config: Config | Jobs) -> str:
    """Returns the config of a run, or of several, as TOML; `load` and `load_jobs` read it back as it was."""
    if isinstance(config, Config):
        return tomli_w.dumps(config.model_dump(mode="json"))
    jobs = {job: each.model_dump(mode="json") for job, each in config.configs.items()}
    return tomli_w.dumps({"name": config.name, "jobs": jobs})


def difference(one: Config, other: Config) -> list[str]:
    """Returns a line for each key that two configs disagree on."""
    first, second = dict(_flat(one.model_dump())), dict(_flat(other.model_dump()))
    keys = dict.fromkeys((*first, *second))  # of a table without fixed keys, either may lack some
    values = [(key, first.get(key), second.get(key)) for key in keys]
    return [f"{key}: {mine!r} against {theirs!r}" for key, mine, theirs in values if mine != theirs]


def known_keys() -> list[str]:
    """Returns every dotted key of a config."""
    return [key for key, _ in _flat(Config().model_dump())]


def without_kind(key: str) -> str:
    """Returns a key as it is written: where several types are allowed, pydantic says last which of them it means."""
    for kind in ("constrained-int", "int", "tuple[str, ...]", "literal['auto']", "literal['each']"):
        key = key.removesuffix(f".{kind}")
    return key


def _named(path: Path | None, preset: str | None) -> str:
    where = str(path) if path is not None else "the default config"
    return where if preset is None else f"{where} with preset {preset}"


def _tables(where: str, values: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    tables = values.get(key, {})
    if not isinstance(tables, dict) or not all(isinstance(value, dict) for value in tables.values()):
        raise InputError(f"{where}: `{key}` must hold tables; write each as [{key}.NAME].")
    return tables


def _key(place: tuple[int | str, ...]) -> str:
    return without_kind(".".join(map(str, place)))


def read_toml(path: pathlib.Path) -> dict[str, Any]:
    """Returns a TOML file, or refuses it by a sentence (InputError)."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; name a TOML config, or none for the default job.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; name a TOML config in it.") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8; save it as UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}; mend that line.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def nearest_key(key: str) -> str:
    """Returns a hint for a key that does not exist."""
    # Under another heading, if it is one of a kind.
    same = [known for known in known_keys() if known.rpartition(".")[2] == key.rpartition(".")[2]]
    close = same if len(same) == 1 else difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else "`jaxmeta train --help` lists the keys."
