"""What a grid keeps in its folder: `grid.json`, and `status.json` for each of its cells."""

import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from experiments.command_line import UsageError, make_output
from experiments.config import Config, config_from_dict, config_to_dict
from memrl.files import FileError, check_writable, read_json
from memrl.tracking import write_json


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination of the swept values."""

    name: str
    """Name of the cell and of its folder in that of the grid: what was swept, such as memory=gru,env.size=5."""
    config: Config
    """Settings of the cell, but for the seed."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """All that a grid trains."""

    cells: tuple[Cell, ...]
    """Cells, in the order of the values swept, the last field fastest."""
    seeds: tuple[int, ...]
    """Seeds of each cell."""
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


class SavedCell(TypedDict):
    """A cell in `grid.json`."""

    name: str
    """Folder of the cell in that of the grid."""
    config: dict[str, Any]
    """Settings of the cell, as in `config.json`."""


class SavedGrid(TypedDict):
    """What `grid.json` holds."""

    command: list[str]
    """The command line that began the grid."""
    seeds: list[int]
    """Seeds of each cell."""
    test: dict[str, list[list[str]]]
    """Fields and values that `experiments.matrix` tests on."""
    cells: list[SavedCell]
    """The cells, in the order of the swept values."""


def load_grid(folder: Path) -> Grid:
    """The grid in `folder`, which `grid.json` holds; UsageError if there is none, FileError if it is damaged."""
    file = folder / "grid.json"
    if not file.exists():
        raise UsageError(f"There is no grid in {folder}: it has no grid.json.")
    said: SavedGrid = read_json(file, SavedGrid, "Put a good copy of it in its place.")
    try:
        cells = tuple(Cell(cell["name"], config_from_dict(cell["config"])) for cell in said["cells"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileError(f"{file} is not a grid: {error}") from error
    return Grid(cells, tuple(said["seeds"]), said["test"], tuple(said["command"]))


def claim(grid: Grid, folder: Path) -> None:
    """Makes the folder of a grid; UsageError if it holds something else than the same grid."""
    if (folder / "grid.json").exists():
        if load_grid(folder) != grid:
            raise UsageError(
                f"{folder} holds another grid: go on with it (--resume {folder}) or name another --output."
            )
        check_writable(folder)
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


@contextlib.contextmanager
def cell_lock(folder: Path) -> Iterator[None]:
    """Keeps other workers out of a cell, wherever they run; waits for one that is about to end."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        print(os.getpid(), file=file, flush=True)  # for who wonders
        yield


class Status(TypedDict):
    """What has become of a cell, in `status.json`."""

    state: Literal["waiting", "training", "stopped", "done", "failed"]
    """State of the cell, in one word."""
    seconds: float
    """Seconds that a worker was busy with the cell."""
    log: str | None
    """File of what the worker said."""
    error: str | None
    """Why it failed, in one line."""


def write_status(folder: Path, state: str, log: str, seconds: float = 0.0, error: str | None = None) -> None:
    """Writes down what has become of the cell in `folder`."""
    write_json(folder / "status.json", {"state": state, "seconds": seconds, "log": log, "error": error})


def read_status(folder: Path) -> Status:
    """What `write_status` wrote; the state is "waiting" if nothing has been. FileError if it is damaged."""
    file = folder / "status.json"
    if not file.exists():
        return {"state": "waiting", "seconds": 0.0, "log": None, "error": None}
    return read_json(file, Status, "Remove it: what is trained of this cell stays.")
