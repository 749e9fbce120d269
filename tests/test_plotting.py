"""Pictures show the figures they are given."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from memrl.plotting import (
    Curve,
    plot_costs,
    plot_curves,
    plot_horizons,
    plot_in_context,
    plot_intervals,
    plot_matrix,
    plot_training,
    policy_styles,
)


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


# Comparisons


def check_files(paths, folder):
    """Both files, and nothing half written; the axes' labels are text that can be found."""
    png, svg = paths
    assert sorted(folder.iterdir()) == sorted(paths) and (png.suffix, svg.suffix) == (".png", ".svg")
    with Image.open(png) as image:
        assert image.format == "PNG" and min(image.size) > 250
    assert svg.read_text().lstrip().startswith("<?xml")


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


NAMES = ["none", "gru", "memo"]
X = np.array([1.0, 2.0, 4.0])
BANDS = {name: Curve(X, X + i, X + i - 0.5, X + i + 0.5) for i, name in enumerate(NAMES)}


def test_policies_look_different_and_always_the_same():
    styles = policy_styles([str(number) for number in range(24)])
    assert len({(style.color, style.linestyle) for style in styles.values()}) == 24
    assert len({style.color for style in policy_styles(NAMES).values()}) == 3
    assert len({style.marker for style in policy_styles(NAMES).values()}) == 3


def test_curves(tmp_path, drawn):
    styles = policy_styles(NAMES)
    curves = {**BANDS, "memo": Curve(X, X + 2)}  # one seed: no interval
    references = {"oracle": 9.0, "searcher": Curve(X, X * 2)}
    paths = plot_curves(
        curves,
        tmp_path / "picture.png",
        styles,
        xlabel="steps",
        ylabel="return",
        references=references,
        mark=(2.0, "trained"),
    )
    axes = drawn[0]
    check_files(paths, tmp_path)
    assert legend(axes) == ["oracle", "searcher", *NAMES]
    assert lines(axes)["gru"] == [[1, 2], [2, 3], [4, 5]] and lines(axes)["searcher"] == [[1, 2], [2, 4], [4, 8]]
    assert {y for _, y in lines(axes)["oracle"]} == {9}
    assert len(axes.collections) == 2 and [text.get_text() for text in axes.texts] == ["trained"]
    assert {0.5, 1.5, 3.5, 4.5} <= set(axes.collections[0].get_paths()[0].vertices[:, 1])
    for line in axes.lines:
        if line.get_label() in styles:
            style = styles[line.get_label()]
            assert (line.get_color(), line.get_linestyle()) == (style.color, style.linestyle)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("steps", "return")


def test_costs(tmp_path, drawn):
    points = {"gru": Curve(X[:1], X[:1]), "memo": Curve(X, X, X - 0.5, X + 0.25)}
    paths = plot_costs(points, tmp_path / "picture.png", policy_styles(NAMES), xlabel="bytes", ylabel="return")
    axes = drawn[0]
    check_files(paths, tmp_path)
    assert axes.get_xscale() == "log" and legend(axes) == ["gru", "memo"]
    (bars,) = axes.containers[1].lines[2]
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[0.5, 1.25], [1.5, 2.25], [3.5, 4.25]]


def test_a_policy_that_costs_nothing_is_drawn(tmp_path, drawn):
    """A logarithm has no 0. The other costs are where they would be without it, in powers of ten."""
    points = {"none": Curve(np.zeros(1), np.ones(1)), "memo": Curve(np.array([512.0, 5120.0, 51200.0]), X)}
    plot_costs(points, tmp_path / "picture.png", policy_styles(NAMES), xlabel="bytes", ylabel="return")
    axes = drawn[0]
    left, right = axes.get_xlim()
    assert left < 0 and right > 51200
    shown = [tick for tick in axes.get_xticks() if left <= tick <= right]
    assert shown == [0, 100, 1000, 10000] and axes.get_xticklabels()[0].get_text() == r"$\mathdefault{0}$"
    nothing, *others = axes.transData.transform([(x, 0) for x in (0, 512, 5120, 51200)])[:, 0]
    first, second = np.diff(others)
    assert first == pytest.approx(second) and first / 2 < others[0] - nothing < 2 * first


def test_intervals(tmp_path, drawn):
    estimates = {"gru": (0.5, 0.4, 0.7), "memo": (0.9, None, None)}
    paths = plot_intervals(estimates, tmp_path / "picture.png", policy_styles(NAMES), xlabel="score")
    axes = drawn[0]
    check_files(paths, tmp_path)
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[0.4, 1], [0.7, 1]], [[0.5, 1]], [[0.9, 0]]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["gru", "memo"] and axes.get_xlim()[0] <= 0


def test_a_crowd_of_policies_has_several_panels(tmp_path, drawn):
    """All with the same limits; no colour twice in one."""
    names = [f"policy {number}" for number in range(21)]
    points = {name: Curve(np.array([1.0, 2.0]), np.array([0.0, number])) for number, name in enumerate(names)}
    for plot in (plot_curves, plot_costs):
        drawn.clear()
        plot(points, tmp_path / "crowd.png", policy_styles(names), xlabel="x", ylabel="y")
        assert len(drawn) == 2 * 4  # saved in two formats
        told = [axes.get_legend_handles_labels() for axes in drawn[:4]]
        assert [label for _, labels in told for label in labels] == names
        assert {(axes.get_xlim(), axes.get_ylim()) for axes in drawn} == {(drawn[0].get_xlim(), drawn[0].get_ylim())}
        for axes in drawn:
            colours = [line.get_color() for line in axes.legend_.get_lines()]
            assert len(colours) == len(set(colours))


@pytest.mark.parametrize("diverging", [False, True])
def test_matrix(tmp_path, drawn, diverging):
    """Every figure stands in its cell, to be read on its colour; the first row is on top."""
    values = np.array([[0.0, 0.5, np.nan], [1.0, 0.25, 0.75]])
    paths = plot_matrix(
        values,
        ["gru", "memo"],
        ["a", "b", "c"],
        tmp_path / "picture.png",
        label="success",
        limits=(0.0, 1.0),
        diverging=diverging,
        xlabel="setting",
    )
    axes = drawn[0]
    check_files(paths, tmp_path)
    texts = {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts}
    assert {position: text for position, (text, _) in texts.items()} == {
        (0, 0): "0.00",
        (1, 0): "0.50",
        (0, 1): "1.00",
        (1, 1): "0.25",
        (2, 1): "0.75",
    }
    assert texts[0, 0][1] == "white" and texts[1, 0][1] == ("black" if diverging else "white")
    assert texts[0, 1][1] == ("white" if diverging else "black")
    assert axes.get_ylim() == (1.5, -0.5) and axes.get_title(loc="left") == "success"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["gru", "memo"]


def test_the_same_figures_give_the_same_files(tmp_path):
    def drawn(folder):
        paths = plot_intervals({"a": (0.5, 0.4, 0.7)}, folder / "picture.png", policy_styles("a"), xlabel="score")
        return [path.read_bytes() for path in paths]

    assert drawn(tmp_path / "one") == drawn(tmp_path / "two")
