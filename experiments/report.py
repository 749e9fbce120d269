"""Compares runs: `python -m experiments.report RUNS...`, folders of runs or ones that have runs below them.

Runs of the same settings with different seeds are an arm; see `experiments.runs.arms`. Every arm must have the same
seeds, and every run its evaluation, all made alike; cells of a grid that are not done are left out, and named. What is
reported is the end of training, never the best of many evaluations. It writes, into `--output`,

    report.md        tables, with intervals, and the figures
    report.json      all numbers, those of the figures and of each seed too
    *.png, *.svg     the figures

If `experiments.matrix` has tested the runs of one of the folders, what it wrote there is part of the report. A report
that is there already is replaced file by file.

`python -m experiments.report REPORT`, a `report.json` or the folder that has one and no runs, makes a report again from
the figures of each seed that are kept there: intervals, tables, figures.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from experiments import command_line
from experiments.command_line import UsageError, make_output
from experiments.reporting.comparison import measure
from experiments.reporting.estimates import Figures, estimated
from experiments.reporting.figures import draw
from experiments.reporting.matrix import find_matrices
from experiments.reporting.text import Page
from experiments.runs.arms import check_evaluations, check_seeds, group
from experiments.runs.find import find_runs, unfinished
from experiments.terminal import say
from memrl.files import write_text
from memrl.tracking import write_json


@dataclasses.dataclass(frozen=True)
class Options:
    """Which runs, and where to write."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUNS")] = ()
    """Folders of runs, or ones that have runs below them; or one report that is to be made again."""
    output: Path | None = None
    """Folder of the report. If not given, `report` in the folder of the runs, or here if there are several folders; the
    report's own where one is made again."""


def run(arguments: Sequence[str]) -> int:
    """Reports as the command line says; returns the exit status."""
    options = command_line.parse(
        Options, Options(), [Options()], "experiments.report", "Compares runs in tables and figures.", arguments
    )
    if (again := kept(options.runs)) is not None:
        folder, figures = options.output or again.parent, read(again)
        make_output(folder, "a report")
    else:
        arms = group(find_runs(options.runs))
        left_out = list(unfinished(options.runs).values())
        for cell in left_out:
            say(f"Left out: {cell}")
        check_seeds(arms)
        check_evaluations(arms)
        matrices = find_matrices(options.runs, arms)
        folder = options.output or (options.runs[0] / "report" if len(options.runs) == 1 else Path("report"))
        make_output(folder, "a report")
        figures = estimated(measure(arms, matrices, left_out))

    write_json(folder / "report.json", figures)
    pictures = draw(folder, figures)
    text = Page(figures, pictures).text()
    write_text(folder / "report.md", text)
    arms = figures["arms"]
    number = sum(len(arm["folders"]) for arm in arms)
    say(
        f"{number} run{'s' * (number > 1)} in {len(arms)} arm{'s' * (len(arms) > 1)}. Written to {folder}: report.md, "
        f"report.json, {len(pictures)} figures as PNG and SVG."
    )
    return 0


def kept(paths: Sequence[Path]) -> Path | None:
    """The `report.json` that `paths` are: itself, or the folder that has it and no runs; None if they are not one.

    Raises:
      UsageError: a report is among several paths.
    """
    found = [path for path in paths if path.is_file()]
    found += [
        path / "report.json"
        for path in paths
        if (path / "report.json").is_file() and next(path.rglob("config.json"), None) is None
    ]
    if found and len(paths) > 1:
        raise UsageError(f"{found[0]} is a report: it is made again by itself. Name it alone, or name runs.")
    return found[0] if found else None


def read(path: Path) -> Figures:
    """The figures of a `report.json`, estimated again.

    Raises:
      UsageError: it is not one.
    """
    try:
        figures = json.loads(path.read_text())
        missing = {"seeds", "policies", "arms", "left_out"} - figures.keys()
        if not missing:
            return estimated(figures)
        why = f"it has no {', no '.join(sorted(missing))}"
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        why = f"{type(error).__name__}: {error}"
    raise UsageError(f"{path} is not the report.json of a report ({why}). Make the report from its runs.")


if __name__ == "__main__":
    command_line.main(run)
