"""What a run says while it trains: metrics as JSON lines and for TensorBoard, and a progress bar."""

import contextlib
import json
import math
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class MetricsLog:
    """The metrics of a run, one flat JSON object a line, in `<folder>/metrics.jsonl`.

    Every line has `phase` and `step`, and has left the process before `write` returns. A last line that a
    kill cut off is removed when the log is opened. Where tensorboardX is installed the same numbers go to
    `<folder>/tensorboard/<phase>`.

    Args:
      folder: the folder of the run; made when absent.
      tensorboard: False writes no event files even if it could.
    """

    def __init__(self, folder: str | os.PathLike[str], *, tensorboard: bool = True):
        self.path = pathlib.Path(folder) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._events = self.path.parent / "tensorboard" if tensorboard else None
        self._writers: dict[str, Any] = {}
        self._purge_from: dict[str, int] = {}
        self._lock = threading.Lock()  # phases may be trained at the same time
        self._keep_lines(lambda line: True)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - stays open, `close` closes it

    def write(self, phase: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends one line; numbers that are not finite become null."""
        line = {"phase": phase, "step": step} | {name: _plain(value) for name, value in metrics.items()}
        with self._lock:
            self._append(line)
            writer = self._writer(phase)
            if writer is not None:
                for name, value in line.items():
                    if isinstance(value, int | float) and name != "step":
                        writer.add_scalar(name, value, step)

    def final(self, phase: str, *, step: int, loss: float | None, params_sha256: str, **more: Any) -> None:
        """Appends the line that closes the file, in place of an earlier one: `"final": true` and results."""
        result = {"step": step, "loss": loss, "params_sha256": params_sha256, **more}
        self._rewrite(lambda line: line.get("final") is not True)
        line = {"phase": phase, "final": True}
        self._append(line | {name: _plain(value) for name, value in result.items()})

    def rewind(self, phase: str, step: int) -> None:
        """Removes the lines of `phase` beyond `step`: a run that goes on from there writes them again."""
        with self._lock:
            self._rewrite(lambda line: line.get("phase") != phase or line.get("step", 0) <= step)
            self._purge_from[phase] = step + 1

    def close(self) -> None:
        """Closes the file and the event files."""
        self._file.close()
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def _rewrite(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        self._file.close()
        self._keep_lines(keep)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - stays open, `close` closes it

    def _keep_lines(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Keeps the lines that `keep` wants, and those that are not ours; the file is replaced as a whole."""
        if not self.path.exists():
            return
        before = self.path.read_bytes()
        after = b"".join(line for line in before.splitlines(keepends=True) if _wanted(line, keep))
        if after != before:
            fresh = self.path.with_name(f"{self.path.name}.tmp")
            fresh.write_bytes(after)
            fresh.replace(self.path)

    def _writer(self, phase: str) -> Any:
        if self._events is None:
            return None
        if phase not in self._writers:
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                self._events = None
                return None
            self._writers[phase] = SummaryWriter(
                str(self._events / phase), purge_step=self._purge_from.get(phase), flush_secs=5
            )
        return self._writers[phase]


def _wanted(line: bytes, keep: Callable[[dict[str, Any]], bool]) -> bool:
    if not line.endswith(b"\n"):  # cut off by a kill
        return False
    try:
        record = json.loads(line)
    except ValueError:  # not ours: whoever reads it will say so
        return True
    return not isinstance(record, dict) or keep(record)


def _plain(value: Any) -> Any:
    """Turns a scalar of numpy or jax into one of Python, and a number that is not finite into None."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


class ProgressDisplay(Protocol):
    """Where the loop says how far it is."""

    def begin(self, phase: str, *, steps: int, start: int) -> None:
        """Shows that a phase begins at step `start` of `steps`."""
        ...

    def update(
        self, step: int, *, loss: float | None = None, rate: float | None = None, doing: str | None = None
    ) -> None:
        """Shows a step, and what is being done now; the loss and the rate stay until they are given again."""
        ...

    def end(self) -> None:
        """Shows that the phase is over."""
        ...

    def beside(self) -> "ProgressDisplay":
        """Returns a display at the same place, for a phase that is trained at the same time."""
        ...


@contextlib.contextmanager
def progress(console: Console | None = None, *, every_seconds: float = 15.0) -> Iterator[ProgressDisplay]:
    """Shows the progress of training: a bar on a terminal, elsewhere a plain line every so often.

    Args:
      console: where to; standard output unless given.
      every_seconds: the time between two plain lines.

    Example:
      >>> with progress() as bar:
      ...     train_phase(..., progress=bar)
    """
    console = console or Console()
    if not console.is_terminal:
        yield _Lines(console, every_seconds)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[rate]} examples/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield _Bar(bar)


class _Bar:
    """One line of a rich progress bar for each phase."""

    def __init__(self, bar: Progress):
        self._bar = bar
        self._task, self._phase = None, ""

    def begin(self, phase: str, *, steps: int, start: int) -> None:
        self._phase = phase
        self._task = self._bar.add_task(escape(phase), total=steps, completed=start, loss="-", rate="-")

    def update(
        self, step: int, *, loss: float | None = None, rate: float | None = None, doing: str | None = None
    ) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=step)
            if doing is not None:
                self._bar.update(self._task, description=escape(f"{self._phase}: {doing}"))
            if loss is not None:
                self._bar.update(self._task, loss=_loss(loss))
            if rate is not None:
                self._bar.update(self._task, rate=_rate(rate))

    def end(self) -> None:
        if self._task is not None:
            self._bar.update(self._task, description=escape(self._phase))
            self._bar.stop_task(self._task)

    def beside(self) -> "_Bar":
        return _Bar(self._bar)


class _Lines:
    """A plain line when a phase begins and ends, and one every so often between."""

    def __init__(self, console: Console, every_seconds: float):
        self._console = console
        self._every = every_seconds
        self._phase, self._steps, self._start, self._step = "", 0, 0, 0
        self._loss: str | None = None
        self._rate: str | None = None
        self._doing: str | None = None
        self._began = self._said = self._said_step = 0

    def begin(self, phase: str, *, steps: int, start: int) -> None:
        self._phase, self._steps, self._start, self._step = phase, steps, start, start
        self._loss = self._rate = self._doing = None
        self._began = self._said = time.monotonic()
        self._said_step = -1
        self._print(f"{phase}: step {start}/{steps}, {'resumed' if start else 'started'}")

    def update(
        self, step: int, *, loss: float | None = None, rate: float | None = None, doing: str | None = None
    ) -> None:
        self._step, self._doing = step, doing
        self._loss, self._rate = _loss(loss) or self._loss, _rate(rate) or self._rate
        if doing is not None or time.monotonic() - self._said >= self._every:
            self._say()

    def end(self) -> None:
        if self._said_step != self._step:
            self._say()

    def beside(self) -> "_Lines":
        return _Lines(self._console, self._every)

    def _say(self) -> None:
        self._said, self._said_step = time.monotonic(), self._step
        line = f"{self._phase}: step {self._step}/{self._steps}"
        if self._loss is not None:
            line += f", loss {self._loss}"
        if self._rate is not None:
            line += f", {self._rate} examples/s"
        if self._start < self._step < self._steps:
            left = (self._said - self._began) / (self._step - self._start) * (self._steps - self._step)
            line += f", {int(left // 60)}:{int(left % 60):02d} left"
        if self._doing is not None:
            line += f"; {self._doing}"
        self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _loss(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _rate(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}"
