"""Training: the state of a run and the compiled, device-sharded program that advances it."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from memrl import metrics, sharding
from memrl.advantage import trajectory_advantage
from memrl.memory.base import parameter_dtype
from memrl.metrics import Metrics
from memrl.networks import ActorCritic
from memrl.partial_updates import learn_in_pieces
from memrl.ppo import Hyperparameters, PPOConfig, learn, scheduled_entropy_coefficient
from memrl.rollout import ActorState, Trajectory, collect, initial_actor_state


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


class Settings(NamedTuple):
    """Arguments of the program of a run: what runs may differ in that share one. Nothing is compiled again for them."""

    env_params: Any
    """Parameters of the environment."""
    hyperparameters: Hyperparameters
    """`PPOConfig.hyperparameters()`."""


class Training(NamedTuple):
    """The program of a run, or of several seeds at once: two pure functions, compiled on first use (or with `.lower`).

    For several seeds, everything but settings has an axis `[S]` in front.
    """

    initial_state: jax.stages.Wrapped
    """`initial_state(key, settings) -> state`: from a typed PRNG key to the state before the first update, on the
    devices."""
    advance: jax.stages.Wrapped
    """`advance(state, settings) -> (state, metrics)`: from a state, which is consumed, to the state a chunk of updates
    later, with metrics `[chunk]`."""


Seeds = Literal["auto", "parallel", "sequential"]
"""How several seeds are trained in one program. parallel: in one batch (`vmap`); sequential: one after the other.

auto is sequential on a CPU and parallel elsewhere, where there is an accelerator to fill. On a CPU one seed keeps the
cores busy, a batch is no faster (four seeds of `gru_t_maze`: 2% faster, of `memo_t_maze`: 18% slower), and what is
computed for some steps only, such as a summary, is computed at all steps in a batch.
"""


def make_optimizer(hyperparameters: Hyperparameters, gradient_steps: int) -> optax.GradientTransformation:
    """Adam on clipped gradients, its step size linear over all gradient steps of the run."""
    schedule = optax.linear_schedule(hyperparameters.learning_rate, hyperparameters.final_learning_rate, gradient_steps)
    return optax.chain(optax.clip_by_global_norm(hyperparameters.max_gradient_norm), optax.adam(schedule, eps=1e-5))


def train_step(
    state: TrainState,
    settings: Settings,
    policy: ActorCritic,
    environment: Any,
    config: PPOConfig,
    optimizer: optax.GradientTransformation,
    num_updates: int,
    axis: str | None,
) -> tuple[TrainState, Metrics]:
    """One update, on every device of `axis` at once: acts for `config.unroll_length` steps and learns from them.

    The arguments are those of `make_training`; without an axis there is one device. Returns the state afterwards and
    the metrics.
    """
    coefficient = scheduled_entropy_coefficient(
        settings.hyperparameters, state.update, num_updates, parameter_dtype(policy.dtype)
    )
    in_pieces = config.updates_per_rollout > 1 or config.refresh_memory
    act_and_learn = learn_in_pieces if in_pieces else learn_from_rollout
    state, trajectory, advantage, statistics = act_and_learn(
        state, settings, policy, environment, config, optimizer, coefficient, axis
    )
    update = state.update + 1
    return state.replace(update=update), {
        "update": update.astype(jnp.float32),
        **metrics.of_trajectory(trajectory, axis),
        "explained_variance": metrics.explained_variance(trajectory.value, advantage, axis),
        **statistics,
    }


def learn_from_rollout(
    state: TrainState,
    settings: Settings,
    policy: ActorCritic,
    environment: Any,
    config: PPOConfig,
    optimizer: optax.GradientTransformation,
    entropy_coefficient: jax.Array,
    axis: str | None,
) -> tuple[TrainState, Trajectory, jax.Array, dict[str, jax.Array]]:
    """Acts, then learns from all of it: the state afterwards, the trajectory, its advantages, statistics of the loss.

    The arguments are those of `train_step`, and the weight of the entropy bonus in this update.
    """
    actor, trajectory, last_value = collect(
        policy, environment, settings.env_params, state.params, state.actor, config.unroll_length
    )
    advantage = trajectory_advantage(
        trajectory,
        last_value,
        discount=settings.hyperparameters.discount,
        gae_lambda=settings.hyperparameters.gae_lambda,
        credit_across_attempts=config.credit_across_attempts,
    )
    key, key_learn = jax.random.split(state.key)
    params, optimizer_state, statistics = learn(
        policy,
        optimizer,
        state.params,
        state.optimizer,
        memory=state.actor.memory,
        trajectory=trajectory,
        advantage=advantage,
        key=key_learn,
        config=config,
        hyperparameters=settings.hyperparameters,
        entropy_coefficient=entropy_coefficient,
        axis=axis,
    )
    state = state.replace(params=params, optimizer=optimizer_state, actor=actor, key=key)
    return state, trajectory, advantage, statistics


def begin(
    key: jax.Array,
    settings: Settings,
    policy: ActorCritic,
    environment: Any,
    config: PPOConfig,
    optimizer: optax.GradientTransformation,
) -> TrainState:
    """The state before the first update. Consumes `key`; the other arguments are those of `make_training`."""
    key_params, key_actor, key = jax.random.split(key, 3)
    actor = initial_actor_state(policy, environment, settings.env_params, config.num_envs, key_actor)
    params = policy.init(key_params, actor.memory, actor.inputs, actor.reset, method="step")
    return TrainState(params, optimizer.init(params), actor, key, jnp.int32(0))


def state_specs(state: TrainState) -> TrainState:
    """How a state is split over the devices."""
    return state.replace(
        params=jax.tree.map(lambda _: PartitionSpec(), state.params),
        optimizer=jax.tree.map(lambda _: PartitionSpec(), state.optimizer),
        actor=sharding.split_specs(state.actor),
        key=PartitionSpec(),
        update=PartitionSpec(),
    )


def make_training(
    policy: ActorCritic,
    environment: Any,
    settings: Settings,
    config: PPOConfig,
    num_updates: int,
    mesh: Mesh,
    *,
    chunk: int = 1,
    seeds: Seeds | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Training:
    """Builds the program; compiles nothing yet.

    Args:
      policy: what is trained.
      environment: a gymnax environment.
      settings: with the shapes that the program shall take; their values are arguments of it.
      config: how it is trained; of the hyperparameters, those in `settings` count.
      num_updates: length of the whole run, which the schedules need.
      mesh: a one-axis mesh, see `memrl.sharding.device_mesh`.
      chunk: updates per call of `advance`.
      seeds: how several seeds are trained together, each of which learns what it learns alone, up to rounding; if not
        given, there is one.
      optimizer: takes the place of `make_optimizer`.

    Raises:
      ValueError: the devices do not divide the environments of a minibatch; or there are several, and JAX is not to
        compile anything (`JAX_DISABLE_JIT`).
    """
    check_devices(config, mesh)
    compiled = sharding.compiles()
    axis = sharding.AXIS if compiled else None  # operation by operation, `jax.shard_map` takes minutes for an update

    def optimizer_of(settings: Settings) -> optax.GradientTransformation:
        return optimizer or make_optimizer(settings.hyperparameters, num_updates * config.gradient_steps)

    def initial_state(key: jax.Array, settings: Settings) -> TrainState:
        return begin(key, settings, policy, environment, config, optimizer_of(settings))

    def advance(state: TrainState, settings: Settings) -> tuple[TrainState, Metrics]:
        def update(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            own = optimizer_of(settings)
            return train_step(state, settings, policy, environment, config, own, num_updates, axis)

        return jax.lax.scan(update, state, length=chunk)

    specs = state_specs(jax.eval_shape(initial_state, jax.random.key(0), settings))
    if seeds is not None:
        if seeds == "auto":
            seeds = "sequential" if mesh.devices.flat[0].platform == "cpu" else "parallel"
        initial_state, advance = over_seeds(initial_state, advance, seeds)
        specs = jax.tree.map(lambda spec: PartitionSpec(None, *spec), specs)
    if compiled:
        # check_vma=False: gradients stay this device's own until `learn` averages them. Under the default they arrive
        # summed already, and averaging them again does nothing, silently.
        advance = jax.shard_map(
            advance,
            mesh=mesh,
            in_specs=(specs, PartitionSpec()),
            out_specs=(specs, PartitionSpec()),
            check_vma=False,
        )
    return Training(
        initial_state=jax.jit(initial_state, out_shardings=sharding.shardings(mesh, specs)),
        advance=jax.jit(advance, donate_argnums=0),
    )


def over_seeds(
    initial_state: Callable[[jax.Array, Settings], TrainState],
    advance: Callable[[TrainState, Settings], tuple[TrainState, Metrics]],
    form: Literal["parallel", "sequential"],
) -> tuple[Callable, Callable]:
    """Both functions of a run for several of them: keys, states and metrics have an axis `[S]` in front."""

    def initial_states(keys: jax.Array, settings: Settings) -> TrainState:
        # One by one: on a CPU with few threads, orthogonal matrices for several at once never come to an end (QR
        # decompositions in jaxlib 0.10.2 wait for each other).
        return jax.lax.map(lambda key: initial_state(key, settings), keys)

    def advance_all(states: TrainState, settings: Settings) -> tuple[TrainState, Metrics]:
        if form == "sequential":
            return jax.lax.map(lambda state: advance(state, settings), states)
        return jax.vmap(advance, in_axes=(0, None))(states, settings)

    return initial_states, advance_all


def check_devices(config: PPOConfig, mesh: Mesh) -> None:
    """Raises ValueError if the devices of `mesh` do not divide the environments of a minibatch, or may not be used."""
    devices = mesh.devices.size
    if config.num_envs % (config.minibatches * devices):
        raise ValueError(
            f"ppo.num_envs is {config.num_envs}, ppo.minibatches {config.minibatches} and devices {devices}: "
            f"the environments must be a multiple of minibatches x devices = {config.minibatches * devices}."
        )
    if devices > 1 and not sharding.compiles():
        raise ValueError(f"JAX_DISABLE_JIT is set and devices is {devices}: what is not compiled runs on one device.")
