"""The frame stack computes its equations, written out here once more."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import dense

from memrl.memory import FrameStack, state_bytes_per_env

STEPS, BATCH, INPUTS = 7, 2, 3
STACK = FrameStack(features=5, frames=3, frame_features=4)


def run(config, resets, getkey):
    """Parameters in which no zero hides anything, inputs `[T, B, D]`, and the outputs of an unroll."""
    memory = config.build()
    state = memory.initial_state(BATCH)
    xs = jax.random.normal(getkey(), (STEPS, BATCH, INPUTS))
    params = memory.init(getkey(), state, xs[0], resets[0], method="step")["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(getkey(), leaf.shape), params)
    ys = jax.jit(lambda params: memory.apply({"params": params}, state, xs, resets, method="unroll")[1])(params)
    return params, np.asarray(xs), np.asarray(ys)


def equations(params, xs, began, seen, frames):
    """Outputs `[T, B, F]`; each of `frames` slots holds its input if that is one of the latest `seen` since `began`."""

    ys = []
    for t in range(STEPS):
        slots = []
        for s in range(t - frames + 1, t + 1):
            projected = dense(params["projection"], xs[s])  # of another time where `s` is negative, and then not used
            slots.append(np.where((s >= began[t])[:, None] & (t - s < seen), projected, 0))
        ys.append(np.maximum(dense(params["output"], np.concatenate(slots, axis=-1)), 0))
    return np.stack(ys)


@pytest.mark.parametrize("capacity", [None, 2, 1])
def test_equations(capacity, getkey):
    resets = np.zeros((STEPS, BATCH), bool)
    resets[[4, 5], 1] = True
    began = np.array([[0, 0]] * 4 + [[0, 4]] + [[0, 5]] * 2)
    config = dataclasses.replace(STACK, capacity=capacity)
    params, xs, ys = run(config, jnp.asarray(resets), getkey)
    assert params["output"]["kernel"].shape == (3 * 4, 5)
    np.testing.assert_allclose(ys, equations(params, xs, began, capacity or 3, frames=3), atol=1e-5)
    assert (ys > 0).any(axis=(0, 1)).sum() > 1
    assert state_bytes_per_env(config.build()) == 4 * 4 * ((capacity or 3) - 1)


def test_capacity_counts_only_where_it_is_less_than_the_stack():
    assert STACK.with_capacity(2) == dataclasses.replace(STACK, capacity=2)
    assert STACK.with_capacity(3) == STACK.with_capacity(2).with_capacity(100) == STACK


@pytest.mark.parametrize("field", ["features", "frames", "frame_features", "capacity"])
def test_bad_parameters(field):
    with pytest.raises(ValueError, match=rf"memory\.{field} is 0: it must be at least 1\."):
        FrameStack(**{field: 0})
