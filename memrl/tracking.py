"""What a run writes down: metrics as JSON lines, other results as JSON, and on request the same metrics to W&B.

`metrics.jsonl` is always written and is what everything else reads; Weights & Biases is a second place to look at it.
"""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

import memrl
from memrl.files import FileError, parse_json, read_text, write_text, writing_to

WANDB_MODES = {
    **{mode: mode for mode in ("offline", "online", "disabled", "shared")},
    **{"dryrun": "offline", "run": "online"},
}
"""What W&B takes as its mode, and what it means: the last two are older names."""


class Tracker:
    """Writes the metrics of one run into its folder: one line of `metrics.jsonl` per update, and W&B's files.

    Use it as a context manager. A line is on its way to disk when `log` returns, so it outlives a killed process; log
    an update before its checkpoint is saved, and no update is missing after resuming. NaN and infinity, which JSON does
    not have, are written as null.

    On several processes only the first one has a tracker.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        resume_after: int | None = None,
        mode: str = "offline",
        config: Mapping[str, Any] | None = None,
        project: str = "memrl",
        group: str | None = None,
        name: str | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        """Opens the files. Trouble with W&B, a missing network included, costs one line on stderr and never the run.

        Args:
          folder: the folder of the run; created if missing.
          resume_after: continue an earlier run from this update: what it logged of later updates is removed, for these
            updates will be made again. None starts a new run.
          mode: "offline" writes W&B's files into the folder, to be sent later with `wandb sync`; "online" sends them as
            it goes and needs an account; "disabled" does without. For others, and for the environment variable
            WANDB_MODE, which has precedence, see `wandb_mode`.
          config: what W&B shows as the configuration of the run.
          project: W&B's project of the run. A resumed run continues the same W&B run.
          group: W&B's group of the run.
          name: W&B's name of the run.
          tags: W&B's tags of the run.

        Raises:
          ValueError: unknown mode.
          FileExistsError: the folder has metrics already and `resume_after` is None.
          StorageError: the folder cannot be written to.
        """
        mode = wandb_mode(mode)
        self.folder = Path(folder)
        path = self.folder / "metrics.jsonl"
        kept = []
        if resume_after is not None:
            kept = [line for line in read_metrics(path) if line["update"] <= resume_after] if path.exists() else []
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        elif path.exists():
            raise FileExistsError(f"{self.folder} already holds the metrics of a run; resume it or use another folder.")
        with writing_to(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", buffering=1)
        self._mode, self._run = mode, None
        if mode != "disabled":
            labels = {"project": project, "group": group, "name": name, "tags": tuple(tags), "config": _plain(config)}
            self._run = self._try(lambda: self._start_wandb(labels, kept))
        # Where W&B shows the run; None unless it is online.
        self.url: str | None = self._run.url if self._run is not None and mode != "offline" else None

    def _start_wandb(self, labels: dict[str, Any], before: Sequence[dict[str, Any]]) -> Any:
        """Opens the W&B run, and gives it the lines of `before` that it lacks."""
        import wandb  # half a second that a run without it need not wait

        if not os.environ.get("WANDB_MODE"):
            os.environ.pop("WANDB_MODE", None)  # W&B refuses an empty one
        id_file = self.folder / "wandb" / "run_id"
        if not id_file.exists():
            write_text(id_file, secrets.token_hex(4))
        settings = wandb.Settings(
            silent=True,  # otherwise it first asks the server whose account this is, without a time limit
            console="off",  # what is printed is redrawn progress, and this would put pipes around stdout
            init_timeout=10,  # seconds
            finish_timeout=30,  # seconds
            reinit="create_new",  # several runs may be trained together
        )
        # A process that was killed leaves a torn record at the end of its offline file, which hides all that is written
        # after it; and one that is to be resumed takes its steps from the server when it is sent, not from the file.
        # So each offline file has the whole run, takes the place of those before it, and of what was sent of them.
        resume = None if self._mode == "offline" else "allow"
        where = {"dir": self.folder, "mode": self._mode, "id": id_file.read_text(), "resume": resume}
        run = wandb.init(**where, settings=settings, **labels)
        for line in before if self._mode != "shared" else ():  # where W&B counts the steps by itself
            self._send(run, line)
        for earlier in (self.folder / "wandb").glob("offline-run-*"):
            if not earlier.samefile(run.settings.sync_dir):
                shutil.rmtree(earlier)
        return run

    def _send(self, run: Any, line: Mapping[str, Any]) -> None:
        """Gives W&B a line of the metrics, unless it is of an update that the server has from before."""
        scalars = {name: math.nan if value is None else value for name, value in line.items()}
        update = scalars.pop("update")
        if self._mode == "shared":
            run.log(scalars)
        elif update >= run.starting_step:
            run.log(scalars, step=update)

    def _try(self, action: Callable[[], Any]) -> Any:
        """The result of something done with W&B; where that fails, one line on stderr, and the run goes on without."""
        try:
            return action()
        except Exception as error:
            reason = str(error).partition("\n")[0]
            print(f"Warning: W&B is off, metrics.jsonl has everything ({reason})", file=sys.stderr)
            self._run = None

    def log(self, update: int, metrics: Mapping[str, Any]) -> None:
        """Writes the metrics of one update.

        Args:
          update: number of updates made; larger than at the call before.
          metrics: scalars by name: Python numbers, or NumPy or JAX arrays without dimensions.

        Raises:
          StorageError: the line could not be written, or only in part; `read_metrics` leaves such a line out.
        """
        line = {"update": update, **{name: np.asarray(value).item() for name, value in metrics.items()}}
        with writing_to(self.folder):
            self._file.write(json.dumps(_plain(line), allow_nan=False) + "\n")
        if self._run is not None:
            self._try(lambda: self._send(self._run, line))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files."""
        with contextlib.suppress(OSError):  # what could not be written has been said by `log`
            self._file.close()
        if self._run is not None:
            self._try(self._run.finish)
            self._run = None


def wandb_mode(mode: str) -> str:
    """What `mode`, or the environment variable WANDB_MODE in its place unless it is empty, means.

    Returns:
      "offline", "online", "disabled" or, which is W&B's experiment and left to it, "shared".

    Raises:
      ValueError: W&B knows no such mode.
    """
    variable = os.environ.get("WANDB_MODE")
    mode = variable or mode
    if mode not in WANDB_MODES:
        said = "WANDB_MODE" if variable else "The W&B mode"
        raise ValueError(f"{said} is {mode!r}, but must be one of {', '.join(WANDB_MODES)}.")
    return WANDB_MODES[mode]


def read_metrics(path: str | Path, needed: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, in order. A last line that was not written to its end is left out.

    Args:
      path: the file.
      needed: what must be in every line besides `update`.

    Raises:
      FileError: the file cannot be read, or another line is not one of metrics.
    """
    remedy = "Put a good copy of it in its place, or remove it to do without."
    lines = read_text(path, remedy).split("\n")
    metrics = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line break is empty or torn
        try:
            told = parse_json(line, dict[str, float | bool | None])
        except ValueError:
            told = {}
        if type(told.get("update")) is not int:
            told.pop("update", None)
        if missing := [name for name in ("update", *needed) if name not in told]:
            what = f"has no {missing[0]}" if told else "is not a line of metrics"
            raise FileError(f"{path} is damaged: line {number}, {line[:40]!r}, {what}. {remedy}")
        metrics.append(told)
    return metrics


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as JSON, in one go: a reader of the file finds the old content or the new, never a part of it.

    Besides what JSON has, `value` may hold tuples, paths and NumPy or JAX arrays. NaN and infinity become null.
    """
    write_text(Path(path), json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def environment_record() -> dict[str, Any]:
    """What else a result depends on: versions, processor, and the commit of memrl if it runs from a git checkout."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "chex", "gymnax", "numpy")
    device = jax.devices()[0]
    commit = _git("rev-parse", "HEAD")
    return {
        "memrl": memrl.__version__,
        "commit": commit,
        "uncommitted_changes": commit and bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "devices": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "processes": jax.process_count(),
    }


def _git(*arguments: str) -> str | None:
    """What git prints in the repository that this file is committed to; None without one."""
    here = Path(__file__)
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        # An installed copy may lie inside a repository of something else.
        for command in (("ls-files", "--error-unmatch", here.name), arguments):
            result = subprocess.run(["git", *command], cwd=here.parent, capture_output=True, text=True, check=True)
        return result.stdout.strip()
    return None


def _plain(value: Any) -> Any:
    """`value` in JSON types."""
    match value:
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case np.ndarray() | np.generic() | jax.Array():
            return _plain(np.asarray(value).tolist())
        case float() if not math.isfinite(value):
            return None
        case Path():
            return str(value)
    return value
