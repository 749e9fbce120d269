"""Boxes: see once what is in each box, wait, then walk to the box that holds the object asked for.

After the object permanence task of "Towards mental time travel: a hierarchical memory for reinforcement learning
agents" (Lampinen, Chan, Banino and Hill, 2021, arXiv 2105.14039, section 3.2): objects are seen before they are hidden
in boxes, and after a delay the agent has to go back to the box of one of them. That task is three-dimensional and was
not published; this one asks for the same in a room seen from above, with rules of its own:

- boxes stand around the agent at places drawn without order, each with another object in it. One of the objects, any
  with equal probability, is the one asked for;
- the boxes take turns of `turn_steps` steps, and in each turn, from a step drawn at random, the box is open for
  `open_steps` steps and shows its object. A closed box looks like any other;
- then `delay` steps pass in which the agent's view jumps about at random: in each step it is not the agent but some
  cell near it that is in the middle, up to `view_shift` rows and columns away;
- meanwhile the instruction is to watch and actions do nothing. Then it names the object, all boxes being closed; the
  agent walks, also diagonally, and each box is `distance` moves away;
- the first box that the agent steps on ends the episode: reward 1 if it holds the object, else 0. It has
  `choice_steps` steps; then the episode is truncated.

Memories that were trained on delays from 0 to 64 steps, the default, can be tested on delays eight times as long. To
train on long delays alone, without the short ones as a curriculum, give only those.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces

from envs import base, drawing
from envs.ballet import COLOURS, SHAPES
from envs.choice_room import (
    AGENT,
    MAX_PLACES,
    OTHER,
    ChoiceRoom,
    ChoiceRoomParams,
    ChoiceRoomState,
    Level,
    draw_distinct,
    level_params,
)

MAX_OBJECTS = np.iinfo(np.uint8).max - OTHER
WOOD = (139, 94, 60)


@dataclass(frozen=True)
class BoxesConfig(base.EnvironmentConfig):
    """Boxes that open one after the other; after a delay, one of the objects seen in them is to be found again."""

    num_boxes: tuple[int, ...] = (4,)
    """Numbers of boxes; each episode uses one of these, drawn uniformly."""
    delays: tuple[int, ...] = (0, 16, 32, 64)
    """Steps between the last box's turn and the question; each episode uses one of these, drawn uniformly."""
    num_objects: int = 16
    """Kinds of objects; each box of an episode holds a different one."""
    turn_steps: int = 8
    """Steps of a box's turn."""
    open_steps: int = 4
    """Steps for which a box is open during its turn."""
    view_shift: int = 2
    """Rows and columns by which the view may be shifted during the delay; 0 keeps it still."""
    choice_steps: int = 32
    """Steps from the question to the time limit."""
    distance: int = 3
    """Moves from the agent's start to each box. The wall is two cells further: 3 makes a room of 11 x 11 cells."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, least, most in (("num_boxes", 2, MAX_PLACES), ("delays", 0, None)):
            values = getattr(self, field)
            if not values or min(values) < least or (most is not None and max(values) > most):
                allowed = f"from {least} to {most}" if most is not None else f"at least {least}"
                raise ValueError(f"{field} is {values}, but must be one or more numbers, each {allowed}.")
        if not MAX_PLACES <= self.num_objects <= MAX_OBJECTS:
            raise ValueError(f"num_objects is {self.num_objects}, but must be from {MAX_PLACES} to {MAX_OBJECTS}.")
        if not 1 <= self.open_steps <= self.turn_steps:
            raise ValueError(
                f"open_steps is {self.open_steps}, but must be from 1 to the {self.turn_steps} steps of a turn."
            )
        if self.distance < 2:  # nearer, and boxes would stand side by side in the way of each other
            raise ValueError(f"distance is {self.distance}, but must be at least 2.")
        if not 0 <= self.view_shift <= self.distance + 2:
            raise ValueError(
                f"view_shift is {self.view_shift}, but must be from 0 to {self.distance + 2}, where the wall is."
            )
        if self.choice_steps < self.distance:
            raise ValueError(
                f"choice_steps is {self.choice_steps}, but must be at least {self.distance}, the moves to a box."
            )
        level_params(self.levels())

    def levels(self) -> list[Level]:
        """Every number of boxes with every delay."""

        def level(num_boxes: int, delay: int) -> Level:
            choice_time = num_boxes * self.turn_steps + delay
            return Level(num_boxes, choice_time, choice_time + self.choice_steps)

        return [level(num_boxes, delay) for num_boxes, delay in product(self.num_boxes, self.delays)]

    def make(self) -> tuple["Boxes", "BoxesParams"]:
        """The environment and its parameters."""
        # NumPy leaves: making an environment starts no JAX backend.
        params = BoxesParams(
            **level_params(self.levels()),
            turn_steps=base.parameter(np.int32(self.turn_steps)),
            open_steps=base.parameter(np.int32(self.open_steps)),
            view_shift=base.parameter(np.int32(self.view_shift)),
        )
        return Boxes(self.distance, self.num_objects), params

    def splits(self) -> dict[str, Self]:
        """Delays up to eight times the longest of the default, and other numbers of boxes."""
        by_delay = {f"delay{delay}": replace(self, delays=(delay,)) for delay in (64, 128, 256, 512)}
        by_number = {f"{number}_boxes": replace(self, num_boxes=(number,)) for number in (2, 3, 4, 6, 8)}
        return by_delay | by_number


@struct.dataclass(kw_only=True)
class BoxesParams(ChoiceRoomParams):
    """What may change without compiling anew, see also `ChoiceRoomParams`."""

    turn_steps: jax.Array  # int32; the levels' times count on it
    open_steps: jax.Array  # int32
    view_shift: jax.Array  # int32


@struct.dataclass
class BoxesState(ChoiceRoomState):
    """One episode. Boxes open in the order in which they are counted here, and those not in use are not shown."""

    objects: jax.Array  # int32 [MAX_PLACES], from 0 to num_objects - 1
    opening: jax.Array  # int32 [MAX_PLACES]: the step of its turn in which each box opens


@dataclass(frozen=True)  # equal environments share one compilation of gymnax's jitted `step` and `reset`
class Boxes(ChoiceRoom):
    """The gymnax environment; `BoxesConfig` describes its arguments and checks them.

    Observation: `view`, uint8 [11, 11] (for other distances another size), what each cell around the agent holds (0
    floor, 1 wall, 2 agent, 3 closed box, 4 + object in an open box; outside the wall it is as on the floor), and
    `instruction`, int32 []: 0 to watch, 1 + the object to look for.
    """

    num_objects: int

    @property
    def default_params(self) -> BoxesParams:
        return BoxesConfig(distance=self.distance, num_objects=self.num_objects).make()[1]

    def reset_env(self, key: jax.Array, params: BoxesParams) -> tuple[dict[str, jax.Array], BoxesState]:
        """Begin an episode; `key` is used for everything about the boxes."""
        common_key, objects_key, opening_key, view_key = jax.random.split(key, 4)
        last_opening = params.turn_steps - params.open_steps
        state = BoxesState(
            **self.draw_common(common_key, params),
            objects=draw_distinct(objects_key, self.num_objects),
            opening=jax.random.randint(opening_key, (MAX_PLACES,), 0, last_opening + 1, jnp.int32),
        )
        return self.observe(view_key, state, None, params), state

    def is_open(self, state: BoxesState, params: BoxesParams) -> jax.Array:
        """Which boxes are open, bool [MAX_PLACES]."""
        box, moment = jnp.divmod(state.time, params.turn_steps)
        opened = (moment >= state.opening) & (moment < state.opening + params.open_steps)
        return opened & (jnp.arange(MAX_PLACES, dtype=jnp.int32) == box) & self.in_use(state)

    def observe(
        self, key: jax.Array, state: BoxesState, action: jax.Array | None, params: BoxesParams
    ) -> dict[str, jax.Array]:
        """The observation of `state`; `key` is used for the shift of the view during the delay."""
        delayed = (state.time >= state.level.num_places * params.turn_steps) & ~self.is_choosing(state)
        middle = state.position + jnp.where(delayed, draw_shift(key, params.view_shift), 0)
        boxes = jnp.where(self.in_use(state), self.in_view(state.places, middle), self.size**2)
        looks = OTHER + jnp.where(self.is_open(state, params), 1 + state.objects, 0)
        view = self.view_room(middle)
        view = view.at[self.in_view(state.position[None], middle)].set(AGENT, mode="drop")
        view = view.at[boxes].set(looks.astype(jnp.uint8), mode="drop")
        instruction = jnp.where(self.is_choosing(state), 1 + state.objects[state.target], 0)
        return {"view": view.reshape(self.size, self.size), "instruction": instruction}

    def observation_space(self, params: BoxesParams) -> spaces.Dict:
        return spaces.Dict(
            {
                "view": spaces.Box(0, OTHER + self.num_objects, (self.size, self.size), jnp.uint8),
                "instruction": spaces.Box(0, self.num_objects, (), jnp.int32),
            }
        )

    def facts(
        self, before: BoxesState, action: jax.Array, state: BoxesState, params: BoxesParams
    ) -> dict[str, base.Fact]:
        """The object in each box, in the order in which they open."""
        is_open = self.is_open(state, params)
        return {f"box {i + 1}": base.Fact(state.objects[i], is_open[i]) for i in range(MAX_PLACES)}

    def render(self, state: BoxesState, params: BoxesParams) -> np.ndarray:
        """A picture of one environment for spectators, who see through lids: uint8 [H, W, 3], `drawing.CELL` per cell.

        Boxes are brown; the object in a closed one is drawn small, in an open one large. Framed: the box asked for.
        Disc: the agent. The view's jumps are not shown.
        """
        state = jax.tree.map(np.asarray, state)
        image = self.draw_room(state)
        is_open = np.asarray(self.is_open(state, params))
        for box in range(state.level.num_places):
            thing, opened = state.objects[box], is_open[box]
            tile = self.tile(image, state.places[box])
            drawing.paint(tile, drawing.rectangle(0.1, 0.1, 0.9, 0.9), WOOD)
            border, scale = (0.16, 2) if opened else (0.32, 1)
            drawing.paint(tile, drawing.rectangle(border, border, 1 - border, 1 - border), drawing.BLACK)
            pixels = list(SHAPES.values())[thing % len(SHAPES)].repeat(scale, axis=0).repeat(scale, axis=1)
            margin = (drawing.CELL - len(pixels)) // 2
            inner = slice(margin, margin + len(pixels))
            tile[inner, inner][pixels] = list(COLOURS.values())[thing % len(COLOURS)]
        self.draw_agent(image, state)
        return np.round(image).astype(np.uint8)


def draw_shift(key: jax.Array, most: jax.Array) -> jax.Array:
    """Rows and columns, int32 [2], each from `-most` to `most`: of one random number, since every step draws it."""
    number = jax.random.bits(key)
    choices = (2 * most + 1).astype(jnp.uint32)
    return jnp.stack([number % choices, number // choices % choices]).astype(jnp.int32) - most
