"""Memories that summarise: Memo, RMT and AutoCompressor, one module with three settings.

Time is cut into segments of `L` steps. At the end of a segment, `S` learned queries read it; their final hidden states
are its summary. The summary is fed back as `S` input tokens in front of every later segment (Memo, arXiv 2510.19732,
section 3):

    for segment in split(x, L):
        h = transformer([summaries, segment, queries])       causal attention
        emit h[segment]
        summaries = [summaries, h[queries]]                  RMT: summaries = h[queries]

A summary token attends to the summary tokens before it and to itself, never to an observation, so its keys and values
do not change once they are made. They are therefore computed once, when the segment closes, and kept: acting and
learning read the same cache and run the same two functions, `_read` and `_summarise`, on one token or on a segment.
This is the published computation with less work: the references encode all earlier summaries again in each segment.

Segments follow one clock shared by the batch. Where an episode begins inside a segment, the tokens and summaries before
it are invisible to it; with trials of a fixed length that `L` divides, this is the published behaviour exactly.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from memrl.memory.attention import (
    Block,
    KeysValues,
    Rotation,
    TransformerLayer,
    attended_by_layer,
    check_transformer,
    empty_cache,
    latest_reset,
    ring_index,
    rotation,
    write_at,
)
from memrl.memory.base import Attention, Memory, MemoryConfig, parameter_dtype
from memrl.memory.layers import dense, rms_norm


class SummaryState(struct.PyTreeNode):
    """State of a summarising memory. `M` = sets of summaries kept, `S` = tokens in a set, `Lmax` = longest segment."""

    key: jax.Array
    """PRNG key of the segment lengths, shared."""
    segment: jax.Array
    """Segments closed so far, int32, shared: the index of the open one."""
    position: jax.Array
    """Tokens in the open segment, int32, shared."""
    first_segment: jax.Array
    """The segment in which the current episode began, int32 `[B]`."""
    first_slot: jax.Array
    """The first slot of the open segment that belongs to the current episode, int32 `[B]`."""
    summaries: tuple[KeysValues, ...]
    """Per layer, the ring of summary sets: `[B, H, M * S, d]`; set `i` starts at slot `(i % M) * S`."""
    tokens: tuple[KeysValues, ...]
    """Per layer, the open segment: `[B, H, Lmax, d]`. Slots from `position` on hold nothing that is read."""


@dataclasses.dataclass(frozen=True)
class SummaryConfig(MemoryConfig):
    """Hyperparameters that Memo, RMT and AutoCompressor share."""

    features: int = 64
    """Width D of the transformer."""
    layers: int = 2
    """Transformer layers."""
    heads: int = 4
    """Attention heads; must divide the width."""
    mlp_features: int = 128
    """Hidden width of the gated MLP."""
    segment_length: int = 20
    """Steps L between two summaries."""
    summary_tokens: int = 4
    """Summary tokens S made of each segment."""
    jitter: float = 0.0
    """Segment lengths are drawn uniformly from L(1 - jitter) to L(1 + jitter) while training (the paper: 0.2)."""
    positions: Literal["rotary", "segment"] = "rotary"
    """What rotary positions count. rotary: the index over all summaries and the segment (published); segment: the index
    within the set or segment, which does not grow with the episode."""
    rotary_base: float = 10_000.0
    """Base of the rotation frequencies; a small one separates neighbouring steps better, a large one distant steps."""
    query_scale: float = 0.02
    """Standard deviation of the initial summary queries (the references' is 1, an accident of their initialisation)."""
    rematerialise: bool = False
    """Recompute each segment in the backward pass instead of storing it: less memory, a third more work."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_transformer(self)
        if not 0 <= self.jitter < 1:
            raise ValueError(f"memory.jitter is {self.jitter}: it must be at least 0 and less than 1.")
        if self.shortest_segment < 1:
            raise ValueError(
                f"memory.jitter is {self.jitter} and memory.segment_length {self.segment_length}: "
                "the shortest segment would have no step."
            )

    @property
    def shortest_segment(self) -> int:
        """Steps of the shortest segment that jitter can draw."""
        return round(self.segment_length * (1 - self.jitter))

    @property
    def longest_segment(self) -> int:
        """Steps of the longest segment that jitter can draw."""
        return round(self.segment_length * (1 + self.jitter))

    def without_noise(self) -> Self:
        return dataclasses.replace(self, jitter=0.0)


class SummaryMemory(Memory):
    """See the module docstring. Inputs `[.., D_in]`, outputs `[.., config.features]`."""

    config: SummaryConfig
    capacity: int
    accumulate: bool
    gradient_segments: int | None
    """How many preceding segments gradients reach; `None`: all of them."""
    dtype: jnp.dtype

    def setup(self) -> None:
        config = self.config
        self.input_projection = dense(config.features, self.dtype)
        self.layers = [
            TransformerLayer(config.features, config.heads, config.mlp_features, self.dtype)
            for _ in range(config.layers)
        ]
        self.final_norm = rms_norm(self.dtype)
        self.summary_queries = self.param(
            "summary_queries",
            nn.initializers.normal(config.query_scale),
            (config.summary_tokens, config.features),
            parameter_dtype(self.dtype),
        )

    # The contract

    def initial_state(self, batch: int, key: jax.Array | None = None) -> SummaryState:
        config = self.config
        width = config.features // config.heads

        def caches(slots: int) -> tuple[KeysValues, ...]:
            return tuple(empty_cache(batch, config.heads, slots, width, self.dtype) for _ in range(config.layers))

        return SummaryState(
            key=jax.random.key(0) if key is None else key,
            segment=jnp.int32(0),
            position=jnp.int32(0),
            first_segment=jnp.zeros(batch, jnp.int32),
            first_slot=jnp.zeros(batch, jnp.int32),
            summaries=caches(self.capacity * config.summary_tokens),
            tokens=caches(config.longest_segment),
        )

    def step(self, state: SummaryState, x: jax.Array, reset: jax.Array) -> tuple[SummaryState, jax.Array]:
        state, hidden = self._read(
            state,
            self.input_projection(x)[:, None],
            reset[:, None],
            slots=state.position[None],
            end=state.position + 1,
            write=lambda cache, new: write_at(cache, state.position, new),
        )
        return self._close_if_full(state, branch=not self.is_initializing()), hidden[:, 0]

    def unroll(self, state: SummaryState, xs: jax.Array, resets: jax.Array) -> tuple[SummaryState, jax.Array]:
        config, steps = self.config, xs.shape[0]
        # A segment is read through a window of Lmax slots; the padding keeps the window inside the array.
        padding = ((0, 0), (config.longest_segment, config.longest_segment))
        tokens = jnp.pad(self.input_projection(xs).swapaxes(0, 1), (*padding, (0, 0)))
        resets = jnp.pad(resets.swapaxes(0, 1), padding)
        reach = self.gradient_segments or 0

        def advance(
            module: SummaryMemory, state: SummaryState, time: jax.Array, tokens: jax.Array, resets: jax.Array
        ) -> tuple[SummaryState, jax.Array, jax.Array, jax.Array]:
            return module._read_segment(state, time, tokens, resets, steps)

        if config.rematerialise:
            advance = nn.remat(advance, prevent_cse=False)

        def window(module: SummaryMemory, carry: Any, tokens: jax.Array, resets: jax.Array) -> tuple[Any, Any]:
            """Reads one segment, or, under truncation, the `reach + 1` segments that its gradient may see."""
            (state, time), _ = carry
            if self.gradient_segments is not None:
                state = jax.lax.stop_gradient(state)
            following, outputs = [], []
            for _ in range(reach + 1):
                state, time, *output = advance(module, state, time, tokens, resets)
                following.append((state, time))
                outputs.append(output)
            return (following[0], state), jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)

        # One segment is open already and may end after the first step; all others have the shortest length at least.
        segments = 1 + -(-(steps - 1) // config.shortest_segment)
        scan = nn.scan(
            window,
            variable_broadcast="params",
            variable_axes={"intermediates": 0},
            split_rngs={"params": False},
            in_axes=(nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType] (annotated by its default, 0)
            length=max(1, segments - reach),
        )
        (_, state), (hidden, times) = scan(self, ((state, jnp.int32(0)), state), tokens, resets)
        # Each window's last segment is its output; the first window has no window before it and gives all of its own.
        hidden = jnp.concatenate([hidden[0, :reach], hidden[:, reach]])  # [segments, B, Lmax, D]
        times = jnp.concatenate([times[0, :reach], times[:, reach]])  # [segments, Lmax]
        order = jnp.zeros(steps + 1, jnp.int32).at[times.ravel()].set(jnp.arange(times.size, dtype=jnp.int32))
        return state, jnp.moveaxis(hidden, 2, 1).reshape(times.size, *xs.shape[1:2], config.features)[order[:steps]]

    def tokens_attended(self, state: SummaryState) -> jax.Array:
        # Reading the last token of a segment closes it: what it attended to is then counted as summaries.
        sets = jnp.minimum(state.segment - state.first_segment, self.capacity)
        return sets * self.config.summary_tokens + state.position - state.first_slot

    def attended(self, state: SummaryState, sown: Mapping[str, Any]) -> dict[str, Attention]:
        length = self.config.longest_segment
        sets = jnp.repeat(ring_index(state.segment, self.capacity), self.config.summary_tokens)
        tokens = state.segment * length + jnp.arange(length, dtype=jnp.int32)
        begin = jnp.concatenate([jnp.where(sets < 0, -1, sets * length), tokens])
        end = begin + jnp.concatenate([jnp.full_like(sets, length), jnp.ones_like(tokens)])
        return attended_by_layer(sown, begin, end, f": steps and, as blocks, summaries of {length} steps")

    # Segments

    def _length(self, state: SummaryState) -> jax.Array:
        """Steps of the open segment, drawn from the key in the state, so that learning replays it."""
        shortest, longest = self.config.shortest_segment, self.config.longest_segment
        if shortest == longest:
            return jnp.int32(shortest)
        return jax.random.randint(jax.random.fold_in(state.key, state.segment), (), shortest, longest + 1, jnp.int32)

    def _read_segment(
        self, state: SummaryState, time: jax.Array, tokens: jax.Array, resets: jax.Array, steps: int
    ) -> tuple[SummaryState, jax.Array, jax.Array, jax.Array]:
        """Reads inputs from `time` to the end of the open segment or of the inputs, whichever comes first.

        Args:
          tokens: `[B, T + 2 Lmax, D]`, padded by the longest segment on both sides.
          resets: bool `[B, T + 2 Lmax]`, likewise.
          steps: `T`.

        Returns:
          The state and time after it, the hidden states `[B, Lmax, D]` of the slots of the segment, and int32 `[Lmax]`,
          the time at which each slot was read in this call, `T` where it was not.
        """
        longest = self.config.longest_segment
        start = time - state.position + longest
        slots = jnp.arange(longest, dtype=jnp.int32)
        end = jnp.minimum(self._length(state), state.position + steps - time)
        new = (slots >= state.position) & (slots < end)
        following_time = time + end - state.position
        times = jnp.where(new, time - state.position + slots, steps)
        state, hidden = self._read(
            state,
            jax.lax.dynamic_slice_in_dim(tokens, start, longest, axis=1),
            jax.lax.dynamic_slice_in_dim(resets, start, longest, axis=1) & new[None],
            slots,
            end,
            write=lambda cache, written: jax.tree.map(
                lambda c, w: jnp.where(new[None, None, :, None], w, c), cache, written
            ),
        )
        return self._close_if_full(state, branch=False), following_time, hidden, times

    def _read(
        self,
        state: SummaryState,
        x: jax.Array,
        resets: jax.Array,
        slots: jax.Array,
        end: jax.Array,
        write: Callable[[KeysValues, KeysValues], KeysValues],
    ) -> tuple[SummaryState, jax.Array]:
        """Reads tokens into the open segment.

        Args:
          x: projected inputs `[B, K, D]`.
          resets: bool `[B, K]`.
          slots: int32 `[K]`, the slot of each token in the segment.
          end: int32, the first empty slot afterwards.
          write: puts the new keys and values into a layer's cache of the segment.

        Returns:
          The state, the segment not yet closed, and the hidden states `[B, K, D]`.
        """
        reset_slot = latest_reset(resets, slots)
        first_slot = jnp.maximum(reset_slot, state.first_slot[:, None])
        first_segment = jnp.where(reset_slot >= 0, state.segment, state.first_segment[:, None])
        positions = self._rotation(self._offset(state, first_segment) + slots[None])
        cached = jnp.arange(self.config.longest_segment, dtype=jnp.int32)[None, None]
        sees_summaries = self._visible_summaries(state, first_segment)
        sees_tokens = (cached <= slots[None, :, None]) & (cached >= first_slot[..., None])
        caches, weights = [], []
        for layer, summaries, cache in zip(self.layers, state.summaries, state.tokens, strict=True):
            queries, new = layer.project(x, positions)
            cache = write(cache, new)
            x, attention = layer.mix(x, queries, [Block(*summaries, sees_summaries), Block(*cache, sees_tokens)])
            caches.append(cache)
            weights.append(attention)
        self.sow("intermediates", "attention", jnp.stack(weights, axis=1))  # [B, layers, H, K, M * S + Lmax]
        state = state.replace(
            position=end,
            first_segment=first_segment[:, -1],
            first_slot=first_slot[:, -1],
            tokens=tuple(caches),
        )
        return state, self.final_norm(x)

    def _close_if_full(self, state: SummaryState, branch: bool) -> SummaryState:
        """Summarises the open segment if it has reached its length, and opens the next one.

        Args:
          branch: skip the work where the segment is not full. Right for acting, where it seldom is. In learning nearly
            every segment is, and differentiating a branch costs more than it saves.
        """
        full = state.position == self._length(state)
        size = self.config.summary_tokens
        start = state.segment % self.capacity * size
        kept = jax.tree.map(lambda c: jax.lax.dynamic_slice_in_dim(c, start, size, axis=2), state.summaries)
        # Only the new set goes through branch or selection: the rings themselves are then updated in place.
        if branch:
            written = nn.cond(full, SummaryMemory._summarise, lambda module, state: kept, self, state)
        else:
            written = jax.tree.map(lambda new, old: jnp.where(full, new, old), self._summarise(state), kept)
        return state.replace(
            segment=state.segment + full.astype(jnp.int32),
            position=jnp.where(full, 0, state.position),
            first_slot=jnp.where(full, 0, state.first_slot),
            summaries=tuple(write_at(cache, start, new) for cache, new in zip(state.summaries, written, strict=True)),
        )

    def _summarise(self, state: SummaryState) -> tuple[KeysValues, ...]:
        """The keys and values of the open segment's summary, per layer: `[B, H, S, d]`."""
        batch, index = state.first_slot.shape[0], jnp.arange(self.config.summary_tokens, dtype=jnp.int32)
        first_segment = state.first_segment[:, None]
        offset = self._offset(state, first_segment)
        cached = jnp.arange(self.config.longest_segment, dtype=jnp.int32)[None, None]
        sees_summaries = self._visible_summaries(state, first_segment)
        sees_tokens = (cached >= state.first_slot[:, None, None]) & (cached < state.position)
        causal = (index[None] <= index[:, None])[None]

        positions = self._rotation(offset + state.position + index[None])
        # The queries read the summaries, the segment and the queries before them.
        x = jnp.broadcast_to(self.summary_queries.astype(self.dtype)[None], (batch, *self.summary_queries.shape))
        for layer, summaries, cache in zip(self.layers, state.summaries, state.tokens, strict=True):
            queries, own = layer.project(x, positions)
            blocks = [Block(*summaries, sees_summaries), Block(*cache, sees_tokens), Block(*own, causal)]
            x, _ = layer.mix(x, queries, blocks)
        x = self.final_norm(x)

        # Their hidden states are input tokens from now on: read after the summaries before them.
        positions = jnp.broadcast_to(index[None], x.shape[:2])
        if self.accumulate and self.config.positions == "rotary":
            positions = positions + offset
        positions = self._rotation(positions)
        written = []
        for layer, summaries in zip(self.layers, state.summaries, strict=True):
            queries, own = layer.project(x, positions)
            blocks = [Block(*summaries, sees_summaries)] if self.accumulate else []
            x, _ = layer.mix(x, queries, [*blocks, Block(*own, causal)])
            written.append(own)
        return tuple(written)

    def _offset(self, state: SummaryState, first_segment: jax.Array) -> jax.Array:
        """The position of slot 0 of the open segment: after the summaries, int32 like `first_segment` `[B, K]`."""
        if self.config.positions == "segment":
            return jnp.full_like(first_segment, self.config.summary_tokens)
        # Summaries dropped for lack of room still count: positions never shift.
        sets = state.segment - first_segment
        return (sets if self.accumulate else jnp.minimum(sets, 1)) * self.config.summary_tokens

    def _rotation(self, positions: jax.Array) -> Rotation:
        """The rotation of tokens at `positions`, int32 `[B, K]`."""
        return rotation(positions, self.config.features // self.config.heads, self.config.rotary_base, self.dtype)

    def _visible_summaries(self, state: SummaryState, first_segment: jax.Array) -> jax.Array:
        """Which summary tokens an episode that began in `first_segment` `[B, K]` sees: bool `[B, K, M * S]`."""
        sets = jnp.repeat(ring_index(state.segment, self.capacity), self.config.summary_tokens)
        return sets[None, None] >= first_segment[..., None]
