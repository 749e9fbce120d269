"""A stack of frames: the latest few inputs side by side, the oldest remedy where one input does not show enough."""

import dataclasses
from typing import Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from memrl.memory.base import Memory, MemoryConfig
from memrl.memory.layers import dense


@dataclasses.dataclass(frozen=True)
class FrameStack(MemoryConfig):
    """The latest inputs of the episode through one dense layer (Mnih et al., arXiv 1312.5602, section 4.1: 4 frames).

        p_t = W_p x_t + b_p
        y_t = relu(W [p_{t-N+1}; ..; p_{t-1}; p_t] + b)        p_s = 0 before the episode began

    There inputs are stacked as they are. Here each is projected first, so that the state has a size before any input is
    known, and so that the bias distinguishes an input of zeros from none.

    What is older than `frames` is forgotten completely: the baseline that shows what a task asks of a memory beyond.
    """

    features: int = 128
    """Width F of the output."""
    frames: int = 4
    """Inputs N that are stacked, the current one included."""
    frame_features: int = 32
    """Width P to which each input is projected."""
    capacity: int | None = None
    """Inputs that are kept, if fewer than `frames`, the current one included; older ones read as if they had not been.
    All `frames` if not given."""

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return StackMemory(self, dtype)

    def with_capacity(self, steps: int) -> Self:
        return dataclasses.replace(self, capacity=steps if steps < self.frames else None)


class StackMemory(Memory):
    """See `FrameStack`. The state is what was projected before, the newest last, `[B, kept - 1, P]`; 0 for nothing."""

    config: FrameStack
    dtype: jnp.dtype

    def setup(self) -> None:
        self.projection = dense(self.config.frame_features, self.dtype)
        self.output = dense(self.config.features, self.dtype)

    @property
    def kept(self) -> int:
        """Inputs that an output depends on."""
        return min(self.config.frames, self.config.capacity or self.config.frames)

    def initial_state(self, batch: int, key: jax.Array | None = None) -> jax.Array:
        return jnp.zeros((batch, self.kept - 1, self.config.frame_features), self.dtype)

    def step(self, state: jax.Array, x: jax.Array, reset: jax.Array) -> tuple[jax.Array, jax.Array]:
        state, ys = self.unroll(state, x[None], reset[None])
        return state, ys[0]

    def unroll(self, state: jax.Array, xs: jax.Array, resets: jax.Array) -> tuple[jax.Array, jax.Array]:
        steps, batch = resets.shape
        time = jnp.arange(steps, dtype=jnp.int32)[:, None]
        began = jax.lax.cummax(jnp.where(resets, time, -self.kept), axis=0)  # [T, B]
        frames = jnp.concatenate([state.swapaxes(0, 1), self.projection(xs)])  # [kept - 1 + T, B, P]
        stack = [jnp.zeros((steps, batch, self.config.frames - self.kept, self.config.frame_features), self.dtype)]
        for age in reversed(range(self.kept)):
            first = self.kept - 1 - age
            visible = (time - age >= began)[..., None]
            stack.append(jnp.where(visible, frames[first : first + steps], 0)[:, :, None])
        stack = jnp.concatenate(stack, axis=2)  # [T, B, frames, P]
        ys = nn.relu(self.output(stack.reshape(steps, batch, -1)))
        return stack[-1, :, self.config.frames - self.kept + 1 :], ys

    def tokens_attended(self, state: jax.Array) -> jax.Array:
        return jnp.int32(0)
