"""Trains the runs of a grid's cell, which differ in their seed alone, together in one compiled program."""

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import jax

from experiments.command_line import UsageError, make_mesh
from experiments.config import Config, config_to_dict
from experiments.runs.evaluation import evaluate_seeds
from experiments.runs.folder import Run, build, check_files, identity
from experiments.terminal import say
from experiments.training.loop import by_seed, train
from experiments.training.room import check_evaluation, check_training
from experiments.training.start import examine
from memrl.evaluation import write_evaluation
from memrl.files import FileError
from memrl.ppo import Hyperparameters
from memrl.training import Training

Programs = dict[tuple[str, int], Training]
"""Compiled programs by `program_key` and number of seeds."""


def program_key(config: Config) -> str:
    """What decides the compiled program of a run; runs of the same key differ in values that are its arguments."""
    values = config_to_dict(config)
    environment, env_params = config.env.make()
    leaves, structure = jax.tree.flatten(env_params)
    return json.dumps(
        {
            "environment": [type(environment).__name__, repr(environment), repr(structure)],
            "env_params": [str(jax.typeof(leaf)) for leaf in leaves],
            "memory": values["memory"],
            "network": values["network"],
            "ppo": {name: value for name, value in values["ppo"].items() if name not in Hyperparameters._fields},
            "num_updates": config.num_updates,
            "updates_per_chunk": config.updates_per_chunk,
            "devices": config.devices,
        }
    )


def train_cell(
    folder: Path, configs: Sequence[Config], command: Sequence[str], programs: Programs
) -> signal.Signals | None:
    """Trains the runs of a cell to their end and evaluates them.

    Each becomes an ordinary run in `folder/seedN`. While they are trained, their states are in `folder/checkpoints`,
    where another call goes on if this one is stopped.

    Args:
      folder: of the cell.
      configs: of its runs; they differ in `seed` alone.
      command: the command line, to be written down.
      programs: compiled programs, shared by the cells of a process; this cell's is added.

    Returns:
      The signal that asked to stop, the states then saved; None if none did.

    Raises:
      CheckpointError, FileError, UsageError: what is in the folders is damaged or of other runs; nothing has been
        changed.
      DivergedError: a loss or gradient is not finite; all checkpoints are from before that.
    """
    runs = [Run(folder / f"seed{config.seed}", config) for config in configs]
    if any(run.updates_done != run.config.num_updates for run in runs):
        stopped_by = train_seeds(folder, runs, command, programs)
        if stopped_by is not None:
            return stopped_by
    if missing := [run for run in runs if not is_evaluated(run)]:
        for run, (result, _) in zip(missing, evaluate_seeds(missing, configs[0].evaluation), strict=True):
            write_evaluation(run.folder / "evaluation.json", result)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return None


def is_evaluated(run: Run) -> bool:
    """Whether its evaluation is there, and can be read."""
    try:
        return run.evaluation["update"] == run.config.num_updates
    except (FileError, UsageError):
        return False


def train_seeds(folder: Path, runs: Sequence[Run], command: Sequence[str], programs: Programs) -> signal.Signals | None:
    """As `train_cell`, for cells that are not trained yet; does not evaluate."""
    for run in runs:
        check_files(run)
    configs = [run.config for run in runs]
    config = configs[0]
    mesh = make_mesh(config)
    key = program_key(config), len(configs)
    if key not in programs:
        examine(config)
        training = build(config, mesh, seeds="auto")
        room = check_training(config, training, mesh, runs=len(configs))
        check_evaluation(config, config.evaluation)
        say(f"{folder}: {room}.")
        programs[key] = training
    trained = train(folder, runs, programs[key], mesh, command, together=True)
    if trained.stopped_by is not None and int(trained.state.update[0]) < config.num_updates:
        return trained.stopped_by
    for run, of_seed in zip(runs, by_seed(trained.state, len(runs)), strict=True):
        with run.checkpointer as last:
            last.save(config.num_updates, of_seed, {"seconds": trained.seconds, "identity": identity(run.config)})
    return None
