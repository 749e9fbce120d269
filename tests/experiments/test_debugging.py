"""JAX's own switches for debugging, set as one would set them, and a whole run each: training, evaluation, pictures."""

import math

import pytest

from memrl.tracking import read_metrics

TINY = [
    *("--config", "gru_gridworld", "--total-steps", "16", "--tracking.wandb", "disabled"),
    *("--env.size", "2", "--env.attempt-limit", "2", "--env.trial-length", "4", "--memory.features", "8"),
    *("--network.encoder-features", "8", "--network.head-features", "8"),
    *("--ppo.num-envs", "2", "--ppo.unroll-length", "2", "--ppo.epochs", "1", "--ppo.minibatches", "1"),
    *("--evaluation.num-trials", "2", "--evaluation.windows-per-trial", "2", "--evaluation.horizons", "1"),
    "--evaluation.budgets",
]
"""Trials of four steps in rollouts of two: none ends in the first and third of four updates."""


def learned(run_python, folder, timeout=290, **environment):
    """The metrics of a run without those of its speed, after it has come to its end with these variables set."""
    arguments = ["-m", "experiments.run", *TINY, "--output", folder]
    done = run_python(*arguments, env={"JAX_NUM_CPU_DEVICES": "2", **environment}, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "evaluation.json").exists()
    lines = read_metrics(folder / "metrics.jsonl")
    return [{name: line[name] for name in line if name not in ("seconds", "steps_per_second")} for line in lines]


def assert_healthy(lines):
    assert [line["trials"] for line in lines] == [0, 2, 0, 2]
    for line in lines:
        undefined = {name for name, value in line.items() if value is None or not math.isfinite(value)}
        assert undefined <= ({"return"} if line["trials"] == 0 else set())


@pytest.mark.timeout(300)
def test_nan_is_an_error(run_python, tmp_path):
    """A healthy run has none in its programs: what is not defined becomes one on the host."""
    assert_healthy(learned(run_python, tmp_path / "run", JAX_DEBUG_NANS="1"))


@pytest.mark.timeout(300)
def test_double_precision_at_hand(run_python, tmp_path):
    assert_healthy(learned(run_python, tmp_path / "run", JAX_ENABLE_X64="1"))


@pytest.mark.slow  # minutes: each operation is compiled on its own
@pytest.mark.timeout(900)
def test_nothing_is_compiled(run_python, tmp_path):
    """One after the other, the operations learn what the compiled program does."""
    interpreted = learned(run_python, tmp_path / "interpreted", timeout=800, JAX_DISABLE_JIT="1")
    assert_healthy(interpreted)
    compiled = learned(run_python, tmp_path / "compiled")
    for one, other in zip(interpreted, compiled, strict=True):
        undefined = {name for name in other if other[name] is None}
        assert {name for name in one if one[name] is None} == undefined
        for name in other.keys() - undefined:
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), name
