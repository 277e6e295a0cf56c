"""Typed configs, and the only place where names in a file become objects."""

from jaxmeta.config.build import build
from jaxmeta.config.load_rule import load_optimizer
from jaxmeta.config.read import difference, dump, load, load_jobs
from jaxmeta.config.schema import Config

__all__ = ["Config", "build", "difference", "dump", "load", "load_jobs", "load_optimizer"]
