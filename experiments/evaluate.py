"""Evaluates a trained policy: `python -m experiments.evaluate FOLDER`, the folder of a run, trained to its end or not.

The parameters of the latest checkpoint are frozen and face trials up to several times longer than those they learned
in, and the other settings that the environment names, with the whole past in memory and with less. It prints a table
and writes into the folder

    evaluation.json     all figures; see `memrl.evaluation.evaluate`
    in_context.png      the return over a trial of the trained length         | where a trial is a fixed
    horizons.png        the return over the longest trial, for each budget    | number of steps
    splits.png          how episodes went in each setting
    training.png        the return over training
    trial.gif           one trial, where the environment can be drawn

These are derived from the checkpoint and can be made again at any time. What an earlier evaluation wrote is replaced
once the new one has all its figures.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from experiments import command_line
from experiments.command_line import UsageError
from experiments.runs.evaluation import evaluate_run
from experiments.runs.folder import load_run
from memrl.evaluation import EvaluationConfig


@dataclasses.dataclass(frozen=True)
class Options:
    """Which run, and how."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the run."""
    evaluation: EvaluationConfig
    """How the run is evaluated; as its config says, except for what is given here."""


def run(arguments: Sequence[str]) -> int:
    """Evaluates as the command line says; returns the exit status."""
    if not arguments:
        raise UsageError("Name the folder of a run: python -m experiments.evaluate FOLDER.")
    folder = read(arguments, EvaluationConfig()).folder
    config = load_run(folder).config
    # Once more, now that the defaults are known.
    evaluate_run(folder, read(arguments, config.evaluation).evaluation)
    return 0


def read(arguments: Sequence[str], evaluation: EvaluationConfig) -> Options:
    """What the command line says, and `evaluation` where it says nothing; UsageError if it is wrong."""
    default = Options(tyro.MISSING, evaluation)
    description = "Evaluates a trained policy."
    return command_line.parse(Options, default, [default], "experiments.evaluate", description, arguments)


if __name__ == "__main__":
    command_line.main(run)
