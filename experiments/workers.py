"""Trains the cells of a grid with several workers: processes on this machine or jobs on a cluster.

`experiments.grid` tells what a user sees of it.

Cells that share a program are trained one after the other by the same worker, unless others would be idle. A worker
tells by `status.json` in the folder of a cell how far it is; what it says goes to a log. One that ends in the middle of
a cell fails that cell, and another one takes the rest.
"""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax

from experiments.cell import Programs, program_key, train_cell
from experiments.command_line import UsageError, make_output
from experiments.config import Config, config_from_dict, config_to_dict
from experiments.log import say
from experiments.run import StopRequest
from memrl.tracking import write_json

FAILED = 1
"""Exit status of a grid of which a cell failed."""
POLL = 0.2
"""Seconds between two looks at what the workers do."""
JOBS = 8
"""Jobs at the same time on a cluster, unless told otherwise."""
OWNED = "MEMRL_GRID_OWNED"
"""Environment variable of worker processes: they stop where the process that started them has ended."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination of the swept values."""

    name: str
    """Its folder in that of the grid: what was swept, such as memory=gru,env.size=5."""
    config: Config
    """Its settings, but for the seed."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """All that a grid trains."""

    cells: tuple[Cell, ...]
    """In the order of the values swept, the last field fastest."""
    seeds: tuple[int, ...]
    """Of each cell."""
    test: dict[str, list[list[str]]]
    """Fields and values of what `experiments.matrix` tests on; empty: what all cells train on, and its splits."""
    command: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    """The command line that said all this, for the records of its runs."""

    def configs(self, cell: Cell, name: str) -> list[Config]:
        """The configs of the runs of `cell`, where the grid is called `name`: so is its group, unless it has one."""
        tracking = dataclasses.replace(cell.config.tracking, group=cell.config.tracking.group or name)
        return [dataclasses.replace(cell.config, seed=seed, tracking=tracking) for seed in self.seeds]


def save_grid(grid: Grid, folder: Path) -> None:
    """Writes `grid.json`."""
    cells = [{"name": cell.name, "config": config_to_dict(cell.config)} for cell in grid.cells]
    values = {"command": grid.command, "seeds": grid.seeds, "test": grid.test, "cells": cells}
    write_json(folder / "grid.json", values)


def load_grid(folder: Path) -> Grid:
    """The grid in `folder`, which `grid.json` holds; UsageError if there is none."""
    file = folder / "grid.json"
    if not file.is_file():
        raise UsageError(f"There is no grid in {folder}: it has no grid.json.")
    try:
        said = json.loads(file.read_text())
        cells = tuple(Cell(cell["name"], config_from_dict(cell["config"])) for cell in said["cells"])
        return Grid(cells, tuple(said["seeds"]), said["test"], tuple(said["command"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{file} is not a grid: {error}") from error


# What a worker does


def work(folder: Path, names: Sequence[str], log: str) -> int:
    """Trains the cells `names` of the grid in `folder`, one after the other; returns the exit status.

    What it says goes to the file `log`. It stops, its state saved, on SIGTERM.
    """
    grid = load_grid(folder)
    # As Ctrl-C: at once, but while a cell is trained, which then is saved first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str((folder / "cache").absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    threading.Thread(target=stop_with, args=(folder,), daemon=True).start()
    cells = {cell.name: cell for cell in grid.cells}
    programs: Programs = {}
    for name in names:
        with cell_lock(folder / name):
            start = time.time()
            write_status(folder / name, "training", log)
            try:
                configs = grid.configs(cells[name], folder.resolve().name)
                stopped_by = train_cell(folder / name, configs, grid.command, programs)
            except KeyboardInterrupt:  # while it was compiled or evaluated
                stopped_by = signal.SIGTERM
            except Exception as error:  # which says nothing about the other cells
                traceback.print_exc()
                write_status(folder / name, "failed", log, time.time() - start, sentence(error))
                continue
            write_status(folder / name, "stopped" if stopped_by else "done", log, time.time() - start)
            if stopped_by is not None:
                return 128 + stopped_by
    return 0


def job(folder: Path, names: Sequence[str]) -> int:
    """`work` as a job of submitit."""
    import submitit

    # submitit would ignore the first, and end the job at the second, which announces the end of its time.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    return work(folder, names, str(submitit.JobEnvironment().paths.stderr))


def stop_with(folder: Path) -> None:
    """Stops this process with the one that started it; a job, when there is a file `stop` in the grid's folder."""
    if os.environ.get(OWNED):
        while os.read(sys.stdin.fileno(), 1):  # not through a buffer, whose lock would be missed when the process ends
            pass
    else:
        while not (folder / "stop").exists():
            time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def cell_lock(folder: Path) -> Iterator[None]:
    """Keeps other workers out of a cell, wherever they run; waits for one that is about to end."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        print(os.getpid(), file=file, flush=True)  # for who wonders
        yield


def write_status(folder: Path, state: str, log: str, seconds: float = 0.0, error: str | None = None) -> None:
    """Writes down what has become of the cell in `folder`: "training", "stopped", "done" or "failed"."""
    write_json(folder / "status.json", {"state": state, "seconds": seconds, "log": log, "error": error})


def read_status(folder: Path) -> dict[str, Any]:
    """What `write_status` wrote; the state is "waiting" if nothing has been."""
    try:
        return json.loads((folder / "status.json").read_text())
    except FileNotFoundError:
        return {"state": "waiting", "seconds": 0.0, "log": None, "error": None}


def sentence(error: BaseException) -> str:
    """An error in one line."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return first if isinstance(error, ValueError) and first else f"{type(error).__name__}: {first}"


# Where workers are


class Worker(Protocol):
    """One that works, or has."""

    log: str
    """The file of what it says."""

    def ended(self) -> str | None:
        """How it ended, in words; None if it has not."""

    def stop(self) -> None:
        """Asks it to save its state and to stop."""

    def kill(self) -> None:
        """Ends it at once."""


class Process:
    """A worker on this machine."""

    def __init__(self, folder: Path, names: Sequence[str], lock: int, environment: dict[str, str]):
        """`lock` is the descriptor that keeps others out of the grid, which then holds until the worker has ended."""
        logs = folder / "logs"
        logs.mkdir(exist_ok=True)
        log = next(path for n in itertools.count(1) if not (path := logs / f"worker-{n}.log").exists())
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "experiments.workers", str(folder), str(log), *names],
                env={**os.environ, **environment, OWNED: "1"},
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                start_new_session=True,  # or Ctrl-C would reach it twice, from the terminal and from here
            )
        self.log = str(log)

    def ended(self) -> str | None:
        status = self.process.poll()
        if status is None:
            return None
        self.process.stdin.close()
        return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    def stop(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        with self.process:  # waits for it, and closes its pipe
            self.process.kill()


class Job:
    """A worker on a cluster."""

    def __init__(self, folder: Path, names: Sequence[str], executor: Any):
        self.folder = folder
        self.job = executor.submit(job, folder, list(names))
        self.log = str(self.job.paths.stderr)

    def ended(self) -> str | None:
        return f"ended as {self.job.state}" if self.job.done() else None

    def stop(self) -> None:
        (self.folder / "stop").touch()
        if self.job.state == "PENDING":
            self.job.cancel(check=False)

    def kill(self) -> None:
        self.job.cancel(check=False)


class Places:
    """Where workers are started, so many at a time."""

    def __init__(self, folder: Path, lock: int, grid: Grid, count: int | None, cluster: str, job: dict[str, Any]):
        """As the options of `experiments.grid` say. Starts nothing yet; UsageError if it could not."""
        self.folder, self.lock, self.executor = folder, lock, None
        # A worker has no more devices than its runs ask for: how many workers there are changes no result.
        devices = max(cell.config.devices or 1 for cell in grid.cells)
        self.environments = [{"JAX_NUM_CPU_DEVICES": str(devices)}]
        if cluster == "pool":
            if jax.default_backend() == "gpu":
                visible = os.environ.get("CUDA_VISIBLE_DEVICES")
                gpus = visible.split(",") if visible else [str(number) for number in range(jax.device_count())]
                groups = [gpus[first : first + devices] for first in range(0, len(gpus) - devices + 1, devices)]
                self.environments = [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]
                if not groups:
                    raise UsageError(f"devices is {devices} and this machine offers {len(gpus)} of them.")
                cores = len(groups) * devices
            else:
                cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            self.count = count or max(1, cores // devices)
        else:
            self.executor = make_executor(folder, cluster, job)
            self.count = count or JOBS

    def start(self, names: Sequence[str], place: int) -> Worker:
        """Starts a worker at a place, from 0 to `count` - 1."""
        environment = self.environments[place % len(self.environments)]
        if self.executor is None:
            return Process(self.folder, names, self.lock, environment)
        os.environ.update(environment)  # which jobs inherit
        return Job(self.folder, names, self.executor)


def make_executor(folder: Path, cluster: str, parameters: dict[str, Any]) -> Any:
    """What submits jobs; UsageError if it cannot be had, or knows no such parameters."""
    try:
        import submitit
    except ImportError:
        raise UsageError("--cluster needs submitit: pip install 'memrl[cluster]'.") from None
    try:
        executor = submitit.AutoExecutor(folder / "jobs", cluster=cluster)
        executor.update_parameters(**{"timeout_min": 24 * 60, "name": folder.name, **parameters})
    except (RuntimeError, NameError, AssertionError, ValueError) as error:
        raise UsageError(f"--cluster {cluster}: {sentence(error)}") from error
    return executor


# Who does what


def execute(
    grid: Grid, folder: Path, count: int | None = None, cluster: str = "pool", job: dict[str, Any] | None = None
) -> int:
    """Trains the cells of `grid` that are not done, and says how that goes.

    Args:
      grid: what is trained.
      folder: where; it may hold the same grid, which then goes on.
      count, cluster, job: see `experiments.grid.Options`.

    Returns:
      The exit status.

    Raises:
      UsageError: the folder holds something else, another process works on it, or workers cannot be started.
    """
    claim(grid, folder)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(grid_lock(folder))
        places = Places(folder, lock, grid, count, cluster, job or {})
        save_grid(grid, folder)
        (folder / "stop").unlink(missing_ok=True)
        todo = [cell for cell in grid.cells if read_status(folder / cell.name)["state"] != "done"]
        for cell in todo:
            (folder / cell.name / "status.json").unlink(missing_ok=True)
        places.count = max(1, min(places.count, len(todo)))
        done = len(grid.cells) - len(todo)
        before = f", {done} of them done" if done else ""
        say(f"{folder}: {len(grid.cells)} cells of {len(grid.seeds)} seeds{before}; {places.count} at a time.")
        stop = stack.enter_context(StopRequest())
        train_all(grid, folder, todo, places, stop)
    print_table(grid, folder)
    states = [read_status(folder / cell.name)["state"] for cell in grid.cells]
    again = f"python -m experiments.grid --resume {folder}"
    if stop.received is not None:
        say(f"Stopped by {stop.received.name}, everything is saved; to go on: {again}")
        return 128 + stop.received
    if "failed" in states:
        say(f"{states.count('failed')} of {len(states)} cells failed; to try them again: {again}")
    if "done" in states:
        say(f"To compare: python -m experiments.report {folder}")
    return FAILED if "failed" in states else 0


def claim(grid: Grid, folder: Path) -> None:
    """Makes the folder of a grid; UsageError if it holds something else than the same grid."""
    if (folder / "grid.json").exists():
        if load_grid(folder) != grid:
            raise UsageError(
                f"{folder} holds another grid: go on with it (--resume {folder}) or name another --output."
            )
        return
    if make_output(folder, "a grid"):
        raise UsageError(f"{folder} cannot be the folder of a grid: it is not empty.")


@contextlib.contextmanager
def grid_lock(folder: Path) -> Iterator[int]:
    """Keeps others from working on the grid, until all processes that have the descriptor have ended."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    except BlockingIOError:
        raise UsageError(f"Another process is working on the grid in {folder}.") from None
    finally:
        os.close(descriptor)


def train_all(grid: Grid, folder: Path, todo: Sequence[Cell], places: Places, stop: StopRequest) -> None:
    """Lets workers train the cells `todo`, until all are done or failed, or a signal asks to stop."""
    queue = batches(todo, places.count)
    free = list(range(places.count))
    running: list[tuple[Worker, list[str], int]] = []
    report = Report(grid, folder, [cell.name for cell in todo])
    told = False
    try:
        while running or (queue and not told):
            if stop.received is not None and not told:
                told = True
                for worker, _, _ in running:
                    worker.stop()
            while queue and free and not told:
                names, place = queue.pop(0), free.pop(0)
                running.append((places.start(names, place), names, place))
            time.sleep(POLL)
            for worker, names, place in list(running):
                how = worker.ended()
                if how is None:
                    continue
                left = [name for name in names if read_status(folder / name)["state"] not in ("done", "failed")]
                running.remove((worker, names, place))
                free.append(place)
                if left and not told:
                    if read_status(folder / left[0])["state"] != "stopped":
                        write_status(folder / left[0], "failed", worker.log, error=f"Its worker {how}.")
                        left = left[1:]
                    if left:
                        queue.append(left)
            report.show()
    except KeyboardInterrupt:
        for worker, _, _ in running:
            worker.kill()
        raise


def batches(cells: Sequence[Cell], workers: int) -> list[list[str]]:
    """Names of cells that one worker trains one after the other: of one program each, the longest batch first.

    No batch is longer than what each of `workers` would have if all had the same.
    """
    groups: dict[str, list[str]] = {}
    for cell in cells:
        groups.setdefault(program_key(cell.config), []).append(cell.name)
    longest = -(-len(cells) // workers)
    cut = []
    for names in groups.values():
        parts = -(-len(names) // longest)
        cut += [names[len(names) * part // parts : len(names) * (part + 1) // parts] for part in range(parts)]
    return sorted(cut, key=len, reverse=True)


# What is said


class Report:
    """Says which cells are done and how long the others will take."""

    def __init__(self, grid: Grid, folder: Path, names: Sequence[str]):
        """`names` are the cells to be trained."""
        self.folder, self.names = folder, list(names)
        self.ended: dict[str, dict[str, Any]] = {}
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


def line(folder: Path, status: dict[str, Any], width: int) -> str:
    """How a cell ended, in one line."""
    text = f"{status['state']:8}{folder.name:{width}}  {minutes(status['seconds']):>8}"
    if status["state"] == "failed":
        return f"{text}  {status['error']} See {status['log']}"
    return f"{text}  {measure(folder)}" if status["state"] == "done" else text


def measure(folder: Path) -> str:
    """The success of the runs of a cell, if it is told, or their return: the mean over seeds, least and most."""
    evaluations = [json.loads(path.read_text()) for path in sorted(folder.glob("seed*/evaluation.json"))]
    found = [main_measure(evaluation) for evaluation in evaluations]
    if not found:
        return ""
    values = [value for _, value in found]
    return f"{found[0][0]} {statistics.fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main_measure(evaluation: dict[str, Any]) -> tuple[str, float]:
    """What an evaluation found in the setting trained in: success if the environment tells it, else the return."""
    if "windows" in evaluation:
        return "return", sum(evaluation["windows"][0]["return_per_window"])
    entry = evaluation["episodes"][0]
    if entry["outcomes"].get("success"):
        return "success", entry["outcomes"]["success"]["mean"]
    return "return", entry["return"]["mean"]


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


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1]), sys.argv[3:], sys.argv[2]))
