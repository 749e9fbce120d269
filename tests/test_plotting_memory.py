import numpy as np
import pytest
from PIL import Image

from memrl.plotting.memory import (
    Events,
    Film,
    attention_figure,
    beside,
    gates_figure,
    plot_attention,
    plot_gates,
    plot_probe,
)

STEPS = 10
EVENTS = Events(np.arange(STEPS) == 4, {"key": np.isin(np.arange(STEPS), (1, 2, 7))}, "attempt")
MAPS = {"layer 1": np.tril(np.ones((STEPS, STEPS), np.float32)) / np.arange(1, STEPS + 1, dtype=np.float32)[:, None]}
GATES = {"forget gate": (np.linspace(0, 1, STEPS * 12).reshape(STEPS, 12), 1), "write": (np.full((STEPS, 2), 0.5), 1)}


def told(accuracy):
    return {"accuracy": accuracy, "low": max(0.0, accuracy - 0.1), "high": min(1.0, accuracy + 0.1)}


def probes(facts, groups=3):
    ages = [None, *([age, age + 1] for age in range(groups - 1))]
    found = [{"ages": age, "tested": 50, "chance": 0.25, "state": told(0.9), "input": told(0.3)} for age in ages]
    return {f"fact {number}": {"values": 4, "trials": 100, "groups": found} for number in range(facts)}


def texts(figure):
    """All that is written in a figure, but the numbers at its axes."""
    written = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        written += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
    return written


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: plot_attention(MAPS, EVENTS, path),
        lambda path: plot_gates(GATES, EVENTS, path),
        lambda path: plot_probe(probes(1), path),
        lambda path: plot_probe(probes(8, groups=9), path),
    ],
    ids=["attention", "gates", "probe of one fact", "probe of eight"],
)
def test_both_files_are_written(draw, tmp_path):
    """The old ones are replaced, and nothing else is left there."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "picture.png").write_text("old")
    files = draw(tmp_path / "inside" / "picture")
    assert files == [tmp_path / "inside" / "picture.png", tmp_path / "inside" / "picture.svg"]
    assert sorted((tmp_path / "inside").iterdir()) == files
    with Image.open(files[0]) as image:
        assert image.format == "PNG" and image.width > 800
    assert "<svg" in files[1].read_text()
    again = draw(tmp_path / "again" / "picture")
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]


def test_what_is_written_in_the_pictures():
    written = texts(attention_figure(MAPS, EVENTS))
    assert {"layer 1", "step attended to", "time in the trial (steps)", "attention weight (mean over heads)"} <= {
        *written
    }
    assert {"shown to the agent; framed: the same steps", "end of an attempt"} <= {*written}
    written = texts(gates_figure(GATES, EVENTS._replace(shown={}, over=np.zeros(STEPS, bool))))
    assert {"forget gate", "write", "openness,\na line per unit", "openness\n(0 closed, 1 open)"} <= {*written}
    assert "shown to the agent" not in written and "end of an attempt" not in written


@pytest.mark.parametrize("units", [2, 12])
def test_gates_are_drawn_as_far_as_they_can_open(units):
    """Whatever they are in the trial drawn: pictures can be compared."""
    gates = {name: (np.full((STEPS, units), 0.5), most) for name, most in (("forget", 1), ("write strength", 2))}
    panels = {axes.get_title(loc="left"): axes for axes in gates_figure(gates, EVENTS).axes}
    for name, (_, most) in gates.items():
        axes = panels[name]
        if units == 2:
            assert axes.get_ylim() == pytest.approx((-0.05 * most, 1.05 * most))
        else:
            (image,) = axes.images
            assert image.get_clim() == (0, most) and image.colorbar.ax.get_ylabel().endswith(f"{most} open)")


def test_map_shows_time_to_the_right_and_what_is_attended_to_upwards():
    figure = attention_figure(MAPS, EVENTS)
    (image,) = next(axes for axes in figure.axes if axes.get_title(loc="left") == "layer 1").images
    drawn = image.get_array()
    np.testing.assert_array_equal(drawn.filled(0), MAPS["layer 1"].T)
    assert drawn.mask[5, 4] and not drawn.mask[4, 5] and image.origin == "lower"


@pytest.mark.parametrize(("ends", "last"), [("attempt", STEPS), ("episode", 5)])
def test_what_was_shown_is_framed_until_it_is_forgotten(ends, last):
    """An attempt leaves the memory as it is."""
    figure = attention_figure(MAPS, EVENTS._replace(ends=ends))
    axes = next(axes for axes in figure.axes if axes.get_title(loc="left") == "layer 1")
    frames = [frame.get_bbox().extents.tolist() for frame in axes.patches]
    assert frames == [[1, 1, last, 3], [7, 7, STEPS, 8]]


def test_film_uncovers_the_picture():
    film = Film(attention_figure(MAPS, EVENTS), STEPS)
    first, middle, last = (film.frame(step) for step in (0, 4, STEPS - 1))
    assert first.shape == middle.shape == film.picture.shape and first.dtype == np.uint8

    def covered(frame):
        """Columns that differ from the whole picture."""
        return np.flatnonzero((frame != film.picture).any(axis=(0, 2)))

    assert covered(first).min() < covered(middle).min() < covered(last).min()
    right = max(box[3] for box in film.boxes)
    assert len(covered(last)) <= 4 and covered(first).max() <= right + 2
    # What has happened so far is as in the picture.
    until = covered(middle).min()
    np.testing.assert_array_equal(middle[:, :until], film.picture[:, :until])


def test_pictures_side_by_side():
    joined = beside(np.zeros((2, 3, 3), np.uint8), np.full((6, 4, 3), 9, np.uint8))
    assert joined.shape[0] == 6 and joined.dtype == np.uint8
    assert (joined[2:4, :3] == 0).all() and (joined[:2, :3] == 255).all() and (joined[4:, :3] == 255).all()
    assert (joined[:, -4:] == 9).all() and (joined[:, 3:-4] == 255).all()
