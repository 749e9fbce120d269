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
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import struct

from memrl.memory.attention import (
    Block,
    KeysValues,
    TransformerLayer,
    attended_by_layer,
    check_transformer,
    empty_cache,
    finite,
    ring_index,
    rotation,
    update_ring,
    write_at,
)
from memrl.memory.base import Attention, Memory, MemoryConfig
from memrl.memory.chunk_attention import ChunkAttention, Chunks, summarise
from memrl.memory.layers import dense, rms_norm
from memrl.memory.window import Spans, cut


class LayerState(NamedTuple):
    """What one layer keeps. Token `i` is in slot `i % W` of the window and in row `i % ((M + 1) C)` of the contents."""

    window: KeysValues
    """Keys and values of the latest W steps, `[B, H, W, d]`."""
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
    """State of each layer."""


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
    """Chunks k attended to at each step. A single one always has weight 1, so the ranking learns nothing."""
    capacity: int = 32
    """Closed chunks M kept; the oldest is dropped when one more is closed."""
    rotary_base: float = 10_000.0
    """Base of the rotation frequencies in the window."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_transformer(self)
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

    attention_names: ClassVar[tuple[str, ...]] = ("attention", "relevance", "chunks")

    def setup(self) -> None:
        config = self.config
        self.input_projection = dense(config.features, self.dtype)
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

    def attended(self, state: ChunkState, sown: Mapping[str, Any]) -> dict[str, Attention]:
        length = self.config.chunk_length
        items = ring_index(state.clock + 1, self.config.window)
        seen = attended_by_layer(sown, items, items + 1, ": the window")
        for layer in range(self.config.layers):
            chunks, relevance = sown["chunks"][0][0, layer, 0], sown["relevance"][0][0, layer, 0]  # [k]
            begin = jnp.where(chunks < 0, -1, chunks * length)
            seen[f"layer {layer + 1}: chunks of {length} steps"] = Attention(relevance, begin, begin + length)
        return seen

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
        clock, first, steps = spans.indices[0], spans.first, spans.steps
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

        return View(spans.indices, first, spans.number, look, remember)
