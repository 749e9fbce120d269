"""Endless T-Maze: turn as the latest cue said, and forget all cues before it.

Corridor follows corridor. The cue at the start of each says which way to turn at its end, and the next cue makes it
worthless: an agent that passes many corridors *rewrites* what it remembers; one that only retains fails.

The task is that of "Memory Retention Is Not Enough" (arXiv 2601.15086) as the code that its authors published in 2025
(https://github.com/Quartz-Admirer/Adaptive-Memory-Envs) has it, step for step:

- at position 0 the cue is visible, in every step spent there; from 1 on it is not. Position `length` is the junction;
- in the corridor, forward moves on and a turn does nothing;
- at the junction, the turn that the cue named leads to the next corridor, or to success if it was the last one. The
  other turn, and forward, end the episode;
- the position is observed divided by the *longest* length, so where every corridor has its own, a junction
  looks like any other place. The best that can be done is to try the turn before each step;
- the observation after the last turn is that of the junction.

Where the paper's text differs from the code, fields choose what it says: `rewards="paper"`, and
`normalise_by="actual"`, with which a junction is seen in both regimes. Two things are in neither: `junction_flag`, and
any number of corridors (cues are drawn when a corridor is entered, so a state does not grow with them).
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal, Self, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces

from envs import base, drawing
from envs.player import Player

FORWARD, LEFT, RIGHT = range(3)

Regime = Literal["fixed", "uniform"]
Rewards = Literal["code2025", "paper"]
NormaliseBy = Literal["longest", "actual"]

REWARDS = {
    "code2025": {"correct_turn": 1.0, "wrong_turn": -0.01, "step": 0.0, "idle": -0.01},
    "paper": {"correct_turn": 1.0, "wrong_turn": -1.0, "step": -0.01, "idle": -0.01},
}
"""Rewards for a correct turn, for anything else at a junction, for a step forward and for a turn in the corridor."""


@dataclass(frozen=True)
class TMazeConfig(base.EnvironmentConfig):
    """Corridor after corridor, each with a cue for the turn at its end that the next cue makes worthless."""

    corridors: int = 3
    """Corridors to pass for success."""
    length: int = 5
    """Steps from the start of a corridor to its junction; if lengths are drawn, the greatest."""
    regime: Regime = "fixed"
    """fixed: every corridor has the length `length`; uniform: each draws one, from `min_length` to `length`."""
    min_length: int = 1
    """Smallest length that is drawn if the regime is uniform."""
    rewards: Rewards = "code2025"
    """Which rewards are given: those of the published code, or those of the paper's text; see `REWARDS`."""
    normalise_by: NormaliseBy = "longest"
    """What the observed position is divided by: `length`, as published, or the length of the present corridor."""
    junction_flag: bool = False
    """Append to the observation whether the agent is at a junction."""
    time_limit: int | None = None
    """Steps after which an episode is truncated; 6 x (length + 1) x corridors, as published, if not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("corridors", "length", "min_length", "time_limit"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field} is {value}, but must be at least 1.")
        if self.min_length > self.length:
            raise ValueError(f"min_length is {self.min_length}, but must be at most length, which is {self.length}.")
        for field, kind in (("regime", Regime), ("rewards", Rewards), ("normalise_by", NormaliseBy)):
            if getattr(self, field) not in get_args(kind):
                allowed = " or ".join(map(repr, get_args(kind)))
                raise ValueError(f"{field} is {getattr(self, field)!r}, but must be {allowed}.")

    def make(self) -> tuple["TMaze", "TMazeParams"]:
        """The environment and its parameters."""
        rewards = REWARDS[self.rewards]
        published_limit = 6 * (self.length + 1) * self.corridors
        params = TMazeParams(
            max_steps_in_episode=base.trial_steps(published_limit if self.time_limit is None else self.time_limit),
            corridors=base.parameter(np.int32(self.corridors)),
            min_length=base.parameter(np.int32(self.length if self.regime == "fixed" else self.min_length)),
            max_length=base.parameter(np.int32(self.length)),
            normalise_by_actual=base.parameter(np.bool_(self.normalise_by == "actual")),
            correct_turn_reward=base.parameter(np.float32(rewards["correct_turn"])),
            wrong_turn_reward=base.parameter(np.float32(rewards["wrong_turn"])),
            step_reward=base.parameter(np.float32(rewards["step"])),
            idle_reward=base.parameter(np.float32(rewards["idle"])),
        )
        return TMaze(self.junction_flag), params

    def splits(self) -> dict[str, Self]:
        """The published cross-evaluation: other numbers of corridors, other lengths, and drawn lengths.

        Drawn lengths range from half of the longest to the longest, as in the published evaluation.
        """
        fixed = dataclasses.replace(self, regime="fixed", min_length=1, time_limit=None)
        uniform = dataclasses.replace(fixed, regime="uniform")
        settings = {f"corridors={n}": dataclasses.replace(self, corridors=n, time_limit=None) for n in (1, 3, 5, 10)}
        settings |= {f"fixed length={n}": dataclasses.replace(fixed, length=n) for n in (5, 10, 15)}
        for n in (5, 10, 15):
            settings[f"uniform length={n // 2}..{n}"] = dataclasses.replace(uniform, length=n, min_length=n // 2)
        return {name: setting for name, setting in settings.items() if setting.make()[1] != self.make()[1]}


@struct.dataclass(kw_only=True)
class TMazeParams(base.EnvParams):
    """Everything but the observation's shape, so that one compiled program serves all numbers and lengths."""

    corridors: jax.Array  # int32
    min_length: jax.Array  # int32
    max_length: jax.Array  # int32
    normalise_by_actual: jax.Array  # bool
    correct_turn_reward: jax.Array  # float32
    wrong_turn_reward: jax.Array  # float32
    step_reward: jax.Array  # float32
    idle_reward: jax.Array  # float32


@struct.dataclass
class TMazeState(base.EnvState):
    """The corridor that the agent is in."""

    corridors_passed: jax.Array  # int32
    position: jax.Array  # int32, from 0 to `length`
    cue: jax.Array  # int32: LEFT or RIGHT
    length: jax.Array  # int32


@dataclass(frozen=True)
class TMaze(base.Environment):
    """The gymnax environment; `TMazeConfig` describes it.

    Observation, float32: the normalised position; at position 0 a 1 for the cue left or one for right; and, if asked
    for, whether this is a junction. Actions: 0 forward, 1 left, 2 right.

    `info`: `success` (all corridors passed), `corridors_passed`, `wrong_turn` (anything but the correct turn at a
    junction) and `timed_out`, which distinguish the two ways to fail.
    """

    junction_flag: bool

    outcomes = ("success", "corridors_passed", "wrong_turn", "timed_out")

    @property
    def default_params(self) -> TMazeParams:
        return TMazeConfig().make()[1]

    def reset_env(self, key: jax.Array, params: TMazeParams) -> tuple[jax.Array, TMazeState]:
        """Enter the first corridor."""
        cue, length = draw_corridor(key, params)
        state = TMazeState(
            time=jnp.int32(0), corridors_passed=jnp.int32(0), position=jnp.int32(0), cue=cue, length=length
        )
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: jax.Array, state: TMazeState, action: jax.Array, params: TMazeParams
    ) -> tuple[jax.Array, TMazeState, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Move or turn; `key` is used for the next corridor."""
        at_junction = state.position >= state.length
        correct_turn = at_junction & (action == state.cue)
        wrong_turn = at_junction & ~correct_turn
        forward = ~at_junction & (action == FORWARD)
        reward = jnp.where(
            at_junction,
            jnp.where(correct_turn, params.correct_turn_reward, params.wrong_turn_reward),
            jnp.where(forward, params.step_reward, params.idle_reward),
        ).astype(jnp.float32)

        corridors_passed = state.corridors_passed + correct_turn.astype(jnp.int32)
        success = corridors_passed >= params.corridors
        enters = correct_turn & ~success
        cue, length = draw_corridor(key, params)
        state = TMazeState(
            time=state.time + 1,
            corridors_passed=corridors_passed,
            position=jnp.where(enters, 0, state.position + forward.astype(jnp.int32)),
            cue=jnp.where(enters, cue, state.cue),
            length=jnp.where(enters, length, state.length),
        )
        terminated = success | wrong_turn
        info = {
            "success": success,
            "corridors_passed": corridors_passed.astype(jnp.float32),
            "wrong_turn": wrong_turn,
            "timed_out": self.is_truncated(state, params) & ~terminated,
        }
        return self.observe(key, state, action, params), state, reward, terminated, info

    def observe(self, key: jax.Array, state: TMazeState, action: jax.Array | None, params: TMazeParams) -> jax.Array:
        """The observation of `state`; it depends neither on `key` nor on `action`."""
        divisor = jnp.where(params.normalise_by_actual, state.length, params.max_length)
        # XLA replaces a division by what it knows to be shared with a product, which rounds differently from the
        # published code. The barrier keeps it from knowing.
        divisor = jax.lax.optimization_barrier(divisor)
        at_start = state.position == 0
        parts = [
            state.position.astype(jnp.float32) / divisor.astype(jnp.float32),
            at_start & (state.cue == LEFT),
            at_start & (state.cue == RIGHT),
        ]
        if self.junction_flag:
            parts.append(state.position >= state.length)
        return jnp.stack([part.astype(jnp.float32) for part in parts])

    @property
    def num_actions(self) -> int:
        return 3

    def observation_space(self, params: TMazeParams) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (4 if self.junction_flag else 3,), jnp.float32)

    def players(self) -> dict[str, Player]:
        """The reference players.

        - `oracle` knows cue and length: success in corridors x (length + 1) steps if the length is fixed.
        - `prober` knows what the observation says. It remembers the cue, and whether it has just tried to turn: at each
          place it turns first, and goes forward when that did not help. It always succeeds, even where junctions look
          like any other place.
        - `memoryless` goes to the junction and turns left: success 0.5 to the power of the corridors, the most that can
          be had without the cue.
        """
        return {
            "oracle": Player(lambda params: None, self.play_oracle),
            "prober": Player(lambda params: (jnp.int32(LEFT), jnp.bool_(False)), self.play_prober),
            "memoryless": Player(lambda params: None, self.play_memoryless),
        }

    def play_oracle(
        self, key: jax.Array, player_state: None, state: TMazeState, params: TMazeParams
    ) -> tuple[None, jax.Array]:
        return player_state, jnp.where(state.position < state.length, FORWARD, state.cue)

    def play_prober(
        self, key: jax.Array, player_state: tuple[jax.Array, jax.Array], state: TMazeState, params: TMazeParams
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        remembered, turned = player_state
        _, left, right, *_ = self.observe(key, state, None, params)
        at_start = (left + right) > 0
        remembered = jnp.where(at_start, jnp.where(right > 0, RIGHT, LEFT), remembered)
        turns = ~at_start & ~turned
        return (remembered, turns), jnp.where(turns, remembered, FORWARD)

    def play_memoryless(
        self, key: jax.Array, player_state: None, state: TMazeState, params: TMazeParams
    ) -> tuple[None, jax.Array]:
        return player_state, jnp.where(state.position < state.length, FORWARD, LEFT)

    def facts(
        self, before: TMazeState, action: jax.Array, state: TMazeState, params: TMazeParams
    ) -> dict[str, base.Fact]:
        """The cue of the corridor: 0 left, 1 right."""
        return {"cue": base.Fact(state.cue - LEFT, state.position == 0)}

    def render(self, state: TMazeState, params: TMazeParams) -> np.ndarray:
        """A picture for spectators: uint8 [H, W, 3], `drawing.CELL` per cell.

        The corridor runs to the right, up is left of it. The arrow is the cue, bright while it can be seen. A green
        arm is the correct one. The squares below count the corridors: filled are those passed.
        """
        columns = int(params.max_length) + 1
        image = np.full((4 * drawing.CELL, columns * drawing.CELL, 3), 40.0)

        def tile(row: int, column: int) -> np.ndarray:
            return image[row * drawing.CELL :, column * drawing.CELL :][: drawing.CELL, : drawing.CELL]

        cell = drawing.rectangle(0.03, 0.03, 0.97, 0.97)
        length = int(state.length)
        for column in range(length + 1):
            drawing.paint(tile(1, column), cell, drawing.GREY)
        correct_row = 0 if int(state.cue) == LEFT else 2
        for row in (0, 2):
            drawing.paint(tile(row, length), cell, drawing.GREEN if row == correct_row else drawing.GREY)
        drawing.paint(tile(1, int(state.position)), drawing.disc(0.5, 0.5, 0.45), drawing.VERMILLION)
        arrow = drawing.arrow_up()
        drawing.paint(
            tile(1, 0),
            arrow if correct_row == 0 else arrow[::-1],
            drawing.YELLOW if int(state.position) == 0 else drawing.WHITE,
        )

        drawing.progress_bar(image[3 * drawing.CELL + 8 : -8], int(state.corridors_passed), int(params.corridors))
        return np.round(image).astype(np.uint8)


def draw_corridor(key: jax.Array, params: TMazeParams) -> tuple[jax.Array, jax.Array]:
    """The cue and the length of a corridor, int32 each."""
    words = jax.random.bits(key, (2,), jnp.uint32)
    length = params.min_length + base.integer_below(params.max_length - params.min_length + 1, words[1])
    return LEFT + (words[0] >> 31).astype(jnp.int32), length
