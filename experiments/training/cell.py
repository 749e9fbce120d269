"""Trains the runs of a grid's cell, which differ in their seed alone, together in one compiled program."""

import contextlib
import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.command_line import UsageError, make_mesh
from experiments.config import Config, config_to_dict
from experiments.runs.evaluation import evaluate_seeds
from experiments.runs.folder import Run, build, check_files, check_identity, identity, open_files, settings_of
from experiments.terminal import say
from experiments.training.log import DivergedError, Log, Progress
from experiments.training.loop import advance_to_end
from experiments.training.room import check_evaluation, check_training
from experiments.training.start import examine
from experiments.training.stop import StopRequest
from memrl.checkpoint import Checkpointer
from memrl.evaluation import write_evaluation
from memrl.files import FileError
from memrl.ppo import Hyperparameters
from memrl.training import Training, TrainState

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
    settings = settings_of(config)
    key = program_key(config), len(configs)
    if key not in programs:
        examine(config)
        training = build(config, mesh, seeds="auto")
        room = check_training(config, training, mesh, runs=len(configs))
        check_evaluation(config, config.evaluation)
        say(f"{folder}: {room}.")
        programs[key] = training
    training = programs[key]
    keys = jax.numpy.stack([jax.random.key(config.seed) for config in configs])
    identities = [identity(config) for config in configs]

    with contextlib.ExitStack() as stack:
        checkpointer = stack.enter_context(Checkpointer(folder / "checkpoints"))
        update, seconds = 0, 0.0
        if checkpointer.latest() is None:
            state = training.initial_state(keys, settings)
        else:
            state, metadata = checkpointer.restore(jax.eval_shape(training.initial_state, keys, settings))
            for saved, own in zip(metadata["identities"], configs, strict=True):
                check_identity(saved, own, checkpointer)
            update, seconds = int(state.update[0]), metadata["seconds"]

        stop = stack.enter_context(StopRequest())
        progress = Progress(config, update)
        logs = []
        for run in runs:
            name = f"{folder.name}-{run.folder.name}"
            tracker = stack.enter_context(open_files(run.config, run.folder, update, mesh, command, name))
            logs.append(Log(run.config, tracker, update, seconds, None if logs else progress, together=len(configs)))

        def flush() -> None:
            for log in logs:
                try:
                    log.flush()
                except DivergedError as error:
                    raise DivergedError(f"Seed {log.config.seed}: {error}") from error

        def add(metrics: dict[str, jax.Array]) -> None:
            flush()
            for log, of_seed in zip(logs, by_seed(metrics, len(configs)), strict=True):
                log.add(of_seed)

        def save(update: int, state: TrainState) -> None:
            flush()
            checkpointer.save(update, state, {"seconds": logs[0].seconds, "identities": identities})

        say(f"{folder}: {update} of {config.num_updates} updates done, {len(configs)} seeds together.")
        state, update = advance_to_end(
            config, lambda state: training.advance(state, settings), state, update, stop, add, save
        )
        checkpointer.close()  # waits, while another signal would still do no harm
        if update >= config.num_updates:
            for run, log, own, of_seed in zip(runs, logs, identities, by_seed(state, len(configs)), strict=True):
                with run.checkpointer as last:
                    last.save(update, of_seed, {"seconds": log.seconds, "identity": own})
            return None
        return stop.received


def by_seed(tree: Any, seeds: int) -> list[Any]:
    """The parts of a tree with leaves `[S, ..]` that belong to each seed."""
    return [jax.tree.map(lambda leaf, seed=seed: leaf[seed], tree) for seed in range(seeds)]
