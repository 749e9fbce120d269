"""Multi-object navigation: objects of many kinds in a house of several rooms, asked for one after another.

A trial takes place in one house, where objects stay where they are. It is made of episodes (its attempts): the agent
wakes up somewhere in the house, is given a category, and is to walk up to an object of that category and say so. An
agent that remembers the house, and what it has seen on the way to other things, goes there directly.

This is the gridworld counterpart of ExtObjNav, extended object navigation, the second benchmark of Memo (arXiv
2510.19732), which was introduced with ReLIC (arXiv 2410.02751, https://github.com/aielawady/relic). Like there:

- an episode begins at a random cell, looking in a random direction, with a random category of those in the house. It
  ends with *stop*, wherever that is done, or at the `episode_limit`; the next one begins in the same step;
- it is a success if the agent stopped with an object of the category in view and within `reach`;
- the agent sees what is before it. It knows the category and how it has moved since the episode's start, but not where
  in the house that was;
- the reward is the change of the distance to the goal, and something for success and for every step. The published
  values are kept, for a forward step of a quarter of a metre. The distance says where the goal is, so a policy should
  not read its previous reward (`network.previous_reward`); the published one did not either;
- measured are the success rate and SPL, success weighted by path length (arXiv 1807.06757): of a success, the length
  of the shortest path over that of the longer of it and the agent's. Length counts cells walked, turning costs nothing,
  and a path counts as at least one cell. The shortest path leads to the next cell from which, turned the right way,
  stop would be a success;
- trials are of 4,096 steps in training and of 32,768 in evaluation, in which success rate and SPL are drawn over time.

Instead of scanned houses and objects: a house is a square divided again and again by walls, each with one or two
doors, into rooms at least three cells wide. Objects lie on different cells of the floor, in doors too, and do not
hinder. Walls hide what is behind them: a cell is seen if no wall is on the straight line to it, one cell of each row
along the line's longer side, the nearer to the agent's axis of two equally near. The episode's limit is 200 steps, not
500, for houses whose rooms are closer to each other. The camera cannot be tilted.

Cells are numbered row by row from the upper left, `y * size + x`. Directions count clockwise, 0 is up.
"""

import functools
import math
from dataclasses import dataclass, replace
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces

from envs import base, drawing
from envs.player import Player

FORWARD, LEFT, RIGHT, STOP = range(4)
TURNS = np.array([0, 3, 1, 0], np.int32)
"""Change of direction, modulo 4, by each action."""
DIRECTIONS = np.array([(0, -1), (1, 0), (0, 1), (-1, 0)], np.int32)
"""Change of `(x, y)` by a step in each direction."""

HIDDEN, FLOOR, WALL, DOOR, OBJECT = range(5)
"""Codes of what is seen on a cell. `OBJECT` is the first category, further ones follow."""

MIN_ROOM = 3  # cells along each side of a room, at least
POSE_SCALE = 10  # cells that are a 1 in the observed pose


@dataclass(frozen=True)
class MultiObjectNavigationConfig(base.EnvironmentConfig):
    """A house with many objects: walk up to one of the category that is asked for, again and again."""

    size: int = 19
    """Cells along each side of the house, the outer walls included; odd."""
    rooms: int = 6
    """Rooms of the house."""
    categories: int = 10
    """Categories of objects. A house need not have objects of all of them."""
    objects: int = 15
    """Objects in the house, each of a random category."""
    view_size: int = 7
    """Cells along each side of the square that the agent looks at, from the middle of its nearest side; odd."""
    reach: int = 2
    """Distance in cells, as the crow flies, within which stop is a success."""
    pose: bool = True
    """Tell the agent how it has moved since the episode's start."""
    episode_limit: int = 200
    """Steps after which an episode has failed."""
    trial_length: int = 4096
    """Steps in one house."""
    success_reward: float = 2.0
    """Reward for a success."""
    distance_reward: float = 0.25
    """Reward for every cell that the goal came nearer; as much is taken away for one that it went away."""
    step_reward: float = -0.003
    """Reward for every step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, least in (("size", 7), ("view_size", 3)):
            value = getattr(self, field)
            if value < least or value % 2 == 0:
                raise ValueError(f"{field} is {value}, but must be an odd number of at least {least}.")
        for field in ("rooms", "categories", "objects", "reach", "episode_limit", "trial_length"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}, but must be at least 1.")
        for field, most, why in (
            ("view_size", self.size, "there is no more to see of a house"),
            ("rooms", most_rooms(self.size), f"a house of size {self.size} has no place for more for certain"),
            ("objects", least_floor(self.size, self.rooms), "more may not find room on the floor"),
            ("reach", self.view_size // 2, "what is farther away may be out of view from all sides"),
        ):
            if getattr(self, field) > most:
                raise ValueError(f"{field} is {getattr(self, field)}, but must be at most {most}: {why}.")

    def make(self) -> tuple["MultiObjectNavigation", "MultiObjectNavigationParams"]:
        """The environment and its parameters."""
        params = MultiObjectNavigationParams(
            max_steps_in_episode=base.trial_steps(self.trial_length),
            episode_limit=base.parameter(np.int32(self.episode_limit)),
            rooms=base.parameter(np.int32(self.rooms)),
            objects=base.parameter(np.int32(self.objects)),
            success_reward=base.parameter(np.float32(self.success_reward)),
            distance_reward=base.parameter(np.float32(self.distance_reward)),
            step_reward=base.parameter(np.float32(self.step_reward)),
        )
        return MultiObjectNavigation(self.size, self.categories, self.view_size, self.reach, self.pose), params

    def splits(self) -> dict[str, Self]:
        """Trials eight times as long, as published; and a larger house, rooms and objects in proportion if they fit."""
        size = self.size + 6
        more = (size - 1) ** 2 / (self.size - 1) ** 2
        rooms = min(math.ceil(more * self.rooms), most_rooms(size))
        objects = min(math.ceil(more * self.objects), least_floor(size, rooms))
        return {
            f"trial_length={8 * self.trial_length}": replace(self, trial_length=8 * self.trial_length),
            f"size={size}": replace(self, size=size, rooms=rooms, objects=objects),
        }


def most_rooms(size: int) -> int:
    """So many rooms a house can always be divided into.

    A room can be divided if it is at least seven cells long, so while there are rooms of more than five by five. With a
    wall on two of its sides each, rooms share (size - 1)**2 cells; one that cannot be divided has at most 36 of them.
    """
    return math.ceil(((size - 1) / 6) ** 2)


def least_floor(size: int, rooms: int) -> int:
    """Cells that walls leave in every house. A wall is at most as long as the house is inside, and has a door."""
    return (size - 2) ** 2 - (rooms - 1) * (size - 3)


@struct.dataclass(kw_only=True)
class MultiObjectNavigationParams(base.EnvParams):
    """What may change without compiling anew; `max_steps_in_episode` (int32) is the length of a trial."""

    episode_limit: jax.Array  # int32
    rooms: jax.Array  # int32
    objects: jax.Array  # int32
    success_reward: jax.Array  # float32
    distance_reward: jax.Array  # float32
    step_reward: jax.Array  # float32


@struct.dataclass
class House:
    """Where everything is, by cell."""

    codes: jax.Array  # int32 [4, size**2]: what is on each cell of the house turned so that a direction is up
    floor: jax.Array  # int32 [size**2]: the cells without a wall, and then any
    floor_cells: jax.Array  # int32: how many have none
    present: jax.Array  # int32 [categories]: the categories that there is an object of, and then any
    present_categories: jax.Array  # int32: how many these are
    distances: jax.Array  # int32 [categories, size**2]: cells to walk to an object of the category; size**2 from a wall


@struct.dataclass
class MultiObjectNavigationState(base.EnvState):
    """One house during a trial; `time` (int32) counts the trial's steps."""

    episode_time: jax.Array  # int32: steps taken in this episode
    cell: jax.Array  # int32: where the agent is
    direction: jax.Array  # int32: where it looks
    start_cell: jax.Array  # int32, of this episode
    start_direction: jax.Array  # int32
    goal: jax.Array  # int32: the category to find
    walked: jax.Array  # int32: cells, in this episode
    shortest: jax.Array  # int32: cells to walk from the start
    distance: jax.Array  # int32: cells to walk from here
    found: jax.Array  # bool: stop would be a success
    house: House  # fixed for the trial


@dataclass(frozen=True)
class MultiObjectNavigation(base.Environment):
    """The gymnax environment; `MultiObjectNavigationConfig` describes it.

    Observation, a dict:

    - `view`, uint8 [view_size, view_size]: the codes of the cells before the agent, which stands in the middle of the
      last row and looks up. 0 hidden, 1 floor, 2 wall, 3 door, from 4 on the categories of objects;
    - `goal`, int32: the category to find;
    - `pose`, float32 [4], if asked for: how far the agent is ahead and to the right of the episode's start, in tens of
      cells, seen as it looked then; cosine and sine of the angle by which it has turned right.

    Actions: 0 forward, 1 left, 2 right, 3 stop. Every step reports in `info`

    - `soft_reset` (bool): the episode ended in this step, the next one has begun;
    - `success` (bool) and `spl` (float32): how it went; 0 in all other steps;
    - `timed_out` (bool): it ended without a stop.
    """

    size: int
    categories: int
    view_size: int
    reach: int
    pose: bool

    episodic = False
    outcomes = ("success", "spl", "timed_out")

    @property
    def default_params(self) -> MultiObjectNavigationParams:
        return MultiObjectNavigationConfig(size=self.size, rooms=1, objects=1).make()[1]

    def reset_env(
        self, key: jax.Array, params: MultiObjectNavigationParams
    ) -> tuple[dict[str, jax.Array], MultiObjectNavigationState]:
        """Begin a trial; `key` is used for the house, its objects and the first episode."""
        house_key, object_key, episode_key = jax.random.split(key, 3)
        codes = build_house(house_key, self.size, params.rooms)
        house = self.survey(place_objects(object_key, codes, params.objects, self.categories))
        cell, direction, goal = draw_episode(episode_key, house)
        view = self.look(house.codes, cell, direction)
        distance = house.distances[goal, cell]
        state = MultiObjectNavigationState(
            time=jnp.int32(0),
            episode_time=jnp.int32(0),
            cell=cell,
            direction=direction,
            start_cell=cell,
            start_direction=direction,
            goal=goal,
            walked=jnp.int32(0),
            shortest=distance,
            distance=distance,
            found=self.is_found(view, goal),
            house=house,
        )
        return self.describe(view, state), state

    def survey(self, codes: jax.Array) -> House:
        """All that is known of a house with these `codes`, int32 [size, size]."""
        is_wall = codes == WALL
        is_object = codes[None] == OBJECT + jnp.arange(self.categories, dtype=jnp.int32)[:, None, None]
        is_present = is_object.any((1, 2))
        return House(
            codes=jnp.stack([jnp.rot90(codes, turns).ravel() for turns in range(4)]),
            floor=jnp.argsort(is_wall.ravel(), stable=True).astype(jnp.int32),
            floor_cells=(~is_wall).sum(dtype=jnp.int32),
            present=jnp.argsort(~is_present, stable=True).astype(jnp.int32),
            present_categories=is_present.sum(dtype=jnp.int32),
            distances=walking_distances(is_wall, self.near(is_wall, is_object)).reshape(self.categories, -1),
        )

    def step_env(
        self, key: jax.Array, state: MultiObjectNavigationState, action: jax.Array, params: MultiObjectNavigationParams
    ) -> tuple[dict[str, jax.Array], MultiObjectNavigationState, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Walk, turn or stop, and begin the next episode where this one ended; `key` is used for that."""
        house = state.house
        ahead = state.cell + jnp.asarray(self.ahead())[state.direction]
        walks = (action == FORWARD) & (house.codes[0, ahead] != WALL)
        cell = jnp.where(walks, ahead, state.cell)
        direction = (state.direction + jnp.asarray(TURNS)[action]) % 4
        walked = state.walked + walks.astype(jnp.int32)
        distance = house.distances[state.goal, cell]

        stopped = action == STOP
        success = stopped & state.found
        timed_out = ~stopped & (state.episode_time + 1 >= params.episode_limit)
        soft_reset = stopped | timed_out
        nearer = (state.distance - distance).astype(jnp.float32)
        reward = params.step_reward + params.distance_reward * nearer
        reward = reward + jnp.where(success, params.success_reward, 0.0)

        start_cell, start_direction, next_goal = draw_episode(key, house)
        goal = jnp.where(soft_reset, next_goal, state.goal)
        cell = jnp.where(soft_reset, start_cell, cell)
        direction = jnp.where(soft_reset, start_direction, direction)
        shortest = house.distances[goal, cell]
        view = self.look(house.codes, cell, direction)
        next_state = MultiObjectNavigationState(
            time=state.time + 1,
            episode_time=jnp.where(soft_reset, 0, state.episode_time + 1),
            cell=cell,
            direction=direction,
            start_cell=jnp.where(soft_reset, cell, state.start_cell),
            start_direction=jnp.where(soft_reset, direction, state.start_direction),
            goal=goal,
            walked=jnp.where(soft_reset, 0, walked),
            shortest=jnp.where(soft_reset, shortest, state.shortest),
            distance=jnp.where(soft_reset, shortest, distance),
            found=self.is_found(view, goal),
            house=house,
        )
        info = {
            "soft_reset": soft_reset,
            "success": success,
            "spl": jnp.where(success, path_efficiency(state.shortest, walked), 0.0),
            "timed_out": timed_out,
        }
        terminated = self.is_terminated(next_state, params)
        return self.describe(view, next_state), next_state, reward, terminated, info

    def observe(
        self,
        key: jax.Array,
        state: MultiObjectNavigationState,
        action: jax.Array | None,
        params: MultiObjectNavigationParams,
    ) -> dict[str, jax.Array]:
        """The observation of `state`; it depends neither on `key` nor on `action`."""
        return self.describe(self.look(state.house.codes, state.cell, state.direction), state)

    def describe(self, view: jax.Array, state: MultiObjectNavigationState) -> dict[str, jax.Array]:
        """The observation, given the `view`, int32 [view_size**2]."""
        observation = {
            "view": view.astype(jnp.uint8).reshape(self.view_size, self.view_size),
            "goal": state.goal,
        }
        if self.pose:
            x, y = self.coordinates(state.cell)
            start_x, start_y = self.coordinates(state.start_cell)
            moved = jnp.stack([x - start_x, y - start_y])
            turns = jnp.stack(
                [state.start_direction, state.start_direction + 1, state.direction - state.start_direction]
            )
            forward, right, turned = jnp.asarray(DIRECTIONS)[turns % 4]
            position = jnp.stack([(forward * moved).sum(), (right * moved).sum()]).astype(jnp.float32) / POSE_SCALE
            observation["pose"] = jnp.concatenate([position, jnp.stack([-turned[1], turned[0]]).astype(jnp.float32)])
        return observation

    def coordinates(self, cell: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`(x, y)` of a cell."""
        return cell % self.size, cell // self.size

    def ahead(self) -> np.ndarray:
        """Change of a cell's number by a step in each direction, int32 [4]."""
        return DIRECTIONS @ np.array([1, self.size], np.int32)

    def look(self, codes: jax.Array, cell: jax.Array, direction: jax.Array) -> jax.Array:
        """The codes of the cells before the agent, int32 [view_size**2]; those of the house are int32 [4, size**2]."""
        x, y = self.coordinates(cell)
        last = self.size - 1
        turned_x = jax.lax.select_n(direction, x, y, last - x, last - y)
        turned_y = jax.lax.select_n(direction, y, last - x, last - y, x)
        # Where the view leaves the house, rows are read over their ends; the outer walls hide what is found there.
        first = (direction * self.size + turned_y - self.view_size + 1) * self.size + turned_x - self.view_size // 2
        rows = first + self.size * jnp.arange(self.view_size, dtype=jnp.int32)
        read = jax.vmap(lambda row: jax.lax.dynamic_slice(codes.ravel(), (row,), (self.view_size,)))
        seen = read(rows).ravel()

        bits, lines, _ = sight(self.view_size, self.reach)
        walls = jnp.where(seen[None] == WALL, bits, np.uint32(0)).sum(axis=1, dtype=jnp.uint32)
        return jnp.where((walls[:, None] & lines).any(axis=0), HIDDEN, seen)

    def is_found(self, view: jax.Array, goal: jax.Array) -> jax.Array:
        """Whether an object of category `goal` is within reach in the `view`."""
        return ((view == OBJECT + goal) & jnp.asarray(sight(self.view_size, self.reach)[2])).any()

    def near(self, is_wall: jax.Array, is_object: jax.Array) -> jax.Array:
        """From which cells an object is within reach and not hidden, bool [categories, size, size]."""
        near = jnp.zeros(is_object.shape, bool)
        for x in range(-self.reach, self.reach + 1):
            for y in range(-self.reach, self.reach + 1):
                if x**2 + y**2 <= self.reach**2:
                    # `roll` brings what is beyond one side of the house to the other, behind both outer walls.
                    walls = [jnp.roll(is_wall, (-v, -u), (0, 1)) for u, v in cells_between(x, y)]
                    hidden = functools.reduce(jnp.logical_or, walls, is_wall)
                    near |= jnp.roll(is_object, (-y, -x), (1, 2)) & ~hidden[None]
        return near

    @property
    def num_actions(self) -> int:
        return 4

    def observation_space(self, params: MultiObjectNavigationParams) -> spaces.Dict:
        parts = {
            "view": spaces.Box(0, OBJECT + self.categories - 1, (self.view_size, self.view_size), jnp.uint8),
            "goal": spaces.Discrete(self.categories),
        }
        if self.pose:
            farthest = max(1.0, (self.size - 3) / POSE_SCALE)
            parts["pose"] = spaces.Box(-farthest, farthest, (4,), jnp.float32)
        return spaces.Dict(parts)

    def players(self) -> dict[str, Player]:
        """The reference players.

        - `oracle` knows the house. It walks a shortest path to the nearest object of the category, straight on where it
          can, turns to it and stops: every episode is a success with SPL 1. (It is not the largest return that there
          can be: stopping at once when the goal is far begins an episode with another.)

        What can be done without memory of earlier episodes is not known in closed form: train a policy whose memory is
        cleared with every episode (`network.memory_across_attempts`) to measure it.
        """
        return {"oracle": Player(lambda params: None, self.play_oracle)}

    def play_oracle(
        self, key: jax.Array, player_state: None, state: MultiObjectNavigationState, params: MultiObjectNavigationParams
    ) -> tuple[None, jax.Array]:
        def finds(direction: jax.Array) -> jax.Array:
            return self.is_found(self.look(state.house.codes, state.cell, direction), state.goal)

        directions = jnp.arange(4, dtype=jnp.int32)
        right_turns = (directions - state.direction) % 4
        turns = jnp.minimum(right_turns, 4 - right_turns)
        onwards = state.house.distances[state.goal, state.cell + jnp.asarray(self.ahead())]
        way = jnp.argmin(4 * onwards + turns)
        to_see = jnp.argmin(jnp.where(jax.vmap(finds)(directions), turns, 4))
        turn = right_turns[jnp.where(state.distance > 0, way, to_see)]
        there = jnp.where(state.distance > 0, FORWARD, STOP)
        return player_state, jnp.where(turn == 0, there, jnp.where(turn == 3, LEFT, RIGHT))

    def render(self, state: MultiObjectNavigationState, params: MultiObjectNavigationParams) -> np.ndarray:
        """A plan of the house for spectators: uint8 [H, W, 3], half of `drawing.CELL` per cell.

        Numbers: the objects by category, green those to find. Vermillion: the agent, pointing where it looks; what it
        sees is bright. Blue: doors. Framed: where the episode began.
        """
        view = np.asarray(self.look(state.house.codes, state.cell, state.direction)).reshape((self.view_size,) * 2)
        rows, columns = np.nonzero(view != HIDDEN)
        ahead, right = (self.ahead()[(int(state.direction) + turn) % 4] for turn in range(2))
        seen = int(state.cell) + (self.view_size - 1 - rows) * ahead + (columns - self.view_size // 2) * right

        image = np.zeros((self.size * drawing.CELL, self.size * drawing.CELL, 3))
        colours = {FLOOR: np.array((70, 70, 70)), WALL: np.array((15, 15, 15)), DOOR: np.array((30, 60, 90))}
        whole = drawing.rectangle(0.02, 0.02, 0.98, 0.98)
        for cell, code in enumerate(np.asarray(state.house.codes[0])):
            y, x = np.array(divmod(cell, self.size)) * drawing.CELL
            tile = image[y : y + drawing.CELL, x : x + drawing.CELL]
            drawing.paint(tile, whole, colours[FLOOR if code >= OBJECT else int(code)] * (1 + (cell in seen)))
            if code >= OBJECT:
                is_goal = code == OBJECT + int(state.goal)
                drawing.paint(tile, drawing.disc(0.5, 0.5, 0.46), drawing.GREEN if is_goal else drawing.GREY)
                drawing.paint(tile, drawing.number(code - OBJECT), drawing.WHITE)
            if cell == int(state.start_cell):
                drawing.paint(tile, np.abs(drawing.rectangle(0.1, 0.1, 0.9, 0.9)) - 1, drawing.WHITE)
            if cell == int(state.cell):
                drawing.paint(tile, np.rot90(drawing.triangle(), -int(state.direction)) + 1, drawing.VERMILLION)
        half = image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2, 3).mean((1, 3))
        return np.round(half).astype(np.uint8)


def draw_episode(key: jax.Array, house: House) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where the agent wakes up and looks, and the category to find, int32 each."""
    # One word is enough for all three: their bias is below (cells x directions x categories) / 2**32.
    word = jax.random.bits(key, (), jnp.uint32)
    drawn = []
    for count in (house.floor_cells, jnp.int32(4), house.present_categories):
        drawn.append((word % count.astype(jnp.uint32)).astype(jnp.int32))
        word = word // count.astype(jnp.uint32)
    place, direction, category = drawn
    return house.floor[place], direction, house.present[category]


def path_efficiency(shortest: jax.Array, walked: jax.Array) -> jax.Array:
    """Length of the shortest path over that of the path walked, float32; both count as at least one cell."""
    shortest, walked = (jnp.maximum(length, 1).astype(jnp.float32) for length in (shortest, walked))
    return shortest / jnp.maximum(shortest, walked)


def cells_between(x: int, y: int) -> list[tuple[int, int]]:
    """The cells on the line from (0, 0) to (x, y) between the two, as `(x, y)`."""
    length = max(abs(x), abs(y))

    def nearest(numerator: int) -> int:  # of numerator / length, halves towards 0
        return int(math.copysign((2 * abs(numerator) + length - 1) // (2 * length), numerator))

    return [(nearest(x * step), nearest(y * step)) for step in range(1, length)]


@functools.cache
def sight(view_size: int, reach: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lines of sight in the view, N = view_size**2 cells, each a bit of W = ceil(N / 32) words.

    Returns:
      bits: uint32 [W, N], the bit of each cell.
      lines: uint32 [W, N], the bits of the cells between the agent and each cell.
      within_reach: bool [N].
    """
    rows, columns = np.divmod(np.arange(view_size**2), view_size)
    ahead, aside = view_size - 1 - rows, columns - view_size // 2
    word, bit = np.divmod(np.arange(view_size**2), 32)
    bits = np.where(word == np.arange(word[-1] + 1)[:, None], 1 << bit, 0).astype(np.uint32)
    lines = np.zeros_like(bits)
    for cell in range(view_size**2):
        for x, y in cells_between(int(aside[cell]), int(ahead[cell])):
            lines[:, cell] |= bits[:, (view_size - 1 - y) * view_size + view_size // 2 + x]
    return bits, lines, ahead**2 + aside**2 <= reach**2


def build_house(key: jax.Array, size: int, rooms: jax.Array) -> jax.Array:
    """Walls, doors and floor, int32 [size, size].

    Walls between rooms have even coordinates and doors odd ones, so that no wall ends at a door.
    """
    coordinates = jnp.stack(jnp.meshgrid(*[jnp.arange(size, dtype=jnp.int32)] * 2, indexing="xy"))
    outside = jnp.any((coordinates == 0) | (coordinates == size - 1), axis=0)

    def divide(
        number: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        house, first, last = carry  # of each room [rooms, 2], the first and the last of its columns and of its rows
        room_key, wall_key, *door_keys = jax.random.split(jax.random.fold_in(key, number), 4)
        sides = last - first + 1
        can_be_divided = (sides.max(1) > 2 * MIN_ROOM) & (jnp.arange(len(first)) < number)
        luck = jax.random.uniform(room_key, (len(first),))
        room = jnp.argmax(jnp.where(can_be_divided, sides.prod(1).astype(jnp.float32) * luck, -1.0))
        axis = jnp.argmax(sides[room])  # 0: the wall is a part of a column, 1: of a row
        begin, end, side = first[room], last[room], sides[room]

        def draw(key: jax.Array, count: jax.Array) -> jax.Array:
            return jax.random.randint(key, (), 0, count, jnp.int32)

        wall = begin[axis] + MIN_ROOM + 2 * draw(wall_key, (side[axis] - 2 * MIN_ROOM + 1) // 2)
        along, across = coordinates[axis], coordinates[1 - axis]
        is_wall = (along == wall) & (across >= begin[1 - axis]) & (across <= end[1 - axis])
        doors = [begin[1 - axis] + 2 * draw(door_key, (side[1 - axis] + 1) // 2) for door_key in door_keys]
        is_door = is_wall & ((across == doors[0]) | (across == doors[1]))
        house = jnp.where(is_door, DOOR, jnp.where(is_wall, WALL, house))

        first, last = first.at[number].set(begin.at[axis].set(wall + 1)), last.at[number].set(end)
        return house, first, last.at[room].set(end.at[axis].set(wall - 1))

    corners = jnp.zeros((most_rooms(size), 2), jnp.int32)
    first, last = corners.at[0].set(1), corners.at[0].set(size - 2)
    return jax.lax.fori_loop(1, rooms, divide, (jnp.where(outside, WALL, FLOOR).astype(jnp.int32), first, last))[0]


def place_objects(key: jax.Array, house: jax.Array, objects: jax.Array, categories: int) -> jax.Array:
    """`house` with so many `objects` on cells without walls, each of a random one of `categories`."""
    cell_key, category_key = jax.random.split(key)
    luck = jnp.where(house == WALL, jnp.inf, jax.random.uniform(cell_key, house.shape)).ravel()
    rank = jnp.argsort(jnp.argsort(luck)).reshape(house.shape)
    category = jax.random.randint(category_key, house.shape, 0, categories, jnp.int32)
    return jnp.where(rank < objects, OBJECT + category, house)


def walking_distances(is_wall: jax.Array, near: jax.Array) -> jax.Array:
    """Cells to walk from each cell to the nearest that is `near`, int32 like `near`, bool [categories, size, size].

    The number of cells from walls, and if none is near.
    """
    never = jnp.int32(is_wall.size)

    def relax(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        distance, _ = carry
        nearest = functools.reduce(jnp.minimum, [jnp.roll(distance, step, axis) for step in (-1, 1) for axis in (1, 2)])
        shorter = jnp.where(is_wall[None], never, jnp.minimum(distance, nearest + 1))
        return shorter, (shorter < distance).any()

    start = jnp.where(near, 0, never)
    return jax.lax.while_loop(lambda carry: carry[1], relax, (start, jnp.bool_(True)))[0]
