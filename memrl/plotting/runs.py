"""Pictures of one run, as PNG files."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from memrl.evaluation.result import main_measure, measured
from memrl.plotting.figure import AGENT, REFERENCES, draw, legend_above, legend_beside, mark_time


def plot_in_context(evaluation: Mapping[str, Any], path: str | Path) -> Path:
    """Draws what the agent learns within a trial of the trained length, beside the reference players.

    Args:
      evaluation: as returned by `memrl.evaluation.evaluate`.
      path: the PNG file to write.

    Returns:
      The path.
    """
    entry, window = evaluation["windows"][0], evaluation["window_length"]
    time = window_centres(entry, window)
    with draw(path) as axes:
        _player_lines(axes, time, evaluation["players"], entry)
        _line_with_interval(axes, time, entry, color=AGENT, marker="o", markersize=4, label="agent")
        axes.set_xlim(0, entry["horizon"])
        axes.set_xlabel("time in the trial (steps)")
        axes.set_ylabel(f"return per {window} steps")
        legend_above(axes)
    return Path(path)


def plot_horizons(evaluation: Mapping[str, Any], path: str | Path) -> Path:
    """Draws the return over the longest trial for each memory budget; arguments as for `plot_in_context`."""
    import matplotlib

    window, horizon = evaluation["window_length"], max(entry["horizon"] for entry in evaluation["windows"])
    entries = [entry for entry in evaluation["windows"] if entry["horizon"] == horizon]
    time = window_centres(entries[0], window)
    # Budgets have an order, and so have these colours, from dark to light.
    colours = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.85, len(entries)))
    with draw(path, width=6.4) as axes:
        _player_lines(axes, time, evaluation["players"], entries[0])
        for entry, colour in zip(entries, colours, strict=True):
            budget = "the whole trial" if entry["budget"] is None else f"{entry['budget']} steps"
            label = "agent" if len(entries) == 1 else f"remembers {budget}"
            _line_with_interval(axes, time, entry, color=colour, label=label)
        mark_time(axes, evaluation["trial_length"], "trained length")
        axes.set_xlim(0, horizon)
        axes.set_xlabel("time in the trial (steps)")
        axes.set_ylabel(f"return per {window} steps")
        legend_beside(axes)
    return Path(path)


def plot_splits(evaluation: Mapping[str, Any], path: str | Path) -> Path:
    """Draws how episodes went in each setting, beside the reference players; arguments as for `plot_in_context`.

    It is success, if the environment reports that, else the return. The memory is the unrestricted one.
    """
    entries = [entry for entry in evaluation["episodes"] if entry["budget"] is None]
    measure = main_measure(entries)

    height = np.arange(len(entries))[::-1]
    with draw(path, width=6.4, height=max(1.4, 0.6 + 0.3 * len(entries)), grid="x") as axes:
        for name, marker, (colour, _) in zip(evaluation["players"], cycle("|x+"), cycle(REFERENCES), strict=False):
            values = [measured(entry["players"][name], measure)["mean"] for entry in entries]
            axes.plot(values, height, marker, color=colour, markersize=7, label=name)
        mean, low, high = (
            np.array([measured(entry, measure)[name] for entry in entries]) for name in ("mean", "low", "high")
        )
        axes.errorbar(mean, height, xerr=(mean - low, high - mean), fmt="o", color=AGENT, markersize=5, label="agent")
        axes.set_yticks(height, [entry["split"] or "as trained" for entry in entries])
        axes.set_ylim(-0.6, len(entries) - 0.4)
        axes.set_xlabel("success (share of episodes)" if measure == "success" else "return per episode")
        legend_above(axes)
    return Path(path)


def plot_training(
    metrics: Sequence[Mapping[str, Any]], path: str | Path, references: Mapping[str, float] | None = None
) -> Path:
    """Draws the return of training trials over time.

    Args:
      metrics: the lines of `metrics.jsonl`, in order; those without a finished trial are left out.
      path: the PNG file to write.
      references: returns per trial to compare with, by name.

    Returns:
      The path.
    """
    points = [(line["env_steps"] / 1e6, line["return"]) for line in metrics if line["return"] is not None]
    steps, returns = np.array(points).reshape(-1, 2).T
    with draw(path) as axes:
        for (name, value), (colour, style) in zip((references or {}).items(), cycle(REFERENCES), strict=False):
            axes.axhline(value, color=colour, linestyle=style, label=name)
        axes.plot(steps, returns, color=AGENT, linewidth=1.2, label="agent")
        axes.set_xlim(left=0)
        axes.set_xlabel("environment steps (millions)")
        axes.set_ylabel("return per trial")
        legend_above(axes)
    return Path(path)


def window_centres(entry: Mapping[str, Any], window: int) -> np.ndarray:
    """The time, in steps, of the middle of each window of an entry of `windows`."""
    return (np.arange(len(entry["return_per_window"])) + 0.5) * window


def _player_lines(axes: Any, time: np.ndarray, players: Sequence[str], entry: Mapping[str, Any]) -> None:
    for name, (colour, style) in zip(players, cycle(REFERENCES), strict=False):
        axes.plot(time, entry[f"{name}_return_per_window"], color=colour, linestyle=style, label=name)


def _line_with_interval(axes: Any, time: np.ndarray, entry: Mapping[str, Any], color: str, **style: Any) -> None:
    low, high = entry["return_per_window_low"], entry["return_per_window_high"]
    axes.fill_between(time, low, high, color=color, alpha=0.2, linewidth=0)
    axes.plot(time, entry["return_per_window"], color=color, **style)
