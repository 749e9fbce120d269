"""A window over the raw past: what transformers that keep every token of the latest `context` steps share.

Every step is a token whose keys and values are kept, per layer, until `context` newer ones have come. A token attends
to itself and to the `context - 1` tokens before it that belong to its episode. Keys and values are made once: a token
that has left the window lives on in those that attended to it, so that `l` layers see `l (context - 1)` steps back.

Acting writes one slot of a ring per layer and reads the ring, so that a step costs as much as the window is long.
Learning cuts the new tokens into spans as long as the window, each of which sees itself and the one before it: the cost
is that of the steps times the window, not of their square.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from memrl.memory.attention import (
    KeysValues,
    attended_by_layer,
    empty_cache,
    latest_reset,
    ring_index,
    update_ring,
    write_at,
)
from memrl.memory.base import Attention, Memory


class WindowState(struct.PyTreeNode):
    """State of a transformer over the raw past; `N` = tokens kept."""

    clock: jax.Array
    """Tokens read so far, int32, shared: the index of the next one."""
    first: jax.Array
    """The index at which the current episode began, int32 `[B]`."""
    tokens: tuple[KeysValues, ...]
    """Per layer, the ring of tokens `[B, H, N, d]`; token `i` is in slot `i % N`."""


class Spans(NamedTuple):
    """`T` new tokens, cut into `S` spans of `K` tokens, the last one filled up; one span if all fit into the window."""

    indices: jax.Array
    """The index of each new token, int32 `[S K]`."""
    first: jax.Array
    """The index at which the episode of each began, int32 `[B, S K]`."""
    number: int
    """Number of spans `S`."""
    steps: int
    """Number of new tokens `T`, without what fills up the last span."""
    window: int
    """Steps N that a token sees, itself included."""

    def fold(self, x: jax.Array) -> jax.Array:
        """`[B, S K, ..]`, or `[1, S K, ..]`, as `[B S, K, ..]`: spans side by side."""
        return x.reshape(x.shape[0] * self.number, -1, *x.shape[2:])

    def unfold(self, x: jax.Array) -> jax.Array:
        """The inverse of `fold`."""
        return x.reshape(x.shape[0] // self.number, -1, *x.shape[2:])

    def visible(self) -> list[jax.Array]:
        """Which of the `N` tokens before its span, and which of its span, each token sees: bool `[B S, K, n]` each."""
        own = self.indices.reshape(self.number, 1, -1)
        before = own[..., :1] - jnp.arange(self.window, 0, -1, dtype=jnp.int32)[None, None]
        oldest = jnp.maximum(self.first, self.indices[None] - (self.window - 1))
        oldest = oldest.reshape(-1, self.number, own.shape[-1], 1)
        seen = [(tokens[None] >= oldest) & (tokens[None] <= own.swapaxes(1, 2)[None]) for tokens in (before, own)]
        return [part.reshape(-1, *part.shape[2:]) for part in seen]

    def join(self, ring: KeysValues, new: KeysValues) -> tuple[list[KeysValues], KeysValues]:
        """The two groups of slots whose visibility `visible` returns, in order of time, and the ring afterwards.

        Args:
          ring: `[B, H, N, d]`, before the first token.
          new: `[B S, H, K, d]`.
        """
        held = ring_index(self.indices[0] + self.steps, self.window) - self.indices[0]

        def before(ring: jax.Array, new: jax.Array) -> jax.Array:
            carried = jnp.roll(ring, -(self.indices[0] % self.window), axis=2)[:, None]
            spans = new.reshape(-1, self.number, *new.shape[1:])
            carried = carried if self.number == 1 else jnp.concatenate([carried, spans[:, :-1]], axis=1)
            return carried.reshape(-1, *ring.shape[1:])

        def after(ring: jax.Array, new: jax.Array) -> jax.Array:
            new = new.reshape(-1, self.number, *new.shape[1:]).swapaxes(1, 2)
            return update_ring(ring, new.reshape(*ring.shape[:2], -1, ring.shape[3]), held, axis=2)

        return [jax.tree.map(before, ring, new), new], jax.tree.map(after, ring, new)


def cut(clock: jax.Array, first: jax.Array, xs: jax.Array, resets: jax.Array, window: int) -> tuple[Spans, jax.Array]:
    """Cuts new tokens into spans.

    Args:
      clock: the index of the first of them, int32.
      first: the index at which the episode of the token before them began, int32 `[B]`.
      xs: `[T, B, D]`.
      resets: bool `[T, B]`.
      window: steps N that a token sees.

    Returns:
      The spans, and `xs` filled up, `[B, S K, D]`.
    """
    steps = xs.shape[0]
    number = -(-steps // window)
    padding = 0 if number == 1 else number * window - steps
    xs, resets = (jnp.pad(a.swapaxes(0, 1), ((0, 0), (0, padding)) + ((0, 0),) * (a.ndim - 2)) for a in (xs, resets))
    index = clock + jnp.arange(steps + padding, dtype=jnp.int32)
    first = jnp.maximum(latest_reset(resets, index), first[:, None])
    return Spans(index, first, number, steps, window), xs


@dataclasses.dataclass(frozen=True)
class View:
    """What `K` new tokens see: one or two groups of slots, the same in every layer. `B` includes the spans."""

    age: jax.Array
    """Steps of its episode before each new token, int32 `[B, K]`."""
    distances: list[jax.Array]
    """Per group, how many steps each slot is back from each new token, int32 `[K, n]`; less than 0 for later ones."""
    visible: list[jax.Array]
    """Per group, which slots each new token sees, bool `[B, K, n]`."""
    join: Callable[[KeysValues, KeysValues], tuple[list[KeysValues], KeysValues]]
    """The groups of a layer and its ring afterwards, from the ring before and the new keys and values."""
    arrange: Callable[[jax.Array], list[jax.Array]]
    """Scores of the `N` tokens before the new ones and of these, in order of time `[.., N + K]`, group by group."""


class WindowMemory(Memory):
    """The contract for a subclass that says with `_read` what its layers do. `config` has the sizes named here."""

    config: Any
    dtype: jnp.dtype

    def initial_state(self, batch: int, key: jax.Array | None = None) -> WindowState:
        config = self.config
        width = config.features // config.heads
        return WindowState(
            clock=jnp.int32(0),
            first=jnp.zeros(batch, jnp.int32),
            tokens=tuple(
                empty_cache(batch, config.heads, config.context, width, self.dtype) for _ in range(config.layers)
            ),
        )

    def step(self, state: WindowState, x: jax.Array, reset: jax.Array) -> tuple[WindowState, jax.Array]:
        context = self.config.context
        first = jnp.where(reset, state.clock, state.first)
        items = ring_index(state.clock + 1, context)

        def join(cache: KeysValues, new: KeysValues) -> tuple[list[KeysValues], KeysValues]:
            # The new token takes the place of the one that is leaving the context, then everything is in the ring.
            cache = write_at(cache, state.clock % context, new)
            return [cache], cache

        view = View(
            age=(state.clock - first)[:, None],
            distances=[(state.clock - items)[None]],
            visible=[(items[None] >= first[:, None])[:, None]],
            join=join,
            arrange=lambda scores: [jnp.roll(scores[..., 1:], state.clock + 1, axis=-1)],
        )
        hidden, tokens = self._read(x[:, None], state.tokens, view)
        return WindowState(clock=state.clock + 1, first=first, tokens=tokens), hidden[:, 0]

    def unroll(self, state: WindowState, xs: jax.Array, resets: jax.Array) -> tuple[WindowState, jax.Array]:
        context = self.config.context
        spans, inputs = cut(state.clock, state.first, xs, resets, context)
        time = jnp.arange(spans.indices.size // spans.number, dtype=jnp.int32)[:, None]
        view = View(
            age=spans.fold(spans.indices[None] - spans.first),
            distances=[time + jnp.arange(context, 0, -1, dtype=jnp.int32)[None], time - time.T],
            visible=spans.visible(),
            join=spans.join,
            arrange=lambda scores: [scores[..., :context], scores[..., context:]],
        )
        hidden, tokens = self._read(spans.fold(inputs), state.tokens, view)
        state = WindowState(clock=state.clock + spans.steps, first=spans.first[:, spans.steps - 1], tokens=tokens)
        return state, spans.unfold(hidden)[:, : spans.steps].swapaxes(0, 1)

    def tokens_attended(self, state: WindowState) -> jax.Array:
        return jnp.minimum(state.clock - state.first, self.config.context)

    def items(self, state: WindowState) -> jax.Array:
        """The index of the token in each slot that the next step sees, int32; negative where there is none."""
        return ring_index(state.clock + 1, self.config.context)

    def attended(self, state: WindowState, sown: Mapping[str, Any]) -> dict[str, Attention]:
        items = self.items(state)
        return attended_by_layer(sown, items, items + 1)

    def _read(
        self, inputs: jax.Array, tokens: tuple[KeysValues, ...], view: View
    ) -> tuple[jax.Array, tuple[KeysValues, ...]]:
        """Runs all layers on inputs `[B, K, D_in]`; returns the outputs `[B, K, D]` and the rings afterwards.

        `B` includes the spans that the new tokens were cut into; the rings do not have them.
        """
        raise NotImplementedError
