"""HCAM, hierarchical chunk attention memory (arXiv 2105.14039): the past is kept as it was, in chunks; few are read.

Time is cut into chunks of `C` steps. In every layer, with `x` the residual stream (figure 1 of the paper):

    x = x + attention(norm x)          over a window: the latest W steps
    h = norm x                         what will be remembered of this step
    x = x + read(h)                    over the chunks that were closed before this step
    x = x + mlp(norm x)

The read ranks the latest `M` closed chunks by their summaries, then attends within the `k` best of them (section 2):

    s_m = (W_q h) . (W_k summary_m) / sqrt(D)               one head; summary_m: the mean of the steps of chunk m
    w = softmax of the k largest s, 0 for all others
    read(h) = sum_m w_m attention(h, contents_m + code)     H heads; code: sinusoids of the age within the chunk

No gradient flows into what is remembered, neither into summaries nor into contents. It reaches the past through the
window alone, `W - 1` steps per layer, however time is cut into unrolls; the read teaches its parameters and the query.

The released program is the read and nothing else. The read here equals it, but for three things. With no chunk to see
it is exactly 0, where theirs averages arbitrary slots. Keys within a chunk have no bias, which cancels in the softmax.
Of chunks that are equally relevant up to rounding the newest are chosen (see `TIE`). What is around the read is
unpublished and chosen here: the layer is the one of the other transformers of this package, with rotary positions in
the window, and what is remembered is normalised, hence of the scale of the code and of the query.

Chunks follow one clock shared by the batch. Where an episode begins inside a chunk, the steps before it are invisible:
the summary is the mean of the other steps, and those alone are attended to. The open chunk is seen through the window,
which is therefore at least as long as a chunk.

What is kept are the vectors `h`, not projections of them. Acting does not project what it reads either: it takes the
query to where the keys are, `(W_q h) . (W_k y) = (W_k^T W_q h) . y`, and projects mixed values. So a step costs
`O(M D + k C D H + D^2)`, and all projections are of the current parameters. Only the vectors themselves may be older:
in learning, those from before the unroll are as acting made them, the others are made anew.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from memrl.memory.attention import (
    Block,
    KeysValues,
    TransformerLayer,
    check_transformer,
    empty_cache,
    finite,
    ring_index,
    rms_norm,
    rotation,
    softmax,
    update_ring,
    write_at,
)
from memrl.memory.base import Memory, MemoryConfig, parameter_dtype
from memrl.memory.transformer_xl import sinusoids
from memrl.memory.window import Spans, cut


class Chunks(NamedTuple):
    """`N` chunks of `C` steps."""

    contents: jax.Array
    """What is remembered of each step, `[B, N, C, D]`, finite."""
    summaries: jax.Array
    """`[B, N, D]`, finite."""
    numbers: jax.Array
    """Which of all chunks they are, in order of time, int32 `[N]`; negative for those that hold nothing."""


class LayerState(NamedTuple):
    """What one layer keeps. Token `i` is in slot `i % W` of the window and in row `i % ((M + 1) C)` of the contents."""

    window: KeysValues
    """`[B, H, W, d]`."""
    contents: jax.Array
    """The `M` latest closed chunks and the open one, `[B, (M + 1) C, D]`."""
    summaries: jax.Array
    """Chunk `i` in slot `i % (M + 1)`, the open one as far as it goes, `[B, M + 1, D]`."""


class ChunkState(struct.PyTreeNode):
    """State of HCAM."""

    clock: jax.Array
    """Tokens read so far, int32, shared: the index of the next one."""
    first: jax.Array
    """The index at which the current episode began, int32 `[B]`."""
    layers: tuple[LayerState, ...]
    """Per layer, what it keeps."""


@dataclasses.dataclass(frozen=True)
class HCAM(MemoryConfig):
    """Hierarchical chunk attention memory: of all chunks kept, the `top_k` most relevant are attended to."""

    features: int = 64
    """Width D of the transformer."""
    layers: int = 2
    """Layers, each with a memory of its own."""
    heads: int = 4
    """Attention heads H, in the window and within chunks; must divide the width."""
    mlp_features: int = 128
    """Hidden width of the gated MLP."""
    window: int = 32
    """Steps W attended to directly, the current one included; at least chunk_length."""
    chunk_length: int = 16
    """Steps C of a chunk."""
    top_k: int = 4
    """Chunks k attended to at each step. With 1, its weight is always 1, and the ranking learns nothing."""
    capacity: int = 32
    """Closed chunks M kept; the oldest is dropped when one more is closed."""
    rotary_base: float = 10_000.0
    """Base of the rotation frequencies in the window."""

    def __post_init__(self) -> None:
        check_transformer(self, ("layers", "heads", "mlp_features", "window", "chunk_length", "top_k", "capacity"))
        if self.window < self.chunk_length:
            raise ValueError(
                f"memory.window is {self.window} and memory.chunk_length {self.chunk_length}: the window must be at "
                "least as long, because the open chunk is seen through it alone."
            )

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return ChunkMemory(self, dtype)

    def with_capacity(self, steps: int) -> Self:
        # A chunk closed at the very end of the span is never read.
        return dataclasses.replace(self, capacity=max(1, -(-steps // self.chunk_length) - 1))


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
            costs = {"gather": asked * self.top_k * self.heads, "dense": held * (asked + self.features)}
            form = min(costs, key=costs.get)
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


class ChunkLayer(TransformerLayer):
    """A transformer layer that reads chunks between its attention and its MLP."""

    top_k: int = dataclasses.field(kw_only=True)

    def setup(self) -> None:
        super().setup()
        self.read_norm = rms_norm(self.dtype)
        self.chunk_attention = ChunkAttention(self.features, self.heads, self.top_k, self.dtype)


@dataclasses.dataclass(frozen=True)
class View:
    """What `K` new tokens see, the same in every layer, and how they are written. In acting `K` is 1."""

    index: jax.Array
    """The index of each, int32 `[K]`."""
    first: jax.Array
    """The index at which the episode of each began, int32 `[B, K]`."""
    spans: int
    """Into how many spans they are cut for the attention in the window; divides `K`."""
    look: Callable[[KeysValues, KeysValues], tuple[list[Block], KeysValues]]
    """The slots that each span sees, and the ring afterwards, from the ring before and the new keys and values,
    `[B * spans, H, K / spans, d]`."""
    remember: Callable[[LayerState, jax.Array], tuple[Chunks, jax.Array, jax.Array]]
    """The chunks, and contents and summaries afterwards, from the state before and the new vectors `[B, K, D]`."""


class ChunkMemory(Memory):
    """See the module docstring. Inputs `[.., D_in]`, outputs `[.., config.features]`."""

    config: HCAM
    dtype: jnp.dtype

    def setup(self) -> None:
        config = self.config
        self.input_projection = nn.Dense(config.features, dtype=self.dtype, param_dtype=parameter_dtype(self.dtype))
        sizes = (config.features, config.heads, config.mlp_features, self.dtype)
        top_k = min(config.top_k, config.capacity)
        self.layers = [ChunkLayer(*sizes, top_k=top_k) for _ in range(config.layers)]
        self.final_norm = rms_norm(self.dtype)

    # The contract

    def initial_state(self, batch: int, key: jax.Array | None = None) -> ChunkState:
        config = self.config
        slots, width = config.capacity + 1, config.features // config.heads
        return ChunkState(
            clock=jnp.int32(0),
            first=jnp.zeros(batch, jnp.int32),
            layers=tuple(
                LayerState(
                    window=empty_cache(batch, config.heads, config.window, width, self.dtype),
                    contents=jnp.zeros((batch, slots * config.chunk_length, config.features), self.dtype),
                    summaries=jnp.zeros((batch, slots, config.features), self.dtype),
                )
                for _ in range(config.layers)
            ),
        )

    def step(self, state: ChunkState, x: jax.Array, reset: jax.Array) -> tuple[ChunkState, jax.Array]:
        first = jnp.where(reset, state.clock, state.first)
        hidden, layers = self._read(x[:, None], state.layers, self._view_of_one(state.clock, first[:, None]))
        return ChunkState(clock=state.clock + 1, first=first, layers=layers), hidden[:, 0]

    def unroll(self, state: ChunkState, xs: jax.Array, resets: jax.Array) -> tuple[ChunkState, jax.Array]:
        spans, inputs = cut(state.clock, state.first, xs, resets, self.config.window)
        hidden, layers = self._read(inputs, state.layers, self._view_of_many(spans))
        state = ChunkState(clock=state.clock + spans.steps, first=spans.first[:, spans.steps - 1], layers=layers)
        return state, hidden[:, : spans.steps].swapaxes(0, 1)

    def tokens_attended(self, state: ChunkState) -> jax.Array:
        """Steps in the window, summaries of chunks, and steps of those read (all, where a reset cuts one)."""
        config = self.config
        latest = state.clock - 1
        open_chunk = latest // config.chunk_length
        oldest = jnp.maximum(state.first // config.chunk_length, open_chunk - config.capacity)
        chunks = jnp.maximum(open_chunk - oldest, 0)
        read = jnp.minimum(chunks, config.top_k) * config.chunk_length
        return jnp.minimum(state.clock - state.first, config.window) + chunks + read

    # What acting and learning share

    def _read(
        self, inputs: jax.Array, layers: tuple[LayerState, ...], view: View
    ) -> tuple[jax.Array, tuple[LayerState, ...]]:
        """Runs all layers on inputs `[B, K, D_in]`; returns the outputs `[B, K, D]` and the state afterwards."""
        config = self.config
        batch, tokens, _ = inputs.shape
        in_spans = (batch * view.spans, tokens // view.spans)
        positions = rotation(
            (view.index[None] - view.first).reshape(in_spans),
            config.features // config.heads,
            config.rotary_base,
            self.dtype,
        )
        x = self.input_projection(inputs)
        after, attention, relevance, chunks_read = [], [], [], []
        for layer, before in zip(self.layers, layers, strict=True):
            x = x.reshape(*in_spans, config.features)
            queries, new = layer.project(x, positions)
            blocks, window = view.look(before.window, jax.tree.map(finite, new))
            x, weights = layer.add_attention(x, queries, blocks)
            x = x.reshape(batch, tokens, config.features)
            normalised = layer.read_norm(x)
            chunks, contents, summaries = view.remember(before, finite(normalised))
            first_row = self._first_row(view, chunks.numbers)
            read, chunk_weights, chosen = layer.chunk_attention(normalised, chunks, first_row)
            x = layer.add_mlp(x + read)
            after.append(LayerState(window, contents, summaries))
            attention.append(weights)
            relevance.append(chunk_weights)
            chunks_read.append(jnp.where(chunk_weights > 0, chosen, -1))
        self.sow("intermediates", "attention", jnp.stack(attention, axis=1))  # [B * spans, layers, H, K / spans, slots]
        self.sow("intermediates", "relevance", jnp.stack(relevance, axis=1))  # [B, layers, K, k]
        self.sow("intermediates", "chunks", jnp.stack(chunks_read, axis=1))  # [B, layers, K, k], -1 for none
        return self.final_norm(x), tuple(after)

    def _first_row(self, view: View, numbers: jax.Array) -> jax.Array:
        """The first step that each token sees of the chunks `numbers` `[N]`: int32 `[B, K, N]`."""
        length = self.config.chunk_length
        open_chunk = view.index[:, None] // length
        closed = (numbers[None] < open_chunk) & (numbers[None] >= open_chunk - self.config.capacity)
        # Chunks that hold nothing have a negative number: their steps are all before the first.
        row = jnp.clip(view.first[..., None] - (numbers * length)[None, None], 0, length)
        return jnp.where(closed[None], row, length)

    def _view_of_one(self, clock: jax.Array, first: jax.Array) -> View:
        """Acting: the rings are written in place, before they are read."""
        config, slots, length = self.config, self.config.capacity + 1, self.config.chunk_length
        in_window = (ring_index(clock + 1, config.window)[None] >= first)[:, None]
        chunk = clock // length
        numbers = ring_index(chunk + 1, slots)
        row = chunk * length + jnp.arange(length, dtype=jnp.int32)[None]
        in_summary = ((row >= first) & (row <= clock))[:, None]

        def look(ring: KeysValues, new: KeysValues) -> tuple[list[Block], KeysValues]:
            ring = write_at(ring, clock % config.window, new)
            return [Block(*ring, in_window)], ring

        def remember(before: LayerState, new: jax.Array) -> tuple[Chunks, jax.Array, jax.Array]:
            write = jax.lax.dynamic_update_slice_in_dim
            contents = write(before.contents, new, clock % (slots * length), axis=1)
            chunks = contents.reshape(-1, slots, length, config.features)
            summary = summarise(jax.lax.dynamic_slice_in_dim(chunks, chunk % slots, 1, axis=1), in_summary)
            summaries = write(before.summaries, summary, chunk % slots, axis=1)
            return Chunks(chunks, summaries, numbers), contents, summaries

        return View(clock[None], first, 1, look, remember)

    def _view_of_many(self, spans: Spans) -> View:
        """Learning: what was carried over and what is new, side by side. Only the tokens that are there are written."""
        config, slots, length = self.config, self.config.capacity + 1, self.config.chunk_length
        clock, first, steps = spans.index[0], spans.first, spans.steps
        visible = spans.visible()

        def look(ring: KeysValues, new: KeysValues) -> tuple[list[Block], KeysValues]:
            groups, ring = spans.join(ring, new)
            return [Block(*group, seen) for group, seen in zip(groups, visible, strict=True)], ring

        # The chunks: those carried over, then those with new tokens, of which the first may have been open before.
        chunk = clock // length
        touched = chunk + jnp.arange((length + steps - 2) // length + 1, dtype=jnp.int32)
        carried = ring_index(chunk + 1, slots)
        numbers = jnp.concatenate([jnp.where(carried < chunk, carried, -1), touched])
        end = clock + steps
        row = touched[:, None] * length + jnp.arange(length, dtype=jnp.int32)[None]
        closed_by = jnp.minimum(row[:, -1], end - 1)
        in_summary = (row[None] >= first[:, closed_by - clock][..., None]) & (row[None] < end)
        held_rows = ring_index(end, slots * length) - clock
        held_chunks = ring_index((end - 1) // length + 1, slots) - chunk

        def remember(before: LayerState, new: jax.Array) -> tuple[Chunks, jax.Array, jax.Array]:
            new = new[:, :steps]
            in_chunks = (new.shape[0], -1, length, config.features)
            opened = jax.lax.dynamic_slice_in_dim(before.contents, chunk % slots * length, length, axis=1)
            rows = jnp.pad(opened, ((0, 0), (0, (touched.size - 1) * length), (0, 0)))
            rows = jax.lax.dynamic_update_slice_in_dim(rows, new, clock % length, axis=1).reshape(in_chunks)
            summaries = summarise(rows, in_summary)
            chunks = Chunks(
                jnp.concatenate([before.contents.reshape(in_chunks), rows], axis=1),
                jnp.concatenate([before.summaries, summaries], axis=1),
                numbers,
            )
            contents = update_ring(before.contents, new, held_rows, axis=1)
            return chunks, contents, update_ring(before.summaries, summaries, held_chunks, axis=1)

        return View(spans.index, first, spans.number, look, remember)
