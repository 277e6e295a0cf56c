"""Compiling for tests that run once what they compile, where most of the time is compilation."""

import functools
from typing import Any

import jax

# The emitters of fused loops make good machine code, slowly. Not every release of XLA knows every option.
OPTIONS: list[dict[str, Any]] = [
    {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False},
    {"xla_backend_optimization_level": 0},
    {},
]


@functools.cache
def known_options() -> dict[str, Any]:
    """Returns the first of the options that this XLA accepts."""
    for options in OPTIONS:
        try:
            jax.jit(lambda x: x + 1, compiler_options=options)(1.0)
        except jax.errors.JaxRuntimeError:
            continue
        return options
    raise AssertionError("XLA compiles nothing even without options")


def quick_jit(function, **options):
    """Does what `jax.jit` does: a few times sooner, for code that runs slower."""
    return jax.jit(function, compiler_options=known_options(), **options)
