"""What runs and evaluations print of an evaluation: what the columns hold is what they are called."""

import math

import pytest
from synthetic_runs import episodes, windows

from experiments.reporting.table import Table, scale_of


def printed(capsys, players, entries):
    """The titles and the cells of the lines."""
    table = Table(players)
    for entry in entries:
        table.add(entry)
    head, *lines = capsys.readouterr().out.splitlines()
    ends = [head.index(title) + len(title) for title in head.strip().split("  ") if title]
    titles = [head[first:last].strip() for first, last in zip([0, *ends], ends, strict=False)]
    return titles, [[line[first:last].strip() for first, last in zip([0, *ends], ends, strict=False)] for line in lines]


def test_returns_of_players_are_named_and_shares_are_shares(capsys):
    """The oracle returns 3 and the memoryless player 0.75: a return of 1.5 is a third of the way."""
    titles, (line, *_) = printed(capsys, ["oracle", "memoryless"], episodes(success=0.5)["episodes"])
    found = dict(zip(titles, line, strict=True))
    assert (found["oracle's return"], found["memoryless's return"], found["return"]) == ("3.00", "0.75", "1.50")
    assert found["% from memoryless to oracle"] == "33.3"
    assert not any(title.startswith("of ") for title in titles)


def test_without_a_memoryless_player_the_share_is_of_the_best(capsys):
    titles, (line, *_) = printed(capsys, ["oracle", "searcher"], windows()["windows"])
    assert dict(zip(titles, line, strict=True))["% of oracle"] == "60.0"  # 4 + .. + 8 of 50
    assert not any("memoryless" in title for title in titles)


def test_without_players_there_is_no_share(capsys):
    titles, _ = printed(capsys, [], episodes(players=False)["episodes"])
    assert titles == ["setting", "remembers", "steps", "return", "success", "bytes of state", "tokens read"]


@pytest.mark.parametrize(
    ("players", "value", "share"),
    [
        ({"oracle": 3.0, "memoryless": 1.0}, 2.0, 0.5),
        ({"oracle": 3.0, "memoryless": 1.0}, 0.0, -0.5),
        ({"oracle": 1.0, "memoryless": -0.5}, -0.5, 0.0),
        ({"oracle": 1.0, "memoryless": 1.0}, 1.0, None),
        ({"oracle": 1.0, "memoryless": 2.0}, 1.0, None),
        ({"oracle": math.nan, "memoryless": 0.0}, 1.0, None),
        ({"oracle": 1.0, "memoryless": 0.0}, math.nan, None),
        ({"oracle": math.inf}, 1.0, None),
        ({"oracle": 0.0, "searcher": -1.0}, -1.0, None),
        ({"memoryless": 2.0}, 1.0, 0.5),
    ],
)
def test_share(players, value, share):
    """None where nothing lies between the players, or a figure is not finite."""
    assert scale_of(players).share(value) == share
