"""Multi-armed bandit: find the arm that pays best, which only pulling can reveal.

A trial is a fixed number of pulls, and every pull is an attempt, so there is a soft reset after each.

The task is one of two in "Exploitation Is All You Need... for Exploration" (Rentschler and Roberts, arXiv 2508.01287),
which asks when agents that are trained for nothing but reward learn to explore. It names three conditions and takes
them away one by one. Each is a switch:

- the task recurs: `recurrence`, here. The study draws the length of a block of pulls of the same arms, n on average,
  which is `recurrence = 1 - 1 / n`; with n = 1 nothing that was learned is ever of use;
- the agent remembers: `NetworkConfig.memory_across_attempts`. If not, its memory is cleared at every soft reset;
- credit reaches far back: `PPOConfig.credit_across_attempts`. If not, returns are cut at every soft reset.

The three arms and the blocks are the study's. The distributions (standard normal, or Bernoulli with uniform means as in
RL², arXiv 1611.02779), the length of a trial, and that by default a trial is one block, are ours.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces

from envs import base, drawing
from envs.player import Player

Rewards = Literal["gaussian", "bernoulli"]

PRIORS: dict[str, tuple[float, float]] = {"gaussian": (0.0, 1.0), "bernoulli": (0.0, 1.0)}
"""The default priors: standard normal, and uniform from 0 to 1."""


@dataclass(frozen=True)
class BanditConfig(base.EnvironmentConfig):
    """Arms to choose among, which pay differently, again and again."""

    arms: int = 3
    """Arms to choose among."""
    rewards: Rewards = "gaussian"
    """gaussian: an arm pays its mean and normal noise; bernoulli: it pays 1 with a probability of its mean, else 0."""
    prior: tuple[float, float] | None = None
    """How the means of the arms are drawn. gaussian: mean and standard deviation of a normal distribution; bernoulli:
    lower and upper end of a uniform distribution. 0 and 1 if not given."""
    noise: float = 1.0
    """Standard deviation of the noise of gaussian rewards."""
    recurrence: float = 1.0
    """Probability that the next pull meets the same arms. Otherwise they are drawn anew, unannounced. 1: they stay for
    the trial; 0: they never recur; 1 - 1 / n: blocks of n pulls on average."""
    trial_length: int = 100
    """Pulls in a trial."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, least in (("arms", 2), ("trial_length", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} is {getattr(self, field)}, but must be at least {least}.")
        if self.rewards not in get_args(Rewards):
            raise ValueError(f"rewards is {self.rewards!r}, but must be 'gaussian' or 'bernoulli'.")
        first, second = self.prior or PRIORS[self.rewards]
        if self.rewards == "gaussian" and second <= 0:
            raise ValueError(f"prior is {self.prior}, but its standard deviation must be greater than 0.")
        if self.rewards == "bernoulli" and not 0 <= first < second <= 1:
            raise ValueError(f"prior is {self.prior}, but bernoulli means must be from 0 to 1, the lesser one first.")
        if self.noise <= 0:
            raise ValueError(f"noise is {self.noise}, but must be greater than 0.")
        if not 0 <= self.recurrence <= 1:
            raise ValueError(f"recurrence is {self.recurrence}, but must be from 0 to 1.")

    def make(self) -> tuple["Bandit", "BanditParams"]:
        """The environment and its parameters."""
        params = BanditParams(
            max_steps_in_episode=base.trial_steps(self.trial_length),
            prior=base.parameter(np.array(self.prior or PRIORS[self.rewards], np.float32)),
            noise=base.parameter(np.float32(self.noise)),
            recurrence=base.parameter(np.float32(self.recurrence)),
        )
        return Bandit(self.arms, self.rewards), params


@struct.dataclass(kw_only=True)
class BanditParams(base.EnvParams):
    """What may change without compiling anew; `max_steps_in_episode` (int32) is the length of a trial."""

    prior: jax.Array  # float32 [2]
    noise: jax.Array  # float32
    recurrence: jax.Array  # float32


@struct.dataclass
class BanditState(base.EnvState):
    """The arms, and the last pull; `time` (int32) counts the pulls of the trial."""

    means: jax.Array  # float32 [arms]: what each arm pays on average
    arm: jax.Array  # int32: pulled last, -1 before the first pull
    reward: jax.Array  # float32: what it paid


class Known(NamedTuple):
    """What a player remembers of each arm, float32 [arms]."""

    pulls: jax.Array
    paid: jax.Array  # in sum


@dataclass(frozen=True)
class Bandit(base.Environment):
    """The gymnax environment; `BanditConfig` describes it.

    There is nothing to see: the observation, float32 [1], is always 0. What the agent learns from are its previous
    action and reward. Actions: the arms.

    `info`: `soft_reset` (bool), always true, and `best_arm` (bool): no arm had a greater mean than the one pulled.
    """

    arms: int
    rewards: Rewards

    episodic = False
    outcomes = ("best_arm",)

    @property
    def default_params(self) -> BanditParams:
        return BanditConfig(rewards=self.rewards).make()[1]

    def reset_env(self, key: jax.Array, params: BanditParams) -> tuple[jax.Array, BanditState]:
        """Draw the arms."""
        state = BanditState(
            time=jnp.int32(0), means=self.draw_means(key, params), arm=jnp.int32(-1), reward=jnp.float32(0)
        )
        return self.observe(key, state, None, params), state

    def draw_means(self, key: jax.Array, params: BanditParams) -> jax.Array:
        """The means of new arms, float32 [arms]."""
        first, second = params.prior
        if self.rewards == "bernoulli":
            return jax.random.uniform(key, (self.arms,), minval=first, maxval=second)
        return first + second * jax.random.normal(key, (self.arms,))

    def step_env(
        self, key: jax.Array, state: BanditState, action: jax.Array, params: BanditParams
    ) -> tuple[jax.Array, BanditState, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Pull an arm; then the arms may be drawn anew."""
        reward_key, recurrence_key, means_key = jax.random.split(key, 3)
        mean = state.means[action]
        if self.rewards == "bernoulli":
            reward = (jax.random.uniform(reward_key) < mean).astype(jnp.float32)
        else:
            reward = mean + params.noise * jax.random.normal(reward_key)
        recurs = jax.random.uniform(recurrence_key) < params.recurrence
        next_state = BanditState(
            time=state.time + 1,
            means=jnp.where(recurs, state.means, self.draw_means(means_key, params)),
            arm=action.astype(jnp.int32),
            reward=reward,
        )
        info = {"soft_reset": jnp.bool_(True), "best_arm": mean >= state.means.max()}
        observation = self.observe(key, next_state, action, params)
        return observation, next_state, reward, self.is_terminated(next_state, params), info

    def observe(self, key: jax.Array, state: BanditState, action: jax.Array | None, params: BanditParams) -> jax.Array:
        """Nothing."""
        return jnp.zeros(1, jnp.float32)

    @property
    def num_actions(self) -> int:
        return self.arms

    def observation_space(self, params: BanditParams) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (1,), jnp.float32)

    def players(self) -> dict[str, Player]:
        """The reference players. Where arms may be drawn anew, `thompson` and `ucb1` discount what they know.

        - `oracle` knows the best arm: on average it gets the expected maximum of the means, which is
          3 / (2 sqrt(pi)) = 0.846 for three standard normal ones and arms / (arms + 1) for uniform ones from 0 to 1.
        - `thompson` samples means from what it believes, given the prior and all rewards, and pulls the best of them.
          For bernoulli rewards its prior is uniform from 0 to 1, whatever `prior` is.
        - `ucb1` pulls each arm once, then the one with the highest upper confidence bound (Auer et al., 2002).
        - `memoryless` always pulls the same arm. Without memory all arms look the same, so every strategy gets the mean
          of the prior: its first number if gaussian, the middle of its interval if bernoulli.
        """
        return {
            "oracle": Player(lambda params: None, self.play_oracle),
            "thompson": Player(self.know_nothing, self.play_thompson),
            "ucb1": Player(self.know_nothing, self.play_ucb1),
            "memoryless": Player(lambda params: None, self.play_memoryless),
        }

    def play_oracle(
        self, key: jax.Array, player_state: None, state: BanditState, params: BanditParams
    ) -> tuple[None, jax.Array]:
        return player_state, jnp.argmax(state.means).astype(jnp.int32)

    def play_thompson(
        self, key: jax.Array, known: Known, state: BanditState, params: BanditParams
    ) -> tuple[Known, jax.Array]:
        known = self.note(known, state, params)
        if self.rewards == "bernoulli":
            # Beta: the share of one of two gamma variables, drawn in one call because that takes long to compile.
            shapes = jnp.stack([1 + known.paid, 1 + known.pulls - known.paid])
            first, second = jax.random.loggamma(key, shapes)
            sampled = jax.nn.sigmoid(first - second)
        else:
            prior_mean, prior_deviation = params.prior
            precision = prior_deviation**-2 + known.pulls * params.noise**-2
            mean = (prior_mean * prior_deviation**-2 + known.paid * params.noise**-2) / precision
            sampled = mean + jax.random.normal(key, (self.arms,)) / jnp.sqrt(precision)
        return known, jnp.argmax(sampled).astype(jnp.int32)

    def play_ucb1(
        self, key: jax.Array, known: Known, state: BanditState, params: BanditParams
    ) -> tuple[Known, jax.Array]:
        known = self.note(known, state, params)
        pulls = jnp.where(known.pulls == 0, 1, known.pulls)
        # The published bound is for rewards from 0 to 1, and rests on their deviating from their mean no more than
        # normal ones with standard deviation 1/2 do.
        deviation = 0.5 if self.rewards == "bernoulli" else params.noise
        bound = known.paid / pulls + 2 * deviation * jnp.sqrt(2 * jnp.log(jnp.maximum(known.pulls.sum(), 1)) / pulls)
        return known, jnp.argmax(jnp.where(known.pulls == 0, jnp.inf, bound)).astype(jnp.int32)

    def play_memoryless(
        self, key: jax.Array, player_state: None, state: BanditState, params: BanditParams
    ) -> tuple[None, jax.Array]:
        return player_state, jnp.int32(0)

    def know_nothing(self, params: BanditParams) -> Known:
        return Known(jnp.zeros(self.arms, jnp.float32), jnp.zeros(self.arms, jnp.float32))

    def note(self, known: Known, state: BanditState, params: BanditParams) -> Known:
        """What is known with the last pull, if there was one, as far as the arms are likely to be still the same."""
        pulled = (jnp.arange(self.arms, dtype=jnp.int32) == state.arm).astype(jnp.float32)
        return Known(
            pulls=params.recurrence * (known.pulls + pulled),
            paid=params.recurrence * (known.paid + pulled * state.reward),
        )

    def render(self, state: BanditState, params: BanditParams) -> np.ndarray:
        """A picture for spectators: uint8 [H, W, 3].

        A bar for each arm is as high as its mean, green for the best. The arm pulled last is lit, and the yellow line
        in it is what it paid. Gaussian means are shown up to 3 standard deviations from the middle of the prior, which
        is marked on the left.
        """
        height, width, foot = 5 * drawing.CELL, 2 * drawing.CELL, drawing.CELL // 4
        image = np.full((height + foot, self.arms * width, 3), 40.0)
        first, second = np.asarray(params.prior)
        low, high = (0, 1) if self.rewards == "bernoulli" else (first - 3 * second, first + 3 * second)

        def row(value: float) -> int:
            return int((height - 1) * (1 - np.clip((value - low) / (high - low), 0, 1)))

        means = np.asarray(state.means)
        for arm, mean in enumerate(means):
            column = image[:, arm * width : (arm + 1) * width]
            if arm == int(state.arm):
                column[:] = 75
            column[row(mean) :, width // 4 : -width // 4] = drawing.GREEN if mean == means.max() else drawing.BLUE
            if arm == int(state.arm):
                paid = row(float(state.reward))
                column[max(paid - 2, 0) : paid + 2, width // 8 : -width // 8] = drawing.YELLOW
        if self.rewards == "gaussian":
            image[row(first), : width // 8] = drawing.WHITE
        return np.round(image).astype(np.uint8)
