"""Memo, AutoCompressor and RMT: three settings of one memory, `memrl.memory.summary`."""

import dataclasses
from typing import Self

import jax.numpy as jnp

from memrl.memory.base import Memory
from memrl.memory.summary import SummaryConfig, SummaryMemory


@dataclasses.dataclass(frozen=True)
class Memo(SummaryConfig):
    """Memo (arXiv 2510.19732): every summary is kept, gradients flow through all segments."""

    capacity: int = 8
    """Summary sets M kept; the oldest is dropped when one more is made."""

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return SummaryMemory(self, capacity=self.capacity, accumulate=True, gradient_segments=None, dtype=dtype)

    def with_capacity(self, steps: int) -> Self:
        # The open segment remembers its own steps; the closed ones need a set each, and a set made at the very end of
        # the span is never read.
        return dataclasses.replace(self, capacity=max(1, -(-steps // self.shortest_segment) - 1))


@dataclasses.dataclass(frozen=True)
class AutoCompressor(Memo):
    """AutoCompressor as Memo's authors train it: all summaries are kept, gradients reach two segments back.

    The paper (section 4, "AC (TBTT)") says that gradients flow to the two preceding segments only; its code has no such
    option, and this is exact truncation: the outputs of segment `i` are differentiated through the inputs of segments
    `i - 2`, `i - 1` and `i`, along every path, and through nothing else. Learning runs each segment three times.
    """

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return SummaryMemory(self, capacity=self.capacity, accumulate=True, gradient_segments=2, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class RMT(SummaryConfig):
    """Recurrent Memory Transformer (arXiv 2207.06881) as Memo's authors compare with: only the newest summary is kept.

    The summary is encoded alone, at the first `S` positions. (The published streaming code encodes it against the
    summary before it, unlike its own training.)
    """

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return SummaryMemory(self, capacity=1, accumulate=False, gradient_segments=None, dtype=dtype)
