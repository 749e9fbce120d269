"""Memory & Planning Game: learn on the way where symbols are, and go straight to the one that is asked for.

A board of cells, each with a symbol of its own, closed to a torus: leaving on one side leads in on the other. The
agent sees the symbol of its cell and the symbol to find, and nothing else. It walks, and collects when the two are the
same; the next symbol is drawn at once, on the same board, from where it stands. Since symbols are dealt anew for each
trial, what a move leads to is known only from having moved: remember it, and plan with it.

The game is from "Rapid Task-Solving in Novel Environments" (arXiv 2006.03662) with the rules of the code published with
it (https://github.com/google-deepmind/deepmind-research/tree/master/rapid_task_solving); HCAM (arXiv 2105.14039) was
tested on its larger sister, see `graph_nav`:

- up, down, left and right always move; collect does not. Collect on the goal gives 1, all else 0;
- start and first goal are drawn uniformly, a goal never where the agent stands;
- a trial is a fixed number of steps, 100 on a board of 4 x 4.

Changed: the board's symbols are drawn from `symbols`, more than it has cells, so that boards of all sizes have one
observation and every symbol is met in training; `symbols = size**2` is the published game. A symbol is observed as its
number, not as a one-hot vector. Collecting a goal ends an attempt (a *soft reset*), since the next goal begins a new
task on the same board.

The cell in column x and row y, from the upper left, is number `y * size + x`.
"""

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

UP, DOWN, LEFT, RIGHT, COLLECT = range(5)
MOVES = np.array([(0, -1), (0, 1), (-1, 0), (1, 0), (0, 0)], np.int32)
"""Change of `(x, y)` by each action."""


@dataclass(frozen=True)
class MemoryPlanningConfig(base.EnvironmentConfig):
    """A torus of symbols, dealt anew for each trial: find the one that is asked for, again and again."""

    size: int = 4
    """Cells along each side of the board."""
    symbols: int = 36
    """Number of symbols from which those of the board are drawn; at least as many as it has cells."""
    trial_length: int = 100
    """Steps on one board."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, least in (("size", 2), ("trial_length", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} is {getattr(self, field)}, but must be at least {least}.")
        if self.symbols < self.size**2:
            raise ValueError(
                f"symbols is {self.symbols}, but must be at least {self.size**2}, one for each cell of the board."
            )

    def make(self) -> tuple["MemoryPlanning", "MemoryPlanningParams"]:
        """The environment and its parameters."""
        params = MemoryPlanningParams(
            max_steps_in_episode=base.trial_steps(self.trial_length), size=base.parameter(np.int32(self.size))
        )
        return MemoryPlanning(self.symbols), params

    def splits(self) -> dict[str, Self]:
        """Other boards, as far as there are symbols for them, and longer trials."""
        sizes = {f"size={size}": replace(self, size=size) for size in (3, 5, 6) if size**2 <= self.symbols}
        lengths = {f"trial_length={n}": replace(self, trial_length=n) for n in (200, 400, 800)}
        return {name: setting for name, setting in {**sizes, **lengths}.items() if setting != self}


@struct.dataclass(kw_only=True)
class MemoryPlanningParams(base.EnvParams):
    """What may change without compiling anew; `max_steps_in_episode` (int32) is the length of a trial."""

    size: jax.Array  # int32


@struct.dataclass
class MemoryPlanningState(base.EnvState):
    """One board during a trial; `time` (int32) counts the trial's steps."""

    cell: jax.Array  # int32: where the agent is
    goal: jax.Array  # int32: the cell to go to
    dealt: jax.Array  # int32 [symbols]: the symbol of each cell, and then the symbols that are not on the board


@dataclass(frozen=True)
class MemoryPlanning(base.Environment):
    """The gymnax environment; `MemoryPlanningConfig` describes it.

    Observation, int32 [2]: the symbols of the agent's cell and of the goal. Actions: 0 up, 1 down, 2 left, 3 right,
    4 collect. `info["soft_reset"]`: a goal was collected. The return of a trial is the number of goals collected.
    """

    symbols: int

    episodic = False

    @property
    def default_params(self) -> MemoryPlanningParams:
        return MemoryPlanningConfig(size=min(4, math.isqrt(self.symbols)), symbols=self.symbols).make()[1]

    def reset_env(self, key: jax.Array, params: MemoryPlanningParams) -> tuple[jax.Array, MemoryPlanningState]:
        """Begin a trial; `key` is used for the board, the start and the first goal."""
        deal_key, start_key, goal_key = jax.random.split(key, 3)
        cell = jax.random.randint(start_key, (), 0, params.size**2, jnp.int32)
        state = MemoryPlanningState(
            time=jnp.int32(0),
            cell=cell,
            goal=self.draw_goal(goal_key, cell, params),
            dealt=jax.random.permutation(deal_key, jnp.arange(self.symbols, dtype=jnp.int32)),
        )
        return self.observe(key, state, None, params), state

    def draw_goal(self, key: jax.Array, cell: jax.Array, params: MemoryPlanningParams) -> jax.Array:
        """Any cell but `cell`, int32."""
        # The remainder's bias is below (number of cells) / 2**32, and it takes one draw instead of `randint`'s two.
        others = (params.size**2 - 1).astype(jnp.uint32)
        drawn = (jax.random.bits(key, (), jnp.uint32) % others).astype(jnp.int32)
        return drawn + (drawn >= cell).astype(jnp.int32)

    def step_env(
        self, key: jax.Array, state: MemoryPlanningState, action: jax.Array, params: MemoryPlanningParams
    ) -> tuple[jax.Array, MemoryPlanningState, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Move or collect; `key` is used for the next goal."""
        collected = (action == COLLECT) & (state.cell == state.goal)
        state = replace(
            state,
            time=state.time + 1,
            cell=self.move(state.cell, action, params),
            goal=jnp.where(collected, self.draw_goal(key, state.cell, params), state.goal),
        )
        observation = self.observe(key, state, action, params)
        terminated = self.is_terminated(state, params)
        return observation, state, collected.astype(jnp.float32), terminated, {"soft_reset": collected}

    def move(self, cell: jax.Array, action: jax.Array, params: MemoryPlanningParams) -> jax.Array:
        """The cell, int32, that `action` leads to from `cell`."""
        move = jnp.asarray(MOVES)[action]
        x, y = (cell % params.size + move[0]) % params.size, (cell // params.size + move[1]) % params.size
        return y * params.size + x

    def observe(
        self, key: jax.Array, state: MemoryPlanningState, action: jax.Array | None, params: MemoryPlanningParams
    ) -> jax.Array:
        """The observation of `state`; it depends neither on `key` nor on `action`."""
        return state.dealt[jnp.stack([state.cell, state.goal])]

    @property
    def num_actions(self) -> int:
        return len(MOVES)

    def observation_space(self, params: MemoryPlanningParams) -> spaces.Box:
        return spaces.Box(0, self.symbols - 1, (2,), jnp.int32)

    def players(self) -> dict[str, Player]:
        """The reference players.

        - `oracle` knows the board and takes a shortest way to every goal: the largest possible return, since where a
          goal is collected decides nothing about the ways to come. On the average a goal takes 1 + m steps, m the mean
          distance to another cell (32 / 15 on 4 x 4).
        - `searcher` knows what the agent sees, remembers it for a trial, and knows that the board is a torus of this
          size. It goes to the goal if it has been on that cell, and to the nearest cell where it has not been if not.

        The best that can be done without memory is not known in closed form: symbols that are dealt anew say nothing,
        but a strategy may let them steer its walk. Train a policy without memory to measure it.
        """
        return {
            "oracle": Player(lambda params: None, self.play_oracle),
            "searcher": Player(lambda params: jnp.zeros(self.symbols, bool), self.play_searcher),
        }

    def play_oracle(
        self, key: jax.Array, player_state: None, state: MemoryPlanningState, params: MemoryPlanningParams
    ) -> tuple[None, jax.Array]:
        return player_state, self.approach(state.cell, state.goal, params)

    def play_searcher(
        self, key: jax.Array, visited: jax.Array, state: MemoryPlanningState, params: MemoryPlanningParams
    ) -> tuple[jax.Array, jax.Array]:
        cells = jnp.arange(self.symbols, dtype=jnp.int32)
        visited = visited | (cells == state.cell)
        x, y = self.way(state.cell, cells, params)
        # Ties are broken by how the cells lie seen from the agent: it does not know where the board's corner is.
        distance = (jnp.abs(x) + jnp.abs(y)) * self.symbols + (y % params.size) * params.size + x % params.size
        hidden = ~visited & (cells < params.size**2)
        nearest = jnp.argmin(jnp.where(hidden, distance, jnp.iinfo(jnp.int32).max)).astype(jnp.int32)
        target = jnp.where(visited[state.goal], state.goal, nearest)
        return visited, self.approach(state.cell, target, params)

    def way(self, cell: jax.Array, target: jax.Array, params: MemoryPlanningParams) -> tuple[jax.Array, jax.Array]:
        """A shortest way from `cell` to `target`: cells to the right and downwards, int32 each."""
        half = (params.size - 1) // 2
        x = (target % params.size - cell % params.size + half) % params.size - half
        y = (target // params.size - cell // params.size + half) % params.size - half
        return x, y

    def approach(self, cell: jax.Array, target: jax.Array, params: MemoryPlanningParams) -> jax.Array:
        """The action that leads from `cell` closer to `target`, or collects there."""
        x, y = self.way(cell, target, params)
        vertical = jnp.where(y < 0, UP, jnp.where(y > 0, DOWN, COLLECT))
        return jnp.where(x < 0, LEFT, jnp.where(x > 0, RIGHT, vertical))

    def render(self, state: MemoryPlanningState, params: MemoryPlanningParams) -> np.ndarray:
        """A picture of the board for spectators: uint8 [H, W, 3], `drawing.CELL` per cell.

        x runs to the right, y down. Numbers: the symbols. Disc: the agent. Green: the goal.
        """
        size = int(params.size)
        image = np.full((size * drawing.CELL, size * drawing.CELL, 3), 40.0)
        field = drawing.rectangle(0.03, 0.03, 0.97, 0.97)
        for cell, symbol in enumerate(np.asarray(state.dealt)[: size**2]):
            y, x = np.array(divmod(cell, size)) * drawing.CELL
            tile = image[y : y + drawing.CELL, x : x + drawing.CELL]
            drawing.paint(tile, field, drawing.GREEN if cell == int(state.goal) else drawing.GREY)
            if cell == int(state.cell):
                drawing.paint(tile, drawing.disc(0.5, 0.5, 0.46), drawing.VERMILLION)
            drawing.paint(tile, drawing.number(int(symbol)), drawing.WHITE)
        return np.round(image).astype(np.uint8)
