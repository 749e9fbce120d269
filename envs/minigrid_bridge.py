"""Episodes in the real MiniGrid, for policies that learned in `envs/minigrid_memory.py`.

The environments are those of the package minigrid, stepped one after the other in Python; the policy acts in all of
them at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from envs.minigrid_memory import MiniGridMemoryConfig
from envs.player import Episodes

ENVIRONMENT_IDS = {
    "MiniGrid-MemoryS7-v0": MiniGridMemoryConfig(7),
    "MiniGrid-MemoryS9-v0": MiniGridMemoryConfig(9),
    "MiniGrid-MemoryS11-v0": MiniGridMemoryConfig(11),
    "MiniGrid-MemoryS13-v0": MiniGridMemoryConfig(13),
    "MiniGrid-MemoryS13Random-v0": MiniGridMemoryConfig(13, random_length=True),
    "MiniGrid-MemoryS17Random-v0": MiniGridMemoryConfig(17, random_length=True),
}
"""What MiniGrid registers of this task, and the same in JAX."""

MOST_AT_ONCE = 64
"""Environments, at most; each plays its share of the episodes one after the other."""


class Policy(NamedTuple):
    """How to act in B environments at once: two functions, with a state of the policy's own."""

    initial_state: Callable[[int], Any]
    """`initial_state(B) -> state`."""
    step: Callable[..., tuple[Any, np.ndarray]]
    """`step(state, observation, action, reward, reset) -> (state, chosen)`.

    `observation`: a dict of arrays `[B, ..]` as `MiniGridMemory` has it. `action`, int32 `[B]`, and `reward`, float32
    `[B]`: the previous ones of the episode, -1 and 0 at its start. `reset`, bool `[B]`: the episode begins, so nothing
    of what was before may be remembered. `chosen`: int32 `[B]`.
    """


def play_minigrid(environment_id: str, policy: Policy, num_episodes: int, seed: int) -> Episodes:
    """How N = `num_episodes` episodes of one of `ENVIRONMENT_IDS` go, in NumPy, each leaf `[N]`.

    Which episodes these are depends on `seed` and N alone. Which ones an environment plays is settled beforehand, so
    that short episodes do not count more often than long ones.
    """
    import gymnasium
    import minigrid  # noqa: F401 (registers its environments)

    batch = min(num_episodes, MOST_AT_ONCE)
    environments = [gymnasium.make(environment_id) for _ in range(batch)]
    seeds = np.random.SeedSequence(seed).generate_state(num_episodes)
    success = np.zeros(num_episodes, bool)
    total, length = np.zeros(num_episodes, np.float32), np.zeros(num_episodes, np.int32)

    def begin(row: int, episode: int) -> dict[str, Any]:
        return environments[row].reset(seed=int(seeds[episode]))[0]

    episodes = np.arange(batch)  # that each environment is at; one from N on is not played
    observations = [begin(row, row) for row in range(batch)]
    action, reward, reset = np.full(batch, -1, np.int32), np.zeros(batch, np.float32), np.ones(batch, bool)
    state = policy.initial_state(batch)
    while (playing := np.flatnonzero(episodes < num_episodes)).size:
        observation = {
            "image": np.stack([observation["image"] for observation in observations]),
            "direction": np.array([observation["direction"] for observation in observations], np.int32),
        }
        state, chosen = policy.step(state, observation, action, reward, reset)
        action, reward, reset = np.array(chosen, np.int32), np.zeros(batch, np.float32), np.zeros(batch, bool)
        for row in playing.tolist():
            episode = episodes[row]
            observations[row], reward[row], terminated, truncated, _ = environments[row].step(int(action[row]))
            total[episode] += reward[row]
            length[episode] += 1
            if terminated or truncated:
                success[episode] = reward[row] > 0  # all that is ever rewarded
                episodes[row] += batch
                if episodes[row] < num_episodes:
                    observations[row] = begin(row, episodes[row])
                action[row], reward[row], reset[row] = -1, 0, True
    return Episodes({"success": success}, total, length)
