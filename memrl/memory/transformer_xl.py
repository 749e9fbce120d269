"""Transformer-XL (TrXL, arXiv 1901.02860) and its gated form for reinforcement learning (GTrXL, arXiv 1910.06764).

Both attend by content and by distance. With queries `q_i`, keys `k_j`, the sinusoids `R_n` of a distance of `n` steps
and per head the vectors `u` and `v`, which all layers share, the logits are (1901.02860, section 3.3)

    (q_i · k_j + q_i · W_R R_(i-j) + u · k_j + v · W_R R_(i-j)) / √d

In no term does it matter how long ago the episode began.

The recurrence over segments is a window (see `memrl.memory.window`): in every layer, each token attends to the inputs
of that layer at exactly the latest `context` steps of its episode. So does the published code when evaluating; in
training, the later tokens of a segment see more steps than the earlier ones.

Published training differentiates one segment at a time and takes what is carried over from earlier ones as constant.
What is differentiated at once is here an unroll, and the learner takes the state before it as constant. The memory
itself stops no gradient: how far gradients reach is a matter of the window, not of how time was cut.

The state holds keys and values. The published code holds the hidden states of which they are projections, and projects
all of them again at every step: the outputs are the same, but `W_k` and `W_v` also get gradients from carried tokens.
Here they get them from the tokens of the unroll alone, and acting does not grow with window times width squared.
"""

import dataclasses
from collections.abc import Sequence
from typing import Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from memrl.memory.attention import Block, KeysValues, attend, finite
from memrl.memory.base import Memory, MemoryConfig, parameter_dtype
from memrl.memory.layers import dense, layer_norm
from memrl.memory.window import View, WindowMemory

EPSILON = 1e-5
"""Epsilon of the layer normalisations."""


@dataclasses.dataclass(frozen=True)
class TrXL(MemoryConfig):
    """Transformer-XL (arXiv 1901.02860): layers normalised after the residual sum, attention with relative positions.

    With relative attention as in the module docstring, one layer is (section 3.3; its feed-forward as in its code)

        a = LayerNorm(x + W_o attention(x))
        y = LayerNorm(a + W_2 ReLU(W_1 a + b_1) + b_2)

    without the dropout.
    """

    features: int = 64
    """Width D of the transformer; even."""
    layers: int = 2
    """Transformer layers."""
    heads: int = 4
    """Attention heads; must divide the width."""
    mlp_features: int = 128
    """Hidden width of the feed-forward part."""
    context: int = 100
    """Steps N attended to in each layer, the current one included; older ones are dropped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features % self.heads or self.features % 2:
            raise ValueError(
                f"memory.features is {self.features} and memory.heads is {self.heads}: the width must be a multiple of "
                "the heads, and even, because the sinusoids of a distance come in pairs."
            )

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return TransformerXL(self, gate_bias=None, dtype=dtype)

    def with_capacity(self, steps: int) -> Self:
        return dataclasses.replace(self, context=steps)


@dataclasses.dataclass(frozen=True)
class GTrXL(TrXL):
    """Gated Transformer-XL (arXiv 1910.06764): normalised inputs of the submodules, gates instead of residual sums.

    With relative attention as in the module docstring, one layer is (section 3)

        a = g_1(x, ReLU(W_o attention(LayerNorm(x))))
        y = g_2(a, ReLU(W_2 ReLU(W_1 LayerNorm(a) + b_1) + b_2))

    with gates of the GRU type, of which the attention and the feed-forward part have one each,

        r = σ(W_r y + U_r x)
        z = σ(W_z y + U_z x - b)                b starts at `gate_bias`
        h = tanh(W_g y + U_g (r ⊙ x))
        g(x, y) = (1 - z) ⊙ x + z ⊙ h
    """

    gate_bias: float = 2.0
    """Initial bias of the gates; above 0 each layer starts close to the identity, that is, without memory."""

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return TransformerXL(self, gate_bias=self.gate_bias, dtype=dtype)


def sinusoids(distances: jax.Array, features: int, dtype: jnp.dtype) -> jax.Array:
    """The encoding `R` of distances (int32 `[N]`), `[N, features]`: sines, then cosines, of falling frequencies."""
    wide = parameter_dtype(dtype)  # angles are never computed in bfloat16
    frequencies = 10_000.0 ** (-jnp.arange(0, features, 2, dtype=wide) / features)
    angles = distances[:, None].astype(wide) * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).astype(dtype)


def in_order_of_time(scores: jax.Array) -> jax.Array:
    """From scores by distance to scores of tokens.

    Args:
      scores: `[B, H, K, N]`, for each of `K` consecutive tokens the scores of the distances `N - 1, .., 0`.

    Returns:
      `[B, H, K, N + K]`: for each token the scores of the `N` tokens before the first of them and of the `K` tokens.
      Those of tokens further back than `N - 1` steps or ahead have no meaning.
    """
    *batch, queries, distances = scores.shape
    # Row k has to move left by K - 1 - k. Rows that are one element too long, read as if they were not, do that.
    padded = jnp.pad(scores, ((0, 0),) * (scores.ndim - 1) + ((queries + 1, 0),))
    return padded.reshape(*batch, -1)[..., queries:].reshape(*batch, queries, distances + queries)


class TransformerXL(WindowMemory):
    """See the module docstring. Inputs `[.., D_in]`, outputs `[.., config.features]`."""

    config: TrXL
    gate_bias: float | None
    """Initial bias of the gates; `None`: the layers of Transformer-XL, without gates."""
    dtype: jnp.dtype

    def setup(self) -> None:
        config = self.config
        self.input_projection = dense(config.features, self.dtype)
        sizes = (config.features, config.heads, config.mlp_features, self.dtype)
        self.layers = [
            ResidualLayer(*sizes) if self.gate_bias is None else GatedLayer(*sizes, self.gate_bias)
            for _ in range(config.layers)
        ]
        size = (config.heads, config.features // config.heads)
        per_head = (nn.initializers.zeros, size, parameter_dtype(self.dtype))
        self.content_bias = self.param("content_bias", *per_head)  # u
        self.distance_bias = self.param("distance_bias", *per_head)  # v

    def _read(
        self, inputs: jax.Array, tokens: tuple[KeysValues, ...], view: View
    ) -> tuple[jax.Array, tuple[KeysValues, ...]]:
        config = self.config
        x = self.input_projection(inputs)
        distances = sinusoids(jnp.arange(config.context - 1, -1, -1, dtype=jnp.int32), config.features, self.dtype)
        content_bias, distance_bias = (
            bias.astype(self.dtype)[None, :, None] for bias in (self.content_bias, self.distance_bias)
        )
        caches, weights = [], []
        for layer, cache in zip(self.layers, tokens, strict=True):
            queries, new = layer.project(x)
            groups, cache = view.join(cache, new)
            by_distance = layer.attention.distance_logits(queries + distance_bias, distances)
            biases = view.arrange(in_order_of_time(by_distance))
            blocks = [Block(*group, *seen) for group, *seen in zip(groups, view.visible, biases, strict=True)]
            x, attention = layer.mix(x, queries + content_bias, blocks)
            caches.append(cache)
            weights.append(attention)
        # [B, layers, H, K, slots]: the ring or what precedes the span, and when learning the new tokens.
        self.sow("intermediates", "attention", jnp.stack(weights, axis=1))
        return x, tuple(caches)


class RelativeAttention(nn.Module):
    """The projections of attention with relative positions, without biases."""

    features: int
    heads: int
    dtype: jnp.dtype

    def setup(self) -> None:
        self.projection = dense(3 * self.features, self.dtype, use_bias=False)
        self.distance_projection = dense(self.features, self.dtype, use_bias=False)  # W_R
        self.output = dense(self.features, self.dtype, use_bias=False)

    def project(self, x: jax.Array) -> tuple[jax.Array, KeysValues]:
        """Queries `[B, H, K, d]`, and keys and values, of the tokens `x` `[B, K, D]`."""
        joined = self.projection(x).reshape(*x.shape[:2], 3, self.heads, self.features // self.heads)
        queries, keys, values = jnp.moveaxis(joined, (2, 3), (0, 2))
        return queries, KeysValues(keys, finite(values))

    def distance_logits(self, queries: jax.Array, distances: jax.Array) -> jax.Array:
        """The part of the logits of `queries` `[B, H, K, d]` that distance makes, for sinusoids `[N, D]`: `[.., N]`."""
        width = self.features // self.heads
        keys = self.distance_projection(distances).reshape(-1, self.heads, width)
        return jnp.einsum("bhqd,nhd->bhqn", queries * jnp.asarray(width**-0.5, self.dtype), keys)

    def __call__(self, queries: jax.Array, blocks: Sequence[Block]) -> tuple[jax.Array, jax.Array]:
        """What the queries attend to `[B, K, D]`, projected, and the attention weights."""
        attended, weights = attend(queries, blocks)
        attended = attended.swapaxes(1, 2)
        return self.output(attended.reshape(*attended.shape[:2], self.features)), weights


class FeedForward(nn.Module):
    """`W_2 ReLU(W_1 x + b_1) + b_2`."""

    features: int
    hidden_features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = nn.relu(dense(self.hidden_features, self.dtype, name="hidden")(x))
        return dense(self.features, self.dtype, name="output")(hidden)


class ResidualLayer(nn.Module):
    """A layer of Transformer-XL: see `TrXL`. `project` and `mix` as in `memrl.memory.attention.TransformerLayer`."""

    features: int
    heads: int
    mlp_features: int
    dtype: jnp.dtype

    def setup(self) -> None:
        self.attention = RelativeAttention(self.features, self.heads, self.dtype)
        self.attention_norm = layer_norm(self.dtype, EPSILON)
        self.mlp = FeedForward(self.features, self.mlp_features, self.dtype)
        self.mlp_norm = layer_norm(self.dtype, EPSILON)

    def project(self, x: jax.Array) -> tuple[jax.Array, KeysValues]:
        return self.attention.project(x)

    def mix(self, x: jax.Array, queries: jax.Array, blocks: Sequence[Block]) -> tuple[jax.Array, jax.Array]:
        attended, weights = self.attention(queries, blocks)
        x = self.attention_norm(x + attended)
        return self.mlp_norm(x + self.mlp(x)), weights


class GatedLayer(nn.Module):
    """A layer of GTrXL: see `GTrXL`. `project` and `mix` as in `memrl.memory.attention.TransformerLayer`."""

    features: int
    heads: int
    mlp_features: int
    dtype: jnp.dtype
    gate_bias: float

    def setup(self) -> None:
        self.attention_norm = layer_norm(self.dtype, EPSILON)
        self.attention = RelativeAttention(self.features, self.heads, self.dtype)
        self.attention_gate = Gate(self.features, self.gate_bias, self.dtype)
        self.mlp_norm = layer_norm(self.dtype, EPSILON)
        self.mlp = FeedForward(self.features, self.mlp_features, self.dtype)
        self.mlp_gate = Gate(self.features, self.gate_bias, self.dtype)

    def project(self, x: jax.Array) -> tuple[jax.Array, KeysValues]:
        return self.attention.project(self.attention_norm(x))

    def mix(self, x: jax.Array, queries: jax.Array, blocks: Sequence[Block]) -> tuple[jax.Array, jax.Array]:
        attended, weights = self.attention(queries, blocks)
        x = self.attention_gate(x, nn.relu(attended))
        return self.mlp_gate(x, nn.relu(self.mlp(self.mlp_norm(x)))), weights


class Gate(nn.Module):
    """The gate `g(x, y)` of `GTrXL`; its openness `z` is sown as `update`."""

    features: int
    initial_bias: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        def linear(name: str, parts: int) -> nn.Dense:
            return dense(parts * self.features, self.dtype, use_bias=False, name=name)

        bias = self.param(
            "bias", nn.initializers.constant(self.initial_bias), (self.features,), parameter_dtype(self.dtype)
        )
        reset_y, update_y, candidate_y = jnp.split(linear("from_y", 3)(y), 3, axis=-1)  # W_r, W_z, W_g
        reset_x, update_x = jnp.split(linear("from_x", 2)(x), 2, axis=-1)  # U_r, U_z
        reset = nn.sigmoid(reset_y + reset_x)
        update = nn.sigmoid(update_y + update_x - bias.astype(self.dtype)[None, None])
        candidate = nn.tanh(candidate_y + linear("from_reset_x", 1)(reset * x))  # U_g
        self.sow("intermediates", "update", update)
        return (1 - update) * x + update * candidate
