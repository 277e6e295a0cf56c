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
    "W2": Workload(Conv4(4, 12), 2, 2, 1, 2, 0.1),
    "W3": Workload(Transformer(1, 8, 2, 16, 50, 6), 2, 3, 1, 2, 0.01),
    "W4": Workload(Transformer(1, 8, 2, 16, 400, 6), 2, 3, 1, 2, 0.01),
    "W5": Workload(Transformer(2, 8, 2, 16, 50, 6), 2, 3, 1, 2, 0.01),
}


def find(name: str, tiny: bool) -> Workload:
    """Returns a workload by its name."""
    return (TINY if tiny else WORKLOADS)[name]


def episodes(workload: Workload) -> tuple[Arrays, Arrays]:
    """Returns support and query: "inputs" and "targets", leaves `[T, N, ...]`."""
    rng = np.random.default_rng(0)
    if isinstance(workload.sizes, Mlp):
        return _waves(workload, rng)
    make = _images if isinstance(workload.sizes, Conv4) else _texts
    return make(workload, workload.shots, rng), make(workload, workload.queries, rng)


def _waves(workload: Workload, rng) -> tuple[Arrays, Arrays]:
    height = rng.uniform(0.1, 5.0, (workload.tasks, 1, 1))
    phase = rng.uniform(0.0, np.pi, (workload.tasks, 1, 1))

    def side(count: int) -> Arrays:
        x = rng.uniform(-5.0, 5.0, (workload.tasks, count, 1))
        return {"inputs": x.astype(np.float32), "targets": (height * np.sin(x - phase)).astype(np.float32)}

    return side(workload.shots), side(workload.queries)


def _images(workload: Workload, each: int, rng) -> Arrays:
    targets = _targets(workload, each)
    image = workload.sizes.image
    pixels = rng.normal(size=(*targets.shape, image, image, 1))
    return {"inputs": pixels.astype(np.float32), "targets": targets}


def _texts(workload: Workload, each: int, rng) -> Arrays:
    targets = _targets(workload, each)
    sizes = workload.sizes
    # Log-uniform numbers are Zipf's law: a text names few of many words, and common ones often.
    tokens = sizes.vocabulary ** rng.uniform(size=(*targets.shape, sizes.length))
    return {"inputs": np.minimum(tokens, sizes.vocabulary - 1).astype(np.int32), "targets": targets}


def _targets(workload: Workload, each: int) -> np.ndarray:
    one_task = np.repeat(np.arange(workload.classes, dtype=np.int32), each)
    return np.tile(one_task, (workload.tasks, 1))


def parameters(workload: Workload) -> Arrays:
    """Returns the parameters that adaptation starts from."""
    make = {Mlp: _mlp, Conv4: _conv4, Transformer: _transformer}[type(workload.sizes)]
    made = make(workload, np.random.default_rng(1))
    return {name: value.astype(np.float32) for name, value in made.items()}


def _mlp(workload: Workload, rng) -> Arrays:
    widths, made = workload.sizes.widths, {}
    for i, (width_in, width_out) in enumerate(itertools.pairwise(widths)):
        made |= _dense(f"layer_{i}", width_in, width_out, rng)
    return made


def _conv4(workload: Workload, rng) -> Arrays:
    filters, channels, made = workload.sizes.filters, 1, {}
    for i in range(4):
        kernel = rng.normal(size=(3, 3, channels, filters)) * (2 / (9 * channels)) ** 0.5
        made |= {f"conv_{i}.kernel": kernel, **_norm(f"norm_{i}", filters, rng)}
        channels = filters
    return made | _dense("head", filters, workload.classes, rng)


def _transformer(workload: Workload, rng) -> Arrays:
    sizes = workload.sizes
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
    return made | _norm("norm", width, rng) | _dense("head", width, workload.classes, rng)


def _dense(name: str, width_in: int, width_out: int, rng) -> Arrays:
    kernel = rng.normal(size=(width_in, width_out)) / width_in**0.5
    return {f"{name}.kernel": kernel, f"{name}.bias": 0.01 * rng.normal(size=width_out)}


def _norm(name: str, width: int, rng) -> Arrays:
    # Not exactly one and zero, where a mistake in their derivatives could hide.
    return {f"{name}.scale": 1 + 0.05 * rng.normal(size=width), f"{name}.bias": 0.05 * rng.normal(size=width)}
