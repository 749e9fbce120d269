"""Stable Hadamard memory: a fast weight every element of which fades or grows by itself.

The block, and how chunks of steps are learned, are those of `memrl.memory.fast_weights`. A product of calibrations is
no outer product again, so there is no attention within a chunk: it is read step by step.
"""

import dataclasses
from typing import Literal, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from memrl.memory.base import parameter_dtype
from memrl.memory.chunkwise import Projected
from memrl.memory.fast_weights import FastWeightConfig, FastWeightLayer


@dataclasses.dataclass(frozen=True)
class SHM(FastWeightConfig):
    """Stable Hadamard memory (Le et al., arXiv 2410.10132).

        M ← M ⊙ C + (η v) kᵀ        y = M q
        C = 1 + tanh(θ[l] v_cᵀ)     the row `l` of a learned table `θ` is drawn anew at each step
        k = ReLU(W_k x̄) / (10⁻⁵ + Σ ReLU(W_k x̄)), `q` likewise; η = σ(w_η x̄); v, v_c linear in x̄; no biases

    The paper has one layer and one head, the defaults here. With more, each draws rows and has a table of its own.

    The paper draws `l` uniformly, independently for each environment and step: the factors are then nearly independent
    with mean 1, and so their products have mean 1. The code that its POPGym results come from draws integers from
    `[0, 1)`: `l` is always the first, the calibration `θ` is fixed. Evaluation (`without_noise`) goes through the table
    row after row, which draws nothing and leaves the distribution that was learned with: each row equally often, and
    none twice in a row. The first row alone would meet a product of equal signs that learning never saw.

    The calibration cannot clear what it chooses to. Within a step the sign of `C - 1` in column `j` is that of
    `θ[l]` times that of `v_c[j]`, and `θ[l]` has both signs: where some rows of a column fade, others grow by as much.
    Content is kept only where `v_c` is exactly 0, and else multiplied at each step by a random factor between 0 and 2
    of mean 1 whose product has a variance that grows without bound.

    It does not learn Repeat Previous (`gru_repeat_previous --memory shm`: return -0.09 of 1, where no memory has
    -0.50): nothing that is written says when it was, and what fades, fades by chance. It does learn Repeat First
    (0.99).
    """

    layers: int = 1
    heads: int = 1
    theta: Literal["random", "first", "cycle"] = "random"
    """Row of the table at each step. random: drawn (paper); first: always the first (its POPGym code); cycle: one after
    another."""
    theta_rows: int = 128
    """Rows L of the table `θ`."""

    def layer(self, dtype: jnp.dtype) -> "SHMLayer":
        return SHMLayer(self, dtype)

    def empty(self, batch: int, key: jax.Array, dtype: jnp.dtype) -> "SHMState":
        return SHMState(jax.random.split(key, batch), jnp.int32(0), self.matrices(batch, dtype))

    def without_noise(self) -> Self:
        return dataclasses.replace(self, theta="cycle") if self.theta == "random" else self


class SHMState(struct.PyTreeNode):
    """State of an SHM."""

    key: jax.Array
    """PRNG keys of the rows drawn, `[B]`: each environment draws for itself, whichever minibatch it is in."""
    clock: jax.Array
    """Steps read so far, int32, shared."""
    matrix: jax.Array
    """Matrix `M`, `[B, H, d, d]`."""


class SHMTokens(NamedTuple):
    """What an SHM reads at each step, each `[T, B, H, d]`."""

    projected: Projected
    theta: jax.Array
    """Row drawn from the table, `θ[l]`."""
    calibration: jax.Array
    """Vector `v_c` of the calibration."""


class SHMLayer(FastWeightLayer[SHM]):
    """The equations of `SHM`."""

    def setup(self) -> None:
        super().setup()
        config = self.config
        self.calibration = self.linear(config.features)
        self.write_gate = self.linear(config.heads)
        self.theta = self.param(
            "theta",
            nn.initializers.xavier_uniform(),
            (config.theta_rows, config.features),
            parameter_dtype(self.dtype),
        )

    def tokens(self, state: SHMState, x: jax.Array, projected: Projected) -> tuple[SHMState, SHMTokens]:
        queries, keys, values = projected
        write = nn.sigmoid(self.write_gate(x)).astype(values.dtype)
        self.sow("intermediates", "write", write)
        tokens = SHMTokens(
            Projected(share(nn.relu(queries)), share(nn.relu(keys)), write[..., None] * values),
            self.by_head(jnp.take(self.theta, theta_rows(self.config, state, x.shape[0]), axis=0)),
            self.by_head(self.calibration(x)),
        )
        return state.replace(clock=state.clock + x.shape[0]), tokens

    @staticmethod
    def read_chunk(state: SHMState, tokens: SHMTokens, resets: jax.Array) -> tuple[SHMState, jax.Array]:
        def step(matrix: jax.Array, inputs: tuple[SHMTokens, jax.Array]) -> tuple[jax.Array, jax.Array]:
            (projected, theta, calibration), reset = inputs
            query, key, value = projected
            matrix = jnp.where(reset[:, None, None, None], 0, matrix)
            matrix = matrix * calibrate(theta, calibration) + outer(value, key)
            return matrix, jnp.einsum("bhvk,bhk->bhv", matrix, query)

        # The calibrations are computed again rather than kept, a matrix per step.
        step = jax.checkpoint(step, prevent_cse=False)
        matrix, reads = jax.lax.scan(step, state.matrix, (tokens, resets))
        return state.replace(matrix=matrix), reads


def theta_rows(config: SHM, state: SHMState, steps: int) -> jax.Array:
    """The row of `θ` for each of the next `T = steps` steps, int32 `[T, B]`: drawn from the state, to be replayed."""
    clock = state.clock + jnp.arange(steps, dtype=jnp.int32)
    match config.theta:
        case "random":

            def draw(key: jax.Array, time: jax.Array) -> jax.Array:
                return jax.random.randint(jax.random.fold_in(key, time), (), 0, config.theta_rows, jnp.int32)

            return jax.vmap(jax.vmap(draw, in_axes=(0, None)), in_axes=(None, 0))(state.key, clock)
        case "first":
            rows = jnp.zeros_like(clock)
        case "cycle":
            rows = clock % config.theta_rows
    return jnp.broadcast_to(rows[:, None], (steps, *state.key.shape))


def calibrate(theta: jax.Array, calibration: jax.Array) -> jax.Array:
    """`C = 1 + tanh(θ v_cᵀ)` `[.., d, d]`, between 0 and 2."""
    return 1 + jnp.tanh(outer(theta, calibration))


def outer(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Outer products `[.., d, d]`. As an einsum, because the gradients are then matrix products: a broadcast
    multiplication takes eight times as long to learn on a CPU."""
    return jnp.einsum("...v,...k->...vk", rows, columns)


def share(x: jax.Array) -> jax.Array:
    """Non-negative `x` `[.., d]` divided by its sum."""
    return x / (1e-5 + x.sum(axis=-1, keepdims=True))
