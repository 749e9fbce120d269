"""Dark Key-To-Door: find an invisible key, carry it to an invisible door, and do it again, faster.

A trial is a fixed number of steps in one square room with one placement of start, key and door. It is made of
attempts: an attempt ends when the agent stands on the door with the key, or when its time is up, and the next begins at
the same start with the same key and door (a *soft reset*). In the dark nothing shows where they are, so the first
attempt is a search, and every later one is as short as the agent's memory is good.

The rules are those of the gridworld code published with Memo (https://github.com/Memory-icrl/memo), step for step:

- reward 1 for the first step onto the key in an attempt and 1 for a step onto the door with the key, so at most 2 per
  attempt. Where the agent stands counts only after an action, so a start or a door on the key's cell takes one more;
- the attempt's clock is compared with its limit before it advances: a failed attempt takes `attempt_limit + 1` steps;
- the soft reset is part of the step that ends the attempt: the agent receives that step's reward together with the
  observation of the start, and never observes the cell on which its attempt ended;
- start, key and door are drawn independently and uniformly, and may coincide.

Coordinates are `(x, y)`, each from 0 to `size - 1`.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import struct
from gymnax.environments import spaces

from envs import base, drawing
from envs.player import Player

ObservationCoding = Literal["coordinates", "one_hot"]

MOVES = np.array([(0, -1), (-1, 0), (0, 1), (1, 0), (0, 0)], np.int32)
"""Change of `(x, y)` by each action; the last one stays."""


@dataclass(frozen=True)
class DarkKeyToDoorConfig(base.EnvironmentConfig):
    """A key to find and a door to carry it to, both invisible, again and again in the same room."""

    size: int = 9
    """Cells along each side of the square room."""
    attempt_limit: int = 50
    """Clock value at which an attempt times out; a failed attempt takes one step more than this."""
    trial_length: int = 500
    """Steps in one room before everything is drawn anew."""
    dark: bool = True
    """Hide the key and the door. If not, the cells of door and key are appended to the observation."""
    observation: ObservationCoding = "coordinates"
    """How cells are observed: x and y divided by the size as published, or each as a one-hot vector."""
    start: tuple[int, int] | None = None
    """Cell (x, y) where attempts start; drawn for each trial if not given."""
    key: tuple[int, int] | None = None
    """Cell (x, y) of the key; drawn for each trial if not given."""
    door: tuple[int, int] | None = None
    """Cell (x, y) of the door; drawn for each trial if not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, least in (("size", 2), ("attempt_limit", 1), ("trial_length", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} is {getattr(self, field)}, but must be at least {least}.")
        if self.observation not in get_args(ObservationCoding):
            allowed = " or ".join(map(repr, get_args(ObservationCoding)))
            raise ValueError(f"observation is {self.observation!r}, but must be {allowed}.")
        for field in ("start", "key", "door"):
            cell = getattr(self, field)
            if cell is not None and not (len(cell) == 2 and all(0 <= coordinate < self.size for coordinate in cell)):
                raise ValueError(f"{field} is {cell}, but must be a cell (x, y), x and y from 0 to {self.size - 1}.")

    def make(self) -> tuple["DarkKeyToDoor", "DarkKeyToDoorParams"]:
        """The environment and its parameters."""

        def cell_or_drawn(cell: tuple[int, int] | None) -> jax.Array:
            return base.parameter(np.array((-1, -1) if cell is None else cell, np.int32))

        # NumPy leaves: making an environment starts no JAX backend.
        params = DarkKeyToDoorParams(
            max_steps_in_episode=base.trial_steps(self.trial_length),
            start=cell_or_drawn(self.start),
            key=cell_or_drawn(self.key),
            door=cell_or_drawn(self.door),
        )
        return DarkKeyToDoor(self.size, self.attempt_limit, self.dark, self.observation), params


@struct.dataclass(kw_only=True)
class DarkKeyToDoorParams(base.EnvParams):
    """What may change without compiling anew; `max_steps_in_episode` (int32) is the length of a trial."""

    start: jax.Array  # int32 [2]: a fixed cell, or (-1, -1): drawn for each trial
    key: jax.Array  # int32 [2], likewise
    door: jax.Array  # int32 [2], likewise


@struct.dataclass
class DarkKeyToDoorState(base.EnvState):
    """One room during a trial; `time` (int32) counts the trial's steps."""

    attempt_time: jax.Array  # int32: steps taken in this attempt
    position: jax.Array  # int32 [2]: the agent's cell
    has_key: jax.Array  # bool: found in this attempt
    start: jax.Array  # int32 [2], fixed for the trial
    key: jax.Array  # int32 [2], fixed for the trial
    door: jax.Array  # int32 [2], fixed for the trial


class SearcherState(NamedTuple):
    """What the searcher has not ruled out, bool [size, size] by x and y. Once found, a single cell is left."""

    key_cells: jax.Array
    door_cells: jax.Array


@dataclass(frozen=True)  # equal environments share one compilation of gymnax's jitted `step` and `reset`
class DarkKeyToDoor(base.Environment):
    """The gymnax environment; `DarkKeyToDoorConfig` describes its arguments and checks them.

    Observation, float32: the agent's cell, whether it has the key, the attempt's clock over its limit, and in the light
    the cells of door and key. A cell is `[x / size, y / size]`, or two one-hot vectors of length `size`.

    A trial ends only by gymnax's time limit, so it is `truncated` and never `terminated`. Every step reports in `info`

    - `soft_reset` (bool): the attempt ended in this step, the next one has begun;
    - `attempt_succeeded` (bool): it ended at the door, in time or in the very step of the time-out;
    - `attempt_observation`: what the agent would have observed without the soft reset.

    Where a trial and an attempt end in the same step, `final_observation` is the start's, as after any soft reset: what
    the agent would have observed next had the trial gone on, which is what a truncated return is bootstrapped from.
    """

    size: int
    attempt_limit: int
    dark: bool
    observation: ObservationCoding

    episodic = False

    @property
    def default_params(self) -> DarkKeyToDoorParams:
        return DarkKeyToDoorConfig(size=self.size).make()[1]

    def reset_env(self, key: jax.Array, params: DarkKeyToDoorParams) -> tuple[jax.Array, DarkKeyToDoorState]:
        """Begin a trial; `key` is used for the placements."""
        drawn = jax.random.randint(key, (3, 2), 0, self.size, jnp.int32)
        fixed = jnp.stack([params.start, params.key, params.door])
        start, key_cell, door = jnp.where(fixed < 0, drawn, fixed)
        state = DarkKeyToDoorState(
            time=jnp.int32(0),
            attempt_time=jnp.int32(0),
            position=start,
            has_key=jnp.bool_(False),
            start=start,
            key=key_cell,
            door=door,
        )
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: jax.Array, state: DarkKeyToDoorState, action: jax.Array, params: DarkKeyToDoorParams
    ) -> tuple[jax.Array, DarkKeyToDoorState, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Move, collect, and begin the next attempt where this one ended. Nothing is random: `key` is not used."""
        position = self.move(state.position, action)
        on_key = jnp.all(position == state.key)
        attempt_succeeded = state.has_key & jnp.all(position == state.door)
        timed_out = state.attempt_time >= self.attempt_limit  # tested before the clock advances, as published
        soft_reset = attempt_succeeded | timed_out
        reward = (attempt_succeeded | (on_key & ~state.has_key)).astype(jnp.float32)

        moved = replace(
            state,
            time=state.time + 1,
            attempt_time=state.attempt_time + 1,
            position=position,
            has_key=state.has_key | on_key,
        )
        next_state = replace(
            moved,
            attempt_time=jnp.where(soft_reset, 0, moved.attempt_time),
            position=jnp.where(soft_reset, state.start, position),
            has_key=moved.has_key & ~soft_reset,
        )
        info = {
            "soft_reset": soft_reset,
            "attempt_succeeded": attempt_succeeded,
            "attempt_observation": self.observe(key, moved, action, params),
        }
        observation = self.observe(key, next_state, action, params)
        return observation, next_state, reward, self.is_terminated(next_state, params), info

    def move(self, position: jax.Array, action: jax.Array) -> jax.Array:
        """The cell, int32 [2], that `action` leads to from `position`; walls hold the agent back."""
        return jnp.clip(position + jnp.asarray(MOVES)[action], 0, self.size - 1)

    def observe(
        self, key: jax.Array, state: DarkKeyToDoorState, action: jax.Array | None, params: DarkKeyToDoorParams
    ) -> jax.Array:
        """The observation of `state`; it depends neither on `key` nor on `action`."""
        clock = fractions(self.attempt_limit + 2, self.attempt_limit)[state.attempt_time]
        agent = [self.encode_cell(state.position), jnp.stack([state.has_key.astype(jnp.float32), clock])]
        light = [] if self.dark else [self.encode_cell(state.door), self.encode_cell(state.key)]
        return jnp.concatenate(agent + light)

    def encode_cell(self, cell: jax.Array) -> jax.Array:
        """A cell, int32 [2], as the agent observes it: float32 [2] or [2 * size]."""
        if self.observation == "one_hot":
            return (cell[:, None] == jnp.arange(self.size, dtype=jnp.int32)[None, :]).astype(jnp.float32).ravel()
        return fractions(self.size, self.size)[cell]

    @property
    def num_actions(self) -> int:
        return len(MOVES)

    def observation_space(self, params: DarkKeyToDoorParams) -> spaces.Box:
        cell_length = 2 * self.size if self.observation == "one_hot" else 2
        length = cell_length * (1 if self.dark else 3) + 2
        return spaces.Box(0.0, 1.0, (length,), jnp.float32)

    def players(self) -> dict[str, Player]:
        """The reference players.

        - `oracle` sees everything and takes a shortest path to the key and on to the door: the largest possible return.
        - `searcher` knows only what the dark observation, the reward and the soft-reset flag say, and remembers it for
          a trial. Without the key it goes to the nearest cell where the key may be, with it to the nearest where the
          door may be, and so to key and door themselves once they are found. Greedy, hence not the best possible.
        """
        return {
            "oracle": Player(lambda params: None, self.play_oracle),
            "searcher": Player(self.begin_search, self.play_searcher),
        }

    def play_oracle(
        self, key: jax.Array, player_state: None, state: DarkKeyToDoorState, params: DarkKeyToDoorParams
    ) -> tuple[None, jax.Array]:
        return player_state, self.approach(state.position, jnp.where(state.has_key, state.door, state.key))

    def begin_search(self, params: DarkKeyToDoorParams) -> SearcherState:
        anywhere = jnp.ones((self.size, self.size), bool)
        return SearcherState(key_cells=anywhere, door_cells=anywhere)

    def play_searcher(
        self, key: jax.Array, known: SearcherState, state: DarkKeyToDoorState, params: DarkKeyToDoorParams
    ) -> tuple[SearcherState, jax.Array]:
        cells = jnp.stack(jnp.meshgrid(jnp.arange(self.size), jnp.arange(self.size), indexing="ij"), axis=-1)
        possible = jnp.where(state.has_key, known.door_cells, known.key_cells)
        distances = jnp.where(possible, jnp.abs(cells - state.position[None, None]).sum(-1), 2 * self.size)
        nearest = jnp.stack(jnp.divmod(jnp.argmin(distances), self.size))
        action = self.approach(state.position, nearest)

        # The step's reward will show whether the cell stepped on was the one looked for. Key and door are read from the
        # state for nothing else: what will be known after the step is noted down before it.
        stepped_on = self.move(state.position, action)
        here = jnp.all(cells == stepped_on[None, None], axis=-1)

        def learn(possible: jax.Array, target: jax.Array) -> jax.Array:
            return jnp.where(jnp.all(stepped_on == target), here, possible & ~here)

        known = SearcherState(
            key_cells=jnp.where(state.has_key, known.key_cells, learn(known.key_cells, state.key)),
            door_cells=jnp.where(state.has_key, learn(known.door_cells, state.door), known.door_cells),
        )
        return known, action

    def approach(self, position: jax.Array, cell: jax.Array) -> jax.Array:
        """The action that leads from `position` closest to `cell`; both int32 [2]."""
        reached = self.move(position[None], jnp.arange(self.num_actions))
        return jnp.argmin(jnp.abs(reached - cell[None]).sum(-1))

    def facts(
        self, before: DarkKeyToDoorState, action: jax.Array, state: DarkKeyToDoorState, params: DarkKeyToDoorParams
    ) -> dict[str, base.Fact]:
        """The cells of key and door. In the dark, the reward for stepping on one shows it."""
        stepped_on = self.move(before.position, action)
        acted = action >= 0

        def fact(cell: jax.Array, wanted: jax.Array) -> base.Fact:
            found = acted & wanted & jnp.all(stepped_on == cell)
            return base.Fact(cell[0] * self.size + cell[1], found | (not self.dark))

        return {"key": fact(state.key, ~before.has_key), "door": fact(state.door, before.has_key)}

    def render(self, state: DarkKeyToDoorState, params: DarkKeyToDoorParams) -> np.ndarray:
        """A picture of one environment for spectators, who see in the dark: uint8 [H, W, 3], `drawing.CELL` per cell.

        x runs to the right, y down. Framed: the start. Blue: the door, bright once the agent has the key. Yellow: the
        key, which the agent (a disc) takes along.
        """
        has_key = bool(state.has_key)
        image = np.full((self.size * drawing.CELL, self.size * drawing.CELL, 3), 40.0 if self.dark else 190.0)
        image[:: drawing.CELL] = image[:, :: drawing.CELL] = image[-1] = image[:, -1] = 75.0

        def draw(cell: npt.ArrayLike, shape: np.ndarray, colour: drawing.Colour) -> None:
            x, y = np.asarray(cell) * drawing.CELL
            tile = image[y : y + drawing.CELL, x : x + drawing.CELL]
            drawing.paint(tile, shape - 1.5, drawing.BLACK)  # an outline, so that nothing fades into another shape
            drawing.paint(tile, shape, colour)

        frame = np.abs(drawing.rectangle(0.11, 0.11, 0.89, 0.89)) - 1
        door = drawing.rectangle(0.24, 0.12, 0.76, 0.88)
        agent = drawing.disc(0.5, 0.5, 0.34)
        key_shaft = drawing.rectangle(0.48, 0.47, 0.86, 0.55)
        key_teeth = np.minimum(drawing.rectangle(0.66, 0.5, 0.72, 0.67), drawing.rectangle(0.8, 0.5, 0.86, 0.67))
        key = np.minimum(drawing.ring(0.33, 0.51, 0.14, 0.1), np.minimum(key_shaft, key_teeth))

        draw(state.start, frame, drawing.WHITE)
        draw(state.door, door, drawing.SKY_BLUE if has_key else drawing.BLUE)
        draw(state.position, agent, drawing.VERMILLION)
        draw(state.position if has_key else state.key, key, drawing.YELLOW)
        return np.round(image).astype(np.uint8)


def fractions(count: int, denominator: int) -> jax.Array:
    """The table `[0, 1, ..., count - 1] / denominator`, float32 [count].

    XLA replaces a division by a shared divisor with a product, which rounds differently from the published code.
    """
    return jnp.asarray(np.arange(count, dtype=np.float32) / np.float32(denominator))
