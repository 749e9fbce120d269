"""Finds the runs below folders.

Tools that take RUNS on their command line take the folder of a run, or any folder that has some below it: that of a
grid, or of one of its cells.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import UsageError
from experiments.runs.folder import Run, load_run
from experiments.workers.store import load_grid, read_status


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in and below `folders`, each once, in the order of their paths.

    Those of cells of a grid that are not done, see `unfinished`, are left out.

    Raises:
      UsageError: there is no such folder, it has no run, or a `config.json` in it is not one of a run.
    """
    if not folders:
        raise UsageError("Name at least one folder of a run, or one that has runs below it.")
    found: dict[Path, Run] = {}
    undone = unfinished(folders)
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"There is no folder {folder}.")
        paths = _run_folders(folder)
        if not paths:
            raise UsageError(f"There is no run in {folder}: neither it nor a folder below it has a config.json.")
        for path in paths:
            if path.resolve() not in found and path.resolve().parent not in undone:
                found[path.resolve()] = load_run(path)
    if not found:
        raise UsageError(f"No cell is done: {'; '.join(undone.values())}.")
    return list(found.values())


def unfinished(folders: Sequence[Path]) -> dict[Path, str]:
    """The cells of grids in `folders` that are not done, by their folders, in words: which, and what has become of it.

    Raises:
      UsageError: a `grid.json` is not one of a grid.
    """
    found = {}
    for folder in map(Path.resolve, folders):
        for grid in dict.fromkeys(run.parent.parent for run in _run_folders(folder)):
            if not (grid / "grid.json").is_file():
                continue
            for cell in (grid / cell.name for cell in load_grid(grid).cells):
                status = read_status(cell)
                if (cell.is_relative_to(folder) or folder.is_relative_to(cell)) and status["state"] != "done":
                    found[cell] = f"{cell.name} is {status['state']}" + (f": {why}" if (why := status["error"]) else "")
    return found


def _run_folders(folder: Path) -> list[Path]:
    found = []
    for here, below, files in os.walk(folder):
        if "config.json" in files:
            found.append(Path(here))
            below.clear()
    return sorted(found)
