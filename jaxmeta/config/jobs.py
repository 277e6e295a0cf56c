"""Several runs of one config file, in folders of one folder, with one page that shows them side by side."""

import pathlib
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from jaxmeta.config.commands import (
    check_built,
    evaluate_run,
    plan_gradient,
    train_parts,
    train_run,
)
from jaxmeta.config.kinds import settled
from jaxmeta.config.read import Jobs, dump
from jaxmeta.config.run_folder import check_parts, is_begun, read_run_jobs
from jaxmeta.run.files import write_whole
from jaxmeta.run.report import write_overview


def train_jobs(jobs: Jobs, out: str | None) -> None:
    """Trains, judges and reports the run of a file, or its runs one after another; goes on where one was cut off.

    Raises:
      InputError: a folder holds a run of another config, or a config cannot be carried out.
    """
    folder = pathlib.Path(out or f"runs/{jobs.name}")
    if not jobs.several:
        train_run(jobs.configs[""], folder)
        return
    jobs = Jobs(jobs.name, {job: settled(config) for job, config in jobs.configs.items()})
    ready = {}
    if not is_begun(folder, jobs):
        ready = {job: check_built(config) for job, config in jobs.configs.items()}
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "config.toml", dump(jobs))
    train_parts(folder, jobs.configs, ready)
    _report(folder, jobs)


def evaluate_jobs(run: str, changes: Mapping[str, Any]) -> None:
    """Judges a finished run, or finished runs, again, with some changes of the config by dotted key.

    Raises:
      InputError: there is no run, or it is not finished.
    """
    folder = pathlib.Path(run)
    jobs = read_run_jobs(folder)
    if not jobs.several:
        evaluate_run(folder, changes)
        return
    check_parts(folder, jobs.configs)
    for job in jobs.configs:
        evaluate_run(folder / job, changes)
    _report(folder, jobs)


def plan_jobs(jobs: Jobs, method: str | None, memory: str | None) -> None:
    """Prints how the gradients of a config are best computed, of each of its runs.

    Raises:
      InputError: a config cannot be carried out, or nothing fits.
    """
    for job, config in jobs.configs.items():
        if jobs.several:
            print(f"# {job}")
        plan_gradient(config, method, memory)


def _report(folder: pathlib.Path, jobs: Jobs) -> None:
    page = write_overview(folder, jobs.name, tuple(jobs.configs))
    Console().print(f"All of them: {page}", highlight=False, soft_wrap=True)
