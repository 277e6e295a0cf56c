"""The sides that PyTorch runs, each written as its own documents show it.

`torch_func` maps over tasks; the others loop over them in Python and sum gradients, as their examples do.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from peers.torch_networks import from_torch, network, to_torch
from protocol import Prepared, write_arrays
from sides import Side
from torch.func import functional_call, grad, vmap
from torch.utils.flop_counter import FlopCounterMode
from workloads import Conv4, Workload, episodes, parameters


class Network(torch.nn.Module):
    """A network that holds its parameters."""

    def __init__(self, function: Callable, params: dict[str, torch.Tensor]):
        """Registers the parameters; the names of modules have no dots."""
        super().__init__()
        self.function = function
        self.own_names = {name: name.replace(".", "__") for name in params}
        for name, own in self.own_names.items():
            self.register_parameter(own, torch.nn.Parameter(params[name]))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Returns `[N, C]`."""
        return self.function({name: getattr(self, own) for name, own in self.own_names.items()}, inputs)


class Problem(NamedTuple):
    """What a side is given."""

    module: Network
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    tasks: tuple[torch.Tensor, ...]  # support inputs and targets, query inputs and targets, [T, N, ...] each
    num_tasks: int
    num_steps: int
    rate: float


def prepare(side: Side, workload: Workload, args: argparse.Namespace) -> Prepared:
    """Builds a side, writes its gradient, and returns what times it."""
    make, own_norms = SIDES[side.family]
    device = "cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu"
    _same_arithmetic(args)
    module = Network(network(workload, own_norms), to_torch(parameters(workload))).to(device)
    # Some libraries put other tensors in place of the module's own.
    leaves = {name: getattr(module, own) for name, own in module.own_names.items()}
    loss = F.mse_loss if workload.classes == 1 else F.cross_entropy
    problem = Problem(module, loss, _tensors(workload, device), workload.tasks, args.steps, workload.rate)
    outer_gradient = make(problem)

    def step() -> None:
        for leaf in leaves.values():
            leaf.grad = None
        outer_gradient()
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    write_arrays(args.gradient, from_torch({name: leaf.grad for name, leaf in leaves.items()}))
    facts = {
        "flops": _flops(step),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "platform": "gpu" if device == "cuda" else device,  # as JAX calls it
        "threads": torch.get_num_threads(),
        "versions": _versions(side),
    }
    return Prepared(step, facts, _device_peak if device == "cuda" else dict)


def _same_arithmetic(args: argparse.Namespace) -> None:
    exact = args.precision == "highest"
    torch.set_float32_matmul_precision("highest" if exact else "high")
    torch.backends.cudnn.allow_tf32 = not exact
    # Left alone it counts physical cores, where XLA takes every one that the process may use.
    torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))


def _tensors(workload: Workload, device: str) -> tuple[torch.Tensor, ...]:
    def tensor(value: np.ndarray) -> torch.Tensor:
        made = torch.from_numpy(value).to(device)
        return made.long() if made.dtype == torch.int32 else made

    def inputs(value: np.ndarray) -> torch.Tensor:
        # Images have channels first here.
        is_image = isinstance(workload.sizes, Conv4)
        return tensor(np.ascontiguousarray(np.moveaxis(value, -1, 2)) if is_image else value)

    support, query = episodes(workload)
    return inputs(support["inputs"]), tensor(support["targets"]), inputs(query["inputs"]), tensor(query["targets"])


def _flops(step: Callable[[], None]) -> int | None:
    try:
        with FlopCounterMode(display=False) as counter:
            step()
    except Exception:  # an operation that the counter cannot follow costs a figure, not the side
        return None
    return counter.get_total_flops()


def _versions(side: Side) -> dict[str, str]:
    found = {"torch python": platform.python_version(), "torch": torch.__version__}
    return found if side.family.startswith("torch_func") else {**found, side.family: version(side.family)}


def _device_peak() -> dict[str, int]:
    return {"device_peak_bytes": torch.cuda.max_memory_allocated()}


def _functional_task_loss(problem: Problem) -> Callable[..., torch.Tensor]:
    module, loss = problem.module, problem.loss

    def task_loss(params, x_support, y_support, x_query, y_query):
        def support_loss(params):
            return loss(functional_call(module, params, (x_support,)), y_support)

        for _ in range(problem.num_steps):
            slope = grad(support_loss)(params)
            params = {name: value - problem.rate * slope[name] for name, value in params.items()}
        return loss(functional_call(module, params, (x_query,)), y_query)

    return task_loss


def _torch_func(problem: Problem) -> Callable[[], None]:
    task_losses = vmap(_functional_task_loss(problem), in_dims=(None, 0, 0, 0, 0))
    leaves = dict(problem.module.named_parameters())
    return lambda: task_losses(leaves, *problem.tasks).mean().backward()


def _torch_func_loop(problem: Problem) -> Callable[[], None]:
    task_loss = _functional_task_loss(problem)
    leaves = dict(problem.module.named_parameters())
    return _one_by_one(problem, lambda *task: task_loss(leaves, *task))


def _learn2learn(problem: Problem) -> Callable[[], None]:
    maml = _imported_learn2learn().algorithms.MAML(problem.module, lr=problem.rate, first_order=False)

    def task_loss(x_support, y_support, x_query, y_query):
        learner = maml.clone()
        for _ in range(problem.num_steps):
            learner.adapt(problem.loss(learner(x_support), y_support))
        return problem.loss(learner(x_query), y_query)

    return _one_by_one(problem, task_loss)


def _imported_learn2learn() -> Any:
    """Imports learn2learn, whose import of torchvision fails if that was built for CUDA and torch was not."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        # It only asks whether they exist; nothing here detects objects.
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            operators.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(operators)
    import learn2learn

    return learn2learn


_KEPT: list[Any] = []  # a library of operators ends with its object


def _higher(problem: Problem) -> Callable[[], None]:
    import higher

    optimizer = torch.optim.SGD(problem.module.parameters(), lr=problem.rate)

    def outer_gradient() -> None:
        for x_support, y_support, x_query, y_query in zip(*problem.tasks, strict=True):
            loop = higher.innerloop_ctx(problem.module, optimizer, copy_initial_weights=False)
            with loop as (functional, differentiable):
                for _ in range(problem.num_steps):
                    differentiable.step(problem.loss(functional(x_support), y_support))
                (problem.loss(functional(x_query), y_query) / problem.num_tasks).backward()

    return outer_gradient


def _torchopt(problem: Problem) -> Callable[[], None]:
    import torchopt

    module = problem.module
    optimizer = torchopt.MetaSGD(module, lr=problem.rate)

    def outer_gradient() -> None:
        first_module = torchopt.extract_state_dict(module, by="reference", detach_buffers=True)
        first_optimizer = torchopt.extract_state_dict(optimizer, by="reference")
        for x_support, y_support, x_query, y_query in zip(*problem.tasks, strict=True):
            for _ in range(problem.num_steps):
                optimizer.step(problem.loss(module(x_support), y_support))
            (problem.loss(module(x_query), y_query) / problem.num_tasks).backward()
            torchopt.recover_state_dict(module, first_module)
            torchopt.recover_state_dict(optimizer, first_optimizer)

    return outer_gradient


def _one_by_one(problem: Problem, task_loss: Callable[..., torch.Tensor]) -> Callable[[], None]:
    def outer_gradient() -> None:
        for task in zip(*problem.tasks, strict=True):
            (task_loss(*task) / problem.num_tasks).backward()

    return outer_gradient


# From a problem to what leaves the outer gradient on the parameters, and whether it needs norms written out.
SIDES: dict[str, tuple[Callable[[Problem], Callable[[], Any]], bool]] = {
    "torch_func": (_torch_func, True),
    "torch_func_loop": (_torch_func_loop, False),
    "learn2learn": (_learn2learn, False),
    "higher": (_higher, False),
    "torchopt": (_torchopt, False),
}
