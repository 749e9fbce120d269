"""What Ballet and Boxes share: a room in which first something is shown and then a question is asked.

The agent stands in the middle of a square room. Around it, in some of the eight directions, are the *places*, dancers
or boxes, each as many moves away as any other. While the show lasts the agent is held where it is. Then a question
singles out one place; the agent walks, and the first place it steps on is its answer: reward 1 if it is the right one
and 0 if not, and the episode ends. An agent that never answers is stopped by a time limit, which is no answer: the
episode is truncated, not terminated.

Cells are `(row, column)`, counted from the upper left corner of the wall around the room.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import struct

from envs import base, drawing
from envs.player import Player

MOVES = np.array([(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)], np.int32)
"""Change of `(row, column)` by each action: north, north-east and on clockwise, the moves of a king in chess."""
MAX_PLACES = len(MOVES)
MAX_LEVELS = 64
"""Levels that episodes may be drawn from."""

FLOOR, WALL, AGENT, OTHER = range(4)
"""What a cell holds in a view; what the places look like is counted from `OTHER`."""


class Level(NamedTuple):
    """How big and how long an episode is: plain integers, or int32 arrays of a shape."""

    num_places: int
    choice_time: int
    """When the question is asked: the first step whose observation holds it, and the first whose action counts."""
    time_limit: int
    """Steps after which the episode is truncated."""


@struct.dataclass(kw_only=True)
class ChoiceRoomParams(base.EnvParams):
    """What may change without compiling anew; `max_steps_in_episode` (int32) cuts the levels' own time limits short."""

    levels: Level  # int32 [MAX_LEVELS] each: an episode's level is drawn uniformly from the first `num_levels`
    num_levels: jax.Array  # int32


@struct.dataclass
class ChoiceRoomState(base.EnvState):
    """One episode; `time` (int32) counts its steps."""

    level: Level  # int32 [] each
    position: jax.Array  # int32 [2]: the agent's cell
    places: jax.Array  # int32 [MAX_PLACES, 2]: their cells, of which the first `level.num_places` are in use
    target: jax.Array  # int32: the place asked for


class LevelFields(TypedDict):
    """The fields of `ChoiceRoomParams`."""

    max_steps_in_episode: jax.Array
    levels: Level
    num_levels: jax.Array


class CommonFields(TypedDict):
    """The fields of `ChoiceRoomState`."""

    time: jax.Array
    level: Level
    position: jax.Array
    places: jax.Array
    target: jax.Array


def level_params(levels: Sequence[Level]) -> LevelFields:
    """The fields of `ChoiceRoomParams`, NumPy's: as long for few levels as for many, so that they share a program."""
    if len(levels) > MAX_LEVELS:
        raise ValueError(f"{len(levels)} levels are mixed, but must be at most {MAX_LEVELS}.")
    padded = [*levels, *[levels[0]] * (MAX_LEVELS - len(levels))]
    return {
        "max_steps_in_episode": base.trial_steps(max(level.time_limit for level in levels)),
        "levels": Level(*np.array(padded, np.int32).T),
        "num_levels": base.parameter(np.int32(len(levels))),
    }


def draw_distinct(key: jax.Array, count: int) -> jax.Array:
    """MAX_PLACES different numbers from 0 to `count` - 1 in random order, int32.

    They are the ranks of random numbers among `count` of them, counted rather than sorted, which is faster on a CPU.
    """
    draws, index = jax.random.bits(key, (count,)), jnp.arange(count)
    smaller = draws[None] < draws[:MAX_PLACES, None]
    as_small_but_earlier = (draws[None] == draws[:MAX_PLACES, None]) & (index[None] < index[:MAX_PLACES, None])
    return (smaller | as_small_but_earlier).sum(-1, dtype=jnp.int32)


@dataclass(frozen=True)
class ChoiceRoom(base.Environment):
    """The part of the environment that begins when the question is asked.

    Every step reports in `info` whether it answered the question correctly: `success` (bool).
    """

    distance: int
    """Moves from the middle to each place; two cells further is the wall."""

    outcomes = ("success",)

    @property
    def size(self) -> int:
        """Cells along each side of the room, its wall included, and of the agent's view."""
        return 2 * self.distance + 5

    @property
    def centre(self) -> np.ndarray:
        return np.full(2, self.size // 2, np.int32)

    def draw_common(self, key: jax.Array, params: ChoiceRoomParams) -> CommonFields:
        """The fields of `ChoiceRoomState` at the beginning of an episode."""
        level_key, places_key, target_key = jax.random.split(key, 3)
        drawn = jax.random.randint(level_key, (), 0, params.num_levels, jnp.int32)
        level = jax.tree.map(lambda leaf: jnp.asarray(leaf)[drawn], params.levels)
        directions = jnp.asarray(MOVES)[draw_distinct(places_key, MAX_PLACES)]
        return {
            "time": jnp.int32(0),
            "level": level,
            "position": jnp.asarray(self.centre),
            "places": jnp.asarray(self.centre)[None] + self.distance * directions,
            "target": jax.random.randint(target_key, (), 0, level.num_places, jnp.int32),
        }

    def step_env(
        self, key: jax.Array, state: ChoiceRoomState, action: jax.Array, params: ChoiceRoomParams
    ) -> tuple[dict[str, jax.Array], ChoiceRoomState, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Walk, if the question has been asked. A move into the wall does nothing, a diagonal one as well."""
        moved = state.position + jnp.asarray(MOVES)[action]
        inside = jnp.all((moved >= 1) & (moved <= self.size - 2))
        position = jnp.where(self.is_choosing(state) & inside, moved, state.position)
        success = jnp.all(position == state.places[state.target])
        state = replace(state, time=state.time + 1, position=position)
        observation = self.observe(key, state, action, params)
        terminated = self.is_terminated(state, params)
        return observation, state, success.astype(jnp.float32), terminated, {"success": success}

    def is_choosing(self, state: ChoiceRoomState) -> jax.Array:
        return state.time >= state.level.choice_time

    def in_use(self, state: ChoiceRoomState) -> jax.Array:
        """Which places there are, bool [MAX_PLACES]."""
        return jnp.arange(MAX_PLACES, dtype=jnp.int32) < state.level.num_places

    def is_terminated(self, state: ChoiceRoomState, params: ChoiceRoomParams) -> jax.Array:
        return jnp.any(self.in_use(state) & jnp.all(state.position[None] == state.places, axis=-1))

    def is_truncated(self, state: ChoiceRoomState, params: ChoiceRoomParams) -> jax.Array:
        return state.time >= jnp.minimum(state.level.time_limit, params.max_steps_in_episode)

    def in_view(self, cells: jax.Array, middle: jax.Array) -> jax.Array:
        """Where `cells`, int32 [N, 2], are in a view around the cell `middle`, int32 [2].

        Returns the number of each in the flattened view, int32 [N], and one past the last where it is not in view.
        """
        row, column = jnp.moveaxis(cells - middle[None] + self.size // 2, -1, 0)
        visible = (row >= 0) & (row < self.size) & (column >= 0) & (column < self.size)
        return jnp.where(visible, row * self.size + column, self.size**2)

    def view_room(self, middle: jax.Array) -> jax.Array:
        """Floor and wall around the cell `middle`, int32 [2], flattened: uint8 [size * size]. Outside is floor."""
        return jnp.asarray(_room_views(self.size))[middle[0], middle[1]]

    @property
    def num_actions(self) -> int:
        return len(MOVES)

    def players(self) -> dict[str, Player]:
        """The reference players.

        - `oracle` goes to the place asked for: return 1, `distance` steps after the question.
        - `memoryless` goes to any place. Since the question has no meaning without what was shown before, and the agent
          was held until then, no strategy without memory is better: return 1 / number of places.
        """
        return {
            "oracle": Player(lambda params: None, self.play_oracle),
            "memoryless": Player(lambda params: None, self.play_memoryless),
        }

    def play_oracle(
        self, key: jax.Array, player_state: None, state: ChoiceRoomState, params: ChoiceRoomParams
    ) -> tuple[None, jax.Array]:
        return player_state, self.head_for(state.places[state.target] - state.position)

    def play_memoryless(
        self, key: jax.Array, player_state: None, state: ChoiceRoomState, params: ChoiceRoomParams
    ) -> tuple[None, jax.Array]:
        """Chooses in the middle, and then goes on in the same direction, which follows from the cell it stands on."""
        chosen = state.places[jax.random.randint(key, (), 0, state.level.num_places)]
        under_way = jnp.any(state.position != self.centre)
        return player_state, self.head_for(jnp.where(under_way, state.position, chosen) - self.centre)

    def head_for(self, difference: jax.Array) -> jax.Array:
        """The action that moves in the direction of `difference`, int32 [2]."""
        return jnp.argmax(jnp.all(jnp.asarray(MOVES) == jnp.sign(difference)[None], axis=-1))

    def draw_room(self, state: ChoiceRoomState) -> np.ndarray:
        """A picture of the room, float [H, W, 3], with a frame around the place asked for."""
        image = np.full((self.size * drawing.CELL, self.size * drawing.CELL, 3), 40.0)
        image[:: drawing.CELL] = image[:, :: drawing.CELL] = 75.0
        inside = slice(drawing.CELL, -drawing.CELL)
        wall = np.ones(image.shape[:2], bool)
        wall[inside, inside] = False
        image[wall] = drawing.GREY
        frame = np.abs(drawing.rectangle(0.04, 0.04, 0.96, 0.96)) - 1
        drawing.paint(self.tile(image, state.places[state.target]), frame, drawing.WHITE)
        return image

    def draw_agent(self, image: np.ndarray, state: ChoiceRoomState) -> None:
        tile = self.tile(image, state.position)
        drawing.paint(tile, drawing.disc(0.5, 0.5, 0.3) - 1.5, drawing.BLACK)
        drawing.paint(tile, drawing.disc(0.5, 0.5, 0.3), drawing.VERMILLION)

    def tile(self, image: np.ndarray, cell: npt.ArrayLike) -> np.ndarray:
        """The part of `image` that shows `cell`, a view [CELL, CELL, 3]."""
        row, column = np.asarray(cell) * drawing.CELL
        return image[row : row + drawing.CELL, column : column + drawing.CELL]


@cache
def _room_views(size: int) -> np.ndarray:
    """`view_room` from every cell: a table is several times faster than computing it. uint8 [size, size, size**2]."""
    row, column, view_row, view_column = np.ogrid[:size, :size, :size, :size]
    from_centre = np.maximum(np.abs(row + view_row - (size - 1)), np.abs(column + view_column - (size - 1)))
    return np.where(from_centre == size // 2, WALL, FLOOR).astype(np.uint8).reshape(size, size, -1)
