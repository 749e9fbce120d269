"""Learning: proximal policy optimisation (PPO, arXiv 1707.06347) on whole sequences, the same for every memory."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from memrl.auxiliary import Auxiliary
from memrl.memory.base import State, rows
from memrl.networks import ActorCritic, Inputs
from memrl.rollout import Trajectory, log_prob
from memrl.sharding import device_index, max_over, mean_over
from memrl.validation import check_numbers


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters of PPO."""

    num_envs: int = 256
    """Environments B, over all devices."""
    unroll_length: int = 100
    """Steps T of each environment between two updates; gradients flow through all of them."""
    epochs: int = 4
    """Passes over the data of an update."""
    minibatches: int = 8
    """Gradient steps per pass; a minibatch holds whole sequences of `num_envs / minibatches` environments."""
    learning_rate: float = 1e-3
    """Step size of Adam at the start."""
    final_learning_rate: float = 0.0
    """Step size of Adam at the end of training; it changes linearly."""
    discount: float = 0.99
    """Discount factor γ."""
    gae_lambda: float = 0.95
    """Trace decay λ of generalised advantage estimation."""
    credit_across_attempts: bool = True
    """Whether returns continue across the attempts of a trial."""
    clip: float = 0.2
    """Range of PPO's clipping: probability ratios beyond 1 ± clip gain nothing; inf: no clipping."""
    value_clip: float | None = None
    """How far the value may move from its old prediction in one update; no limit if not given."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus at the start."""
    final_entropy_coefficient: float = 0.01
    """Weight of the entropy bonus at the end of training; it changes linearly."""
    normalise_advantage: bool = True
    """Scale advantages to mean 0 and standard deviation 1 in each minibatch, over all devices."""
    max_gradient_norm: float = 0.5
    """Largest norm of a gradient; longer ones are scaled down to it; inf: none is."""
    updates_per_rollout: int = 1
    """Updates in `unroll_length` steps, as in ReLIC (arXiv 2410.02751). All but the last are partial: memories read all
    steps of the rollout so far, the loss is that of those since the update before. The last one's is that of all."""
    refresh_memory: bool = False
    """Whether the rollout is read again with the new parameters after an update, so that acting goes on with what they
    remember."""
    reconstruction_coefficient: float = 0.0
    """Weight of the loss of reconstructing the observation from the output of the memory."""
    prediction_coefficient: float = 0.0
    """Weight of the loss of predicting the next output of the memory."""

    def __post_init__(self) -> None:
        check_numbers(self, "ppo.", infinite=("clip", "value_clip", "max_gradient_norm"))
        for name in ("num_envs", "unroll_length", "epochs", "minibatches", "updates_per_rollout"):
            if getattr(self, name) < 1:
                raise ValueError(f"ppo.{name} is {getattr(self, name)}: it must be at least 1.")
        for name in ("discount", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"ppo.{name} is {getattr(self, name)}: it must be from 0 to 1.")
        for name in ("learning_rate", "clip", "value_clip", "max_gradient_norm"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"ppo.{name} is {value}: it must be greater than 0.")
        for name in (
            "final_learning_rate",
            "value_coefficient",
            "entropy_coefficient",
            "final_entropy_coefficient",
            "reconstruction_coefficient",
            "prediction_coefficient",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"ppo.{name} is {getattr(self, name)}: it must not be negative.")
        if self.num_envs % self.minibatches:
            raise ValueError(
                f"ppo.num_envs is {self.num_envs} and ppo.minibatches is {self.minibatches}: "
                "the minibatches must divide the environments."
            )
        if self.unroll_length % self.updates_per_rollout:
            raise ValueError(
                f"ppo.unroll_length is {self.unroll_length} and ppo.updates_per_rollout is {self.updates_per_rollout}: "
                "the updates must divide the steps."
            )

    @property
    def auxiliary(self) -> tuple[Auxiliary, ...]:
        """The auxiliary losses that have a weight."""
        names: tuple[Auxiliary, ...] = ("reconstruction", "prediction")
        return tuple(name for name in names if getattr(self, f"{name}_coefficient") > 0)

    @property
    def gradient_steps(self) -> int:
        """Gradient steps of one update."""
        return self.updates_per_rollout * self.epochs * self.minibatches

    def hyperparameters(self) -> "Hyperparameters":
        """Those that are arguments of the compiled program."""
        return Hyperparameters(**{name: getattr(self, name) for name in Hyperparameters._fields})


class Hyperparameters(NamedTuple):
    """The fields of `PPOConfig` that decide no shape and no branch of a compiled program, and so are its arguments.

    They are Python floats, which take on the precision of what they meet, or traced scalars.
    """

    learning_rate: float | jax.Array
    final_learning_rate: float | jax.Array
    discount: float | jax.Array
    gae_lambda: float | jax.Array
    clip: float | jax.Array
    value_coefficient: float | jax.Array
    entropy_coefficient: float | jax.Array
    final_entropy_coefficient: float | jax.Array
    max_gradient_norm: float | jax.Array


class Minibatch(NamedTuple):
    """Whole sequences of `N` environments, leaves `[T, N, ..]`."""

    inputs: Inputs
    reset: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array


def scheduled_entropy_coefficient(
    hyperparameters: Hyperparameters, update: jax.Array, num_updates: int, dtype: jnp.dtype
) -> jax.Array:
    """Weight of the entropy bonus, of `dtype`, in update number `update`, counted from 0, of a run of `num_updates`."""
    first, last = hyperparameters.entropy_coefficient, hyperparameters.final_entropy_coefficient
    return first + update.astype(dtype) / num_updates * (last - first)


def loss(
    policy: ActorCritic,
    params: Any,
    memory: State,
    batch: Minibatch,
    *,
    config: PPOConfig,
    hyperparameters: Hyperparameters,
    entropy_coefficient: jax.Array,
    counts: jax.Array,
    newest: jax.Array,
    axis: str | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The clipped objective (arXiv 1707.06347, eq. 7 and 9) of this device's part of a minibatch, and its statistics.

    Args:
      policy: what learns.
      params: its parameters.
      memory: the state of the memories before the first step, `[N, ..]`.
      batch: what happened.
      config: which terms there are.
      hyperparameters: their weights.
      entropy_coefficient: the weight of the entropy bonus in this update.
      counts: which steps count in the loss, bool `[T]`.
      newest: which steps count in `ratio_deviation`, bool `[T]`.
      axis: name of the device axis, over which advantages are normalised.
    """
    weights = counts.astype(batch.advantage.dtype)[:, None]

    def mean(values: jax.Array) -> jax.Array:
        return (values * weights).sum() / (weights.sum() * values.shape[1])

    _, outputs = policy.apply(params, memory, batch.inputs, batch.reset, method="unroll")
    log_probs = jax.nn.log_softmax(outputs.logits)
    log_ratio = log_prob(outputs.logits, batch.action) - batch.log_prob
    ratio = jnp.exp(log_ratio)

    advantage = batch.advantage
    if config.normalise_advantage:
        advantage = advantage - mean_over(axis, mean(advantage))
        advantage = advantage / (jnp.sqrt(mean_over(axis, mean(jnp.square(advantage)))) + 1e-8)
    clipped_ratio = jnp.clip(ratio, 1 - hyperparameters.clip, 1 + hyperparameters.clip)
    policy_loss = -mean(jnp.minimum(ratio * advantage, clipped_ratio * advantage))

    target = batch.advantage + batch.value
    value_error = jnp.square(outputs.value - target)
    if config.value_clip is not None:
        value = batch.value + jnp.clip(outputs.value - batch.value, -config.value_clip, config.value_clip)
        value_error = jnp.maximum(value_error, jnp.square(value - target))
    value_loss = 0.5 * mean(value_error)

    entropy = -mean((jnp.exp(log_probs) * log_probs).sum(axis=-1))
    total = policy_loss + hyperparameters.value_coefficient * value_loss - entropy_coefficient * entropy
    auxiliary = {}
    if config.auxiliary:
        arguments = (batch.inputs, outputs.features, batch.reset)
        for name, values in policy.apply(params, *arguments, method="auxiliary_losses").items():
            auxiliary[f"{name}_loss"] = mean(values)
            total = total + getattr(config, f"{name}_coefficient") * auxiliary[f"{name}_loss"]
    return total, {
        **auxiliary,
        "loss": total,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        # http://joschu.net/blog/kl-approx.html, the estimator that is never negative
        "approximate_kl": mean(ratio - 1 - log_ratio),
        "clip_fraction": mean((jnp.abs(ratio - 1) > hyperparameters.clip).astype(ratio.dtype)),
        "ratio_deviation": jnp.where(newest[:, None], jnp.abs(ratio - 1), 0).max(),
    }


def minibatch_rows(key: jax.Array, num_envs: int, minibatches: int, axis: str | None) -> jax.Array:
    """Which of this device's `num_envs` environments each minibatch takes.

    Consecutive environments form groups of `minibatches`, and each group deals its members out, one to each minibatch,
    in a random order of its own. The same environments then learn together on any number of devices.

    Returns:
      int32 `[minibatches, num_envs / minibatches]`.
    """
    groups = num_envs // minibatches
    group = jnp.arange(groups, dtype=jnp.int32)
    first = device_index(axis) * groups
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, first + group)
    order = jax.vmap(lambda key: jax.random.permutation(key, minibatches))(keys).astype(jnp.int32)
    return (order + group[:, None] * minibatches).T


def epoch_rows(key: jax.Array, epochs: int, num_envs: int, minibatches: int, axis: str | None) -> jax.Array:
    """`minibatch_rows` of all epochs, dealt anew in each, int32 `[epochs x minibatches, num_envs / minibatches]`."""
    index = jax.vmap(minibatch_rows, in_axes=(0, None, None, None))(
        jax.random.split(key, epochs), num_envs, minibatches, axis
    )
    return index.reshape(-1, index.shape[-1])


def learn(
    policy: ActorCritic,
    optimizer: optax.GradientTransformation,
    params: Any,
    optimizer_state: Any,
    *,
    memory: State,
    trajectory: Trajectory,
    advantage: jax.Array,
    key: jax.Array,
    config: PPOConfig,
    hyperparameters: Hyperparameters,
    entropy_coefficient: jax.Array,
    axis: str | None,
    counts: jax.Array | None = None,
    newest: jax.Array | None = None,
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """All epochs and minibatches of one update, on every device of `axis` at once.

    Args:
      policy: what learns.
      optimizer: how parameters follow gradients.
      params: the parameters of the policy.
      optimizer_state: the state of the optimiser.
      memory: the state of this device's memories before the first step of the trajectory.
      trajectory: what this device's environments did, `[T, B, ..]`.
      advantage: `[T, B]`.
      key: the same on all devices; consumed here.
      config: epochs, minibatches, and which terms the loss has.
      hyperparameters: the weights of the terms.
      entropy_coefficient: the weight of the entropy bonus in this update.
      axis: name of the device axis; None where there is one device alone, outside `jax.shard_map`.
      counts: which steps count in the loss, bool `[T]`; all if not given.
      newest: which steps were taken with `params`, bool `[T]`; all if not given.

    Returns:
      Parameters and optimiser state, and the statistics averaged over all minibatches, except `ratio_deviation`: the
      largest |ratio - 1| of the newest steps in the first minibatch, before any gradient step. It is the rounding error
      between acting and learning, and nothing else (or, in partial updates without `refresh_memory`, what acting still
      remembered as older parameters had it).
    """
    steps, num_envs = advantage.shape
    every_step = jnp.ones(steps, bool)
    objective = functools.partial(
        loss,
        policy,
        config=config,
        hyperparameters=hyperparameters,
        entropy_coefficient=entropy_coefficient,
        counts=every_step if counts is None else counts,
        newest=every_step if newest is None else newest,
        axis=axis,
    )
    data = Minibatch(
        inputs=trajectory.inputs,
        reset=trajectory.reset,
        action=trajectory.action,
        log_prob=trajectory.log_prob,
        value=trajectory.value,
        advantage=advantage,
    )

    def gradient_step(carry: tuple[Any, Any], index: jax.Array) -> tuple[tuple[Any, Any], dict[str, jax.Array]]:
        params, optimizer_state = carry
        batch = jax.tree.map(lambda leaf: leaf[:, index], data)
        gradients, statistics = jax.grad(objective, has_aux=True)(params, rows(memory, index), batch)
        gradients = mean_over(axis, gradients)
        with jax.numpy_dtype_promotion(
            "standard"
        ):  # Optax's Adam relies on implicit promotion, also where ours is strict
            updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        statistics["gradient_norm"] = optax.tree.norm(gradients)
        return (optax.apply_updates(params, updates), optimizer_state), statistics

    (params, optimizer_state), statistics = jax.lax.scan(
        gradient_step,
        (params, optimizer_state),
        epoch_rows(key, config.epochs, num_envs, config.minibatches, axis),
    )
    first_deviation = max_over(axis, statistics.pop("ratio_deviation")[0])
    averages = {name: mean_over(axis, value.mean()) for name, value in statistics.items()}
    return params, optimizer_state, {**averages, "ratio_deviation": first_deviation}
