"""Figures that papers report, to be shown beside ours where the setting is the same.

Each entry says how sure its number is: what was read off a plot is about ±0.01 where the plot is clear. Learning
algorithms, budgets and the choice of checkpoints are those of the papers, not ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from envs import ENVIRONMENTS

REWRITING = "Memory Retention Is Not Enough (arXiv 2601.15086)"
MEMO = "Memo (arXiv 2510.19732)"
READ_OFF = "read off a plot"
DOUBTFUL = "read off a plot by others, doubtful"
TABLE = "table on the project's page; sizes are not published, so ours may differ"
TEXT = "text of the project's page"


@dataclass(frozen=True)
class Published:
    """A figure of a paper."""

    env: str
    """Registered name of the environment."""
    settings: Mapping[str, Any]
    """Fields of the environment that say in which setting it was learned; the others have their defaults."""
    any_value: tuple[str, ...]
    """Fields whose value makes no difference to the figure, or is not published."""
    split: str | None
    """The setting it was evaluated in, as the environment names it; None for the one learned in."""
    memory: str
    """Registered name of the memory."""
    measure: str
    """`success` or `return`."""
    value: float
    """The figure, a mean over seeds."""
    source: str
    """The paper."""
    confidence: str
    """Where the number is from."""


CORRIDORS = (1, 3, 5, 10)
"""Numbers of corridors evaluated on; one entry for each in the rows below."""
T_MAZE_MEMORIES = ("lstm", "ffm", "gtrxl", "shm", "none", "gru", "elman")
T_MAZE: dict[tuple[int, int], tuple[tuple[float, ...], ...]] = {
    (3, 5): (
        (1.00, 1.00, 0.96, 0.96),
        (1.00, 0.98, 0.87, 0.68),
        (0.39, 0.17, 0.09, 0.03),
        (0.37, 0.18, 0.04, 0.00),
        (0.40, 0.11, 0.04, 0.00),
        (0.90, 0.68, 0.59, 0.49),
        (1.00, 0.74, 0.64, 0.60),
    ),
    (3, 10): (
        (1.00, 1.00, 1.00, 1.00),
        (1.00, 0.95, 0.80, 0.54),
        (0.36, 0.12, 0.05, 0.01),
        (0.12, 0.05, 0.01, 0.00),
        (0.40, 0.16, 0.06, 0.01),
        (0.60, 0.53, 0.48, 0.25),
        (0.65, 0.26, 0.22, 0.20),
    ),
    (5, 5): (
        (1.00, 1.00, 1.00, 0.96),
        (0.95, 0.91, 0.90, 0.89),
        (0.34, 0.10, 0.04, 0.01),
        (0.50, 0.44, 0.34, 0.06),
        (0.45, 0.15, 0.06, 0.00),
        (0.50, 0.24, 0.20, 0.10),
        (0.95, 0.76, 0.66, 0.55),
    ),
    (5, 10): (
        (0.83, 0.76, 0.69, 0.67),
        (0.80, 0.72, 0.67, 0.58),
        (0.48, 0.25, 0.19, 0.13),
        (0.12, 0.00, 0.00, 0.00),
        (0.25, 0.06, 0.01, 0.00),
        (0.40, 0.31, 0.30, 0.30),
        (0.40, 0.09, 0.02, 0.00),
    ),
    (10, 5): (
        (1.00, 1.00, 1.00, 1.00),
        (0.95, 0.78, 0.72, 0.68),
        (0.88, 0.77, 0.68, 0.62),
        (0.37, 0.24, 0.11, 0.01),
        (0.30, 0.08, 0.02, 0.00),
        (0.55, 0.49, 0.46, 0.38),
        (0.60, 0.30, 0.27, 0.24),
    ),
    (10, 10): (
        (0.83, 0.83, 0.83, 0.83),
        (0.80, 0.47, 0.35, 0.30),
        (0.78, 0.64, 0.64, 0.62),
        (0.00, 0.00, 0.00, 0.00),
        (0.15, 0.05, 0.02, 0.00),
        (0.50, 0.38, 0.37, 0.31),
        (0.65, 0.40, 0.33, 0.30),
    ),
}
"""Success in the regime fixed, by corridors and length learned on; a row for each of `T_MAZE_MEMORIES`."""
T_MAZE_CLASSIC = {"lstm": 1.00, "shm": 1.00, "ffm": 1.00, "gtrxl": 0.5}
"""Success with one corridor, learned and evaluated."""
COLOR_CUBES = {
    "trivial": {"lstm": 0.52, "gtrxl": 1.00, "shm": 1.00, "ffm": 1.00, "none": 0.00},
    "medium": {"lstm": 0.0, "gtrxl": 0.0, "shm": 0.0, "ffm": 0.0, "none": 0.0},
    "extreme": {"lstm": 0.0, "gtrxl": 0.0, "shm": 0.0, "ffm": 0.0, "none": 0.0},
}
"""Success by level."""
DARK_KEY_TO_DOOR = {"memo": 95.0, "fct": 95.0, "rmt": 90.0}
"""Return in a trial of 500 steps in a room of 9 x 9. A searcher that forgets nothing reaches 85 in this one."""

PUBLISHED: tuple[Published, ...] = (
    *(
        Published(
            "t_maze",
            {"corridors": corridors, "length": length},
            ("rewards", "time_limit"),
            None if tested == corridors else f"corridors={tested}",
            memory,
            "success",
            value,
            REWRITING,
            READ_OFF,
        )
        for (corridors, length), rows in T_MAZE.items()
        for memory, row in zip(T_MAZE_MEMORIES, rows, strict=True)
        for tested, value in zip(CORRIDORS, row, strict=True)
    ),
    *(
        Published(
            "t_maze",
            {"corridors": 1},
            ("length", "rewards", "time_limit"),
            None,
            memory,
            "success",
            value,
            REWRITING,
            TEXT,
        )
        for memory, value in T_MAZE_CLASSIC.items()
    ),
    *(
        Published("color_cubes", {"level": level}, (), None, memory, "success", value, REWRITING, TABLE)
        for level, values in COLOR_CUBES.items()
        for memory, value in values.items()
    ),
    *(
        Published(
            "dark_key_to_door",
            {"size": 9, "attempt_limit": 50, "trial_length": 500},
            (),
            None,
            memory,
            "return",
            value,
            MEMO,
            DOUBTFUL,
        )
        for memory, value in DARK_KEY_TO_DOOR.items()
    ),
)


def published(env: Mapping[str, Any], memory: str) -> list[Published]:
    """The figures for a memory that learned in the setting `env`, as `config.json` has it: `name` and fields."""

    def same_setting(figure: Published) -> bool:
        expected = {**vars(ENVIRONMENTS[figure.env]()), **figure.settings}
        return all(env[field] == value for field, value in expected.items() if field not in figure.any_value)

    return [
        figure for figure in PUBLISHED if (figure.env, figure.memory) == (env["name"], memory) and same_setting(figure)
    ]
