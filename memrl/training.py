"""Training: the state of a run and the compiled, device-sharded program that advances it."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

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


def train_step(
    state: TrainState,
    policy: ActorCritic,
    environment: Any,
    env_params: Any,
    config: PPOConfig,
    optimizer: optax.GradientTransformation,
    num_updates: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update, on every device at once: acts for `config.unroll_length` steps and learns from them.

    The other arguments are those of `make_training`. Returns the state afterwards and the metrics, float32 [].
    """
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

    metrics = {
        "update": (state.update + 1).astype(jnp.float32),
        "return": mean_where(done, trajectory.trial_return),
        "trials": jax.lax.psum(done.sum(dtype=jnp.float32), sharding.AXIS),
        **{name: mean_where(trajectory.over, outcome) for name, outcome in trajectory.outcomes.items()},
        "reward_per_step": jax.lax.pmean(trajectory.reward.mean(), sharding.AXIS),
        "explained_variance": explained_variance(trajectory.value, advantage, sharding.AXIS),
        **statistics,
    }
    return state.replace(update=state.update + 1), metrics


def explained_variance(value: jax.Array, advantage: jax.Array, axis: str) -> jax.Array:
    """Share of the variance of returns that the values explain, over all devices: 1 is perfect, a constant explains 0.

    Args:
      value: `[T, B]`.
      advantage: `[T, B]`; the return is the sum of both.
      axis: name of the device axis.

    Returns:
      float32 []; NaN if all returns are the same.
    """

    def variance(x: jax.Array) -> jax.Array:
        return jax.lax.pmean(jnp.square(x - jax.lax.pmean(x.mean(), axis)).mean(), axis)

    return 1 - variance(advantage) / variance(value + advantage)


def begin(
    key: jax.Array,
    policy: ActorCritic,
    environment: Any,
    env_params: Any,
    config: PPOConfig,
    optimizer: optax.GradientTransformation,
) -> TrainState:
    """The state before the first update. Consumes `key`; the other arguments are those of `make_training`."""
    key_params, key_actor, key = jax.random.split(key, 3)
    actor = initial_actor_state(policy, environment, env_params, config.num_envs, key_actor)
    params = policy.init(key_params, actor.memory, actor.inputs, actor.reset, method="step")
    return TrainState(params, optimizer.init(params), actor, key, jnp.int32(0))


def state_specs(state: TrainState) -> TrainState:
    """How a state is split over the devices."""
    return TrainState(
        params=jax.tree.map(lambda _: PartitionSpec(), state.params),
        optimizer=jax.tree.map(lambda _: PartitionSpec(), state.optimizer),
        actor=sharding.split_specs(state.actor),
        key=PartitionSpec(),
        update=PartitionSpec(),
    )


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
      environment: a gymnax environment.
      env_params: its parameters.
      config: how it is trained.
      num_updates: length of the whole run, which the schedules need.
      mesh: a one-axis mesh, see `memrl.sharding.device_mesh`.
      chunk: updates per call of `advance`.
      optimizer: takes the place of `make_optimizer`.

    Raises:
      ValueError: the devices do not divide the environments of a minibatch.
    """
    check_devices(config, mesh)
    optimizer = make_optimizer(config, num_updates) if optimizer is None else optimizer

    def initial_state(key: jax.Array) -> TrainState:
        return begin(key, policy, environment, env_params, config, optimizer)

    def update(state: TrainState, _: None) -> tuple[TrainState, dict[str, jax.Array]]:
        return train_step(state, policy, environment, env_params, config, optimizer, num_updates)

    specs = state_specs(jax.eval_shape(initial_state, jax.random.key(0)))
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


class Settings(NamedTuple):
    """What runs may differ in that share a program: arrays, so that nothing is compiled again for other values."""

    env_params: Any
    """Parameters of the environment."""
    ppo: dict[str, Any]
    """`PPOConfig.numbers()`."""


class SeedsTraining(NamedTuple):
    """The program of runs that differ in their seed alone: as `Training`, with an axis `[S]` for the seeds in front."""

    initial_state: Callable[[jax.Array, Settings], TrainState]
    """From typed PRNG keys `[S]` to the states before the first update, leaves `[S, ..]`."""
    advance: Callable[[TrainState, Settings], tuple[TrainState, dict[str, jax.Array]]]
    """From states, which are consumed, to those a chunk of updates later and float32 metrics `[S, chunk]`."""


def make_seeds_training(
    policy: ActorCritic,
    environment: Any,
    settings: Settings,
    config: PPOConfig,
    num_updates: int,
    mesh: Mesh,
    chunk: int = 1,
    form: Literal["parallel", "sequential"] | None = None,
) -> SeedsTraining:
    """Builds the program of several seeds at once; compiles nothing yet.

    Each seed learns what `make_training` would let it learn, up to rounding.

    Args:
      policy, environment, num_updates, mesh, chunk: as for `make_training`.
      settings: with the shapes that the program shall take; their values are arguments of it.
      config: of which the numbers that `settings` name are not used.
      form: parallel: all seeds in one batch (`vmap`), by default where there is an accelerator to fill; sequential:
        one after the other within the program, by default on a CPU. There one seed keeps the cores busy, a batch is no
        faster (four seeds of `gru_t_maze`: 2% faster, of `memo_t_maze`: 18% slower), and what is computed for some
        steps only, such as a summary, is computed at all steps in a batch.

    Raises:
      ValueError: the devices do not divide the environments of a minibatch.
    """
    check_devices(config, mesh)
    if form is None:
        form = "sequential" if mesh.devices.flat[0].platform == "cpu" else "parallel"

    def parts(settings: Settings) -> tuple[PPOConfig, optax.GradientTransformation]:
        own = config.with_numbers(settings.ppo)
        return own, make_optimizer(own, num_updates)

    def initial_state(keys: jax.Array, settings: Settings) -> TrainState:
        own, optimizer = parts(settings)
        # One by one: on a CPU with few threads, orthogonal matrices for several at once never come to an end (QR
        # decompositions in jaxlib 0.10.2 wait for each other).
        return jax.lax.map(lambda key: begin(key, policy, environment, settings.env_params, own, optimizer), keys)

    def advance_one(state: TrainState, settings: Settings) -> tuple[TrainState, dict[str, jax.Array]]:
        own, optimizer = parts(settings)

        def update(state: TrainState, _: None) -> tuple[TrainState, dict[str, jax.Array]]:
            return train_step(state, policy, environment, settings.env_params, own, optimizer, num_updates)

        return jax.lax.scan(update, state, length=chunk)

    def advance_all(states: TrainState, settings: Settings) -> tuple[TrainState, dict[str, jax.Array]]:
        if form == "sequential":
            return jax.lax.map(lambda state: advance_one(state, settings), states)
        return jax.vmap(advance_one, in_axes=(0, None))(states, settings)

    one = jax.eval_shape(
        lambda key: jax.tree.map(lambda leaf: leaf[0], initial_state(key[None], settings)), jax.random.key(0)
    )
    specs = jax.tree.map(lambda spec: PartitionSpec(None, *spec), state_specs(one))
    advance = jax.shard_map(
        advance_all,
        mesh=mesh,
        in_specs=(specs, PartitionSpec()),
        out_specs=(specs, PartitionSpec()),
        check_vma=False,  # see `make_training`
    )
    return SeedsTraining(
        initial_state=jax.jit(initial_state, out_shardings=sharding.shardings(mesh, specs)),
        advance=jax.jit(advance, donate_argnums=0),
    )


def check_devices(config: PPOConfig, mesh: Mesh) -> None:
    """Raises ValueError if the devices of `mesh` do not divide the environments of a minibatch."""
    devices = mesh.devices.size
    if config.num_envs % (config.minibatches * devices):
        raise ValueError(
            f"ppo.num_envs is {config.num_envs}, ppo.minibatches {config.minibatches} and devices {devices}: "
            f"the environments must be a multiple of minibatches x devices = {config.minibatches * devices}."
        )
