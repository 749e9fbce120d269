"""The packaging, and the rules about what imports what."""

import ast
import importlib.metadata
import os
import runpy
import sys
import types
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import memrl

ROOT = Path(__file__).parents[1]
PACKAGES = ("memrl", "envs", "experiments")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES]


def imported(module: str) -> set[str]:
    """The top-level names of all that a module imports, inside its functions too."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} uses a relative import"
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("module", MODULES)
def test_no_import_goes_the_other_way(module):
    forbidden = {"memrl": {"envs", "experiments"}, "envs": {"memrl", "experiments"}, "experiments": set()}
    assert not imported(module) & forbidden[module.partition(".")[0]]


def test_every_folder_of_code_is_a_package():
    for module in MODULES:
        assert (ROOT / module.replace(".", "/")).with_name("__init__.py").exists(), f"{module} would not be installed"


def requirements() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [Requirement(line.partition("#")[0]) for line in lines if line.partition("#")[0].strip()]


def test_all_that_is_imported_is_required():
    names = {requirement.name for requirement in requirements()}
    third_party = set().union(*map(imported, MODULES)) - set(sys.stdlib_module_names) - set(PACKAGES)
    distributions = importlib.metadata.packages_distributions()
    missing = {module for module in third_party if names.isdisjoint(distributions[module])}
    assert not missing, f"imported but not in requirements.txt: {missing}"


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_installed_version_is_in_the_tested_range(requirement):
    assert importlib.metadata.version(requirement.name) in requirement.specifier


def test_setup(monkeypatch):
    """setup.py, run without setuptools, which a virtual environment need not have."""
    arguments = {}
    setuptools = types.SimpleNamespace(find_packages=lambda include: include, setup=arguments.update)
    monkeypatch.setitem(sys.modules, "setuptools", setuptools)
    runpy.run_path(str(ROOT / "setup.py"))
    assert arguments["version"] == memrl.__version__
    assert arguments["packages"] == [pattern for package in PACKAGES for pattern in (package, f"{package}.*")]
    runtime, development = arguments["install_requires"], arguments["extras_require"]["dev"]
    assert {"jax", "flax", "gymnax", "six"} <= {Requirement(line).name for line in runtime}
    assert {"pytest", "ruff"} <= {Requirement(line).name for line in development}
    assert [Requirement(line) for line in runtime + development] == requirements()


def test_the_library_imports_nothing_heavy(run_python):
    """W&B, matplotlib and gymnax are imported where they are used: together they take three seconds."""
    modules = [module for module in MODULES if module.startswith("memrl") and not module.endswith("__init__")]
    script = (
        f"import sys, importlib; [importlib.import_module(name) for name in {modules}]\n"
        "print(sorted({'wandb', 'matplotlib', 'gymnax'} & set(sys.modules)))"
    )
    process = run_python("-W", "error", "-c", script)
    assert (process.stdout, process.stderr) == ("[]\n", "")


def test_continuous_integration_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().endswith("\nmake test\n")
