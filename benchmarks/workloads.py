"""What is measured: networks, their sizes, data and first parameters.

Only numpy, and a fixed seed for each array: whatever framework a side is written in, it starts from the same bits.
Parameters are a flat dict of names, products are `inputs @ kernel`, images and kernels have channels last.
"""

import itertools
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


class Mlp(NamedTuple):
    """A multilayer perceptron with relu."""

    widths: tuple[int, ...]  # inputs, hidden layers, outputs


class Conv4(NamedTuple):
    """Four 3x3 convolutions of stride 2, each normalised by the statistics of its batch."""

    filters: int
    image: int  # pixels along a side


class Transformer(NamedTuple):
    """A pre-norm encoder of text with learned positions and a mean over places."""

    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int
    length: int


class Workload(NamedTuple):
    """A network and a batch of tasks.

    Attributes:
      sizes: the network.
      tasks: in a batch.
      classes: of a task; 1 is regression.
      shots: support examples of each class.
      queries: query examples of each class.
      rate: inner learning rate.
      accelerator: whether it is too large for a CPU.
    """

    sizes: Mlp | Conv4 | Transformer
    tasks: int
    classes: int
    shots: int
    queries: int
    rate: float
    accelerator: bool = False


WORKLOADS = {
    "W1": Workload(Mlp((1, 40, 40, 1)), 25, 1, 10, 10, 0.01),
    "W2": Workload(Conv4(64, 28), 32, 5, 1, 15, 0.1),
    "W3": Workload(Transformer(2, 128, 4, 512, 8192, 64), 8, 3, 8, 8, 0.01),
    "W4": Workload(Transformer(2, 128, 4, 512, 250_000, 64), 8, 3, 8, 8, 0.01),
    "W5": Workload(Transformer(12, 512, 8, 2048, 8192, 64), 8, 3, 8, 8, 0.01, accelerator=True),
}
TINY = {
    "W1": Workload(Mlp((1, 8, 8, 1)), 3, 1, 4, 4, 0.01),
    "W2": Workload(Conv4(4, 28), 2, 2, 4, 4, 0.1),
    "W3": Workload(Transformer(1, 8, 2, 16, 50, 6), 2, 3, 1, 2, 0.01),
    "W4": Workload(Transformer(1, 8, 2, 16, 400, 6), 2, 3, 1, 2, 0.01),
    "W5": Workload(Transformer(2, 8, 2, 16, 50, 6), 2, 3, 1, 2, 0.01),
}


def find(name: str, tiny: bool) -> Workload:
    """Returns a workload by its name."""
    return (TINY if tiny else WORKLOADS)[name]


def episodes(workload: Workload) -> tuple[Arrays, Arrays]:
    """Returns support and query: "inputs" and "targets", leaves `[T, N, ...]`."""
    rng, sizes = np.random.default_rng(0), workload.sizes
    if isinstance(sizes, Mlp):
        return _waves(workload, rng)

    def side(each: int) -> Arrays:
        targets = _targets(workload, each)
        inputs = _images(sizes, targets.shape, rng) if isinstance(sizes, Conv4) else _texts(sizes, targets.shape, rng)
        return {"inputs": inputs, "targets": targets}

    return side(workload.shots), side(workload.queries)


def _waves(workload: Workload, rng) -> tuple[Arrays, Arrays]:
    height = rng.uniform(0.1, 5.0, (workload.tasks, 1, 1))
    phase = rng.uniform(0.0, np.pi, (workload.tasks, 1, 1))

    def side(count: int) -> Arrays:
        x = rng.uniform(-5.0, 5.0, (workload.tasks, count, 1))
        return {"inputs": x.astype(np.float32), "targets": (height * np.sin(x - phase)).astype(np.float32)}

    return side(workload.shots), side(workload.queries)


def _images(sizes: Conv4, shape: tuple[int, ...], rng) -> np.ndarray:
    return rng.normal(size=(*shape, sizes.image, sizes.image, 1)).astype(np.float32)


def _texts(sizes: Transformer, shape: tuple[int, ...], rng) -> np.ndarray:
    # Log-uniform numbers are Zipf's law: a text names few of many words, and common ones often.
    tokens = sizes.vocabulary ** rng.uniform(size=(*shape, sizes.length))
    return np.minimum(tokens, sizes.vocabulary - 1).astype(np.int32)


def _targets(workload: Workload, each: int) -> np.ndarray:
    one_task = np.repeat(np.arange(workload.classes, dtype=np.int32), each)
    return np.tile(one_task, (workload.tasks, 1))


def parameters(workload: Workload) -> Arrays:
    """Returns the parameters that adaptation starts from."""
    rng, sizes = np.random.default_rng(1), workload.sizes
    if isinstance(sizes, Mlp):
        made = _mlp(sizes, rng)
    elif isinstance(sizes, Conv4):
        made = _conv4(sizes, workload.classes, rng)
    else:
        made = _transformer(sizes, workload.classes, rng)
    return {name: value.astype(np.float32) for name, value in made.items()}


def _mlp(sizes: Mlp, rng) -> Arrays:
    made = {}
    for i, (width_in, width_out) in enumerate(itertools.pairwise(sizes.widths)):
        made |= _dense(f"layer_{i}", width_in, width_out, rng)
    return made


def _conv4(sizes: Conv4, classes: int, rng) -> Arrays:
    filters, channels, made = sizes.filters, 1, {}
    for i in range(4):
        kernel = rng.normal(size=(3, 3, channels, filters)) * (2 / (9 * channels)) ** 0.5
        made |= {f"conv_{i}.kernel": kernel, **_norm(f"norm_{i}", filters, rng)}
        channels = filters
    return made | _dense("head", filters, classes, rng)


def _transformer(sizes: Transformer, classes: int, rng) -> Arrays:
    width = sizes.width
    made = {
        "tokens": 0.5 * rng.normal(size=(sizes.vocabulary, width)),
        "places": 0.1 * rng.normal(size=(sizes.length, width)),
    }
    for i in range(sizes.layers):
        block = f"block_{i}"
        made |= _norm(f"{block}.norm_1", width, rng) | _norm(f"{block}.norm_2", width, rng)
        made |= _dense(f"{block}.qkv", width, 3 * width, rng) | _dense(f"{block}.out", width, width, rng)
        made |= _dense(f"{block}.up", width, sizes.hidden, rng) | _dense(f"{block}.down", sizes.hidden, width, rng)
    return made | _norm("norm", width, rng) | _dense("head", width, classes, rng)


def _dense(name: str, width_in: int, width_out: int, rng) -> Arrays:
    kernel = rng.normal(size=(width_in, width_out)) / width_in**0.5
    return {f"{name}.kernel": kernel, f"{name}.bias": 0.01 * rng.normal(size=width_out)}


def _norm(name: str, width: int, rng) -> Arrays:
    # Not exactly one and zero, where a mistake in their derivatives could hide.
    return {f"{name}.scale": 1 + 0.05 * rng.normal(size=width), f"{name}.bias": 0.05 * rng.normal(size=width)}
