"""Runs in processes of their own: what they leave behind, and that nothing that ends one makes it lose a bit."""

import dataclasses
import fcntl
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tools import finish, wait_for

from experiments import command_line, evaluate, inspect, matrix, report, run
from experiments.config import load_config
from experiments.configs import CONFIGS
from experiments.runs.folder import Run, build, make_folder, settings_of
from experiments.training.loop import train
from memrl.checkpoint import Checkpointer
from memrl.tracking import read_metrics

REPOSITORY = Path(__file__).parents[2]

UPDATES = 60
"""Of the tiny run below."""

TINY = [
    *("--config", "memo_gridworld", "--total-steps", str(UPDATES * 56), "--checkpoint-every", "7"),
    *("--env.size", "3", "--env.attempt-limit", "4", "--env.trial-length", "10"),
    *("--memory.features", "8", "--memory.layers", "1", "--memory.heads", "2", "--memory.mlp-features", "8"),
    *("--memory.segment-length", "5", "--memory.jitter", "0.4", "--memory.capacity", "3"),
    *("--network.encoder-features", "8", "--network.head-features", "8"),
    *("--ppo.num-envs", "8", "--ppo.unroll-length", "7", "--ppo.epochs", "2", "--ppo.minibatches", "2"),
    *("--evaluation.num-trials", "2", "--evaluation.horizons", "1", "--evaluation.budgets"),
]
"""A Memo agent whose segments have random lengths and whose unrolls cut segments and trials anywhere."""

TIMING = {"seconds", "steps_per_second"}


def learned(folder: Path) -> list[dict]:
    """The metrics without those that depend on the machine."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMING} for line in lines]


def final_state(folder: Path) -> list[np.ndarray]:
    """The arrays of the last checkpoint."""
    config = load_config(folder)
    training = build(config, command_line.make_mesh(config))
    state, _ = Checkpointer(folder / "checkpoints").restore(
        jax.eval_shape(training.initial_state, jax.random.key(0), settings_of(config)), config.num_updates
    )
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf) for leaf in jax.tree.leaves(state)]


def assert_same_run(one: Path, other: Path) -> None:
    """The same bits in metrics and in the final state."""
    assert learned(one) == learned(other)
    for ours, theirs in zip(final_state(one), final_state(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory) -> tuple[Path, str]:
    """The folder of a run that nothing disturbed, and what it said."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    return folder, finish(start("run", *TINY, "--output", folder), 0)


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of the finished run."""
    folder = tmp_path / "copied"
    for path, content in contents(finished[0]).items():
        copy = folder / path.relative_to(finished[0])
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    return folder


def test_a_run_leaves_everything_in_its_folder(finished):
    folder, said = finished
    assert "Compiling for 2 cpu devices ... took " in said
    assert f"update {UPDATES}/{UPDATES}   0.00 M steps   " in said and "0:00 left\n" in said
    config = load_config(folder)
    assert (config.env.size, config.memory.jitter, config.total_steps) == (3, 0.4, UPDATES * 56)
    (record,) = json.loads((folder / "environment.json").read_text())
    assert record["update"] == 0
    assert record["command"] == ["python", "-m", "experiments.run", *TINY, "--output", str(folder)]
    assert record["packages"]["jax"] == jax.__version__ and record["devices_used"] == 2
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["update"] for line in lines] == list(range(1, UPDATES + 1))
    assert [line["env_steps"] for line in lines] == list(range(56, UPDATES * 56 + 1, 56))
    assert all(line["steps_per_second"] > 0 and line["ratio_deviation"] < 1e-5 for line in lines)
    assert {tuple(line) for line in lines} == {tuple(lines[0])}
    assert np.all(np.diff([line["seconds"] for line in lines]) > 0)
    assert Checkpointer(folder / "checkpoints").updates() == [56, 60]
    assert (folder / "evaluation.json").exists()
    assert list(folder.glob("*.png")) and list(folder.glob("*.gif"))


def test_stopped_diverged_and_resumed_is_the_same_run(start, capsys, finished, tmp_path):
    """SIGUSR1, twice; then a step size that ends in NaN; then the old step size: the bits of the run left alone."""
    folder = tmp_path / "run"
    process = start("run", *TINY, "--output", folder)
    wait_for(process, folder, 10)
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGUSR1)
    said = finish(process, 128 + signal.SIGUSR1)
    assert f"Stopped by SIGUSR1, everything is saved; to go on: python -m experiments.run --resume {folder}\n" in said
    stopped = Checkpointer(folder / "checkpoints").latest()
    assert 10 <= stopped < UPDATES
    assert len(learned(folder)) == stopped

    assert run.run(["--resume", str(folder), "--ppo.learning-rate", "1e30"]) == run.DIVERGED
    said = capsys.readouterr().err
    assert f"Training diverged: loss is nan in update {stopped + 1}. To go on from update {stopped}, which is " in said
    assert Checkpointer(folder / "checkpoints").latest() == stopped
    assert learned(folder)[-1]["loss"] is None

    said = finish(start("run", "--resume", folder, "--ppo.learning-rate", "0.001"), 0)
    assert f"{stopped} of {UPDATES} updates done." in said
    assert_same_run(folder, finished[0])
    records = json.loads((folder / "environment.json").read_text())
    assert [record["update"] for record in records] == [0, stopped, stopped]


@pytest.mark.timeout(300)
def test_killed_and_resumed_is_the_same_run(start, finished, tmp_path):
    """Killed twice while a save follows each update, at whatever moment."""
    folder = tmp_path / "run"
    moments = random.Random(0)
    arguments = [*TINY, "--output", folder]
    for lines in (5, 15):
        process = start("run", *arguments, "--checkpoint-every", 1)
        wait_for(process, folder, lines)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        finish(process, -signal.SIGKILL)
        arguments = ["--resume", folder]
    assert len(learned(folder)) < UPDATES
    config = load_config(folder)
    mesh = command_line.make_mesh(config)
    trained = train(folder, [Run(folder, config)], build(config, mesh), mesh, ["this process"])
    assert trained.stopped_by is None
    assert_same_run(folder, finished[0])


def test_interrupted_while_it_is_compiled(start, tmp_path):
    """Nothing is to be saved yet: it ends at once, without a traceback, and `--resume` begins."""
    folder = tmp_path / "run"
    process = start("run", *TINY, "--output", folder)
    said = ""
    while "Compiling" not in said:
        said += process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    assert finish(process, -signal.SIGINT).strip() == "for 2 cpu devices ..."
    assert Checkpointer(folder / "checkpoints").updates() == []
    assert load_config(folder).total_steps == UPDATES * 56


def test_interrupted_while_it_is_evaluated(start, copied):
    before = contents(copied)
    process = start("evaluate", copied)
    said = ""
    while "trials for each line" not in said:
        said += process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    said = finish(process, -signal.SIGINT)
    assert "Traceback" not in said and "Exception ignored" not in said
    assert contents(copied) == before


def test_a_closed_terminal_saves_and_stops(tmp_path):
    """It sends SIGHUP, and what is printed then fails."""
    folder, errors = tmp_path / "run", tmp_path / "errors"
    terminal, its_end = os.openpty()
    command = [sys.executable, "-m", "experiments.run", *TINY, "--output", str(folder)]
    # The terminal is that of the process, as for one started by hand: opening it after `setsid` makes it that.
    opening = [
        sys.executable,
        "-c",
        "import os, sys; os.setsid(); os.dup2(os.open(sys.argv[1], os.O_RDWR), 1); os.execv(sys.argv[2], sys.argv[2:])",
        os.ttyname(its_end),
    ]
    with errors.open("w") as file, subprocess.Popen([*opening, *command], cwd=REPOSITORY, stderr=file) as process:
        os.close(its_end)
        wait_for(process, folder, 10)
        os.close(terminal)
    assert process.returncode == 128 + signal.SIGHUP
    said = errors.read_text()
    assert "SIGHUP: will save and stop" in said and "Nothing can be printed any more" in said
    assert "Traceback" not in said
    assert Checkpointer(folder / "checkpoints").latest() == len(learned(folder)) >= 10


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits the files of a running process")
def test_a_full_disk(start, finished, tmp_path):
    """No file may grow any longer beyond 16 KiB, which those of a checkpoint do. Then there is room again."""
    folder = tmp_path / "run"
    process = start("run", *TINY, "--output", folder)
    wait_for(process, folder, 20)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2**14, resource.RLIM_INFINITY))
    said = finish(process, command_line.FAILED)
    latest = Checkpointer(folder / "checkpoints").latest()
    assert 7 <= latest < UPDATES
    assert said.splitlines()[-1] == (
        f"{folder / 'checkpoints'} cannot be written to: File too large. Make room, then go on from update {latest}: "
        f"python -m experiments.run --resume {folder}"
    )
    assert "Traceback" not in said
    finish(start("run", "--resume", folder), 0)
    assert_same_run(folder, finished[0])


def test_a_finished_run_resumed_changes_nothing_that_it_learned(start, finished):
    folder, _ = finished
    before = contents(folder / "checkpoints"), (folder / "metrics.jsonl").read_bytes()
    said = finish(start("run", "--resume", folder), 0)
    assert "Compiling" not in said
    assert (contents(folder / "checkpoints"), (folder / "metrics.jsonl").read_bytes()) == before


def test_two_processes_learn_the_same(start, finished, tmp_path):
    """Each with one of the two devices, like one process with both. A signal to one of them stops both."""
    folder = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    first, second = (
        start(
            "distributed",
            *("--coordinator", coordinator, "--num-processes", 2, "--process-id", number),
            *("run", *TINY, "--output", folder),
            JAX_NUM_CPU_DEVICES="1",
        )
        for number in range(2)
    )
    wait_for(first, folder, 3)
    second.terminate()
    said = finish(first, 128 + signal.SIGTERM)
    assert "Compiling for 2 cpu devices" in said and "everything is saved" in said
    assert "Compiling" not in finish(second, 128 + signal.SIGTERM)
    ours = np.array([list(line.values()) for line in learned(folder)], float)
    theirs = np.array([list(line.values()) for line in learned(finished[0])], float)[: len(ours)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert Checkpointer(folder / "checkpoints").latest() == len(ours)


# Bad input


def fails(capsys, monkeypatch, *arguments: object) -> str:
    """What `run` says of bad input: one sentence on stderr, status 2, before anything is compiled."""
    monkeypatch.setattr(sys, "argv", ["run", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        command_line.main(run.run)
    assert caught.value.code == command_line.BAD_INPUT
    said = capsys.readouterr()
    assert said.out == "" or re.fullmatch(r"[\d,]+ parameters; training needs about [^\n]*\n", said.out)
    assert said.err.endswith("\n") and said.err.count("\n") == 1
    return said.err.strip()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--confg", "memo_gridworld"], "There is no option --confg; did you mean --config?"),
        (["--config", "memo_gridwrld"], "There is no config memo_gridwrld; did you mean memo_gridworld?"),
        (
            [*TINY, "--memory.segment", "5"],
            "There is no option --memory.segment; did you mean --memory.segment-length?",
        ),
        ([*TINY, "--seed", "one"], "--seed: invalid literal for int() with base 10: 'one'."),
        (
            [*TINY, "--ppo.minibatches", "3"],
            "ppo.num_envs is 8 and ppo.minibatches is 3: the minibatches must divide the environments.",
        ),
        (
            [*TINY, "--memory.segment-length", "11"],
            "memory.segment_length is 11 and a trial has 10 steps: a segment must not be longer than the trial.",
        ),
        ([*TINY, "--devices", "3"], "devices is 3: this machine offers 2 (cpu), so it must be from 1 to 2."),
        (["--resume", "nowhere"], "There is no run in nowhere: it has no config.json."),
    ],
)
def test_bad_input(capsys, monkeypatch, tmp_path, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert fails(capsys, monkeypatch, *arguments) == sentence
    assert list(tmp_path.iterdir()) == []


def test_bad_input_in_a_process(run_python, tmp_path):
    result = run_python(
        "-m", "experiments.run", *TINY, "--ppo.clip", "0", cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "ppo.clip is 0.0: it must be greater than 0.\n"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(capsys, monkeypatch, finished, tmp_path):
    folder, _ = finished
    before = contents(folder)
    sentence = f"{folder} holds a run already: go on with it (--resume {folder}) or name another --output."
    assert fails(capsys, monkeypatch, *TINY, "--output", folder) == sentence
    assert contents(folder) == before

    (tmp_path / "notes").write_text("mine")
    sentence = f"{tmp_path} cannot be the folder of a run: it is not empty."
    assert fails(capsys, monkeypatch, *TINY, "--output", tmp_path) == sentence
    sentence = f"{tmp_path / 'notes'} cannot be the folder of a run: File exists."
    assert fails(capsys, monkeypatch, *TINY, "--output", tmp_path / "notes") == sentence
    assert contents(tmp_path) == {tmp_path / "notes": b"mine"}


def test_the_folder_of_a_run_is_a_new_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = CONFIGS["gru_gridworld"].config
    folders = [make_folder(dataclasses.replace(config, seed=seed), None) for seed in (0, 0, 1, 0)]
    assert [str(folder) for folder in folders] == [f"runs/gru_gridworld-seed{end}" for end in ("0", "0-2", "1", "0-3")]
    assert make_folder(config, folders[0]) == folders[0]  # still empty


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ppo.num-envs", "16"], "A run cannot go on with another ppo.num_envs: start a new one."),
        (["--memory.jitter", "0"], "A run cannot go on with another memory.jitter: start a new one."),
        (["--seed", "1"], "A run cannot go on with another seed: start a new one."),
        (["--output", "x"], "A run that goes on does so in its own folder: leave out --output."),
        (["--memory", "gru"], "A run that exists has its config already: leave out --config, --memory and --env."),
    ],
)
def test_resuming_with_something_else(capsys, monkeypatch, finished, arguments, sentence):
    before = contents(finished[0])
    assert fails(capsys, monkeypatch, "--resume", finished[0], *arguments) == sentence
    assert contents(finished[0]) == before


def test_two_processes_cannot_work_on_one_run(capsys, monkeypatch, finished):
    folder, _ = finished
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        sentence = f"Another process is working on the run in {folder}."
        assert fails(capsys, monkeypatch, "--resume", folder) == sentence
    finally:
        os.close(descriptor)


def test_resuming_from_a_damaged_checkpoint(capsys, monkeypatch, copied):
    largest = max((copied / "checkpoints" / "60" / "state").rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-100])
    before = contents(copied)
    said = fails(capsys, monkeypatch, "--resume", copied)
    assert said.startswith(f"The checkpoint {copied / 'checkpoints' / '60'} is damaged: ")
    assert said.endswith("remove that folder to go back to update 56.")
    assert contents(copied) == before


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("features", 16, "is of another model or configuration: "), ("query_scale", 0.5, "its memory.query_scale is not")],
)
def test_resuming_from_a_foreign_checkpoint(capsys, monkeypatch, copied, field, value, message):
    """A config from elsewhere: one that makes other arrays, and one that makes the same."""
    config = json.loads((copied / "config.json").read_text())
    config["memory"][field] = value
    (copied / "config.json").write_text(json.dumps(config))
    before = contents(copied)
    assert message in fails(capsys, monkeypatch, "--resume", copied)
    assert contents(copied) == before


@pytest.fixture
def read_only(copied, tmp_path) -> Iterator[Path]:
    """The copy of the finished run where nothing can be written to it, not even by root."""
    if os.geteuid() > 0:
        copied.chmod(0o555)
        yield copied
        copied.chmod(0o755)
        return
    place = tmp_path / "read_only"
    place.mkdir()
    mounts = [["mount", "--bind", copied, place], ["mount", "-o", "remount,bind,ro", place]]
    if any(subprocess.run(mount, capture_output=True, check=False).returncode for mount in mounts):
        pytest.skip("root writes everywhere but to what is mounted read-only, and nothing can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("tool", [run, evaluate, inspect, matrix, report])
def test_a_folder_that_cannot_be_written_to(capsys, monkeypatch, read_only, tool):
    arguments = {run: ["--resume"], report: ["--output", read_only]}.get(tool, [])
    before = contents(read_only)
    monkeypatch.setattr(sys, "argv", ["tool", *map(str, arguments), str(read_only)])
    monkeypatch.setattr(jax, "jit", None)  # nothing is computed
    with pytest.raises(SystemExit) as caught:
        command_line.main(tool.run)
    assert caught.value.code in (command_line.FAILED, command_line.BAD_INPUT)
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith(f"{read_only} cannot be written to: ")
    assert contents(read_only) == before
