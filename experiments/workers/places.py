"""Where workers are: processes on this machine, or jobs on a cluster."""

import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jax

from experiments.command_line import UsageError, sentence
from experiments.cores import usable_cores
from experiments.workers.store import Grid
from experiments.workers.work import OWNED, job

JOBS = 8
"""Jobs at the same time on a cluster, by default."""


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

    def __init__(self, folder: Path, names: Sequence[str], lock: int, environment: dict[str, str]) -> None:
        """`lock` is the descriptor that keeps others out of the grid, which then holds until the worker has ended."""
        logs = folder / "logs"
        logs.mkdir(exist_ok=True)
        log = next(path for n in itertools.count(1) if not (path := logs / f"worker-{n}.log").exists())
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "experiments.workers.work", str(folder), str(log), *names],
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
        assert self.process.stdin is not None  # a pipe, see above
        self.process.stdin.close()
        return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    def stop(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        with self.process:  # waits for it, and closes its pipe
            self.process.kill()


class Job:
    """A worker on a cluster."""

    def __init__(self, folder: Path, names: Sequence[str], executor: Any, queue: "Queue | None") -> None:
        """`queue` is that of SLURM; None for jobs on this machine."""
        self.folder, self.queue = folder, queue
        self.job = executor.submit(job, folder, list(names))
        self.log = str(self.job.paths.stderr)
        self.submitted = time.monotonic()

    def ended(self) -> str | None:
        if self.queue is None:
            return f"ended as {self.job.state}" if self.job.done() else None
        return self.queue.ended(self.job.job_id, self.submitted)

    def stop(self) -> None:
        (self.folder / "stop").touch()
        if self.queue is not None:
            self.queue.cancel_pending(self.job.job_id)
        elif self.job.state == "PENDING":
            self.job.cancel(check=False)

    def kill(self) -> None:
        self.job.cancel(check=False)


class Queue:
    """What SLURM says of the jobs of this user, by `squeue`.

    submitit asks `sacct`, which where accounting is off only complains, and never tells that a job has been killed.
    """

    ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
    """States of jobs that will not go on; one that is preempted may."""
    INTERVAL = 5.0
    """Seconds between two questions."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.asked = -math.inf

    def ended(self, job: str, submitted: float) -> str | None:
        """How a job that was submitted then, by `time.monotonic`, ended, in words; None if it is not known to have."""
        if time.monotonic() - self.asked > self.INTERVAL:
            command = ["squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "--format=%A %T"]
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
            if answer.returncode:  # what manages the cluster may be restarted: ask again
                return None
            self.states = dict(line.split() for line in answer.stdout.splitlines())
            self.asked = time.monotonic()
        state = self.states.get(job)
        if self.asked < submitted or not (state is None or state in self.ENDED):
            return None
        return f"ended as {state}" if state else "ended and is no longer in the queue"

    def cancel_pending(self, job: str) -> None:
        """Cancels a job that waits; one that has begun goes on."""
        subprocess.run(["scancel", "--state=PENDING", job], capture_output=True, check=False)


class Places:
    """Where workers are started, so many at a time."""

    def __init__(
        self, folder: Path, lock: int, grid: Grid, count: int | None, cluster: str, job: dict[str, Any]
    ) -> None:
        """As the options of `experiments.grid` say. Starts nothing yet; UsageError if it could not."""
        self.folder, self.lock = folder, lock
        self.executor, self.queue = None, None
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
                cores = usable_cores()
            self.count = count or max(1, cores // devices)
        else:
            self.executor = make_executor(folder, cluster, job)
            self.queue = Queue() if cluster == "slurm" else None
            self.count = count or JOBS

    def start(self, names: Sequence[str], place: int) -> Worker:
        """Starts a worker at a place, from 0 to `count` - 1."""
        environment = self.environments[place % len(self.environments)]
        if self.executor is None:
            return Process(self.folder, names, self.lock, environment)
        os.environ.update(environment)  # which jobs inherit
        return Job(self.folder, names, self.executor, self.queue)


def make_executor(folder: Path, cluster: str, parameters: dict[str, Any]) -> Any:
    """What submits jobs; UsageError if it cannot be had, or knows no such parameters."""
    try:
        import submitit
    except ImportError:
        raise UsageError("--cluster needs submitit: pip install 'memrl[cluster]'.") from None
    if cluster == "slurm" and (missing := next((tool for tool in ("sbatch", "srun") if not shutil.which(tool)), None)):
        raise UsageError(f"--cluster slurm: this machine has no {missing}; start the grid where jobs are submitted.")
    try:
        executor = submitit.AutoExecutor(folder / "jobs", cluster=cluster)
        executor.update_parameters(**{"timeout_min": 24 * 60, "name": folder.name, **parameters})
    except (RuntimeError, NameError, AssertionError, ValueError) as error:
        raise UsageError(f"--cluster {cluster}: {sentence(error)}") from error
    return executor
