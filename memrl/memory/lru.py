"""LRU, the linear recurrent unit: complex numbers that turn and fade, each by itself."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

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
class LRU(RecurrenceStackConfig):
    """Linear recurrent unit (Orvieto et al., arXiv 2303.06349, sections 3 and 4), `N` complex numbers in each layer.

        λ = exp(-exp(ν) + i exp(θ))
        h ← λ ⊙ h + exp(γ) ⊙ (B x)
        u = gelu(Re(C h) + D ⊙ x)
        y = (W_1 u + b_1) ⊙ σ(W_2 u + b_2)

    `λ` starts uniform on a ring, `r_min <= |λ| <= r_max` and `0 <= arg λ <= max_phase`, and `exp(γ)` at the
    normalisation `sqrt(1 - |λ|²)`, which keeps the variance of `h` that of `B x`. `ν`, `θ` and `γ` are learned.

    The published stack normalises by batches (LayerNorm is an option of the reference code), with no final norm.
    """

    state_features: int = 128
    """Complex numbers N in the state of a layer."""
    r_min: float = 0.9
    """Least magnitude of an initial eigenvalue `λ`; half-lives in steps are `ln 2 / -ln |λ|`: 0.9 is 6.6, 0.999 693."""
    r_max: float = 0.999
    """Greatest magnitude of an initial eigenvalue `λ`."""
    max_phase: float = 2 * math.pi
    """Greatest angle of an initial eigenvalue `λ`, by which the state turns at each step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.r_min < self.r_max <= 1:
            raise ValueError(
                f"memory.r_min is {self.r_min} and memory.r_max is {self.r_max}: they must satisfy "
                "0 <= r_min < r_max <= 1."
            )
        if not self.max_phase > 0:
            raise ValueError(f"memory.max_phase is {self.max_phase}: it must be greater than 0.")

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return RecurrenceStack(self, LRULayer, is_complex=True, dtype=dtype)


class LRULayer(Recurrence[LRU]):
    """The equations of `LRU`."""

    def setup(self) -> None:
        config, wide = self.config, parameter_dtype(self.dtype)
        size = (config.state_features,)
        tiny = float(jnp.finfo(jnp.float32).tiny)  # no logarithm of 0

        def ring(key: jax.Array) -> jax.Array:
            squared = jax.random.uniform(key, size, wide, max(config.r_min**2, tiny), config.r_max**2)
            return jnp.log(-jnp.log(squared) / 2)

        def phase(key: jax.Array) -> jax.Array:
            return jnp.log(jax.random.uniform(key, size, wide, tiny, config.max_phase))

        self.nu_log = self.param("nu_log", ring)
        self.theta_log = self.param("theta_log", phase)
        self.gamma_log = self.param("gamma_log", lambda _: jnp.log(-jnp.expm1(-2 * jnp.exp(self.nu_log))) / 2)
        self.skip = self.param("skip", nn.initializers.normal(1.0), (config.features,), wide)
        self.input = self.linear(2 * config.state_features, (2 * config.features) ** -0.5)
        self.output = self.linear(config.features, config.state_features**-0.5)
        self.glu = dense(2 * config.features, self.dtype)

    def write(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        decay = complex_decay(jnp.exp(self.nu_log), jnp.exp(self.theta_log))
        scale = jnp.tile(jnp.exp(self.gamma_log), 2)[None, None]
        return decay[None, None], as_complex(self.input(x).astype(scale.dtype) * scale)

    def read(self, x: jax.Array, states: jax.Array) -> jax.Array:
        u = nn.gelu(self.output(real_and_imaginary(states, self.dtype)) + self.skip.astype(self.dtype)[None, None] * x)
        value, gate = jnp.split(self.glu(u), 2, axis=-1)
        return value * nn.sigmoid(gate)
