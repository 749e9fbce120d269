"""What the attention memories share: transformer layers whose cache the caller owns, rotary positions, ring buffers.

Caches are laid out `[B, H, N, d]` (batch, heads, slots, head width): one-token decoding reads them in order, several
times faster on a CPU than `[B, N, H, d]`.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from memrl.memory.base import Attention, parameter_dtype
from memrl.memory.layers import dense, rms_norm


class KeysValues(NamedTuple):
    """Keys and values of one layer, each `[B, H, N, d]`."""

    keys: jax.Array
    values: jax.Array


class Block(NamedTuple):
    """A group of slots to attend to: keys and values `[B, H, N, d]`, `visible` bool, broadcastable to `[B, Q, N]`.

    `bias`, broadcastable to `[B, H, Q, N]`, is added to the logits.
    """

    keys: jax.Array
    values: jax.Array
    visible: jax.Array
    bias: jax.Array | None = None


Sink = Literal["none", "key", "key_value"]
"""Which parts of an attention layer's sink are learned."""


def check_transformer(config: Any) -> None:
    """Refuses transformer hyperparameters that cannot be built: raises a ValueError that names the field."""
    if config.rotary_base <= 1:
        raise ValueError(f"memory.rotary_base is {config.rotary_base}: it must be greater than 1.")
    if config.features % (2 * config.heads):
        raise ValueError(
            f"memory.features is {config.features} and memory.heads is {config.heads}: the width must be a multiple of "
            "twice the heads, because rotary positions pair up the features of a head."
        )


def attend(queries: jax.Array, blocks: Sequence[Block]) -> tuple[jax.Array, jax.Array]:
    """Softmax attention over several groups of slots at once, without joining them in memory.

    Args:
      queries: `[B, H, Q, d]`.
      blocks: groups of slots; the softmax runs over the slots of all of them.

    Returns:
      The attended values `[B, H, Q, d]`, exactly 0 for a query that sees no slot, and the float32 (float64 in, float64
      out) attention weights `[B, H, Q, sum of N]`.
    """
    accumulator = parameter_dtype(queries.dtype)
    queries = queries * jnp.asarray(queries.shape[-1] ** -0.5, queries.dtype)

    def masked_logits(block: Block) -> jax.Array:
        logits = jnp.einsum("bhqd,bhnd->bhqn", queries, block.keys).astype(accumulator)
        if block.bias is not None:
            logits = logits + block.bias.astype(accumulator)
        return jnp.where(block.visible[:, None], logits, -jnp.inf)

    logits = jnp.concatenate([masked_logits(block) for block in blocks], axis=-1)
    weights = softmax(logits)
    attended = jnp.zeros_like(queries)
    start = 0
    for block in blocks:
        size = block.keys.shape[2]
        part = jax.lax.slice_in_dim(weights, start, start + size, axis=-1).astype(queries.dtype)
        attended = attended + jnp.einsum("bhqn,bhnd->bhqd", part, block.values)
        start += size
    return attended, weights


def softmax(logits: jax.Array) -> jax.Array:
    """Softmax over the last axis: exactly 0, and so is the gradient, where all logits are minus infinity."""
    maximum = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    weights = jnp.exp(logits - jnp.where(jnp.isneginf(maximum), 0, maximum))
    total = weights.sum(axis=-1, keepdims=True)
    return weights / jnp.where(total == 0, 1, total)


class Rotation(NamedTuple):
    """Cosines and sines of rotary positions, each `[B, K, 1, 1, d / 2]`."""

    cos: jax.Array
    sin: jax.Array


def rotation(positions: jax.Array, width: int, base: float, dtype: jnp.dtype) -> Rotation:
    """The rotation of tokens at `positions` (RoPE, arXiv 2104.09864, eq. 34): pair `i` turns `base^(-2i/d)` a step.

    Args:
      positions: int `[B, K]`.
      width: features `d` of a head, even.
      base: the slowest pair takes about `2π base` steps to come round.
    """
    half = width // 2
    wide = parameter_dtype(dtype)  # angles are never computed in bfloat16
    frequencies = base ** (-jnp.arange(half, dtype=wide) / half)
    angles = positions[:, :, None, None, None].astype(wide) * frequencies[None, None, None, None, :]
    return Rotation(jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype))


def rotate(x: jax.Array, rotation: Rotation) -> jax.Array:
    """Rotates pairs of features of `x` `[B, K, .., H, d]`, in the two-halves layout of LLaMA.

    Scores of rotated queries and keys depend on differences of positions only.
    """
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = rotation
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def alibi(distances: jax.Array, heads: int, dtype: jnp.dtype) -> jax.Array:
    """Attention with linear biases (ALiBi, arXiv 2108.12409, section 3): `[1, H, Q, N]`, at least float32.

    Head `h = 1 .. H` lowers the logit of a token by `2^(-8 h / H)` for every step that it is back.

    Args:
      distances: int32 `[Q, N]`, steps that each slot is back from each query.
      heads: `H`.
    """
    wide = parameter_dtype(dtype)
    slopes = 2.0 ** (-8.0 * jnp.arange(1, heads + 1, dtype=wide) / heads)
    return -slopes[None, :, None, None] * distances.astype(wide)[None, None]


def finite(values: jax.Array) -> jax.Array:
    """The values of tokens with 0 for NaN and infinity.

    A masked slot has weight 0, and 0 x NaN is NaN. A bad token stays bad through its key, whose score is masked by
    selection; its value must not reach the tokens that cannot see it.
    """
    return jnp.where(jnp.isfinite(values), values, 0)


class TransformerLayer(nn.Module):
    """One pre-norm layer in the LLaMA form (RMSNorm, no biases, gated MLP), as in Memo (arXiv 2510.19732, A.4).

    Split in two, so that the memory between the halves decides what is attended to: `project` makes queries, keys and
    values of the new tokens, `mix` attends and applies the MLP.

    A `sink` (Sink-KV of ReLIC, arXiv 2410.02751) is one more slot per head, whose key and, where it says so, value are
    parameters, the value being 0 otherwise. Both start at 0. Its weight comes first among those of `mix`.
    """

    features: int
    heads: int
    mlp_features: int
    dtype: jnp.dtype
    sink: Sink = "none"

    def setup(self) -> None:
        linear = functools.partial(dense, dtype=self.dtype, use_bias=False)
        self.attention_norm = rms_norm(self.dtype)
        self.projection = linear(3 * self.features)
        self.attention_output = linear(self.features)
        self.mlp_norm = rms_norm(self.dtype)
        self.mlp_input = linear(2 * self.mlp_features)
        self.mlp_output = linear(self.features)
        slot = (nn.initializers.zeros, (self.heads, self.features // self.heads), parameter_dtype(self.dtype))
        if self.sink != "none":
            self.sink_key = self.param("sink_key", *slot)
        if self.sink == "key_value":
            self.sink_value = self.param("sink_value", *slot)

    def project(self, x: jax.Array, rotation: Rotation | None) -> tuple[jax.Array, KeysValues]:
        """Queries `[B, H, K, d]`, and keys and values, of the tokens `x` `[B, K, D]`.

        `rotation` gives the tokens their positions; `None` leaves them without any.
        """
        joined = self.projection(self.attention_norm(x))
        joined = joined.reshape(*x.shape[:2], 3, self.heads, self.features // self.heads)
        queries_keys, values = joined[:, :, :2], joined[:, :, 2]
        if rotation is not None:
            queries_keys = rotate(queries_keys, rotation)
        queries, keys = jnp.moveaxis(queries_keys, (2, 3), (0, 2))
        return queries, KeysValues(keys, finite(values.swapaxes(1, 2)))

    def mix(self, x: jax.Array, queries: jax.Array, blocks: Sequence[Block]) -> tuple[jax.Array, jax.Array]:
        """The output `[B, K, D]` of the layer for tokens `x` `[B, K, D]` that attend to `blocks`, and the weights."""
        x, weights = self.add_attention(x, queries, blocks)
        return self.add_mlp(x), weights

    def add_attention(self, x: jax.Array, queries: jax.Array, blocks: Sequence[Block]) -> tuple[jax.Array, jax.Array]:
        """The first half of `mix`."""
        attended, weights = attend(queries, [*self._sink_blocks(x.shape[0]), *blocks])
        return x + self.attention_output(attended.swapaxes(1, 2).reshape(x.shape)), weights

    def add_mlp(self, x: jax.Array) -> jax.Array:
        """The second half of `mix`."""
        gate, value = jnp.split(self.mlp_input(self.mlp_norm(x)), 2, axis=-1)
        return x + self.mlp_output(nn.gelu(gate) * value)

    def _sink_blocks(self, batch: int) -> list[Block]:
        """The sink, where there is one, as a block of one slot that every token sees."""
        if self.sink == "none":
            return []

        def slot(parameter: jax.Array) -> jax.Array:
            parameter = parameter.astype(self.dtype)[None, :, None]
            return jnp.broadcast_to(parameter, (batch, *parameter.shape[1:]))

        keys = slot(self.sink_key)
        values = slot(self.sink_value) if self.sink == "key_value" else jnp.zeros_like(keys)
        return [Block(keys, values, jnp.ones((1, 1, 1), bool))]


def empty_cache(batch: int, heads: int, slots: int, width: int, dtype: jnp.dtype) -> KeysValues:
    """Zeroed keys and values `[batch, heads, slots, width]`, two buffers, so that both can be donated."""
    shape = (batch, heads, slots, width)
    return KeysValues(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def write_at(cache: KeysValues, slot: jax.Array, new: KeysValues) -> KeysValues:
    """Writes `new` `[B, H, K, d]` at the slots `slot, ..., slot + K - 1`, in place inside a scan."""
    return jax.tree.map(lambda c, n: jax.lax.dynamic_update_slice_in_dim(c, n, slot, axis=2), cache, new)


def ring_index(written: jax.Array, slots: int) -> jax.Array:
    """Which item each slot of a ring holds after `written` items: int32 `[slots]`, negative where there is none yet.

    Item `i` is written to slot `i % slots`.
    """
    latest = written - 1
    return latest - (latest - jnp.arange(slots, dtype=jnp.int32)) % slots


def update_ring(ring: jax.Array, new: jax.Array, held: jax.Array, axis: int) -> jax.Array:
    """`ring` after several writes along `axis`: slot `i` takes item `held[i]` of `new`, if not negative."""
    shape = [1] * ring.ndim
    shape[axis] = -1
    return jnp.where((held >= 0).reshape(shape), jnp.take(new, held, axis=axis, mode="clip"), ring)


def latest_reset(resets: jax.Array, index: jax.Array) -> jax.Array:
    """The index of the latest reset at or before each of `K` consecutive tokens: int32 `[B, K]`, -1 for none.

    Args:
      resets: bool `[B, K]`.
      index: int32 `[K]`, the index of each token, increasing.
    """
    return jax.lax.cummax(jnp.where(resets, index[None, :], -1), axis=1)


def attended_by_layer(
    sown: Mapping[str, Any], begin: jax.Array, end: jax.Array, what: str = ""
) -> dict[str, Attention]:
    """What `Memory.attended` returns, of what one step of one environment sowed as `attention`.

    Args:
      sown: its `attention` are weights `[1, layers, H, 1, N]`.
      begin, end: of the slots, int32 `[N]`, the same in all layers; see `Attention`.
      what: what the slots are, to be added to the name of a layer.
    """
    weights = sown["attention"][0][0].mean(axis=1)[:, 0]  # [layers, N]
    return {f"layer {layer + 1}{what}": Attention(of_layer, begin, end) for layer, of_layer in enumerate(weights)}
