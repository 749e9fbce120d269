"""Pictures show the figures they are given."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from memrl.plotting import plot_horizons, plot_in_context, plot_training


def entry(horizon, budget, scale=1.0):
    returns = scale * np.arange(1, horizon // 20 + 1)
    return {
        "horizon": horizon,
        "budget": budget,
        "return_per_window": returns.tolist(),
        "return_per_window_low": (returns - 0.5).tolist(),
        "return_per_window_high": (returns + 0.5).tolist(),
        "oracle_return_per_window": [9.0] * len(returns),
        "searcher_return_per_window": [8.0] * len(returns),
    }


EVALUATION = {
    "trial_length": 100,
    "window_length": 20,
    "players": ["oracle", "searcher"],
    "windows": [entry(100, None), entry(100, 50), entry(200, None), entry(200, 100, 0.5), entry(200, 50, 0.2)],
}

METRICS = [{"env_steps": 500_000 * step, "return": None if step == 1 else 2.0 * step} for step in range(1, 5)]


@pytest.fixture
def drawn(monkeypatch):
    """The axes of every picture that is saved."""
    axes, save = [], Figure.savefig

    def record(figure, *arguments, **settings):
        axes.extend(figure.axes)
        return save(figure, *arguments, **settings)

    monkeypatch.setattr(Figure, "savefig", record)
    return axes


def lines(axes):
    """The points of each line by its name in the legend."""
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines if not line.get_label().startswith("_")}


def check_picture(path, axes):
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 400
        assert len(image.convert("RGB").getcolors(2**20)) > 50
    assert list(path.parent.iterdir()) == [path]  # nothing half written
    assert axes.get_xlabel().endswith(")") and axes.get_ylabel()  # a unit
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(lines(axes))


def test_in_context(tmp_path, drawn):
    path = plot_in_context(EVALUATION, tmp_path / "picture.png")
    (axes,) = drawn
    check_picture(path, axes)
    time = [10, 30, 50, 70, 90]
    assert lines(axes) == {
        "oracle": [[step, 9] for step in time],
        "searcher": [[step, 8] for step in time],
        "agent": [[step, (step + 10) / 20] for step in time],
    }
    assert axes.get_ylabel() == "return per 20 steps"
    (interval,) = axes.collections
    assert {0.5, 1.5, 4.5, 5.5} <= set(interval.get_paths()[0].vertices[:, 1])


def test_horizons(tmp_path, drawn):
    path = plot_horizons(EVALUATION, tmp_path / "picture.png")
    (axes,) = drawn
    check_picture(path, axes)
    assert {name: line[-1] for name, line in lines(axes).items()} == {
        "oracle": [190, 9],
        "searcher": [190, 8],
        "remembers the whole trial": [190, 10],
        "remembers 100 steps": [190, 5],
        "remembers 50 steps": [190, 2],
    }
    (trained,) = (line for line in axes.lines if line.get_label().startswith("_"))
    assert list(trained.get_xdata()) == [100, 100]
    colours = {str(line.get_color()) for line in axes.lines}
    assert len(colours) == len(axes.lines)


def test_training(tmp_path, drawn):
    path = plot_training(METRICS, tmp_path / "picture.png", {"oracle": 35.1})
    (axes,) = drawn
    check_picture(path, axes)
    assert lines(axes)["agent"] == [[1.0, 4], [1.5, 6], [2.0, 8]]
    assert {value for _, value in lines(axes)["oracle"]} == {35.1}


def test_without_players_or_finished_trials(tmp_path, drawn):
    plot_in_context({**EVALUATION, "players": []}, tmp_path / "picture.png")
    plot_horizons({**EVALUATION, "players": [], "windows": EVALUATION["windows"][:1]}, tmp_path / "picture.png")
    plot_training(METRICS[:1], tmp_path / "picture.png")
    assert [list(lines(axes)) for axes in drawn] == [["agent"], ["agent"], ["agent"]]


def test_negative_returns_are_in_the_picture(tmp_path, drawn):
    plot_training([{"env_steps": 1, "return": -3.0}, {"env_steps": 2, "return": 1.0}], tmp_path / "picture.png")
    assert drawn[0].get_ylim()[0] <= -3


def test_a_picture_is_replaced_only_by_a_complete_one(tmp_path):
    path = tmp_path / "picture.png"
    path.write_text("old")
    with pytest.raises(KeyError):
        plot_in_context({**EVALUATION, "players": ["nobody"]}, path)
    assert path.read_text() == "old"
    plot_in_context(EVALUATION, path)
    assert path.read_bytes().startswith(b"\x89PNG")
