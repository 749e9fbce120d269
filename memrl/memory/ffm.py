"""FFM, fast and forgetful memory: every input fades at many rates and turns at many frequencies."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from memrl.memory.base import Memory, State, parameter_dtype
from memrl.memory.layers import dense, layer_norm
from memrl.memory.linear_recurrence import (
    LinearRecurrenceConfig,
    LinearRecurrentMemory,
    Recurrence,
    complex_decay,
    empty_state,
    real_and_imaginary,
)


@dataclasses.dataclass(frozen=True)
class FFM(LinearRecurrenceConfig):
    """Fast and forgetful memory (Morad et al., arXiv 2310.04128, section 4): `m` decays times `c` frequencies.

        x̃ = (W_1 x + b_1) ⊙ σ(W_2 x + b_2)                                  input gate, [m]
        S ← exp(-α ⊕ i ω) ⊙ S + x̃ 1ᵀ                                        [m, c], complex
        z = W_3 [Re S, Im S] + b_3
        y = LN(z) ⊙ σ(W_4 x + b_4) + (W_5 x + b_5) ⊙ (1 - σ(W_4 x + b_4))    output gate, LN without parameters

    `α` and `ω` are learned and do not depend on the input. They start evenly spaced as in the reference code: `α` from
    `ln 2 - 0.02`, half gone in a step, down to 1% left after `longest_period` steps; the periods `2π / ω` from 1, which
    is no oscillation, up to `longest_period`. `α` is the exponential of a parameter; the reference clips it, to at
    least 1e-8 and, against the overflow of its parallel form, at most `ln 2 - 0.01`.

    It does not learn Repeat First (`gru_repeat_first --memory ffm`: return 0.27 of 1; 0.40 after a million steps at a
    learning rate of 5e-3; 0.38 with 16 contexts of periods up to 64). What is written, and how it fades, depends on the
    input alone, in one layer: the first symbol has to be decoded from the sum of all by its phase. It does learn Repeat
    Previous (0.99).
    """

    features: int = 128
    """Width F of the output."""
    traces: int = 32
    """Decay rates m, the published memory size."""
    contexts: int = 4
    """Frequencies c, the published context size."""
    longest_period: int = 1024
    """Steps of the longest initial period, after which 1% is left of the slowest trace."""

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return FFMMemory(self, dtype)


class FFMCell(Recurrence[FFM]):
    """The equations of `FFM`."""

    def setup(self) -> None:
        config, wide = self.config, parameter_dtype(self.dtype)
        fastest = math.log(2) - 0.02
        slowest = min(fastest, math.log(100) / config.longest_period)
        self.alpha_log = self.param(
            "alpha_log", lambda _: jnp.log(jnp.linspace(fastest, slowest, config.traces, dtype=wide))
        )
        self.omega = self.param(
            "omega", lambda _: 2 * math.pi / jnp.linspace(1, config.longest_period, config.contexts, dtype=wide)
        )
        self.input, self.input_gate = dense(config.traces, self.dtype), dense(config.traces, self.dtype)
        self.skip, self.output_gate = dense(config.features, self.dtype), dense(config.features, self.dtype)
        self.mix = dense(config.features, self.dtype)
        self.norm = layer_norm(self.dtype, affine=False)

    def write(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        gate = nn.sigmoid(self.input_gate(x))
        self.sow("intermediates", "write", gate)
        written = (self.input(x) * gate).astype(parameter_dtype(self.dtype))[..., None]
        decay = complex_decay(jnp.exp(self.alpha_log)[:, None], self.omega[None])
        inputs = jnp.broadcast_to(written, (*x.shape[:2], *decay.shape))
        return decay[None, None], jax.lax.complex(inputs, jnp.zeros_like(inputs))

    def read(self, x: jax.Array, states: jax.Array) -> jax.Array:
        gate = nn.sigmoid(self.output_gate(x))
        self.sow("intermediates", "read", gate)
        return self.norm(self.mix(real_and_imaginary(states, self.dtype))) * gate + self.skip(x) * (1 - gate)


class FFMMemory(LinearRecurrentMemory):
    """An FFM cell as a memory. The state is complex `[B, m, c]`."""

    config: FFM
    dtype: jnp.dtype

    def setup(self) -> None:
        self.cell = FFMCell(self.config, self.dtype)

    def initial_state(self, batch: int, key: jax.Array | None = None) -> State:
        return empty_state((batch, self.config.traces, self.config.contexts), self.dtype, is_complex=True)

    def unroll(self, state: State, xs: jax.Array, resets: jax.Array) -> tuple[State, jax.Array]:
        return self.cell(state, xs, resets)
