"""Repeated gridworld: find an invisible goal, and find it again from elsewhere.

A trial is a fixed number of steps in a square room. It is made of attempts: an attempt begins at a random cell and
ends at the goal, with reward 1, or when its time is up (a *soft reset*). The goal is never seen, but it recurs: an
agent that remembers where it was goes straight to it.

The task is one of two in "Exploitation Is All You Need... for Exploration" (Rentschler and Roberts, arXiv 2508.01287),
the one where a single attempt already takes many steps; the other is `envs/bandit.py`. The study asks when agents that
are trained for nothing but reward learn to explore. It names three conditions and takes them away one by one. Each is a
switch:

- the task recurs: `recurrence`, here. The study draws the length of a block of attempts with the same goal, n on
  average, which is `recurrence = 1 - 1 / n`; with n = 1 nothing that was learned is of use in the next attempt;
- the agent remembers: `NetworkConfig.memory_across_attempts`. If not, its memory is cleared at every soft reset;
- credit reaches far back: `PPOConfig.credit_across_attempts`. If not, returns are cut at every soft reset.

Blocks, and a gridworld with a goal that recurs in them, are the study's. The rest is ours: size and time limits, the
start drawn for every attempt (so that the way to the goal has to be found from its place, not from habit), reward 1,
and that by default a trial is one block.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import struct
from gymnax.environments import spaces

from envs import base, drawing
from envs.player import Player

UP, LEFT, DOWN, RIGHT = range(4)
MOVES = np.array([(0, -1), (-1, 0), (0, 1), (1, 0)], np.int32)
"""Change of `(x, y)` by each action; y grows downwards."""


@dataclass(frozen=True)
class RepeatedGridworldConfig(base.EnvironmentConfig):
    """An invisible goal to find again and again from random cells."""

    size: int = 6
    """Cells along each side of the square room."""
    attempt_limit: int = 36
    """Steps after which an attempt has failed."""
    recurrence: float = 1.0
    """Probability that the next attempt has the same goal. Otherwise it is drawn anew, unannounced. 1: the goal stays
    for the trial; 0: every attempt draws its own; 1 - 1 / n: blocks of n attempts on average."""
    trial_length: int = 200
    """Steps in a trial."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, least in (("size", 2), ("attempt_limit", 1), ("trial_length", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} is {getattr(self, field)}, but must be at least {least}.")
        if not 0 <= self.recurrence <= 1:
            raise ValueError(f"recurrence is {self.recurrence}, but must be from 0 to 1.")

    def make(self) -> tuple["RepeatedGridworld", "RepeatedGridworldParams"]:
        """The environment and its parameters."""
        params = RepeatedGridworldParams(
            max_steps_in_episode=base.trial_steps(self.trial_length),
            attempt_limit=base.parameter(np.int32(self.attempt_limit)),
            recurrence=base.parameter(np.float32(self.recurrence)),
        )
        return RepeatedGridworld(self.size), params


@struct.dataclass(kw_only=True)
class RepeatedGridworldParams(base.EnvParams):
    """What may change without compiling anew; `max_steps_in_episode` (int32) is the length of a trial."""

    attempt_limit: jax.Array  # int32
    recurrence: jax.Array  # float32


@struct.dataclass
class RepeatedGridworldState(base.EnvState):
    """One room; `time` (int32) counts the trial's steps."""

    attempt_time: jax.Array  # int32: steps taken in this attempt
    position: jax.Array  # int32 [2]: the agent's cell, never the goal's
    goal: jax.Array  # int32 [2]


@dataclass(frozen=True)
class RepeatedGridworld(base.Environment):
    """The gymnax environment; `RepeatedGridworldConfig` describes it.

    Observation, int32 [2]: the agent's x and y, as symbols. Actions: 0 up, 1 left, 2 down, 3 right; walls hold the
    agent back. The soft reset is part of the step that ends an attempt, so the cell of the goal is never observed.

    `info`: `soft_reset` (bool), the attempt ended in this step, and `attempt_succeeded` (bool), it ended at the goal.
    """

    size: int

    episodic = False

    @property
    def default_params(self) -> RepeatedGridworldParams:
        return RepeatedGridworldConfig(self.size).make()[1]

    def reset_env(self, key: jax.Array, params: RepeatedGridworldParams) -> tuple[jax.Array, RepeatedGridworldState]:
        """Begin a trial: draw the goal, and a cell to start from."""
        goal_key, start_key = jax.random.split(key)
        goal = self.draw_goal(goal_key)
        state = RepeatedGridworldState(
            time=jnp.int32(0), attempt_time=jnp.int32(0), position=self.draw_start(start_key, goal), goal=goal
        )
        return self.observe(key, state, None, params), state

    def draw_goal(self, key: jax.Array) -> jax.Array:
        """Any cell."""
        return self.cell(jax.random.randint(key, (), 0, self.size**2, jnp.int32))

    def draw_start(self, key: jax.Array, goal: jax.Array) -> jax.Array:
        """Any cell but the goal's."""
        index = jax.random.randint(key, (), 0, self.size**2 - 1, jnp.int32)
        return self.cell(index + (index >= goal[0] * self.size + goal[1]).astype(jnp.int32))

    def cell(self, index: jax.Array) -> jax.Array:
        """The cell (x, y) with this number, columns one after the other."""
        return jnp.stack([index // self.size, index % self.size])

    def step_env(
        self, key: jax.Array, state: RepeatedGridworldState, action: jax.Array, params: RepeatedGridworldParams
    ) -> tuple[jax.Array, RepeatedGridworldState, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Move, and begin the next attempt where this one ended; `key` is used for its goal and start."""
        position = self.move(state.position, action)
        attempt_succeeded = jnp.all(position == state.goal)
        soft_reset = attempt_succeeded | (state.attempt_time + 1 >= params.attempt_limit)
        goal, position = base.rows_where(
            soft_reset, self.begin_attempt, (key, state.goal, params), (state.goal, position)
        )
        next_state = RepeatedGridworldState(
            time=state.time + 1,
            attempt_time=jnp.where(soft_reset, 0, state.attempt_time + 1),
            position=position,
            goal=goal,
        )
        observation = self.observe(key, next_state, action, params)
        reward = attempt_succeeded.astype(jnp.float32)
        info = {"soft_reset": soft_reset, "attempt_succeeded": attempt_succeeded}
        return observation, next_state, reward, self.is_terminated(next_state, params), info

    def begin_attempt(
        self, key: jax.Array, goal: jax.Array, params: RepeatedGridworldParams
    ) -> tuple[jax.Array, jax.Array]:
        """The goal of the attempt after one with `goal`, and the cell to start from."""
        recurrence_key, goal_key, start_key = jax.random.split(key, 3)
        recurs = jax.random.uniform(recurrence_key) < params.recurrence
        goal = jnp.where(recurs, goal, self.draw_goal(goal_key))
        return goal, self.draw_start(start_key, goal)

    def move(self, position: jax.Array, action: jax.Array) -> jax.Array:
        """The cell, int32 [2], that `action` leads to from `position`."""
        return jnp.clip(position + jnp.asarray(MOVES)[action], 0, self.size - 1)

    def observe(
        self, key: jax.Array, state: RepeatedGridworldState, action: jax.Array | None, params: RepeatedGridworldParams
    ) -> jax.Array:
        """The agent's cell."""
        return state.position

    @property
    def num_actions(self) -> int:
        return len(MOVES)

    def observation_space(self, params: RepeatedGridworldParams) -> spaces.Box:
        return spaces.Box(0, self.size - 1, (2,), jnp.int32)

    def players(self) -> dict[str, Player]:
        """The reference players.

        - `oracle` sees the goal and takes a shortest path to it, of 2/3 `size` steps on average over goals and starts.
        - `searcher` knows what observation, reward and soft resets say, and remembers it for a trial. It goes to the
          nearest cell where the goal may be, and so to the goal itself once that was found. When no cell is left the
          goal must have moved, and it begins anew. Greedy, hence not the best possible.
        - `memoryless`, in rooms of even size: a round tour through all n = `size`² cells, led by nothing but the cell
          it is on. Nobody who does not know the goal gets there sooner, since every step until then tries a new cell:
          the goal is 1, 2, .. n - 1 steps away with equal probability, n / 2 on average. That holds for any recurrence,
          so the expected return R of T steps, with attempts limited to L, is
          R(T) = sum over d = 1 .. min(L, T, n - 1) of (1 + R(T - d)) / (n - 1) + max(0, 1 - L / (n - 1)) R(T - L).
        """
        players = {
            "oracle": Player(lambda params: None, self.play_oracle),
            "searcher": Player(lambda params: jnp.ones((self.size, self.size), bool), self.play_searcher),
        }
        if self.size % 2 == 0:  # no round tour visits an odd number of cells, as with every step their colour changes
            players["memoryless"] = Player(lambda params: None, self.play_memoryless)
        return players

    def play_oracle(
        self, key: jax.Array, player_state: None, state: RepeatedGridworldState, params: RepeatedGridworldParams
    ) -> tuple[None, jax.Array]:
        return player_state, self.approach(state.position, state.goal)

    def play_searcher(
        self, key: jax.Array, possible: jax.Array, state: RepeatedGridworldState, params: RepeatedGridworldParams
    ) -> tuple[jax.Array, jax.Array]:
        """`possible`: where the goal may be, bool [size, size] by x and y."""
        cells = jnp.asarray(np.moveaxis(np.indices((self.size, self.size), np.int32), 0, -1))

        def at(cell: jax.Array) -> jax.Array:
            return jnp.all(cells == cell, axis=-1)

        possible = possible & ~at(state.position[None, None])
        possible = jnp.where(possible.any(), possible, ~at(state.position[None, None]))
        distances = jnp.where(possible, jnp.abs(cells - state.position[None, None]).sum(-1), 2 * self.size)
        action = self.approach(state.position, self.cell(jnp.argmin(distances).astype(jnp.int32)))

        # The step's reward will show whether the cell stepped on was the goal's. The goal is read from the state for
        # nothing else: what will be known after the step is noted down before it.
        stepped_on = self.move(state.position, action)
        here = at(stepped_on[None, None])
        return jnp.where(jnp.all(stepped_on == state.goal), here, possible & ~here), action

    def play_memoryless(
        self, key: jax.Array, player_state: None, state: RepeatedGridworldState, params: RepeatedGridworldParams
    ) -> tuple[None, jax.Array]:
        return player_state, jnp.asarray(round_tour(self.size))[state.position[0], state.position[1]]

    def approach(self, position: jax.Array, cell: jax.Array) -> jax.Array:
        """The action that leads from `position` closest to `cell`; both int32 [2]."""
        reached = self.move(position[None], jnp.arange(self.num_actions))
        return jnp.argmin(jnp.abs(reached - cell[None]).sum(-1)).astype(jnp.int32)

    def facts(
        self,
        before: RepeatedGridworldState,
        action: jax.Array,
        state: RepeatedGridworldState,
        params: RepeatedGridworldParams,
    ) -> dict[str, base.Fact]:
        """The goal's cell, shown by the reward for stepping on it; not if the goal was drawn anew right then."""
        reached = (action >= 0) & jnp.all(self.move(before.position, action) == state.goal)
        return {"goal": base.Fact(state.goal[0] * self.size + state.goal[1], reached)}

    def render(self, state: RepeatedGridworldState, params: RepeatedGridworldParams) -> np.ndarray:
        """A picture for spectators, who see the goal: uint8 [H, W, 3], `drawing.CELL` per cell.

        x runs to the right, y down. Blue: the goal. The agent is a disc.
        """
        image = np.full((self.size * drawing.CELL, self.size * drawing.CELL, 3), 40.0)
        image[:: drawing.CELL] = image[:, :: drawing.CELL] = image[-1] = image[:, -1] = 75.0

        def draw(cell: npt.ArrayLike, shape: np.ndarray, colour: drawing.Colour) -> None:
            x, y = np.asarray(cell) * drawing.CELL
            drawing.paint(image[y : y + drawing.CELL, x : x + drawing.CELL], shape, colour)

        draw(state.goal, drawing.rectangle(0.15, 0.15, 0.85, 0.85), drawing.BLUE)
        draw(state.position, drawing.disc(0.5, 0.5, 0.34), drawing.VERMILLION)
        return np.round(image).astype(np.uint8)


def round_tour(size: int) -> np.ndarray:
    """The action at each cell, int32 [size, size] by x and y, of a tour through all cells of a room of even size.

    To and fro along the rows, except for the first column, which leads back.
    """
    tour = np.empty((size, size), np.int32)
    tour[:, ::2], tour[:, 1::2] = RIGHT, LEFT
    tour[-1, ::2] = DOWN
    tour[1, 1:-1:2] = DOWN
    tour[0, 1:], tour[0, 0] = UP, RIGHT
    return tour
