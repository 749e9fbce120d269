"""What a tool imports before it says something: what takes long to import is left for when it is needed."""

import pytest

HEAVY = {
    "gymnax.registration", "matplotlib", "orbax.checkpoint", "pandas", "pydantic", "scipy", "seaborn", "sklearn",
    "tensorstore", "wandb",
}  # fmt: skip
"""Modules, the names of which stand for the time that they take to import: a tenth of a second to more than one."""


@pytest.mark.parametrize("arguments", [["--list"], ["--help"], ["--config", "memo_gridworld", "--help"]])
def test_help_waits_for_nothing_that_it_does_not_need(arguments, run_python):
    process = run_python("-X", "importtime", "-m", "experiments.run", *arguments)
    assert process.returncode == 0 and "memo_gridworld" in process.stdout
    imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines() if line.startswith("import")}
    assert "jax" in imported and not HEAVY & imported
