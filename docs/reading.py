"""What the documentation is made of: files of results, and classes with their docstrings, which are not imported."""

import json
import tomllib
from functools import cache
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parents[1]
SHORT_TITLES = {
    "memo_gridworld": "The main job",
    "gridworld": "Dark Key-To-Door, compared",
    "t_maze": "Endless T-Maze, compared",
    "diagnostics": "Repeat First and Previous",
    "environments": "First runs",
    "speed": "Speed",
    "statistics": "Intervals over few seeds",
}
"""Titles in the navigation of folders of `experiments/results`, in its order; others follow with their own titles."""


def read(path: str) -> str:
    """A text file of the repository."""
    return (ROOT / path).read_text()


def public_address() -> str | None:
    """The address of the repository, if it is filled in in pyproject.toml."""
    return tomllib.loads(read("pyproject.toml"))["project"].get("urls", {}).get("Repository")


@cache
def results(path: str) -> dict:
    """A JSON file of results."""
    return json.loads(read(f"experiments/results/{path}"))


@cache
def package(name: str) -> griffe.Module:
    """A package, read without being run."""
    return griffe.load(name, search_paths=[str(ROOT)], allow_inspection=False)


def find(path: str) -> griffe.Object:
    """A module or class by its full name."""
    return package(path.partition(".")[0]).modules_collection[path]


def registry(path: str) -> dict[str, griffe.Class]:
    """A dict of classes with literal keys, as it is written in the sources."""
    entries = find(path).value
    return {key.strip("'\""): find(it.canonical_path) for key, it in zip(entries.keys, entries.values, strict=True)}


def public_names(path: str) -> dict[str, griffe.Object]:
    """What a package offers: what its `__all__` names or, where that is made of a stub, what the stub imports."""
    module = find(path)
    imported = (name for name, it in module.members.items() if it.is_alias and it.target_path.startswith("memrl."))
    targets = {name: module[name] for name in sorted(module.exports or imported)}
    return {name: it.final_target if it.is_alias else it for name, it in targets.items()}


def tools() -> list[str]:
    """The modules of `experiments` that are started from the command line."""
    files = sorted((ROOT / "experiments").glob("*.py"))
    return [path.stem for path in files if '__name__ == "__main__"' in path.read_text()]


def memories() -> dict[str, griffe.Class]:
    """The config of each memory by its name."""
    return registry("memrl.memory.MEMORIES")


def environments() -> dict[str, griffe.Class]:
    """The config of each environment by its name."""
    return registry("envs.ENVIRONMENTS")


def lineage(config: griffe.Class) -> list[griffe.Class]:
    """A config and those that it inherits from, without the contract that all have in common."""
    return [it for it in (config, *config.mro()) if it.module.path not in ("memrl.memory.base", "envs.base")]


def method(owner: griffe.Class, name: str) -> str:
    """The full name of a method where it is written, which may be a base."""
    found = owner.all_members[name]
    return found.final_target.path if found.is_alias else found.path


def results_shown() -> dict[str, str]:
    """The folders of `experiments/results` that say something, and their titles."""
    texts = {path.parent.name: path.read_text() for path in sorted(ROOT.glob("experiments/results/*/README.md"))}
    own = {name: text.splitlines()[0].removeprefix("# ") for name, text in texts.items()}
    return {name: title for name, title in (SHORT_TITLES | own | SHORT_TITLES).items() if name in texts}
