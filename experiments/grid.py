"""Trains a grid of settings, several seeds of each: `python -m experiments.grid --config NAME --sweep FIELD=A,B ..`

    python -m experiments.grid --config memo_gridworld --sweep memory=memo,fct,gru --sweep env.size=5,7 --seeds 0..9
    python -m experiments.grid --grid t_maze --workers 2 --total-steps 1000000

Any field of a config can be swept, `config` itself, and `memory` and `env` by name; every combination of their values
is a *cell*. The seeds of a cell are trained together in one compiled program. All other fields can be overridden as in
`experiments.run`, for all cells. Values are separated by commas; one that has several words, such as the widths of
layers, is written with spaces: `--sweep "network.head-features=64 64,128"`.

A grid can be written down in a TOML file, and those in `experiments/grids` are known by their names:

    config = "lstm_t_maze"
    seeds = "0..4"
    [sweep]
    memory = ["lstm", "gru"]
    env.corridors = [3, 5]
    [overrides]
    total-steps = 1000000
    [test]                        # what `experiments.matrix` tests on by default
    env.corridors = [1, 3, 5, 10]

What the command line sweeps or overrides takes the place of what the file says of the same field.

The folder of a grid holds

    grid.json           its cells, with all their settings
    CELL/status.json    what has become of it: training, stopped, done or failed, and why
    CELL/seedN/         a run like those of `experiments.run`, evaluated
    logs/, jobs/        what workers said
    cache/              compiled programs

Cells are trained by worker processes on this machine, with a core each (`--devices N`: N cores) or, if it has some, a
GPU each; with more workers than GPUs, these are shared. Cells that differ only in values that are arguments of the
compiled program share it. `--cluster slurm` makes each worker a job instead (by submitit; `pip install
'memrl[cluster]'`); all machines need to see the folder of the grid, and what a job asks for is said like this:
`--job timeout_min=600 gpus_per_node=1 slurm_partition=long`. A job that is cancelled, or whose time is up, saves and is
followed by another. `make slurm` tests this on a SLURM of one machine; on a cluster of several it has not been tried.

A cell that fails is reported and leaves the others alone. The same command again, or `--resume FOLDER`, goes on: what
is done stays, what was interrupted goes on from its checkpoint, what failed is tried again.

Exit status: 0 when all cells are done; 1 when some failed; 2 for bad input, all of it named before anything is trained;
128 + the signal's number when a signal ended it, all states saved; see `experiments.run` for which.
"""

import ast
import dataclasses
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

if __name__ == "__main__":
    # Workers need the memory of the GPUs; what this process does with JAX is to look at shapes.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import tyro

from experiments import command_line
from experiments.command_line import Selection, UsageError, option, sentence, set_in
from experiments.config import Config, look_up
from experiments.runs.arms import NOT_OF_AN_ARM
from experiments.runs.folder import build, settings_of
from experiments.settings import check_faced, names_of, tested
from experiments.sweeps import (
    SEEDS,
    Definition,
    Sweeps,
    cell_name,
    combinations,
    count,
    grid_file,
    read_file,
    read_seeds,
    read_sweep,
    values_of,
)
from experiments.terminal import say
from experiments.training.cell import program_key
from experiments.workers.schedule import execute
from experiments.workers.store import Cell, Grid, load_grid
from memrl.evaluation import Setting

CHOSEN_BY_NAME = ("config", "memory", "env")
"""What is swept by name, in the order in which a config is made."""
DESCRIPTION = "Trains every combination of the swept values, with several seeds."


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained, where and by whom."""

    grid: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """A grid that is written down: its name in experiments/grids, or a TOML file."""
    sweep: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FIELD=A,B,..")] = ()
    """A field and the values that it takes; may be given several times."""
    seeds: Annotated[str, tyro.conf.arg(metavar="A..B")] = SEEDS
    """Seeds of every cell: 0..9, or 0,3,5, or 7."""
    output: Path | None = None
    """Folder of the grid. If not given, runs/NAME, named after the file or after what is swept."""
    resume: Path | None = None
    """Folder of a grid to go on with, instead of saying what is trained."""
    workers: int | None = None
    """Cells to train at the same time; if not given, as many as there are cores or GPUs, and 8 on a cluster."""
    cluster: Literal["pool", "slurm", "local"] = "pool"
    """Where workers run. pool: processes on this machine; slurm: jobs of SLURM; local: jobs on this machine, for
    tests."""
    job: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """What a job on a cluster asks for, by submitit's names."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}: it must be at least 1.")
        for setting in self.job:
            if "=" not in setting:
                raise ValueError(f"job has {setting!r}: it must be NAME=VALUE.")
        if self.job and self.cluster == "pool":
            raise ValueError("job is what jobs of a cluster ask for: it needs --cluster slurm.")

    def job_parameters(self) -> dict[str, Any]:
        """What `job` says, numbers as numbers."""
        parameters = {}
        for setting in self.job:
            name, _, value = setting.partition("=")
            try:
                parameters[name] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                parameters[name] = value
        return parameters


def run(arguments: Sequence[str]) -> int:
    """Trains as the command line says; returns the exit status."""
    resumed = command_line.value_of("--resume", arguments)
    if resumed is not None:
        options = command_line.parse(
            Options, Options(), [Options()], "experiments.grid", "Goes on with a grid.", arguments
        )
        if (other := dataclasses.replace(options, resume=None, workers=None, cluster="pool", job=())) != Options():
            said = next(
                field.name for field in dataclasses.fields(Options) if getattr(other, field.name) != field.default
            )
            raise UsageError(f"A grid that goes on is the same as before: leave out --{said}.")
        folder = Path(resumed)
        grid = load_grid(folder)
    else:
        definition = read_definition(arguments)
        grid, options = read_grid(definition)
        grid = dataclasses.replace(grid, command=("python", "-m", "experiments.grid", *arguments))
        folder = options.output or Path("runs") / definition.name
    return execute(grid, folder, options.workers, options.cluster, options.job_parameters())


def read_definition(arguments: Sequence[str]) -> Definition:
    """What the command line, and the file that it names, say. Prints and exits if `--help` or `--list` is asked for.

    Raises:
      UsageError: a sweep, seeds or a file that are not what they have to be.
    """
    if {"-h", "--help", "--list"} & set(arguments):
        command_line.read("experiments.grid", DESCRIPTION, Options(), arguments)
    named, seeds = (command_line.value_of(option, arguments) for option in ("--grid", "--seeds"))
    file = Definition("", [], {}, read_seeds(SEEDS), {}) if named is None else read_file(grid_file(named))
    sweeps: Sweeps = {}
    for text in values_of("--sweep", arguments):
        field, values = read_sweep("--sweep", text)
        if field in sweeps:
            raise UsageError(f"{field} is swept twice.")
        sweeps[field] = values
    own = set_in(arguments)
    for field in sweeps:
        if field in own:
            raise UsageError(f"{field} is swept and set: it can only be one of the two.")
    swept = {field: values for field, values in file.sweeps.items() if field not in own and field not in sweeps}
    sweeps = {**swept, **sweeps}
    check_sweeps(sweeps)
    if "seed" in own:
        raise UsageError("Every cell has the seeds of --seeds: leave out --seed.")
    config = command_line.value_of("--config", [*file.arguments, *arguments])
    name = file.name or "-by-".join(filter(None, [config, "-".join(sweeps).replace("/", "_")]))
    seeds = file.seeds if seeds is None else read_seeds(seeds)
    return Definition(name, [*file.arguments, *arguments], sweeps, seeds, file.test)


def check_sweeps(sweeps: Sweeps) -> None:
    """UsageError, a line for each, if something is swept that cannot be."""
    own = {field.name for kind in (Options, Selection) for field in dataclasses.fields(kind)} - set(CHOSEN_BY_NAME)
    errors = []
    for field, values in sweeps.items():
        part = field.partition(".")[0]
        if field == "seed":
            errors.append("seed is swept by --seeds: leave it out of --sweep.")
        elif part in NOT_OF_AN_ARM:
            errors.append(f"{field} cannot be swept: what is learned does not depend on it.")
        elif field in own or not field:
            errors.append(f"There is no field {field!r} to sweep.")
        for value in values:
            if values.count(value) > 1:
                errors.append(f"{field} is swept over {' '.join(value)} twice.")
    if errors:
        raise UsageError("\n".join(dict.fromkeys(errors)))


def read_grid(definition: Definition) -> tuple[Grid, Options]:
    """The cells that a definition makes, each checked as far as can be without training, and the options.

    Raises:
      UsageError: a line for everything that is wrong.
    """
    cells: dict[str, Config] = {}
    errors: dict[tuple[tuple[str, int], ...], str] = {}
    options = Options()
    sweeps = definition.sweeps
    for choice in combinations(sweeps):
        try:
            config, options = read_cell(definition, choice)
            cells[cell_name(sweeps, choice) or config.name] = config
        except UsageError as error:
            errors[tuple(choice.items())] = str(error)
    if errors:
        raise UsageError("\n".join(causes(definition, errors)))
    if not all(0 <= seed < 2**32 for seed in definition.seeds):
        raise UsageError(f"seeds has {max(definition.seeds)}: seeds must be from 0 to 2^32 - 1.")
    messages = []
    seen: dict[Config, str] = {}
    for name, config in cells.items():
        learned = dataclasses.replace(config, name="same")
        if learned in seen:
            messages.append(f"Cells {seen[learned]} and {name} are the same.")
        seen.setdefault(learned, name)
    if messages:
        raise UsageError("\n".join(messages))
    check_test(definition.test, cells)
    check_programs(cells, options)
    return Grid(tuple(itertools.starmap(Cell, cells.items())), tuple(definition.seeds), definition.test), options


def read_cell(definition: Definition, choice: dict[str, int]) -> tuple[Config, Options]:
    """The config of a cell, and the options; UsageError if it cannot be."""
    swept = [word for field, number in choice.items() for word in (option(field), *definition.sweeps[field][number])]
    return command_line.read("experiments.grid", DESCRIPTION, Options(), [*definition.arguments, *swept])


def causes(definition: Definition, errors: dict[tuple[tuple[str, int], ...], str]) -> list[str]:
    """What is wrong where cells cannot be read, each cause once.

    Reading a command line finds only the first fault. A value that is in no cell that can be read is therefore tried
    alone, and what is wrong with it then is a cause. Cells without such a value have causes of their own.
    """
    alone: dict[tuple[str, int], str] = {}
    selected = {name: 0 for name in CHOSEN_BY_NAME if name in definition.sweeps}
    for field, values in definition.sweeps.items():
        for number in range(len(values)):
            concerned = sum((field, number) in choice for choice in errors)
            if concerned * len(values) == count(definition.sweeps):
                try:
                    read_cell(definition, {**selected, field: number})
                except UsageError as error:
                    alone[field, number] = str(error)
    told = list(alone.values())
    for choice, error in errors.items():
        if error not in told and not any(value in alone for value in choice):
            name = cell_name(definition.sweeps, dict(choice))
            told.append(f"{name}: {error}" if name else error)
    return list(dict.fromkeys(told))


def check_programs(cells: dict[str, Config], options: Options) -> None:
    """Builds the program of every cell, without compiling it; UsageError, a line for each that cannot be built."""
    groups: dict[str, list[str]] = {}
    for name, config in cells.items():
        groups.setdefault(program_key(config), []).append(name)
    errors = []
    say(f"Checking {len(cells)} cells, {len(groups)} programs ...")
    for names in groups.values():
        config = cells[names[0]]
        if options.cluster == "slurm":  # whose machines have other devices than this one
            config = dataclasses.replace(config, devices=None)
        try:
            training = build(config, command_line.make_mesh(config))
            settings = settings_of(config)
            state = jax.eval_shape(training.initial_state, jax.random.key(0), settings)
            jax.eval_shape(training.advance, state, settings)
        except Exception as error:  # whatever it is, it would come again in training
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            errors.append(f"{names[0]}{others}: {sentence(error)}")
    if errors:
        raise UsageError("\n".join(errors))


def check_test(test: Sweeps, cells: dict[str, Config]) -> None:
    """UsageError if a cell has not the fields that are tested on, or not their values, or could not be tested there."""
    for field in test:
        for config in cells.values():
            known = [f"env.{known.name}" for known in dataclasses.fields(config.env)]
            try:
                look_up(field, known, "field")
            except ValueError as error:
                raise UsageError(f"Cannot test on {field}. {error}") from error
    if test:
        environments = tested(list(dict.fromkeys(config.env for config in cells.values())), test)
        settings = [Setting(*env.make()) for env in environments]
        named = dict(zip(names_of(environments), settings, strict=True))
        check_faced({name: config.env for name, config in cells.items()}, named)


if __name__ == "__main__":
    command_line.main(run)
