"""What the folder of a run says: of which config it is, and how far it has come."""

import pathlib
import tomllib
from collections.abc import Iterable

from jaxmeta.config.kinds import settled
from jaxmeta.config.read import Jobs, changed, difference, load_jobs
from jaxmeta.config.schema import Config
from jaxmeta.config.turns import takes_turns
from jaxmeta.core.checks import InputError
from jaxmeta.run.files import PART
from jaxmeta.run.records import read_evaluation
from jaxmeta.run.report import FIGURES, PAGE


def read_run_jobs(folder: pathlib.Path) -> Jobs:
    """Returns what the run, or the runs, of a folder were started with.

    Raises:
      InputError: the folder is no run, or its config is not one of this version.
    """
    path = folder / "config.toml"
    if not folder.is_dir():
        raise InputError(f"There is no run at {folder}; `jaxmeta train --out {folder}` makes one.")
    if not path.exists():
        raise InputError(f"{folder} is not a run: it has no config.toml; name a folder that `jaxmeta train` wrote.")
    try:
        tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: {error}; restore it, or train again.") from None
    return load_jobs(path)


def read_run_config(folder: pathlib.Path) -> Config:
    """Returns the config that a run was started with.

    Raises:
      InputError: the folder is no run, or holds several, or its config is not one of this version.
    """
    jobs = read_run_jobs(folder)
    if jobs.several:
        first = folder / next(iter(jobs.configs))
        raise InputError(f"{folder} holds several runs, {', '.join(jobs.configs)}; name one of them, such as {first}.")
    return jobs.configs[""]


def read_adaptable_config(folder: pathlib.Path) -> Config:
    """Returns the config that a run was started with, if there is one model to adapt.

    Raises:
      InputError: what `read_run_config` raises, or the run has a model for each speaker who is held out.
    """
    config = read_run_config(folder)
    if takes_turns(config):
        first = min((path.parent for path in folder.glob("*/config.toml")), default=folder / "SPEAKER")
        raise InputError(f"{folder} has a run for each speaker who is held out; name one of them, such as {first}.")
    return config


def is_begun(folder: pathlib.Path, jobs: Jobs) -> bool:
    """Returns whether a folder holds the run, or the runs, of a config, to go on with.

    Raises:
      InputError: it holds something else.
    """
    if not (folder / "config.toml").exists():
        if folder.exists() and not _is_free(folder):
            raise InputError(f"{folder} exists and is not a run; give another folder with --out.")
        return False
    found = read_run_jobs(folder)
    mine, theirs = (", ".join(filter(None, which.configs)) or "none" for which in (found, jobs))
    differences = [] if mine == theirs else [f"jobs: {mine} against {theirs}"]
    for job in found.configs.keys() & jobs.configs.keys():
        # How many are trained at once changes no result.
        begun = settled(found.configs[job])
        asked = changed(jobs.configs[job], {"train.at_once": begun.train.at_once}, "the command line")
        differences += difference(begun, asked)
    if differences:
        first, more = "; ".join(differences[:3]), len(differences) - 3
        raise InputError(
            f"{folder} holds a run of another config ({first}{f'; and {more} more' if more > 0 else ''}); "
            "give another folder with --out, or the same config to continue."
        )
    return True


def is_judged(folder: pathlib.Path, config: Config) -> bool:
    """Returns whether a run is judged, on the problems of its config; what is made of its scores may be missing.

    Problems are told apart by the file that they are in; that it has changed is not seen.

    Raises:
      InputError: `evaluation.json` is malformed.
    """
    if not (folder / "evaluation.json").exists():
        return False
    return read_evaluation(folder).get("manifest", "") == config.evaluate.manifest


def is_reported(folder: pathlib.Path) -> bool:
    """Returns whether a run that is judged has its page and the pictures.

    One that was cut off while they were drawn has no page, or that of an earlier judgement. Where matplotlib was not
    installed there are no pictures.
    """
    page, judged = folder / PAGE, folder / "evaluation.json"
    drawn = page.exists() and (folder / FIGURES).exists()
    return drawn and page.stat().st_mtime_ns >= judged.stat().st_mtime_ns


def check_parts(folder: pathlib.Path, parts: Iterable[str]) -> None:
    """Says so if some of several runs were not begun.

    Raises:
      InputError: there is one.
    """
    if missing := [name for name in parts if not (folder / name / "config.toml").exists()]:
        raise InputError(
            f"{folder} is not finished: {missing[0]} was not begun; give the `jaxmeta train` command that began it "
            "again."
        )


def _is_free(folder: pathlib.Path) -> bool:
    # A run that was killed before it had a config has begun to write one.
    return folder.is_dir() and all(path.name == f"config.toml{PART}" for path in folder.iterdir())
