"""The configs that come with the source, and the presets of each."""

import pathlib
import tomllib

from jaxmeta.config.presets import PRESETS

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
CONFIGS = sorted(FOLDER.glob("*.toml"))


def presets_of(path: pathlib.Path | None):
    """Returns the presets of a config file by name, those of the default job without one."""
    return PRESETS if path is None else tomllib.loads(path.read_text("utf-8")).get("presets", {})
