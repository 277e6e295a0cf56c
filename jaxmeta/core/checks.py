"""Validation of what users give: one clear sentence that says what, where, and what to do."""

from typing import Any

from jax.core import Tracer


class InputError(ValueError):
    """Bad input from a user: a file, a config, a request. The command line prints it alone and exits with code 2.

    The message is one sentence or two: what is wrong, where (file and line where there is one), what to do.
    """


def is_traced(value: Any) -> bool:
    """Returns whether a number is known only when a compiled program runs, so that nothing can be said of it before."""
    return isinstance(value, Tracer)


def check_positive(name: str, value: Any) -> None:
    """Raises `ValueError` unless `value` is above zero, or traced."""
    if not (is_traced(value) or value > 0):
        raise ValueError(f"`{name}` must be positive, got {value}")


def check_not_negative(name: str, value: Any) -> None:
    """Raises `ValueError` if `value` is below zero, and not traced."""
    if not is_traced(value) and value < 0:
        raise ValueError(f"`{name}` must be zero or more, got {value}")


def check_share(name: str, value: Any) -> None:
    """Raises `ValueError` unless `value` is a part of a whole that leaves something of it: in [0, 1), or traced."""
    if not (is_traced(value) or 0 <= value < 1):
        raise ValueError(f"`{name}` must be at least 0 and less than 1, got {value}")


def check_one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raises `ValueError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {value!r}")
