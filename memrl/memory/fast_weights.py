"""Fast weights: memories whose state is a matrix per head, written by outer products and read by matrix products.

Each step writes a value `v` under a key `k` into a matrix `S` `[d, d]` (rows: value, columns: key) and reads it with a
query `q`. What differs is how old content makes room:

    linear_attention    S ← S + v φ(k)ᵀ                         nothing is forgotten
    mlstm               S ← f S + i v kᵀ                        everything fades alike
    shm                 S ← S ⊙ C + η v kᵀ                      every element fades or grows by itself (`shm.py`)
    deltanet            S ← S (I - β k kᵀ) + β v kᵀ             what was stored under `k` is replaced
    gated_deltanet      S ← α S (I - β k kᵀ) + β v kᵀ           both

All share one block, repeated `layers` times, between an input projection and a final RMSNorm: `x ← x + W_o y`, where
`y` is what the heads, side by side, read given `x̄ = RMSNorm(x)`. The gates of the second layer thereby see what the
first one read: what is written can depend on what is stored, which in one layer it cannot. The published blocks differ
around the memory (LayerNorm, MLPs); this is what they have in common. The short convolution in front of the last three
is theirs: `conv` is `memrl.memory.convolution.ShortConvolution`, `[q, k, v]` what enters the memory.

Learning runs in chunks of `chunk_length` steps, and only the matrices between chunks are kept for the backward pass:
memory grows with the inputs, not with a matrix per step. Within a chunk all but SHM are attention between its tokens,
masked by episode and weighted by the decay between them, plus what is read from the matrix before the chunk. SHM has no
such form and goes step by step. Acting is a chunk of one step, so that the two agree by construction.

CPU time of one core in milliseconds, forward and backward, 1024 steps of 16 environments, one head of width 32 or 128;
in brackets the same step by step:

    width   linear_attention   mlstm        deltanet     gated_deltanet   shm
    32      23 (214)           36 (232)     64 (270)     74 (263)         133
    128     160 (3163)         195 (3571)   208 (4114)   285              2321

Chunks of 16 to 64 steps differ by less than a third, except for the delta rule, where 64 takes up to twice as long as
32. An associative scan within SHM's chunks took three times as long as its steps.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from memrl.memory.base import Memory, MemoryConfig, State, parameter_dtype
from memrl.memory.chunkwise import Projected, in_chunks
from memrl.memory.convolution import ShortConvolution
from memrl.memory.layers import dense, rms_norm


@dataclasses.dataclass(frozen=True)
class FastWeightConfig(MemoryConfig):
    """Hyperparameters that all fast weights share."""

    features: int = 64
    """Width F of the block and of the output."""
    layers: int = 2
    """Blocks, each with a memory of its own."""
    heads: int = 2
    """Matrices per layer, each `[F / heads, F / heads]`; must divide the width."""
    chunk_length: int = 32
    """Steps that learning computes together; a matter of speed and memory alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features % self.heads:
            raise ValueError(
                f"memory.features is {self.features} and memory.heads is {self.heads}: the heads must divide the width."
            )

    fully_open: ClassVar[Mapping[str, float]] = {}
    """See `Memory.fully_open`."""

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return FastWeightMemory(self, dtype)

    def layer(self, dtype: jnp.dtype) -> "FastWeightLayer":
        """One block with its memory."""
        raise NotImplementedError

    def recent(self, batch: int, dtype: jnp.dtype) -> jax.Array | None:
        """The state of the convolution before `batch` memories of one layer; None where there is none."""
        return None

    def empty(self, batch: int, key: jax.Array, dtype: jnp.dtype) -> State:
        """The state of `batch` empty memories of one layer."""
        return self.matrices(batch, dtype)

    def matrices(self, batch: int, dtype: jnp.dtype, more_rows: int = 0) -> jax.Array:
        """Zeros `[B, H, d + more_rows, d]`, in float32 at least: a sum of many terms stands still in bfloat16."""
        width = self.features // self.heads
        return jnp.zeros((batch, self.heads, width + more_rows, width), parameter_dtype(dtype))


@dataclasses.dataclass(frozen=True)
class ConvolvedConfig(FastWeightConfig):
    """Hyperparameters of fast weights behind a short convolution."""

    convolution: int = 4
    """Latest steps of the episode, the current one included, that enter the memory together; 1: no convolution."""


class LayerState(NamedTuple):
    """State of one layer."""

    recent: jax.Array | None
    """The latest inputs of the convolution, `[B, convolution - 1, C]`."""
    memory: State
    """State of the memory itself."""


class FastWeightMemory(Memory):
    """See the module docstring. Inputs `[.., D]`, outputs `[.., config.features]`. The state is one per layer."""

    config: FastWeightConfig
    dtype: jnp.dtype

    def setup(self) -> None:
        config = self.config
        self.input_projection = dense(config.features, self.dtype)
        self.layers = [config.layer(self.dtype) for _ in range(config.layers)]
        self.final_norm = rms_norm(self.dtype)

    def initial_state(self, batch: int, key: jax.Array | None = None) -> State:
        keys = jax.random.split(jax.random.key(0) if key is None else key, self.config.layers)
        config, dtype = self.config, self.dtype
        return tuple(LayerState(config.recent(batch, dtype), config.empty(batch, key, dtype)) for key in keys)

    def step(self, state: State, x: jax.Array, reset: jax.Array) -> tuple[State, jax.Array]:
        state, ys = self.unroll(state, x[None], reset[None])
        return state, ys[0]

    def unroll(self, state: State, xs: jax.Array, resets: jax.Array) -> tuple[State, jax.Array]:
        x, states = self.input_projection(xs), []
        for layer, layer_state in zip(self.layers, state, strict=True):
            layer_state, x = layer(layer_state, x, resets)
            states.append(layer_state)
        return tuple(states), self.final_norm(x)

    def tokens_attended(self, state: State) -> jax.Array:
        return jnp.int32(0)

    def fully_open(self) -> Mapping[str, float]:
        return self.config.fully_open


Config = TypeVar("Config", bound=FastWeightConfig)
Convolved = TypeVar("Convolved", bound=ConvolvedConfig)


class FastWeightLayer(nn.Module, Generic[Config]):
    """One block: `x + W_o y`. A subclass says how its memory is written and read.

    What enters the memory is computed for all steps at once by `tokens`, `read_chunk` carries the memory through the
    steps of a chunk, and `finish` makes `y` of what was read.
    """

    config: Config
    dtype: jnp.dtype

    projected_parts: ClassVar[int] = 3  # queries, keys and values

    def setup(self) -> None:
        self.norm = rms_norm(self.dtype)
        self.projection = self.linear(self.projected_parts * self.config.features)
        self.output = self.linear(self.config.features)

    def __call__(self, state: LayerState, x: jax.Array, resets: jax.Array) -> tuple[LayerState, jax.Array]:
        """Reads inputs `x` `[T, B, F]` with `resets` `[T, B]`."""
        normed = self.norm(x)
        # To the tokens of the next episode this one has weight 0, and 0 x NaN is NaN. So what is not finite writes
        # nothing; its own output is NaN all the same, by the residual.
        normed = jnp.where(jnp.isfinite(normed), normed, 0)
        recent, joined = self.project(state.recent, normed, resets)
        projected = Projected(*(self.by_head(part) for part in jnp.split(joined, 3, axis=-1)))
        memory, tokens = self.tokens(state.memory, normed, projected)
        if self.is_mutable_collection("intermediates"):
            self.sow_gates(memory, tokens, resets)
        memory, reads = in_chunks(self.read_chunk, self.config.chunk_length, memory, tokens, resets)
        y = self.output(self.finish(reads.astype(self.dtype), normed).reshape(x.shape))
        return LayerState(recent, memory), x + y

    def linear(self, features: int) -> nn.Dense:
        """A linear map without bias."""
        return dense(features, self.dtype, use_bias=False)

    def by_head(self, x: jax.Array) -> jax.Array:
        """`[.., F]` as `[.., H, d]`, in the precision of the recurrence."""
        return x.reshape(*x.shape[:-1], self.config.heads, -1).astype(parameter_dtype(self.dtype))

    def project(self, recent: jax.Array | None, x: jax.Array, resets: jax.Array) -> tuple[jax.Array | None, jax.Array]:
        """Queries, keys and values side by side, `[T, B, 3 F]`, and what is recent for the convolution afterwards."""
        return None, self.projection(x)

    def tokens(self, state: State, x: jax.Array, projected: Projected) -> tuple[State, Any]:
        """What `read_chunk` needs of each step: a tree of `[T, B, ..]`. Draws from the state what is random."""
        raise NotImplementedError

    def sow_gates(self, state: State, tokens: Any, resets: jax.Array) -> None:
        """Sows how far gates are open; called only where somebody collects it. `state` is before the first step."""

    @staticmethod
    def read_chunk(state: State, tokens: Any, resets: jax.Array) -> tuple[State, jax.Array]:
        """Carries the state through `L` steps: `tokens` `[L, B, ..]`, `resets` `[L, B]`.

        Returns:
          The state afterwards and what the queries read, `[L, B, H, d]`.
        """
        raise NotImplementedError

    def finish(self, reads: jax.Array, x: jax.Array) -> jax.Array:
        """The output `y` `[T, B, H, d]`, from what was read `[T, B, H, d]` and the normalised input `[T, B, F]`."""
        return reads


class ConvolvedLayer(FastWeightLayer[Convolved]):
    """A block with a short convolution, and SiLU after it, in front of its memory."""

    def setup(self) -> None:
        super().setup()
        if self.config.convolution > 1:
            self.convolution = ShortConvolution(self.config.convolution, self.dtype)

    def convolve(self, recent: jax.Array | None, x: jax.Array, resets: jax.Array) -> tuple[jax.Array | None, jax.Array]:
        """`SiLU(conv(x))` for finite `x` `[T, B, C]`, and what is recent afterwards."""
        if self.config.convolution > 1:
            assert recent is not None  # as `recent` of the config makes it
            recent, x = self.convolution(recent, x, resets)
        return recent, nn.silu(x)


def with_ones(values: jax.Array) -> jax.Array:
    """`values` `[.., d]` with a 1 appended: the row of the matrix that it writes is the sum of the keys."""
    return jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)


def remember_long(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Initial biases of forget gates, evenly spaced from 3 to 6: half-lives of about 14 to 280 steps."""
    return jnp.linspace(3, 6, shape[0], dtype=dtype)
