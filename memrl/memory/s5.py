"""S5, a state space layer: a continuous system of many oscillators, sampled at learned steps."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from memrl.memory.base import Memory, parameter_dtype
from memrl.memory.layers import dense
from memrl.memory.linear_recurrence import (
    Recurrence,
    RecurrenceStack,
    RecurrenceStackConfig,
    as_complex,
    complex_decay,
    real_and_imaginary,
)


@dataclasses.dataclass(frozen=True)
class S5(RecurrenceStackConfig):
    """Simplified state space layer (Smith et al., arXiv 2208.04933, section 3), `P` pairs of conjugates in each layer.

        λ = exp(Δ ⊙ Λ)                            zero-order hold of the continuous system, step Δ
        h ← λ ⊙ h + Λ⁻¹(λ - 1) ⊙ (B x)
        u = gelu(2 Re(C h) + D ⊙ x)
        y = u ⊙ σ(W u + b)

    `Λ` starts at the eigenvalues of the normal part of the HiPPO-LegS matrix of size `2P`, those of positive frequency,
    and `Δ` log-uniform between the timescales. Resets within a sequence as in arXiv 2303.03982.

    The reference draws `B` and `C` in real coordinates and turns them by the eigenvectors; a normal distribution comes
    out of that as itself, and is drawn here directly. Its `Re Λ` may become positive or is clipped; here it is
    `-exp(.)`. The factor 2 is in the initial `C`. There is no final norm in the published stack.
    """

    state_features: int = 128
    """Complex numbers P in the state of a layer, half the published state size."""
    min_timescale: float = 0.001
    """Least initial step Δ: half-lives start at `ln 2 / (Δ / 2)` steps."""
    max_timescale: float = 0.1
    """Greatest initial step Δ."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.min_timescale <= self.max_timescale:
            raise ValueError(
                f"memory.min_timescale is {self.min_timescale} and memory.max_timescale is {self.max_timescale}: they "
                "must satisfy 0 < min_timescale <= max_timescale."
            )

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return RecurrenceStack(self, S5Layer, is_complex=True, dtype=dtype)


def hippo_frequencies(pairs: int) -> np.ndarray:
    """The positive imaginary parts, increasing, of the eigenvalues of the normal part of HiPPO-LegS of size `2 pairs`.

    That part is `-1/2` on the diagonal, `-sqrt((2n + 1)(2k + 1)) / 2` below and the same above it but for the sign
    (arXiv 2208.04933, section 4.2); its eigenvalues all have real part `-1/2`.
    """
    root = np.sqrt(2 * np.arange(2 * pairs) + 1)
    below = np.tril(np.outer(root, root) / 2, -1)
    return np.linalg.eigvalsh(1j * (below - below.T))[pairs:]


class S5Layer(Recurrence[S5]):
    """The equations of `S5`."""

    def setup(self) -> None:
        config, wide = self.config, parameter_dtype(self.dtype)
        pairs = config.state_features
        timescales = math.log(config.min_timescale), math.log(config.max_timescale)
        self.rate_log = self.param("rate_log", nn.initializers.constant(math.log(0.5)), (pairs,), wide)
        self.frequency = self.param("frequency", lambda _: jnp.asarray(hippo_frequencies(pairs), wide))
        self.timescale_log = self.param(
            "timescale_log", lambda key: jax.random.uniform(key, (pairs,), wide, *timescales)
        )
        self.skip = self.param("skip", nn.initializers.normal(1.0), (config.features,), wide)
        self.input = self.linear(2 * pairs, (2 * config.features) ** -0.5)
        self.output = self.linear(config.features, 2 * (2 * pairs) ** -0.5)
        self.gate = dense(config.features, self.dtype)

    def write(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        rate, timescale = jnp.exp(self.rate_log), jnp.exp(self.timescale_log)
        decay = complex_decay(timescale * rate, timescale * self.frequency)
        scale = (decay - 1) / jax.lax.complex(-rate, self.frequency)
        return decay[None, None], scale[None, None] * as_complex(self.input(x).astype(rate.dtype))

    def read(self, x: jax.Array, states: jax.Array) -> jax.Array:
        u = nn.gelu(self.output(real_and_imaginary(states, self.dtype)) + self.skip.astype(self.dtype)[None, None] * x)
        return u * nn.sigmoid(self.gate(u))
