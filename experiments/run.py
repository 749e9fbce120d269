"""Trains one policy: `python -m experiments.run --config NAME`.

Everything a run produces is in its folder:

    config.json         the settings, overrides included
    environment.json    for each process that worked on the run: the update it began at, its command line, versions,
                        commit, devices
    metrics.jsonl       a line per update; `seconds` and `steps_per_second` depend on the machine, the rest is learning
    checkpoints/        the latest two
    evaluation.json, pictures, wandb/

Ctrl-C, SIGTERM, SIGHUP (the terminal is closed), SIGUSR1 and SIGUSR2 (`#SBATCH --signal=USR1@120`) save and stop; a
second Ctrl-C stops at once. Where nobody reads any longer what is printed, as after `| head`, training goes on.

Exit status: 0 when the run is complete; 1 when it diverged or its folder could not be written to; 2 for bad input;
128 + the signal's number when a signal ended it. However it ended, `--resume FOLDER` goes on, bit for bit if on as many
devices.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from experiments import command_line
from experiments.command_line import UsageError
from experiments.runs.folder import Run, build, first_difference, identity, load_run, locked, make_folder
from experiments.terminal import say
from experiments.training.log import DivergedError
from experiments.training.loop import train
from experiments.training.room import check_evaluation, check_training
from experiments.training.start import examine
from memrl.checkpoint import Checkpointer
from memrl.files import StorageError, check_writable

DIVERGED = 1
"""Exit status of a run whose loss is no longer finite."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Where the run is written."""

    output: Path | None = None
    """Folder of the new run. If not given, runs/NAME-seedSEED, or the next free name like it."""
    resume: Path | None = None
    """Folder of a run to go on with, instead of --config. What its state depends on cannot be overridden then."""


def run(arguments: Sequence[str]) -> int:
    """Trains and evaluates as the command line says; returns the exit status."""
    resumed = command_line.value_of("--resume", arguments)
    saved = None if resumed is None else load_run(Path(resumed)).config
    config, options = command_line.read("experiments.run", "Trains a policy.", Options(), arguments, saved)
    if saved is not None and options.output is not None:
        raise UsageError("A run that goes on does so in its own folder: leave out --output.")
    if saved is not None and (differs := first_difference(identity(saved), identity(config))):
        raise UsageError(f"A run cannot go on with another {differs}: start a new one.")
    if options.resume is not None and jax.process_index() == 0:
        check_writable(options.resume)
    mesh = command_line.make_mesh(config)
    if saved is None:
        examine(config)
    training = build(config, mesh)
    room = check_training(config, training, mesh)
    check_evaluation(config, config.evaluation)

    folder = options.resume or make_folder(config, options.output)
    resume = f"python -m experiments.run --resume {folder}"
    try:
        with locked(folder):
            say(f"{room}.")
            command = ["python", "-m", "experiments.run", *arguments]
            stopped_by = train(folder, [Run(folder, config)], training, mesh, command).stopped_by
    except DivergedError as error:
        latest = Checkpointer(folder / "checkpoints").latest() or 0
        advice = f"To go on from update {latest}, which is good: {resume} --ppo.learning-rate SMALLER"
        print(f"{error} {advice}", file=sys.stderr)
        return DIVERGED
    except StorageError as error:
        latest = Checkpointer(folder / "checkpoints").latest() or 0
        print(f"{error} Make room, then go on from update {latest}: {resume}", file=sys.stderr)
        return command_line.FAILED
    if stopped_by is not None:
        say(f"Stopped by {stopped_by.name}, everything is saved; to go on: {resume}")
        return 128 + stopped_by
    evaluation = f"python -m experiments.evaluate {folder}"
    if jax.process_count() > 1:
        say(f"Trained; to evaluate: {evaluation}")
        return 0
    say(f"Trained; evaluating. To do so again: {evaluation}")
    from experiments.runs.evaluation import (
        evaluate_run,  # brings matplotlib, half a second that the start need not wait for
    )

    evaluate_run(folder)
    return 0


if __name__ == "__main__":
    command_line.main(run)
