"""Comparisons of policies, as PNG and as SVG.

Every policy has the same colour, line and marker in every picture that is given the same names.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np

from memrl.plotting.figure import AGENT, FORMATS, REFERENCES, draw, draw_panels, legend_beside, mark_time

POLICIES = (AGENT, "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""The palette of Okabe and Ito without black, which is for references, and yellow, which is too pale for lines."""
DASHES = ("-", "--", "-.", ":")
"""Styles of lines; after the last colour they begin again with the next style."""
MARKERS = "osD^vP"
CROWD = 10
"""From so many policies on, which would hide each other, there are several plots, each with one for every colour."""
FEW_POINTS = 30
"""Lines of no more points than this have markers."""


class Curve(NamedTuple):
    """What is known at some points: arrays `[points]`. Without intervals `low` and `high` are None, at a point NaN."""

    x: np.ndarray
    value: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


class Style(NamedTuple):
    """How a policy is drawn."""

    color: str
    linestyle: str
    marker: str


def policy_styles(names: Sequence[str]) -> dict[str, Style]:
    """A style for each name, all different for up to 24 of them."""
    number = len(POLICIES)
    return {
        name: Style(POLICIES[i % number], DASHES[i // number % len(DASHES)], MARKERS[(i + i // number) % len(MARKERS)])
        for i, name in enumerate(names)
    }


def plot_curves(
    curves: Mapping[str, Curve],
    path: str | Path,
    styles: Mapping[str, Style],
    *,
    xlabel: str,
    ylabel: str,
    references: Mapping[str, Curve | float] | None = None,
    mark: tuple[float, str] | None = None,
) -> list[Path]:
    """Draws a line for each policy, its interval as a band. From `CROWD` policies on there are several panels.

    Args:
      curves: by name.
      path: the file to write; its suffix is replaced.
      styles: of at least these names.
      xlabel: what the horizontal axis shows, with its unit.
      ylabel: what the vertical axis shows, with its unit.
      references: of players to compare with: lines, or figures that hold everywhere.
      mark: a point in time to be marked, and what it is called.

    Returns:
      The files.
    """
    parts = _parts(list(curves))
    with draw_panels(path, len(parts), 6.4, 3.2, "y", FORMATS) as panels:
        for axes, names in zip(panels, parts, strict=True):
            for (name, reference), (colour, dashes) in zip((references or {}).items(), cycle(REFERENCES), strict=False):
                line = {"color": colour, "linestyle": dashes, "linewidth": 1.2, "label": name}
                if isinstance(reference, Curve):
                    axes.plot(reference.x, reference.value, **line)
                else:
                    axes.axhline(reference, **line)
            for name in names:
                curve, style = curves[name], styles[name]
                if curve.low is not None and curve.high is not None:
                    axes.fill_between(curve.x, curve.low, curve.high, color=style.color, alpha=0.18, linewidth=0)
                line = {"color": style.color, "linestyle": style.linestyle, "linewidth": 1.6, "label": name}
                few = {"marker": style.marker, "markersize": 3.5} if len(curve.x) <= FEW_POINTS else {}
                axes.plot(curve.x, curve.value, **line, **few)
            if mark is not None:
                mark_time(axes, *mark)
            axes.set_xlim(left=0)
            axes.set_xlabel(xlabel)
            axes.set_ylabel(ylabel)
            legend_beside(axes)
    return [Path(path).with_suffix(f".{kind}") for kind in FORMATS]


def _parts(names: list[str]) -> list[list[str]]:
    """The policies of each panel of a plot."""
    number = len(names) if len(names) < CROWD else len(POLICIES)
    return [names[first : first + number] for first in range(0, len(names), number)]


def plot_costs(
    points: Mapping[str, Curve], path: str | Path, styles: Mapping[str, Style], *, xlabel: str, ylabel: str
) -> list[Path]:
    """Draws what each policy reaches at each cost, on a logarithmic axis, with intervals; as `plot_curves`.

    Where something costs nothing, 0 stands left of the least other cost, half a decade from the power of ten below it.
    """
    costs = np.concatenate([curve.x for curve in points.values()])
    if (costs == 0).any():
        decade = 10.0 ** np.floor(np.log10(min(costs[costs > 0], default=1)))
        scale = {"value": "symlog", "linthresh": decade, "linscale": 0.5, "subs": range(2, 10)}
    else:
        scale = {"value": "log"}
    parts = _parts(list(points))
    with draw_panels(path, len(parts), 6.4, 3.2, "y", FORMATS) as panels:
        for axes, names in zip(panels, parts, strict=True):
            for name in names:
                curve, style = points[name], styles[name]
                errors = None
                if curve.low is not None and curve.high is not None:
                    errors = np.array([curve.value - curve.low, curve.high - curve.value])
                line = {"color": style.color, "linestyle": style.linestyle, "linewidth": 1.2, "label": name}
                axes.errorbar(curve.x, curve.value, errors, marker=style.marker, markersize=5, capsize=2, **line)
            axes.set_xscale(**scale)
            axes.set_xlabel(xlabel)
            axes.set_ylabel(ylabel)
            legend_beside(axes)
    return [Path(path).with_suffix(f".{kind}") for kind in FORMATS]


def plot_intervals(
    estimates: Mapping[str, tuple[float, float | None, float | None]],
    path: str | Path,
    styles: Mapping[str, Style],
    *,
    xlabel: str,
) -> list[Path]:
    """Draws a figure for each policy, below each other, with its interval `(value, low, high)`; as `plot_curves`."""
    height = np.arange(len(estimates))[::-1]
    with draw(path, height=max(1.4, 0.7 + 0.3 * len(estimates)), grid="x", formats=FORMATS) as axes:
        for y, (name, (value, low, high)) in zip(height, estimates.items(), strict=True):
            style = styles[name]
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=style.color, linewidth=7, alpha=0.35, solid_capstyle="butt")
            axes.plot([value], [y], marker=style.marker, color=style.color, markersize=6)
        axes.set_yticks(height, list(estimates))
        axes.set_ylim(-0.6, len(estimates) - 0.4)
        axes.set_xlabel(xlabel)
    return [Path(path).with_suffix(f".{kind}") for kind in FORMATS]


class Beside(NamedTuple):
    """A figure of ours, its interval if it has one, and the published one."""

    value: float
    low: float | None
    high: float | None
    published: float


def plot_beside_published(
    panels: Mapping[str, Mapping[str, Beside]], path: str | Path, styles: Mapping[str, Style], *, xlabel: str, note: str
) -> list[Path]:
    """Draws figures of policies beside published ones, a panel for each setting; as `plot_curves`.

    Args:
      panels: by setting and policy.
      path: the file to write; its suffix is replaced.
      styles: of at least the policies in `panels`.
      xlabel: what the figures are, with their unit.
      note: where the published figures are from.
    """
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    height = dict(zip(names, range(len(names))[::-1], strict=True))
    with draw_panels(path, len(panels), 4.2, 1.0 + 0.26 * len(names), "x", FORMATS) as drawn:
        for axes, (setting, rows) in zip(drawn, panels.items(), strict=True):
            for name, (value, low, high, published) in rows.items():
                style, y = styles[name], height[name]
                if low is not None and high is not None:
                    axes.plot([low, high], [y, y], color=style.color, linewidth=7, alpha=0.35, solid_capstyle="butt")
                axes.plot([value], [y], "o", color=style.color, markersize=6)
                axes.plot([published], [y], "D", color="black", fillstyle="none", markersize=7)
            axes.set_yticks(list(height.values()), names)
            axes.set_ylim(-0.6, len(names) - 0.4)
            axes.set_title(setting, fontsize="medium")
            axes.set_xlabel(xlabel)
        last = drawn[-1]
        ours = last.plot([], [], "o", color="0.4", markersize=6, label="ours")
        theirs = last.plot([], [], "D", color="black", fillstyle="none", markersize=7, label=f"published, {note}")
        last.figure.legend(handles=[*ours, *theirs], loc="outside upper center", ncols=2, frameon=False)
    return [Path(path).with_suffix(f".{kind}") for kind in FORMATS]


def plot_matrix(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    path: str | Path,
    *,
    label: str,
    limits: tuple[float, float],
    diverging: bool = False,
    xlabel: str = "",
    ylabel: str = "",
) -> list[Path]:
    """Draws figures `[rows, columns]` as colours, and writes them into their cells; NaN leaves a cell empty.

    Args:
      values: the figures.
      rows: their names.
      columns: their names.
      path: the file to write; its suffix is replaced.
      label: what the figures are.
      limits: the figures of the first and the last colour.
      diverging: whether the middle of the limits is what matters.
      xlabel: what the columns are.
      ylabel: what the rows are.

    Returns:
      The files.
    """
    import matplotlib

    # Beside and below the cells there must be room for their names, which are upright and at an angle.
    beside, below = 0.08 * max(map(len, rows)), 0.045 * max(map(len, columns))
    size = {"width": 1.9 + beside + 0.62 * len(columns), "height": max(2.4, 1.2 + below + 0.34 * len(rows))}
    colours = matplotlib.colormaps["PuOr" if diverging else "viridis"]
    with draw(path, **size, grid=None, formats=FORMATS) as axes:
        axes.spines[["left", "bottom"]].set_visible(False)
        image = axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                red, green, blue, _ = colours(image.norm(value))
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5  # perceived brightness
                color = "white" if dark else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize="small", color=color)
        axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.set_title(label, loc="left", fontsize="medium")  # beside the colours there may be no room for it
        axes.figure.colorbar(image, ax=axes)
    return [Path(path).with_suffix(f".{kind}") for kind in FORMATS]
