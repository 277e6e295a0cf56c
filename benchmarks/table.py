"""The results of `run.py` as Markdown.

python benchmarks/table.py results.json
"""

import json
import pathlib
import sys
from typing import Any

Row = dict[str, Any]


def markdown(report: dict[str, Any]) -> str:
    """Returns the machine, and a table for each workload and number of inner steps."""
    pairs = dict.fromkeys((row["workload"], row["inner_steps"]) for row in report["results"])
    parts = [_machine(report["machine"])]
    for workload, num_steps in pairs:
        rows = [row for row in report["results"] if (row["workload"], row["inner_steps"]) == (workload, num_steps)]
        parts.append(f"**{workload}, K = {num_steps}**" + _peak(rows))
        parts.append(_table(rows))
    return "\n\n".join(parts)


def _machine(machine: Row) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
    device = machine.get("device", "cpu")
    words = [machine["processor"], f"{machine['cores']} cores", *([device] if device != "cpu" else []), versions]
    load = f"load average {machine['load_before']} before, {machine.get('load_after', '?')} after"
    return "Machine: " + ", ".join([*filter(None, words), load, machine["date"]]) + "."


def _peak(rows: list[Row]) -> str:
    found = {row["dtype"]: row["peak_flops_per_second"] for row in rows if "peak_flops_per_second" in row}
    words = ", ".join(f"{value / 1e9:.0f} GFLOP/s in {dtype}" for dtype, value in found.items())
    return f" (a large product reaches {words})" if found else ""


def _table(rows: list[Row]) -> str:
    columns = dict(COLUMNS)
    if not any(row.get("device_peak_bytes") for row in rows):
        del columns["device MB"]
    lines = ["| side | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for row in rows:
        cells = [cell(row) for cell in columns.values()] if row["status"] == "timed" else _untimed(row, len(columns))
        lines.append(f"| `{row['side']}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _untimed(row: Row, count: int) -> list[str]:
    reason = row["reason"].replace("|", "/")
    return [f"{row['status']}: {reason}", *[""] * (count - 1)]


def _seconds(value: float) -> str:
    return f"{1e3 * value:.4g}"


def _megabytes(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:.4g}"


def _ratio(row: Row) -> str:
    return f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})" if "ratio" in row else ""


def _compile(row: Row) -> str:
    return f"{row['trace_seconds'] + row['compile_seconds']:.1f}" if "compile_seconds" in row else ""


COLUMNS = {
    "median ms": lambda row: _seconds(row["median"]),
    "quartiles ms": lambda row: f"{_seconds(row['low'])} to {_seconds(row['high'])}",
    "ratio": _ratio,
    "temporary MB": lambda row: _megabytes(row.get("temporary_bytes")),
    "device MB": lambda row: _megabytes(row.get("device_peak_bytes")),
    "GFLOP": lambda row: f"{row['flops'] / 1e9:.4g}" if row.get("flops") else "",
    "of peak": lambda row: f"{100 * row['peak_fraction']:.1f}%" if "peak_fraction" in row else "",
    "compile s": _compile,
    "peak RSS MB": lambda row: _megabytes(row.get("peak_rss_bytes")),
    "gradient off by": lambda row: f"{row['difference']:.1e}",
}


if __name__ == "__main__":
    print(markdown(json.loads(pathlib.Path(sys.argv[1]).read_text("utf-8"))))
