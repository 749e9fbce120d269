"""Grids and runs on a SLURM of one node (`make slurm`): cancelled, killed, out of time or memory, in two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm
from tools import finish

from experiments.workers.store import read_status
from memrl.checkpoint import Checkpointer
from memrl.tracking import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("slurm")]

REPOSITORY = Path(__file__).parents[2]
RUN = [
    *("--config", "gru_repeat_first", "--checkpoint-every", "4", "--memory.features", "4"),
    *("--env.symbols", "3", "--env.length", "4", "--tracking.wandb", "disabled"),
    *("--network.encoder-features", "4", "--network.head-features", "4", "--evaluation.num-trials", "4"),
    *("--ppo.num-envs", "8", "--ppo.unroll-length", "4", "--ppo.epochs", "1", "--ppo.minibatches", "1"),
]
ENDLESS = ["--total-steps", "1000000000"]
GRID = [*RUN, "--sweep", "ppo.discount=0.5,0.6", "--seeds", "0", "--cluster", "slurm"]
CELLS = ("ppo.discount=0.5", "ppo.discount=0.6")


@pytest.fixture(scope="module")
def queue(tmp_path_factory) -> Iterator[Callable[..., str]]:
    """A function that runs one of SLURM's commands, while SLURM does, and returns what it prints."""
    if (why := slurm.missing()) is not None:
        pytest.skip(why)
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        yield slurm.said
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def wait(what: Callable[[], object], process: subprocess.Popen) -> None:
    """Waits until something is so, while a process runs."""
    while not what():
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)


def updates(folder: Path) -> list[int]:
    """Those that the run of a cell has made."""
    metrics = folder / "seed0" / "metrics.jsonl"
    return [line["update"] for line in read_metrics(metrics)] if metrics.exists() else []


def job_of(cell: Path) -> str:
    """The number of the job that works, or has, on a cell."""
    return Path(read_status(cell)["log"] or "_").name.partition("_")[0]


def stop(process: subprocess.Popen) -> str:
    process.terminate()
    return finish(process, 128 + signal.SIGTERM)


def test_a_grid_of_jobs(queue, start, tmp_path):
    folder = tmp_path / "grid"
    said = finish(start("grid", *GRID, "--total-steps", "1280", "--workers", "2", "--output", folder), 0)
    assert all(f"done    {cell}" in said for cell in CELLS)
    assert "sacct" not in said and "WARNING" not in said


def test_a_job_that_is_cancelled_and_a_grid_that_is_killed_lose_nothing(queue, start, tmp_path):
    """A cell goes on in another job. A grid that is killed leaves its jobs, which the same command waits for."""
    folder = tmp_path / "grid"
    arguments = [*GRID, *ENDLESS, "--workers", "2", "--output", folder]
    process = start("grid", *arguments)
    first, second = (folder / cell for cell in CELLS)
    wait(lambda: len(updates(first)) > 20 and len(updates(second)) > 20, process)
    cancelled, kept = job_of(first), job_of(second)
    queue("scancel", cancelled)
    wait(lambda: job_of(first) not in ("", cancelled), process)
    process.kill()
    finish(process, -signal.SIGKILL)
    process, before = start("grid", *arguments), len(updates(second))
    wait(lambda: len(updates(second)) > before, process)
    assert kept in queue("squeue", "--noheader", "--format=%A").split()
    wait(lambda: len(queue("squeue", "--noheader", "--format=%A").split()) == 4, process)
    stop(process)
    for cell, times in ((first, 2), (second, 1)):
        assert updates(cell) == list(range(1, Checkpointer(cell / "checkpoints").latest() + 1))
        records = json.loads((cell / "seed0" / "environment.json").read_text())
        begun = [record["update"] for record in records]
        assert begun[0] == 0 and all(update > 0 for update in begun[1:]) and len(begun) >= times


def test_a_job_whose_time_is_up_is_followed_by_another(queue, start, tmp_path):
    folder = tmp_path / "grid"
    job = ["--job", "timeout_min=1", "slurm_signal_delay_s=30"]
    process = start("grid", *GRID, *ENDLESS, "--workers", "2", *job, "--output", folder)
    first = folder / CELLS[0]

    def went_on() -> bool:
        path = first / "seed0" / "environment.json"
        return path.exists() and len(json.loads(path.read_text())) > 1

    wait(went_on, process)
    said = stop(process)
    assert f"stopped {CELLS[0]}" in said and "failed" not in said
    begun = [record["update"] for record in json.loads((first / "seed0" / "environment.json").read_text())]
    assert begun[0] == 0 < begun[1]
    assert updates(first) == list(range(1, Checkpointer(first / "checkpoints").latest() + 1))


def test_a_job_that_is_killed_for_its_memory_fails_its_cell(queue, start, tmp_path):
    folder = tmp_path / "grid"
    job = ["--job", "timeout_min=30", "slurm_mem=200M"]
    said = finish(start("grid", *GRID, *ENDLESS, "--workers", "2", *job, "--output", folder), 1)
    for cell in CELLS:
        assert f"failed  {cell}" in said
        status = read_status(folder / cell)
        assert status["error"].startswith("Its worker ended as ")
        assert "memory limit" in Path(status["log"]).read_text()


def test_two_processes_of_one_run(queue, tmp_path):
    """They find each other by what SLURM says. Its warning to one of them, as by `--signal`, stops both."""
    folder = tmp_path / "run"
    command = ["srun", "--ntasks=2", "--mem=4G", sys.executable, "-m", "experiments.distributed"]
    arguments = ["run", *RUN, *ENDLESS, "--output", str(folder)]
    with subprocess.Popen([*command, *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        wait(lambda: (folder / "metrics.jsonl").exists() and len(read_metrics(folder / "metrics.jsonl")) > 5, process)
        (job,) = queue("squeue", "--noheader", "--format=%A").split()
        queue("scancel", "--signal=USR1", job)
        said, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGUSR1
    assert "Compiling for 4 cpu devices" in said and "Stopped by SIGUSR1, everything is saved" in said
    assert Checkpointer(folder / "checkpoints").latest() == len(read_metrics(folder / "metrics.jsonl"))
