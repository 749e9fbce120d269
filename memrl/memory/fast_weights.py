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
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from memrl.memory.attention import rms_norm
from memrl.memory.base import Memory, MemoryConfig, State, parameter_dtype
from memrl.memory.convolution import ShortConvolution, nothing_recent


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
        for field in dataclasses.fields(self):
            if field.type is int and getattr(self, field.name) < 1:
                raise ValueError(f"memory.{field.name} is {getattr(self, field.name)}: it must be at least 1.")
        if self.features % self.heads:
            raise ValueError(
                f"memory.features is {self.features} and memory.heads is {self.heads}: the heads must divide the width."
            )

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


@dataclasses.dataclass(frozen=True)
class LinearAttention(FastWeightConfig):
    """Linear attention (Katharopoulos et al., arXiv 2006.16236, eq. 16 to 20).

        S ← S + v φ(k)ᵀ        z ← z + φ(k)        φ(x) = elu(x) + 1
        y = S φ(q) / (zᵀ φ(q) + 10⁻⁶)

    with `q, k, v` linear in `x̄`. The normaliser is that of the authors' code, so `y` is an average of all values since
    the reset. Nothing is forgotten and nothing can be replaced.

    It does not learn Repeat Previous (`gru_repeat_previous --memory linear_attention`: return -0.12 of 1, where no
    memory has -0.50): the average does not change with the order of what it averages. Repeat First it learns (1.00).
    """

    def layer(self, dtype: jnp.dtype) -> "FastWeightLayer":
        return LinearAttentionLayer(self, dtype)

    def empty(self, batch: int, key: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return self.matrices(batch, dtype, more_rows=1)


@dataclasses.dataclass(frozen=True)
class MLSTM(ConvolvedConfig):
    """The matrix memory of xLSTM (Beck et al., arXiv 2405.04517, eq. 19 to 27), gates per head.

        c = SiLU(conv(x̄))
        f = σ(w_f x̄ + b_f)        i = exp(w_i x̄ + b_i)        o = σ(W_o x̄ + b_o)
        C ← f C + i v kᵀ           n ← f n + i k
        y = o ⊙ C q / max(|nᵀ q|, 1)

    with `q` and `k` linear in `c`, `k` scaled by `1 / √d`, and `v` linear in `x̄` (appendix A.4). As in the authors'
    code the biases `b_f` start evenly spaced from 3 to 6, `b_i` start near 0 and both kernels at 0; the paper's biases
    of `q, k, v` are left out with it.

    What is computed is `C e⁻ᵐ` and `n e⁻ᵐ` with `m ← max(log f + m, log i, 0)`. The paper has no 0 there; with it the
    lower bound 1 of the normaliser, `e⁻ᵐ`, cannot overflow. `m` starts at 0. It is a maximum of sums, the same in
    whatever order it is taken. The scaled normaliser is at least 10⁻⁶, which the authors' code adds.
    """

    def layer(self, dtype: jnp.dtype) -> "FastWeightLayer":
        return MLSTMLayer(self, dtype)

    def recent(self, batch: int, dtype: jnp.dtype) -> jax.Array | None:
        return nothing_recent(batch, self.convolution, self.features, dtype)

    def empty(self, batch: int, key: jax.Array, dtype: jnp.dtype) -> "MLSTMState":
        log_scale = jnp.zeros((batch, self.heads), parameter_dtype(dtype))
        return MLSTMState(self.matrices(batch, dtype, more_rows=1), log_scale)


@dataclasses.dataclass(frozen=True)
class DeltaNet(ConvolvedConfig):
    """The delta rule (Schmidhuber 1992; Schlag et al., arXiv 2102.11174; Yang et al., arXiv 2406.06484).

        [q, k, v] = SiLU(conv(W x̄)), q and k divided by their lengths
        S ← S (I - β k kᵀ) + β v kᵀ
        y = RMSNorm(S q), one scale for all heads

    With `β = 1`, `S k = v` afterwards: the
    memory is rewritten at one key and, at keys orthogonal to it, nowhere else. `β = 2 σ(w_β x̄ + b_β)` per head; beyond
    1 the old value is not replaced but reflected, which lets a memory count (Grazzi et al., arXiv 2411.12537; the paper
    has `σ`). The paper's MLP is left out.
    """

    gates: Literal["sigmoid", "hard"] = "sigmoid"
    """sigmoid: never quite closed or open (published); hard: `clip(z / 6 + 1 / 2, 0, 1)` instead, which reaches 0 and 1
    exactly, with the gradient of the sigmoid, so that a gate can leave them again."""

    def layer(self, dtype: jnp.dtype) -> "FastWeightLayer":
        return DeltaLayer(self, dtype, gated=False)

    def recent(self, batch: int, dtype: jnp.dtype) -> jax.Array | None:
        return nothing_recent(batch, self.convolution, 3 * self.features, dtype)


@dataclasses.dataclass(frozen=True)
class GatedDeltaNet(DeltaNet):
    """Gated delta rule (Yang et al., arXiv 2412.06464, section 3.1): `DeltaNet` with a forget gate and an output gate.

        S ← α S (I - β k kᵀ) + β v kᵀ
        y = RMSNorm(S q) ⊙ SiLU(W_g x̄)

    `α = σ(w_α x̄ + b_α)` per head; `w_α` starts at 0, `b_α` evenly spaced from 3 to 6. (The paper's gate is that of
    Mamba2, `σ(-w_α x̄ - b_α)ᵃ` with a learned `a`; as its code starts them, memories last some ten steps.) With hard
    gates the memory starts out forgetting nothing, can be held exactly (`α = 1, β = 0`) and cleared in one step
    (`α = 0`).
    """

    def layer(self, dtype: jnp.dtype) -> "FastWeightLayer":
        return DeltaLayer(self, dtype, gated=True)


class LayerState(NamedTuple):
    """State of one layer."""

    recent: jax.Array | None
    """The latest inputs of the convolution, `[B, convolution - 1, C]`."""
    memory: State
    """Of the memory itself."""


class FastWeightMemory(Memory):
    """See the module docstring. Inputs `[.., D]`, outputs `[.., config.features]`. The state is one per layer."""

    config: FastWeightConfig
    dtype: jnp.dtype

    def setup(self) -> None:
        config = self.config
        self.input_projection = nn.Dense(config.features, dtype=self.dtype, param_dtype=parameter_dtype(self.dtype))
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


class Projected(NamedTuple):
    """What every memory is written and read with, per step and head: each `[T, B, H, d]`."""

    queries: jax.Array
    keys: jax.Array
    values: jax.Array


class FastWeightLayer(nn.Module):
    """One block: `x + W_o y`. A subclass says how its memory is written and read.

    What enters the memory is computed for all steps at once by `tokens`, `read_chunk` carries the memory through the
    steps of a chunk, and `finish` makes `y` of what was read.
    """

    config: FastWeightConfig
    dtype: jnp.dtype

    projected_parts: ClassVar[int] = 3  # queries, keys and values

    def setup(self) -> None:
        self.norm = rms_norm(self.dtype)
        self.projection = self.dense(self.projected_parts * self.config.features)
        self.output = self.dense(self.config.features)

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

    def dense(self, features: int, **settings: Any) -> nn.Dense:
        """A linear map, without bias unless `settings` say otherwise."""
        settings = {"use_bias": False, "dtype": self.dtype, "param_dtype": parameter_dtype(self.dtype), **settings}
        return nn.Dense(features, **settings)

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


def in_chunks(
    read_chunk: Callable[[State, Any, jax.Array], tuple[State, jax.Array]],
    length: int,
    state: State,
    tokens: Any,
    resets: jax.Array,
) -> tuple[State, jax.Array]:
    """Reads `T` steps `length` at a time, and the rest. The backward pass keeps states between chunks only.

    Args:
      read_chunk: see `FastWeightLayer`.
      length: steps in a chunk.
      state: before the first step.
      tokens: a tree of `[T, B, ..]`.
      resets: bool `[T, B]`.

    Returns:
      The state after the last step and what was read, `[T, B, ..]`.
    """
    read_chunk = jax.checkpoint(read_chunk, prevent_cse=False)
    steps, inputs, reads = resets.shape[0], (tokens, resets), []
    whole = steps // length * length
    if whole:
        chunks = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, length, *leaf.shape[1:]), inputs)
        state, read = jax.lax.scan(lambda state, chunk: read_chunk(state, *chunk), state, chunks)
        reads.append(read.reshape(whole, *read.shape[2:]))
    if whole < steps:
        state, read = read_chunk(state, *jax.tree.map(lambda leaf: leaf[whole:], inputs))
        reads.append(read)
    return state, jnp.concatenate(reads)


# Chunks as attention. Inside them everything is laid out [B, H, L, ..].


def to_heads(x: jax.Array) -> jax.Array:
    """`[L, B, H, ..]` as `[B, H, L, ..]`."""
    return jnp.moveaxis(x, 0, 2)


def to_time(x: jax.Array) -> jax.Array:
    """`[B, H, L, ..]` as `[L, B, H, ..]`."""
    return jnp.moveaxis(x, 2, 0)


def episodes(resets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which steps of a chunk see which others, and which see what was before the chunk.

    Args:
      resets: bool `[L, B]`.

    Returns:
      bool `[B, 1, L, L]`: whether the second step is in the episode of the first and not after it; bool `[B, 1, L]`.
    """
    episode = jnp.cumsum(resets, axis=0, dtype=jnp.int32).T[:, None]
    causal = jnp.tri(resets.shape[0], dtype=bool)[None, None]
    return (episode[..., :, None] == episode[..., None, :]) & causal, episode == 0


def read_and_write(
    matrix: jax.Array,
    projected: Projected,
    weights: jax.Array,
    kept: jax.Array,
    carried: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Solves `S_t = a_t S_{t-1} + b_t v_t k_tᵀ` over a chunk and reads `S_t q_t`.

    Args:
      matrix: `[B, H, d', d]`, before the chunk.
      projected: each `[B, H, L, d]`, the values `[B, H, L, d']`.
      weights: `[B, H, L, L]`, how much of what the second step wrote is there at the first: `b_s a_{s+1} ... a_t`, 0
        where it is not visible.
      kept: `[B, H, L]`, how much of `matrix` is there: `a_1 ... a_t`.
      carried: bool `[B, 1, L]`, whether any of it is.

    Returns:
      The matrix after the chunk and what was read, `[B, H, L, d']`.
    """
    queries, keys, values = projected
    scores = jnp.einsum("bhtk,bhsk->bhts", queries, keys) * weights
    before = kept[..., None] * jnp.einsum("bhtk,bhvk->bhtv", queries, matrix)
    reads = jnp.where(carried[..., None], before, 0) + jnp.einsum("bhts,bhsv->bhtv", scores, values)
    written = jnp.einsum("bhsv,bhsk->bhvk", values, weights[..., -1, :, None] * keys)
    matrix = jnp.where(carried[..., -1:, None], kept[..., -1:, None] * matrix, 0) + written
    return matrix, reads


def with_ones(values: jax.Array) -> jax.Array:
    """`values` `[.., d]` with a 1 appended: the row of the matrix that it writes is the sum of the keys."""
    return jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)


class LinearAttentionLayer(FastWeightLayer):
    """The equations of `LinearAttention`. The state is `S` with `z` as its last row, `[B, H, d + 1, d]`."""

    def tokens(self, state: jax.Array, x: jax.Array, projected: Projected) -> tuple[jax.Array, Projected]:
        queries, keys, values = projected
        return state, Projected(nn.elu(queries) + 1, nn.elu(keys) + 1, with_ones(values))

    @staticmethod
    def read_chunk(state: jax.Array, tokens: Projected, resets: jax.Array) -> tuple[jax.Array, jax.Array]:
        projected = jax.tree.map(to_heads, tokens)
        visible, carried = episodes(resets)
        dtype = state.dtype
        state, reads = read_and_write(state, projected, visible.astype(dtype), jnp.ones_like(carried, dtype), carried)
        return state, to_time(reads[..., :-1] / (reads[..., -1:] + 1e-6))


class ConvolvedLayer(FastWeightLayer):
    """A block with a short convolution, and SiLU after it, in front of its memory."""

    def setup(self) -> None:
        super().setup()
        if self.config.convolution > 1:
            self.convolution = ShortConvolution(self.config.convolution, self.dtype)

    def convolve(self, recent: jax.Array | None, x: jax.Array, resets: jax.Array) -> tuple[jax.Array | None, jax.Array]:
        """`SiLU(conv(x))` for finite `x` `[T, B, C]`, and what is recent afterwards."""
        if self.config.convolution > 1:
            recent, x = self.convolution(recent, x, resets)
        return recent, nn.silu(x)


class MLSTMState(NamedTuple):
    """State of an mLSTM: everything in it is `e⁻ᵐ` of its true size."""

    matrix: jax.Array
    """`C`, with `n` as its last row: `[B, H, d + 1, d]`."""
    log_scale: jax.Array
    """`m`, at least 0: `[B, H]`."""


class MLSTMTokens(NamedTuple):
    """What an mLSTM reads at each step."""

    projected: Projected
    log_forget: jax.Array
    """`log f` `[T, B, H]`."""
    log_input: jax.Array
    """`log i` `[T, B, H]`."""


class MLSTMLayer(ConvolvedLayer):
    """The equations of `MLSTM`."""

    projected_parts: ClassVar[int] = 2  # queries and keys

    def setup(self) -> None:
        super().setup()
        heads, zeros = self.config.heads, nn.initializers.zeros
        self.value_projection = self.dense(self.config.features)
        self.forget_gate = self.dense(heads, use_bias=True, kernel_init=zeros, bias_init=remember_long)
        self.input_gate = self.dense(heads, use_bias=True, kernel_init=zeros, bias_init=nn.initializers.normal(0.1))
        self.output_gate = self.dense(self.config.features, use_bias=True)

    def project(self, recent: jax.Array | None, x: jax.Array, resets: jax.Array) -> tuple[jax.Array | None, jax.Array]:
        recent, mixed = self.convolve(recent, x, resets)
        return recent, jnp.concatenate([self.projection(mixed), self.value_projection(x)], axis=-1)

    def tokens(self, state: MLSTMState, x: jax.Array, projected: Projected) -> tuple[MLSTMState, MLSTMTokens]:
        dtype = state.log_scale.dtype
        log_forget = nn.log_sigmoid(self.forget_gate(x).astype(dtype))
        log_input = self.input_gate(x).astype(dtype)
        queries, keys, values = projected
        projected = Projected(queries, keys * keys.shape[-1] ** -0.5, with_ones(values))
        return state, MLSTMTokens(projected, log_forget, log_input)

    def sow_gates(self, state: MLSTMState, tokens: MLSTMTokens, resets: jax.Array) -> None:
        """Sows `f` and, of `i`, which has no bound, what the state is written with: `i e⁻ᵐ`, from 0 to 1."""

        def step(log_scale: jax.Array, gates: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            log_forget, log_input = gates
            log_scale = jnp.maximum(jnp.maximum(log_forget + log_scale, log_input), 0)
            return log_scale, jnp.exp(log_input - log_scale)

        log_forget = jnp.where(resets[..., None], -jnp.inf, tokens.log_forget)
        _, stabilised = jax.lax.scan(step, state.log_scale, (log_forget, tokens.log_input))
        self.sow("intermediates", "forget", jnp.exp(tokens.log_forget))
        self.sow("intermediates", "stabilised_input", stabilised)

    @staticmethod
    def read_chunk(state: MLSTMState, tokens: MLSTMTokens, resets: jax.Array) -> tuple[MLSTMState, jax.Array]:
        projected, log_forget, log_input = jax.tree.map(to_heads, tokens)
        visible, carried = episodes(resets)
        # Since the chunk or the episode began. One sum over the chunk would do, but its rounding would reach across.
        since_start = jnp.where(visible, log_forget[..., None, :], 0).sum(axis=-1)
        log_kept = jnp.where(carried, since_start + state.log_scale[..., None], -jnp.inf)
        # Masked before the exponential, which would overflow for later steps.
        log_decay = jnp.where(visible, since_start[..., :, None] - since_start[..., None, :], -jnp.inf)
        bounded = (log_decay + jnp.maximum(log_input, 0)[..., None, :]).max(axis=-1)
        # Only a unit of measurement: what is read does not depend on it.
        log_scale = jax.lax.stop_gradient(jnp.maximum(log_kept, bounded))
        weights = jnp.exp(log_decay + log_input[..., None, :] - log_scale[..., None])
        matrix, reads = read_and_write(state.matrix, projected, weights, jnp.exp(log_kept - log_scale), carried)
        least = jnp.maximum(jnp.exp(-log_scale), 1e-6)[..., None]
        reads = reads[..., :-1] / jnp.maximum(jnp.abs(reads[..., -1:]), least)
        return MLSTMState(matrix, log_scale[..., -1]), to_time(reads)

    def finish(self, reads: jax.Array, x: jax.Array) -> jax.Array:
        return nn.sigmoid(self.output_gate(x)).reshape(reads.shape) * reads


def remember_long(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Initial biases of forget gates, evenly spaced from 3 to 6: half-lives of about 14 to 280 steps."""
    return jnp.linspace(3, 6, *shape, dtype=dtype)


class DeltaTokens(NamedTuple):
    """What a delta rule reads at each step."""

    projected: Projected
    write: jax.Array
    """`β` `[T, B, H]`."""
    forget: jax.Array | None
    """`α` `[T, B, H]`; `None`: 1."""


class DeltaLayer(ConvolvedLayer):
    """The equations of `DeltaNet`, and, `gated`, of `GatedDeltaNet`. The state is `S`, `[B, H, d, d]`."""

    gated: bool

    def setup(self) -> None:
        super().setup()
        heads, zeros = self.config.heads, nn.initializers.zeros
        self.write_gate = self.dense(heads, use_bias=True)
        if self.gated:
            self.forget_gate = self.dense(heads, use_bias=True, kernel_init=zeros, bias_init=remember_long)
            self.output_gate = self.dense(self.config.features)
        self.read_norm = rms_norm(self.dtype)

    def project(self, recent: jax.Array | None, x: jax.Array, resets: jax.Array) -> tuple[jax.Array | None, jax.Array]:
        return self.convolve(recent, self.projection(x), resets)

    def tokens(self, state: jax.Array, x: jax.Array, projected: Projected) -> tuple[jax.Array, DeltaTokens]:
        queries, keys, values = projected
        write = 2 * self._open(self.write_gate(x).astype(state.dtype))
        forget = self._open(self.forget_gate(x).astype(state.dtype)) if self.gated else None
        return state, DeltaTokens(Projected(unit(queries), unit(keys), values), write, forget)

    def sow_gates(self, state: jax.Array, tokens: DeltaTokens, resets: jax.Array) -> None:
        self.sow("intermediates", "write_strength", tokens.write)
        if self.gated:
            self.sow("intermediates", "forget", tokens.forget)

    def _open(self, z: jax.Array) -> jax.Array:
        """How far a gate is open, from 0 to 1."""
        soft = nn.sigmoid(z)
        if self.config.gates == "sigmoid":
            return soft
        return jax.lax.stop_gradient(nn.hard_sigmoid(z)) + (soft - jax.lax.stop_gradient(soft))

    @staticmethod
    def read_chunk(state: jax.Array, tokens: DeltaTokens, resets: jax.Array) -> tuple[jax.Array, jax.Array]:
        projected, write, forget = jax.tree.map(to_heads, tokens)
        visible, carried = episodes(resets)
        if forget is None:
            weights, kept = visible.astype(state.dtype), jnp.ones_like(carried, state.dtype)
        else:
            weights, kept = decay(forget, visible)
        # Step t writes u_t k_tᵀ, the correction u_t = β_t (v_t - α_t S_{t-1} k_t), and S_{t-1} holds the corrections
        # before it: a triangular system. Its inverse is applied to the values and, apart from them, to the keys that
        # read the matrix before the chunk: a step that does not see that matrix does not touch it.
        _, keys, values = projected
        overlap = write[..., None] * weights * jnp.einsum("bhtk,bhsk->bhts", keys, keys)
        solution = unit_lower_inverse(overlap) * write[..., None, :]
        corrections = solution @ values
        reads_before = solution @ jnp.where(carried[..., None], kept[..., None] * keys, 0)
        before = jnp.einsum("bhtk,bhvk->bhtv", reads_before, state)
        corrections = corrections - jnp.where(carried[..., None], before, 0)
        state, reads = read_and_write(state, projected._replace(values=corrections), weights, kept, carried)
        return state, to_time(reads)

    def finish(self, reads: jax.Array, x: jax.Array) -> jax.Array:
        reads = self.read_norm(reads)
        return reads * nn.silu(self.output_gate(x)).reshape(reads.shape) if self.gated else reads


def unit(x: jax.Array) -> jax.Array:
    """`x` `[.., d]` divided by its length; 0 stays 0."""
    return x * jax.lax.rsqrt((x * x).sum(axis=-1, keepdims=True) + 1e-6)


def unit_lower_inverse(x: jax.Array) -> jax.Array:
    """The inverse of `I` plus the part of `x` `[.., L, L]` below the diagonal.

    The inverses of two neighbouring blocks on the diagonal give that of the block they form:
    `(D + E)⁻¹ = D⁻¹ - D⁻¹ E D⁻¹`, `E` being what is below the diagonal between them. So it takes `log2 L` rounds of
    matrix products, which made the delta rule some fifteen times as fast on a CPU as `triangular_solve`.
    """
    index = jnp.arange(x.shape[-1])
    row, column = index[:, None], index[None]
    inverse = jnp.broadcast_to(jnp.eye(len(index), dtype=x.dtype), x.shape)
    size = 1
    while size < len(index):
        between = (row // (2 * size) == column // (2 * size)) & (row // size > column // size)
        inverse = inverse - inverse @ jnp.where(between, x, 0) @ inverse
        size *= 2
    return inverse


def decay(forget: jax.Array, visible: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Products of forget gates within a chunk, from each step it sees to each step, and from the start.

    Multiplied out rather than divided or taken through logarithms, so that gates may be 0 and still have a gradient.

    Args:
      forget: `[B, H, L]`.
      visible: bool `[B, 1, L, L]`.

    Returns:
      `[B, H, L, L]`, at `[t, s]` the product of the gates from `s + 1` to `t`, 0 where `s` is not visible; and
      `[B, H, L]`, the product up to `t`.
    """
    later = jnp.tri(forget.shape[-1], k=-1, dtype=bool)[None, None]
    products = jnp.cumprod(jnp.where(later, forget[..., :, None], 1), axis=-2)
    return jnp.where(visible, products, 0), jnp.cumprod(forget, axis=-1)
