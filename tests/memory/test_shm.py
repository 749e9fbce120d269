"""Stable Hadamard memory: which rows are drawn, and what calibration can do and cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memrl.memory.shm import SHM, calibrate, theta_rows


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


def test_rows_are_uniform_and_independent():
    config = SHM(theta_rows=8)
    environments, steps = 200, 100
    state = config.empty(environments, jax.random.key(0), jnp.float64)
    rows = np.asarray(theta_rows(config, state, steps))
    pairs = [(rows[:-1], rows[1:]), (rows[:, :-1], rows[:, 1:])]  # in time, between environments
    for counts in [np.bincount(rows.ravel(), minlength=8)] + [
        np.bincount((8 * a + b).ravel(), minlength=64) for a, b in pairs
    ]:
        expected = counts.sum() / len(counts)
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        assert chi_squared < len(counts) + 5 * np.sqrt(2 * len(counts))


def test_rows_are_those_of_the_environment_and_the_step():
    config = SHM(theta_rows=8)
    state = config.empty(6, jax.random.key(0), jnp.float64)
    rows = theta_rows(config, state, 20)
    later = state.replace(clock=state.clock + 13, key=state.key[jnp.array([4, 1])])
    np.testing.assert_array_equal(theta_rows(config, later, 7), rows[13:, jnp.array([4, 1])])


def test_rows_without_noise():
    config = SHM(theta_rows=8)
    state = config.empty(2, jax.random.key(0), jnp.float64).replace(clock=jnp.int32(6))
    cycle = config.without_noise()
    assert cycle.theta == "cycle" and cycle.without_noise() is cycle
    np.testing.assert_array_equal(theta_rows(cycle, state, 4), np.tile([[6], [7], [0], [1]], 2))
    first = SHM(theta="first")
    assert first.without_noise() is first
    np.testing.assert_array_equal(theta_rows(first, state, 4), 0)


def test_calibration_is_between_0_and_2():
    theta, calibration = np.random.default_rng(0).standard_normal((2, 1000, 6))
    factors = calibrate(jnp.asarray(theta), jnp.asarray(calibration))
    assert factors.min() > 0 and factors.max() < 2


def test_products_have_mean_1_for_rows_drawn_at_random_only():
    """The paper's reason for drawing rows: products of independent factors of mean 1, over 50 equal inputs."""
    rng = np.random.default_rng(0)
    half = rng.uniform(-0.2, 0.2, (64, 16))
    table = jnp.asarray(np.concatenate([half, -half]))  # so that each element has mean 0 exactly
    products = {}
    for mode in ("random", "first"):
        config = SHM(theta=mode)
        rows = theta_rows(config, config.empty(4000, jax.random.key(0), jnp.float64), 50)
        products[mode] = np.asarray(calibrate(table[rows], jnp.ones((50, 4000, 1))).prod(axis=0))
    error = products["random"].std(axis=0) / np.sqrt(4000)
    assert (np.abs(products["random"].mean(axis=0) - 1) < 5 * error).all()
    assert products["first"].mean() > 5


def test_cannot_clear_a_column():
    """Where an input erases rows of a column it doubles others; only the opposite input erases those."""
    theta, calibration = jnp.array([30.0, -30.0]), jnp.array([1.0, 0.0])
    np.testing.assert_allclose(calibrate(theta, calibration), [[2, 1], [0, 1]], atol=1e-12)
    both = calibrate(theta, calibration) * calibrate(theta, -calibration)
    np.testing.assert_allclose(both, [[0, 1], [0, 1]], atol=1e-12)
