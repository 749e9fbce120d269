"""A window over the raw past: what transformers that keep every token of the latest `context` steps share.

Every step is a token whose keys and values are kept, per layer, until `context` newer ones have come. A token attends
to itself and to the `context - 1` tokens before it that belong to its episode. Keys and values are made once: a token
that has left the window lives on in those that attended to it, so that `l` layers see `l (context - 1)` steps back.

Acting writes one slot of a ring per layer and reads the ring, so that a step costs as much as the window is long.
Learning reads the ring and all new tokens at once.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from memrl.memory.attention import KeysValues, empty_cache, latest_reset, ring_index, write_at
from memrl.memory.base import Memory


class WindowState(struct.PyTreeNode):
    """State of a transformer over the raw past; `N` = tokens kept."""

    clock: jax.Array
    """Tokens read so far, int32, shared: the index of the next one."""
    first: jax.Array
    """The index at which the current episode began, int32 `[B]`."""
    tokens: tuple[KeysValues, ...]
    """Per layer, the ring of tokens `[B, H, N, d]`; token `i` is in slot `i % N`."""


@dataclasses.dataclass(frozen=True)
class View:
    """What `K` new tokens see: one or two groups of slots, the same in every layer."""

    index: jax.Array
    """The index of each new token, int32 `[K]`."""
    age: jax.Array
    """Steps of its episode before each new token, int32 `[B, K]`."""
    items: list[jax.Array]
    """Per group, the index of the token in each slot, int32 `[n]`."""
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
            index=state.clock[None],
            age=(state.clock - first)[:, None],
            items=[items],
            visible=[(items[None] >= first[:, None])[:, None]],
            join=join,
            arrange=lambda scores: [jnp.roll(scores[..., 1:], state.clock + 1, axis=-1)],
        )
        hidden, tokens = self._read(x[:, None], state.tokens, view)
        return WindowState(clock=state.clock + 1, first=first, tokens=tokens), hidden[:, 0]

    def unroll(self, state: WindowState, xs: jax.Array, resets: jax.Array) -> tuple[WindowState, jax.Array]:
        context, steps = self.config.context, xs.shape[0]
        index = state.clock + jnp.arange(steps, dtype=jnp.int32)
        first = jnp.maximum(latest_reset(resets.swapaxes(0, 1), index), state.first[:, None])  # [B, T]
        oldest = jnp.maximum(first, index[None] - (context - 1))[..., None]  # [B, T, 1]
        carried = ring_index(state.clock, context)

        # The ring afterwards: slots whose latest token is new take it, the others stay.
        held = ring_index(state.clock + steps, context) - state.clock
        taken = (held >= 0)[None, None, :, None]
        source = jnp.maximum(held, 0)

        view = View(
            index=index,
            age=index[None] - first,
            items=[carried, index],
            visible=[
                carried[None, None] >= oldest,
                (index[None, None] >= oldest) & (index[None, None] <= index[None, :, None]),
            ],
            join=lambda cache, new: (
                [cache, new],
                jax.tree.map(lambda old, n: jnp.where(taken, n[:, :, source], old), cache, new),
            ),
            arrange=lambda scores: [jnp.roll(scores[..., :context], state.clock, axis=-1), scores[..., context:]],
        )
        hidden, tokens = self._read(xs.swapaxes(0, 1), state.tokens, view)
        return WindowState(clock=state.clock + steps, first=first[:, -1], tokens=tokens), hidden.swapaxes(0, 1)

    def tokens_attended(self, state: WindowState) -> jax.Array:
        return jnp.minimum(state.clock - state.first, self.config.context)

    def _read(
        self, inputs: jax.Array, tokens: tuple[KeysValues, ...], view: View
    ) -> tuple[jax.Array, tuple[KeysValues, ...]]:
        """Runs all layers on inputs `[B, K, D_in]`; returns the outputs `[B, K, D]` and the rings afterwards."""
        raise NotImplementedError
