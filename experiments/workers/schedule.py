"""Who trains what: the cells of a grid that are not done, batch by batch, by workers.

Cells that share a program are trained one after the other by the same worker, unless others would be idle. A worker
that ends in the middle of a cell fails that cell, and another one takes the rest.
"""

import contextlib
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.command_line import UsageError
from experiments.runs.folder import Run
from experiments.terminal import say
from experiments.training.cell import program_key
from experiments.training.stop import StopRequest
from experiments.workers.places import Places, Worker
from experiments.workers.progress import Report, print_table
from experiments.workers.store import Cell, Grid, claim, grid_lock, read_status, save_grid, write_status
from memrl.files import FileError

FAILED = 1
"""Exit status of a grid of which a cell failed."""
POLL = 0.2
"""Seconds between two looks at what the workers do."""


def execute(
    grid: Grid, folder: Path, count: int | None = None, cluster: str = "pool", job: dict[str, Any] | None = None
) -> int:
    """Trains the cells of `grid` that are not done, and says how that goes.

    Args:
      grid: what is trained.
      folder: where; it may hold the same grid, which then goes on.
      count: workers at the same time, see `experiments.grid.Options`.
      cluster: where they run, see there.
      job: what a job asks for, see there.

    Returns:
      The exit status.

    Raises:
      FileError, UsageError: the folder holds something else, or is damaged, another process works on it, or workers
        cannot be started.
    """
    claim(grid, folder)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(grid_lock(folder))
        places = Places(folder, lock, grid, count, cluster, job or {})
        save_grid(grid, folder)
        (folder / "stop").unlink(missing_ok=True)
        todo = [cell for cell in grid.cells if not is_done(grid, folder, cell)]
        for cell in todo:
            (folder / cell.name / "status.json").unlink(missing_ok=True)
        places.count = max(1, min(places.count, len(todo)))
        done = len(grid.cells) - len(todo)
        before = f", {done} of them done" if done else ""
        say(f"{folder}: {len(grid.cells)} cells of {len(grid.seeds)} seeds{before}; {places.count} at a time.")
        stop = stack.enter_context(StopRequest(signal.default_int_handler))  # ends the workers
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


def is_done(grid: Grid, folder: Path, cell: Cell) -> bool:
    """Whether nothing is left to do for a cell. An evaluation that is gone or damaged is made again."""
    if read_status(folder / cell.name)["state"] != "done":
        return False
    for config in grid.configs(cell, folder.resolve().name):
        try:
            Run(folder / cell.name / f"seed{config.seed}", config).evaluation  # noqa: B018 (reads it)
        except (FileError, UsageError) as error:
            say(f"To be evaluated again: {error}")
            return False
    return True


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
