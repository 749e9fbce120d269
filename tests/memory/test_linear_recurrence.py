"""The linear recurrences: every form of the scan is the plain loop, every memory computes its published equations."""

import dataclasses
import functools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import dense, gelu, layer_norm, normalised, sigmoid

from memrl.memory import FFM, LRU, S5, MinGRU
from memrl.memory import linear_scan as linear_scan_module
from memrl.memory.linear_scan import linear_scan

FORMS = ("sequential", "associative", "chunked")
BATCH = 3


def loop(decays, inputs, initial, resets):
    """The recurrence as a loop in NumPy."""
    states, state = [], initial
    for decay, b, reset in zip(np.broadcast_to(decays, inputs.shape), inputs, resets, strict=True):
        state = np.where(reset.reshape(-1, *[1] * (b.ndim - 1)), b, decay * state + b)
        states.append(state)
    return np.stack(states)


def numbers(rng, shape, dtype):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape)).astype(dtype) if np.issubdtype(dtype, np.complexfloating) else x


def problem(rng, steps, dtype=np.float64, decays=(None, BATCH, 4), width=(4,)):
    """Decays of magnitude below 1 (`None` stands for the steps), inputs, initial state and resets.

    The first row begins anew with the first step, the last one goes on with the initial state.
    """
    shape = tuple(steps if size is None else size for size in decays)
    decay = numbers(rng, shape, dtype)
    decay *= rng.uniform(0.5, 1, shape) / np.abs(decay)
    resets = rng.random((steps, BATCH)) < 0.15
    resets[0, 0], resets[0, -1] = True, False
    return decay, numbers(rng, (steps, BATCH, *width), dtype), numbers(rng, (BATCH, *width), dtype), resets


@pytest.fixture
def short_chunks(monkeypatch):
    monkeypatch.setattr(linear_scan_module, "CHUNK", 5)


SHAPES = {
    "vectors": {},
    "complex": {"dtype": np.complex128},
    "constant": {"dtype": np.complex128, "decays": (1, 1, 4)},
    "matrices": {"decays": (None, BATCH, 1, 1), "width": (2, 3)},
}


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_loop(form, shapes):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        for steps in (1, 13):
            arguments = problem(rng, steps, **SHAPES[shapes])
            states = jax.jit(functools.partial(linear_scan, form=form))(*arguments)
            np.testing.assert_allclose(states, loop(*arguments), 1e-12, 1e-12)


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_that_of_the_loop(form, shapes):
    """The gradient that is written down, against the one that JAX derives from a loop."""
    rng = np.random.default_rng(1)
    decays, inputs, initial, resets = problem(rng, 13, **SHAPES[shapes])
    weights = rng.standard_normal((2, *inputs.shape))

    def loss(states):
        return (states.real * weights[0] + states.imag**2 * weights[1] + states.real * states.imag).sum()

    def plain(decays, inputs, initial):
        def step(state, elements):
            decay, b, reset = elements
            state = decay * jnp.where(reset.reshape(-1, *[1] * (b.ndim - 1)), 0, state) + b
            return state, state

        decays = jnp.broadcast_to(decays, inputs.shape[:1] + decays.shape[1:])
        return loss(jax.lax.scan(step, initial, (decays, inputs, jnp.asarray(resets)))[1])

    with jax.enable_x64(True):
        expected = jax.jit(jax.grad(plain, (0, 1, 2)))(decays, inputs, initial)
        scan = functools.partial(linear_scan, resets=resets, form=form)
        actual = jax.jit(jax.grad(lambda *a: loss(scan(*a)), (0, 1, 2)))(decays, inputs, initial)
        for a, e in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, e, 1e-12, 1e-12)


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("worst", [np.nan, np.inf, 1e30])
def test_nothing_passes_a_reset_or_goes_back_in_time(form, worst):
    """Neither states nor gradients feel what is beyond a reset, nor states what comes later."""
    decays, inputs, initial, _ = problem(np.random.default_rng(2), 13)
    time = np.arange(13)[:, None, None]
    resets = np.broadcast_to(time[..., 0] == 7, (13, BATCH))

    @jax.jit
    def run(weights, decays, inputs, initial):
        """The states, and the gradients of their weighted sum by decays and inputs."""
        states, pull = jax.vjp(lambda d, b: linear_scan(d, b, initial, resets, form), decays, inputs)
        return states, *pull(weights)

    with jax.enable_x64(True):
        for keep in (time >= 7, time < 7):
            weights = np.where(keep, 1.0, np.zeros_like(inputs))
            good = run(weights, decays, inputs, initial)
            others = (np.where(keep, x, worst) for x in (decays, inputs))
            bad = run(weights, *others, initial if keep[0] else np.full_like(initial, worst))
            for a, e in zip(bad, good, strict=True):
                np.testing.assert_array_equal(a[keep[:, 0, 0]], e[keep[:, 0, 0]])


STEPS, INPUTS, FEATURES, STATE = 6, 4, 5, 3
CONFIGS = {
    "lru": LRU(FEATURES, layers=2, state_features=STATE),
    "s5": S5(FEATURES, layers=2, state_features=STATE),
    "mingru": MinGRU(FEATURES, layers=2, state_features=STATE),
    "ffm": FFM(FEATURES, traces=STATE, contexts=2),
}


def parameters_of(memory, key, inputs=INPUTS):
    x, reset = jnp.zeros((1, inputs)), jnp.zeros(1, bool)
    init = jax.jit(functools.partial(memory.init, method="step"))
    return init(key, memory.initial_state(1), x, reset)["params"]


def perturbed(params, key, scale):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    leaves = [leaf + scale * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, leaves)


def unroll(memory, params, xs, resets=None):
    resets = jnp.zeros(xs.shape[:2], bool) if resets is None else resets
    run = jax.jit(functools.partial(memory.apply, method="unroll"))
    return run({"params": params}, memory.initial_state(xs.shape[1]), xs, resets)


def as_complex(kernel):
    """A complex kernel from columns of real and of imaginary parts."""
    real, imag = np.split(kernel, 2, axis=1)
    return real + 1j * imag


def real_part(p, h):
    """`Re(C h)`: what the rows of `C` say of real parts, less what those of `-Im C` say of imaginary parts."""
    real, minus_imag = np.split(p["kernel"], 2)
    return (h @ (real - 1j * minus_imag)).real


def lru_layer(p, xs):
    lam = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]))
    h = np.zeros((BATCH, STATE), complex)
    for x in xs:
        h = lam * h + np.exp(p["gamma_log"]) * (x @ as_complex(p["input"]["kernel"]))
        u = gelu(real_part(p["output"], h) + p["skip"] * x)
        value, gate = np.split(dense(p["glu"], u), 2, axis=-1)
        yield value * sigmoid(gate)


def s5_layer(p, xs):
    continuous = -np.exp(p["rate_log"]) + 1j * p["frequency"]
    lam = np.exp(np.exp(p["timescale_log"]) * continuous)
    h = np.zeros((BATCH, STATE), complex)
    for x in xs:
        h = lam * h + (lam - 1) / continuous * (x @ as_complex(p["input"]["kernel"]))
        u = gelu(real_part(p["output"], h) + p["skip"] * x)
        yield u * sigmoid(dense(p["gate"], u))


def mingru_layer(p, xs):
    h = np.zeros((BATCH, STATE))
    for x in xs:
        gate, candidate = dense(p["update_gate"], x), dense(p["candidate"], x)
        z = sigmoid(gate)
        h = (1 - z) * h + z * np.where(candidate >= 0, candidate + 0.5, sigmoid(candidate))
        yield dense(p["output"], h)


def stack(layer, p, xs):
    x = dense(p["input_projection"], xs)
    for i in range(2):
        x = x + np.stack(list(layer(p[f"layers_{i}"], layer_norm(p[f"norms_{i}"], x))))
    return layer_norm(p["final_norm"], x)


def ffm(p, xs):
    p = p["cell"]
    decay = np.exp(-np.exp(p["alpha_log"])[:, None] + 1j * p["omega"])
    s = np.zeros((BATCH, STATE, 2), complex)
    ys = []
    for x in xs:
        s = s * decay + (dense(p["input"], x) * sigmoid(dense(p["input_gate"], x)))[..., None]
        z = dense(p["mix"], np.concatenate([s.real, s.imag], axis=-1).reshape(BATCH, -1))
        gate = sigmoid(dense(p["output_gate"], x))
        ys.append(normalised(z) * gate + dense(p["skip"], x) * (1 - gate))
    return np.stack(ys)


EQUATIONS = {
    "lru": functools.partial(stack, lru_layer),
    "s5": functools.partial(stack, s5_layer),
    "mingru": functools.partial(stack, mingru_layer),
    "ffm": ffm,
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_equations(name, getkey):
    memory = CONFIGS[name].build()
    params = perturbed(parameters_of(memory, getkey()), getkey(), 0.3)
    xs = jax.random.normal(getkey(), (STEPS, BATCH, INPUTS))
    expected = EQUATIONS[name](jax.tree.map(np.asarray, params), np.asarray(xs))
    np.testing.assert_allclose(unroll(memory, params, xs)[1], expected, atol=2e-5)


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("name", CONFIGS)
def test_the_form_of_the_scan_makes_no_difference(name, getkey):
    memories = [dataclasses.replace(CONFIGS[name], scan=form).build() for form in FORMS]
    params = parameters_of(memories[0], getkey())
    xs = jax.random.normal(getkey(), (13, BATCH, INPUTS))
    resets = jax.random.bernoulli(getkey(), 0.2, (13, BATCH))
    results = [unroll(memory, params, xs, resets) for memory in memories]
    for other in results[1:]:
        chex.assert_trees_all_close(other, results[0], atol=2e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_state_stays_bounded(name, getkey):
    """Over ten thousand steps, with parameters far from where they start, some decays as near to 1 as floats get."""
    memory = CONFIGS[name].build()
    params = perturbed(parameters_of(memory, getkey()), getkey(), 3.0)

    def slow(path, leaf):
        decay = path[-1].key in ("nu_log", "rate_log", "alpha_log")
        return leaf.at[0].set(-100.0) if decay else leaf

    params = jax.tree.map_with_path(slow, params)
    xs = jax.random.normal(getkey(), (10_000, BATCH, INPUTS))
    state, ys = unroll(memory, params, xs)
    assert all(jnp.abs(leaf).max() < 1e6 for leaf in jax.tree.leaves(state))
    assert jnp.isfinite(ys).all()


def test_mingru_starts_with_all_time_constants():
    memory = MinGRU(FEATURES, layers=1, state_features=5, longest_memory=9).build()
    x, reset = jnp.zeros((1, 3)), jnp.zeros(1, bool)
    params = memory.init(jax.random.key(0), memory.initial_state(1), x, reset, method="step")["params"]
    share_forgotten = nn.sigmoid(params["layers_0"]["update_gate"]["bias"])
    np.testing.assert_allclose(share_forgotten, 1 / (1 + np.array([1, 3, 5, 7, 9])), rtol=1e-6)


def test_mingru_averages(getkey):
    """Its state lies between 0 and the greatest candidate, though the candidates have no upper bound."""
    memory = MinGRU(FEATURES, layers=1, state_features=STATE).build()
    params = perturbed(parameters_of(memory, getkey()), getkey(), 3.0)
    xs = 10 * jax.random.normal(getkey(), (100, BATCH, INPUTS))
    (state,), _ = unroll(memory, params, xs)
    p = jax.tree.map(np.asarray, params)
    x = layer_norm(p["norms_0"], dense(p["input_projection"], np.asarray(xs)))
    candidate = dense(p["layers_0"]["candidate"], x)
    assert (state >= 0).all() and (state <= 0.5 + candidate.max(axis=0).clip(0.5)).all()


def test_lru_starts_on_its_ring(getkey):
    config = LRU(state_features=4096, layers=1, r_min=0.5, r_max=0.9, max_phase=0.3)
    p = parameters_of(config.build(), getkey())["layers_0"]
    magnitude, phase = np.exp(-np.exp(p["nu_log"])), np.exp(p["theta_log"])
    assert 0.5 <= magnitude.min() < 0.51 and 0.89 < magnitude.max() <= 0.9
    assert 0 <= phase.min() < 0.01 and 0.29 < phase.max() <= 0.3
    # Uniform in area: half of them within the ring that has half of the area.
    assert abs((magnitude**2 < (0.5**2 + 0.9**2) / 2).mean() - 0.5) < 0.04
    np.testing.assert_allclose(np.exp(p["gamma_log"]), np.sqrt(1 - magnitude**2), rtol=1e-4)


@pytest.mark.parametrize("r_min", [0.0, 0.99])
def test_lru_starts_finite_on_the_whole_disk(r_min, getkey):
    p = parameters_of(LRU(r_min=r_min, r_max=1.0, layers=1, state_features=4096).build(), getkey())
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(p))


def test_lru_normalisation_keeps_the_variance():
    """White noise of variance 1 into `γ`-normalised slow and fast units gives states of variance 1."""
    rng = np.random.default_rng(0)
    magnitude = np.linspace(0.5, 0.99, 50)
    noise = rng.standard_normal((4000, 1, 50)) * np.sqrt(1 - magnitude**2)
    states = linear_scan(
        jnp.asarray(magnitude, jnp.float32)[None, None],
        jnp.asarray(noise, jnp.float32),
        jnp.zeros((1, 50)),
        jnp.zeros((4000, 1), bool),
    )
    assert abs(np.asarray(states)[500:].var() - 1) < 0.1


def test_s5_starts_at_the_eigenvalues_of_hippo(getkey):
    pairs = 16
    n = np.arange(2 * pairs)
    legs = -np.tril(np.sqrt(np.outer(2 * n + 1, 2 * n + 1)), -1) - np.diag(n + 1.0)
    normal = legs + np.outer(np.sqrt(n + 0.5), np.sqrt(n + 0.5))  # without its low-rank part
    eigenvalues = np.linalg.eigvals(normal)
    np.testing.assert_allclose(eigenvalues.real, -0.5, atol=1e-9)
    expected = np.sort(eigenvalues.imag)[pairs:]
    p = parameters_of(S5(layers=1, state_features=pairs).build(), getkey())["layers_0"]
    np.testing.assert_allclose(p["frequency"], expected, rtol=1e-5)
    np.testing.assert_allclose(np.exp(p["rate_log"]), 0.5, rtol=1e-6)


def test_s5_starts_between_its_timescales(getkey):
    config = S5(layers=1, state_features=256, min_timescale=0.01, max_timescale=1.0)
    timescale_log = np.asarray(parameters_of(config.build(), getkey())["layers_0"]["timescale_log"])
    assert np.log(0.01) <= timescale_log.min() < timescale_log.max() <= 0
    assert abs(timescale_log.mean() - np.log(0.1)) < 0.3


def test_s5_draws_its_kernels_as_the_reference_does(getkey):
    """Drawing in real coordinates and turning by the eigenvectors, as published, gives the same moments."""
    pairs, features = 16, 512
    root = np.sqrt(2 * np.arange(2 * pairs) + 1)
    skew = np.tril(np.outer(root, root) / 2, -1)
    vectors = np.linalg.eigh(1j * (skew - skew.T))[1][:, pairs:]
    rng = np.random.default_rng(0)
    b = vectors.conj().T @ rng.normal(0, features**-0.5, (2 * pairs, features))
    c = rng.normal(0, (2 * pairs) ** -0.5, (2, features, 2 * pairs))
    c = 2 * (c[0] + 1j * c[1]) @ vectors
    p = parameters_of(S5(features, layers=1, state_features=pairs).build(), getkey())["layers_0"]
    for reference, kernel in ((b, p["input"]["kernel"].T), (c.T, p["output"]["kernel"])):
        assert abs(np.mean(reference.real * reference.imag)) < 0.05 * reference.real.var()
        for part, drawn in zip((reference.real, reference.imag), np.split(np.asarray(kernel), 2), strict=True):
            np.testing.assert_allclose(drawn.std(), part.std(), rtol=0.05)


def test_ffm_starts_within_its_limits(getkey):
    p = parameters_of(FFM(traces=32, contexts=4).build(), getkey())["cell"]
    alpha = np.exp(p["alpha_log"])
    # The reference: -log(largest double) / 1024 + 0.02, and log(0.01) / 1024.
    np.testing.assert_allclose(alpha[[0, -1]], [np.log(np.finfo(float).max) / 1024 - 0.02, 4.60517 / 1024], rtol=1e-4)
    np.testing.assert_allclose(np.diff(alpha, 2), 0, atol=1e-6)
    np.testing.assert_allclose(2 * np.pi / p["omega"], np.linspace(1, 1024, 4), rtol=1e-5)


def test_ffm_forgets_as_it_says(getkey):
    """After `longest_period` steps 1% is left of the slowest trace, and of its first frequency nothing is turned."""
    config = FFM(FEATURES, traces=STATE, contexts=1, longest_period=100)
    memory = config.build()
    params = parameters_of(memory, getkey())
    params["cell"]["input"]["kernel"] = jnp.ones_like(params["cell"]["input"]["kernel"])
    xs = jnp.zeros((101, 1, INPUTS)).at[0].set(1.0)
    first, last = unroll(memory, params, xs[:1])[0], unroll(memory, params, xs)[0]
    assert (first.real[0, -1, 0] > 0.5).all()
    np.testing.assert_allclose(last.real[0, -1, 0] / first.real[0, -1, 0], 0.01, rtol=1e-3)


BAD = [
    (LRU, {"features": 0}, "memory.features is 0: it must be at least 1."),
    (S5, {"layers": 0}, "memory.layers is 0"),
    (MinGRU, {"state_features": 0}, "memory.state_features is 0"),
    (MinGRU, {"longest_memory": 0}, "memory.longest_memory is 0"),
    (FFM, {"contexts": 0}, "memory.contexts is 0"),
    (FFM, {"longest_period": 0}, "memory.longest_period is 0"),
    (
        MinGRU,
        {"scan": "parallel"},
        "memory.scan is 'parallel': it must be one of auto, sequential, associative, chunked",
    ),
    (LRU, {"r_min": 0.9, "r_max": 0.9}, "memory.r_min is 0.9 and memory.r_max is 0.9"),
    (LRU, {"r_max": 1.1}, "memory.r_max is 1.1"),
    (LRU, {"max_phase": 0.0}, "memory.max_phase is 0.0: it must be greater than 0."),
    (S5, {"min_timescale": 0.0}, "memory.min_timescale is 0.0"),
    (S5, {"min_timescale": 0.2}, "0 < min_timescale <= max_timescale"),
]


@pytest.mark.parametrize(("config", "settings", "message"), BAD)
def test_bad_settings_are_refused(config, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        config(**settings)
