"""The delta rule: a fast weight that replaces what was stored under a key."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from memrl.memory.chunkwise import Projected, decay, episodes, read_and_write, to_heads, to_time, unit_lower_inverse
from memrl.memory.convolution import nothing_recent
from memrl.memory.fast_weights import ConvolvedConfig, ConvolvedLayer, FastWeightLayer, remember_long
from memrl.memory.layers import dense, rms_norm


@dataclasses.dataclass(frozen=True)
class DeltaNet(ConvolvedConfig):
    """The delta rule (Schmidhuber 1992; Schlag et al., arXiv 2102.11174; Yang et al., arXiv 2406.06484).

        [q, k, v] = SiLU(conv(W x̄)), q and k divided by their lengths
        S ← S (I - β k kᵀ) + β v kᵀ
        y = RMSNorm(S q), one scale for all heads

    With `β = 1`, `S k = v` afterwards: the memory is rewritten at one key, and not at any key orthogonal to it.
    `β = 2 σ(w_β x̄ + b_β)` per head; beyond 1 the old value is not replaced but reflected, which lets a memory count
    (Grazzi et al., arXiv 2411.12537; the paper has `σ`). The paper's MLP is left out.
    """

    gates: Literal["sigmoid", "hard"] = "sigmoid"
    """Shape of the gates. sigmoid: never quite closed or open (published); hard: `clip(z / 6 + 1 / 2, 0, 1)` instead,
    which reaches 0 and 1 exactly, with the gradient of the sigmoid, so that a gate can leave them again."""

    fully_open: ClassVar[Mapping[str, float]] = {"write_strength": 2}

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


class DeltaTokens(NamedTuple):
    """What a delta rule reads at each step."""

    projected: Projected
    write: jax.Array
    """Write strength `β`, `[T, B, H]`."""
    forget: jax.Array | None
    """Forget gate `α`, `[T, B, H]`; `None`: 1."""


class DeltaLayer(ConvolvedLayer[DeltaNet]):
    """The equations of `DeltaNet`, and, `gated`, of `GatedDeltaNet`. The state is `S`, `[B, H, d, d]`."""

    gated: bool

    def setup(self) -> None:
        super().setup()
        heads, zeros = self.config.heads, nn.initializers.zeros
        self.write_gate = dense(heads, self.dtype)
        if self.gated:
            self.forget_gate = dense(heads, self.dtype, kernel_init=zeros, bias_init=remember_long)
            self.output_gate = self.linear(self.config.features)
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
