"""Signals, terminals that close, pipes that nobody reads, and folders of the user's: none of them shows a traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments.training.stop import StopRequest
from memrl.checkpoint import Checkpointer

REPOSITORY = Path(__file__).parents[2]


# Requests to stop


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2], ids=lambda one: one.name
)
def test_a_signal_is_a_request_to_stop(number, capfd):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.pending()
        os.kill(os.getpid(), number)
        assert stop.pending()
        os.kill(os.getpid(), signal.SIGTERM)  # another one, as where a job's time is up, changes nothing
        assert stop.received == number
    assert signal.getsignal(number) == before
    assert f"\n{number.name}: will save and stop after this chunk" in capfd.readouterr().err


def test_ctrl_c_after_a_request(capfd):
    """Ends the process by the signal or, in a grid, is heard of."""
    with StopRequest(signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_is_ignored_stays_ignored(monkeypatch):
    """`nohup` makes a process ignore that its terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.pending()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


CTRL_C_TWICE_WHILE_IT_SAVES = """
import os, signal, sys
import jax
from experiments.training.stop import StopRequest
from memrl.checkpoint import Checkpointer

state = {"a": jax.numpy.arange(3_000_000.0)}
with Checkpointer(sys.argv[1]) as checkpointer:
    checkpointer.save(1, state, {})
with StopRequest(), Checkpointer(sys.argv[1]) as checkpointer:
    os.kill(os.getpid(), signal.SIGINT)
    checkpointer.save(2, state, {})
    os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_second_ctrl_c_while_it_saves_loses_and_tears_nothing(run_python, tmp_path):
    process = run_python("-c", CTRL_C_TWICE_WHILE_IT_SAVES, tmp_path)
    assert process.returncode == -signal.SIGINT
    assert process.stderr.count("\n") == 2 and "SIGINT: will save and stop" in process.stderr
    checkpointer = Checkpointer(tmp_path)
    assert 1 in checkpointer.updates()
    for update in checkpointer.updates():
        checkpointer.restore({"a": jax.ShapeDtypeStruct((3_000_000,), jax.numpy.float32)}, update)


@pytest.mark.parametrize("tool", ["run", "report"])
def test_ctrl_c_while_a_tool_is_imported_shows_no_traceback(tool):
    command = [sys.executable, "-X", "importtime", "-m", f"experiments.{tool}"]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        while "numpy" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == -signal.SIGINT, "a shell says 130"
    assert "Traceback" not in said and "Exception ignored" not in said


# What nobody reads


@pytest.mark.parametrize("option", ["--list", "--help"])
def test_a_pipe_that_nobody_reads_ends_a_tool_without_a_word(option):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "experiments.run", option]
    process = subprocess.run(command, cwd=REPOSITORY, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (process.returncode, process.stderr) == (128 + signal.SIGPIPE, "")


SAYS = "from experiments.terminal import say; say('one'); say('two'); import sys; print('three'); sys.exit(7)"


def test_what_cannot_be_printed_stops_nothing():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", SAYS]
    process = subprocess.run(command, cwd=REPOSITORY, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert process.returncode == 7
    assert process.stderr == "Nothing can be printed any more (Broken pipe); the work goes on.\n"


# A user's own folders


@pytest.mark.parametrize("name", ["envs", "memrl"])
def test_a_folder_of_the_user_that_hides_ours_is_named(run_python, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    # As for an installed package: found after the folder in which the tool is started.
    command = (
        "import runpy, sys; sys.path.append(sys.argv.pop()); sys.argv[0] = '-m'; "
        "runpy.run_module('experiments.run', run_name='__main__')"
    )
    process = run_python("-c", command, REPOSITORY, cwd=tmp_path)
    sentence = (
        f"{tmp_path / name} takes the place of the package {name} that these tools need: start them in another folder, "
        "or with python -P, which does not look for packages in the current one.\n"
    )
    assert (process.returncode, process.stderr) == (1, sentence)
    process = run_python(
        "-c", "import sys; sys.path.append(sys.argv.pop()); import experiments", REPOSITORY, cwd=tmp_path
    )
    assert process.stderr.endswith(f"ImportError: {sentence}")


# What JAX is told by its environment variables


def test_an_environment_variable_that_jax_cannot_follow_is_named(run_python):
    process = run_python("-m", "experiments.run", "--list", env={"JAX_ENABLE_X64": "maybe"})
    sentence = "JAX cannot start as its environment variables ask for: invalid truth value 'maybe' for environment "
    assert (process.returncode, process.stdout, process.stderr) == (1, "", f"{sentence}'JAX_ENABLE_X64'\n")
