"""Finds the runs below folders and groups them into *arms*: runs that differ in nothing but their seed.

Tools that take RUNS on their command line take the folder of a run, or any folder that has some below it: that of a
grid, or of one of its cells.
"""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.command_line import UsageError
from experiments.config import REGISTRIES, Config, config_to_dict, load_config
from experiments.workers import read_status
from memrl.checkpoint import Checkpointer
from memrl.memory import MEMORIES
from memrl.tracking import read_metrics

NOT_OF_AN_ARM = ("seed", "name", "tracking", "devices", "evaluation", "checkpoint_every")
"""Fields of a config in which runs of the same arm may differ: what is learned depends on the seed alone of these."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run and what is in its folder, read when it is asked for."""

    folder: Path
    """Where it is."""
    config: Config
    """Its settings."""

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """What `evaluation.json` holds, of the last checkpoint; see `memrl.evaluation.evaluate`.

        Raises:
          UsageError: there is none, it is not one, or it is not of the latest checkpoint.
        """
        path = self.folder / "evaluation.json"
        again = f"Evaluate it: python -m experiments.evaluate {self.folder}"
        if not path.is_file():
            raise UsageError(f"{self.folder} has no evaluation.json. {again}")
        try:
            result = json.loads(path.read_text())
            entries = [*result.get("windows", []), *result.get("episodes", [])]
            update, _ = result["update"], [(entry["horizon"], entry["budget"]) for entry in entries]
        except (ValueError, TypeError, KeyError, AttributeError):
            entries = []
        if not entries:
            raise UsageError(f"{path} is not an evaluation. {again}")
        latest = Checkpointer(self.folder / "checkpoints").latest()
        if latest is not None and update != latest:
            raise UsageError(f"{path} is of update {update} and the latest checkpoint of {latest}. {again}")
        return result

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; none if there is no such file. UsageError if it is damaged."""
        path = self.folder / "metrics.jsonl"
        try:
            return read_metrics(path) if path.is_file() else []
        except ValueError as error:
            raise UsageError(str(error)) from error

    @cached_property
    def environment(self) -> list[dict[str, Any]]:
        """The records of `environment.json`; none if there is no such file. UsageError if it is damaged."""
        path = self.folder / "environment.json"
        try:
            return json.loads(path.read_text()) if path.is_file() else []
        except ValueError as error:
            raise UsageError(f"{path} is not JSON: {error}") from error

    @property
    def seconds(self) -> float | None:
        """How long it was trained; None if it has no metrics."""
        return self.metrics[-1]["seconds"] if self.metrics else None


@dataclasses.dataclass(frozen=True)
class Arm:
    """Runs of the same settings with different seeds."""

    label: str
    """The fields in which it differs from the other arms: `memory=gru, env.size=5`."""
    policy: str
    """The part of the label that is not of the task: `gru`. The same policy may be in several tasks."""
    task: str
    """The part of the label that is of the task: `env.size=5`. The same task may be faced by several policies."""
    config: Config
    """Settings, those of the first run."""
    runs: tuple[Run, ...]
    """By seed."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of its runs, in order."""
        return tuple(run.config.seed for run in self.runs)

    @property
    def memory(self) -> str:
        """The registered name of its memory."""
        return config_to_dict(self.config)["memory"]["name"]


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in and below `folders`, each once, in the order of their paths.

    Those of cells of a grid that are not done, see `unfinished`, are left out.

    Raises:
      UsageError: there is no such folder, it has no run, or a `config.json` in it is not one of a run.
    """
    if not folders:
        raise UsageError("Name at least one folder of a run, or one that has runs below it.")
    found: dict[Path, Run] = {}
    undone = unfinished(folders)
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"There is no folder {folder}.")
        paths = _run_folders(folder)
        if not paths:
            raise UsageError(f"There is no run in {folder}: neither it nor a folder below it has a config.json.")
        for path in paths:
            if path.resolve() not in found and path.resolve().parent not in undone:
                try:
                    found[path.resolve()] = Run(path, load_config(path))
                except ValueError as error:
                    raise UsageError(str(error)) from error
    if not found:
        raise UsageError(f"No cell is done: {'; '.join(undone.values())}.")
    return list(found.values())


def unfinished(folders: Sequence[Path]) -> dict[Path, str]:
    """The cells of grids in `folders` that are not done, by their folders, in words: which, and what has become of it.

    Raises:
      UsageError: a `grid.json` is not one of a grid.
    """
    found = {}
    for folder in map(Path.resolve, folders):
        for grid in dict.fromkeys(run.parent.parent for run in _run_folders(folder)):
            if not (grid / "grid.json").is_file():
                continue
            try:
                cells = [grid / cell["name"] for cell in json.loads((grid / "grid.json").read_text())["cells"]]
            except (ValueError, TypeError, KeyError) as error:
                raise UsageError(f"{grid / 'grid.json'} is not a grid: {error}") from error
            for cell in cells:
                status = read_status(cell)
                if (cell.is_relative_to(folder) or folder.is_relative_to(cell)) and status["state"] != "done":
                    found[cell] = f"{cell.name} is {status['state']}" + (f": {why}" if (why := status["error"]) else "")
    return found


def _run_folders(folder: Path) -> list[Path]:
    found = []
    for here, below, files in os.walk(folder):
        if "config.json" in files:
            found.append(Path(here))
            below.clear()
    return sorted(found)


def group(runs: Iterable[Run]) -> list[Arm]:
    """The arms that `runs` make, by task, then memory, then the other fields in which they differ.

    Raises:
      UsageError: a seed comes twice in an arm.
    """
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(json.dumps(_settings(run.config)), []).append(run)
    settings = [json.loads(key) for key in members]
    # What differs between tasks only is fitted to the task and tells no policies apart.
    same_task = [[other for other in settings if other["env"] == mine["env"]] for mine in settings]
    telling = {name for mine, peers in zip(settings, same_task, strict=True) for name in _differing(mine, peers)}
    keyed = []
    for mine, members_of in zip(settings, members.values(), strict=True):
        differing = _differing(mine, settings)
        task = {name: value for name, value in differing.items() if name.partition(".")[0] == "env"}
        policy = {name: value for name, value in differing.items() if name in telling}
        memory = {"memory": mine["memory"]["name"]}
        label = ", ".join(f"{name}={_text(value)}" for name, value in ((policy or memory) | task).items())
        arm = Arm(
            label,
            _words(policy or memory, "memory"),
            _words(task or {"env": mine["env"]["name"]}, "env"),
            members_of[0].config,
            tuple(sorted(members_of, key=lambda run: run.config.seed)),
        )
        for seed, count in Counter(arm.seeds).items():
            if count > 1:
                twice = " and ".join(str(run.folder) for run in arm.runs if run.config.seed == seed)
                raise UsageError(f"{label} has seed {seed} more than once: {twice}.")
        keyed.append(((_sortable(task), list(MEMORIES).index(arm.memory), _sortable(policy)), arm))
    return [arm for _, arm in sorted(keyed, key=lambda pair: pair[0])]


def check_seeds(arms: Sequence[Arm]) -> None:
    """UsageError if not all arms have the same seeds."""
    if len({arm.seeds for arm in arms}) > 1:
        told = "; ".join(f"{arm.label} has {', '.join(map(str, arm.seeds))}" for arm in arms)
        raise UsageError(f"Arms can be compared only with the same seeds: {told}.")


def check_complete(arms: Sequence[Arm]) -> None:
    """UsageError if a run is not trained to its end."""
    for run in (run for arm in arms for run in arm.runs):
        if (done := Checkpointer(run.folder / "checkpoints").latest()) != run.config.num_updates:
            raise UsageError(incomplete(run, done or 0))


def incomplete(run: Run, done: int) -> str:
    """What to say of a run of which only so many updates are done."""
    return (
        f"{run.folder} is not complete: {done} of {run.config.num_updates} updates are done. "
        f"Go on with it: python -m experiments.run --resume {run.folder}"
    )


def check_evaluations(arms: Sequence[Arm]) -> None:
    """Checks that every run is complete and evaluated, and that what is compared was evaluated alike.

    Raises:
      UsageError: what is missing, or differs, and where.
    """
    runs = [run for arm in arms for run in arm.runs]
    for run in runs:
        if (done := run.evaluation["update"]) != run.config.num_updates:
            raise UsageError(incomplete(run, done))
    for arm in arms:
        _check_alike(arm.runs, budgets=True)
    for task in dict.fromkeys(arm.task for arm in arms):
        _check_alike([run for arm in arms if arm.task == task for run in arm.runs], budgets=False)


def _check_alike(runs: Sequence[Run], budgets: bool) -> None:
    """UsageError if the runs were evaluated differently. Budgets differ between memories: not all can be restricted."""
    first = runs[0]
    for run in runs[1:]:
        one, other = (protocol(run.evaluation, budgets) for run in (first, run))
        for name in one:
            if one[name] != other[name]:
                raise UsageError(
                    f"{first.folder} was evaluated with {name} {_text(one[name])} and {run.folder} with "
                    f"{_text(other[name])}: evaluate them alike (python -m experiments.evaluate FOLDER)."
                )


def protocol(evaluation: Mapping[str, Any], budgets: bool = True) -> dict[str, Any]:
    """How an evaluation was made: what must be the same where figures are compared."""
    windows, episodes = evaluation.get("windows", []), evaluation.get("episodes", [])
    made = {name: evaluation.get(name) for name in ("num_trials", "seed", "trial_length", "window_length")}
    made |= {
        "horizons": list(dict.fromkeys(entry["horizon"] for entry in windows)),
        "splits": list(dict.fromkeys(entry["split"] or "as trained" for entry in episodes)),
    }
    if budgets:
        made["budgets"] = [entry["budget"] or "all" for entry in (*windows, *episodes)]
    return made


def _settings(config: Config) -> dict[str, Any]:
    return {name: value for name, value in config_to_dict(config).items() if name not in NOT_OF_AN_ARM}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields by their dotted names. The class of env and memory is a field named as they are."""
    flat = {}
    for name, value in values.items():
        key = prefix.removesuffix(".") if name == "name" else prefix + name
        flat |= _flat(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return flat


def _differing(mine: dict[str, Any], settings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The fields of `mine`, by dotted name, whose value is not the same in all `settings`.

    A field of `env` or `memory` is compared only with those of the same class: the class itself tells others apart.
    """
    flat, differing = [_flat(values) for values in settings], {}
    for name, value in _flat(mine).items():
        part = name.partition(".")[0]
        peers = [one for one in flat if name == part or part not in REGISTRIES or one[part] == mine[part]["name"]]
        if any(one.get(name) != value for one in peers):
            differing[name] = value
    return differing


def _words(fields: Mapping[str, Any], part: str) -> str:
    """Fields in words; the class of `part` by its name alone."""
    return ", ".join(_text(value) if name == part else f"{name}={_text(value)}" for name, value in fields.items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _sortable(fields: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """A key for sorting: numbers by their size, all else by its text."""
    return [
        (name, 0, value, "") if isinstance(value, int | float) else (name, 1, 0, _text(value))
        for name, value in fields.items()
    ]
