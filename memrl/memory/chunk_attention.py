"""Hierarchical attention over chunks of the past: the read of HCAM (see `memrl.memory.hcam`)."""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from memrl.memory.attention import softmax
from memrl.memory.base import parameter_dtype
from memrl.memory.transformer_xl import sinusoids


class Chunks(NamedTuple):
    """`N` chunks of `C` steps."""

    contents: jax.Array
    """What is remembered of each step, `[B, N, C, D]`, finite."""
    summaries: jax.Array
    """Summary of each chunk, `[B, N, D]`, finite."""
    numbers: jax.Array
    """Number of each chunk in order of time, int32 `[N]`; negative for those that hold nothing."""


TIE = 1e-4
"""How much more relevant than the chunk after it a chunk has to be, to be chosen before it.

While observations do not change, chunks are equally relevant but for rounding, which differs between acting and
learning; their contents may differ, since the first chunk of an episode is often cut. The newest are chosen, by more
than rounding, so that learning reads what acting read.
"""

BLOCK = 16
"""Queries whose chosen chunks are gathered at a time: few enough to stay in the caches of a CPU."""


class ChunkAttention(nn.Module):
    """The hierarchical read, see the module docstring; all widths are `features`.

    Two forms compute the same. `gather` fetches the chosen chunks for each query, however many there are to choose
    from. `dense` projects every step once and masks: many queries of few chunks are cheaper that way.
    """

    features: int
    heads: int
    top_k: int
    dtype: jnp.dtype

    def setup(self) -> None:
        def parameter(name: str, initializer: nn.initializers.Initializer, *shape: int) -> jax.Array:
            return self.param(name, initializer, shape, parameter_dtype(self.dtype)).astype(self.dtype)

        kernel = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
        zeros, width = nn.initializers.zeros, self.features
        self.relevance_query = parameter("relevance_query", kernel, width, width)
        self.relevance_key = parameter("relevance_key", kernel, width, width)
        self.query = parameter("query", kernel, width, width)
        self.query_bias = parameter("query_bias", zeros, width)
        self.key = parameter("key", kernel, width, width)
        self.value = parameter("value", kernel, width, width)
        self.value_bias = parameter("value_bias", zeros, width)
        self.output = parameter("output", kernel, width, width)
        self.output_bias = parameter("output_bias", zeros, width)

    def __call__(
        self,
        queries: jax.Array,
        chunks: Chunks,
        first_row: jax.Array,
        form: Literal["gather", "dense"] | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Reads chunks, into which no gradient flows.

        Args:
          queries: `[B, Q, D]`.
          chunks: `N` of them; those that nothing sees may hold anything finite.
          first_row: the first step of each chunk that each query sees, int32 `[B, Q, N]`; `C` where it sees none.
          form: how it is computed; by default the way that is cheaper for these shapes.

        Returns:
          The read `[B, Q, D]`, exactly 0 for a query that sees nothing; the weights of the chosen chunks `[B, Q, k]`, 0
          where fewer are seen; and their numbers, int32 `[B, Q, k]`.
        """
        chunks = jax.lax.stop_gradient(chunks)
        asked, held = first_row.shape[1:]
        if form is None:
            # Products, but for a common factor.
            costs: dict[Literal["gather", "dense"], int] = {
                "gather": asked * self.top_k * self.heads,
                "dense": held * (asked + self.features),
            }
            form = min(costs, key=lambda name: costs[name])
        relevance = self._relevance(queries, chunks, first_row)
        newness = TIE * (chunks.numbers - chunks.numbers.max()).astype(relevance.dtype)
        _, chosen = jax.lax.top_k(relevance + newness[None, None], min(self.top_k, held))
        chunk_weights = softmax(jnp.take_along_axis(relevance, chosen, axis=-1))
        mix = self._gather if form == "gather" else self._dense
        mixed = mix(self._queries(queries), chunks.contents, first_row, chosen, chunk_weights)
        mixed = mixed.reshape(queries.shape) + self.value_bias[None, None]
        some = (chunk_weights != 0).any(axis=-1, keepdims=True)  # NaN included
        read = jnp.where(some, mixed @ self.output + self.output_bias[None, None], 0)
        return read, chunk_weights, chunks.numbers[chosen]

    def _gather(
        self, queries: jax.Array, contents: jax.Array, first_row: jax.Array, chosen: jax.Array, chunk_weights: jax.Array
    ) -> jax.Array:
        """Mixed values `[B, Q, H, d]`, without their bias, for queries `[B, Q, H, d]`: of the chosen chunks alone.

        What is gathered is not stored for the backward pass, but gathered again.
        """
        per_head = (self.features, self.heads, -1)
        first_row = jnp.take_along_axis(first_row, chosen, axis=-1)
        queries = jnp.einsum("bqhe,dhe->bqhd", queries, self.key.reshape(per_head))

        @jax.checkpoint
        def mix(queries: jax.Array, first_row: jax.Array, chosen: jax.Array, chunk_weights: jax.Array) -> jax.Array:
            """Mixed rows `[B, H, D]` for one query of each environment, `[B, H, D]`."""
            rows = jax.vmap(lambda contents, chosen: contents[chosen])(contents, chosen)  # [B, k, C, D]
            rows = rows + self._age_code(rows)
            logits = jnp.einsum("bhd,bkcd->bhkc", queries, rows)
            weights = self._row_weights(logits, first_row[:, None], chunk_weights[:, None])
            return jnp.einsum("bhkc,bkcd->bhd", weights, rows)

        by_query = jax.tree.map(lambda a: a.swapaxes(0, 1), (queries, first_row, chosen, chunk_weights))
        mixed = jax.lax.map(lambda one: mix(*one), by_query, batch_size=BLOCK)
        return jnp.einsum("qbhd,dhe->bqhe", mixed, self.value.reshape(per_head))

    def _dense(
        self, queries: jax.Array, contents: jax.Array, first_row: jax.Array, chosen: jax.Array, chunk_weights: jax.Array
    ) -> jax.Array:
        """The same, of all chunks, each step projected once; those that were not chosen have weight 0."""
        chunk_weights = jnp.put_along_axis(
            jnp.zeros(first_row.shape, chunk_weights.dtype), chosen, chunk_weights, axis=-1, inplace=False
        )
        rows = contents + self._age_code(contents)
        per_head = (*rows.shape[:3], self.heads, -1)
        weights = self._row_weights(
            jnp.einsum("bqhe,bnche->bhqnc", queries, (rows @ self.key).reshape(per_head)),
            first_row[:, None],
            chunk_weights[:, None],
        )
        return jnp.einsum("bhqnc,bnche->bqhe", weights, (rows @ self.value).reshape(per_head))

    def _relevance(self, queries: jax.Array, chunks: Chunks, first_row: jax.Array) -> jax.Array:
        """How relevant each chunk is, float32 at least `[B, Q, N]`: minus infinity where it is not seen."""
        queries = queries @ self.relevance_query @ self.relevance_key.T
        queries = queries * jnp.asarray(self.features**-0.5, self.dtype)
        wide = parameter_dtype(self.dtype)
        relevance = jnp.einsum("bqd,bnd->bqn", queries, chunks.summaries, preferred_element_type=wide)
        return jnp.where(first_row < chunks.contents.shape[2], relevance, -jnp.inf)

    def _queries(self, queries: jax.Array) -> jax.Array:
        """Scaled queries of the attention within chunks, `[B, Q, H, d]`."""
        width = self.features // self.heads
        queries = (queries @ self.query + self.query_bias[None, None]) * jnp.asarray(width**-0.5, self.dtype)
        return queries.reshape(*queries.shape[:2], self.heads, width)

    def _age_code(self, rows: jax.Array) -> jax.Array:
        """The code to add to `rows` `[.., C, D]`."""
        code = sinusoids(jnp.arange(rows.shape[-2])[::-1], self.features, self.dtype)
        return code.reshape((1,) * (rows.ndim - 2) + code.shape)

    def _row_weights(self, logits: jax.Array, first_row: jax.Array, chunk_weights: jax.Array) -> jax.Array:
        """Attention within chunks, from `first_row` on, times the weights of the chunks; `logits` has one axis more."""
        rows = jnp.arange(logits.shape[-1], dtype=jnp.int32).reshape((1,) * first_row.ndim + (-1,))
        logits = logits.astype(parameter_dtype(self.dtype))
        weights = softmax(jnp.where(rows >= first_row[..., None], logits, -jnp.inf))
        return (weights * chunk_weights[..., None]).astype(self.dtype)


def summarise(contents: jax.Array, visible: jax.Array) -> jax.Array:
    """The mean `[B, N, D]` of the visible steps of each chunk, 0 if there is none.

    Args:
      contents: `[B, N, C, D]`.
      visible: bool `[B, N, C]`.
    """
    wide = parameter_dtype(contents.dtype)
    total = jnp.where(visible[..., None], contents, 0).astype(wide).sum(axis=2)
    number = jnp.maximum(visible.sum(axis=2, dtype=jnp.int32), 1).astype(wide)
    return (total / number[..., None]).astype(contents.dtype)
