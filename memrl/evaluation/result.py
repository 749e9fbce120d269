"""What an evaluation found: plain data, as `evaluation.json` has it, and what to read from it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic asks for this one where Python is older than 3.12

from memrl.files import FileError, read_json
from memrl.tracking import write_json

INTERVAL = "95%: mean ± 1.96 standard errors over the trials; of shares of trials, Wilson's"


class Interval(TypedDict):
    """A mean over trials."""

    mean: float
    """The mean."""
    low: float
    """Lower end of the interval of the mean."""
    high: float
    """Upper end of the interval of the mean."""


Means = TypedDict("Means", {"return": Interval, "length": Interval, "outcomes": dict[str, Interval | None]})
"""Means over episodes, or trials: their return, their steps, and what the environment reported at their end, None
where none ended."""


class EpisodesEntry(Means):
    """How episodes went in one setting with one size of memory."""

    split: str | None
    """Name of the setting; None: the one trained in."""
    horizon: int
    """Steps of an episode, at most."""
    budget: int | None
    """Steps that the memory has room for; None: it is not restricted."""
    players: dict[str, Means]
    """Means of the reference players, by name."""
    state_bytes_per_env: int
    """Bytes of the state of the memory, for one environment."""
    tokens_attended: float
    """Tokens that the memory read in a step, on average."""


class WindowsEntry(TypedDict):
    """How trials of one length went with one size of memory.

    For every reference player PLAYER there is `PLAYER_return_per_window` besides, see `returns_per_window`.
    """

    horizon: int
    """Steps of a trial."""
    budget: int | None
    """Steps that the memory has room for; None: it is not restricted."""
    return_per_window: list[float]
    """The mean return in each window."""
    return_per_window_low: list[float]
    """Lower ends of the intervals of the mean returns."""
    return_per_window_high: list[float]
    """Upper ends of the intervals of the mean returns."""
    outcomes_per_window: dict[str, list[float | None]]
    """What the environment reported of the attempts that ended in each window, on average; None where none did."""
    state_bytes_per_env: int
    """Bytes of the state of the memory, for one environment."""
    tokens_attended: float
    """Tokens that the memory read in a step, on average."""


class InContext(TypedDict):
    """How much is learned within a trial; None where there is nothing to divide by."""

    last_window_over_upper_bound: float | None
    """The return in the last window over the mean return per window of the best player."""
    last_window_over_first: float | None
    """The return in the last window over that in the first."""


class Evaluation(TypedDict):
    """All that an evaluation found, of one policy."""

    seed: int
    """Seed of tasks and actions."""
    num_trials: int
    """Trials of each length with each size of memory."""
    trial_length: int
    """Steps of a trial, or of an episode at most, as trained."""
    interval: str
    """What the intervals are."""
    players: list[str]
    """Names of the reference players, the best one first."""
    window_length: NotRequired[int]
    """Steps of a window, where a trial is a fixed number of steps."""
    in_context: NotRequired[InContext]
    """What was learned within a trial, where a trial is a fixed number of steps."""
    windows: NotRequired[list[WindowsEntry]]
    """How trials of a fixed number of steps went: the trained length first, the unrestricted memory first."""
    episodes: NotRequired[list[EpisodesEntry]]
    """How episodes went where they end by the task, and in other settings: the one trained in first."""


class SavedEvaluation(Evaluation):
    """An evaluation in the folder of a run."""

    config: str
    """Name of the config of the run."""
    update: int
    """Updates that made the parameters."""


def windows_of(evaluation: Evaluation) -> list[WindowsEntry]:
    """How trials of a fixed number of steps went; none where episodes end by the task."""
    return evaluation.get("windows", [])


def episodes_of(evaluation: Evaluation) -> list[EpisodesEntry]:
    """How episodes went; none where a trial is a fixed number of steps."""
    return evaluation.get("episodes", [])


def main_measure(means: Iterable[Means]) -> Literal["success", "return"]:
    """What says most of episodes that are compared: success if the environment reports it of all, else the return."""
    return "success" if all(one["outcomes"].get("success") for one in means) else "return"


def measured(means: Means, measure: str) -> Interval:
    """What was found of a measure: `return`, or the name of an outcome that is reported."""
    if measure == "return":
        return means["return"]
    if (found := means["outcomes"].get(measure)) is None:
        raise KeyError(f"No {measure} is reported.")
    return found


def returns_per_window(entry: WindowsEntry, player: str | None = None) -> list[float]:
    """The mean return in each window, of the policy or of a reference player."""
    named: Mapping[str, Any] = entry
    return named["return_per_window" if player is None else f"{player}_return_per_window"]


def write_evaluation(path: str | Path, evaluation: SavedEvaluation) -> None:
    """Writes `evaluation.json`."""
    write_json(path, evaluation)


def read_evaluation(path: str | Path, remedy: str = "Evaluate the run again.") -> SavedEvaluation:
    """The evaluation in the file `evaluation.json`; FileError, with a `remedy`, if it is not a whole one."""
    evaluation = read_json(path, SavedEvaluation, remedy)
    windows, episodes = windows_of(evaluation), episodes_of(evaluation)
    missing = [] if windows or episodes else ["windows and episodes"]
    for player in evaluation["players"]:
        of_player = f"{player}_return_per_window"
        missing += [f"windows.{n}.{of_player}" for n, entry in enumerate(windows) if of_player not in entry]
        missing += [f"episodes.{n}.players.{player}" for n, one in enumerate(episodes) if player not in one["players"]]
    if missing:
        raise FileError(f"{path} is damaged: {missing[0]}: field required. {remedy}")
    return evaluation
