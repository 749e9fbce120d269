"""Pictures of results. A file already there is replaced only once the new one is complete.

Those of one run are PNG files; those that compare runs are written as PNG and as SVG.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memrl.files import replacing

AGENT = "#0072B2"  # from the palette of Okabe and Ito (2008), made for every kind of colour vision
REFERENCES = (("black", "--"), ("0.45", ":"), ("0.3", "-."), ("0.6", (0, (8, 3))))
"""Colour and style of each reference line; after the last it begins again."""
FORMATS = ("png", "svg")
"""Of pictures that may go into a paper: all but those of the curves of one run."""


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
    with _axes(path) as axes:
        _player_lines(axes, time, evaluation["players"], entry)
        _line_with_interval(axes, time, entry, color=AGENT, marker="o", markersize=4, label="agent")
        axes.set_xlim(0, entry["horizon"])
        axes.set_xlabel("time in the trial (steps)")
        axes.set_ylabel(f"return per {window} steps")
        _legend_above(axes)
    return Path(path)


def plot_horizons(evaluation: Mapping[str, Any], path: str | Path) -> Path:
    """Draws the return over the longest trial for each memory budget; arguments as for `plot_in_context`."""
    import matplotlib

    window, horizon = evaluation["window_length"], max(entry["horizon"] for entry in evaluation["windows"])
    entries = [entry for entry in evaluation["windows"] if entry["horizon"] == horizon]
    time = window_centres(entries[0], window)
    # Budgets have an order, and so have these colours, from dark to light.
    colours = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.85, len(entries)))
    with _axes(path, width=6.4) as axes:
        _player_lines(axes, time, evaluation["players"], entries[0])
        for entry, colour in zip(entries, colours, strict=True):
            budget = "the whole trial" if entry["budget"] is None else f"{entry['budget']} steps"
            label = "agent" if len(entries) == 1 else f"remembers {budget}"
            _line_with_interval(axes, time, entry, color=colour, label=label)
        _mark(axes, evaluation["trial_length"], "trained length")
        axes.set_xlim(0, horizon)
        axes.set_xlabel("time in the trial (steps)")
        axes.set_ylabel(f"return per {window} steps")
        _legend_beside(axes)
    return Path(path)


def plot_splits(evaluation: Mapping[str, Any], path: str | Path) -> Path:
    """Draws how episodes went in each setting, beside the reference players; arguments as for `plot_in_context`.

    Success, if the environment tells it, else the return. The memory is the unrestricted one.
    """
    entries = [entry for entry in evaluation["episodes"] if entry["budget"] is None]
    success = all(entry["outcomes"].get("success") for entry in entries)

    def measured(means: Mapping[str, Any]) -> Mapping[str, float]:
        return means["outcomes"]["success"] if success else means["return"]

    height = np.arange(len(entries))[::-1]
    with _axes(path, width=6.4, height=max(1.4, 0.6 + 0.3 * len(entries)), grid="x") as axes:
        for name, marker, (colour, _) in zip(evaluation["players"], cycle("|x+"), cycle(REFERENCES), strict=False):
            values = [measured(entry["players"][name])["mean"] for entry in entries]
            axes.plot(values, height, marker, color=colour, markersize=7, label=name)
        mean, low, high = (np.array([measured(entry)[name] for entry in entries]) for name in ("mean", "low", "high"))
        axes.errorbar(mean, height, xerr=(mean - low, high - mean), fmt="o", color=AGENT, markersize=5, label="agent")
        axes.set_yticks(height, [entry["split"] or "as trained" for entry in entries])
        axes.set_ylim(-0.6, len(entries) - 0.4)
        axes.set_xlabel("success (share of episodes)" if success else "return per episode")
        _legend_above(axes)
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
    with _axes(path) as axes:
        for (name, value), (colour, style) in zip((references or {}).items(), cycle(REFERENCES), strict=False):
            axes.axhline(value, color=colour, linestyle=style, label=name)
        axes.plot(steps, returns, color=AGENT, linewidth=1.2, label="agent")
        axes.set_xlim(left=0)
        axes.set_xlabel("environment steps (millions)")
        axes.set_ylabel("return per trial")
        _legend_above(axes)
    return Path(path)


def window_centres(entry: Mapping[str, Any], window: int) -> np.ndarray:
    """The time, in steps, of the middle of each window of an entry of `windows`."""
    return (np.arange(len(entry["return_per_window"])) + 0.5) * window


def _player_lines(axes, time: np.ndarray, players: Sequence[str], entry: Mapping[str, Any]) -> None:
    for name, (colour, style) in zip(players, cycle(REFERENCES), strict=False):
        axes.plot(time, entry[f"{name}_return_per_window"], color=colour, linestyle=style, label=name)


def _legend_above(axes) -> None:
    # In the axes it could cover a line.
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)


def _legend_beside(axes) -> None:
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _mark(axes, x: float, name: str) -> None:
    """A vertical line with its name."""
    axes.axvline(x, color="0.4", linewidth=1)
    axes.annotate(
        name,
        (x, 0),
        xycoords=("data", "axes fraction"),
        xytext=(4, 4),
        textcoords="offset points",
        fontsize="small",
        color="0.4",
    )


def _line_with_interval(axes, time: np.ndarray, entry: Mapping[str, Any], color, **style) -> None:
    low, high = entry["return_per_window_low"], entry["return_per_window_high"]
    axes.fill_between(time, low, high, color=color, alpha=0.2, linewidth=0)
    axes.plot(time, entry["return_per_window"], color=color, **style)


@contextmanager
def _axes(
    path: str | Path, width: float = 4.8, height: float = 3.2, grid: str | None = "y", formats: Sequence[str] = ("png",)
) -> Iterator[Any]:
    """Axes to draw on, as `_panels`."""
    with _panels(path, 1, width, height, grid, formats) as (axes,):
        yield axes


@contextmanager
def _panels(
    path: str | Path, number: int, width: float, height: float, grid: str | None, formats: Sequence[str]
) -> Iterator[list[Any]]:
    """Axes to draw on, two beside each other, saved to `path` afterwards, with each of the `formats` for its suffix.

    Both axes have the same limits in all panels. The one that `grid` names begins at 0 or, if there is something below,
    there. `width` and `height` are those of one panel.
    """
    # Not through pyplot, which would look for a display and remember every figure.
    from matplotlib.figure import Figure

    columns = min(number, 2)
    lines = -(-number // columns)
    figure = Figure(figsize=(columns * width, lines * height), layout="constrained")
    panels = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelbottom=True, labelleft=True)
        if grid is not None:
            axes.grid(axis=grid, color="0.9", linewidth=0.8)
            axes.set_axisbelow(True)
    for axes in panels[number:]:
        axes.remove()
    panels = panels[:number]
    yield panels
    if grid == "y":
        panels[0].set_ylim(bottom=min(0, panels[0].get_ylim()[0]))
    if grid == "x":
        panels[0].set_xlim(left=min(0, panels[0].get_xlim()[0]))
    save_figure(figure, path, formats)


def save_figure(figure: Any, path: str | Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Saves a matplotlib figure to `path`, with each of the `formats` for its suffix.

    Returns:
      The files, in the order of the formats.
    """
    from matplotlib import rc_context

    files = [Path(path).with_suffix(f".{kind}") for kind in formats]
    files[0].parent.mkdir(parents=True, exist_ok=True)
    # The same figures give the same file: no date in it, no names drawn at random, and places that are rounded, since
    # the layout differs from call to call in the last digits.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(np.round(axes.get_position(original=True).bounds, 6))
    for kind, file in zip(formats, files, strict=True):
        with replacing(file) as incomplete, rc_context({"svg.hashsalt": "memrl"}):
            figure.savefig(incomplete, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
    return files


# Comparisons of policies. Every one has the same colour, line and marker in every picture that is given the same names.

POLICIES = (AGENT, "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""The palette of Okabe and Ito without black, which is for references, and yellow, which is too pale for lines."""
DASHES = ("-", "--", "-.", ":")
"""Styles of lines; after the last colour they begin again with the next style."""
MARKERS = "osD^vP"
CROWD = 10
"""So many policies hide each other in one plot: they get several, each with as many as there are colours."""
FEW_POINTS = 30
"""Lines of no more points than this have markers."""


class Curve(NamedTuple):
    """What is known at some points: arrays `[points]`; `low` and `high` are None where there is no interval."""

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
      xlabel, ylabel: what the axes show, with units.
      references: of players to compare with: lines, or figures that hold everywhere.
      mark: a point in time to be marked, and what it is called.

    Returns:
      The files.
    """
    parts = _parts(list(curves))
    with _panels(path, len(parts), 6.4, 3.2, "y", FORMATS) as panels:
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
                _mark(axes, *mark)
            axes.set_xlim(left=0)
            axes.set_xlabel(xlabel)
            axes.set_ylabel(ylabel)
            _legend_beside(axes)
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
    with _panels(path, len(parts), 6.4, 3.2, "y", FORMATS) as panels:
        for axes, names in zip(panels, parts, strict=True):
            for name in names:
                curve, style = points[name], styles[name]
                errors = None
                if curve.low is not None and curve.high is not None:
                    # An interval of percentiles may leave out the figure itself.
                    errors = np.maximum([curve.value - curve.low, curve.high - curve.value], 0)
                line = {"color": style.color, "linestyle": style.linestyle, "linewidth": 1.2, "label": name}
                axes.errorbar(curve.x, curve.value, errors, marker=style.marker, markersize=5, capsize=2, **line)
            axes.set_xscale(**scale)
            axes.set_xlabel(xlabel)
            axes.set_ylabel(ylabel)
            _legend_beside(axes)
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
    with _axes(path, height=max(1.4, 0.7 + 0.3 * len(estimates)), grid="x", formats=FORMATS) as axes:
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
      path, styles, xlabel: as for `plot_intervals`.
      note: where the published figures are from.
    """
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    height = dict(zip(names, range(len(names))[::-1], strict=True))
    with _panels(path, len(panels), 4.2, 1.0 + 0.26 * len(names), "x", FORMATS) as drawn:
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
        ours = axes.plot([], [], "o", color="0.4", markersize=6, label="ours")
        theirs = axes.plot([], [], "D", color="black", fillstyle="none", markersize=7, label=f"published, {note}")
        axes.figure.legend(handles=[*ours, *theirs], loc="outside upper center", ncols=2, frameon=False)
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
      rows, columns: their names.
      path: the file to write; its suffix is replaced.
      label: what the figures are.
      limits: the figures of the first and the last colour.
      diverging: whether the middle of the limits is what matters.
      xlabel, ylabel: what rows and columns are.

    Returns:
      The files.
    """
    import matplotlib

    # Beside and below the cells there must be room for their names, which are upright and at an angle.
    beside, below = 0.08 * max(map(len, rows)), 0.045 * max(map(len, columns))
    size = {"width": 1.9 + beside + 0.62 * len(columns), "height": max(2.4, 1.2 + below + 0.34 * len(rows))}
    colours = matplotlib.colormaps["PuOr" if diverging else "viridis"]
    with _axes(path, **size, grid=None, formats=FORMATS) as axes:
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
