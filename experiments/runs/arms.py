"""Groups runs into *arms*: runs that differ in nothing but their seed."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.command_line import UsageError
from experiments.config import REGISTRIES, Config, config_to_dict
from experiments.runs.folder import Run
from memrl.memory import MEMORIES

NOT_OF_AN_ARM = ("seed", "name", "tracking", "devices", "evaluation", "checkpoint_every")
"""Fields of a config in which runs of the same arm may differ: what is learned depends on the seed alone of these."""


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
    """Settings of the first run."""
    runs: tuple[Run, ...]
    """Its runs, in order of their seeds."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of its runs, in order."""
        return tuple(run.config.seed for run in self.runs)

    @property
    def memory(self) -> str:
        """The registered name of its memory."""
        return config_to_dict(self.config)["memory"]["name"]


def group(runs: Iterable[Run]) -> list[Arm]:
    """The arms that `runs` make, by task, then memory, then the other fields in which they differ.

    Raises:
      UsageError: a seed comes twice in an arm.
    """
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(json.dumps(_settings(run.config)), []).append(run)
    settings = [json.loads(key) for key in members]
    # What differs between tasks only is fitted to the task and distinguishes no policies.
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
        if (done := run.updates_done) != run.config.num_updates:
            raise UsageError(incomplete(run, done))


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

    A field of `env` or `memory` is compared only with those of the same class: the class itself distinguishes others.
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
