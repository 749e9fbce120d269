from pathlib import Path

import gymnax
import pytest
from packaging.requirements import Requirement

from envs.gymnax_version import OLDEST, problem

REPOSITORY = Path(__file__).parents[2]


def test_the_oldest_is_the_one_required():
    lines = [line.partition("#")[0] for line in (REPOSITORY / "requirements.txt").read_text().splitlines()]
    (required,) = [Requirement(line) for line in lines if line.startswith("gymnax")]
    assert OLDEST in required.specifier and f">={OLDEST}" in str(required.specifier)


def test_the_one_installed_is_new_enough():
    assert problem(Path(gymnax.__file__).parent) is None


@pytest.fixture
def old_gymnax(tmp_path) -> Path:
    """A folder for the path, with as much of an older gymnax in it as counts."""
    environments = tmp_path / "gymnax" / "environments"
    environments.mkdir(parents=True)
    (tmp_path / "gymnax" / "__init__.py").write_text("raise AssertionError('It must not even be imported.')\n")
    (environments / "environment.py").write_text("class Environment:\n    def is_terminal(self, state, params): ...\n")
    return tmp_path


def test_an_older_one_is_named(old_gymnax):
    package = old_gymnax / "gymnax"
    assert problem(package).startswith(f"{package} is an older gymnax, but gymnax {OLDEST} or newer is needed")
    metadata = old_gymnax / "gymnax-0.0.9.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: gymnax\nVersion: 0.0.9\n")
    assert f" is gymnax 0.0.9, but gymnax {OLDEST} or newer is needed" in problem(package)


def test_a_tool_answers_an_older_one(old_gymnax, run_python):
    process = run_python("-m", "experiments.run", "--list", env={"PYTHONPATH": str(old_gymnax)})
    assert process.returncode == 1 and process.stdout == ""
    assert process.stderr.startswith(f"{old_gymnax / 'gymnax'} is an older gymnax") and process.stderr.count("\n") == 1
