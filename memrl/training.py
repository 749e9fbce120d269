"""Training: the state of a run and the compiled, device-sharded program that advances it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from memrl import sharding
from memrl.memory.base import State
from memrl.networks import ActorCritic
from memrl.ppo import PPOConfig, learn, trajectory_advantage
from memrl.rollout import ActorState, Trajectory, initial_actor_state, rollout


class TrainState(struct.PyTreeNode):
    """Everything that changes during training. Saved and restored, a run goes on bit for bit."""

    params: Any
    """Parameters of the policy, on every device."""
    optimizer: Any
    """State of the optimiser, on every device."""
    actor: ActorState
    """Environments, memories and their last inputs, split over the devices."""
    key: jax.Array
    """PRNG key of what is not per environment."""
    update: jax.Array
    """Updates done, int32."""


class Training(NamedTuple):
    """The program of a run: two pure functions, compiled on first use (or ahead, with `.lower`)."""

    initial_state: Callable[[jax.Array], TrainState]
    """From a typed PRNG key to the state before the first update, placed on the devices."""
    advance: Callable[[TrainState], tuple[TrainState, dict[str, jax.Array]]]
    """From a state, which is consumed, to the state a chunk of updates later and float32 metrics `[chunk]`."""


def make_optimizer(config: PPOConfig, num_updates: int) -> optax.GradientTransformation:
    """Adam on clipped gradients, its step size linear over all gradient steps of the run."""
    gradient_steps = num_updates * config.updates_per_rollout * config.epochs * config.minibatches
    schedule = optax.linear_schedule(config.learning_rate, config.final_learning_rate, gradient_steps)
    return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optax.adam(schedule, eps=1e-5))


def make_training(
    policy: ActorCritic,
    environment: Any,
    env_params: Any,
    config: PPOConfig,
    num_updates: int,
    mesh: Mesh,
    chunk: int = 1,
    optimizer: optax.GradientTransformation | None = None,
) -> Training:
    """Builds the program; compiles nothing yet.

    Args:
      policy: what is trained.
      environment, env_params: a gymnax environment and its parameters.
      config: how.
      num_updates: length of the whole run, which the schedules need.
      mesh: a one-axis mesh, see `memrl.sharding.device_mesh`.
      chunk: updates per call of `advance`.
      optimizer: takes the place of `make_optimizer`.

    Raises:
      ValueError: the devices do not divide the environments of a minibatch.
    """
    devices = mesh.devices.size
    if config.num_envs % (config.minibatches * devices):
        raise ValueError(
            f"ppo.num_envs is {config.num_envs}, ppo.minibatches {config.minibatches} and devices {devices}: "
            f"the environments must be a multiple of minibatches x devices = {config.minibatches * devices}."
        )
    optimizer = make_optimizer(config, num_updates) if optimizer is None else optimizer

    def initial_state(key: jax.Array) -> TrainState:
        key_params, key_actor, key = jax.random.split(key, 3)
        actor = initial_actor_state(policy, environment, env_params, config.num_envs, key_actor)
        params = policy.init(key_params, actor.memory, actor.inputs, actor.reset, method="step")
        return TrainState(params, optimizer.init(params), actor, key, jnp.int32(0))

    pieces, piece_length = config.updates_per_rollout, config.unroll_length // config.updates_per_rollout

    def read_again(params: Any, memory: State, rollout_so_far: Trajectory, piece: jax.Array) -> tuple[State, jax.Array]:
        """What `params` remember, and their values `[T, B]`, after reading a rollout up to and with a piece."""

        def read(memory: State, now: tuple[jax.Array, Any, jax.Array]) -> tuple[State, jax.Array]:
            number, inputs, reset = now
            after, outputs = policy.apply(params, memory, inputs, reset, method="unroll")
            return jax.tree.map(lambda new, old: jnp.where(number <= piece, new, old), after, memory), outputs.value

        inputs, resets = jax.tree.map(
            lambda leaf: leaf.reshape(pieces, piece_length, *leaf.shape[1:]),
            (rollout_so_far.inputs, rollout_so_far.reset),
        )
        memory, values = jax.lax.scan(read, memory, (jnp.arange(pieces, dtype=jnp.int32), inputs, resets))
        return memory, values.reshape(config.unroll_length, -1)

    def update(state: TrainState, _: None) -> tuple[TrainState, dict[str, jax.Array]]:
        # Steps that have not been taken yet are zeros, which no step before them sees.
        shapes = jax.eval_shape(
            lambda state: rollout(policy, environment, env_params, state.params, state.actor, config.unroll_length)[1],
            state,
        )
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        progress = state.update.astype(nothing.value.dtype) / num_updates
        entropy_coefficient = config.entropy_coefficient + progress * (
            config.final_entropy_coefficient - config.entropy_coefficient
        )
        memory_at_start = state.actor.memory
        piece_of_step = jnp.arange(config.unroll_length, dtype=jnp.int32) // piece_length

        def act_and_learn(carry: tuple[TrainState, Trajectory, jax.Array], piece: jax.Array) -> tuple[Any, Any]:
            state, trajectory, advantage = carry
            actor, latest = rollout(policy, environment, env_params, state.params, state.actor, piece_length)
            _, last = policy.apply(state.params, actor.memory, actor.inputs, actor.reset, method="step")

            def with_latest(whole: jax.Array, part: jax.Array) -> jax.Array:
                return jax.lax.dynamic_update_slice_in_dim(whole, part, piece * piece_length, axis=0)

            trajectory = jax.tree.map(with_latest, trajectory, latest)
            is_last = piece == pieces - 1
            advantage = jnp.where(
                is_last,
                trajectory_advantage(trajectory, last.value, config),
                with_latest(advantage, trajectory_advantage(latest, last.value, config)),
            )
            key, key_learn = jax.random.split(state.key)
            newest = piece_of_step == piece
            params, optimizer_state, statistics = learn(
                policy,
                optimizer,
                state.params,
                state.optimizer,
                memory_at_start,
                trajectory,
                advantage,
                entropy_coefficient,
                newest,
                newest | is_last,
                key_learn,
                config,
                sharding.AXIS,
            )
            if config.refresh_memory:
                memory, value = read_again(params, memory_at_start, trajectory, piece)
                actor, trajectory = actor.replace(memory=memory), trajectory._replace(value=value)
            state = TrainState(params, optimizer_state, actor, key, state.update)
            return (state, trajectory, advantage), statistics

        (state, trajectory, advantage), statistics = jax.lax.scan(
            act_and_learn, (state, nothing, nothing.value), jnp.arange(pieces, dtype=jnp.int32)
        )
        deviation = statistics.pop("ratio_deviation").max()
        statistics = {**jax.tree.map(lambda values: values.mean(axis=0), statistics), "ratio_deviation": deviation}

        done = trajectory.terminated | trajectory.truncated

        def mean_where(chosen: jax.Array, value: jax.Array) -> jax.Array:  # NaN where none is chosen
            total = jax.lax.psum(jnp.where(chosen, value, 0).sum(), sharding.AXIS)
            return total / jax.lax.psum(chosen.sum(dtype=jnp.float32), sharding.AXIS)

        target = advantage + trajectory.value
        residual = jax.lax.pmean(
            jnp.square(advantage - jax.lax.pmean(advantage.mean(), sharding.AXIS)).mean(), sharding.AXIS
        )
        spread = jax.lax.pmean(jnp.square(target - jax.lax.pmean(target.mean(), sharding.AXIS)).mean(), sharding.AXIS)
        metrics = {
            "update": (state.update + 1).astype(jnp.float32),
            "return": mean_where(done, trajectory.trial_return),
            "trials": jax.lax.psum(done.sum(dtype=jnp.float32), sharding.AXIS),
            **{name: mean_where(trajectory.over, outcome) for name, outcome in trajectory.outcomes.items()},
            "reward_per_step": jax.lax.pmean(trajectory.reward.mean(), sharding.AXIS),
            "explained_variance": 1 - residual / spread,
            **statistics,
        }
        return state.replace(update=state.update + 1), metrics

    shapes = jax.eval_shape(initial_state, jax.random.key(0))
    specs = TrainState(
        params=jax.tree.map(lambda _: PartitionSpec(), shapes.params),
        optimizer=jax.tree.map(lambda _: PartitionSpec(), shapes.optimizer),
        actor=sharding.split_specs(shapes.actor),
        key=PartitionSpec(),
        update=PartitionSpec(),
    )
    # check_vma=False: gradients stay this device's own until `learn` averages them. Under the default they arrive
    # summed already, and averaging them again does nothing, silently.
    advance = jax.shard_map(
        lambda state: jax.lax.scan(update, state, length=chunk),
        mesh=mesh,
        in_specs=(specs,),
        out_specs=(specs, PartitionSpec()),
        check_vma=False,
    )
    return Training(
        initial_state=jax.jit(initial_state, out_shardings=sharding.shardings(mesh, specs)),
        advance=jax.jit(advance, donate_argnums=0),
    )
