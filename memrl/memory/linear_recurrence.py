"""Memories whose state is a linear recurrence, `h_t = a_t ⊙ h_{t-1} + b_t`: LRU, S5, minGRU, FFM.

Neither `a_t` nor `b_t` depends on the state, so all steps of an unroll can be computed at once: two consecutive steps
are one step with decay `a_2 a_1` and input `a_2 b_1 + b_2`. `linear_scan` does that for all of them, resets included.

In all four `|a_t|` never exceeds 1, whatever the parameters become, so no state explodes in a long episode. The
recurrence runs in float32 at least, since a decay of 0.999 is 1 in bfloat16. States of complex numbers are carried
as their real and imaginary parts.

LRU, S5 and minGRU are stacks: an input projection, then layers with a residual connection around each,
`x ← x + layer(LayerNorm(x))`, and a LayerNorm at the end.
"""

import dataclasses
import math
from typing import Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from memrl.memory.base import Memory, MemoryConfig, State, parameter_dtype

Form = Literal["auto", "sequential", "associative", "chunked"]
"""How `linear_scan` computes: step by step; as a tree of log T levels; tree by tree over chunks of `CHUNK` steps."""
CHUNK = 64


def linear_scan(
    decays: jax.Array, inputs: jax.Array, initial: jax.Array, resets: jax.Array, form: Form = "auto"
) -> jax.Array:
    """The states `h_t = a_t ⊙ h_{t-1} + b_t`; where an episode begins, `h_t = b_t` whatever was before, NaN included.

    All forms do the same up to rounding. Automatically, it is step by step on a CPU, where a tree only adds work, and
    the tree elsewhere. Milliseconds on a CPU for states and gradients, B = 16, 128 float32 or complex64 numbers:

                        T = 128              T = 1024
                     real  complex        real  complex
        sequential    1.0      1.9          11       41
        associative   2.4      4.0          51       75
        chunked       2.2      5.6          36       80

    The gradient is written down as what it is, the same recurrence backwards in time. It needs decays and states, no
    more, where differentiating through a tree would keep every level of it.

    Args:
      decays: `a`, real or complex, broadcastable to the inputs: `[T, B, ..]`, each axis may be 1.
      inputs: `b`, `[T, B, ..]`.
      initial: the state before the first step, `[B, ..]`.
      resets: bool `[T, B]`.
      form: see `Form`.

    Returns:
      The states after each step, `[T, B, ..]`.
    """
    if form == "auto":
        form = "sequential" if jax.default_backend() == "cpu" else "associative"
    return _linear_scan(form, decays, inputs, initial, resets.reshape(resets.shape + (1,) * (inputs.ndim - 2)))


def _forward(form: Form, decays: jax.Array, inputs: jax.Array, initial: jax.Array, resets: jax.Array) -> jax.Array:
    decays = jnp.broadcast_to(decays, inputs.shape[:1] + decays.shape[1:])
    return _FORMS[form](decays, inputs, initial, resets)


def _sequential(decays: jax.Array, inputs: jax.Array, initial: jax.Array, resets: jax.Array) -> jax.Array:
    def step(state: jax.Array, elements: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        decay, b, reset = elements
        state = jnp.where(reset, b, decay * state + b)
        return state, state

    return jax.lax.scan(step, initial, (decays, inputs, resets))[1]


def _associative(decays: jax.Array, inputs: jax.Array, initial: jax.Array, resets: jax.Array) -> jax.Array:
    first = jnp.where(resets[0], inputs[0], decays[0] * initial + inputs[0])
    elements = (decays, inputs.at[0].set(first), resets)
    return jax.lax.associative_scan(_combine, elements)[1]


def _combine(earlier: tuple[jax.Array, ...], later: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Two stretches of time as one. The decay of a stretch with a reset in it is never used."""
    (decay_1, b_1, reset_1), (decay_2, b_2, reset_2) = earlier, later
    return decay_2 * decay_1, jnp.where(reset_2, b_2, decay_2 * b_1 + b_2), reset_1 | reset_2


def _chunked(decays: jax.Array, inputs: jax.Array, initial: jax.Array, resets: jax.Array) -> jax.Array:
    steps = len(inputs)
    chunks = -(-steps // CHUNK)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, chunks * CHUNK - steps)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(chunks, CHUNK, *x.shape[1:])

    def chunk(state: jax.Array, elements: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        decays, inputs, resets = elements
        states = _associative(decays, inputs, state, resets)
        return states[-1], states

    states = jax.lax.scan(chunk, initial, (cut(decays), cut(inputs), cut(resets)))[1]
    return states.reshape(chunks * CHUNK, *inputs.shape[1:])[:steps]


_FORMS = {"sequential": _sequential, "associative": _associative, "chunked": _chunked}

_linear_scan = jax.custom_vjp(_forward, nondiff_argnums=(0,))


def _linear_scan_forward(
    form: Form, decays: jax.Array, inputs: jax.Array, initial: jax.Array, resets: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    states = _linear_scan(form, decays, inputs, initial, resets)
    return states, (decays, states, initial, resets)


def _linear_scan_backward(form: Form, saved: tuple[jax.Array, ...], cotangents: jax.Array) -> tuple:
    """What the loss gains by each input obeys `g_t = cotangent_t + a_{t+1} g_{t+1}`, cut where step `t + 1` resets."""
    decays, states, initial, resets = saved
    decays_in_time = jnp.broadcast_to(decays, states.shape[:1] + decays.shape[1:])
    # Backwards in time, with what belongs to the following step; nothing flows into the last one.
    cut = jnp.concatenate([resets[1:], jnp.ones_like(resets[:1])])[::-1]
    following = jnp.roll(decays_in_time, -1, axis=0)[::-1]
    gains = _linear_scan(form, following, cotangents[::-1], jnp.zeros_like(initial), cut)[::-1]
    before = jnp.where(resets, 0, jnp.concatenate([initial[None], states[:-1]]))
    by_decays = gains * before
    shared = tuple(axis for axis, size in enumerate(decays.shape) if size < by_decays.shape[axis])
    by_initial = jnp.where(resets[0], 0, decays_in_time[0] * gains[0])
    return by_decays.sum(axis=shared, keepdims=True), gains, by_initial, None


_linear_scan.defvjp(_linear_scan_forward, _linear_scan_backward)


@dataclasses.dataclass(frozen=True)
class LinearRecurrenceConfig(MemoryConfig):
    """Hyperparameters that all linear recurrences share."""

    features: int = 64
    """Width D of the layers and of the output."""
    scan: Form = "auto"
    """How learning runs the recurrence; a matter of speed and memory alone, see `Form`."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.type is int and getattr(self, field.name) < 1:
                raise ValueError(f"memory.{field.name} is {getattr(self, field.name)}: it must be at least 1.")
        if self.scan not in get_args(Form):
            raise ValueError(f"memory.scan is {self.scan}: it must be one of {', '.join(get_args(Form))}.")


@dataclasses.dataclass(frozen=True)
class LRU(LinearRecurrenceConfig):
    """Linear recurrent unit (Orvieto et al., arXiv 2303.06349, sections 3 and 4), `N` complex numbers in each layer.

        λ = exp(-exp(ν) + i exp(θ))
        h ← λ ⊙ h + exp(γ) ⊙ (B x)
        u = gelu(Re(C h) + D ⊙ x)
        y = (W_1 u + b_1) ⊙ σ(W_2 u + b_2)

    `λ` starts uniform on a ring, `r_min <= |λ| <= r_max` and `0 <= arg λ <= max_phase`, and `exp(γ)` at the
    normalisation `sqrt(1 - |λ|²)`, which keeps the variance of `h` that of `B x`. `ν`, `θ` and `γ` are learned.

    The published stack normalises by batches (LayerNorm is an option of the reference code), with no final norm.
    """

    layers: int = 2
    """Layers, each with a state of its own."""
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


@dataclasses.dataclass(frozen=True)
class S5(LinearRecurrenceConfig):
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

    layers: int = 2
    """Layers, each with a state of its own."""
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


@dataclasses.dataclass(frozen=True)
class MinGRU(LinearRecurrenceConfig):
    """Minimal gated recurrent unit (Feng et al., arXiv 2410.01201, section 3.1 and appendix B), `N` numbers a layer.

        z = σ(W_z x + b_z)
        h ← (1 - z) ⊙ h + z ⊙ g(W_h x + b_h)      g(v) = v + 0.5 where v >= 0, else σ(v)
        y = W_o h + b_o

    Each state is a convex combination of `g(.)`, so it never exceeds the largest of them: nothing can overflow, and the
    published computation in log space, which serves that, is not needed. The published block has more parts that can
    be switched off, a convolution over 4 steps and an MLP, and RMSNorm in place of LayerNorm.

    The biases `b_z` start at `-ln n` with `n` evenly spaced from 1 to `longest_memory`, so that number `n` forgets at
    first a share `1 / (1 + n)` at each step (chrono initialisation, Tallec and Ollivier, arXiv 1804.11188, section 2).
    The published ones start near 0: half of everything is forgotten at each step, and what was seen 30 steps ago has
    weight 10⁻⁹ and no gradient. With those, Repeat First ended at a return of 0.48 of 1; with these, at 1.00.

    It does not quite learn Repeat Previous (`gru_repeat_previous --memory mingru`: return 0.48 of 1 after 0.5 million
    steps, 0.82 after a million; 0.90 after 1.5 million at a learning rate of 5e-3): gates that see inputs alone can
    only approximate a queue, by sums of what fades at different rates. The published convolution would hand it the
    latest 4 inputs.
    """

    layers: int = 2
    """Layers, each with a state of its own."""
    state_features: int = 128
    """Numbers N in the state of a layer: the width times the published expansion factor."""
    longest_memory: int = 100
    """Greatest initial time constant, in steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.longest_memory < 1:
            raise ValueError(f"memory.longest_memory is {self.longest_memory}: it must be at least 1.")

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return RecurrenceStack(self, MinGRULayer, is_complex=False, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class FFM(LinearRecurrenceConfig):
    """Fast and forgetful memory (Morad et al., arXiv 2310.04128, section 4): `m` decays times `c` frequencies.

        x̃ = (W_1 x + b_1) ⊙ σ(W_2 x + b_2)                                  input gate, [m]
        S ← exp(-α ⊕ i ω) ⊙ S + x̃ 1ᵀ                                        [m, c], complex
        z = W_3 [Re S, Im S] + b_3
        y = LN(z) ⊙ σ(W_4 x + b_4) + (W_5 x + b_5) ⊙ (1 - σ(W_4 x + b_4))    output gate, LN without parameters

    `α` and `ω` are learned and do not depend on the input. They start evenly spaced as in the reference code: `α` from
    `ln 2 - 0.02`, half gone in a step, down to 1% left after `longest_period` steps; the periods `2π / ω` from 1, which
    is no oscillation, up to `longest_period`. `α` is the exponential of a parameter; the reference clips it, to at
    least 1e-8 and, against the overflow of its parallel form, at most `ln 2 - 0.01`.

    It does not learn Repeat First (`gru_repeat_first --memory ffm`: return 0.27 of 1; 0.40 after a million steps at a
    learning rate of 5e-3; 0.38 with 16 contexts of periods up to 64). What is written, and how it fades, depends on the
    input alone, in one layer: the first symbol has to be told from the sum of all by its phase. Repeat Previous it
    learns (0.99).
    """

    features: int = 128
    """Width F of the output."""
    traces: int = 32
    """Decay rates m, the published memory size."""
    contexts: int = 4
    """Frequencies c, the published context size."""
    longest_period: int = 1024
    """Steps of the longest initial period, after which 1% is left of the slowest trace."""

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return FFMMemory(self, dtype)


class Complex(NamedTuple):
    """Complex numbers as two real arrays."""

    real: jax.Array
    imag: jax.Array


def _empty(shape: tuple[int, ...], dtype: jnp.dtype, is_complex: bool) -> State:
    wide = parameter_dtype(dtype)
    return Complex(jnp.zeros(shape, wide), jnp.zeros(shape, wide)) if is_complex else jnp.zeros(shape, wide)


def _decay(rate: jax.Array, angle: jax.Array) -> jax.Array:
    """`exp(-rate + i angle)`."""
    magnitude = jnp.exp(-rate)
    return jax.lax.complex(magnitude * jnp.cos(angle), magnitude * jnp.sin(angle))


def _halves(x: jax.Array) -> jax.Array:
    """Complex `[.., N]` from real and imaginary parts side by side, `[.., 2N]`."""
    return jax.lax.complex(*jnp.split(x, 2, axis=-1))


def _parts(states: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Real and imaginary parts side by side, `[T, B, 2N]`, of complex `[T, B, ..]`."""
    return jnp.concatenate([states.real, states.imag], axis=-1).reshape(*states.shape[:2], -1).astype(dtype)


class Recurrence(nn.Module):
    """A linear recurrence with what is before and after it. A subclass has the equations of its config."""

    config: LinearRecurrenceConfig
    dtype: jnp.dtype

    def __call__(self, state: State, x: jax.Array, resets: jax.Array) -> tuple[State, jax.Array]:
        """From the inputs `[T, B, D]`, the state after the last one and the outputs `[T, B, F]`."""
        decays, inputs = self.write(x)
        self.sow("intermediates", "decay", jnp.abs(decays))
        before = jax.lax.complex(*state) if isinstance(state, Complex) else state
        states = linear_scan(decays, inputs, before, resets, self.config.scan)
        last = states[-1]
        return Complex(last.real, last.imag) if isinstance(state, Complex) else last, self.read(x, states)

    def write(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Decays and inputs of the recurrence, `a` and `b` of `linear_scan`, from `x` `[T, B, D]`."""
        raise NotImplementedError

    def read(self, x: jax.Array, states: jax.Array) -> jax.Array:
        """The outputs `[T, B, F]` from the inputs and the states `[T, B, ..]`."""
        raise NotImplementedError

    def dense(
        self,
        features: int,
        stddev: float | None = None,
        bias_init: nn.initializers.Initializer = nn.initializers.zeros,
    ) -> nn.Dense:
        """A projection; with `stddev`, that of its initial kernel, it has no bias."""
        kernel_init = nn.linear.default_kernel_init if stddev is None else nn.initializers.normal(stddev)
        return nn.Dense(
            features,
            use_bias=stddev is None,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dtype=self.dtype,
            param_dtype=parameter_dtype(self.dtype),
        )


class LRULayer(Recurrence):
    """The equations of `LRU`."""

    config: LRU

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
        self.input = self.dense(2 * config.state_features, (2 * config.features) ** -0.5)
        self.output = self.dense(config.features, config.state_features**-0.5)
        self.glu = self.dense(2 * config.features)

    def write(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        decay = _decay(jnp.exp(self.nu_log), jnp.exp(self.theta_log))
        scale = jnp.tile(jnp.exp(self.gamma_log), 2)[None, None]
        return decay[None, None], _halves(self.input(x).astype(scale.dtype) * scale)

    def read(self, x: jax.Array, states: jax.Array) -> jax.Array:
        u = nn.gelu(self.output(_parts(states, self.dtype)) + self.skip.astype(self.dtype)[None, None] * x)
        value, gate = jnp.split(self.glu(u), 2, axis=-1)
        return value * nn.sigmoid(gate)


def hippo_frequencies(pairs: int) -> np.ndarray:
    """The positive imaginary parts, increasing, of the eigenvalues of the normal part of HiPPO-LegS of size `2 pairs`.

    That part is `-1/2` on the diagonal, `-sqrt((2n + 1)(2k + 1)) / 2` below and the same above it but for the sign
    (arXiv 2208.04933, section 4.2); its eigenvalues all have real part `-1/2`.
    """
    root = np.sqrt(2 * np.arange(2 * pairs) + 1)
    below = np.tril(np.outer(root, root) / 2, -1)
    return np.linalg.eigvalsh(1j * (below - below.T))[pairs:]


class S5Layer(Recurrence):
    """The equations of `S5`."""

    config: S5

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
        self.input = self.dense(2 * pairs, (2 * config.features) ** -0.5)
        self.output = self.dense(config.features, 2 * (2 * pairs) ** -0.5)
        self.gate = self.dense(config.features)

    def write(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        rate, timescale = jnp.exp(self.rate_log), jnp.exp(self.timescale_log)
        decay = _decay(timescale * rate, timescale * self.frequency)
        scale = (decay - 1) / jax.lax.complex(-rate, self.frequency)
        return decay[None, None], scale[None, None] * _halves(self.input(x).astype(rate.dtype))

    def read(self, x: jax.Array, states: jax.Array) -> jax.Array:
        u = nn.gelu(self.output(_parts(states, self.dtype)) + self.skip.astype(self.dtype)[None, None] * x)
        return u * nn.sigmoid(self.gate(u))


class MinGRULayer(Recurrence):
    """The equations of `MinGRU`."""

    config: MinGRU

    def setup(self) -> None:
        config = self.config

        def remember_long(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
            return -jnp.log(jnp.linspace(1, config.longest_memory, *shape, dtype=dtype))

        self.update_gate = self.dense(config.state_features, bias_init=remember_long)
        self.candidate = self.dense(config.state_features)
        self.output = self.dense(config.features)

    def write(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        wide = parameter_dtype(self.dtype)
        gate, candidate = self.update_gate(x).astype(wide), self.candidate(x).astype(wide)
        candidate = jnp.where(candidate >= 0, candidate + 0.5, nn.sigmoid(candidate))
        return nn.sigmoid(-gate), nn.sigmoid(gate) * candidate

    def read(self, x: jax.Array, states: jax.Array) -> jax.Array:
        return self.output(states.astype(self.dtype))


class FFMCell(Recurrence):
    """The equations of `FFM`."""

    config: FFM

    def setup(self) -> None:
        config, wide = self.config, parameter_dtype(self.dtype)
        fastest = math.log(2) - 0.02
        slowest = min(fastest, math.log(100) / config.longest_period)
        self.alpha_log = self.param(
            "alpha_log", lambda _: jnp.log(jnp.linspace(fastest, slowest, config.traces, dtype=wide))
        )
        self.omega = self.param(
            "omega", lambda _: 2 * math.pi / jnp.linspace(1, config.longest_period, config.contexts, dtype=wide)
        )
        self.input, self.input_gate = self.dense(config.traces), self.dense(config.traces)
        self.skip, self.output_gate = self.dense(config.features), self.dense(config.features)
        self.mix = self.dense(config.features)
        self.norm = _layer_norm(self.dtype, affine=False)

    def write(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        gate = nn.sigmoid(self.input_gate(x))
        self.sow("intermediates", "write", gate)
        written = (self.input(x) * gate).astype(parameter_dtype(self.dtype))[..., None]
        decay = _decay(jnp.exp(self.alpha_log)[:, None], self.omega[None])
        inputs = jnp.broadcast_to(written, (*x.shape[:2], *decay.shape))
        return decay[None, None], jax.lax.complex(inputs, jnp.zeros_like(inputs))

    def read(self, x: jax.Array, states: jax.Array) -> jax.Array:
        gate = nn.sigmoid(self.output_gate(x))
        self.sow("intermediates", "read", gate)
        return self.norm(self.mix(_parts(states, self.dtype))) * gate + self.skip(x) * (1 - gate)


def _layer_norm(dtype: jnp.dtype, affine: bool = True) -> nn.LayerNorm:
    return nn.LayerNorm(
        use_bias=affine,
        use_scale=affine,
        dtype=dtype,
        param_dtype=parameter_dtype(dtype),
        # Flax's own switch to float32 asks for an implicit promotion that does not exist from float64.
        force_float32_reductions=dtype != jnp.float64,
    )


class LinearRecurrentMemory(Memory):
    """What the memories of this file have in common: a step is an unroll of length 1."""

    def step(self, state: State, x: jax.Array, reset: jax.Array) -> tuple[State, jax.Array]:
        state, ys = self.unroll(state, x[None], reset[None])
        return state, ys[0]

    def tokens_attended(self, state: State) -> jax.Array:
        return jnp.int32(0)


class RecurrenceStack(LinearRecurrentMemory):
    """A residual stack, see the module docstring. The state is a tuple with that of each layer, `[B, N]`."""

    config: LRU | S5 | MinGRU
    layer: type[Recurrence]
    is_complex: bool
    dtype: jnp.dtype

    def setup(self) -> None:
        config = self.config
        self.input_projection = nn.Dense(config.features, dtype=self.dtype, param_dtype=parameter_dtype(self.dtype))
        self.norms = [_layer_norm(self.dtype) for _ in range(config.layers)]
        self.layers = [self.layer(config, self.dtype) for _ in range(config.layers)]
        self.final_norm = _layer_norm(self.dtype)

    def initial_state(self, batch: int, key: jax.Array | None = None) -> State:
        shape = (batch, self.config.state_features)
        return tuple(_empty(shape, self.dtype, self.is_complex) for _ in range(self.config.layers))

    def unroll(self, state: State, xs: jax.Array, resets: jax.Array) -> tuple[State, jax.Array]:
        x = self.input_projection(xs)
        after = []
        for norm, layer, before in zip(self.norms, self.layers, state, strict=True):
            last, y = layer(before, norm(x), resets)
            x = x + y
            after.append(last)
        return tuple(after), self.final_norm(x)


class FFMMemory(LinearRecurrentMemory):
    """An FFM cell as a memory. The state is complex `[B, m, c]`."""

    config: FFM
    dtype: jnp.dtype

    def setup(self) -> None:
        self.cell = FFMCell(self.config, self.dtype)

    def initial_state(self, batch: int, key: jax.Array | None = None) -> State:
        return _empty((batch, self.config.traces, self.config.contexts), self.dtype, is_complex=True)

    def unroll(self, state: State, xs: jax.Array, resets: jax.Array) -> tuple[State, jax.Array]:
        return self.cell(state, xs, resets)
