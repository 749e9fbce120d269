"""The memory contract: what every memory is, and the laws it obeys.

A memory is two things, both in one file:

* a frozen dataclass of hyperparameters (a `MemoryConfig`): what a user writes in a config and sees in `--help`;
* a linen module (a `Memory`), made by the dataclass's `build`, with the three methods of the contract.

Shapes are time-major: `T` steps, `B` environments, `D` input features, `F` output features.

The laws, tested on every registered memory by `tests/memory/test_laws.py`:

1. `unroll` equals a scan of `step`, in outputs and in the final state, however `T` is cut into unrolls.
2. A reset forgets everything, NaN and infinity included.
3. Causality: no output depends on a later input.
4. The rows of a batch never mix.
5. State shapes and dtypes never change.
6. Gradients reach every parameter, and exactly those past inputs that the published method says.
7. Anything random is drawn from the state, so that learning replays what acting drew.

A state is a pytree in which every leaf is either a scalar, shared by the whole batch (a clock, its PRNG key), or has
the batch as its leading axis. That one rule decides how a state is cut into minibatches (`rows`) and split over
devices.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from memrl.validation import check_choices, check_numbers, check_sizes

State = Any
"""The state of a memory: a pytree of static shapes, see the module docstring."""


class Attention(NamedTuple):
    """What is attended to: `N` items, each one step or several that are remembered as one."""

    weights: jax.Array
    """Attention weights, the mean over heads, `[.., N]`; their sum is 1, or 0 where there is nothing to attend to."""
    begin: jax.Array
    """The step, counted from the start of acting, at which each item begins, int32 `[.., N]`; -1 if it is none."""
    end: jax.Array
    """The step before which each item ends, int32 `[.., N]`."""


class Memory(nn.Module):
    """Base of all memories; a subclass implements the first four methods. The others have defaults.

    Parameters are initialised through `step`: `module.init(key, state, x, reset, method="step")`.

    To be looked into (`memrl.introspection`) a memory sows what happens in a step into Flax's `intermediates`. All
    that it sows are gates, 0 where closed and 1 where open, except what `attended` needs.
    """

    if TYPE_CHECKING:  # linen tells neither what `method` returns nor that variables are a dict

        def init(self, *args: Any, **kwargs: Any) -> Any: ...
        def apply(self, *args: Any, **kwargs: Any) -> Any: ...

    attention_names: ClassVar[tuple[str, ...]] = ("attention",)
    """Names of what is sown for `attended`; everything else that is sown is a gate."""

    def initial_state(self, batch: int, key: jax.Array | None = None) -> State:
        """The state of `batch` empty memories. Needs no parameters.

        Args:
          batch: number of environments `B`.
          key: source of whatever the memory draws at random; consumed here. `None` stands for `jax.random.key(0)`.
        """
        raise NotImplementedError

    def step(self, state: State, x: jax.Array, reset: jax.Array) -> tuple[State, jax.Array]:
        """Acting: reads one input. Where `reset`, the memory is empty *before* `x` is read.

        Args:
          state: as returned by `initial_state`, `step` or `unroll`.
          x: inputs `[B, D]`.
          reset: bool `[B]`.

        Returns:
          The next state and the outputs `[B, F]`.
        """
        raise NotImplementedError

    def unroll(self, state: State, xs: jax.Array, resets: jax.Array) -> tuple[State, jax.Array]:
        """Learning: reads `T` inputs, in parallel over time where the mathematics allows.

        Args:
          state: the state before the first input.
          xs: inputs `[T, B, D]`.
          resets: bool `[T, B]`.

        Returns:
          The state after the last input and the outputs `[T, B, F]`; both equal to a scan of `step`.
        """
        raise NotImplementedError

    def tokens_attended(self, state: State) -> jax.Array:
        """How many tokens the latest step attended to, its own included; 0 without attention.

        Returns:
          int32 `[B]`, or `[]` where it is the same for all.
        """
        raise NotImplementedError

    def attended(self, state: State, sown: Mapping[str, Any]) -> dict[str, Attention]:
        """What one step of one environment attended to, by the name of a layer; nothing without attention.

        Args:
          state: before the step.
          sown: what the step sowed.
        """
        return {}

    def fully_open(self) -> Mapping[str, float]:
        """What gates are when they are fully open, by the name under which they are sown, where that is not 1."""
        return {}


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """Base of the hyperparameters of a memory, which it checks in `__post_init__`, after `super().__post_init__()`."""

    def __post_init__(self) -> None:
        """Refuses integers below 1, since they are sizes, unknown choices, and numbers that no array can hold."""
        check_numbers(self, "memory.")
        check_sizes(self, "memory.")
        check_choices(self, "memory.")

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        """The linen module. `dtype` is that of computation and state; parameters are at least float32."""
        raise NotImplementedError

    def with_capacity(self, steps: int) -> Self:
        """The same memory (the same parameters) with room for exactly the latest `steps` steps.

        Memories of a fixed size have nothing to drop and return themselves.
        """
        return self

    def without_noise(self) -> Self:
        """The same memory with everything random that serves learning alone switched off, for evaluation."""
        return self


def parameter_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of parameters under a compute dtype: float32 unless float64 is asked for."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def rows(state: State, index: jax.Array | np.ndarray) -> State:
    """The state of the environments `index` (int `[N]`) of a batch; shared scalars stay as they are."""
    return jax.tree.map(lambda leaf: leaf if leaf.ndim == 0 else leaf[index], state)


def select(reset: jax.Array, empty: State, state: State) -> State:
    """Row by row `empty` where `reset` `[B]`, else `state`: a selection, so that nothing, NaN included, survives.

    For states whose leaves all have a batch axis.
    """
    return jax.tree.map(
        lambda e, s: jnp.where(reset.reshape(reset.shape + (1,) * (s.ndim - 1)), e, s),
        empty,
        state,
    )


def state_bytes_per_env(memory: Memory) -> int:
    """Bytes of state that one environment needs, the shared scalars counted once."""
    state = jax.eval_shape(lambda: memory.initial_state(1))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
