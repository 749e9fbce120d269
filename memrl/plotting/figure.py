"""What all pictures share: axes, colours, and saving. A file already there is replaced once the new one is complete."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from memrl.files import replacing

AGENT = "#0072B2"  # from the palette of Okabe and Ito (2008), made for every kind of colour vision
REFERENCES = (("black", "--"), ("0.45", ":"), ("0.3", "-."), ("0.6", (0, (8, 3))))
"""Colour and style of each reference line; after the last it begins again."""
FORMATS = ("png", "svg")
"""Formats of pictures that may go into a paper: of all but those of the curves of one run."""


def legend_above(axes: Any) -> None:
    # In the axes it could cover a line.
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)


def legend_beside(axes: Any) -> None:
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def mark_time(axes: Any, x: float, name: str) -> None:
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


@contextmanager
def draw(
    path: str | Path, width: float = 4.8, height: float = 3.2, grid: str | None = "y", formats: Sequence[str] = ("png",)
) -> Iterator[Any]:
    """Axes to draw on, as `draw_panels`."""
    with draw_panels(path, 1, width, height, grid, formats) as (axes,):
        yield axes


@contextmanager
def draw_panels(
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
