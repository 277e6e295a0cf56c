"""Any methods on one task at equal compute: trained and judged as ever, then told in one table."""

import pathlib
from collections.abc import Sequence
from typing import Any

from jaxmeta.config.build import suitable_methods
from jaxmeta.config.commands import train_run
from jaxmeta.config.read import Jobs, changed
from jaxmeta.config.schema import AUTO
from jaxmeta.config.turns import one_turn
from jaxmeta.core.checks import InputError
from jaxmeta.run.comparison import comparison_table

ALL = "all"


def compare_methods(jobs: Jobs, methods: Sequence[str], out: str | None) -> None:
    """Trains and judges `methods`, goes on where that was cut off, and prints how they compare.

    Raises:
      InputError: there are fewer than two, one is not known, the file asks for several runs, or what `train_run`
        raises.
    """
    if jobs.several:
        raise InputError(
            f"{jobs.name} asks for several runs, {', '.join(jobs.configs)}; compare methods on a file of one run."
        )
    config = jobs.configs[""]
    if tuple(methods) == (ALL,):
        methods = suitable_methods(one_turn(config))
    if len(methods) < 2:
        raise InputError(f"`--methods` must name two methods at least, such as `--methods ridge protonet`, or {ALL}.")
    changes: dict[str, Any] = {"methods": tuple(methods), "main": AUTO, "shot_curve": ()}
    changes |= dict.fromkeys(("curve_methods", "temperature_methods"), (AUTO,)) | {"guard_methods": ()}
    config = changed(config, {f"evaluate.{key}": value for key, value in changes.items()}, "the command line")
    folder = pathlib.Path(out or f"runs/{config.name}_compared")
    train_run(config, folder, table=comparison_table)
