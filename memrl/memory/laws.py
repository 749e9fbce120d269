"""The laws of a memory (see `memrl.memory.base`) as checks that run on any configuration.

    from memrl.memory import laws

    laws.check(MyMemory(features=8))

A law that does not hold raises an AssertionError that says what went wrong. The laws are checked in float64 to 1e-10,
on `STEPS` steps of `BATCH` environments: choose sizes small enough to compile quickly, and segments or windows short
enough that `STEPS` steps cross several of them.
"""

import functools
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from memrl.memory.base import MemoryConfig, State, parameter_dtype, rows

STEPS, BATCH, INPUTS = 18, 3, 6
CUTS = ((6, 6, 6), (1, 6, 1, 1, 6, 1, 1, 1), (1,) * STEPS)
"""Ways to cut `STEPS` steps into unrolls; few different lengths, since each is compiled."""

# These programs run a few times each: what counts is how fast they compile, by these options up to five times faster.
_COMPILER_OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
if jax.__version_info__ < (0, 11):  # the option was removed
    _COMPILER_OPTIONS["xla_cpu_use_fusion_emitters"] = False
_jit = functools.partial(jax.jit, compiler_options=_COMPILER_OPTIONS)

Law = Callable[["Subject"], None]
LAWS: list[Law] = []
"""Every law, in the order in which `check` applies them."""


def since_reset(resets: np.ndarray) -> np.ndarray:
    """Which inputs an output remembers, for a memory that remembers all since the latest reset.

    Args:
      resets: bool `[T, B]`.

    Returns:
      bool `[T, B, T]`: whether the output `[t, b]` depends on the input of row `b` at each time.
    """
    time = np.arange(len(resets))
    began = np.maximum.accumulate(np.where(resets, time[:, None], 0))
    return (time >= began[:, :, None]) & (time <= time[:, None, None])


class Subject:
    """A memory under test: its parameters and compiled functions, shared by all laws.

    Args:
      config: the memory.
      remembers: which past inputs each output depends on, as `since_reset`; what its published method says.
      dtype: of computation and state.
    """

    def __init__(
        self,
        config: MemoryConfig,
        remembers: Callable[[np.ndarray], np.ndarray] = since_reset,
        dtype: jnp.dtype = jnp.float64,
    ) -> None:
        self.config = config
        self.remembers = remembers
        self.dtype = dtype
        self.memory = config.build(dtype)
        self.apply_step = functools.partial(self.memory.apply, method="step")
        self.apply_unroll = functools.partial(self.memory.apply, method="unroll")
        self._learn = _jit(self.apply_unroll)
        self._act = _jit(self._scan_of_step, donate_argnums=1)

    @functools.cached_property
    def params(self) -> dict:
        """Random parameters, moved from where they were initialised, so that no zero among them hides a path."""
        rng = np.random.default_rng(0)
        params = _jit(self.initialise)()
        return jax.tree.map(lambda p: p + jnp.asarray(0.1 * rng.standard_normal(p.shape), p.dtype), params)

    def initialise(self) -> dict:
        """The parameters as they are initialised, through `step`."""
        x, reset = jnp.zeros((BATCH, INPUTS), self.dtype), jnp.zeros(BATCH, bool)
        return self.memory.init(jax.random.key(1), self.initial_state(), x, reset, method="step")

    def initial_state(self, batch: int = BATCH, seed: int = 0) -> State:
        """The state of `batch` empty memories."""
        return self.memory.initial_state(batch, jax.random.key(seed))

    def later_state(self, seed: int = 0, xs: np.ndarray | None = None) -> State:
        """The state after `STEPS` steps without a reset, in the midst of whatever the memory does."""
        xs = _inputs(100) if xs is None else xs
        return self.learn(self.initial_state(seed=seed), xs, RESETS[0])[0]

    def variant(self, config: MemoryConfig) -> "Subject":
        """The memory `config` with the parameters of this one."""
        if config == self.config:
            return self
        other = Subject(config, self.remembers, self.dtype)
        other.params = self.params
        return other

    def learn(self, state: State, xs: np.ndarray, resets: np.ndarray) -> tuple[State, jax.Array]:
        """`unroll`, compiled."""
        return self._learn(self.params, state, jnp.asarray(xs, self.dtype), resets)

    def act(self, state: State, xs: np.ndarray, resets: np.ndarray, donate: bool = False) -> tuple[State, jax.Array]:
        """A scan of `step`, compiled. It donates its state, or a copy unless `donate`."""
        state = state if donate else jax.tree.map(jnp.copy, state)
        return self._act(self.params, state, jnp.asarray(xs, self.dtype), resets)

    def _scan_of_step(self, params: dict, state: State, xs: jax.Array, resets: jax.Array) -> tuple[State, jax.Array]:
        return jax.lax.scan(lambda state, inputs: self.apply_step(params, state, *inputs), state, (xs, resets))

    @functools.cached_property
    def jacobian(self) -> Callable:
        """Of a random projection of every output: by the parameters and by the inputs.

        Takes inputs and resets, returns a tree of `[T, B, ...]` and an array `[T, B, T, B, D]`.
        """
        state = self.initial_state()

        def project(params: dict, xs: jax.Array, resets: jax.Array) -> jax.Array:
            ys = self.apply_unroll(params, state, xs, resets)[1]
            return ys @ np.random.default_rng(1).standard_normal(ys.shape[-1])

        compiled = _jit(jax.jacrev(project, argnums=(0, 1)))
        return lambda xs, resets: compiled(self.params, jnp.asarray(xs, self.dtype), resets)


def check(config: MemoryConfig, remembers: Callable[[np.ndarray], np.ndarray] = since_reset) -> None:
    """Checks every law on the memory `config`.

    Args:
      config: a memory of small sizes.
      remembers: which past inputs each output depends on, as `since_reset`; what its published method says.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a donated buffer that could not be used is a warning
        subject = Subject(config, remembers)
        for law in LAWS:
            law(subject)


def _law(function: Law) -> Law:
    """Adds a law to `LAWS`, to be run with float64 at hand and no matrix product rounded to less."""

    @functools.wraps(function)
    def run(subject: Subject) -> None:
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            function(subject)

    LAWS.append(run)
    return run


def _inputs(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((STEPS, BATCH, INPUTS))


def _some_resets() -> list[np.ndarray]:
    """None; at different times in every row, adjacent, first and last; at random."""
    chosen = np.zeros((STEPS, BATCH), bool)
    chosen[[0, 6, 7], 1] = chosen[[3, 12, STEPS - 1], 2] = True
    return [np.zeros_like(chosen), chosen, np.random.default_rng(0).random(chosen.shape) < 0.2]


RESETS = _some_resets()
OTHERS = (_inputs(50), np.random.default_rng(51).choice([np.nan, np.inf, -np.inf, 1e30], _inputs(50).shape))
"""Inputs that must make no difference: ordinary ones, which no cleaning of NaN can hide, and the worst ones."""


def _poison_row(state: State, row: int) -> State:
    """`state` with NaN for every float of one row."""

    def poison(leaf: jax.Array) -> jax.Array:
        return leaf.at[row].set(jnp.nan) if leaf.ndim and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(poison, state)


def _same(actual: State, expected: State, complaint: str, tolerance: float = 1e-10) -> None:
    """Asserts that two trees agree in every leaf, and that the floats are finite."""
    for (path, a), e in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, e = jax.random.key_data(a), jax.random.key_data(e)
        a, e, where = np.asarray(a), np.asarray(e), f" at {jax.tree_util.keystr(path)}" if path else ""
        if not np.isfinite(e).all():
            raise AssertionError(f"{complaint}{where}: the values to compare with are not finite.")
        np.testing.assert_allclose(a, e, tolerance, tolerance, err_msg=complaint + where)


def _types(tree: State) -> list[tuple]:
    """Path, shape, dtype and weakness of the dtype of every leaf of what `jax.eval_shape` returned."""
    return [
        (jax.tree_util.keystr(path), leaf.shape, leaf.dtype, leaf.weak_type)
        for path, leaf in jax.tree.leaves_with_path(tree)
    ]


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise AssertionError(complaint)


def _check_types(subject: Subject) -> None:
    dtype = jnp.dtype(subject.dtype)
    xs, resets = jnp.zeros((STEPS, BATCH, INPUTS), dtype), RESETS[0]
    state, params = jax.eval_shape(subject.initial_state), jax.eval_shape(subject.initialise)
    _require(
        all(leaf.dtype == parameter_dtype(dtype) for leaf in jax.tree.leaves(params)),
        f"Parameters of a memory in {dtype} have other types than declared: {_types(params)}.",
    )
    for apply, x, reset in ((subject.apply_step, xs[0], resets[0]), (subject.apply_unroll, xs, resets)):
        after, y = jax.eval_shape(apply, params, state, x, reset)
        method = apply.keywords["method"]
        _require(
            jax.tree.structure(after) == jax.tree.structure(state) and _types(after) == _types(state),
            f"{method} changes the state from {_types(state)} to {_types(after)}.",
        )
        _require(
            (y.shape[:-1], y.dtype) == (x.shape[:-1], dtype),
            f"The outputs of {method} are {y.dtype}{y.shape} for inputs {dtype}{x.shape}.",
        )
    tokens = jax.eval_shape(subject.memory.tokens_attended, state)
    _require(
        tokens.dtype == jnp.int32 and tokens.shape in ((), (BATCH,)),
        f"tokens_attended returns {tokens.dtype}{tokens.shape}.",
    )


# 5. State shapes and dtypes never change. First, since the other laws would fail on it with less to say.


@_law
def shapes_and_dtypes_never_change(subject: Subject) -> None:
    """State, outputs and parameters have the declared shapes and dtypes, in the least and in the highest precision."""
    _check_types(subject)
    # Flax's RMSNorm promotes bfloat16 by itself, which JAX's strict mode forbids.
    with jax.numpy_dtype_promotion("standard"):
        _check_types(Subject(subject.config, dtype=jnp.bfloat16))
    larger = jax.eval_shape(lambda: subject.initial_state(BATCH + 2))
    smaller = jax.eval_shape(lambda: subject.initial_state(BATCH))
    for (path, a), b in zip(jax.tree.leaves_with_path(smaller), jax.tree.leaves(larger), strict=True):
        _require(
            a.shape == b.shape == () or (a.shape[0], b.shape) == (BATCH, (BATCH + 2, *a.shape[1:])),
            f"The state at {jax.tree_util.keystr(path)} is neither a scalar nor has the batch as its leading axis.",
        )


@_law
def capacity_and_noise_are_no_parameters(subject: Subject) -> None:
    """`with_capacity` and `without_noise` give the same memory, and room that is not needed changes nothing."""
    quiet = subject.config.without_noise()
    _require(quiet.without_noise() == quiet, "without_noise changes a memory without noise.")
    roomy, exact = (subject.config.with_capacity(steps) for steps in (3 * STEPS, STEPS))
    expected = _types(jax.eval_shape(subject.initialise))
    for config in (quiet, roomy, exact):
        _require(
            _types(jax.eval_shape(Subject(config).initialise)) == expected,
            f"The parameters of {config} differ from those of {subject.config}.",
        )
    if roomy != exact:
        more, enough = (
            variant.learn(variant.initial_state(), _inputs(0), RESETS[1])[1]
            for variant in (subject.variant(roomy), subject.variant(exact))
        )
        _same(more, enough, f"A capacity of {STEPS} steps forgets within {STEPS} steps.")


@_law
def jit_vmap_and_donation_work(subject: Subject) -> None:
    """A state can be made under jit, stacked over seeds by vmap, and donated from its first step on."""
    _same(_jit(subject.initial_state)(), subject.initial_state(), "initial_state differs under jit.")
    stack = functools.partial(jax.tree.map, lambda leaf: jnp.stack([leaf, leaf]))
    params, state = stack(subject.params), stack(subject.initial_state())
    for function, time in ((subject.apply_step, 0), (subject.apply_unroll, slice(None))):
        xs, resets = jnp.asarray(_inputs(0)[time]), RESETS[1][time]
        after, _ = jax.eval_shape(jax.vmap(function, (0, 0, None, None)), params, state, xs, resets)
        _require(_types(after) == _types(jax.eval_shape(lambda: state)), "vmap changes the types of the state.")
    # The first step of a run donates the initial state itself: no two leaves of it may share a buffer.
    subject.act(subject.initial_state(), _inputs(0), RESETS[1], donate=True)


# 1. unroll equals a scan of step.


def _agreement(subject: Subject, tolerance: float) -> None:
    for resets in RESETS:
        for state in (subject.initial_state(), subject.later_state()):
            learned = subject.learn(state, _inputs(0), resets)
            acted = subject.act(state, _inputs(0), resets)
            _same(learned[1], acted[1], "unroll and a scan of step differ in their outputs", tolerance)
            _same(learned[0], acted[0], "unroll and a scan of step differ in their final state", tolerance)


@_law
def unroll_equals_scan_of_step(subject: Subject) -> None:
    """Outputs and final state, from an empty memory and from one in use."""
    _agreement(subject, 1e-10)


@_law
def unroll_equals_scan_of_step_in_float32(subject: Subject) -> None:
    """The same in the precision of training, up to its rounding."""
    with jax.enable_x64(False):
        _agreement(Subject(subject.config, dtype=jnp.float32), 1e-4)


@_law
def cuts_change_nothing(subject: Subject) -> None:
    """However time is cut into consecutive unrolls, outputs and final state are the same."""
    for seed, resets in enumerate(RESETS):
        whole = subject.learn(subject.initial_state(), _inputs(seed), resets)
        for cut in CUTS:
            state, start, ys = subject.initial_state(), 0, []
            for steps in cut:
                piece = slice(start, start + steps)
                state, y = subject.learn(state, _inputs(seed)[piece], resets[piece])
                start += steps
                ys.append(y)
            _same((state, jnp.concatenate(ys)), whole, f"unrolls of {cut} steps differ from one of {STEPS}")


# 2. A reset forgets everything.


@_law
def resets_forget_everything(subject: Subject) -> None:
    """No output after a reset depends on inputs or state before it, be they ordinary, NaN or infinite."""
    resets = np.zeros((STEPS, BATCH), bool)
    resets[[0, 6, 11], np.arange(BATCH)] = True
    after = resets.cumsum(axis=0) > 0
    first = (np.arange(STEPS) == 0)[:, None]
    for run in (subject.learn, subject.act):
        state, expected = run(subject.later_state(), _inputs(0), resets)
        later = run(state, _inputs(1), RESETS[0])[1]
        for other in OTHERS:
            other_state, ys = run(subject.later_state(xs=other), np.where(after[..., None], _inputs(0), other), resets)
            complaint = "Outputs after a reset depend on what was before it"
            _same(ys[after], expected[after], complaint)
            _same(run(other_state, _inputs(1), RESETS[0])[1], later, complaint)
        with_first, without = (
            run(subject.initial_state(), _inputs(0), changed)[1] for changed in (resets | first, resets & ~first)
        )
        _same(with_first, without, "A reset before the first step is not the same as an empty memory")


# 3. Causality.


@_law
def outputs_do_not_see_the_future(subject: Subject) -> None:
    """Later inputs and resets, ordinary, NaN or infinite, change no earlier output of an unroll."""
    for resets in RESETS:
        expected = subject.learn(subject.initial_state(), _inputs(0), resets)[1]
        for time in (1, 4, 5, 9, STEPS - 1):
            for other in OTHERS:
                later = np.arange(STEPS)[:, None] >= time
                xs = np.where(later[..., None], other, _inputs(0))
                ys = subject.learn(subject.initial_state(), xs, resets ^ later)[1]
                _same(ys[:time], expected[:time], f"Inputs from step {time} on change earlier outputs")


# 4. Rows never mix.


@_law
def rows_never_mix(subject: Subject) -> None:
    """No row sees another one, and a part of the batch gives that part of the results, in whichever order."""
    state, resets = subject.later_state(), RESETS[1]
    for run in (subject.learn, subject.act):
        after, ys = run(state, _inputs(0), resets)
        for row in range(BATCH):
            others = np.delete(np.arange(BATCH), row)
            for other in OTHERS:
                xs, changed = _inputs(0), resets.copy()
                xs[:, row], changed[:, row] = other[:, row], ~resets[:, row]
                result = run(_poison_row(state, row), xs, changed)
                complaint = f"What happens in row {row} changes other rows"
                _same(result[1][:, others], ys[:, others], complaint)
                _same(rows(result[0], others), rows(after, others), complaint)
        parts = [np.array([1, 2, 0])]
        if run == subject.learn:  # as in minibatches; acting is not compiled for it, since it agrees with learning
            parts.append(np.array([2, 0]))
        for index in parts:
            part = run(rows(state, index), _inputs(0)[:, index], resets[:, index])
            _same(part, (rows(after, index), ys[:, index]), f"The rows {index} alone differ from those of the batch")


# 6. Gradients.


@_law
def gradients_reach_every_parameter(subject: Subject) -> None:
    """Every element of every parameter moves some output."""
    by_params, _ = subject.jacobian(_inputs(0), RESETS[1])
    for path, gradient in jax.tree.leaves_with_path(by_params):
        silent = (np.asarray(gradient) == 0).all(axis=(0, 1))
        _require(
            not silent.any(),
            f"{silent.sum()} of {silent.size} elements of {jax.tree_util.keystr(path)} move no output.",
        )


@_law
def gradients_reach_the_published_inputs(subject: Subject) -> None:
    """The derivative of an output by an input is non-zero exactly where the method remembers that input."""
    for resets in RESETS:
        _, by_inputs = subject.jacobian(_inputs(0), resets)
        depends = (np.asarray(by_inputs) != 0).any(axis=-1)  # [T, B, T, B]
        own = np.einsum("tbsb->tbs", depends)
        _require(
            depends.sum() == own.sum(),
            "The gradient of an output by another row is not zero.",
        )
        wrong = np.argwhere(own != subject.remembers(resets))
        if len(wrong):
            t, b, s = wrong[0]
            verb = "depends" if own[t, b, s] else "does not depend"
            raise AssertionError(f"By its gradient, the output at step {t} of row {b} {verb} on the input at step {s}.")


# 7. Anything random is drawn from the state.


@_law
def randomness_is_in_the_state(subject: Subject) -> None:
    """Outputs repeat with the key of the initial state, and change with it exactly if the configuration says so."""

    def outputs(subject: Subject, seed: int) -> jax.Array:
        return subject.learn(subject.initial_state(seed=seed), _inputs(0), RESETS[1])[1]

    _same(
        subject.memory.initial_state(BATCH),
        subject.initial_state(seed=0),
        "initial_state without key is not that of key(0)",
    )
    _same(outputs(subject, 0), outputs(subject, 0), "The same key gives different outputs")
    quiet = subject.variant(subject.config.without_noise())
    if quiet is not subject:
        _require(
            any((outputs(subject, seed) != outputs(subject, 0)).any() for seed in range(1, 9)),
            "The key changes nothing, though without_noise changes the configuration.",
        )
    for seed in range(1, 4):
        _same(outputs(quiet, seed), outputs(quiet, 0), "The key changes the outputs of a memory without noise")
