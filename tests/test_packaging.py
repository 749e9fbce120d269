"""The packaging, and the rules about what imports what."""

import ast
import email
import importlib.metadata
import os
import shutil
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import memrl

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
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


def requirements(*extras: str) -> list[Requirement]:
    """What memrl needs, from requirements.txt, or what the extras add to that, from pyproject.toml."""
    if extras:
        lines = [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    else:
        lines = (line.partition("#")[0] for line in (ROOT / "requirements.txt").read_text().splitlines())
    return [Requirement(line) for line in lines if line.strip()]


def test_all_that_is_imported_is_required():
    names = {requirement.name for requirement in requirements() + requirements("cluster")}
    third_party = set().union(*map(imported, MODULES)) - set(sys.stdlib_module_names) - set(PACKAGES)
    distributions = importlib.metadata.packages_distributions()
    missing = {module for module in third_party if names.isdisjoint(distributions[module])}
    assert not missing, f"imported but not required: {missing}"


INSTALLED = [it for it in requirements() + requirements("cluster", "docs", "dev") if it.name != "memrl"]


@pytest.mark.parametrize("requirement", INSTALLED, ids=lambda requirement: requirement.name)
def test_installed_version_is_in_the_tested_range(requirement):
    assert importlib.metadata.version(requirement.name) in requirement.specifier


def test_the_wheel(tmp_path, run_python):
    """All modules, what is read beside them, and the metadata, as pip would build them."""
    for name in ("pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("results", "__pycache__"))
    script = "from setuptools import build_meta; build_meta.build_wheel('.')"
    process = run_python("-W", "error", "-c", script, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    (path,) = tmp_path.glob("*.whl")
    wheel = zipfile.ZipFile(path)
    files = {name for name in wheel.namelist() if ".dist-info" not in name}
    grids = {f"experiments/grids/{path.name}" for path in (ROOT / "experiments" / "grids").glob("*.toml")}
    assert files == {str(path.relative_to(ROOT)) for path in FILES} | grids | {"memrl/__init__.pyi"}
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Version"] == memrl.__version__
    assert set(metadata.get_all("Provides-Extra")) == {"cuda", "tpu", "cluster", "docs", "dev", "mutants"}
    required = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    assert [it for it in required if not it.marker] == requirements()
    for extra in ("cuda", "tpu", "cluster", "docs", "dev", "mutants"):
        of_extra = [it for it in required if it.marker and it.marker.evaluate({"extra": extra})]
        assert [f"{it.name}{it.extras}{it.specifier}" for it in of_extra] == [
            f"{it.name}{it.extras}{it.specifier}" for it in requirements(extra)
        ]


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


def test_the_workflow_runs_that_at_both_ends_of_what_is_supported():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert job["steps"][-1]["run"] == ".ci/run"
    ends = {end["python"]: end["versions"] for end in job["strategy"]["matrix"]["include"]}
    supported = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert ends == {supported[0]: "lowest-direct", supported[-1]: "highest"}
    assert PROJECT["requires-python"] == f">={supported[0]}"


def test_pre_commit_has_the_same_linter():
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (pin,) = (line for line in PROJECT["optional-dependencies"]["dev"] if line.startswith("ruff"))
    hooks = [hook for repository in configuration["repos"] for hook in repository["hooks"]]
    assert [hook["id"] for hook in hooks] == ["ruff-check", "ruff-format"]
    assert all(hook["additional_dependencies"] == [pin] for hook in hooks)
