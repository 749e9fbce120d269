"""What each memory costs, for `experiments.benchmark --memories`."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.timing import measure, prepare
from memrl.memory import MemoryConfig, state_bytes_per_env

HORIZONS = (512, 4096, 65_536)
"""Steps to remember, for which the size of the state is reported."""
ENVIRONMENTS = 16
"""Environments in a batch."""
INPUTS = 64
"""Width of what memories read."""
WINDOW = 256
"""Steps in one measurement of acting."""


def compare_memories(
    memories: dict[str, MemoryConfig], capacity: int, horizons: tuple[int, int], tokens: int, repeats: int
) -> dict[str, dict[str, Any]]:
    """Measures memories with room for `capacity` steps; prints a line for each, and returns the figures.

    Args:
      memories: by name.
      capacity: steps that they have room for; those of a fixed size have what they have.
      horizons: steps acted before acting is measured, first and second time; full by then, it should cost the same.
      tokens: length T of the sequence that is learned.
      repeats: measurements.
    """
    print(
        f"{ENVIRONMENTS} environments on one {jax.devices()[0].device_kind}, room for {capacity} steps, "
        f"sequences of {tokens}\n"
    )
    print(table_head(horizons))
    figures = {}
    for name, config in memories.items():
        row = figures[name] = measure_memory(config.with_capacity(capacity), horizons, tokens, repeats)
        row["state_bytes"] = {
            horizon: state_bytes_per_env(config.with_capacity(horizon).build()) for horizon in HORIZONS
        }
        print(table_row(name, row), flush=True)
    return figures


def table_head(horizons: tuple[int, int]) -> str:
    """The first two lines of the table, in Markdown."""
    titles = [
        "memory",
        "parameters",
        *(f"state, {horizon:,} steps" for horizon in HORIZONS),
        *(f"act at {horizon:,}" for horizon in horizons),
        "forward",
        "and backward",
    ]
    return f"| {' | '.join(titles)} |\n|---|{'---:|' * (len(titles) - 1)}"


def table_row(name: str, row: dict[str, Any]) -> str:
    """The line of one memory, in Markdown: bytes per environment, µs per step of all environments, µs per token."""
    seconds = {what: 1e6 * row[f"{what}_seconds"]["median"] for what in ("forward", "backward")}
    cells = [
        f"`{name}`",
        f"{row['parameters']:,}",
        *(f"{size:,}" for size in row["state_bytes"].values()),
        *(f"{1e6 * measured['median']:,.0f}" for measured in row["acting_seconds"].values()),
        *(f"{value:.2f}" for value in seconds.values()),
    ]
    return f"| {' | '.join(cells)} |"


def measure_memory(config: MemoryConfig, horizons: tuple[int, int], tokens: int, repeats: int) -> dict[str, Any]:
    """The figures of one memory: seconds per step of acting, and per token of one environment in learning."""
    memory = config.build()
    key = jax.random.key(0)
    state = memory.initial_state(ENVIRONMENTS, key)
    resets = jnp.zeros((tokens, ENVIRONMENTS), bool)
    xs = jax.random.normal(key, (tokens, ENVIRONMENTS, INPUTS))
    params = memory.init(key, state, xs[0], resets[0], method="step")

    def act(params: Any, state: Any, xs: jax.Array) -> tuple[Any, jax.Array]:
        def step(state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            return memory.apply(params, state, x, resets[0], method="step")

        return jax.lax.scan(step, state, xs)

    def forward(params: Any, state: Any, xs: jax.Array) -> jax.Array:
        return jnp.square(memory.apply(params, state, xs, resets, method="unroll")[1]).mean()

    acting = prepare(jax.jit(act, donate_argnums=1), params, state, xs[:WINDOW])
    forwards = prepare(jax.jit(forward), params, state, xs)
    backwards = prepare(jax.jit(jax.grad(forward, argnums=(0, 2))), params, state, xs)
    learned = ENVIRONMENTS * tokens
    seconds = {
        "forward": measure(lambda _: forwards.call(params, state, xs), None, repeats),
        "backward": measure(lambda _: backwards.call(params, state, xs), None, repeats),
    }

    acting_seconds, steps = {}, 0
    for horizon in horizons:
        while steps < horizon:
            state, _ = acting.call(params, state, xs[:WINDOW])
            steps += WINDOW
        state = jax.block_until_ready(state)
        # A copy, since it is consumed: acting goes on to the next horizon from here.
        measured = measure(lambda now: acting.call(params, now, xs[:WINDOW])[0], jax.tree.map(jnp.copy, state), repeats)
        acting_seconds[horizon] = {name: value / WINDOW for name, value in measured.items()}
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "acting_seconds": acting_seconds,
        **{
            f"{what}_seconds": {name: value / learned for name, value in values.items()}
            for what, values in seconds.items()
        },
        "forward_bytes": forwards.memory_bytes,
        "backward_bytes": backwards.memory_bytes,
    }
