"""Transformers over the raw past: the full-context transformer (FCT).

Every step is a token whose keys and values are kept; a token attends to itself and to the `context - 1` tokens before
it that belong to its episode. With room for a whole trial this is the full-context baseline of Memo (arXiv 2510.19732,
section 4); with less it is a sliding window whose oldest tokens are dropped, positions unshifted.
"""

import dataclasses
from typing import Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from memrl.memory.attention import (
    Block,
    KeysValues,
    Rotation,
    TransformerLayer,
    check_transformer,
    empty_cache,
    latest_reset,
    ring_index,
    rms_norm,
    rotation,
    write_at,
)
from memrl.memory.base import Memory, MemoryConfig, parameter_dtype


class ContextState(struct.PyTreeNode):
    """State of a transformer over the raw past; `N` = tokens kept."""

    clock: jax.Array
    """Tokens read so far, int32, shared: the index of the next one."""
    first: jax.Array
    """The index at which the current episode began, int32 `[B]`."""
    tokens: tuple[KeysValues, ...]
    """Per layer, the ring of tokens `[B, H, N, d]`; token `i` is in slot `i % N`."""


@dataclasses.dataclass(frozen=True)
class FCT(MemoryConfig):
    """Full-context transformer: nothing is compressed, up to `context` steps are attended to."""

    features: int = 64
    """Width D of the transformer."""
    layers: int = 2
    """Transformer layers."""
    heads: int = 4
    """Attention heads; must divide the width."""
    mlp_features: int = 128
    """Hidden width of the gated MLP."""
    context: int = 100
    """Steps N attended to, the current one included; older ones are dropped."""
    positions: Literal["rotary", "none"] = "rotary"
    """rotary: steps since the trial began, as rotations (published); none: order is seen through causality alone."""
    rotary_base: float = 10_000.0
    """Base of the rotation frequencies; a small one tells neighbours apart better, a large one distant steps."""

    def __post_init__(self) -> None:
        check_transformer(self, ("layers", "heads", "mlp_features", "context"))

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return ContextTransformer(self, dtype)

    def with_capacity(self, steps: int) -> Self:
        return dataclasses.replace(self, context=steps)


class ContextTransformer(Memory):
    """See the module docstring. Inputs `[.., D_in]`, outputs `[.., config.features]`."""

    config: FCT
    dtype: jnp.dtype

    def setup(self) -> None:
        config = self.config
        self.input_projection = nn.Dense(config.features, dtype=self.dtype, param_dtype=parameter_dtype(self.dtype))
        self.layers = [
            TransformerLayer(config.features, config.heads, config.mlp_features, self.dtype)
            for _ in range(config.layers)
        ]
        self.final_norm = rms_norm(self.dtype)

    def initial_state(self, batch: int, key: jax.Array | None = None) -> ContextState:
        config = self.config
        width = config.features // config.heads
        return ContextState(
            clock=jnp.int32(0),
            first=jnp.zeros(batch, jnp.int32),
            tokens=tuple(
                empty_cache(batch, config.heads, config.context, width, self.dtype) for _ in range(config.layers)
            ),
        )

    def step(self, state: ContextState, x: jax.Array, reset: jax.Array) -> tuple[ContextState, jax.Array]:
        context = self.config.context
        first = jnp.where(reset, state.clock, state.first)
        # The new token takes the place of the one that is leaving the context, then everything is in the ring.
        visible = (ring_index(state.clock + 1, context)[None] >= first[:, None])[:, None]
        x = self.input_projection(x)[:, None]
        positions = self._rotation((state.clock - first)[:, None])
        caches, weights = [], []
        for layer, cache in zip(self.layers, state.tokens, strict=True):
            queries, new = layer.project(x, positions)
            cache = write_at(cache, state.clock % context, new)
            x, attention = layer.mix(x, queries, [Block(*cache, visible)])
            caches.append(cache)
            weights.append(attention)
        self.sow("intermediates", "attention", jnp.stack(weights, axis=1))  # [B, layers, H, 1, N]
        state = ContextState(clock=state.clock + 1, first=first, tokens=tuple(caches))
        return state, self.final_norm(x)[:, 0]

    def unroll(self, state: ContextState, xs: jax.Array, resets: jax.Array) -> tuple[ContextState, jax.Array]:
        context, steps = self.config.context, xs.shape[0]
        index = state.clock + jnp.arange(steps, dtype=jnp.int32)
        first = jnp.maximum(latest_reset(resets.swapaxes(0, 1), index), state.first[:, None])  # [B, T]
        oldest = jnp.maximum(first, index[None] - (context - 1))[..., None]  # [B, T, 1]
        sees_carried = ring_index(state.clock, context)[None, None] >= oldest
        sees_new = (index[None, None] >= oldest) & (index[None, None] <= index[None, :, None])

        # The ring afterwards: slots whose latest token is new take it, the others stay.
        held = ring_index(state.clock + steps, context) - state.clock
        taken = (held >= 0)[None, None, :, None]
        source = jnp.maximum(held, 0)

        x = self.input_projection(xs).swapaxes(0, 1)
        positions = self._rotation(index[None] - first)
        caches, weights = [], []
        for layer, cache in zip(self.layers, state.tokens, strict=True):
            queries, new = layer.project(x, positions)
            x, attention = layer.mix(x, queries, [Block(*cache, sees_carried), Block(*new, sees_new)])
            caches.append(jax.tree.map(lambda old, n: jnp.where(taken, n[:, :, source], old), cache, new))
            weights.append(attention)
        self.sow("intermediates", "attention", jnp.stack(weights, axis=1))  # [B, layers, H, T, N + T]
        state = ContextState(clock=state.clock + steps, first=first[:, -1], tokens=tuple(caches))
        return state, self.final_norm(x).swapaxes(0, 1)

    def tokens_attended(self, state: ContextState) -> jax.Array:
        return jnp.minimum(state.clock - state.first, self.config.context)

    def _rotation(self, age: jax.Array) -> Rotation | None:
        """The rotation of tokens `age` (int32 `[B, K]`) steps into their episode; `None` for no positions."""
        if self.config.positions == "none":
            return None
        return rotation(age, self.config.features // self.config.heads, self.config.rotary_base, self.dtype)
