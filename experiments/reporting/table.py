"""What `experiments.run` and `experiments.evaluate` print of an evaluation."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.terminal import say

COLUMN_WIDTHS = {"trial": 7, "setting": 24}
"""Widths of the columns, in characters, where they are not as wide as their titles need."""


class Scale(NamedTuple):
    """What a figure is measured against."""

    name: str
    """In words, after "share" or "%"."""
    low: float
    """The figure whose share is 0."""
    high: float
    """The figure whose share is 1."""

    def share(self, value: float) -> float | None:
        """Where `value` is between the two; None where there is nothing between them, or a figure is not finite."""
        way = self.high - self.low
        return (value - self.low) / way if way > 0 and math.isfinite(value) and math.isfinite(way) else None


def scale_of(players: Mapping[str, float]) -> Scale | None:
    """From the memoryless player to the best, or of the best alone; None if there are no players.

    Args:
      players: a figure of each, the best player first.
    """
    best = next(iter(players), None)
    if best is None:
        return None
    if "memoryless" in players and best != "memoryless":
        return Scale(f"from memoryless to {best}", players["memoryless"], players[best])
    return Scale(f"of {best}", 0.0, players[best])


class Table:
    """Prints a line for each entry of `windows` and `episodes`, as soon as it is there."""

    def __init__(self, players: Sequence[str]) -> None:
        """`players` are those of the environment, the best one first."""
        self.players = players
        self.kind: str | None = None

    def add(self, entry: Mapping[str, Any]) -> None:
        """Prints the line of `entry`, after a head if it is the first of its kind."""
        kind, cells = ("episodes", self._episodes(entry)) if "split" in entry else ("windows", self._windows(entry))
        cells |= {
            "bytes of state": f"{entry['state_bytes_per_env']:,}",
            "tokens read": f"{entry['tokens_attended']:.1f}",
        }
        if kind != self.kind:
            self.kind = kind
            self._print(cells, cells)
        self._print(cells.values(), cells)

    def _windows(self, entry: Mapping[str, Any]) -> dict[str, str]:
        returns = entry["return_per_window"]
        cells = {
            "trial": str(entry["horizon"]),
            "remembers": _budget(entry),
            "first window": f"{returns[0]:.2f}",
            "last window": f"{returns[-1]:.2f}",
            "total": f"{sum(returns):.2f}",
        }
        totals: dict[str, float] = {name: sum(entry[f"{name}_return_per_window"]) for name in self.players}
        return cells | self._shares(sum(returns), totals)

    def _episodes(self, entry: Mapping[str, Any]) -> dict[str, str]:
        cells = {
            "setting": entry["split"] or "as trained",
            "remembers": _budget(entry),
            "steps": f"{entry['length']['mean']:.1f}",
            "return": f"{entry['return']['mean']:.2f}",
        }
        returns = {name: entry["players"][name]["return"]["mean"] for name in self.players}
        cells |= {f"{name}'s return": f"{value:.2f}" for name, value in returns.items()}
        cells |= self._shares(entry["return"]["mean"], returns)
        return cells | {name: f"{told['mean']:.2f}" if told else "" for name, told in entry["outcomes"].items()}

    def _shares(self, value: float, players: dict[str, float]) -> dict[str, str]:
        """How far a return is on the way to the best player, by the title of its column; none without players."""
        scale = scale_of(players)
        if scale is None:
            return {}
        share = scale.share(value)
        return {f"% {scale.name}": "" if share is None else f"{100 * share:.1f}"}

    def _print(self, cells: Iterable[str], head: Iterable[str]) -> None:
        """Prints cells in columns as wide as their titles in `head` need."""
        widths = [COLUMN_WIDTHS.get(title, max(9, len(title))) for title in head]
        say("  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))


def _budget(entry: Mapping[str, Any]) -> str:
    return "all" if entry["budget"] is None else str(entry["budget"])


def summary(result: Mapping[str, Any]) -> str:
    """What was learned within a trial, in words, from what `evaluate` returns."""
    trial, window = result["trial_length"], result["window_length"]
    entry, gain = result["windows"][0], result["in_context"]
    lines = []
    for name in result["players"]:
        returns = entry[f"{name}_return_per_window"]
        lines.append(
            f"{name}: {sum(returns):.2f} in {trial} steps, {returns[0]:.2f} in the first {window}, "
            f"{returns[-1]:.2f} in the last."
        )
    if (share := gain["last_window_over_upper_bound"]) is not None:
        lines.append(
            f"In the last {window} of {trial} steps the agent collects {100 * share:.1f}% "
            f"of what the {result['players'][0]} does in {window} on average."
        )
    if (ratio := gain["last_window_over_first"]) is not None:
        lines.append(f"In the last {window} of {trial} steps the agent collects {ratio:.2f} times its first {window}.")
    return "\n".join(lines)
