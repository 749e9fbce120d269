"""Memories whose state is a linear recurrence, `h_t = a_t ⊙ h_{t-1} + b_t`: LRU, S5, minGRU, FFM.

Neither `a_t` nor `b_t` depends on the state, so all steps of an unroll can be computed at once: two consecutive steps
are one step with decay `a_2 a_1` and input `a_2 b_1 + b_2`. `memrl.memory.linear_scan` does that for all of them,
resets included.

In all four `|a_t|` never exceeds 1, whatever the parameters become, so no state explodes in a long episode. The
recurrence runs in float32 at least, since a decay of 0.999 is 1 in bfloat16. States of complex numbers are carried
as their real and imaginary parts.

LRU, S5 and minGRU are stacks: an input projection, then layers with a residual connection around each,
`x ← x + layer(LayerNorm(x))`, and a LayerNorm at the end.
"""

import dataclasses
from typing import Generic, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from memrl.memory.base import Memory, MemoryConfig, State, parameter_dtype
from memrl.memory.layers import dense, layer_norm
from memrl.memory.linear_scan import Form, linear_scan


@dataclasses.dataclass(frozen=True)
class LinearRecurrenceConfig(MemoryConfig):
    """Hyperparameters that all linear recurrences share."""

    features: int = 64
    """Width D of the layers and of the output."""
    scan: Form = "auto"
    """How learning runs the recurrence; a matter of speed and memory alone, see `Form`."""


@dataclasses.dataclass(frozen=True)
class RecurrenceStackConfig(LinearRecurrenceConfig):
    """Hyperparameters that the stacks share."""

    layers: int = 2
    """Layers, each with a state of its own."""
    state_features: int = 128
    """Numbers N in the state of a layer."""


class Complex(NamedTuple):
    """Complex numbers as two real arrays."""

    real: jax.Array
    imag: jax.Array


def empty_state(shape: tuple[int, ...], dtype: jnp.dtype, is_complex: bool) -> State:
    """Zeros, real or `Complex`, in float32 at least."""
    wide = parameter_dtype(dtype)
    return Complex(jnp.zeros(shape, wide), jnp.zeros(shape, wide)) if is_complex else jnp.zeros(shape, wide)


def complex_decay(rate: jax.Array, angle: jax.Array) -> jax.Array:
    """`exp(-rate + i angle)`."""
    magnitude = jnp.exp(-rate)
    return jax.lax.complex(magnitude * jnp.cos(angle), magnitude * jnp.sin(angle))


def as_complex(x: jax.Array) -> jax.Array:
    """Complex `[.., N]` from real and imaginary parts side by side, `[.., 2N]`."""
    return jax.lax.complex(*jnp.split(x, 2, axis=-1))


def real_and_imaginary(states: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Real and imaginary parts side by side, `[T, B, 2N]`, of complex `[T, B, ..]`."""
    return jnp.concatenate([states.real, states.imag], axis=-1).reshape(*states.shape[:2], -1).astype(dtype)


Config = TypeVar("Config", bound=LinearRecurrenceConfig)


class Recurrence(nn.Module, Generic[Config]):
    """A linear recurrence with what is before and after it. A subclass has the equations of its config."""

    config: Config
    dtype: jnp.dtype

    def __call__(self, state: State, x: jax.Array, resets: jax.Array) -> tuple[State, jax.Array]:
        """From the inputs `[T, B, D]`, the state after the last one and the outputs `[T, B, F]`."""
        decays, inputs = self.write(x)
        self.sow("intermediates", "decay", jnp.abs(decays))
        before = jax.lax.complex(*state) if isinstance(state, Complex) else state
        states = linear_scan(decays, inputs, before, resets, self.config.scan)
        last = states[-1]
        return Complex(last.real, last.imag) if isinstance(state, Complex) else last, self.read(x, states)

    def write(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Decays and inputs of the recurrence, `a` and `b` of `linear_scan`, from `x` `[T, B, D]`."""
        raise NotImplementedError

    def read(self, x: jax.Array, states: jax.Array) -> jax.Array:
        """The outputs `[T, B, F]` from the inputs and the states `[T, B, ..]`."""
        raise NotImplementedError

    def linear(self, features: int, stddev: float) -> nn.Dense:
        """A linear map without bias; `stddev` is that of its initial kernel."""
        return dense(features, self.dtype, use_bias=False, kernel_init=nn.initializers.normal(stddev))


class LinearRecurrentMemory(Memory):
    """What all linear recurrences have in common: a step is an unroll of length 1."""

    def step(self, state: State, x: jax.Array, reset: jax.Array) -> tuple[State, jax.Array]:
        state, ys = self.unroll(state, x[None], reset[None])
        return state, ys[0]

    def tokens_attended(self, state: State) -> jax.Array:
        return jnp.int32(0)


class RecurrenceStack(LinearRecurrentMemory):
    """A residual stack, see the module docstring. The state is a tuple with that of each layer, `[B, N]`."""

    config: RecurrenceStackConfig
    layer: type[Recurrence]
    is_complex: bool
    dtype: jnp.dtype

    def setup(self) -> None:
        config = self.config
        self.input_projection = dense(config.features, self.dtype)
        self.norms = [layer_norm(self.dtype) for _ in range(config.layers)]
        self.layers = [self.layer(config, self.dtype) for _ in range(config.layers)]
        self.final_norm = layer_norm(self.dtype)

    def initial_state(self, batch: int, key: jax.Array | None = None) -> State:
        shape = (batch, self.config.state_features)
        return tuple(empty_state(shape, self.dtype, self.is_complex) for _ in range(self.config.layers))

    def unroll(self, state: State, xs: jax.Array, resets: jax.Array) -> tuple[State, jax.Array]:
        x = self.input_projection(xs)
        after = []
        for norm, layer, before in zip(self.norms, self.layers, state, strict=True):
            last, y = layer(before, norm(x), resets)
            x = x + y
            after.append(last)
        return tuple(after), self.final_norm(x)
