"""Memo, RMT and AutoCompressor beyond the laws: how long their segments are."""

import jax
import jax.numpy as jnp
import numpy as np
from tiny import tiny_memory


def test_jitter_draws_every_length_alike():
    """Segments of 5 steps, jitter 0.4: from 3 to 7, each in a fifth of all segments."""
    memory = tiny_memory("memo", 5).build()
    state, x, reset = memory.initial_state(1, jax.random.key(1)), jnp.zeros((1, 3)), jnp.zeros(1, bool)
    params = jax.eval_shape(lambda: memory.init(jax.random.key(0), state, x, reset, method="step"))

    @jax.jit
    def segments():
        """The number of the segment that is open after each step."""
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)

        def step(state, _):
            state, _ = memory.apply(zeros, state, x, reset, method="step")
            return state, state.segment

        return jax.lax.scan(step, state, length=5000)[1]

    ends = np.flatnonzero(np.diff(segments(), prepend=0))
    lengths, counts = np.unique(np.diff(ends), return_counts=True)
    assert lengths.tolist() == [3, 4, 5, 6, 7]
    assert counts.sum() > 900 and counts.min() > 150 and counts.max() < 250  # 200 expected, standard deviation 13
