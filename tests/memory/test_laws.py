"""Every registered memory obeys every law, in several settings."""

import dataclasses
import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_memory

from memrl.checkpoint import Checkpointer
from memrl.memory import MEMORIES, MemoryConfig, laws

SETTINGS = {
    "frame_stack": [{}, {"frames": 6, "capacity": 3}],
    # Its keys and queries are cut off at 0: with this width every two of them overlap on the inputs of the laws.
    "shm": [{"features": 24, "heads": 1}, {"theta": "first", "layers": 2}],
    "mlstm": [{}, {"convolution": 1}],
    "deltanet": [{"layers": 2}, {"convolution": 1}],
    "gated_deltanet": [{}, {"gates": "hard", "layers": 2}],
    "fct": [
        {"context": 5},
        {"positions": "none", "sink": "key"},
        {"positions": "learned", "learned_positions": 6, "sink": "key_value"},
        {"positions": "alibi", "context": 5, "layers": 2},
    ],
    "trxl": [{"context": 5}, {"layers": 2}],
    # Its feed-forward part has a ReLU at both ends: with this width no weight is silent on all inputs of the laws.
    "gtrxl": [{"context": 5, "mlp_features": 7}, {"context": 4, "layers": 2}],
    "memo": [{}, {"jitter": 0.0, "layers": 2}, {"positions": "segment", "capacity": 1, "rematerialise": True}],
    "rmt": [{}, {"jitter": 0.0}],
    "ac": [{}, {"jitter": 0.0, "capacity": 2}],
    "hcam": [{}, {"layers": 2, "heads": 4, "window": 6, "chunk_length": 6, "top_k": 3, "capacity": 3}],
}
"""What is changed in `tiny_memory`, which has jitter and room for all steps; nothing for memories not listed."""

CASES = {
    f"{name}-{number}": (name, dataclasses.replace(tiny_memory(name, laws.STEPS), **settings))
    for name in MEMORIES
    for number, settings in enumerate(SETTINGS.get(name, [{}]))
}


def within(distance: Callable[[np.ndarray, np.ndarray], np.ndarray], limit: int) -> Callable[[np.ndarray], np.ndarray]:
    """What a memory remembers that looks back at most `limit`, by `distance(t, s)`, and no further than the reset."""

    def remembers(resets: np.ndarray) -> np.ndarray:
        time = np.arange(len(resets))
        return laws.since_reset(resets) & (distance(time[:, None, None], time) <= limit)

    return remembers


def remembers(name: str, config: MemoryConfig) -> Callable[[np.ndarray], np.ndarray]:
    """Which inputs the gradient of an output reaches, by the published method."""
    match name:
        case "none":
            return within(lambda t, s: t - s, 0)
        case "frame_stack":
            return within(lambda t, s: t - s, config.frames - 1)
        case "fct" | "trxl" | "gtrxl":  # of one layer; with more, a window sees beyond itself
            return within(lambda t, s: t - s, config.context - 1)
        case "hcam":  # arXiv 2105.14039: gradients are stopped into all that is remembered, but for the window
            return within(lambda t, s: t - s, config.window - 1)
        case "ac":  # arXiv 2510.19732: gradients of the two preceding segments
            segment = segments(config)
            return within(lambda t, s: segment[t] - segment[s], 2)
        case _:
            return laws.since_reset


def segments(config: MemoryConfig) -> np.ndarray:
    """The index of the segment of each step, as a summarising memory counts them."""
    memory = config.build()
    state, x, reset = memory.initial_state(1), jnp.zeros((1, laws.INPUTS)), jnp.zeros(1, bool)
    params = memory.init(jax.random.key(0), state, x, reset, method="step")

    def step(state, _):
        return memory.apply(params, state, x, reset, method="step")[0], state.segment

    return np.asarray(jax.jit(lambda: jax.lax.scan(step, state, length=laws.STEPS)[1])())


@functools.lru_cache
def subject(case: str) -> laws.Subject:
    """One subject per case, so that the laws share what is compiled."""
    name, config = CASES[case]
    return laws.Subject(config, remembers(name, config))


ONCE = (
    laws.shapes_and_dtypes_never_change,
    laws.capacity_and_noise_are_no_parameters,
    laws.jit_vmap_and_donation_work,
    laws.unroll_equals_scan_of_step_in_float32,
    laws.gradients_reach_every_parameter,
    laws.gradients_reach_the_published_inputs,
)
"""Laws checked on the first setting of each memory only: they compile much, and the other settings add little."""


@pytest.mark.laws
@pytest.mark.parametrize(
    ("case", "law"),
    [
        pytest.param(case, law, id=f"{case}-{law.__name__}", marks=pytest.mark.xdist_group(f"laws of {name}"))
        for case, (name, _) in CASES.items()
        for law in laws.LAWS
        if case.endswith("-0") or law not in ONCE
    ],
)
def test_law(case, law):
    law(subject(case))


@pytest.mark.laws
@pytest.mark.parametrize("name", MEMORIES)
def test_state_survives_a_checkpoint(name, tmp_path):
    """Law 5 again: a state comes back from disk with the same structure, types and bits."""
    state = tiny_memory(name, laws.STEPS).build().initial_state(laws.BATCH, jax.random.key(1))
    state = {"memory": state, "update": jnp.int32(0)}
    state = jax.tree.map(lambda leaf: leaf + 1 if jnp.issubdtype(leaf.dtype, jnp.number) else leaf, state)
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        checkpointer.save(1, state, {})
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        restored, _ = checkpointer.restore(state)

    def raw(leaf):
        return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    chex.assert_trees_all_equal(jax.tree.map(raw, restored), jax.tree.map(raw, state), strict=True)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
