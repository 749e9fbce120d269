"""The full-context transformer (FCT): nothing is compressed.

Every step is a token whose keys and values are kept; a token attends to itself and to the `context - 1` tokens before
it that belong to its episode (see `memrl.memory.window`). With room for a whole trial this is the full-context baseline
of Memo (arXiv 2510.19732, section 4) and, with a sink, the transformer of ReLIC (arXiv 2410.02751). With less it is a
sliding window whose oldest tokens are dropped, positions unshifted.
"""

import dataclasses
from typing import Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from memrl.memory.attention import Block, KeysValues, Sink, TransformerLayer, alibi, check_transformer, rotation
from memrl.memory.base import Memory, MemoryConfig, parameter_dtype
from memrl.memory.layers import dense, rms_norm
from memrl.memory.window import View, WindowMemory, WindowState

Positions = Literal["rotary", "learned", "alibi", "none"]


@dataclasses.dataclass(frozen=True)
class FCT(MemoryConfig):
    """Full-context transformer: nothing is compressed, up to `context` steps are attended to.

    With `a` steps of the episode before the token and logits `q · k / √d` in each head `h` of `H`:

        rotary    pairs of features of q and k are turned by `a` (arXiv 2104.09864)
        learned   x ← x + table[min(a, learned_positions - 1)], before the first layer
        alibi     logit of the token `n` steps back ← logit - n 2^(-8 h / H), h = 1 .. H (arXiv 2108.12409, section 3)
        none      only the mask distinguishes before from after

    With rotary positions, ALiBi and none only distances count: a window that slides over a long trial looks like one at
    its beginning. Learned positions count from the beginning of the trial and end with the table, whose last row all
    later steps share. For numbers of heads that are no power of two, the code published with ALiBi interpolates between
    slopes; here they follow the formula.

    A sink (ReLIC, arXiv 2410.02751, its "Sink-KV") is one more slot in the softmax of each head. Every token sees it,
    and it takes the attention that no token deserves:

        softmax([q · k_s, q · k_1, ..] / √d) [v_s, v_1, ..]        k_s and v_s start at 0

    Its key has no position: it is not turned by rotary positions, as published, so that a turned query meets it
    differently as the trial goes on; and ALiBi does not lower it.
    """

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
    positions: Positions = "rotary"
    """How positions are encoded. rotary: steps since the trial began, as rotations (published); learned: the same
    steps, as rows of a table; alibi: attention falls with the distance; none: order is seen through causality alone."""
    rotary_base: float = 10_000.0
    """Base of the rotation frequencies; a small one separates neighbouring steps better, a large one distant steps."""
    learned_positions: int = 100
    """Rows of the table of learned positions, best as many as a training trial has steps; later ones share the last."""
    sink: Sink = "none"
    """Whether there is one more slot that every token sees. key: its key is learned and its value 0; key_value: both
    are learned; none: there is none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_transformer(self)

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return ContextTransformer(self, dtype)

    def with_capacity(self, steps: int) -> Self:
        return dataclasses.replace(self, context=steps)


class ContextTransformer(WindowMemory):
    """See the module docstring. Inputs `[.., D_in]`, outputs `[.., config.features]`."""

    config: FCT
    dtype: jnp.dtype

    def setup(self) -> None:
        config = self.config
        self.input_projection = dense(config.features, self.dtype)
        if config.positions == "learned":
            self.position_table = self.param(
                "position_table",
                nn.initializers.normal(0.02),
                (config.learned_positions, config.features),
                parameter_dtype(self.dtype),
            )
        self.layers = [
            TransformerLayer(config.features, config.heads, config.mlp_features, self.dtype, config.sink)
            for _ in range(config.layers)
        ]
        self.final_norm = rms_norm(self.dtype)

    def items(self, state: WindowState) -> jax.Array:
        items = super().items(state)
        return items if self.config.sink == "none" else jnp.concatenate([jnp.array([-1], jnp.int32), items])

    def _read(
        self, inputs: jax.Array, tokens: tuple[KeysValues, ...], view: View
    ) -> tuple[jax.Array, tuple[KeysValues, ...]]:
        config = self.config
        x = self.input_projection(inputs)
        turn, biases = None, [None] * len(view.distances)
        match config.positions:
            case "rotary":
                turn = rotation(view.age, config.features // config.heads, config.rotary_base, self.dtype)
            case "learned":
                row = jnp.minimum(view.age, config.learned_positions - 1)
                x = x + self.position_table.astype(self.dtype)[row]
            case "alibi":
                biases = [alibi(distances, config.heads, self.dtype) for distances in view.distances]

        caches, weights = [], []
        for layer, cache in zip(self.layers, tokens, strict=True):
            queries, new = layer.project(x, turn)
            groups, cache = view.join(cache, new)
            blocks = [
                Block(keys, values, visible, bias)
                for (keys, values), visible, bias in zip(groups, view.visible, biases, strict=True)
            ]
            x, attention = layer.mix(x, queries, blocks)
            caches.append(cache)
            weights.append(attention)
        # [B, layers, H, K, slots]: the sink if there is one, the ring or what precedes the span, and the new tokens.
        self.sow("intermediates", "attention", jnp.stack(weights, axis=1))
        return self.final_norm(x), tuple(caches)
