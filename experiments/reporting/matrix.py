"""What `experiments.matrix` found: read again, and shown as a table and as colours."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from typing_extensions import TypedDict

from experiments.command_line import UsageError
from experiments.runs.arms import Arm
from memrl.evaluation import Means, main_measure, measured
from memrl.files import read_json
from memrl.plotting import plot_matrix


class TestedRun(TypedDict):
    """What a run did in each setting."""

    folder: str
    """Folder of the run, relative to that of the matrix."""
    seed: int
    """Seed of the run."""
    update: int
    """Updates that made the parameters tested."""
    settings: dict[str, Means]
    """How the run did, by the names of the settings; those that it cannot face are left out."""


class TestedArm(TypedDict):
    """Runs that differ in their seed alone."""

    label: str
    """Name of the arm."""
    trained: str | None
    """The setting that it was trained in, if that is among those tested."""
    memory: str
    """Registered name of the memory."""
    runs: list[TestedRun]
    """Runs of the arm, in order of their seeds."""


class TestedSetting(TypedDict):
    """A setting in which all runs are tested."""

    name: str
    """Name of the setting, in words."""
    trial_length: int
    """Steps of a trial, at most."""
    budget: float | None
    """What the memory has room for, in trained trial lengths; None: it is not restricted."""


class Matrix(TypedDict):
    """What `matrix.json` holds."""

    num_trials: int
    """Trials in each setting."""
    seed: int
    """Seed of the tasks and of the actions sampled."""
    interval: str
    """What the intervals are."""
    settings: list[TestedSetting]
    """Settings tested in: the columns."""
    arms: list[TestedArm]
    """Arms tested: the rows."""
    players: dict[str, dict[str, Means]]
    """What the reference players reach, by their names and those of the settings."""


def find_matrices(folders: Sequence[Path], arms: Sequence[Arm]) -> list[Matrix]:
    """What `matrix.json` holds in those of `folders` that have one.

    Args:
      folders: where runs are.
      arms: all runs that are compared.

    Raises:
      FileError, UsageError: one is damaged, of a run that is not compared, or of another checkpoint than the last.
    """
    runs = {run.folder.resolve(): run for arm in arms for run in arm.runs}
    found = []
    for path in dict.fromkeys(folder / "matrix.json" for folder in folders if (folder / "matrix.json").is_file()):
        again = f"Test again, python -m experiments.matrix {path.parent}, or remove it."
        result: Matrix = read_json(path, Matrix, again)
        tested = [(path.parent / run["folder"], run["update"]) for arm in result["arms"] for run in arm["runs"]]
        for folder, update in tested:
            if (run := runs.get(folder.resolve())) is None:
                raise UsageError(f"{path} is of {folder} too, which is not among the runs compared. {again}")
            if update != run.config.num_updates:
                raise UsageError(f"{path} is of update {update} of {folder}, not of its last. {again}")
        found.append(result)
    return found


def figures(result: Matrix) -> tuple[str, dict[str, dict[str, list[float]]], dict[str, dict[str, float]]]:
    """What is compared, success if all settings report it, else the return; its values for each seed, by policy and
    setting; and those of the reference players."""
    entries = [means for arm in result["arms"] for run in arm["runs"] for means in run["settings"].values()]
    measure = main_measure(entries)

    def value(means: Means) -> float:
        return measured(means, measure)["mean"]

    policies: dict[str, dict[str, list[float]]] = {}
    for arm in result["arms"]:
        row = policies[arm["label"]] = {}
        for run in arm["runs"]:
            for name, means in run["settings"].items():
                row.setdefault(name, []).append(value(means))
    players = {
        player: {name: value(means) for name, means in settings.items()}
        for player, settings in result["players"].items()
    }
    return measure, policies, players


def all_rows(result: Matrix) -> tuple[str, dict[str, dict[str, list[float]]]]:
    """As `figures`, policies and then players, in brackets, together."""
    what, policies, players = figures(result)
    rows = {f"({player})": {name: [value] for name, value in row.items()} for player, row in players.items()}
    return what, policies | rows


def table(result: Matrix) -> str:
    """The figures in Markdown: rows are what was trained, columns what is tested."""
    what, rows = all_rows(result)
    names = [setting["name"] for setting in result["settings"]]
    trained = {arm["label"]: arm["trained"] for arm in result["arms"]}
    seeds = max(len(arm["runs"]) for arm in result["arms"])
    lines = [
        f"# {what.capitalize()} of each policy in each setting",
        "",
        f"Mean over {seeds} seed{'s' * (seeds > 1)} (least to most), {result['num_trials']} trials each; bold: the "
        "setting trained in. In brackets: reference players.",
        "",
        f"| trained | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for label, row in rows.items():
        cells = []
        for name in names:
            values = row.get(name, [])
            text = f"{np.mean(values):.2f}" if values else ""
            text = f"**{text}**" if values and trained.get(label) == name else text
            cells.append(text + (f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(path: Path, result: Matrix) -> None:
    """Draws the means over seeds as colours."""
    what, rows = all_rows(result)
    names = [setting["name"] for setting in result["settings"]]
    means = np.array([[np.mean(row[name]) if row.get(name) else np.nan for name in names] for row in rows.values()])
    limits = (0.0, 1.0) if what == "success" else (min(0.0, np.nanmin(means)), np.nanmax(means))
    label = "success (share of episodes)" if what == "success" else "return"
    plot_matrix(means, list(rows), names, path, label=label, limits=limits, xlabel="tested", ylabel="trained")
