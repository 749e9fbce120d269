"""mLSTM: a fast weight with a gate for what is kept and one for what is written."""

import dataclasses
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from memrl.memory.base import parameter_dtype
from memrl.memory.chunkwise import Projected, episodes, read_and_write, to_heads, to_time
from memrl.memory.convolution import nothing_recent
from memrl.memory.fast_weights import ConvolvedConfig, ConvolvedLayer, FastWeightLayer, remember_long, with_ones
from memrl.memory.layers import dense


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


class MLSTMState(NamedTuple):
    """State of an mLSTM: everything in it is `e⁻ᵐ` of its true size."""

    matrix: jax.Array
    """Matrix `C`, with `n` as its last row: `[B, H, d + 1, d]`."""
    log_scale: jax.Array
    """Logarithm `m` of the scale, at least 0: `[B, H]`."""


class MLSTMTokens(NamedTuple):
    """What an mLSTM reads at each step."""

    projected: Projected
    log_forget: jax.Array
    """Logarithm of the forget gate, `log f` `[T, B, H]`."""
    log_input: jax.Array
    """Logarithm of the input gate, `log i` `[T, B, H]`."""


class MLSTMLayer(ConvolvedLayer[MLSTM]):
    """The equations of `MLSTM`."""

    projected_parts: ClassVar[int] = 2  # queries and keys

    def setup(self) -> None:
        super().setup()
        heads, zeros = self.config.heads, nn.initializers.zeros
        self.value_projection = self.linear(self.config.features)
        self.forget_gate = dense(heads, self.dtype, kernel_init=zeros, bias_init=remember_long)
        self.input_gate = dense(heads, self.dtype, kernel_init=zeros, bias_init=nn.initializers.normal(0.1))
        self.output_gate = dense(self.config.features, self.dtype)

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
