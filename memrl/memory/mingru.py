"""minGRU: a GRU whose gates see the input alone."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from memrl.memory.base import Memory, parameter_dtype
from memrl.memory.layers import dense
from memrl.memory.linear_recurrence import Recurrence, RecurrenceStack, RecurrenceStackConfig


@dataclasses.dataclass(frozen=True)
class MinGRU(RecurrenceStackConfig):
    """Minimal gated recurrent unit (Feng et al., arXiv 2410.01201, section 3.1 and appendix B), `N` numbers a layer.

        z = σ(W_z x + b_z)
        h ← (1 - z) ⊙ h + z ⊙ g(W_h x + b_h)      g(v) = v + 0.5 where v >= 0, else σ(v)
        y = W_o h + b_o

    Each state is a convex combination of `g(.)`, so it never exceeds the largest of them: nothing can overflow, and the
    published computation in log space, which serves that, is not needed. The published block has more parts that can
    be switched off, a convolution over 4 steps and an MLP, and RMSNorm in place of LayerNorm.

    The biases `b_z` start at `-ln n` with `n` evenly spaced from 1 to `longest_memory`, so that number `n` forgets at
    first a share `1 / (1 + n)` at each step (chrono initialisation, Tallec and Ollivier, arXiv 1804.11188, section 2).
    The published ones start near 0: half of everything is forgotten at each step, and what was seen 30 steps ago has
    weight 10⁻⁹ and no gradient. With those, Repeat First ended at a return of 0.48 of 1; with these, at 1.00.

    It does not quite learn Repeat Previous (`gru_repeat_previous --memory mingru`: return 0.48 of 1 after 0.5 million
    steps, 0.82 after a million; 0.90 after 1.5 million at a learning rate of 5e-3): gates that see inputs alone can
    only approximate a queue, by sums of what fades at different rates. The published convolution would hand it the
    latest 4 inputs.
    """

    state_features: int = 128
    """Numbers N in the state of a layer: the width times the published expansion factor."""
    longest_memory: int = 100
    """Greatest initial time constant, in steps."""

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return RecurrenceStack(self, MinGRULayer, is_complex=False, dtype=dtype)


class MinGRULayer(Recurrence[MinGRU]):
    """The equations of `MinGRU`."""

    def setup(self) -> None:
        config = self.config

        def remember_long(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
            return -jnp.log(jnp.linspace(1, config.longest_memory, shape[0], dtype=dtype))

        self.update_gate = dense(config.state_features, self.dtype, bias_init=remember_long)
        self.candidate = dense(config.state_features, self.dtype)
        self.output = dense(config.features, self.dtype)

    def write(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        wide = parameter_dtype(self.dtype)
        gate, candidate = self.update_gate(x).astype(wide), self.candidate(x).astype(wide)
        candidate = jnp.where(candidate >= 0, candidate + 0.5, nn.sigmoid(candidate))
        return nn.sigmoid(-gate), nn.sigmoid(gate) * candidate

    def read(self, x: jax.Array, states: jax.Array) -> jax.Array:
        return self.output(states.astype(self.dtype))
