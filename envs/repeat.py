"""Repeat First and Repeat Previous: symbol after symbol is shown, and one that is out of sight is to be named.

Two diagnostics of POPGym (arXiv 2303.01859; https://github.com/proroklab/popgym). Nothing but memory counts
in them: there is nothing to explore, no action changes what comes, and every answer is judged at once.

- Repeat First: in every step, name the first symbol of the episode. It asks to *keep* one thing, however long.
- Repeat Previous: name the k-th latest symbol, the one in sight included, so that with k = 1 there would be nothing to
  remember. It asks to keep the latest k in order, and to let go of the rest. The first k - 1 answers do not count.

A correct answer gives 1 / n and a wrong one -1 / n, where n of the answers count: the optimum is 1. The episode ends
with its last step, *terminated*. All this is as in the published code. There the symbols are the suits of a pack of
cards; one pack gives 51 steps, the easy level of both.

Changed: symbols are drawn independently of each other. Where cards are dealt from packs, those seen so far say a little
about the others.

A policy that gets its previous action needs no memory for Repeat First: it repeats itself. POPGym provides it; a config
that asks what a memory can do sets `previous_action=False`.
"""

from dataclasses import dataclass, replace
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces

from envs import base, drawing
from envs.player import Player

COLOURS = (drawing.SKY_BLUE, drawing.YELLOW, drawing.VERMILLION, drawing.PURPLE)
"""Colours of the symbols in pictures; with more symbols they repeat."""


@dataclass(frozen=True)
class RepeatFirstConfig(base.EnvironmentConfig):
    """Symbol after symbol is shown; in every step, name the first one."""

    symbols: int = 4
    """Number of symbols, and of answers to choose from."""
    length: int = 51
    """Steps of an episode."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, symbols=2, length=1)

    def make(self) -> tuple["RepeatFirst", base.EnvParams]:
        """The environment and its parameters."""
        return RepeatFirst(self.symbols), base.EnvParams(max_steps_in_episode=base.trial_steps(self.length))

    def splits(self) -> dict[str, Self]:
        """The lengths of POPGym's levels, as far as they are longer."""
        return {f"length={n}": replace(self, length=n) for n in (51, 415, 831) if n > self.length}


@dataclass(frozen=True)
class RepeatPreviousConfig(base.EnvironmentConfig):
    """Symbol after symbol is shown; name the one that was shown k - 1 steps before."""

    symbols: int = 4
    """Number of symbols, and of answers to choose from."""
    length: int = 51
    """Steps of an episode."""
    k: int = 4
    """Which symbol to name: the k-th latest, the one in sight included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, symbols=2, length=1, k=2)
        if self.k > self.length:
            raise ValueError(f"k is {self.k}, but must be at most length, which is {self.length}.")

    def make(self) -> tuple["RepeatPrevious", base.EnvParams]:
        """The environment and its parameters."""
        return RepeatPrevious(self.symbols, self.k), base.EnvParams(max_steps_in_episode=base.trial_steps(self.length))

    def splits(self) -> dict[str, Self]:
        """The lengths of POPGym's levels, as far as they are longer; k stays, since no policy can know another."""
        return {f"length={n}": replace(self, length=n) for n in (51, 103, 155) if n > self.length}


def _check(config: base.EnvironmentConfig, **least: int) -> None:
    for field, value in least.items():
        if getattr(config, field) < value:
            raise ValueError(f"{field} is {getattr(config, field)}, but must be at least {value}.")


@struct.dataclass
class RepeatState(base.EnvState):
    """What has been shown; `time` (int32) counts the steps of the episode."""

    shown: jax.Array  # int32 [kept]: the symbol to name, and what follows it as far as needed; the last is in sight
    right: jax.Array  # int32: right answers, of those that count


@dataclass(frozen=True)
class Repeat(base.Environment):
    """What both environments share. A subclass says how many symbols are `kept`, and what is kept with a new one.

    Observation: the symbol in sight, int32 []. Actions: the symbols. `info["accuracy"]` (float32): the share of right
    answers so far, of those that count.
    """

    symbols: int

    outcomes = ("accuracy",)
    ends_at_limit = True

    @property
    def kept(self) -> int:
        """Symbols in a state."""
        raise NotImplementedError

    @property
    def first_answer(self) -> int:
        """The step in which an answer counts first."""
        raise NotImplementedError

    def show(self, shown: jax.Array, symbol: jax.Array) -> jax.Array:
        """What is kept, int32 [kept], when `symbol` follows."""
        raise NotImplementedError

    def reset_env(self, key: jax.Array, params: base.EnvParams) -> tuple[jax.Array, RepeatState]:
        """Show the first symbol."""
        # All that are kept are the first one, until others have come.
        shown = jnp.full(self.kept, self.draw_symbol(key))
        state = RepeatState(time=jnp.int32(0), shown=shown, right=jnp.int32(0))
        return self.observe(key, state, None, params), state

    def draw_symbol(self, key: jax.Array) -> jax.Array:
        return base.integer_below(self.symbols, jax.random.bits(key, (), jnp.uint32))

    def step_env(
        self, key: jax.Array, state: RepeatState, action: jax.Array, params: base.EnvParams
    ) -> tuple[jax.Array, RepeatState, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Judge the answer; `key` is used for the next symbol."""
        counts = state.time >= self.first_answer
        right = action == state.shown[0]
        answers = params.max_steps_in_episode - self.first_answer
        reward = jnp.where(right, 1, -1).astype(jnp.float32) / jnp.asarray(answers).astype(jnp.float32)
        state = RepeatState(
            time=state.time + 1,
            shown=self.show(state.shown, self.draw_symbol(key)),
            right=state.right + (counts & right).astype(jnp.int32),
        )
        answered = jnp.maximum(state.time - self.first_answer, 1)
        info = {"accuracy": state.right.astype(jnp.float32) / answered.astype(jnp.float32)}
        observation = self.observe(key, state, action, params)
        return observation, state, jnp.where(counts, reward, 0), self.is_terminated(state, params), info

    def observe(
        self, key: jax.Array, state: RepeatState, action: jax.Array | None, params: base.EnvParams
    ) -> jax.Array:
        """The symbol in sight."""
        return state.shown[-1]

    def is_terminated(self, state: RepeatState, params: base.EnvParams) -> jax.Array:
        return state.time >= params.max_steps_in_episode

    @property
    def num_actions(self) -> int:
        return self.symbols

    def observation_space(self, params: base.EnvParams) -> spaces.Discrete:
        return spaces.Discrete(self.symbols)

    def players(self) -> dict[str, Player]:
        """The reference players.

        - `oracle` knows what to name: its return is 1.
        - `memoryless` names what it sees, and nothing better can be done without memory. In Repeat Previous the share
          of right answers is 1 / symbols. In Repeat First, where the first symbol is in sight in the first step, it is
          (1 + (length - 1) / symbols) / length. The return is 2 x share - 1.
        """
        return {
            "oracle": Player(lambda params: None, self.play_oracle),
            "memoryless": Player(lambda params: None, self.play_memoryless),
        }

    def play_oracle(
        self, key: jax.Array, player_state: None, state: RepeatState, params: base.EnvParams
    ) -> tuple[None, jax.Array]:
        return player_state, state.shown[0]

    def play_memoryless(
        self, key: jax.Array, player_state: None, state: RepeatState, params: base.EnvParams
    ) -> tuple[None, jax.Array]:
        return player_state, state.shown[-1]

    def render(self, state: RepeatState, params: base.EnvParams) -> np.ndarray:
        """A picture for spectators: uint8 [H, W, 3], `drawing.CELL` per card.

        The newest card, on the right, is in sight; the others are dark. The one to name has a green frame. The upper
        bar counts the steps, the lower one the right answers.
        """
        image = np.full((2 * drawing.CELL, self.kept * drawing.CELL, 3), 40.0)
        time, length = int(state.time), int(params.max_steps_in_episode)
        newest = self.kept - 1
        for place, symbol in enumerate(np.asarray(state.shown)):
            tile = image[: drawing.CELL, place * drawing.CELL :][:, : drawing.CELL]
            if place == 0 and time >= self.first_answer:
                drawing.paint(tile, drawing.rectangle(0, 0, 1, 1), drawing.GREEN)
            card = drawing.rectangle(0.1, 0.1, 0.9, 0.9)
            if newest - place > time:
                drawing.paint(tile, card, drawing.BLACK)  # nothing had been shown yet
                continue
            bright = np.array(COLOURS[symbol % len(COLOURS)])
            drawing.paint(tile, card, bright if place == newest else bright / 2)
            drawing.paint(tile, drawing.number(int(symbol)), drawing.BLACK)
        drawing.progress_bar(image[drawing.CELL + 4 : drawing.CELL + 14], time, length)
        drawing.progress_bar(image[drawing.CELL + 18 : -4], int(state.right), length - self.first_answer)
        return np.round(image).astype(np.uint8)


@dataclass(frozen=True)
class RepeatFirst(Repeat):
    """The gymnax environment that `RepeatFirstConfig` describes; see `Repeat`."""

    @property
    def kept(self) -> int:
        return 2

    @property
    def first_answer(self) -> int:
        return 0

    @property
    def default_params(self) -> base.EnvParams:
        return RepeatFirstConfig(self.symbols).make()[1]

    def show(self, shown: jax.Array, symbol: jax.Array) -> jax.Array:
        return jnp.stack([shown[0], symbol])

    def facts(
        self, before: RepeatState, action: jax.Array, state: RepeatState, params: base.EnvParams
    ) -> dict[str, base.Fact]:
        """The first symbol."""
        return {"first symbol": base.Fact(state.shown[0], state.time == 0)}


@dataclass(frozen=True)
class RepeatPrevious(Repeat):
    """The gymnax environment that `RepeatPreviousConfig` describes; see `Repeat`."""

    k: int

    @property
    def kept(self) -> int:
        return self.k

    @property
    def first_answer(self) -> int:
        return self.k - 1

    @property
    def default_params(self) -> base.EnvParams:
        return RepeatPreviousConfig(self.symbols, max(51, self.k), self.k).make()[1]

    def show(self, shown: jax.Array, symbol: jax.Array) -> jax.Array:
        return jnp.concatenate([shown[1:], symbol[None]])
