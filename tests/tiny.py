"""Policies as small as they come, so that tests spend their time on something else than compiling."""

import dataclasses

import jax.numpy as jnp

from memrl.memory import MEMORIES, MemoryConfig
from memrl.networks import ActorCritic, NetworkConfig

SIZES = {
    "features": 8,
    "layers": 1,
    "heads": 2,
    "mlp_features": 8,
    "segment_length": 5,
    "summary_tokens": 2,
    "jitter": 0.4,
    "window": 5,
    "chunk_length": 4,
    "top_k": 2,
    "state_features": 4,
    "traces": 3,
    "contexts": 2,
}


def tiny_memory(name: str, steps: int, **settings) -> MemoryConfig:
    """The registered memory `name` with room for `steps` steps, in tiny sizes, noise included where it knows any."""
    fields = {field.name for field in dataclasses.fields(MEMORIES[name])}
    sizes = {field: size for field, size in SIZES.items() if field in fields}
    return MEMORIES[name](**{**sizes, **settings}).with_capacity(steps)


def tiny_policy(memory: MemoryConfig, num_actions: int, dtype: jnp.dtype = jnp.float32, **settings) -> ActorCritic:
    """A policy around `memory` with one narrow layer in the encoder and in each head."""
    return ActorCritic(memory.build(dtype), num_actions, NetworkConfig((8,), (8,), **settings), dtype)
