"""Draws memory and time against the number of inner steps, a picture for each workload.

python benchmarks/plot.py results.json            # results-W3.png and so on, beside it
"""

import argparse
import json
import pathlib
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b08a00", "#3a9bd9", "#5b5b5b", "#7a3fa0")
PANELS = (("temporary_bytes", 1e6, "compiled temporary memory, MB"), ("median", 1, "time of a step, s"))

Row = dict[str, Any]


def main() -> None:
    """Writes a PNG for each workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path)
    path = parser.parse_args().results
    # What is too large to run has a size nevertheless.
    shown = ("timed", "too large")
    rows = [row for row in json.loads(path.read_text("utf-8"))["results"] if row["status"] in shown]
    for workload in dict.fromkeys(row["workload"] for row in rows):
        out = path.with_name(f"{path.stem}-{workload}.png")
        drawn(workload, [row for row in rows if row["workload"] == workload]).savefig(out, dpi=150)
        print(out)


def drawn(workload: str, rows: list[Row]) -> Figure:
    """Returns a figure with two panels, a line for each side."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle(f"{workload}: one outer step")
    for axes, (key, unit, label) in zip(figure.subplots(1, 2), PANELS, strict=True):
        for number, side in enumerate(dict.fromkeys(row["side"] for row in rows)):
            points = sorted(
                (row["inner_steps"], row[key] / unit) for row in rows if row["side"] == side and row.get(key)
            )
            steps, values = [step for step, _ in points], [value for _, value in points]
            style = "-o" if number < len(COLOURS) else "--o"
            axes.plot(steps, values, style, color=COLOURS[number % len(COLOURS)], label=side, markersize=4)
        axes.set(xscale="log", yscale="log", xlabel="inner steps K", ylabel=label)
        steps = sorted({row["inner_steps"] for row in rows})
        axes.set_xticks(steps, [str(step) for step in steps])
        axes.xaxis.set_minor_locator(NullLocator())
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    return figure


if __name__ == "__main__":
    main()
