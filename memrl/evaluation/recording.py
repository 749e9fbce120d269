"""One trial, step by step, for spectators."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memrl.environment import hooks
from memrl.networks import ActorCritic
from memrl.rollout import initial_actor_state, rollout


class Recording(NamedTuple):
    """`T` steps from the start of a trial, for spectators."""

    states: Any
    """Environment states `[T + 1, ..]`, the first before any step."""
    reward: np.ndarray
    """Rewards, float32 `[T]`."""
    over: np.ndarray
    """Whether the step ended an attempt or an episode, bool `[T]`."""


def in_one_trial(environment: Any, env_params: Any, length: int) -> Any:
    """`env_params` with which `length` steps are all of one trial, if trials are a fixed number of steps."""
    if hooks(environment).episodic:
        return env_params
    # A trial that ended with its last step would have been reset by then.
    return env_params.replace(max_steps_in_episode=jnp.int32(length + 1))


def record_trial(
    policy: ActorCritic, environment: Any, env_params: Any, params: Any, length: int, key: jax.Array
) -> Recording:
    """`length` steps from the start of a trial, actions sampled. Consumes `key`.

    If trials are a fixed number of steps, all are of one trial; else episodes follow each other.
    """
    env_params = in_one_trial(environment, env_params, length)

    def step(actor: Any, _: None) -> tuple[Any, tuple[Any, jax.Array, jax.Array]]:
        actor, trajectory = rollout(policy, environment, env_params, params, actor, 1)
        return actor, (actor.environment, trajectory.reward[0], trajectory.over[0])

    @jax.jit
    def record(params: Any, key: jax.Array) -> tuple[Any, Any]:
        actor = initial_actor_state(policy, environment, env_params, 1, key)
        return actor.environment, jax.lax.scan(step, actor, length=length)[1]

    first, (states, reward, over) = jax.device_get(record(params, key))
    states = jax.tree.map(lambda start, rest: np.concatenate([start, rest[:, 0]]), first, states)
    return Recording(states, reward[:, 0], over[:, 0])
