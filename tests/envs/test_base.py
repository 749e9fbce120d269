"""Rows are computed where they are needed, however many they are, and however the computation is mapped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import base

ROWS = 200


def square_where(needed, x):
    """The square of `x` and its key's bits where needed, else -1 and 0."""
    otherwise = {"square": jnp.float32(-1), "bits": jnp.uint32(0)}

    def compute(x, key):
        return {"square": x * x, "bits": jax.random.bits(key, (), jnp.uint32)}

    return base.rows_where(needed, compute, (x, jax.random.key(0)), otherwise)


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 1])
def test_needed_rows_are_computed_and_no_others(share):
    """None, fewer than a block, several blocks, all."""
    needed = np.random.default_rng(0).random(ROWS) < share
    x = jnp.arange(ROWS, dtype=jnp.float32)
    chosen = jax.jit(jax.vmap(square_where))(jnp.asarray(needed), x)
    np.testing.assert_array_equal(chosen["square"], np.where(needed, np.arange(ROWS) ** 2, -1))
    assert ((np.asarray(chosen["bits"]) != 0) == needed).all()


def test_one_row_and_rows_of_rows():
    assert square_where(jnp.bool_(True), jnp.float32(3))["square"] == 9
    assert square_where(jnp.bool_(False), jnp.float32(3))["square"] == -1
    needed = np.random.default_rng(1).random((3, ROWS)) < 0.2
    x = jnp.arange(3 * ROWS, dtype=jnp.float32).reshape(3, ROWS)
    chosen = jax.jit(jax.vmap(jax.vmap(square_where)))(jnp.asarray(needed), x)
    np.testing.assert_array_equal(chosen["square"], np.where(needed, np.asarray(x) ** 2, -1))
    shared = jax.vmap(square_where, (0, None))(jnp.array([True, False]), jnp.float32(3))
    assert shared["square"].tolist() == [9, -1]


def test_rows_that_are_not_needed_cost_nothing():
    """A computation that would not end for them is not begun."""

    def endless_where(needed, x):
        def count_down(x):
            return jax.lax.while_loop(lambda x: x != 0, lambda x: x - 1, x)

        return base.rows_where(needed, count_down, (x,), jnp.int32(7))

    x = jnp.array([5, 5, -1, -1], jnp.int32)
    assert jax.jit(jax.vmap(endless_where))(jnp.zeros(4, bool), x).tolist() == [7] * 4
