"""Environments: one gymnax `Environment` per file, each with a frozen config dataclass that makes it.

`ENVIRONMENTS` names the configs. `envs.get(name)(**fields).make()` returns `(environment, env_params)`. The name of one
of gymnax's own environments is `gymnax:` and its name there. `envs.check(environment, env_params)` tries one out.
"""

import difflib
import functools
from collections.abc import Callable

import envs.gymnax_version
import envs.lazy_gymnax  # noqa: F401  (and this before anything of gymnax is imported)
from envs.ballet import BalletConfig
from envs.bandit import BanditConfig
from envs.base import EnvironmentConfig
from envs.boxes import BoxesConfig
from envs.check import check
from envs.color_cubes import ColorCubesConfig
from envs.dark_key_to_door import DarkKeyToDoorConfig
from envs.graph_nav import GraphNavConfig
from envs.gymnax_environment import GymnaxConfig
from envs.memory_planning import MemoryPlanningConfig
from envs.minigrid_memory import MiniGridMemoryConfig
from envs.multi_object_navigation import MultiObjectNavigationConfig
from envs.repeat import RepeatFirstConfig, RepeatPreviousConfig
from envs.repeated_gridworld import RepeatedGridworldConfig
from envs.t_maze import TMazeConfig
from envs.visual_match import VisualMatchConfig
from envs.word_rooms import WordRoomsConfig

__all__ = ["ENVIRONMENTS", "check", "get"]

ENVIRONMENTS: dict[str, type] = {
    "ballet": BalletConfig,
    "bandit": BanditConfig,
    "boxes": BoxesConfig,
    "dark_key_to_door": DarkKeyToDoorConfig,
    "graph_nav": GraphNavConfig,
    "gymnax": GymnaxConfig,
    "memory_planning": MemoryPlanningConfig,
    "multi_object_navigation": MultiObjectNavigationConfig,
    "repeat_first": RepeatFirstConfig,
    "repeat_previous": RepeatPreviousConfig,
    "repeated_gridworld": RepeatedGridworldConfig,
    "minigrid_memory": MiniGridMemoryConfig,
    "t_maze": TMazeConfig,
    "color_cubes": ColorCubesConfig,
    "visual_match": VisualMatchConfig,
    "word_rooms": WordRoomsConfig,
}


def get(name: str) -> Callable[..., EnvironmentConfig]:
    """What makes the config of the environment called `name`; ValueError with the nearest name if there is none."""
    if name in ENVIRONMENTS:
        return ENVIRONMENTS[name]
    if name.startswith("gymnax:"):
        return functools.partial(GymnaxConfig, id=name.removeprefix("gymnax:"))
    nearest = difflib.get_close_matches(name, ENVIRONMENTS, n=1, cutoff=0.0)[0]
    raise ValueError(f"There is no environment {name!r}; did you mean {nearest!r}? Known: {', '.join(ENVIRONMENTS)}.")
