"""One side in a process of its own, started by `run.py`: prepares, writes its gradient, then times steps when asked."""

import argparse
import os
import pathlib
import platform
import time

import numpy as np
import workloads
from protocol import Prepared, TooLarge, free_memory, serve, write_arrays
from sides import PEERS, Side, parse


def main() -> None:
    """Parses what the driver said, and serves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", required=True)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--gradient", type=pathlib.Path, required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.threads:
        # Before any framework counts the cores.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    side = parse(args.side)
    serve(lambda: _prepared_torch(side, args) if side.family in PEERS else _prepared_jax(side, args))


def _prepared_torch(side: Side, args: argparse.Namespace) -> Prepared:
    from peers.torch_sides import prepare

    return prepare(side, workloads.find(args.workload, args.tiny), args)


def _prepared_jax(side: Side, args: argparse.Namespace) -> Prepared:
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # it would make compiling look free
    jax.config.update("jax_default_matmul_precision", args.precision)
    jax.config.update("jax_enable_x64", side.options.get("dtype") == "float64")
    from jax_sides import compiled, outer_gradient, square_product

    from jaxmeta.run.arithmetic import operations
    from jaxmeta.run.planner import memory_of

    if side.family == "peak":
        function, arrays = square_product(side.options["dtype"], args.tiny)
    else:
        workload = workloads.find(args.workload, args.tiny)
        function, arrays = outer_gradient(side, workload, args.steps), _jax_arrays(side, workload)
    began = time.perf_counter()
    traced = compiled(function).trace(*arrays)
    lowered = traced.lower()
    at_compiler = time.perf_counter()
    run = lowered.compile()
    ended = time.perf_counter()
    memory = memory_of(run)
    facts = {
        "trace_seconds": at_compiler - began,
        "compile_seconds": ended - at_compiler,
        "temporary_bytes": memory.temporary if memory else None,
        "flops": operations(traced.jaxpr),
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
    }
    if facts["platform"] == "cpu" and (facts["temporary_bytes"] or 0) > free_memory():
        # A device says that it is full; this machine would stop some process.
        raise TooLarge(facts["temporary_bytes"], facts)
    if side.family != "peak":
        write_arrays(args.gradient, {name: np.asarray(leaf) for name, leaf in run(*arrays).items()})

    def device_peak() -> dict[str, int]:
        stats = jax.devices()[0].memory_stats() or {}
        return {"device_peak_bytes": stats["peak_bytes_in_use"]} if "peak_bytes_in_use" in stats else {}

    return Prepared(lambda: jax.block_until_ready(run(*arrays)), facts, device_peak)


def _jax_arrays(side: Side, workload: workloads.Workload):
    import jax

    dtype = np.float64 if side.options.get("dtype") == "float64" else np.float32

    def given(value: np.ndarray) -> jax.Array:
        return jax.numpy.asarray(value.astype(dtype) if value.dtype == np.float32 else value)

    return jax.tree.map(given, (workloads.parameters(workload), *workloads.episodes(workload)))


if __name__ == "__main__":
    main()
