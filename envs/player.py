"""Reference players: hand-written strategies that give the reference lines of plots and tables.

`environment.players()` names those of an environment, `dict[str, Player]`; the first is an upper bound, a player that
knows everything. A player is two pure functions for one environment; `vmap` them for many.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Player(NamedTuple):
    """A strategy with a memory of its own, which starts anew whenever a trial begins."""

    initial_state: Callable[[Any], Any]
    """`initial_state(env_params) -> player_state`: what the player remembers as a trial begins."""
    act: Callable[[jax.Array, Any, Any, Any], tuple[Any, jax.Array]]
    """`act(key, player_state, env_state, env_params) -> (player_state, action)`, once per step."""


def play(
    environment: Any, env_params: Any, player: Player, key: jax.Array, num_environments: int, num_steps: int
) -> jax.Array:
    """Let `player` act in B = `num_environments` environments for T = `num_steps` steps from the start of a trial.

    Trials that end are followed by new ones. `key` feeds the environments and what the player draws.
    Returns the rewards, float32 [T, B].
    """

    def play_one(key: jax.Array) -> jax.Array:
        reset_key, step_key = jax.random.split(key)
        _, env_state = environment.reset(reset_key, env_params)

        def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            player_state, env_state = carry
            act_key, step_key = jax.random.split(key)
            player_state, action = player.act(act_key, player_state, env_state, env_params)
            _, env_state, reward, terminated, truncated, _ = environment.step(step_key, env_state, action, env_params)
            fresh_state = player.initial_state(env_params)
            player_state = jax.tree.map(partial(jnp.where, terminated | truncated), fresh_state, player_state)
            return (player_state, env_state), reward

        carry = (player.initial_state(env_params), env_state)
        return jax.lax.scan(step, carry, jax.random.split(step_key, num_steps))[1]

    return jax.jit(jax.vmap(play_one, out_axes=1))(jax.random.split(key, num_environments))


class Episodes(NamedTuple):
    """How B episodes went."""

    outcomes: Mapping[str, jax.Array | np.ndarray]
    """Outcomes that the environment names, of the last step, each `[B]`."""
    total: jax.Array | np.ndarray
    """Sum of rewards, float32 [B]."""
    length: jax.Array | np.ndarray
    """Steps, int32 [B]."""


def play_episodes(environment: Any, env_params: Any, player: Player, key: jax.Array, num_episodes: int) -> Episodes:
    """Let `player` act in B = `num_episodes` environments until the first episode of each is over."""

    class Progress(NamedTuple):
        key: jax.Array
        player_state: Any
        env_state: Any
        over: jax.Array
        episode: Episodes

    def step(progress: Progress) -> Progress:
        key, act_key, step_key = jax.random.split(progress.key, 3)
        player_state, action = player.act(act_key, progress.player_state, progress.env_state, env_params)
        _, env_state, reward, terminated, truncated, info = environment.step(
            step_key, progress.env_state, action, env_params
        )
        total, length = progress.episode.total + reward, progress.episode.length + 1
        episode = Episodes({name: info[name] for name in environment.outcomes}, total, length)
        return Progress(key, player_state, env_state, terminated | truncated, episode)

    def play_one(key: jax.Array) -> Episodes:
        reset_key, step_key = jax.random.split(key)
        _, env_state = environment.reset(reset_key, env_params)
        nothing = Episodes({}, jnp.float32(0), jnp.int32(0))
        progress = Progress(step_key, player.initial_state(env_params), env_state, jnp.bool_(False), nothing)
        shapes = jax.eval_shape(step, progress).episode
        progress = progress._replace(episode=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))
        return jax.lax.while_loop(lambda progress: ~progress.over, step, progress).episode

    return jax.jit(jax.vmap(play_one))(jax.random.split(key, num_episodes))
