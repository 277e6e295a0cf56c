"""The names of the sides of a comparison: a family, and options as `family:key=value,key=value`."""

import re
from typing import NamedTuple

LIBRARY = {
    "gradient": "reverse|forward_over_reverse|linearized|first_order",
    "memory": r"none|products|per_step|nested|offload|truncated\(\d+\)",
    "task_axis": r"vmap|chunked\(\d+\)|sequential|auto",
    "unroll": r"\d+",
    "rows": ".+",
    "microbatches": r"\d+",
}
COMPUTE = {"dtype": "float32|bfloat16", "conv": "patches|lax"}
BY_HAND = {"task_axis": "vmap|sequential", **COMPUTE}
FAMILIES = {
    "ours": {**LIBRARY, **COMPUTE},
    "hand_naive": BY_HAND,
    "hand_remat": BY_HAND,
    "hand_mixed": BY_HAND,
    "hand_first_order": BY_HAND,
    "torch_func": {},
    "torch_func_loop": {},
    "learn2learn": {},
    "higher": {},
    "torchopt": {},
    "reference": {"last": r"\d+", "dtype": "float32|float64"},
    "peak": {"dtype": "float32|bfloat16"},
}
PEERS = ("torch_func", "torch_func_loop", "learn2learn", "higher", "torchopt")
HIDDEN = ("reference", "peak")  # what the driver itself asks for

_STRATEGIES = ("forward_over_reverse", "linearized", "reverse")
GROUPS = {
    "modes": [
        *(f"ours:gradient={strategy},memory={m}" for strategy in _STRATEGIES for m in ("none", "per_step", "nested")),
        "ours:gradient=first_order",
        "ours:memory=truncated(1)",
    ],
    "axes": [f"ours:task_axis={axis}" for axis in ("auto", "vmap", "chunked(4)", "sequential")],
    "hand": [
        f"{family}:task_axis={axis}"
        for family in ("hand_naive", "hand_remat", "hand_mixed", "hand_first_order")
        for axis in ("vmap", "sequential")
    ],
    "peers": list(PEERS),
}


class Side(NamedTuple):
    """One way to compute the same gradient."""

    name: str
    family: str
    options: dict[str, str]


def parse(name: str) -> Side:
    """Parses the name of a side.

    Raises:
      ValueError: there is no such family, option or value.
    """
    family, _, rest = name.partition(":")
    if family not in FAMILIES:
        raise ValueError(f"a side is one of {', '.join(offered())}, with options after a colon; got {name!r}")
    options = dict(_option(name, FAMILIES[family], part) for part in rest.split(",") if part)
    return Side(name, family, options)


def _option(name: str, allowed: dict[str, str], part: str) -> tuple[str, str]:
    key, _, value = part.partition("=")
    if not re.fullmatch(allowed.get(key, "(?!)"), value):
        told = "; ".join(f"{key}={values}" for key, values in allowed.items()) or "none"
        # For people, who write numbers and need no escapes.
        told = told.replace(r"\d+", "n").replace("\\", "")
        raise ValueError(f"{part!r} in the side {name!r} is not among its options: {told}")
    return key, value


def offered() -> list[str]:
    """Returns the families that can be asked for."""
    return [family for family in FAMILIES if family not in HIDDEN]


def expand(names: list[str]) -> list[Side]:
    """Parses names of sides and of groups of them, each side once."""
    flat = [side for name in names for side in GROUPS.get(name, [name])]
    return [parse(name) for name in dict.fromkeys(flat)]


def differentiated_steps(side: Side, num_steps: int) -> int:
    """Returns how many of the inner steps a side means to differentiate: all, unless it is an approximation."""
    if side.family == "hand_first_order" or side.options.get("gradient") == "first_order":
        return 0
    truncated = re.fullmatch(r"truncated\((\d+)\)", side.options.get("memory", ""))
    return min(num_steps, int(truncated.group(1))) if truncated else num_steps
