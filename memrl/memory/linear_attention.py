"""Linear attention: a fast weight to which everything is added."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from memrl.memory.chunkwise import Projected, episodes, read_and_write, to_heads, to_time
from memrl.memory.fast_weights import FastWeightConfig, FastWeightLayer, with_ones


@dataclasses.dataclass(frozen=True)
class LinearAttention(FastWeightConfig):
    """Linear attention (Katharopoulos et al., arXiv 2006.16236, eq. 16 to 20).

        S ← S + v φ(k)ᵀ        z ← z + φ(k)        φ(x) = elu(x) + 1
        y = S φ(q) / (zᵀ φ(q) + 10⁻⁶)

    with `q, k, v` linear in `x̄`. The normaliser is that of the authors' code, so `y` is an average of all values since
    the reset. Nothing is forgotten and nothing can be replaced.

    It does not learn Repeat Previous (`gru_repeat_previous --memory linear_attention`: return -0.12 of 1, where no
    memory has -0.50): the average does not change with the order of what it averages. It does learn Repeat First
    (1.00).
    """

    def layer(self, dtype: jnp.dtype) -> "FastWeightLayer":
        return LinearAttentionLayer(self, dtype)

    def empty(self, batch: int, key: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return self.matrices(batch, dtype, more_rows=1)


class LinearAttentionLayer(FastWeightLayer[LinearAttention]):
    """The equations of `LinearAttention`. The state is `S` with `z` as its last row, `[B, H, d + 1, d]`."""

    def tokens(self, state: jax.Array, x: jax.Array, projected: Projected) -> tuple[jax.Array, Projected]:
        queries, keys, values = projected
        return state, Projected(nn.elu(queries) + 1, nn.elu(keys) + 1, with_ones(values))

    @staticmethod
    def read_chunk(state: jax.Array, tokens: Projected, resets: jax.Array) -> tuple[jax.Array, jax.Array]:
        projected = jax.tree.map(to_heads, tokens)
        visible, carried = episodes(resets)
        dtype = state.dtype
        state, reads = read_and_write(state, projected, visible.astype(dtype), jnp.ones_like(carried, dtype), carried)
        return state, to_time(reads[..., :-1] / (reads[..., -1:] + 1e-6))
