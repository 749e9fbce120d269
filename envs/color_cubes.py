"""Color-Cubes: walk to cubes that were shown once, and keep the map up to date when one of them moves.

Uniquely coloured cubes lie in a square room. One after another they are the target; stepping onto it is worth 1. The
cubes are seen only in *updates*: when the episode begins, when a target was reached, and whenever a cube teleports. In
between the room looks empty, so the way is found from memory, and what an update changes must be rewritten there.

The task is that of "Memory Retention Is Not Enough" (arXiv 2601.15086). Its code is not public and its text leaves open
most numbers, so the three levels are ours wherever the paper is silent:

- known: N cubes in a grid, K phases, the target's colour drawn anew in each phase; cubes other than the target teleport
  at random to a random cell; the target teleports when it is reached; `trivial` has N = K = 1, `medium` shows positions
  and colours in every update, `extreme` shows positions only, so that the agent has to infer which cube moved; success
  is reaching all K targets;
- ours: a 5x5 room; N = K = 3 in `medium` and `extreme`; the four moves, and reaching is stepping onto the target; in
  each step, with probability 0.05, one cube that is not the target teleports to a free cell (neither a cube's nor the
  agent's); no two cubes share a cell; nothing happens on other cubes; -0.01 for each step but those that are rewarded;
  at most 4 K 2 (size - 1) steps; in `extreme`, colours are shown in the first update of the episode alone. At most one
  cube moves between two updates, so an agent that tracks them all always knows which it was.

Cells are `(row, column)`, row 0 is the uppermost; the agent starts in the lower left corner.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces

from envs import base, drawing
from envs.player import Player

Level = Literal["trivial", "medium", "extreme"]
Colours = Literal["always", "phase", "episode"]
Teleports = Literal["one", "each"]


class Setting(NamedTuple):
    """What a level stands for."""

    cubes: int
    phases: int
    colours: Colours


LEVELS: dict[Level, Setting] = {
    "trivial": Setting(cubes=1, phases=1, colours="always"),
    "medium": Setting(cubes=3, phases=3, colours="always"),
    "extreme": Setting(cubes=3, phases=3, colours="episode"),
}
"""What a level stands for, where the config does not say otherwise."""

MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1), (0, 0)], np.int32)
"""Change of `(row, column)` by each action: up, right, down, left, and the one that stays, if there is one."""
INTERACT = 4

PALETTE = (drawing.VERMILLION, drawing.BLUE, drawing.YELLOW, drawing.GREEN, drawing.SKY_BLUE)
"""Colours of the cubes in pictures; with more cubes they repeat."""


@dataclass(frozen=True)
class ColorCubesConfig(base.EnvironmentConfig):
    """Cubes that are seen only when one of them moves; which of them is where must be remembered and rewritten."""

    level: Level = "medium"
    """Sets `cubes`, `phases` and `colours` where they are not given; see `LEVELS`."""
    size: int = 5
    """Cells along each side of the room."""
    cubes: int | None = None
    """Number of cubes, each of a different colour; the level's if not given."""
    phases: int | None = None
    """Targets to reach for success; the level's number if not given."""
    colours: Colours | None = None
    """When updates show colours: always, only when a phase begins, or only when the episode begins; as the level says
    if not given."""
    teleport_probability: float = 0.05
    """Probability of a teleport in a step."""
    teleports: Teleports = "one"
    """one: a teleport moves a single cube that is not the target; each: every such cube teleports with that probability
    by itself. Then several may move at once, and without colours it is not always clear which ones did."""
    shared_cells: bool = False
    """Whether a cube may teleport to the cell of another one."""
    interact: bool = False
    """Whether a cube is reached by a fifth action, which does not move; if not, by stepping onto it."""
    target_reward: float = 1.0
    """Reward for reaching the target."""
    wrong_cube_reward: float = -0.01
    """Reward for stepping onto another cube."""
    wrong_cube_ends: bool = False
    """Whether stepping onto another cube ends the episode."""
    step_reward: float = -0.01
    """Reward for a step onto neither the target nor another cube."""
    time_limit: int | None = None
    """Steps after which an episode is truncated; 8 x phases x (size - 1) if not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level not in get_args(Level):
            raise ValueError(f"level is {self.level!r}, but must be {' or '.join(map(repr, get_args(Level)))}.")
        if self.colours is not None and self.colours not in get_args(Colours):
            raise ValueError(f"colours is {self.colours!r}, but must be {' or '.join(map(repr, get_args(Colours)))}.")
        if self.teleports not in get_args(Teleports):
            raise ValueError(
                f"teleports is {self.teleports!r}, but must be {' or '.join(map(repr, get_args(Teleports)))}."
            )
        for field, least in (("size", 2), ("cubes", 1), ("phases", 1), ("time_limit", 1)):
            value = getattr(self, field)
            if value is not None and value < least:
                raise ValueError(f"{field} is {value}, but must be at least {least}.")
        if not 0 <= self.teleport_probability <= 1:
            raise ValueError(f"teleport_probability is {self.teleport_probability}, but must be from 0 to 1.")
        if self.setting.cubes > self.size**2 - 2:
            raise ValueError(
                f"cubes is {self.setting.cubes}, but must be at most {self.size**2 - 2}: "
                f"the agent and a teleport need a free cell each of the {self.size**2}."
            )

    @property
    def setting(self) -> Setting:
        """`cubes`, `phases` and `colours`: those of the level where they are not given."""
        given = {field: getattr(self, field) for field in Setting._fields if getattr(self, field) is not None}
        return LEVELS[self.level]._replace(**given)

    def make(self) -> tuple["ColorCubes", "ColorCubesParams"]:
        """The environment and its parameters."""
        cubes, phases, colours = self.setting
        limit = 8 * phases * (self.size - 1) if self.time_limit is None else self.time_limit
        params = ColorCubesParams(
            max_steps_in_episode=base.trial_steps(limit),
            phases=base.parameter(np.int32(phases)),
            teleport_probability=base.parameter(np.float32(self.teleport_probability)),
            target_reward=base.parameter(np.float32(self.target_reward)),
            wrong_cube_reward=base.parameter(np.float32(self.wrong_cube_reward)),
            wrong_cube_ends=base.parameter(np.bool_(self.wrong_cube_ends)),
            step_reward=base.parameter(np.float32(self.step_reward)),
        )
        return ColorCubes(self.size, cubes, colours, self.teleports, self.shared_cells, self.interact), params

    def splits(self) -> dict[str, Self]:
        """More phases, rarer and more frequent teleports, and the other levels with as many cubes."""
        cubes, phases, _ = self.setting
        settings = {f"phases={n}": dataclasses.replace(self, phases=n, time_limit=None) for n in (1, 3, 10)}
        for probability in (0.0, 0.05, 0.2):
            settings[f"teleport_probability={probability}"] = dataclasses.replace(
                self, teleport_probability=probability
            )
        for colours in get_args(Colours):
            settings[f"colours={colours}"] = dataclasses.replace(self, cubes=cubes, phases=phases, colours=colours)
        return {name: setting for name, setting in settings.items() if setting.make() != self.make()}


@struct.dataclass(kw_only=True)
class ColorCubesParams(base.EnvParams):
    """What may change without compiling anew."""

    phases: jax.Array  # int32
    teleport_probability: jax.Array  # float32
    target_reward: jax.Array  # float32
    wrong_cube_reward: jax.Array  # float32
    wrong_cube_ends: jax.Array  # bool
    step_reward: jax.Array  # float32


@struct.dataclass
class ColorCubesState(base.EnvState):
    """The room, N cubes. A cell is the number `row * size + column`."""

    position: jax.Array  # int32: the agent's cell
    cubes: jax.Array  # int32 [N]: the cube of each colour is in this cell
    target: jax.Array  # int32: a colour
    phases_done: jax.Array  # int32
    positions_shown: jax.Array  # bool: the step was an update
    colours_shown: jax.Array  # bool: and it showed colours


class TrackerState(NamedTuple):
    """The map of someone who follows the updates."""

    cubes: jax.Array  # int32 [N]: cells by colour


@dataclass(frozen=True)
class ColorCubes(base.Environment):
    """The gymnax environment; `ColorCubesConfig` describes it.

    Observation, float32 `[2 + N + 1 + N * (2 + N)]`: the agent's row and column, each over size - 1; the target's
    colour as a one-hot vector; whether this is an update; and, if it is, for each cube its row, column and colour as a
    one-hot vector, ordered by cell. Colours that are not shown are 0, and so is all about the cubes without an update.
    Actions: 0 up, 1 right, 2 down, 3 left; walls hold the agent back. With `interact` there is 4: reach what is here.

    `info`: `success` (all phases done), `phases_done`, `wrong_cube` (the agent stepped onto another cube).
    """

    size: int
    cubes: int
    colours: Colours
    teleports: Teleports = "one"
    shared_cells: bool = False
    interact: bool = False

    outcomes = ("success", "phases_done")

    @property
    def default_params(self) -> ColorCubesParams:
        return ColorCubesConfig(size=self.size, cubes=self.cubes).make()[1]

    def reset_env(self, key: jax.Array, params: ColorCubesParams) -> tuple[jax.Array, ColorCubesState]:
        """Scatter the cubes."""
        words = jax.random.bits(key, (self.cubes + 1,), jnp.uint32)
        taken = [jnp.int32(self.size * (self.size - 1))]  # the agent's cell, then the cubes'
        for cube in range(self.cubes):
            avoided = taken[:1] if self.shared_cells else taken
            taken.append(free_cell(words[cube], avoided, self.size**2 - len(avoided)))
        state = ColorCubesState(
            time=jnp.int32(0),
            position=taken[0],
            cubes=jnp.stack(taken[1:]),
            target=base.integer_below(self.cubes, words[self.cubes]),
            phases_done=jnp.int32(0),
            positions_shown=jnp.bool_(True),
            colours_shown=jnp.bool_(True),
        )
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: jax.Array, state: ColorCubesState, action: jax.Array, params: ColorCubesParams
    ) -> tuple[jax.Array, ColorCubesState, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Move; then the cube that was reached, or any other if chance will have it, teleports."""
        words = jax.random.bits(key, (4 if self.teleports == "one" else 2 * self.cubes + 1,), jnp.uint32)
        colours = jnp.arange(self.cubes, dtype=jnp.int32)
        position = self.move(state.position, action)
        reaches = action == INTERACT if self.interact else position != state.position
        on_cube = (state.cubes == position) & reaches
        reached = jnp.any(on_cube & (colours == state.target))
        wrong_cube = on_cube.any() & ~reached
        phases_done = state.phases_done + reached.astype(jnp.int32)
        success = phases_done >= params.phases
        reward = jnp.where(
            reached,
            params.target_reward,
            jnp.where(wrong_cube, params.wrong_cube_reward, params.step_reward),
        )

        cubes = [state.cubes[cube] for cube in range(self.cubes)]
        if self.teleports == "each":
            moves = [
                jnp.where(state.target == cube, reached, happens(params.teleport_probability, words[cube]))
                for cube in range(self.cubes)
            ]
            update = jnp.stack(moves).any()
            for cube, moved in enumerate(moves):
                cubes[cube] = jnp.where(moved, self.draw_cell(words[self.cubes + cube], position, cubes), cubes[cube])
            rearranged = jnp.stack(cubes)
        else:
            update, mover = reached, state.target
            if self.cubes > 1:
                other = base.integer_below(self.cubes - 1, words[1])
                other = other + (other >= state.target).astype(jnp.int32)
                update = reached | happens(params.teleport_probability, words[0])
                mover = jnp.where(reached, state.target, other)
            free = self.draw_cell(words[2], position, cubes)
            rearranged = jnp.where(update & (colours == mover), free, state.cubes)
        state = ColorCubesState(
            time=state.time + 1,
            position=position,
            cubes=rearranged,
            target=jnp.where(reached, base.integer_below(self.cubes, words[-1]), state.target),
            phases_done=phases_done,
            positions_shown=update,
            colours_shown=update & {"always": True, "phase": reached, "episode": False}[self.colours],
        )
        terminated = success | (wrong_cube & params.wrong_cube_ends)
        info = {
            "success": success,
            "phases_done": phases_done.astype(jnp.float32),
            "wrong_cube": wrong_cube,
        }
        return self.observe(key, state, action, params), state, reward.astype(jnp.float32), terminated, info

    def draw_cell(self, word: jax.Array, position: jax.Array, cubes: Sequence[jax.Array]) -> jax.Array:
        """Where a cube teleports to, by a random `word`: a free cell, or with shared cells any but the agent's."""
        if self.shared_cells:
            return free_cell(word, [position], self.size**2 - 1)
        # An agent on a cube takes no cell of its own: it is counted where no cell is.
        on_cube = jnp.any(jnp.stack(cubes) == position)
        agent = jnp.where(on_cube, self.size**2, position)
        return free_cell(word, [agent, *cubes], self.size**2 - self.cubes - (~on_cube).astype(jnp.int32))

    def row_and_column(self, cell: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Row and column of cells. Without `divmod`'s care for negative numbers, which costs a fifth of a step."""
        size = jnp.full_like(cell, self.size)
        return jax.lax.div(cell, size), jax.lax.rem(cell, size)

    def move(self, position: jax.Array, action: jax.Array) -> jax.Array:
        """The cell that `action` leads to from `position`; walls hold the agent back."""
        row, column = self.row_and_column(position)
        change = jnp.asarray(MOVES)[action]
        row = jnp.clip(row + change[0], 0, self.size - 1)
        column = jnp.clip(column + change[1], 0, self.size - 1)
        return row * self.size + column

    def observe(
        self, key: jax.Array, state: ColorCubesState, action: jax.Array | None, params: ColorCubesParams
    ) -> jax.Array:
        """The observation of `state`; it depends neither on `key` nor on `action`."""
        colours = jnp.arange(self.cubes, dtype=jnp.int32)

        def place(cells: jax.Array) -> jax.Array:
            return jnp.stack(self.row_and_column(cells), axis=-1).astype(jnp.float32) / (self.size - 1)

        # A cube's place in the order is the number of cubes in earlier cells.
        order = jnp.sum(state.cubes[None] < state.cubes[:, None], axis=1, dtype=jnp.int32)
        if self.shared_cells:  # of those in one cell, the number of earlier colours decides
            together = (state.cubes[None] == state.cubes[:, None]) & (colours[None] < colours[:, None])
            order = order + jnp.sum(together, axis=1, dtype=jnp.int32)
        in_order = order[None] == colours[:, None]  # [place, colour]
        cells = jnp.sum(jnp.where(in_order, state.cubes[None], 0), axis=1, dtype=jnp.int32)
        shown = jnp.concatenate([place(cells), (in_order & state.colours_shown).astype(jnp.float32)], axis=1)
        return jnp.concatenate(
            [
                place(state.position),
                (colours == state.target).astype(jnp.float32),
                state.positions_shown.astype(jnp.float32)[None],
                jnp.where(state.positions_shown, shown, 0).ravel(),
            ]
        )

    @property
    def num_actions(self) -> int:
        return len(MOVES) if self.interact else INTERACT

    def observation_space(self, params: ColorCubesParams) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (3 + self.cubes + self.cubes * (2 + self.cubes),), jnp.float32)

    def players(self) -> dict[str, Player]:
        """The reference players; each walks the shortest way to where it believes the target is.

        - `oracle` sees the cubes all the time.
        - `tracker` has only the observation, and rewrites its map with every update: where colours are not shown, the
          cube whose cell is now empty is the one in the cell that was not taken before. It always succeeds.
        - `stale` keeps the map of the first update, and stays about where the target ought to be.
        """
        nowhere = TrackerState(jnp.zeros(self.cubes, jnp.int32))
        return {
            "oracle": Player(lambda params: None, self.play_oracle),
            "tracker": Player(lambda params: nowhere, self.play_tracker),
            "stale": Player(lambda params: nowhere, self.play_stale),
        }

    def play_oracle(
        self, key: jax.Array, player_state: None, state: ColorCubesState, params: ColorCubesParams
    ) -> tuple[None, jax.Array]:
        return player_state, self.approach(state.position, state.cubes[state.target])

    def play_tracker(
        self, key: jax.Array, known: TrackerState, state: ColorCubesState, params: ColorCubesParams
    ) -> tuple[TrackerState, jax.Array]:
        known = TrackerState(self.rewrite(known.cubes, self.observe(key, state, None, params)))
        return known, self.approach(state.position, known.cubes[state.target])

    def play_stale(
        self, key: jax.Array, known: TrackerState, state: ColorCubesState, params: ColorCubesParams
    ) -> tuple[TrackerState, jax.Array]:
        seen = self.rewrite(known.cubes, self.observe(key, state, None, params))
        known = TrackerState(jnp.where(state.time == 0, seen, known.cubes))
        return known, self.approach(state.position, known.cubes[state.target])

    def rewrite(self, known: jax.Array, observation: jax.Array) -> jax.Array:
        """The map, int32 [N], that follows from the map `known` and an observation."""
        update = observation[2 + self.cubes] > 0
        table = observation[3 + self.cubes :].reshape(self.cubes, 2 + self.cubes)
        rows, columns = jnp.round(table[:, :2] * (self.size - 1)).astype(jnp.int32).T
        cells, colours = rows * self.size + columns, table[:, 2:] > 0
        read = jnp.sum(jnp.where(colours, cells[:, None], 0), axis=0, dtype=jnp.int32)
        left = ~jnp.any(known[:, None] == cells[None], axis=1)
        entered = ~jnp.any(cells[:, None] == known[None], axis=1)
        inferred = jnp.where(left, jnp.sum(jnp.where(entered, cells, 0), dtype=jnp.int32), known)
        return jnp.where(update, jnp.where(colours.any(), read, inferred), known)

    def approach(self, position: jax.Array, cell: jax.Array) -> jax.Array:
        """An action that leads from `position` closer to `cell`, and then reaches what is there.

        Without an action to do so, it leads to the side, or into a wall.
        """
        row, column = self.row_and_column(position)
        to_row, to_column = self.row_and_column(cell)
        vertical = jnp.where(to_row < row, 0, 2)
        horizontal = jnp.where(to_column < column, 3, 1)
        move = jnp.where(to_row != row, vertical, horizontal)
        return jnp.where(position == cell, INTERACT, move) if self.interact else move

    def facts(
        self, before: ColorCubesState, action: jax.Array, state: ColorCubesState, params: ColorCubesParams
    ) -> dict[str, base.Fact]:
        """The target's cell; not shown where colours are not, though an agent that tracks all cubes knows it."""
        return {"target": base.Fact(state.cubes[state.target], state.colours_shown)}

    def render(self, state: ColorCubesState, params: ColorCubesParams) -> np.ndarray:
        """A picture for spectators, who see the cubes all the time: uint8 [H, W, 3], `drawing.CELL` per cell.

        The disc is the agent, the framed cube the target. The floor is light in an update. The bar below counts the
        phases: filled are those done.
        """
        width = self.size * drawing.CELL
        image = np.full((width + drawing.CELL // 2, width, 3), 40.0)
        image[:width] = 120.0 if bool(state.positions_shown) else 60.0
        image[: width + 1 : drawing.CELL] = image[:width, :: drawing.CELL] = 90.0

        def tile(cell: int | jax.Array) -> np.ndarray:
            row, column = divmod(int(cell), self.size)
            return image[row * drawing.CELL :, column * drawing.CELL :][: drawing.CELL, : drawing.CELL]

        cube = drawing.rectangle(0.2, 0.2, 0.8, 0.8)
        frame = np.abs(drawing.rectangle(0.09, 0.09, 0.91, 0.91)) - 1.5
        for colour, cell in enumerate(np.asarray(state.cubes)):
            drawing.paint(tile(cell), cube, PALETTE[colour % len(PALETTE)])
        drawing.paint(tile(state.cubes[int(state.target)]), frame, drawing.WHITE)
        drawing.paint(tile(state.position), drawing.disc(0.5, 0.5, 0.3), drawing.BLACK)
        drawing.paint(tile(state.position), drawing.disc(0.5, 0.5, 0.25), drawing.WHITE)
        drawing.progress_bar(image[width + 4 : -2], int(state.phases_done), int(params.phases))
        return np.round(image).astype(np.uint8)


def happens(probability: jax.Array, word: jax.Array) -> jax.Array:
    """Whether something of this probability happens, by a random `word`, uint32."""
    return (word >> 8).astype(jnp.float32) * jnp.float32(2.0**-24) < probability


def free_cell(word: jax.Array, taken: Sequence[jax.Array], free: int | jax.Array) -> jax.Array:
    """One of the `free` cells that are not `taken` (a list of int32, all different), by a random `word`, uint32."""
    number = base.integer_below(free, word)
    # The cell before which there are `number` free ones: each round counts the taken cells up to the last guess.
    cell = number
    for _ in taken:
        cell = number + sum((other <= cell).astype(jnp.int32) for other in taken)
    return cell
