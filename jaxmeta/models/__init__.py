"""Bundled Flax models, and adapters that make a `Model` of anybody's."""

from jaxmeta.models.adapters import equinox, haiku, linen, nnx, plain
from jaxmeta.models.conv4 import Conv4, conv4
from jaxmeta.models.mlp import MLP, mlp
from jaxmeta.models.precision import cast
from jaxmeta.models.transformer import TextEncoder, transformer

__all__ = [
    "MLP",
    "Conv4",
    "TextEncoder",
    "cast",
    "conv4",
    "equinox",
    "haiku",
    "linen",
    "mlp",
    "nnx",
    "plain",
    "transformer",
]
