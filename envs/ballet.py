"""Ballet: watch one dancer after the other, then walk to the one whose dance is named.

The task of "Towards mental time travel: a hierarchical memory for reinforcement learning agents" (Lampinen, Chan,
Banino and Hill, 2021, arXiv 2105.14039), by the rules of the code published with it
(https://github.com/google-deepmind/deepmind-research, folder hierarchical_transformer_memory), step for step:

- 2 to 8 dancers stand around the agent, at places drawn without order. They differ in shape, in colour and in the dance
  they dance, all drawn without replacement. One of them, any with equal probability, is the one asked for;
- the dancers perform one at a time, 16 moves each, and the next one makes its first move `delay` steps after the last
  move of the one before. The first observation already shows a first move, and a dancer's last move leads back to its
  place: from the start of one dance to the start of the next it is `15 + delay` steps;
- meanwhile the instruction is "watch" and actions do nothing. After the last delay it names a dance; the agent walks,
  also diagonally, and each dancer is three moves away;
- the first dancer that the agent steps on ends the episode: reward 1 if it danced that dance, else 0;
- the time limit is 320 steps where the delay is 16, and 1024 otherwise; it truncates the episode.

There are the 13 dances of that code. `plus_cw` and `plus_ccw` differ only in the order of their positions, and so do
`times_cw` and `times_ccw`; any five successive positions identify a dance.

Changed from the published code: episodes may mix levels, numbers of dancers and delays; the time limit is moved
where it would leave fewer than 72 steps to walk, as with 8 dancers and a delay of 192. The picture is uint8 from 0 to
255 instead of float32 from 0 to 1, and the instruction a number instead of a string; the symbolic observation is new.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, Self, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces

from envs import base
from envs.choice_room import (
    AGENT,
    MAX_PLACES,
    MOVES,
    OTHER,
    ChoiceRoom,
    ChoiceRoomParams,
    ChoiceRoomState,
    Level,
    draw_distinct,
    level_params,
)

ObservationCoding = Literal["symbolic", "picture"]

DISTANCE = 3
PIXELS = 9
"""Along each side of a cell in the picture."""

DANCES = {
    "circle_cw": "0244660022446602",
    "circle_ccw": "0644220066442206",
    "up_and_down": "0440044004400440",
    "left_and_right": "2662266226622662",
    "diagonal_uldr": "7337733773377337",
    "diagonal_urdl": "1551155115511551",
    "plus_cw": "0426406204264062",
    "plus_ccw": "0462402604624026",
    "times_cw": "1537517315375173",
    "times_ccw": "7351371573513715",
    "zee": "1662251552266151",
    "chevron_down": "7431051514570373",
    "chevron_up": "3075415150134737",
}
"""Each dance as its moves, which are numbered like the actions."""

DANCE_LENGTH = 16

STEPS = np.array([MOVES[[int(move) for move in moves]].cumsum(0) for moves in DANCES.values()], np.int32)
"""Where a dancer is at each moment of each dance: `(row, column)` from its place, int32 [dances, DANCE_LENGTH, 2]."""

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "purple": (128, 0, 128),
    "orange": (255, 165, 0),
    "yellow": (255, 255, 0),
    "brown": (128, 64, 0),
    "pink": (255, 64, 255),
    "cyan": (0, 255, 255),
    "dark_green": (0, 100, 0),
    "dark_red": (100, 0, 0),
    "dark_blue": (0, 0, 100),
    "olive": (100, 100, 0),
    "teal": (0, 100, 100),
    "lavender": (215, 200, 255),
    "peach": (255, 210, 170),
    "rose": (255, 205, 230),
    "light_green": (200, 255, 200),
    "light_yellow": (255, 255, 200),
}
"""Red, green and blue."""


def _shapes() -> dict[str, np.ndarray]:
    row, column = np.ogrid[:PIXELS, :PIXELS]
    above, left = row - PIXELS // 2, column - PIXELS // 2  # of the middle, if negative
    everywhere = np.ones((PIXELS, PIXELS), bool)
    plus = (np.abs(above) <= 1) | (np.abs(left) <= 1)
    cross = (np.abs(above - left) <= 1) | (np.abs(above + left) <= 1)
    distance = above**2 + left**2
    top, bottom, sides = above <= -2, above >= 2, np.abs(left) >= 2
    return {
        "triangle": row >= 2 * np.abs(left),
        "empty_square": np.maximum(np.abs(above), np.abs(left)) >= 3,
        "plus": plus,
        "inverse_plus": ~plus,
        "ex": cross,
        "inverse_ex": ~cross,
        "circle": distance <= 16,
        "empty_circle": np.abs(distance - 16) < 6,
        "tee": top | ~sides,
        "upside_down_tee": bottom | ~sides,
        "h": sides | (np.abs(above) <= 1),
        "u": sides | bottom,
        "upside_down_u": sides | top,
        "vertical_stripes": everywhere & (column % 2 == 0),
        "horizontal_stripes": everywhere & (row % 2 == 0),
    }


SHAPES = _shapes()
"""The pixels of each shape, bool [PIXELS, PIXELS]."""

# What `paint` looks up: the pixels of each shape code, and the colours: of floor, wall and agent, then of the dancers.
_PIXELS = np.stack([np.ones((PIXELS, PIXELS), bool)] * OTHER + [*SHAPES.values()]).astype(np.uint8)
_PALETTE = np.array([(0, 0, 0), (40, 40, 40), (255, 255, 255), *COLOURS.values()], np.uint8)


@dataclass(frozen=True)
class BalletConfig(base.EnvironmentConfig):
    """Dancers to watch one after the other, then one of them to find by the name of its dance."""

    num_dancers: tuple[int, ...] = (2, 4, 8)
    """Numbers of dancers; each episode uses one of these, drawn uniformly."""
    delays: tuple[int, ...] = (16, 48)
    """Steps between two dances; each episode uses one of these, drawn uniformly."""
    max_steps: int | None = None
    """Steps after which an episode is truncated. If not given, it is as published: 320 where the delay is 16, and 1024
    otherwise, but always enough to leave 72 steps to choose, the fewest that the paper's levels leave."""
    observation: ObservationCoding = "symbolic"
    """The view as grids of shapes and colours, or as the published picture, which shows the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, least, most in (("num_dancers", 2, MAX_PLACES), ("delays", 1, None)):
            values = getattr(self, field)
            if not values or min(values) < least or (most is not None and max(values) > most):
                allowed = f"from {least} to {most}" if most is not None else f"at least {least}"
                raise ValueError(f"{field} is {values}, but must be one or more numbers, each {allowed}.")
        if self.observation not in get_args(ObservationCoding):
            allowed = " or ".join(map(repr, get_args(ObservationCoding)))
            raise ValueError(f"observation is {self.observation!r}, but must be {allowed}.")
        needed = max(level.choice_time for level in self.levels()) + DISTANCE
        if self.max_steps is not None and self.max_steps < needed:
            raise ValueError(
                f"max_steps is {self.max_steps}, but must be at least {needed}: that long it takes to watch"
                f" {max(self.num_dancers)} dancers with delays of {max(self.delays)} steps and to walk to one."
            )
        level_params(self.levels())

    def levels(self) -> list[Level]:
        """Every number of dancers with every delay."""

        def level(num_dancers: int, delay: int) -> Level:
            choice_time = num_dancers * (DANCE_LENGTH - 1 + delay)
            published = 320 if delay == 16 else 1024
            return Level(num_dancers, choice_time, self.max_steps or max(published, choice_time + 72))

        return [level(num_dancers, delay) for num_dancers, delay in product(self.num_dancers, self.delays)]

    def make(self) -> tuple["Ballet", "BalletParams"]:
        """The environment and its parameters."""
        # NumPy leaves: making an environment starts no JAX backend.
        return Ballet(DISTANCE, self.observation), BalletParams(**level_params(self.levels()))

    def splits(self) -> dict[str, Self]:
        """The six levels of the paper, named as there, and two longer delays."""
        return {
            f"{dancers}_delay{delay}": replace(self, num_dancers=(dancers,), delays=(delay,), max_steps=None)
            for delay, dancers in product((16, 48, 96, 192), (2, 4, 8))
        }


@struct.dataclass(kw_only=True)
class BalletParams(ChoiceRoomParams):
    """What may change without compiling anew, see `ChoiceRoomParams`: numbers of dancers, delays and time limits."""


@struct.dataclass
class BalletState(ChoiceRoomState):
    """One episode. Dancers perform in the order in which they are counted here, and those not in use are not shown."""

    dances: jax.Array  # int32 [MAX_PLACES], indices into DANCES
    shapes: jax.Array  # int32 [MAX_PLACES], into SHAPES
    colours: jax.Array  # int32 [MAX_PLACES], into COLOURS


@dataclass(frozen=True)  # equal environments share one compilation of gymnax's jitted `step` and `reset`
class Ballet(ChoiceRoom):
    """The gymnax environment; `BalletConfig` describes its arguments and checks them.

    Observation, symbolic: what each of the 11 x 11 cells around the agent holds, as `shape`, uint8 [11, 11] (0 floor,
    1 wall, 2 agent, 3 + shape of a dancer), and `colour`, uint8 [11, 11] (0 none, 1 + colour of a dancer). Outside the
    wall it is as on the floor. On the agent's own cell a dancer covers the agent. Or `picture`, uint8 [99, 99, 3]: the
    same with 9 x 9 pixels a cell. With either, `instruction`, int32 []: 0 to watch, 1 + the dance to look for.
    """

    observation: ObservationCoding

    @property
    def default_params(self) -> BalletParams:
        return BalletConfig().make()[1]

    def reset_env(self, key: jax.Array, params: BalletParams) -> tuple[dict[str, jax.Array], BalletState]:
        """Begin an episode; `key` is used for everything about the dancers."""
        common_key, dances_key, shapes_key, colours_key = jax.random.split(key, 4)
        state = BalletState(
            **self.draw_common(common_key, params),
            dances=draw_distinct(dances_key, len(DANCES)),
            shapes=draw_distinct(shapes_key, len(SHAPES)),
            colours=draw_distinct(colours_key, len(COLOURS)),
        )
        return self.observe(key, state, None, params), state

    def dancer_cells(self, state: BalletState) -> jax.Array:
        """Where each dancer is: int32 [MAX_PLACES, 2]."""
        period = state.level.choice_time // state.level.num_places
        dancer, moment = jnp.divmod(state.time, period)
        moment = jnp.minimum(moment, DANCE_LENGTH - 1)  # after the last move it stays where it began
        dancing = jnp.arange(MAX_PLACES, dtype=jnp.int32) == dancer
        dance = jnp.where(dancing, state.dances, 0).sum()  # where all have danced, any
        step = jnp.asarray(STEPS)[dance, moment]
        return state.places + jnp.where(dancing[:, None], step[None], 0)

    def observe(
        self, key: jax.Array, state: BalletState, action: jax.Array | None, params: BalletParams
    ) -> dict[str, jax.Array]:
        """The observation of `state`; it depends neither on `key` nor on `action`."""
        cells = self.in_view(self.dancer_cells(state), state.position)
        cells = jnp.where(self.in_use(state), cells, self.size**2)
        shape = self.view_room(state.position).at[self.size**2 // 2].set(AGENT)
        shape = shape.at[cells].set((OTHER + state.shapes).astype(jnp.uint8), mode="drop")
        colour = jnp.zeros_like(shape).at[cells].set((1 + state.colours).astype(jnp.uint8), mode="drop")
        shape, colour = shape.reshape(self.size, self.size), colour.reshape(self.size, self.size)
        symbolic = {"shape": shape, "colour": colour}
        view = {"picture": paint(shape, colour)} if self.observation == "picture" else symbolic
        instruction = jnp.where(self.is_choosing(state), 1 + state.dances[state.target], 0)
        return {**view, "instruction": instruction}

    def observation_space(self, params: BalletParams) -> spaces.Dict:
        grid = (self.size, self.size)
        if self.observation == "picture":
            view = {"picture": spaces.Box(0, 255, (self.size * PIXELS, self.size * PIXELS, 3), jnp.uint8)}
        else:
            view = {
                "shape": spaces.Box(0, OTHER + len(SHAPES) - 1, grid, jnp.uint8),
                "colour": spaces.Box(0, len(COLOURS), grid, jnp.uint8),
            }
        return spaces.Dict({**view, "instruction": spaces.Box(0, len(DANCES), (), jnp.int32)})

    def facts(
        self, before: BalletState, action: jax.Array, state: BalletState, params: BalletParams
    ) -> dict[str, base.Fact]:
        """The dance of each dancer, in the order in which they perform; it is shown from its first move to its last."""
        dancer, moment = jnp.divmod(state.time, state.level.choice_time // state.level.num_places)
        dancing = (jnp.arange(MAX_PLACES, dtype=jnp.int32) == dancer) & (moment < DANCE_LENGTH) & self.in_use(state)
        return {f"dance {i + 1}": base.Fact(state.dances[i], dancing[i]) for i in range(MAX_PLACES)}

    def render(self, state: BalletState, params: BalletParams) -> np.ndarray:
        """A picture of one environment for spectators: uint8 [H, W, 3], `drawing.CELL` per cell.

        Light floor: around the dancer that performs. Framed: the place of the dancer asked for. Disc: the agent.
        """
        cells = np.asarray(self.dancer_cells(state))
        state = jax.tree.map(np.asarray, state)
        image = self.draw_room(state)
        dancer, moment = divmod(int(state.time), int(state.level.choice_time) // int(state.level.num_places))
        if dancer < state.level.num_places and moment < DANCE_LENGTH:
            for move in (np.zeros(2, int), *MOVES):
                self.tile(image, state.places[dancer] + move)[1:, 1:] = 60.0
        for i in range(state.level.num_places):
            pixels = list(SHAPES.values())[state.shapes[i]].repeat(3, axis=0).repeat(3, axis=1)
            self.tile(image, cells[i])[3:30, 3:30][pixels] = list(COLOURS.values())[state.colours[i]]
        self.draw_agent(image, state)
        return np.round(image).astype(np.uint8)


def paint(shape: jax.Array, colour: jax.Array) -> jax.Array:
    """The picture of a symbolic view: uint8 [H * PIXELS, W * PIXELS, 3] from two grids, uint8 [H, W]."""
    pixels = jnp.asarray(_PIXELS)[shape].swapaxes(1, 2)  # [H, PIXELS, W, PIXELS]
    rgb = jnp.asarray(_PALETTE)[jnp.where(colour == 0, shape, OTHER - 1 + colour)]
    height, width = shape.shape
    return (pixels[..., None] * rgb[:, None, :, None]).reshape(height * PIXELS, width * PIXELS, 3)
