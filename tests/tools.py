"""Runs command line tools: in this process, or in processes of their own that are waited for."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from experiments import command_line


def main_of(run: Callable[[Sequence[str]], int]):
    """A function that runs a tool, whose `run` is given, in this process; a test passes it its fixtures and arguments.

    Returns the exit status of the tool, and what it said on stdout and stderr.
    """

    def main(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tool", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            command_line.main(run)
        return caught.value.code, *capsys.readouterr()

    return main


def finish(process: subprocess.Popen, status: int) -> str:
    """Waits for a process of the fixture `start`, which has to end with `status`, and returns what it said."""
    said, _ = process.communicate()
    assert process.returncode == status, said
    return said


def wait_for(process: subprocess.Popen, folder: Path, lines: int) -> None:
    """Waits until `folder`, or some run below it, has so many lines of metrics."""

    def written() -> bool:
        # os.walk passes over folders that vanish meanwhile, and need not look at checkpoints, which do; rglob fails.
        for here, below, files in os.walk(folder):
            below[:] = [name for name in below if name not in ("checkpoints", "wandb", "cache")]
            if "metrics.jsonl" in files and (Path(here) / "metrics.jsonl").read_bytes().count(b"\n") >= lines:
                return True
        return False

    while not written():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
