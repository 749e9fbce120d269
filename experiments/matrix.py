"""Tests every trained policy in every setting: `python -m experiments.matrix GRID`, or any folders that hold runs.

    python -m experiments.matrix runs/t_maze_24 --test env.corridors=1,3,5,10 --test env.length=5,10
    python -m experiments.matrix runs/gridworld --horizons 1 2 4 --budgets 1 0.5

Policies face the product of the `--test` fields; if none are given, those that the grid's file names, else all settings
that any of them was trained in, and their splits. Where trials are a fixed number of steps they can be made longer
(`--horizons`), and memories can be given room for less (`--budgets`, in trials of the trained length). A policy that
cannot read the observations of a setting has no figures there; cells of a grid that are not done are named, and left
out.

All seeds and all settings of an environment use the same compiled programs, one for each size of a memory. The tasks
are the same for all, so that differences are paired. It writes into the (first) folder, where `experiments.report`
finds it,

    matrix.json         return, length and outcomes for each run and setting, with their 95% intervals over trials
    matrix.md           a table: trained in rows, tested in columns, means over seeds, least and most
    matrix.png, .svg    the same as colours
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from experiments import command_line
from experiments.command_line import UsageError, make_output
from experiments.config import make_policy
from experiments.reporting.matrix import Matrix, draw, table
from experiments.runs.arms import Arm, check_complete, check_seeds, group
from experiments.runs.find import find_runs, unfinished
from experiments.runs.folder import load_params, parameter_shapes
from experiments.settings import check_faced, faced, made, names_of, tested
from experiments.sweeps import Sweeps, read_sweep
from experiments.terminal import say
from experiments.workers.store import load_grid
from memrl.environment import hooks
from memrl.evaluation import (
    INTERVAL,
    EvaluationConfig,
    Measured,
    Runner,
    Setting,
    Subject,
    episode_means,
    player_subject,
    policy_subject,
)
from memrl.files import write_text
from memrl.memory import MemoryConfig
from memrl.tracking import write_json


@dataclasses.dataclass(frozen=True)
class Options:
    """What is tested, and on what."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="GRID")] = ()
    """Folder of a grid, or any folders that hold runs."""
    test: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="env.FIELD=A,B,..")] = ()
    """A field of the environment and the values to test it with; may be given several times."""
    horizons: tuple[int, ...] = (1,)
    """Lengths of trials of a fixed number of steps, as multiples of the length in the setting."""
    budgets: tuple[float, ...] = ()
    """Sizes of restricted memories: the steps that there is room for, as multiples of the trained trial length. The
    unrestricted memory is always tested too."""
    num_trials: int | None = None
    """Trials in each setting; as many as the config of the first run says if not given."""
    seed: int = 0
    """Seed of the tasks and of the actions sampled."""
    output: Path | None = None
    """Folder to write to; the first of those that hold the runs if not given."""


class Column(NamedTuple):
    """What every policy is asked."""

    name: str
    """The setting in words."""
    setting: Setting
    """Environment and parameters."""
    budget: float | None
    """What the memory has room for, in trained trial lengths; None: everything."""


def run(arguments: Sequence[str]) -> int:
    """Tests as the command line says; returns the exit status."""
    options = command_line.parse(
        Options, Options(), [Options()], "experiments.matrix", "Tests policies in all settings.", arguments
    )
    if not options.folders:
        raise UsageError("Name the folder of a grid: python -m experiments.matrix GRID.")
    arms = group(find_runs(options.folders))
    for cell in unfinished(options.folders).values():
        say(f"Left out: {cell}")
    check_seeds(arms)
    check_complete(arms)
    tests = read_tests(options)
    trained = {arm.label: arm.config.env for arm in arms}
    environments = tested(list(trained.values()), tests)
    try:
        trials = arms[0].config.evaluation.num_trials if options.num_trials is None else options.num_trials
        horizons = tuple(dict.fromkeys((1, *options.horizons)))
        config = EvaluationConfig(
            num_trials=trials, horizons=horizons, budgets=tuple(dict.fromkeys(options.budgets)), seed=options.seed
        )
    except ValueError as error:
        raise UsageError(str(error).replace("evaluation.", "")) from error
    if horizons != (1,) and all(hooks(env.make()[0]).episodic for env in environments):
        raise UsageError(f"horizons is {options.horizons}: these episodes end by the task and cannot be made longer.")
    columns = make_columns(environments, config)
    if tests:
        check_faced(trained, {column.name: column.setting for column in columns})
    folder = options.output or options.folders[0]
    make_output(folder, "a matrix")
    result = measure(arms, columns, config, folder)
    write_json(folder / "matrix.json", result)
    text = table(result)
    write_text(folder / "matrix.md", text)
    draw(folder / "matrix.png", result)
    say(f"\n{text}\nWritten to {folder}: matrix.json, matrix.md, matrix.png, matrix.svg")
    return 0


def read_tests(options: Options) -> Sweeps:
    """The fields and values that are tested on, from the command line or else the grid; empty if neither says any."""
    tests: Sweeps = {}
    for text in options.test:
        field, values = read_sweep("--test", text)
        if not field.startswith("env."):
            raise UsageError(f"--test {text}: only fields of the environment can be tested on: env.FIELD.")
        if field in tests:
            raise UsageError(f"{field} is tested twice.")
        tests[field] = values
    if not tests and (options.folders[0] / "grid.json").exists():
        return load_grid(options.folders[0]).test
    return tests


def make_columns(environments: Sequence[Any], config: EvaluationConfig) -> list[Column]:
    """Every setting with every horizon and budget. Episodes that end by the task have no other horizons."""
    columns = []
    for name, env in zip(names_of(environments), environments, strict=True):
        environment, params = env.make()
        for horizon in (1,) if hooks(environment).episodic else sorted(config.horizons):
            steps = int(params.max_steps_in_episode) * horizon
            setting = Setting(
                environment, params if horizon == 1 else params.replace(max_steps_in_episode=np.int32(steps))
            )
            longer = "" if horizon == 1 else f", {horizon}x as long"
            columns.append(Column(name + longer, setting, None))
            for budget in sorted(config.budgets, reverse=True):
                columns.append(Column(f"{name}{longer}, remembers {budget:g}x", setting, budget))
    return columns


def measure(arms: Sequence[Arm], columns: Sequence[Column], config: EvaluationConfig, folder: Path) -> Matrix:
    """Plays every setting with every run; returns what is written to `matrix.json` in `folder`.

    Raises:
      CheckpointError, UsageError: a run has no checkpoint that can be tested.
    """
    longest = max(column.setting.trial_length for column in columns)
    spaces = [faced(column.setting) for column in columns]
    programs: dict[Any, Callable[[Any], Measured[np.ndarray]]] = {}
    runner: Runner | None = None
    entries, agents = [], {}
    for arm in arms:
        own = Setting(*arm.config.env.make())
        shapes = parameter_shapes(arm.config)
        own_space, own_key = faced(own), made(own)
        subjects: dict[str, tuple[Any, Any]] = {}
        for column, space in zip(columns, spaces, strict=True):
            memory = sized(arm.config.memory.without_noise(), own.trial_length, column, longest)
            if space == own_space and memory is not None:
                environment, _ = column.setting
                policy = make_policy(arm.config, environment, column.setting.env_params, memory)
                subjects[column.name] = environment, policy
                agents.setdefault(column.name, policy_subject(policy, environment, config.num_trials))
        trained = (column.name for column in columns if column.budget is None and made(column.setting) == own_key)
        entry = {"label": arm.label, "trained": next(trained, None), "memory": arm.memory, "runs": []}
        for one in arm.runs:
            params, update = load_params(one, shapes)
            runner = runner or Runner(params, config)
            runner.load(params)
            found = {}
            for column in columns:
                if (subject := subjects.get(column.name)) is None:
                    continue
                environment, policy = subject
                if subject not in programs:
                    programs[subject] = runner.episodes(policy_subject(policy, environment, config.num_trials))
                found[column.name] = episode_means(programs[subject](column.setting.env_params), environment)
            say(f"{one.folder}: tested in {len(found)} settings.")
            told = {
                "folder": os.path.relpath(one.folder, folder),
                "seed": one.config.seed,
                "update": update,
                "settings": found,
            }
            entry["runs"].append(told)
        entries.append(entry)
    assert runner is not None  # every arm has runs
    return {
        "num_trials": config.num_trials,
        "seed": config.seed,
        "interval": INTERVAL,
        "settings": [
            {"name": column.name, "trial_length": column.setting.trial_length, "budget": column.budget}
            for column in columns
            if column.name in agents  # a budget may restrict no memory
        ],
        "arms": entries,
        "players": play_references(runner, columns, agents, config),
    }


def play_references(
    runner: Runner, columns: Sequence[Column], agents: dict[str, Subject], config: EvaluationConfig
) -> dict[str, dict[str, Any]]:
    """What the reference players reach in each setting, on the tasks of the `agents` there; by player and setting."""
    programs: dict[Any, Callable[[Any], Measured[np.ndarray]]] = {}
    found: dict[str, dict[str, Any]] = {}
    for column in columns:
        environment, env_params = column.setting
        for name, player in hooks(environment).players().items():
            if column.budget is None and column.name in agents:
                if (environment, name) not in programs:
                    programs[environment, name] = runner.episodes(
                        player_subject(player, agents[column.name], environment)
                    )
                means = episode_means(programs[environment, name](env_params), environment)
                found.setdefault(name, {})[column.name] = means
    return found


def sized(memory: MemoryConfig, trained: int, column: Column, longest: int) -> MemoryConfig | None:
    """The memory for a column: as trained for episodes that are not longer, else with room for the longest of all.

    None where the budget of the column restricts nothing.
    """
    steps = column.setting.trial_length
    full = memory if steps <= trained else memory.with_capacity(longest)
    if column.budget is None:
        return full
    room = max(1, round(column.budget * trained))
    if room >= steps:
        return None
    small = memory.with_capacity(room)
    return None if small == memory.with_capacity(steps) else small


if __name__ == "__main__":
    command_line.main(run)
