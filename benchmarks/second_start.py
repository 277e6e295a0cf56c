"""How long a program waits for its outer step, the first time and with what the persistent cache kept of it.

    python benchmarks/second_start.py --workloads W1 W2 W3 --steps 5

Each start is a process of its own. Tracing is done at every start; compiling is what the cache saves.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import workloads


def main() -> None:
    """Prints a row for each workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=list(workloads.WORKLOADS), default=["W1", "W3"])
    parser.add_argument("--steps", type=int, default=5, help="inner steps K")
    parser.add_argument("--tiny", action="store_true", help="small workloads, to see that everything runs")
    parser.add_argument("--start", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.start:
        (name,) = args.workloads
        print(json.dumps(started(name, args.steps, args.tiny)))
        return
    print("| workload | trace s | compile s | trace again s | compile again s | share of the first |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in args.workloads:
        first, second = starts(name, args.steps, args.tiny)
        cells = [f"{value:.2f}" for value in (*first, *second)]
        print(f"| {name}, K = {args.steps} | {' | '.join(cells)} | {second[1] / first[1]:.0%} |", flush=True)


def starts(name: str, num_steps: int, tiny: bool) -> list[list[float]]:
    """Returns seconds of tracing and of compiling, of two processes that share a cache."""
    command = [sys.executable, __file__, "--start", "--workloads", name, "--steps", str(num_steps)]
    with tempfile.TemporaryDirectory() as folder:
        # jax keeps what took a second to compile; a step of small networks takes less.
        cache = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        return [
            json.loads(
                subprocess.run(
                    command + ["--tiny"] * tiny, env=os.environ | cache, check=True, stdout=subprocess.PIPE, text=True
                ).stdout
            )
            for _ in range(2)
        ]


def started(name: str, num_steps: int, tiny: bool) -> list[float]:
    """Returns the seconds that the library's outer step takes to trace and to compile."""
    import jax
    from jax_sides import compiled, outer_gradient
    from sides import parse

    workload = workloads.find(name, tiny)
    arrays = jax.tree.map(jax.numpy.asarray, (workloads.parameters(workload), *workloads.episodes(workload)))
    began = time.perf_counter()
    lowered = compiled(outer_gradient(parse("ours"), workload, num_steps)).trace(*arrays).lower()
    traced = time.perf_counter()
    lowered.compile()
    return [traced - began, time.perf_counter() - traced]


if __name__ == "__main__":
    main()
