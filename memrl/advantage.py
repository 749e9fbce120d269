"""How much better an action was than expected: generalised advantage estimation that knows how trials end."""

import jax
import jax.numpy as jnp

from memrl.rollout import Trajectory


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


def trajectory_advantage(
    trajectory: Trajectory,
    last_value: jax.Array,
    *,
    discount: float | jax.Array,
    gae_lambda: float | jax.Array,
    credit_across_attempts: bool,
) -> jax.Array:
    """Advantages `[T, B]` of a rollout.

    Args:
      trajectory: what happened.
      last_value: `[B]`, the value of what follows its last step.
      discount: γ.
      gae_lambda: λ.
      credit_across_attempts: whether returns continue across the attempts of a trial.
    """
    following = jnp.concatenate([trajectory.value[1:], last_value[None]])
    nothing_follows = trajectory.terminated
    if not credit_across_attempts:
        nothing_follows = nothing_follows | trajectory.soft_reset
    return generalised_advantage(
        trajectory.reward.astype(trajectory.value.dtype),
        jnp.where(nothing_follows, 0, discount),
        trajectory.value,
        jnp.where(trajectory.truncated, trajectory.final_value, following),
        jnp.where(nothing_follows | trajectory.truncated, 0, gae_lambda),
    )
