"""The linear recurrences: every form of the scan is the plain loop, every memory computes its published equations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memrl.memory import linear_recurrence
from memrl.memory.linear_recurrence import linear_scan

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
    """Decays of magnitude below 1 (`None` stands for the steps), inputs, initial state and resets."""
    shape = tuple(steps if size is None else size for size in decays)
    decay = numbers(rng, shape, dtype)
    decay *= rng.uniform(0.5, 1, shape) / np.abs(decay)
    resets = rng.random((steps, BATCH)) < 0.15
    return decay, numbers(rng, (steps, BATCH, *width), dtype), numbers(rng, (BATCH, *width), dtype), resets


@pytest.fixture
def short_chunks(monkeypatch):
    monkeypatch.setattr(linear_recurrence, "CHUNK", 5)


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
