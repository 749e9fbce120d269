"""What `experiments.run` and `experiments.evaluate` print of an evaluation."""

from collections.abc import Iterable, Sequence
from typing import Any

COLUMN_WIDTHS = {"trial": 7, "setting": 24}
"""Of the table, in characters, where not as wide as their titles need."""


class Table:
    """Prints a line for each entry of `windows` and `episodes`, as soon as it is there."""

    def __init__(self, players: Sequence[str]):
        """`players` are those of the environment, the best one first."""
        self.players = players
        self.kind: str | None = None

    def add(self, entry: dict[str, Any]) -> None:
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

    def _windows(self, entry: dict[str, Any]) -> dict[str, str]:
        returns = entry["return_per_window"]
        cells = {
            "trial": str(entry["horizon"]),
            "remembers": _budget(entry),
            "first window": f"{returns[0]:.2f}",
            "last window": f"{returns[-1]:.2f}",
            "total": f"{sum(returns):.2f}",
        }
        if self.players:
            best = sum(entry[f"{self.players[0]}_return_per_window"])
            cells[f"% of {self.players[0]}"] = f"{100 * sum(returns) / best:.1f}" if best > 0 else ""
        return cells

    def _episodes(self, entry: dict[str, Any]) -> dict[str, str]:
        cells = {
            "setting": entry["split"] or "as trained",
            "remembers": _budget(entry),
            "steps": f"{entry['length']['mean']:.1f}",
            "return": f"{entry['return']['mean']:.2f}",
        }
        cells |= {f"of {name}": f"{entry['players'][name]['return']['mean']:.2f}" for name in self.players}
        return cells | {name: f"{told['mean']:.2f}" if told else "" for name, told in entry["outcomes"].items()}

    def _print(self, cells: Iterable[str], head: Iterable[str]) -> None:
        """Prints cells in columns as wide as their titles in `head` need."""
        widths = [COLUMN_WIDTHS.get(title, max(9, len(title))) for title in head]
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)), flush=True)


def _budget(entry: dict[str, Any]) -> str:
    return "all" if entry["budget"] is None else str(entry["budget"])


def summary(result: dict[str, Any]) -> str:
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
