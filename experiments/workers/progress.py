"""What a grid says while it is trained, and at its end."""

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.terminal import say
from experiments.workers.store import Grid, Status, read_status
from memrl.evaluation import episodes_of, main_measure, measured, read_evaluation, windows_of


class Report:
    """Says which cells are done and how long the others will take."""

    def __init__(self, grid: Grid, folder: Path, names: Sequence[str]) -> None:
        """`names` are the cells to be trained."""
        self.folder, self.names = folder, list(names)
        self.ended: dict[str, Status] = {}
        self.width = max(len(cell.name) for cell in grid.cells)
        self.start, self.shown = time.monotonic(), ""

    def show(self) -> None:
        """Says what is new."""
        for name in self.names:
            if name not in self.ended and (status := read_status(self.folder / name))["state"] in ("done", "failed"):
                self.ended[name] = status
                self._clear()
                say(line(self.folder / name, status, self.width))
        failed = sum(status["state"] == "failed" for status in self.ended.values())
        elapsed = time.monotonic() - self.start
        progress = f"{len(self.ended) - failed} of {len(self.names)} cells done, {failed} failed"
        if self.ended and len(self.ended) < len(self.names):
            left = elapsed * (len(self.names) / len(self.ended) - 1)
            progress += f", about {minutes(left)} left"
        if sys.stdout.isatty() and progress != self.shown:
            self._clear()
            say(progress, end="")
        self.shown = progress

    def _clear(self) -> None:
        if sys.stdout.isatty():
            say("\r\x1b[K", end="")


def line(folder: Path, status: Status, width: int) -> str:
    """How a cell ended, in one line."""
    text = f"{status['state']:8}{folder.name:{width}}  {minutes(status['seconds']):>8}"
    if status["state"] == "failed":
        return f"{text}  {status['error']} See {status['log']}"
    return f"{text}  {measure(folder)}" if status["state"] == "done" else text


def measure(folder: Path) -> str:
    """The success of the runs of a cell, if it is reported, or their return: the mean over seeds, least and most."""
    evaluations = [read_evaluation(path) for path in sorted(folder.glob("seed*/evaluation.json"))]
    if not evaluations:
        return ""
    if windows_of(evaluations[0]):
        name, values = "return", [sum(windows_of(one)[0]["return_per_window"]) for one in evaluations]
    else:
        entries = [episodes_of(one)[0] for one in evaluations]
        name = main_measure(entries)
        values = [measured(entry, name)["mean"] for entry in entries]
    return f"{name} {statistics.fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def minutes(seconds: float) -> str:
    """A time as minutes and seconds."""
    whole, rest = divmod(round(seconds), 60)
    return f"{whole}:{rest:02}"


def print_table(grid: Grid, folder: Path) -> None:
    """Prints what has become of every cell."""
    width = max(len(cell.name) for cell in grid.cells)
    say("")
    for cell in grid.cells:
        say(line(folder / cell.name, read_status(folder / cell.name), width))
