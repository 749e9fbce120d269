"""Environments whose values and best policies are known, each to expose one mistake of a trainer."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment


@struct.dataclass
class SignState(environment.EnvState):
    sign: jax.Array  # float32: -1 or 1


class Probe(environment.Environment):
    """Two actions; trials are cut by gymnax's time limit unless `is_terminated` says otherwise."""

    @property
    def num_actions(self) -> int:
        return 2

    def is_terminated(self, state, params):
        return jnp.bool_(False)


@dataclasses.dataclass(frozen=True)
class ConstantReward(Probe):
    """Reward 1 at every step. Trials of three steps end by truncation or by termination.

    Truncated, what follows is worth as much as ever: the value is 1 / (1 - γ) throughout, and the time is not shown.
    Terminated, nothing follows: the value is (1 - γ^n) / (1 - γ) with n steps left, and the time is observed.
    """

    terminates: bool

    def reset_env(self, key, params):
        state = environment.EnvState(jnp.int32(0))
        return self.observe(key, state, None, params), state

    def step_env(self, key, state, action, params):
        state = environment.EnvState(state.time + 1)
        terminated = (state.time == 3) & self.terminates
        return self.observe(key, state, action, params), state, jnp.float32(1), terminated, {}

    def observe(self, key, state, action, params):
        return jax.nn.one_hot(state.time if self.terminates else 0, 3)


@dataclasses.dataclass(frozen=True)
class DelayedSign(Probe):
    """A trial of two steps: observed are a sign and the time, the reward of the second step is the sign.

    The value is γ x sign before the first step and the sign before the second one.
    """

    def reset_env(self, key, params):
        state = SignState(jnp.int32(0), jax.random.rademacher(key, (), jnp.float32))
        return self.observe(key, state, None, params), state

    def step_env(self, key, state, action, params):
        last = state.time == 1
        reward = jnp.where(last, state.sign, 0)
        state = state.replace(time=state.time + 1)
        return self.observe(key, state, action, params), state, reward, last, {}

    def observe(self, key, state, action, params):
        return jnp.stack([state.sign, state.time.astype(jnp.float32)])


@dataclasses.dataclass(frozen=True)
class Recall(Probe):
    """An endless stream of questions: a cue is shown, and `delay` steps later the action that it names is worth 1.

    Trials end `cut` steps after each cue. With `cut` of `delay` a question lies within a trial. With less the cue
    belongs to the trial before, and whoever answers better than chance remembers what a reset should have erased. The
    stream takes no notice of trials, therefore gymnax's `step`, which draws everything anew, is replaced.
    """

    delay: int
    cut: int

    def reset(self, key, params):
        state = SignState(jnp.int32(0), jax.random.rademacher(key, (), jnp.float32))
        return self.observe(key, state, None, params), state

    def step(self, key, state, action, params):
        asked, ends = state.time == self.delay, state.time == self.cut
        correct = (action == 1) == (state.sign > 0)
        reward = jnp.where(asked & correct, 1.0, 0.0)
        state = SignState(
            time=jnp.where(asked, 0, state.time + 1),
            sign=jnp.where(asked, jax.random.rademacher(key, (), jnp.float32), state.sign),
        )
        observation = self.observe(key, state, action, params)
        return observation, state, reward, jnp.bool_(False), ends, {"final_observation": observation}

    def observe(self, key, state, action, params):
        cue = jnp.where(state.time == 0, state.sign, 0)
        return jnp.stack([cue, (state.time == self.delay).astype(jnp.float32)])
