"""What every environment is: gymnax's interface, with resets that are computed only where an episode ended.

gymnax draws a new episode in every step of every environment and then throws nearly all of them away. For a house, a
graph or a shuffled troupe of dancers that draw costs many times a step. `rows_where` computes it for the rows that need
it, in blocks, so that environments may draw with care and still step fast.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces


def parameter(value: np.generic | np.ndarray) -> jax.Array:
    """A NumPy value as a parameter of an environment: it becomes an array of JAX's wherever it is used."""
    return cast(jax.Array, value)


@struct.dataclass
class EnvState(environment.EnvState):
    """gymnax's, with the type that `time` has in all that is compiled."""

    time: jax.Array  # pyright: ignore[reportIncompatibleVariableOverride] (gymnax says int)


@struct.dataclass
class EnvParams(environment.EnvParams):
    """gymnax's, with the type that `max_steps_in_episode` has in all that is compiled."""

    max_steps_in_episode: jax.Array = parameter(np.int32(1))  # pyright: ignore[reportIncompatibleVariableOverride]


BLOCK = 16
"""Rows that `rows_where` computes together."""
INT32_MAX = 2**31 - 1
FLOAT32_MIN, FLOAT32_MAX = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
"""The least and the largest positive float32, Python floats; what is less counts as 0."""


def rows_where(needed: jax.Array, compute: Callable[..., Any], operands: Any, otherwise: Any) -> Any:
    """`compute(*operands)` where `needed`, `otherwise` elsewhere; like `lax.cond`, and still cheap under `vmap`.

    Under `vmap`, `lax.cond` computes both branches for every row. This computes blocks of rows that need it until none
    is left, and nothing if none does.

    Args:
      needed: bool [].
      compute: a pure function of arrays. It must not close over batched ones: pass them as operands.
      operands: tuple of pytrees of arrays.
      otherwise: pytree of the structure, shapes and dtypes that `compute` returns.
    """

    @jax.custom_batching.custom_vmap
    def choose(needed: jax.Array, operands: Any, otherwise: Any) -> Any:
        return jax.lax.cond(needed, lambda: compute(*operands), lambda: otherwise)

    @choose.def_vmap
    def choose_rows(
        axis_size: int, in_batched: list[Any], needed: jax.Array, operands: Any, otherwise: Any
    ) -> tuple[Any, Any]:
        def over_rows(values: Any, batched: Any) -> Any:
            return jax.tree.map(
                lambda leaf, is_batched: leaf if is_batched else jnp.broadcast_to(leaf, (axis_size, *leaf.shape)),
                values,
                batched,
            )

        needed_batched, operands_batched, otherwise_batched = in_batched
        needed = over_rows(needed, needed_batched)
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, operands_batched)
        block = min(BLOCK, axis_size)

        def compute_block(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
            missing, chosen = carry
            rows = jnp.nonzero(missing, size=block, fill_value=axis_size)[0]  # past the end: dropped by `.at[].set`

            def at_rows(leaf: jax.Array, is_batched: bool) -> jax.Array:
                return leaf.at[rows].get(mode="clip") if is_batched else leaf

            computed = jax.vmap(compute, in_axes=axes, axis_size=block)(
                *jax.tree.map(at_rows, operands, operands_batched)
            )
            chosen = jax.tree.map(lambda leaf, new: leaf.at[rows].set(new, mode="drop"), chosen, computed)
            return missing.at[rows].set(False, mode="drop"), chosen

        carry = needed, over_rows(otherwise, otherwise_batched)
        _, chosen = jax.lax.while_loop(lambda carry: carry[0].any(), compute_block, carry)
        return chosen, jax.tree.map(lambda _: True, chosen)

    return choose(needed, operands, otherwise)


def integer_below(count: jax.Array | int, word: jax.Array) -> jax.Array:
    """An integer from 0 to `count` - 1, int32, from a random `word`, uint32: for steps that draw several numbers.

    Several times faster on a CPU than a remainder, and than `jax.random.randint` for each number. The probabilities are
    equal up to 2**-24; `count` must be less than 2**24.
    """
    uniform = (word >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)
    return (uniform * jnp.asarray(count).astype(jnp.float32)).astype(jnp.int32)  # less than count, also rounded


@dataclasses.dataclass(frozen=True)
class EnvironmentConfig:
    """The fields of an environment, checked; a frozen dataclass for each environment inherits from this.

    Fields are plain values. `__post_init__` raises ValueError, in a clear sentence, for those that make no sense; that
    of an environment calls the one below first.
    """

    def __post_init__(self) -> None:
        """Refuses numbers that no array can hold: arrays are int32 and float32."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int) and abs(number) > INT32_MAX:
                    raise ValueError(f"{field.name} is {value}, but must be at most 2^31 - 1 in size (int32).")
                size = abs(number) if isinstance(number, float) else 0.0
                if not (size == 0 or FLOAT32_MIN <= size <= FLOAT32_MAX):
                    allowed = f"0, or from {FLOAT32_MIN:.1e} to {FLOAT32_MAX:.1e} in size (float32)"
                    raise ValueError(f"{field.name} is {value}, but must be {allowed}.")

    def make(self) -> tuple["Environment", environment.EnvParams]:
        """The environment and its parameters, whose leaves are NumPy's: making one starts no JAX backend."""
        raise NotImplementedError

    def splits(self) -> Mapping[str, "EnvironmentConfig"]:
        """Other settings with the same spaces, by name, in which a policy trained in this one is tested."""
        return {}


def trial_steps(steps: int) -> jax.Array:
    """`max_steps_in_episode` of trials of so many steps; ValueError if they are too many to be counted."""
    if steps > INT32_MAX:
        raise ValueError(f"A trial would have {steps} steps, but must have at most 2^31 - 1.")
    return parameter(np.int32(steps))


class Fact(NamedTuple):
    """Something that an agent must remember, as `Environment.facts` returns it."""

    value: jax.Array
    """What is the case in this state, int32 from 0 on."""
    shown: jax.Array
    """Whether the agent has just been shown it, by the observation of this state or what came with it, bool."""


class Environment(environment.Environment):
    """gymnax's `Environment`; see there for the methods to write.

    Besides the fields below an environment may have any of three methods; callers do without those that it lacks.

        players() -> dict[str, Player]                             reference players, the best one first (`envs.player`)
        render(state, params) -> uint8 [H, W, 3]                   a picture of one state
        facts(before, action, state, params) -> dict[str, Fact]    what its agents must remember

    `facts` is of the step that led from `before` by `action` to `state`. In the first state of an episode `before` is
    that state and `action` is -1. A fact is shown where the agent observes it, not where it could guess. It may change
    without being shown; what was shown until then is no longer the case.
    """

    episodic: bool = True
    """Whether episodes end by the task itself. If not, a trial is `max_steps_in_episode` steps, whatever happens."""
    ends_at_limit: bool = False
    """Whether the task itself ends after `max_steps_in_episode` steps, so that this is no limit beyond which it would
    go on: `terminated` then, and nothing is worth anything afterwards."""
    outcomes: tuple[str, ...] = ()
    """Entries of `info` (bool or float32) that say how it went, in the last step of an episode or, where trials are
    made of attempts, of an attempt (`info["soft_reset"]`)."""

    def reset_env(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
        """The observation and the state with which an episode begins."""
        raise NotImplementedError

    def step_env(
        self, key: jax.Array, state: Any, action: Any, params: Any
    ) -> tuple[Any, Any, jax.Array, jax.Array, dict[str, Any]]:
        """Observation, state, reward, terminated and info after `action`, whether or not the time is over."""
        raise NotImplementedError

    def observe(self, key: jax.Array, state: Any, action: Any, params: Any) -> Any:
        """The observation of a state that `action` led to; `None` at the beginning of an episode."""
        raise NotImplementedError

    def action_space(self, params: Any) -> spaces.Discrete:
        """As many actions as there are, numbered from 0."""
        return spaces.Discrete(self.num_actions)

    def is_terminated(self, state: Any, params: Any) -> jax.Array:
        """Whether the task has ended the episode: never, unless the environment is episodic and says when."""
        return super().is_terminated(state, params) if self.episodic else jnp.bool_(False)

    @partial(jax.jit, static_argnames=("self",))
    def step(
        self, key: jax.Array, state: Any, action: Any, params: Any = None
    ) -> tuple[Any, Any, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        """As gymnax's, with the same use of `key`; a new episode is drawn only where one ended."""
        params = self.default_params if params is None else params
        key_step, key_reset = jax.random.split(key)
        final_observation, state, reward, terminated, info = self.step_env(key_step, state, action, params)
        truncated = self.is_truncated(state, params)
        observation, state = rows_where(
            terminated | truncated, self.reset_env, (key_reset, params), (final_observation, state)
        )
        info = {**info, "terminated": terminated, "truncated": truncated, "final_observation": final_observation}
        return observation, state, reward, terminated, truncated, info
