"""Visual Match: see a colour, collect apples for a while, then walk through the door of that colour.

An episode has three phases, each in a room of its own:

1. *explore*: one cell shows a colour. `passive`: it is next to the agent, which is walled in and cannot but see it.
   `active`: it is somewhere in the wall of two connected rooms, and has to be looked for;
2. *collect*: apples lie about, each with a reward. They come back, and the colour is nowhere to be seen;
3. *choose*: one door of each colour. The first door stepped on is the choice; the right one gives the final reward.

Passive Visual Match is a home task of the Reconstructive Memory Agent and was given to HCAM (arXiv 2105.14039). This is
its gridworld, whose rules are those of the code published with Temporal Value Transport (arXiv 1810.06721,
https://github.com/google-deepmind/deepmind-research/tree/master/tvt/pycolab), frame for frame:

- rooms of 7 x 11 cells, of which the agent sees the 5 x 5 around itself; moves up, down, left and right, held back by
  walls. It starts the first phase in one of the ten cells of the lower room, the others at the bottom in the middle;
- a phase is a fixed number of actions, 15, 90 and 15. The last one still counts, and is followed by the first
  observation of the next phase. The choice ends nothing: the doors disappear, and time goes by;
- 10 apples on places drawn from 22. A collected one lies there again in the 21st observation after, and may be taken by
  the next action, also by an agent that stands on it. Apples of an episode have one reward in common.

That code describes the reward of apples as uniform between 1 and 10 and draws one of the two; so does this one. It
knows only the active first phase; the passive one is that of the code published with "When Do Transformers Shine in
RL?" (arXiv 2307.03864, https://github.com/twni2016/Memory-RL), where apples give 1 and the door 5.

Changed: the length of the second phase is drawn for each episode, so that a trained agent can be tested on longer ones.
The colours of the doors are drawn for each episode, and not once for an environment, so that no place is worth
remembering. A cell is observed as the symbol of what is on it, not as a colour of a picture. There may be a fourth
colour.

Cells are `(row, column)`, from the upper left.
"""

import functools
from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces

from envs import base, drawing
from envs.player import Player

Explore = Literal["passive", "active"]

UP, DOWN, LEFT, RIGHT = range(4)
MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)], np.int32)
"""Change of `(row, column)` by each action."""

FLOOR, WALL, AGENT, APPLE, COLOUR = range(5)
"""Symbols of what is observed on a cell. `COLOUR` is the first colour, further ones follow."""

# The rooms. #: wall, ?: wall that may show the colour, a: place of an apple, s: start.
PASSIVE = """
...........
....???....
....?s?....
....???....
...........
...........
...........
"""
ACTIVE = """
..???????..
..?     ?..
..?     ?..
..??   ??..
..?sssss?..
..?sssss?..
..???????..
"""
APPLES = """
###########
#a a a a a#
# a a a a #
#a a a a a#
# a a a a #
#a a s a a#
###########
"""
DOORS = """
###########
#         #
#         #
#         #
####   ####
...# s #...
...#####...
"""
ROOMS = np.array([[list(row) for row in room.split("\n")[1:-1]] for room in (PASSIVE, ACTIVE, APPLES, DOORS)])
PASSIVE_ROOM, ACTIVE_ROOM, APPLE_ROOM, DOOR_ROOM = range(4)
PLACES = np.argwhere(ROOMS == "?").astype(np.int32)
"""Where the colour may be: room, row, column."""
STARTS = np.argwhere(ROOMS[ACTIVE_ROOM] == "s").astype(np.int32)
"""Cells where the active first phase may start."""
APPLE_CELLS = np.argwhere(ROOMS[APPLE_ROOM] == "a").astype(np.int32)
DOOR_COLUMNS = {3: (2, 5, 8), 4: (2, 4, 6, 8)}
"""Columns of the doors in row 1, by the number of colours."""
VIEW = 5
"""Cells along each side of what the agent sees."""
NEVER = 2**30
"""A time that never comes."""


@dataclass(frozen=True)
class VisualMatchConfig(base.EnvironmentConfig):
    """A colour to be remembered while apples are collected, then the door of that colour to be found."""

    explore: Explore = "passive"
    """Whether the colour is next to the agent at the start, or has to be looked for."""
    num_colours: int = 3
    """Colours, and doors to choose from: 3 as published, or 4."""
    explore_steps: int = 15
    """Steps of the first phase."""
    distractor_steps: tuple[int, ...] = (30, 60, 90)
    """Steps of the second phase: one of these, drawn for each episode. Published with 90."""
    choose_steps: int = 15
    """Steps of the third phase."""
    num_apples: int = 10
    """Apples in the second phase; 0 for a phase in which nothing happens."""
    apple_reward: tuple[float, float] = (1.0, 10.0)
    """Reward of each apple: one of these two numbers, drawn for each episode."""
    respawn_steps: int = 20
    """Steps for which there is no apple where one was collected; it is back one step later."""
    final_reward: float = 10.0
    """Reward for the right door."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.explore not in get_args(Explore):
            allowed = " or ".join(map(repr, get_args(Explore)))
            raise ValueError(f"explore is {self.explore!r}, but must be {allowed}.")
        if self.num_colours not in DOOR_COLUMNS:
            allowed = " or ".join(map(str, DOOR_COLUMNS))
            raise ValueError(f"num_colours is {self.num_colours}, but must be {allowed}.")
        for field, least in (("explore_steps", 1), ("choose_steps", 1), ("respawn_steps", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} is {getattr(self, field)}, but must be at least {least}.")
        if not self.distractor_steps or min(self.distractor_steps) < 0:
            raise ValueError(f"distractor_steps is {self.distractor_steps}, but must be numbers that are at least 0.")
        if not 0 <= self.num_apples <= len(APPLE_CELLS):
            raise ValueError(f"num_apples is {self.num_apples}, but must be from 0 to {len(APPLE_CELLS)}.")
        if len(self.apple_reward) != 2:
            raise ValueError(f"apple_reward is {self.apple_reward}, but must be two numbers to draw from.")

    def make(self) -> tuple["VisualMatch", "VisualMatchParams"]:
        """The environment and its parameters."""
        # NumPy leaves: making an environment starts no JAX backend.
        params = VisualMatchParams(
            max_steps_in_episode=base.trial_steps(self.explore_steps + max(self.distractor_steps) + self.choose_steps),
            explore_room=base.parameter(np.int32(PASSIVE_ROOM if self.explore == "passive" else ACTIVE_ROOM)),
            explore_steps=base.parameter(np.int32(self.explore_steps)),
            distractor_steps=base.parameter(np.array(self.distractor_steps, np.int32)),
            choose_steps=base.parameter(np.int32(self.choose_steps)),
            num_apples=base.parameter(np.int32(self.num_apples)),
            apple_reward=base.parameter(np.array(self.apple_reward, np.float32)),
            respawn_steps=base.parameter(np.int32(self.respawn_steps)),
            final_reward=base.parameter(np.float32(self.final_reward)),
        )
        return VisualMatch(self.num_colours), params

    def splits(self) -> dict[str, Self]:
        """Second phases of one length each, up to 11 times the longest trained one. All share one compilation."""
        same_shape = len(self.distractor_steps)
        return {
            f"distractor_{steps}": replace(self, distractor_steps=(steps,) * same_shape)
            for steps in (90, 250, 500, 1000)
        }


@struct.dataclass(kw_only=True)
class VisualMatchParams(base.EnvParams):
    """What may change without compiling anew; `max_steps_in_episode` (int32) is no less than the longest episode."""

    explore_room: jax.Array  # int32: PASSIVE_ROOM or ACTIVE_ROOM
    explore_steps: jax.Array  # int32
    distractor_steps: jax.Array  # int32 [L]: one of them is drawn
    choose_steps: jax.Array  # int32
    num_apples: jax.Array  # int32
    apple_reward: jax.Array  # float32 [2]: one of them is drawn
    respawn_steps: jax.Array  # int32
    final_reward: jax.Array  # float32


@struct.dataclass
class VisualMatchState(base.EnvState):
    """One episode; `time` (int32) counts its steps. All that is random is drawn at its start."""

    position: jax.Array  # int32 [2]: the agent's cell
    colour: jax.Array  # int32: the one to remember
    place: jax.Array  # int32: where it is shown, a row of PLACES
    distractor_steps: jax.Array  # int32
    apple_reward: jax.Array  # float32
    ripe_at: jax.Array  # int32 [22]: the time from which there is an apple on each of APPLE_CELLS
    door_colours: jax.Array  # int32 [C]
    chosen: jax.Array  # int32: colour of the chosen door, -1 before
    apples: jax.Array  # int32: collected so far


@dataclass(frozen=True)  # equal environments share one compilation of gymnax's jitted `step` and `reset`
class VisualMatch(base.Environment):
    """The gymnax environment; `VisualMatchConfig` describes its arguments and checks them.

    Observation, uint8 [5, 5]: the symbols of what is around the agent, which is in the middle.

    An episode ends with its third phase, by `terminated`. Every step reports in `info`

    - `success` (bool): the right door has been chosen;
    - `apples` (float32): apples collected so far.
    """

    num_colours: int

    outcomes = ("success", "apples")

    @property
    def default_params(self) -> VisualMatchParams:
        return VisualMatchConfig(num_colours=self.num_colours).make()[1]

    def reset_env(self, key: jax.Array, params: VisualMatchParams) -> tuple[jax.Array, VisualMatchState]:
        """Begin an episode; `key` is used for everything that is drawn."""
        keys = jax.random.split(key, 7)
        apples = jax.random.permutation(keys[0], len(APPLE_CELLS)) < params.num_apples
        passive = params.explore_room == PASSIVE_ROOM
        num_passive = np.count_nonzero(PLACES[:, 0] == PASSIVE_ROOM)  # these come first
        first_place, last_place = jnp.where(passive, 0, num_passive), jnp.where(passive, num_passive, len(PLACES))
        start = jax.random.choice(keys[1], jnp.asarray(STARTS))
        state = VisualMatchState(
            time=jnp.int32(0),
            position=jnp.where(passive, start_of(PASSIVE_ROOM), start),
            colour=jax.random.randint(keys[2], (), 0, self.num_colours, jnp.int32),
            place=jax.random.randint(keys[3], (), first_place, last_place, jnp.int32),
            distractor_steps=jax.random.choice(keys[4], params.distractor_steps),
            apple_reward=jax.random.choice(keys[5], params.apple_reward),
            ripe_at=jnp.where(apples, jnp.int32(0), NEVER),
            door_colours=jax.random.permutation(keys[6], jnp.arange(self.num_colours, dtype=jnp.int32)),
            chosen=jnp.int32(-1),
            apples=jnp.int32(0),
        )
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: jax.Array, state: VisualMatchState, action: jax.Array, params: VisualMatchParams
    ) -> tuple[jax.Array, VisualMatchState, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Move, collect or choose, and go on to the next phase. Nothing is random: `key` is not used."""
        room = self.room(state, params)
        position = self.move(room, state.position, action)
        time = state.time + 1

        on_apple = jnp.all(jnp.asarray(APPLE_CELLS) == position[None], axis=-1) & (room == APPLE_ROOM)
        collected = on_apple & (state.ripe_at <= state.time)
        ripe_at = jnp.where(collected, time + 1 + params.respawn_steps, state.ripe_at)
        apple = collected.any()

        on_door = jnp.all(jnp.asarray(self.door_cells) == position[None], axis=-1) & (room == DOOR_ROOM)
        chooses = on_door.any() & (state.chosen < 0)
        chosen = jnp.where(chooses, jnp.where(on_door, state.door_colours, 0).sum(), state.chosen)
        succeeds = chooses & (chosen == state.colour)

        reward = jnp.where(apple, state.apple_reward, 0.0) + jnp.where(succeeds, params.final_reward, 0.0)
        phase_ends = (time == params.explore_steps) | (time == params.explore_steps + state.distractor_steps)
        state = replace(
            state,
            time=time,
            position=jnp.where(phase_ends, start_of(APPLE_ROOM), position),
            ripe_at=ripe_at,
            chosen=chosen,
            apples=state.apples + apple.astype(jnp.int32),
        )
        info = {"success": chosen == state.colour, "apples": state.apples.astype(jnp.float32)}
        return self.observe(key, state, action, params), state, reward, self.is_terminated(state, params), info

    def room(self, state: VisualMatchState, params: VisualMatchParams) -> jax.Array:
        """The index of the room the agent is in, int32."""
        collecting = state.time >= params.explore_steps
        choosing = state.time >= params.explore_steps + state.distractor_steps
        return jnp.where(choosing, DOOR_ROOM, jnp.where(collecting, APPLE_ROOM, params.explore_room))

    def move(self, room: int | jax.Array, position: jax.Array, action: jax.Array) -> jax.Array:
        """The cell, int32 [2], that `action` leads to from `position`; walls hold the agent back."""
        ahead = position + jnp.asarray(MOVES)[action]
        return jnp.where(jnp.asarray(np.isin(ROOMS, ("#", "?")))[room, ahead[0], ahead[1]], position, ahead)

    def observe(
        self, key: jax.Array | None, state: VisualMatchState, action: jax.Array | None, params: VisualMatchParams
    ) -> jax.Array:
        """The observation of `state`; it depends neither on `key` nor on `action`."""
        things = jnp.asarray(things_around(self.num_colours))
        room = self.room(state, params)
        seen = jax.lax.dynamic_slice(things, (room, *state.position), (1, VIEW, VIEW))[0]
        middle = np.zeros((VIEW, VIEW), bool)
        middle[VIEW // 2, VIEW // 2] = True
        return jnp.where(jnp.asarray(middle), jnp.uint8(AGENT), self.symbols(state)[seen])

    def symbols(self, state: VisualMatchState) -> jax.Array:
        """How each thing looks, see `things_around`, uint8."""
        shown = jnp.arange(len(PLACES)) == state.place
        looks = [
            jnp.array([FLOOR, WALL]),
            jnp.where(state.ripe_at <= state.time, APPLE, FLOOR),
            jnp.where(state.chosen < 0, COLOUR + state.door_colours, FLOOR),
            jnp.where(shown, COLOUR + state.colour, WALL),
        ]
        return jnp.concatenate([look.astype(jnp.uint8) for look in looks])

    def is_terminated(self, state: VisualMatchState, params: VisualMatchParams) -> jax.Array:
        return state.time >= params.explore_steps + state.distractor_steps + params.choose_steps

    @property
    def door_cells(self) -> np.ndarray:
        return np.array([(1, column) for column in DOOR_COLUMNS[self.num_colours]], np.int32)

    @property
    def num_actions(self) -> int:
        return len(MOVES)

    def observation_space(self, params: VisualMatchParams) -> spaces.Box:
        return spaces.Box(0, COLOUR + self.num_colours - 1, (VIEW, VIEW), jnp.uint8)

    def players(self) -> dict[str, Player]:
        """The reference players.

        - `oracle` sees everything. It always chooses the right door, and collects the apple that it can have first:
          greedy, so without apples its return is the largest possible, with them it comes near.
        - `memoryless` differs in the choice: it takes the door in the upper left corner. Without having seen or kept
          the colour no choice is better, so its rate of success is the chance, 1 / number of colours.
        """
        return {
            "oracle": Player(lambda params: None, functools.partial(self.act, True)),
            "memoryless": Player(lambda params: None, functools.partial(self.act, False)),
        }

    def act(
        self, knows_colour: bool, key: jax.Array, player_state: None, state: VisualMatchState, params: VisualMatchParams
    ) -> tuple[None, jax.Array]:
        door = jnp.argmax(state.door_colours == state.colour) if knows_colour else 0
        door_column = jnp.asarray(self.door_cells)[door, 1]
        row, column = state.position
        sideways = jnp.where(column > door_column, LEFT, RIGHT)
        to_door = jnp.where((row > 3) | (column == door_column), UP, sideways)  # beside the other doors

        def steps_to(cell: jax.Array) -> jax.Array:
            return jnp.abs(jnp.asarray(APPLE_CELLS) - cell[None]).sum(-1)

        # Before it can take the apple under its feet, the agent must leave the cell and come back.
        distances = jnp.where(steps_to(state.position) == 0, 2, steps_to(state.position))
        nearest = jnp.argmin(jnp.maximum(distances, state.ripe_at - state.time + 1))
        reached = jax.vmap(self.move, (None, None, 0))(APPLE_ROOM, state.position, jnp.arange(self.num_actions))
        to_apple = jnp.argmin(jax.vmap(steps_to)(reached)[:, nearest])
        return player_state, jnp.where(self.room(state, params) == DOOR_ROOM, to_door, to_apple)

    def facts(
        self, before: VisualMatchState, action: jax.Array, state: VisualMatchState, params: VisualMatchParams
    ) -> dict[str, base.Fact]:
        """The colour of the right door, while the agent sees it in the first phase."""
        exploring = state.time < params.explore_steps
        in_view = (self.observe(None, state, action, params) >= COLOUR).any()
        return {"colour": base.Fact(state.colour, exploring & in_view)}

    def render(self, state: VisualMatchState, params: VisualMatchParams) -> np.ndarray:
        """A picture of one environment for spectators: uint8 [H, W, 3], `drawing.CELL` per cell.

        The room, dimmed where the agent (white) does not see it. Below it the colour to remember, and beside that the
        colour chosen.
        """
        light, dark = (200, 200, 200), (60, 60, 60)
        colours = drawing.VERMILLION, drawing.BLUE, drawing.YELLOW, drawing.PURPLE
        palette = np.array([light, dark, light, light, *colours])  # by symbol
        room, position = int(self.room(state, params)), np.asarray(state.position)
        border = VIEW // 2
        things = things_around(self.num_colours)[room, border:-border, border:-border]
        symbols = np.asarray(self.symbols(state))[things]
        rows, columns = symbols.shape
        image = np.full(((rows + 1) * drawing.CELL, columns * drawing.CELL, 3), 255.0)

        def tile(row: int, column: int) -> np.ndarray:
            return image[row * drawing.CELL :, column * drawing.CELL :][: drawing.CELL, : drawing.CELL]

        for row, column in np.ndindex(rows, columns):
            cell = tile(row, column)
            cell[:] = palette[symbols[row, column]]
            if symbols[row, column] == APPLE:
                drawing.paint(cell, drawing.disc(0.5, 0.55, 0.3), drawing.GREEN)
                drawing.paint(cell, drawing.rectangle(0.47, 0.12, 0.53, 0.3), drawing.BLACK)
            if np.abs((row, column) - position).max() > border:
                cell *= 0.45
        drawing.paint(tile(*position), drawing.disc(0.5, 0.5, 0.36), drawing.BLACK)
        drawing.paint(tile(*position), drawing.disc(0.5, 0.5, 0.32), drawing.WHITE)
        swatch = drawing.rectangle(0.15, 0.15, 0.85, 0.85)
        for column, colour in enumerate([int(state.colour), int(state.chosen)]):
            if colour >= 0:
                drawing.paint(tile(rows, column), swatch - 2, drawing.BLACK)
                drawing.paint(tile(rows, column), swatch, palette[COLOUR + colour])
        return np.round(image).astype(np.uint8)


def start_of(room: int) -> jax.Array:
    """The cell, int32 [2], where the agent starts in `room`, which has only one; the same in the last two rooms."""
    (cell,) = np.argwhere(ROOMS[room] == "s")
    return jnp.asarray(cell, jnp.int32)


@functools.cache
def things_around(num_colours: int) -> np.ndarray:
    """What each cell holds, by room, with floor around the rooms for as far as the agent sees: int32 [4, 11, 15].

    Things count from 0: floor, wall, then every place of an apple, every door, and every cell that may show the colour.
    """
    cells = np.where(ROOMS == "#", WALL, FLOOR).astype(np.int32)
    next_thing = 2
    for places in (
        [(APPLE_ROOM, *cell) for cell in APPLE_CELLS],
        [(DOOR_ROOM, 1, column) for column in DOOR_COLUMNS[num_colours]],
        PLACES,
    ):
        for place in places:
            cells[tuple(place)] = next_thing
            next_thing += 1
    border = VIEW // 2
    return np.pad(cells, ((0, 0), (border, border), (border, border)), constant_values=FLOOR)
