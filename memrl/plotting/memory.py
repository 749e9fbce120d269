"""Pictures of what happens inside a memory, each as PNG and as SVG, and the frames of a video of it.

A file already there is replaced only once the new one is complete.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memrl.plotting.figure import save_figure

SHOWN = "#D55E00"
"""Colour of the moments at which something was shown, from the palette of Okabe and Ito (2008), as those below."""
UNITS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Colours of the units of a gate, where there are so few that each has a line."""
SOURCES = {
    "state": ("the memory's state", "#0072B2", "o-"),
    "output": ("the memory's output", "#E69F00", "s-"),
    "input": ("the present input alone", "0.45", "^:"),
}
"""Sources of a probe: name, colour and style of each."""
END = {"color": "0.35", "linewidth": 0.8, "linestyle": (0, (4, 3))}
"""Style of the line where an attempt or an episode ends."""
WIDTH = 6.4  # inches
LEGEND_SPACE = 0.3


class Events(NamedTuple):
    """What happened in the `T` steps of a trial."""

    over: np.ndarray
    """Whether the step ended an attempt or an episode, bool `[T]`."""
    shown: Mapping[str, np.ndarray]
    """Whether each fact was shown to the agent with the input of the step, by name, bool `[T]`; without those that
    never were."""
    ends: str
    """Name of what ends: attempt or episode."""


def plot_attention(maps: Mapping[str, np.ndarray], events: Events, path: Path) -> list[Path]:
    """Draws which steps were attended to when.

    Args:
      maps: by layer, the weight of each step (second axis) at each time (first axis), `[T, T]`; see
        `memrl.introspection.attention_map`.
      events: in the same steps.
      path: the file to write; its suffix is replaced.

    Returns:
      The files.
    """
    return save_figure(attention_figure(maps, events), path)


def attention_figure(maps: Mapping[str, np.ndarray], events: Events) -> Any:
    """The figure that `plot_attention` saves."""
    from matplotlib.colors import PowerNorm
    from matplotlib.patches import Rectangle

    figure, panels = _timeline(len(maps), 2.3, events, "shown to the agent; framed: the same steps")
    most = max(float(seen.max()) for seen in maps.values())
    images = []
    for axes, (name, seen) in zip(panels, maps.items(), strict=True):
        image = axes.imshow(
            np.ma.masked_less_equal(seen.T, 1e-6),
            cmap="viridis_r",
            norm=PowerNorm(0.5, 0, most),
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            extent=(0, len(seen), 0, seen.shape[1]),
        )
        images.append(image)
        for first, last in (run for told in events.shown.values() for run in _runs(told)):
            width = _forgotten_at(events, first) - first
            axes.add_patch(Rectangle((first, first), width, last - first, fill=False, edgecolor=SHOWN, linewidth=0.7))
        axes.set_title(name, fontsize="medium", loc="left")
        axes.set_ylabel("step attended to")
    figure.colorbar(images[-1], ax=panels, label="attention weight (mean over heads)", pad=0.02, aspect=30)
    return figure


def plot_gates(gates: Mapping[str, tuple[np.ndarray, float]], events: Events, path: Path) -> list[Path]:
    """Draws how far gates were open when.

    Args:
      gates: by layer and name, how far each unit was open, `[T, units]`, 0 where closed, and what fully open is.
      events: what happened in the trial, as for `plot_attention`.
      path: the file to write; its suffix is replaced.

    Returns:
      The files.
    """
    return save_figure(gates_figure(gates, events), path)


def gates_figure(gates: Mapping[str, tuple[np.ndarray, float]], events: Events) -> Any:
    """The figure that `plot_gates` saves."""
    figure, panels = _timeline(len(gates), 1.5, events, "shown to the agent")
    for axes, (name, (openness, most)) in zip(panels, gates.items(), strict=True):
        steps, units = openness.shape
        axes.set_title(name, fontsize="medium", loc="left")
        if units <= len(UNITS):
            for unit in range(units):
                axes.step(range(steps + 1), [*openness[:, unit], openness[-1, unit]], where="post", color=UNITS[unit])
            axes.set_ylabel("openness,\na line per unit")
            axes.set_ylim(-0.05 * most, 1.05 * most)
            axes.grid(axis="y", color="0.9", linewidth=0.8)
        else:
            # Units that stay closed below, units that stay open above.
            order = np.argsort(openness.mean(axis=0), kind="stable")
            image = axes.imshow(
                openness[:, order].T,
                cmap="cividis",
                vmin=0,
                vmax=most,
                origin="lower",
                aspect="auto",
                interpolation="nearest",
                extent=(0, steps, 0, units),
            )
            axes.set_ylabel("unit,\nsorted by mean")
            bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=12)
            bar.set_label(f"openness\n(0 closed, {most:g} open)", fontsize="small")
    return figure


def plot_probe(probes: Mapping[str, Mapping[str, Any]], path: Path) -> list[Path]:
    """Draws how often facts can be decoded from a memory, by the time since they were shown.

    Args:
      probes: by fact, as returned by `memrl.introspection.accuracy_by_age`.
      path: the file to write; its suffix is replaced.

    Returns:
      The files.
    """
    from matplotlib.figure import Figure

    columns = min(3, len(probes))
    rows = -(-len(probes) // columns)
    figure = Figure(figsize=(max(4.8, 3.6 * columns), 2.9 * rows + LEGEND_SPACE), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in panels.flat[len(probes) :]:
        axes.set_axis_off()
    for axes, (name, found) in zip(panels.flat, probes.items(), strict=False):
        groups = found["groups"]
        place = np.arange(len(groups))
        axes.step(
            [*(place - 0.5), len(groups) - 0.5],
            [*(group["chance"] for group in groups), groups[-1]["chance"]],
            "k--",
            where="post",
            linewidth=1.2,
            label="chance (always the most frequent value)",
        )
        present = [source for source in SOURCES if source in groups[0]]
        for offset, source in zip(np.linspace(-0.12, 0.12, len(present)), present, strict=True):
            label, colour, style = SOURCES[source]
            mean, low, high = (np.array([group[source][part] for group in groups]) for part in ("accuracy", *_BOUNDS))
            errors = np.maximum(0, (mean - low, high - mean))
            axes.errorbar(
                place + offset, mean, yerr=errors, fmt=style, color=colour, markersize=4, linewidth=1.2, label=label
            )
        slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len(groups) > 6 else {}
        axes.set_xticks(place, [_ages(group["ages"]) for group in groups], **slanted)
        axes.set_ylim(0, 1.03)
        axes.set_xlabel("steps since it was shown")
        axes.set_title(f"{name} (one of {found['values']})", fontsize="medium", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    for axes in panels[:, 0]:
        axes.set_ylabel("share of trials in which\nit is decoded correctly")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", frameon=False, ncols=2, fontsize="small")
    return save_figure(figure, path)


_BOUNDS = ("low", "high")


def _ages(ages: Sequence[int] | None) -> str:
    if ages is None:
        return "before"
    first, last = ages
    return str(first) if first == last else f"{first}–{last}"


class Film:
    """A figure over time that is uncovered step by step."""

    def __init__(self, figure: Any, steps: int, dots_per_inch: int = 100) -> None:
        """`figure`: by `attention_figure` or `gates_figure`, over `steps` steps."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        figure.set_dpi(dots_per_inch)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        self.picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        height = len(self.picture)
        self.boxes = []
        for axes in figure.axes:
            if axes.get_label() != "<colorbar>":
                box = axes.get_window_extent()
                has_line = axes.spines["bottom"].get_visible()
                self.boxes.append((round(height - box.y1) - 1, round(height - box.y0) + 1, box.x0, box.x1, has_line))
        self.steps = steps

    def frame(self, step: int) -> np.ndarray:
        """The picture with what comes after `step` covered, uint8 `[H, W, 3]`."""
        picture = self.picture.copy()
        for top, bottom, left, right, has_line in self.boxes:
            now = round(left + (right - left) * min(step + 1, self.steps) / self.steps)
            picture[top:bottom, now : round(right) + 2] = 255
            picture[top:bottom, now - 1 : now + 1] = 0
            if has_line:
                picture[bottom - 1, now : round(right)] = 0
        return picture


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures `[H, W, 3]` side by side on white, uint8; the left one in the middle of the height."""
    height, gap = max(len(left), len(right)), 12
    joined = np.full((height, left.shape[1] + gap + right.shape[1], 3), 255, np.uint8)
    top = (height - len(left)) // 2
    joined[top : top + len(left), : left.shape[1]] = left
    joined[: len(right), left.shape[1] + gap :] = right
    return joined


def _timeline(panels: int, panel_height: float, events: Events, shown: str) -> tuple[Any, list[Any]]:
    """A figure with a panel above the other over the same time, and above all of them when what was `shown`."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    steps, facts = len(events.over), list(events.shown)
    strip = 0.16 * len(facts)
    height = strip + panels * panel_height + 0.6 + LEGEND_SPACE
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    ratios = [strip] * bool(facts) + [panel_height] * panels
    every = list(np.atleast_1d(figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)))
    ends = [step + 1 for step in np.flatnonzero(events.over) if step + 1 < steps]
    for axes in every:
        axes.set_xlim(0, steps)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        for end in ends:
            axes.axvline(end, **END)
    every[-1].set_xlabel("time in the trial (steps)")
    handles = []
    if facts:
        for row, fact in enumerate(facts):
            spans = [(first, last - first) for first, last in _runs(events.shown[fact])]
            every[0].broken_barh(spans, (row + 0.15, 0.7), color=SHOWN, linewidth=0)
        every[0].set_ylim(len(facts), 0)
        every[0].set_yticks(np.arange(len(facts)) + 0.5, facts, fontsize="small")
        every[0].tick_params(left=False, bottom=False)
        every[0].spines[["left", "bottom"]].set_visible(False)
        handles.append(Line2D([], [], color=SHOWN, linewidth=6, label=shown))
    if ends:
        handles.append(Line2D([], [], **END, label=f"end of an {events.ends}"))
    if handles:
        figure.legend(handles=handles, loc="outside upper left", frameon=False, ncols=2, fontsize="small")
    return figure, every[bool(facts) :]


def _forgotten_at(events: Events, step: int) -> int:
    """The step from which what was shown in `step` is of an earlier episode."""
    ends = np.flatnonzero(events.over[step:])
    return step + int(ends[0]) + 1 if events.ends == "episode" and len(ends) else len(events.over)


def _runs(told: np.ndarray) -> list[tuple[int, int]]:
    """The stretches of True in bool `[T]`: each its first step, and the step after its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], told, [False]]).astype(int)))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]
