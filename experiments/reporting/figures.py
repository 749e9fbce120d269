"""Draws the figures of a report."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.reporting.comparison import Figures
from memrl.plotting import (
    Beside,
    Curve,
    Style,
    plot_beside_published,
    plot_costs,
    plot_curves,
    plot_intervals,
    plot_matrix,
    policy_styles,
)

Picture = Callable[[Path], list[Path]]
"""Draws into a file; returns the files written."""


def draw(folder: Path, figures: Figures) -> dict[str, str]:
    """Draws everything that `measure` found; returns the names of the PNG files by what they show."""
    styles = policy_styles(figures["policies"])
    several = len(figures["tasks"]) > 1
    drawn = {}
    for task, found in figures["tasks"].items():
        for kind, picture in task_pictures(found, styles).items():
            name = f"{kind}-{slug(task)}" if several else kind
            drawn[f"{task}/{kind}"] = picture(folder / f"{name}.png")[0].name
    for number, found in enumerate(figures["matrices"], start=1):
        name = "matrix" if len(figures["matrices"]) == 1 else f"matrix-{number}"
        drawn[f"/matrix-{number}"] = draw_cross_tested(found, folder / f"{name}.png")[0].name
    if (found := figures["aggregate"]) is not None and found["scores"]:
        for kind, picture in aggregate_pictures(found, styles).items():
            drawn[f"/{kind}"] = picture(folder / f"{kind}.png")[0].name
    return drawn


def slug(name: str) -> str:
    """`name` as part of the name of a file."""
    return re.sub(r"[^\w=.-]+", "_", name).replace(".", "_")


def task_pictures(found: Figures, styles: Mapping[str, Style]) -> dict[str, Picture]:
    """What draws each figure of a task, by the name of its file."""
    pictures: dict[str, Picture] = {}
    if found["learning"] and found["learning"]["curves"]:
        curves = {
            name: _curve(np.array(one["env_steps"]) / 1e6, one) for name, one in found["learning"]["curves"].items()
        }
        pictures["learning_curves"] = lambda path: plot_curves(
            curves,
            path,
            styles,
            xlabel="environment steps (millions)",
            ylabel="return per trial",
            references=found["learning"]["references"],
        )
    if over := found.get("horizons"):
        time = np.asarray(over["time"])
        pictures["horizons"] = lambda path: plot_curves(
            {name: _curve(time, one) for name, one in over["curves"].items()},
            path,
            styles,
            xlabel="time in the trial (steps)",
            ylabel=f"return per {over['window_length']} steps",
            references={name: Curve(time, np.array(one)) for name, one in over["players"].items()},
            mark=(over["trained"], "trained length"),
        )
    sizes = found["memory"]["sizes"]
    if any(len(of_policy) > 1 for of_policy in sizes.values()):
        points = {name: _costs(of_policy) for name, of_policy in sizes.items()}
        pictures["memory"] = lambda path: plot_costs(
            points,
            path,
            styles,
            xlabel="state of the memory (bytes per environment)",
            ylabel=found["memory"]["measure"],
        )
    if found["published"]:
        pictures["published"] = lambda path: draw_published(found["published"], path, styles)
    if split := found.get("settings"):
        values, label, limits = settings_matrix(split)
        pictures["settings"] = lambda path: plot_matrix(
            values, list(split["policies"]), split["names"], path, label=label, limits=limits, xlabel="setting"
        )
    return pictures


def _curve(x: np.ndarray, found: Figures) -> Curve:
    low, high = (None if found[name] is None else np.array(found[name], float) for name in ("low", "high"))
    return Curve(x, np.array(found["value"]), low, high)


def _costs(sizes: Sequence[Figures]) -> Curve:
    """Sizes of one memory by their cost."""
    ordered = sorted(sizes, key=lambda size: size["state_bytes_per_env"])
    # None, where there is no interval, becomes NaN, which is not drawn.
    value, low, high = (np.array([size[name] for size in ordered], float) for name in ("value", "low", "high"))
    return Curve(np.array([size["state_bytes_per_env"] for size in ordered]), value, low, high)


def settings_matrix(split: Figures) -> tuple[np.ndarray, str, tuple[float, float]]:
    """Figures `[policies, settings]` that can be compared between settings, what they are, and their range."""
    values = np.array([[one["value"] for one in row] for row in split["policies"].values()])
    if split["measure"] == "success":
        return values, "success (share of episodes)", (0.0, 1.0)
    best = next(iter(split["players"]), None)
    if best is not None and min(split["players"][best]) > 0:
        values = values / np.array(split["players"][best])
        return values, f"return (share of {best})", (min(0.0, values.min()), max(1.0, values.max()))
    return values, "return", (values.min(), values.max())


def draw_published(rows: Sequence[Figures], path: Path, styles: Mapping[str, Style]) -> list[Path]:
    """Draws our figures beside published ones: of success if there are any, else of the return."""
    told = "success" if any(row["measure"] == "success" for row in rows) else "return"
    rows = [row for row in rows if row["measure"] == told]
    panels: dict[str, dict[str, Beside]] = {}
    for row in rows:
        beside = Beside(row["ours"]["value"], row["ours"]["low"], row["ours"]["high"], row["published"])
        panels.setdefault(row["setting"], {})[row["policy"]] = beside
    label = "success (share of episodes)" if told == "success" else "return in a trial"
    note = "; ".join(dict.fromkeys(row["confidence"] for row in rows))
    return plot_beside_published(panels, path, styles, xlabel=label, note=note)


def draw_cross_tested(found: Figures, path: Path) -> list[Path]:
    """Draws what was trained and what is tested as colours."""
    values = np.array([[np.nan if one is None else one["value"] for one in row] for row in found["policies"].values()])
    success = found["measure"] == "success"
    return plot_matrix(
        values,
        list(found["policies"]),
        found["names"],
        path,
        label="success (share of episodes)" if success else "return",
        limits=(0.0, 1.0) if success else (min(0.0, np.nanmin(values)), np.nanmax(values)),
        xlabel="tested",
        ylabel="trained",
    )


def aggregate_pictures(found: Figures, styles: Mapping[str, Style]) -> dict[str, Picture]:
    """What draws each figure over several tasks, by the name of its file."""
    estimates = {name: (one["value"], one["low"], one["high"]) for name, one in found["interquartile_mean"].items()}
    profile = {name: one for name, one in found["profile"].items() if name != "thresholds"}
    thresholds = np.asarray(found["profile"]["thresholds"])
    zero, top = (" or ".join(dict.fromkeys(task[end][0] for task in found["tasks"].values())) for end in "01")
    ends = f"(0: {zero}, 1: {top})"
    pictures: dict[str, Picture] = {
        "interquartile_mean": lambda path: plot_intervals(
            estimates, path, styles, xlabel=f"interquartile mean of normalised scores\n{ends}"
        ),
        "performance_profile": lambda path: plot_curves(
            {name: _curve(thresholds, one) for name, one in profile.items()},
            path,
            styles,
            xlabel=f"normalised score τ\n{ends}",
            ylabel="share of runs with a score above τ",
        ),
    }
    names = list(found["improvement"])
    if len(names) > 1:
        values = np.full((len(names), len(names)), np.nan)
        for row, one in enumerate(names):
            for column, other in enumerate(names):
                if one != other:
                    values[row, column] = found["improvement"][one][other]["value"]
        pictures["improvement"] = lambda path: plot_matrix(
            values,
            names,
            names,
            path,
            label="P(row > column)",
            limits=(0.0, 1.0),
            diverging=True,
            xlabel="than this policy",
            ylabel="a run of this policy is better",
        )
    return pictures
