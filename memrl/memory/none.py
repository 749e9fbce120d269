"""No memory: the baseline that shows what a task asks of a memory."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from memrl.memory.base import Memory, MemoryConfig
from memrl.memory.layers import dense


@dataclasses.dataclass(frozen=True)
class NoMemory(MemoryConfig):
    """One feed-forward layer, `y = relu(W x + b)`: a policy as deep as those with a memory that remembers nothing."""

    features: int = 128
    """Width F of the layer."""

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return FeedForward(self.features, dtype)


class FeedForward(Memory):
    """A layer as a memory. The state is empty: `()`."""

    features: int
    dtype: jnp.dtype

    def setup(self) -> None:
        self.layer = dense(self.features, self.dtype)

    def initial_state(self, batch: int, key: jax.Array | None = None) -> tuple[()]:
        return ()

    def step(self, state: tuple[()], x: jax.Array, reset: jax.Array) -> tuple[tuple[()], jax.Array]:
        return (), nn.relu(self.layer(x))

    def unroll(self, state: tuple[()], xs: jax.Array, resets: jax.Array) -> tuple[tuple[()], jax.Array]:
        return (), nn.relu(self.layer(xs))

    def tokens_attended(self, state: tuple[()]) -> jax.Array:
        return jnp.int32(0)
