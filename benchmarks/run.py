"""Time, memory and arithmetic of one outer step, side by side.

    python benchmarks/run.py --workloads W3 --steps 5 --sides ours hand_naive hand_remat --out results.json
    python benchmarks/run.py --workloads W1 --steps 1 5 --sides modes --tiny      # a rehearsal of seconds

Every side of a comparison is a process of its own. All of them compile, their gradients are compared with a reference,
and they are then timed in turns, one at a time, so that whatever else the machine does falls on all of them alike. See
docs/benchmarks.md for the sides and the columns.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import numpy as np
from protocol import Worker
from sides import GROUPS, PEERS, Side, differentiated_steps, expand, offered, parse
from table import markdown
from workloads import WORKLOADS, find

HERE = pathlib.Path(__file__).parent
TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-1}  # of a gradient, relative to the largest entry of the reference

Row = dict[str, Any]


def main() -> None:
    """Runs every comparison that was asked for; writes after each, so that a run that is cut off leaves something."""
    args = _arguments()
    report = {"machine": _machine(), "settings": {**vars(args), "out": str(args.out or "")}, "results": []}
    for workload in args.workloads:
        for num_steps in args.steps:
            with tempfile.TemporaryDirectory() as folder:
                comparison = Comparison(args, workload, num_steps, pathlib.Path(folder))
                report["results"] += comparison.run()
            report["machine"] = {**report["machine"], **comparison.machine}
            if args.out:
                args.out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", "utf-8")
    print(markdown(report))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=["W1"])
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 5], help="inner steps K")
    parser.add_argument(
        "--sides", nargs="+", default=["ours", "hand_naive", "hand_remat"],
        help=f"the first is what others are compared with. Families: {', '.join(offered())}; groups of sides: "
        f"{', '.join(GROUPS)}",
    )  # fmt: skip
    parser.add_argument("--out", type=pathlib.Path, help="where to write the results as JSON")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each side")
    parser.add_argument("--turn", type=float, default=1.0, help="seconds of a turn; it has one step at least")
    parser.add_argument("--tiny", action="store_true", help="small workloads, to see that everything runs")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=int, default=0, help="cores that a side may use; 0 is all")
    parser.add_argument("--precision", default="highest", help='of float32 products; "default" allows TF32 on a GPU')
    parser.add_argument("--reference", choices=["float32", "float64"], default="float64", help="what computes it")
    parser.add_argument("--tolerance", type=float, help="of the gradients; by default 1e-3, for bfloat16 0.1")
    parser.add_argument("--exact", action="store_true", help="compare approximations with the exact gradient too")
    parser.add_argument("--peers", default=os.path.relpath(HERE / "peers" / ".venv"),
                        help="the folder that benchmarks/peers/install.sh was given")  # fmt: skip
    parser.add_argument(
        "--prepare", type=int, default=1, help="sides that compile at once; compile times are then of a busy machine"
    )
    parser.add_argument("--limit", type=float, default=1800, help="seconds to wait for an answer of a side")
    parser.add_argument("--anyway", action="store_true", help="run on a CPU what is meant for an accelerator")
    args = parser.parse_args()
    try:
        expand(args.sides)
    except ValueError as error:
        parser.error(str(error))
    return args


def _machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "date": datetime.date.today().isoformat(),
        "load_before": round(os.getloadavg()[0], 2),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


class Comparison:
    """One workload with one number of inner steps, by every side.

    Attributes:
      machine: what the workers said of it.
    """

    def __init__(self, args: argparse.Namespace, workload: str, num_steps: int, folder: pathlib.Path):
        """Takes notice of what to compare; `folder` is for gradients."""
        self.machine: dict[str, Any] = {"versions": {}}
        self._args, self._workload, self._num_steps, self._folder = args, workload, num_steps, folder
        self._workers: dict[str, Worker] = {}  # those that are to be timed

    def run(self) -> list[Row]:
        """Returns a row for each side."""
        sides = expand(self._args.sides)
        try:
            self._start_peaks(sides)
            if self._too_large():
                self._say("is for an accelerator; --anyway runs it on this CPU")
                return []
            with ThreadPoolExecutor(self._args.prepare) as pool:
                started = list(pool.map(self._start, [*self._needed_references(sides).values(), *sides]))
            rows = self._judged(sides, started)
            rounds = self._timed()
        finally:
            for worker in self._workers.values():
                worker.stop()
        self.machine["load_after"] = round(os.getloadavg()[0], 2)
        return [self._finished(row, rows[0]["side"], rounds) for row in rows]

    def _start_peaks(self, sides: list[Side]) -> None:
        for dtype in sorted({_dtype(side) for side in sides} | {"float32"}):
            worker = self._start(parse(f"peak:dtype={dtype}"))
            if worker.facts["status"] != "ready":
                worker.stop()
                raise SystemExit(f"jax does not run here: {worker.facts['reason']}")
            self._note(worker)
            self.machine |= {key: worker.facts[key] for key in ("device", "platform")}
            self._workers[_peak(dtype)] = worker

    def _too_large(self) -> bool:
        on_cpu = self.machine["platform"] == "cpu" and not self._args.anyway
        return on_cpu and find(self._workload, self._args.tiny).accelerator

    def _start(self, side: Side) -> Worker:
        args = self._args
        python = str(pathlib.Path(args.peers, "bin", "python")) if side.family in PEERS else sys.executable
        command = [python, str(HERE / "worker.py"), "--side", side.name, "--workload", self._workload]
        command += ["--steps", str(self._num_steps), "--gradient", str(self._path(side))]
        command += ["--precision", args.precision, "--device", args.device, "--threads", str(args.threads)]
        command += ["--tiny"] if args.tiny else []
        self._say(f"{side.name} is preparing")
        return Worker(command, _environment(args.device), args.limit)

    def _note(self, worker: Worker) -> None:
        self.machine["versions"] |= worker.facts.get("versions", {})

    def _needed_references(self, sides: list[Side]) -> dict[int, Side]:
        """By how many of the last steps are differentiated; the others are constants."""
        wanted = sorted({self._differentiated(side) for side in sides})
        return {last: parse(f"reference:last={last},dtype={self._args.reference}") for last in wanted}

    def _differentiated(self, side: Side) -> int:
        return self._num_steps if self._args.exact else differentiated_steps(side, self._num_steps)

    def _judged(self, sides: list[Side], started: list[Worker]) -> list[Row]:
        """Compares every side with its reference; those that are right stay to be timed."""
        needed = self._needed_references(sides)
        references = {}
        for (last, side), worker in zip(needed.items(), started, strict=False):
            worker.stop()
            if worker.facts["status"] != "ready":
                for other in started:
                    other.stop()
                raise SystemExit(f"there is no reference to compare with: {worker.facts['reason']}")
            references[last] = self._gradient(side)
        workers = zip(sides, started[len(needed) :], strict=True)
        return [self._row(side, worker, references[self._differentiated(side)]) for side, worker in workers]

    def _row(self, side: Side, worker: Worker, reference: dict[str, np.ndarray]) -> Row:
        row = {"workload": self._workload, "inner_steps": self._num_steps, "side": side.name, "dtype": _dtype(side)}
        row |= {**worker.facts, "differentiated_steps": self._differentiated(side)}
        if row["status"] == "ready":
            self._note(worker)
            tolerance = self._args.tolerance or TOLERANCE[_dtype(side)]
            row |= judged(self._gradient(side), reference, tolerance)
        if row["status"] == "ready" and row["platform"] != self.machine["platform"]:
            row |= {"status": "failed", "reason": f"it ran on {row['platform']}, not on {self.machine['platform']}"}
        if row["status"] == "ready":
            self._workers[side.name] = worker
        else:
            worker.stop()
            self._say(f"{side.name} is {row['status']}: {row['reason']}")
        return row

    def _path(self, side: Side) -> pathlib.Path:
        return self._folder / f"{quote(side.name, safe='')}.npz"

    def _gradient(self, side: Side) -> dict[str, np.ndarray]:
        with np.load(self._path(side)) as file:
            found = dict(file)
        self._path(side).unlink()
        return found

    def _timed(self) -> dict[str, list[Row]]:
        """Goes round the sides: the answers of each, in order. A side that fails is not asked again."""
        answers: dict[str, list[Row]] = {name: [] for name in self._workers}
        for number in range(self._args.repeats):
            self._say(f"turn {number + 1} of {self._args.repeats}")
            for name, worker in self._workers.items():
                if not answers[name] or "seconds" in answers[name][-1]:
                    answers[name].append(worker.time(self._args.turn))
        return answers

    def _finished(self, row: Row, first: str, rounds: dict[str, list[Row]]) -> Row:
        if row["status"] != "ready":
            return row
        answers = rounds[row["side"]]
        if "seconds" not in answers[-1]:
            return {**row, **answers[-1]}
        times = _times(answers)
        row = {**row, "status": "timed", "seconds": times, **_summary(times), **_ratios(answers, rounds.get(first, []))}
        row |= {key: answers[-1].get(key) for key in ("peak_rss_bytes", "device_peak_bytes")}
        peak = _peak(row["dtype"])
        row["peak_flops_per_second"] = self._workers[peak].facts["flops"] / _median(_times(rounds[peak]))
        if row.get("flops"):
            row["peak_fraction"] = row["flops"] / row["median"] / row["peak_flops_per_second"]
        return row

    def _say(self, words: str) -> None:
        print(f"{self._workload}, K = {self._num_steps}: {words}", file=sys.stderr, flush=True)


def _environment(device: str) -> dict[str, str]:
    """The environment of a worker. Many share a device, so none of them may take all of its memory in advance."""
    chosen = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if device != "auto":
        chosen["JAX_PLATFORMS"] = device
    return {**os.environ, **chosen}


def _dtype(side: Side) -> str:
    return side.options.get("dtype", "float32")


def _peak(dtype: str) -> str:
    return f"peak:dtype={dtype}"


def judged(gradient: dict[str, np.ndarray], reference: dict[str, np.ndarray], tolerance: float) -> Row:
    """Returns how far a gradient is from the reference, relative to its largest entry, and whether that is too far."""
    if gradient.keys() != reference.keys():
        return {"status": "wrong", "reason": "the gradient has other parameters than the reference"}
    size = max(float(np.abs(leaf).max()) for leaf in reference.values())
    # numpy's maximum hands NaN on, where Python's may pass it over.
    difference = float(np.max([np.abs(gradient[name] - leaf).max() for name, leaf in reference.items()])) / size
    if not np.isfinite(difference):
        return {"status": "wrong", "reason": "the gradient is not finite"}
    if difference <= tolerance:
        return {"difference": difference}
    reason = f"the gradient is {difference:.1e} from the reference, and may be {tolerance:.0e}"
    return {"difference": difference, "status": "wrong", "reason": reason}


def _times(answers: list[Row]) -> list[list[float]]:
    return [answer["seconds"] for answer in answers if "seconds" in answer]


def _median(times: list[list[float]]) -> float:
    return statistics.median(second for turn in times for second in turn)


def _summary(times: list[list[float]]) -> Row:
    low, high = np.quantile(np.concatenate(times), (0.25, 0.75))
    return {"median": _median(times), "low": float(low), "high": float(high)}


def _ratios(answers: list[Row], first: list[Row]) -> Row:
    """By turn: what slows the machine down for a while then falls on both sides of the fraction."""
    pairs = zip(_times(answers), _times(first), strict=False)
    ratios = [statistics.median(own) / statistics.median(other) for own, other in pairs]
    if not ratios:
        return {}
    return {"ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)}


if __name__ == "__main__":
    main()
