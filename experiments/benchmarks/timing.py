"""Programs that are timed."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

SHORTEST_MEASUREMENT = 0.2
"""Seconds; a quicker program is run several times in one measurement."""


class Program(NamedTuple):
    """A compiled program."""

    call: Callable[..., Any]
    compile_seconds: float
    memory_bytes: int
    """Arguments, results and temporaries on one device."""


def prepare(function: Any, *arguments: Any) -> Program:
    """Compiles the jitted `function` for `arguments`."""
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return Program(compiled, seconds, total - memory.alias_size_in_bytes)


def measure(call: Callable[[Any], Any], state: Any, repeats: int) -> dict[str, float]:
    """Seconds that `state = call(state)` takes: the median, the least and the most of `repeats` measurements."""
    state = jax.block_until_ready(call(state))  # the first call is never like the others
    start = time.perf_counter()
    state = jax.block_until_ready(call(state))
    calls = max(1, round(SHORTEST_MEASUREMENT / (time.perf_counter() - start)))
    measured = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            state = call(state)
        jax.block_until_ready(state)
        measured.append((time.perf_counter() - start) / calls)
    return {"median": statistics.median(measured), "least": min(measured), "most": max(measured)}
