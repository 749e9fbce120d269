"""Learning: proximal policy optimisation (PPO, arXiv 1707.06347) on whole sequences, the same for every memory."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax

from memrl.memory.base import State, rows
from memrl.networks import ActorCritic, Auxiliary, Inputs
from memrl.rollout import Trajectory, log_prob
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

    def numbers(self) -> dict[str, jax.Array]:
        """The fields in `NUMBERS`, float32, for a compiled program that takes them as arguments."""
        return {name: jnp.float32(getattr(self, name)) for name in NUMBERS}

    def with_numbers(self, numbers: Mapping[str, jax.Array]) -> Self:
        """The same with `numbers`, which may be traced and so cannot be checked again."""
        config = copy.copy(self)
        for name, value in numbers.items():
            object.__setattr__(config, name, value)
        return config


NUMBERS = (
    "learning_rate",
    "final_learning_rate",
    "discount",
    "gae_lambda",
    "clip",
    "value_coefficient",
    "entropy_coefficient",
    "final_entropy_coefficient",
    "max_gradient_norm",
)
"""Fields of `PPOConfig` that decide no shape and no branch of a compiled program."""


class Minibatch(NamedTuple):
    """Whole sequences of `N` environments, leaves `[T, N, ..]`."""

    inputs: Inputs
    reset: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    counts: jax.Array
    """1 where a step counts in the loss, else 0, float; the same for all environments."""
    newest: jax.Array
    """Whether the parameters with which the update begins took the step, bool."""


def generalised_advantage(
    rewards: jax.Array,
    discounts: jax.Array,
    values: jax.Array,
    next_values: jax.Array,
    trace_decays: jax.Array,
) -> jax.Array:
    """Generalised advantage estimation (arXiv 1506.02438, eq. 16), with ends given by the caller, step by step:

        δ_t = r_t + γ_t v'_t - v_t
        A_t = δ_t + γ_t λ_t A_{t+1}

    Args:
      rewards: `r_t`, `[T, ..]`.
      discounts: `γ_t`, the weight of what follows step `t`; 0 where the task terminated.
      values: `v_t`, the prediction before step `t`.
      next_values: `v'_t`, the prediction after step `t`, before any reset.
      trace_decays: `λ_t`; 0 where step `t + 1` belongs to another trial.

    Returns:
      Advantages `A_t`, `[T, ..]`.
    """
    errors = rewards + discounts * next_values - values

    def backwards(following: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        error, decay = now
        advantage = error + decay * following
        return advantage, advantage

    _, advantages = jax.lax.scan(backwards, jnp.zeros_like(errors[0]), (errors, discounts * trace_decays), reverse=True)
    return advantages


def trajectory_advantage(trajectory: Trajectory, last_value: jax.Array, config: PPOConfig) -> jax.Array:
    """Advantages `[T, B]` of a rollout. `last_value` `[B]` is the value of what follows its last step."""
    following = jnp.concatenate([trajectory.value[1:], last_value[None]])
    nothing_follows = trajectory.terminated
    if not config.credit_across_attempts:
        nothing_follows = nothing_follows | trajectory.soft_reset
    return generalised_advantage(
        trajectory.reward.astype(trajectory.value.dtype),
        jnp.where(nothing_follows, 0, config.discount),
        trajectory.value,
        jnp.where(trajectory.truncated, trajectory.final_value, following),
        jnp.where(nothing_follows | trajectory.truncated, 0, config.gae_lambda),
    )


def loss(
    policy: ActorCritic,
    params: Any,
    memory: State,
    batch: Minibatch,
    entropy_coefficient: jax.Array,
    config: PPOConfig,
    axis: str,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The clipped objective (arXiv 1707.06347, eq. 7 and 9) of this device's part of a minibatch, and its statistics.

    Args:
      memory: the state of the memories before the first step, `[N, ..]`.
      axis: name of the device axis, over which advantages are normalised.
    """

    def mean(values: jax.Array) -> jax.Array:
        return (values * batch.counts).sum() / batch.counts.sum()

    _, outputs = policy.apply(params, memory, batch.inputs, batch.reset, method="unroll")
    log_probs = jax.nn.log_softmax(outputs.logits)
    log_ratio = log_prob(outputs.logits, batch.action) - batch.log_prob
    ratio = jnp.exp(log_ratio)

    advantage = batch.advantage
    if config.normalise_advantage:
        advantage = advantage - jax.lax.pmean(mean(advantage), axis)
        advantage = advantage / (jnp.sqrt(jax.lax.pmean(mean(jnp.square(advantage)), axis)) + 1e-8)
    clipped_ratio = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
    policy_loss = -mean(jnp.minimum(ratio * advantage, clipped_ratio * advantage))

    target = batch.advantage + batch.value
    value_error = jnp.square(outputs.value - target)
    if config.value_clip is not None:
        value = batch.value + jnp.clip(outputs.value - batch.value, -config.value_clip, config.value_clip)
        value_error = jnp.maximum(value_error, jnp.square(value - target))
    value_loss = 0.5 * mean(value_error)

    entropy = -mean((jnp.exp(log_probs) * log_probs).sum(axis=-1))
    total = policy_loss + config.value_coefficient * value_loss - entropy_coefficient * entropy
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
        "clip_fraction": mean((jnp.abs(ratio - 1) > config.clip).astype(ratio.dtype)),
        "ratio_deviation": jnp.where(batch.newest, jnp.abs(ratio - 1), 0).max(),
    }


def minibatch_rows(key: jax.Array, num_envs: int, minibatches: int, axis: str) -> jax.Array:
    """Which of this device's `num_envs` environments each minibatch takes.

    Consecutive environments form groups of `minibatches`, and each group deals its members out, one to each minibatch,
    in a random order of its own. The same environments then learn together on any number of devices.

    Returns:
      int32 `[minibatches, num_envs / minibatches]`.
    """
    groups = num_envs // minibatches
    group = jnp.arange(groups, dtype=jnp.int32)
    first = jax.lax.axis_index(axis) * groups
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, first + group)
    order = jax.vmap(lambda key: jax.random.permutation(key, minibatches))(keys).astype(jnp.int32)
    return (order + group[:, None] * minibatches).T


def epoch_rows(key: jax.Array, epochs: int, num_envs: int, minibatches: int, axis: str) -> jax.Array:
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
    memory: State,
    trajectory: Trajectory,
    advantage: jax.Array,
    entropy_coefficient: jax.Array,
    newest: jax.Array,
    counts: jax.Array,
    key: jax.Array,
    config: PPOConfig,
    axis: str,
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """All epochs and minibatches of one update, on every device of `axis` at once.

    Args:
      memory: the state of this device's memories before the first step of the trajectory.
      trajectory: what this device's environments did, `[T, B, ..]`.
      advantage: `[T, B]`.
      newest: which steps were taken with `params`, bool `[T]`.
      counts: which steps count in the loss, bool `[T]`.
      key: the same on all devices; consumed here.

    Returns:
      Parameters and optimiser state, and the statistics averaged over all minibatches, except `ratio_deviation`: the
      largest |ratio - 1| of the newest steps in the first minibatch, before any gradient step. It is the rounding error
      between acting and learning, and nothing else (or, in partial updates without `refresh_memory`, what acting still
      remembered as older parameters had it).
    """
    data = Minibatch(
        inputs=trajectory.inputs,
        reset=trajectory.reset,
        action=trajectory.action,
        log_prob=trajectory.log_prob,
        value=trajectory.value,
        advantage=advantage,
        counts=jnp.broadcast_to(counts[:, None].astype(advantage.dtype), advantage.shape),
        newest=jnp.broadcast_to(newest[:, None], advantage.shape),
    )

    def gradient_step(carry: tuple[Any, Any], index: jax.Array):
        params, optimizer_state = carry
        batch = jax.tree.map(lambda leaf: leaf[:, index], data)
        gradients, statistics = jax.grad(loss, argnums=1, has_aux=True)(
            policy, params, rows(memory, index), batch, entropy_coefficient, config, axis
        )
        gradients = jax.lax.pmean(gradients, axis)
        with jax.numpy_dtype_promotion(
            "standard"
        ):  # Optax's Adam relies on implicit promotion, also where ours is strict
            updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        statistics["gradient_norm"] = optax.tree.norm(gradients)
        return (optax.apply_updates(params, updates), optimizer_state), statistics

    (params, optimizer_state), statistics = jax.lax.scan(
        gradient_step,
        (params, optimizer_state),
        epoch_rows(key, config.epochs, advantage.shape[1], config.minibatches, axis),
    )
    first_deviation = jax.lax.pmax(statistics.pop("ratio_deviation")[0], axis)
    averages = {name: jax.lax.pmean(value.mean(), axis) for name, value in statistics.items()}
    return params, optimizer_state, {**averages, "ratio_deviation": first_deviation}
