"""Finds the runs below folders.

Tools that take RUNS on their command line take the folder of a run, or any folder that has some below it: that of a
grid, or of one of its cells.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.command_line import UsageError
from experiments.config import Config, load_config
from experiments.workers.store import read_status
from memrl.checkpoint import Checkpointer
from memrl.tracking import read_metrics


@dataclasses.dataclass(frozen=True)
class Run:
    """A run and what is in its folder, read when it is asked for."""

    folder: Path
    """Folder of the run."""
    config: Config
    """Settings of the run."""

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """What `evaluation.json` holds, of the last checkpoint; see `memrl.evaluation.evaluate`.

        Raises:
          UsageError: there is none, it is not one, or it is not of the latest checkpoint.
        """
        path = self.folder / "evaluation.json"
        again = f"Evaluate it: python -m experiments.evaluate {self.folder}"
        if not path.is_file():
            raise UsageError(f"{self.folder} has no evaluation.json. {again}")
        try:
            result = json.loads(path.read_text())
            entries = [*result.get("windows", []), *result.get("episodes", [])]
            update, _ = result["update"], [(entry["horizon"], entry["budget"]) for entry in entries]
        except (ValueError, TypeError, KeyError, AttributeError):
            entries = []
        if not entries:
            raise UsageError(f"{path} is not an evaluation. {again}")
        latest = Checkpointer(self.folder / "checkpoints").latest()
        if latest is not None and update != latest:
            raise UsageError(f"{path} is of update {update} and the latest checkpoint of {latest}. {again}")
        return result

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; none if there is no such file. UsageError if it is damaged."""
        path = self.folder / "metrics.jsonl"
        try:
            return read_metrics(path) if path.is_file() else []
        except ValueError as error:
            raise UsageError(str(error)) from error

    @cached_property
    def environment(self) -> list[dict[str, Any]]:
        """The records of `environment.json`; none if there is no such file. UsageError if it is damaged."""
        path = self.folder / "environment.json"
        try:
            return json.loads(path.read_text()) if path.is_file() else []
        except ValueError as error:
            raise UsageError(f"{path} is not JSON: {error}") from error

    @property
    def seconds(self) -> float | None:
        """How long it was trained; None if it has no metrics."""
        return self.metrics[-1]["seconds"] if self.metrics else None


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
                try:
                    found[path.resolve()] = Run(path, load_config(path))
                except ValueError as error:
                    raise UsageError(str(error)) from error
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
            try:
                cells = [grid / cell["name"] for cell in json.loads((grid / "grid.json").read_text())["cells"]]
            except (ValueError, TypeError, KeyError) as error:
                raise UsageError(f"{grid / 'grid.json'} is not a grid: {error}") from error
            for cell in cells:
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
