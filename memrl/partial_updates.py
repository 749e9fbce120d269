"""Several updates in one rollout, and memories that are read again after an update, as in ReLIC (arXiv 2410.02751).

A rollout of `unroll_length` steps is cut into `updates_per_rollout` pieces. After each of them there is an update, for
which memories read all steps of the rollout so far. All but the last are partial: the loss is that of the newest piece.
The last one's is that of all steps. With `refresh_memory`, the rollout so far is read again after each update with the
new parameters, and acting goes on with what they remember.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from memrl.advantage import trajectory_advantage
from memrl.memory.base import State
from memrl.networks import ActorCritic
from memrl.ppo import PPOConfig, learn
from memrl.rollout import Trajectory, collect

if TYPE_CHECKING:
    from memrl.training import Settings, TrainState


def learn_in_pieces(
    state: "TrainState",
    settings: "Settings",
    policy: ActorCritic,
    environment: Any,
    config: PPOConfig,
    optimizer: optax.GradientTransformation,
    entropy_coefficient: jax.Array,
    axis: str | None,
) -> tuple["TrainState", Trajectory, jax.Array, dict[str, jax.Array]]:
    """Takes the place of `memrl.training.learn_from_rollout`, with the same arguments and results."""
    pieces, piece_length = config.updates_per_rollout, config.unroll_length // config.updates_per_rollout
    hyperparameters, memory_at_start = settings.hyperparameters, state.actor.memory
    piece_of_step = jnp.arange(config.unroll_length, dtype=jnp.int32) // piece_length

    def act_and_learn(carry: tuple[Any, Trajectory, jax.Array], piece: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        state, trajectory, advantage = carry
        actor, latest, last_value = collect(
            policy, environment, settings.env_params, state.params, state.actor, piece_length
        )

        def with_latest(whole: jax.Array, part: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(whole, part, piece * piece_length, axis=0)

        def advantage_of(part: Trajectory) -> jax.Array:
            return trajectory_advantage(
                part,
                last_value,
                discount=hyperparameters.discount,
                gae_lambda=hyperparameters.gae_lambda,
                credit_across_attempts=config.credit_across_attempts,
            )

        trajectory = jax.tree.map(with_latest, trajectory, latest)
        is_last, newest = piece == pieces - 1, piece_of_step == piece
        advantage = jnp.where(is_last, advantage_of(trajectory), with_latest(advantage, advantage_of(latest)))
        key, key_learn = jax.random.split(state.key)
        params, optimizer_state, statistics = learn(
            policy,
            optimizer,
            state.params,
            state.optimizer,
            memory=memory_at_start,
            trajectory=trajectory,
            advantage=advantage,
            key=key_learn,
            config=config,
            hyperparameters=hyperparameters,
            entropy_coefficient=entropy_coefficient,
            axis=axis,
            counts=newest | is_last,
            newest=newest,
        )
        if config.refresh_memory:
            memory, value = read_again(policy, params, memory_at_start, trajectory, piece, pieces)
            actor, trajectory = actor.replace(memory=memory), trajectory._replace(value=value)
        return (state.replace(params=params, optimizer=optimizer_state, actor=actor, key=key), trajectory, advantage), (
            statistics
        )

    # Steps that have not been taken yet are zeros, which no step before them sees.
    shapes = jax.eval_shape(
        lambda state: collect(
            policy, environment, settings.env_params, state.params, state.actor, config.unroll_length
        )[1],
        state,
    )
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (state, trajectory, advantage), statistics = jax.lax.scan(
        act_and_learn, (state, nothing, jnp.zeros_like(nothing.value)), jnp.arange(pieces, dtype=jnp.int32)
    )
    deviation = statistics.pop("ratio_deviation").max()
    averages = {name: values.mean(axis=0) for name, values in statistics.items()}
    return state, trajectory, advantage, {**averages, "ratio_deviation": deviation}


def read_again(
    policy: ActorCritic, params: Any, memory: State, trajectory: Trajectory, piece: jax.Array, pieces: int
) -> tuple[State, jax.Array]:
    """Reads a rollout again, up to the end of a piece.

    Args:
      policy: what reads.
      params: its new parameters.
      memory: the state of the memories before the first step.
      trajectory: the rollout, `[T, B, ..]`.
      piece: number of the last piece that is read, int32 [].
      pieces: how many the rollout is cut into.

    Returns:
      What is remembered then, and the values `[T, B]` of all steps.
    """

    def read(memory: State, now: tuple[jax.Array, Any, jax.Array]) -> tuple[State, jax.Array]:
        number, inputs, reset = now
        after, outputs = policy.apply(params, memory, inputs, reset, method="unroll")
        return jax.tree.map(lambda new, old: jnp.where(number <= piece, new, old), after, memory), outputs.value

    inputs, resets = jax.tree.map(
        lambda leaf: leaf.reshape(pieces, -1, *leaf.shape[1:]), (trajectory.inputs, trajectory.reset)
    )
    memory, values = jax.lax.scan(read, memory, (jnp.arange(pieces, dtype=jnp.int32), inputs, resets))
    return memory, values.reshape(trajectory.value.shape)
