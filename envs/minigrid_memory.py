"""MiniGrid's Memory task: see an object, walk down a hallway, and turn to where the same object lies.

The task is `MiniGrid-Memory` of the package minigrid (https://github.com/Farama-Foundation/Minigrid, version 3), step
for step: from the same layout the same actions give the same observations, rewards and ends. The agent starts in the
west, in the start room or the hallway east of it, and looks east. A key or a ball lies in a corner of the room. The
hallway ends in a crossing; a key lies in one arm and a ball in the other. Beside the object that is also in the room
the episode ends with `1 - 0.9 * steps / max_steps`, beside the other with 0. As in the package

- the seven actions are those of MiniGrid, but in this task only turns and steps do anything: nothing can be picked up,
  dropped or toggled, so what lies where never changes;
- the agent sees 7 x 7 cells, its own in the middle of the last row, and not through walls. It sees the object of the
  room only if it turns round, unless it starts beside it;
- the two objects in the arms and the one in the room are drawn independently, and so is the agent's start, uniformly
  from the west wall to the end of the hallway. With `random_length`, so is the length of the hallway;
- an end in the step of the time limit is both `terminated` and `truncated`.

Left out is the mission, a sentence that is always the same. The size is any odd number from 7 on, all in one compiled
program; MiniGrid registers 7, 9, 11, 13, and 13 and 17 with random lengths.

Memory is needed from size 11 on. In shorter hallways, also those drawn short, an agent that turns round at the crossing
sees all three objects at once.

Coordinates are `(x, y)`: x grows to the east, y to the south.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import struct
from gymnax.environments import spaces

from envs import base, drawing
from envs.player import Player

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)

EAST, SOUTH, WEST, NORTH = range(4)
STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)], np.int32)
"""Change of `(x, y)` by a step in each direction."""

UNSEEN, EMPTY, WALL, KEY, BALL = 0, 1, 2, 5, 6
"""MiniGrid's symbols of what is on a cell."""
GREEN, GREY = 1, 5
"""MiniGrid's symbols of the colours of objects and walls; that of a cell without either is 0."""
NUM_SYMBOLS = 11
"""Symbols of objects in MiniGrid; there are fewer colours, and still fewer states."""

VIEW = 7
"""Cells along each side of what the agent sees."""
ASIDE = np.arange(VIEW, dtype=np.int32) - VIEW // 2
"""How far to the agent's right each column of the view is."""
AHEAD = VIEW - 1 - np.arange(VIEW, dtype=np.int32)
"""How far before the agent each row of the view is."""

SIZES = (7, 9, 11, 13, 17)
"""Sizes of the environments that MiniGrid registers."""

SEEN_FLOOR, SEEN_WALL = (85, 85, 85), (170, 170, 170)
"""Colours in pictures."""


@dataclass(frozen=True)
class MiniGridMemoryConfig(base.EnvironmentConfig):
    """MiniGrid-Memory: an object to remember down a hallway, and to find again at its end."""

    size: int = 13
    """Cells along each side of the grid, walls included; odd."""
    random_length: bool = False
    """Draw the length of the hallway for each episode, up to what the size has room for."""
    max_steps: int | None = None
    """Steps after which an episode is truncated; as in MiniGrid, 5 x size^2, if not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 7 or self.size % 2 == 0:
            raise ValueError(f"size is {self.size}, but must be an odd number of at least 7.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps}, but must be at least 1.")

    def make(self) -> tuple["MiniGridMemory", "MiniGridMemoryParams"]:
        """The environment and its parameters."""
        longest = self.size - 3
        params = MiniGridMemoryParams(
            max_steps_in_episode=base.trial_steps(5 * self.size**2 if self.max_steps is None else self.max_steps),
            size=base.parameter(np.int32(self.size)),
            min_hallway_end=base.parameter(np.int32(4 if self.random_length else longest)),
            max_hallway_end=base.parameter(np.int32(longest)),
        )
        return MiniGridMemory(), params

    def splits(self) -> dict[str, "MiniGridMemoryConfig"]:
        """Other sizes, and hallways of random length."""
        settings = {f"size={size}": MiniGridMemoryConfig(size) for size in SIZES}
        # In the smallest grid there is one length only.
        settings |= {f"size={size} random": MiniGridMemoryConfig(size, random_length=True) for size in SIZES[1:]}
        return {name: setting for name, setting in settings.items() if setting.make()[1] != self.make()[1]}


@struct.dataclass(kw_only=True)
class MiniGridMemoryParams(base.EnvParams):
    """Everything, so that one compiled program serves all sizes; `max_steps_in_episode` is also in the reward."""

    size: jax.Array  # int32
    min_hallway_end: jax.Array  # int32: least x of the wall at the end of the hallway
    max_hallway_end: jax.Array  # int32: greatest


@struct.dataclass
class MiniGridMemoryState(base.EnvState):
    """What lies where, and the agent."""

    hallway_end: jax.Array  # int32: x of the wall at the end of the hallway; the arms are east of it
    cue: jax.Array  # int32: KEY or BALL, in the start room
    north: jax.Array  # int32: KEY or BALL, in the northern arm; the other one is in the southern
    position: jax.Array  # int32 [2]: the agent's cell
    direction: jax.Array  # int32: EAST, SOUTH, WEST or NORTH


@dataclass(frozen=True)
class MiniGridMemory(base.Environment):
    """The gymnax environment; `MiniGridMemoryConfig` describes it.

    Observation: `image`, uint8 [7, 7, 3], by column from the agent's left to its right, by row from the farthest to its
    own, with the symbols of object, colour and state (always 0) of a cell, all 0 where it is not seen; and `direction`,
    int32 []. Actions: 0 turn left, 1 turn right, 2 step forward; 3 to 6 do nothing.

    `info`: `success`, whether the agent stands beside the matching object.
    """

    outcomes = ("success",)

    @property
    def default_params(self) -> MiniGridMemoryParams:
        return MiniGridMemoryConfig().make()[1]

    def reset_env(
        self, key: jax.Array, params: MiniGridMemoryParams
    ) -> tuple[dict[str, jax.Array], MiniGridMemoryState]:
        """Draw length, objects and start."""
        key_length, key_objects, key_start = jax.random.split(key, 3)
        hallway_end = jax.random.randint(key_length, (), params.min_hallway_end, params.max_hallway_end + 1, jnp.int32)
        cue, north = jnp.where(jax.random.bernoulli(key_objects, shape=(2,)), KEY, BALL).astype(jnp.int32)
        x = jax.random.randint(key_start, (), 1, hallway_end + 1, jnp.int32)
        state = MiniGridMemoryState(
            time=jnp.int32(0),
            hallway_end=hallway_end,
            cue=cue,
            north=north,
            position=jnp.stack([x, middle(params)]),
            direction=jnp.int32(EAST),
        )
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: jax.Array, state: MiniGridMemoryState, action: jax.Array, params: MiniGridMemoryParams
    ) -> tuple[dict[str, jax.Array], MiniGridMemoryState, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Turn or step. Nothing is random: `key` is not used."""
        turn = (action == RIGHT).astype(jnp.int32) - (action == LEFT).astype(jnp.int32)
        ahead = state.position + step_towards(state.direction)
        steps = (action == FORWARD) & (content(ahead[0], ahead[1], state, params) == EMPTY)
        state = replace(
            state,
            time=state.time + 1,
            position=jnp.where(steps, ahead, state.position),
            direction=(state.direction + turn) % 4,
        )
        arm = arm_of(state, params)
        success = arm == matching_arm(state)
        reward = jnp.where(success, self.success_reward(state, params), 0)
        return self.observe(key, state, action, params), state, reward, arm != 0, {"success": success}

    def success_reward(self, state: MiniGridMemoryState, params: MiniGridMemoryParams) -> jax.Array:
        """The reward for success in the step that led to `state`: MiniGrid's, rounded to float32."""
        # As a quotient of integers, which is rounded once. XLA replaces a division by what many environments share with
        # a product, which rounds differently; adding a zero that it cannot know to be one keeps it from that.
        tenths = 10 * params.max_steps_in_episode + jnp.minimum(state.time, 0)
        return (tenths - 9 * state.time).astype(jnp.float32) / tenths.astype(jnp.float32)

    def observe(
        self, key: jax.Array, state: MiniGridMemoryState, action: jax.Array | None, params: MiniGridMemoryParams
    ) -> dict[str, jax.Array]:
        """The observation of `state`; it depends neither on `key` nor on `action`."""
        objects = view(state, params)
        colours = jnp.where(objects == WALL, GREY, jnp.where(objects > WALL, GREEN, 0))
        image = jnp.stack([objects, colours, jnp.zeros_like(objects)], axis=-1)
        return {"image": image, "direction": state.direction}

    def is_terminated(self, state: MiniGridMemoryState, params: MiniGridMemoryParams) -> jax.Array:
        return arm_of(state, params) != 0

    @property
    def num_actions(self) -> int:
        return 7

    def observation_space(self, params: MiniGridMemoryParams) -> spaces.Dict:
        image = spaces.Box(0, NUM_SYMBOLS - 1, (VIEW, VIEW, 3), jnp.uint8)
        return spaces.Dict({"image": image, "direction": spaces.Discrete(4)})

    def players(self) -> dict[str, Player]:
        """The reference players.

        - `oracle` knows what lies where and takes the shortest path, from x in `hallway_end + 3 - x` steps.
        - `memoryless` goes to the crossing as fast and draws its turn: success 1/2, the most that can be had without
          memory from size 11 on, where nothing seen from the end of the hallway onwards depends on the start room.
        """
        return {
            "oracle": Player(lambda params: None, self.play_oracle),
            "memoryless": Player(lambda params: None, self.play_memoryless),
        }

    def play_oracle(
        self, key: jax.Array, player_state: None, state: MiniGridMemoryState, params: MiniGridMemoryParams
    ) -> tuple[None, jax.Array]:
        return player_state, go_to_arm(matching_arm(state), state)

    def play_memoryless(
        self, key: jax.Array, player_state: None, state: MiniGridMemoryState, params: MiniGridMemoryParams
    ) -> tuple[None, jax.Array]:
        return player_state, go_to_arm(jnp.where(jax.random.bernoulli(key), -1, 1), state)

    def facts(
        self, before: MiniGridMemoryState, action: jax.Array, state: MiniGridMemoryState, params: MiniGridMemoryParams
    ) -> dict[str, base.Fact]:
        """The object in the start room: 0 key, 1 ball. It is in view where another one would change the view."""
        swapped = replace(state, cue=KEY + BALL - state.cue)
        in_view = jnp.any(view(swapped, params) != view(state, params))
        return {"object": base.Fact((state.cue == BALL).astype(jnp.int32), in_view)}

    def render(self, state: MiniGridMemoryState, params: MiniGridMemoryParams) -> np.ndarray:
        """A picture for spectators: uint8 [H, W, 3], `drawing.CELL` per cell.

        Light cells are those that the agent, an arrow, sees. Framed in green: where it ought to go.
        """
        size = int(params.size)
        x, y = np.indices((size, size))
        objects = np.asarray(content(x, y, state, params))
        picture = np.full((size * drawing.CELL, size * drawing.CELL, 3), 25.0)

        def draw(cell: npt.ArrayLike, shape: np.ndarray, colour: drawing.Colour) -> None:
            column, row = np.asarray(cell) * drawing.CELL
            drawing.paint(picture[row : row + drawing.CELL, column : column + drawing.CELL], shape, colour)

        cell_shape = drawing.rectangle(0.02, 0.02, 0.98, 0.98)
        for cell in zip(*np.nonzero(objects == WALL), strict=True):
            draw(cell, cell_shape, drawing.GREY)
        dx, dy = STEPS[int(state.direction)]
        for column, row in zip(*np.nonzero(view(state, params)), strict=True):
            ahead, aside = AHEAD[row], ASIDE[column]
            cell = int(state.position[0]) + dx * ahead - dy * aside, int(state.position[1]) + dy * ahead + dx * aside
            if min(cell) >= 0 and max(cell) < size:
                draw(cell, cell_shape, SEEN_WALL if objects[cell] == WALL else SEEN_FLOOR)

        key_teeth = np.minimum(drawing.rectangle(0.5, 0.6, 0.7, 0.68), drawing.rectangle(0.5, 0.76, 0.7, 0.84))
        key_shaft = drawing.rectangle(0.44, 0.4, 0.54, 0.88)
        shapes = {
            KEY: np.minimum(drawing.ring(0.49, 0.27, 0.14, 0.1), np.minimum(key_shaft, key_teeth)),
            BALL: drawing.disc(0.5, 0.5, 0.3),
        }
        for cell in zip(*np.nonzero(objects > WALL), strict=True):
            draw(cell, shapes[int(objects[cell])], drawing.YELLOW)
        goal = int(state.hallway_end) + 1, size // 2 + int(matching_arm(state))
        draw(goal, np.abs(drawing.rectangle(0.1, 0.1, 0.9, 0.9)) - 2, drawing.GREEN)
        arrow = np.rot90(drawing.arrow_up(), NORTH - int(state.direction))
        draw(state.position, arrow, drawing.VERMILLION)
        return np.round(picture).astype(np.uint8)


def step_towards(direction: jax.Array) -> jax.Array:
    """The change of `(x, y)` by a step in `direction`, int32 [2]."""
    dx = (direction == EAST).astype(jnp.int32) - (direction == WEST).astype(jnp.int32)
    dy = (direction == SOUTH).astype(jnp.int32) - (direction == NORTH).astype(jnp.int32)
    return jnp.stack([dx, dy])


def middle(params: MiniGridMemoryParams) -> jax.Array:
    """The y of the hallway."""
    return params.size // 2


def content(
    x: jax.Array | np.ndarray, y: jax.Array | np.ndarray, state: MiniGridMemoryState, params: MiniGridMemoryParams
) -> jax.Array:
    """The symbols of what is on the cells `(x, y)`, int32 and of any shape; outside the grid everything is wall."""
    end, last = state.hallway_end, params.size - 1
    offset = y - middle(params)
    distance = jnp.abs(offset)
    wall = (x <= 0) | (x >= last) | (y <= 0) | (y >= last)
    wall |= (x <= 4) & (distance == 2)  # of the start room
    wall |= (x >= 4) & (x <= end) & (distance == 1)  # of its way out, and of the hallway
    wall |= (x == end) & (offset != 0)
    wall |= x == end + 2
    objects = jnp.where(wall, WALL, EMPTY)
    objects = jnp.where((x == 1) & (offset == -1), state.cue, objects)
    in_arms = x == end + 1
    objects = jnp.where(in_arms & (offset == -2), state.north, objects)
    return jnp.where(in_arms & (offset == 2), KEY + BALL - state.north, objects).astype(jnp.int32)


def view(state: MiniGridMemoryState, params: MiniGridMemoryParams) -> jax.Array:
    """The symbols of what the agent sees, uint8 [7, 7] by column and row.

    In each row, beginning with its own, the agent sees the cells beside those that it sees through, and so on to both
    sides; and in the next row those ahead of them, straight or diagonally.
    """
    dx, dy = step_towards(state.direction)
    bits = np.arange(VIEW, dtype=np.int32)

    def look(reached: jax.Array, ahead: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One row. `reached`, and all that is said of its cells, has a bit for each: they are computed all at once."""
        x = state.position[0] + dx * ahead - dy * ASIDE
        y = state.position[1] + dy * ahead + dx * ASIDE
        objects = content(x, y, state, params)
        transparent = jnp.sum((objects != WALL).astype(jnp.int32) << bits)
        through = reached & transparent
        # After 1, 2 and 4 cells further, all that is in reach along at most 7 transparent ones.
        from_right = from_left = transparent
        for distance in (1, 2, 4):
            through |= (through << distance) & from_left | (through >> distance) & from_right
            from_left &= from_left << distance
            from_right &= from_right >> distance
        beside = through << 1 | through | through >> 1
        seen = ((reached | beside) >> bits) & 1
        return beside, jnp.where(seen == 1, objects, UNSEEN).astype(jnp.uint8)

    # A loop, though a short one: unrolled, XLA computes the rows again for each other row.
    _, objects = jax.lax.scan(look, jnp.int32(1 << VIEW // 2), jnp.asarray(AHEAD), reverse=True)
    return objects.T


def arm_of(state: MiniGridMemoryState, params: MiniGridMemoryParams) -> jax.Array:
    """Where the agent stands: -1 beside the object in the northern arm, 1 in the southern, 0 elsewhere."""
    x, y = state.position
    # There is no way to an arm but past the crossing, and an episode ends one cell beside it.
    return jnp.where(x == state.hallway_end + 1, y - middle(params), 0)


def matching_arm(state: MiniGridMemoryState) -> jax.Array:
    """The arm of the object that is also in the start room, -1 or 1."""
    return jnp.where(state.north == state.cue, -1, 1)


def go_to_arm(arm: jax.Array, state: MiniGridMemoryState) -> jax.Array:
    """The action that leads on to the object in `arm`, -1 or 1, looking east until the crossing."""
    at_crossing = state.position[0] == state.hallway_end + 1
    turn = jnp.where(arm < 0, LEFT, RIGHT)
    return jnp.where(at_crossing & (state.direction == EAST), turn, FORWARD)
