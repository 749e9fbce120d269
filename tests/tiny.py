"""Policies as small as they come, so that tests spend their time on something else than compiling."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from memrl.memory import MEMORIES, MemoryConfig
from memrl.networks import ActorCritic, NetworkConfig
from memrl.rollout import initial_actor_state

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
    "theta_rows": 4,
}

TINY_ENVIRONMENTS = {
    "gymnax": {"id": "Catch-bsuite", "settings": ("rows=4", "columns=3", "max_steps_in_episode=5")},
    "ballet": {"num_dancers": (2,), "delays": (1,), "max_steps": 36},
    "boxes": {"num_boxes": (2,), "delays": (2,), "turn_steps": 2, "open_steps": 1, "choice_steps": 5},
    "bandit": {"recurrence": 0.5, "trial_length": 7},
    "repeat_first": {"symbols": 3, "length": 5},
    "repeat_previous": {"symbols": 3, "length": 6, "k": 3},
    "repeated_gridworld": {"size": 3, "attempt_limit": 4, "recurrence": 0.5, "trial_length": 9},
    "dark_key_to_door": {"size": 3, "attempt_limit": 4, "trial_length": 12},
    "color_cubes": {"size": 3, "cubes": 2, "phases": 2, "teleport_probability": 0.3, "time_limit": 9},
    "graph_nav": {"junctions": 1, "symbols": 9, "trial_length": 12},
    "multi_object_navigation": {"size": 7, "rooms": 1, "objects": 3, "episode_limit": 4, "trial_length": 12},
    "memory_planning": {"size": 2, "symbols": 5, "trial_length": 12},
    "minigrid_memory": {"size": 7, "max_steps": 9},
    "t_maze": {"corridors": 2, "length": 2, "regime": "uniform", "time_limit": 7},
    "visual_match": {"explore_steps": 2, "distractor_steps": (2, 4), "choose_steps": 9},
    "word_rooms": {"distractors": (0, 1), "episodes": 2, "phase_steps": 3, "room_size": 5, "num_words": 12},
}
"""Settings of every registered environment in which trials and attempts end often."""


def tiny_memory(name: str, steps: int, **settings) -> MemoryConfig:
    """The registered memory `name` with room for `steps` steps, in tiny sizes, noise included where it knows any."""
    fields = {field.name for field in dataclasses.fields(MEMORIES[name])}
    sizes = {field: size for field, size in SIZES.items() if field in fields}
    return MEMORIES[name](**{**sizes, **settings}).with_capacity(steps)


def tiny_policy(memory: MemoryConfig, num_actions: int, dtype: jnp.dtype = jnp.float32, **settings) -> ActorCritic:
    """A policy around `memory` with one narrow layer in the encoder and in each head."""
    return ActorCritic(memory.build(dtype), num_actions, NetworkConfig((8,), (8,), **settings), dtype)


def initial_params(policy: ActorCritic, environment: Any, env_params: Any) -> Any:
    """Parameters of `policy` in an environment, by one program: operation by operation takes twice as long."""

    @jax.jit
    def initialise(key: jax.Array) -> Any:
        actor = initial_actor_state(policy, environment, env_params, 1, key)
        return policy.init(key, actor.memory, actor.inputs, actor.reset, method="step")

    return initialise(jax.random.key(0))
