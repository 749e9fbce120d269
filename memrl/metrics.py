"""What is measured in an update: of the environment, of the critic, of learning."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memrl.rollout import Trajectory
from memrl.sharding import mean_over, sum_over


class Measure(NamedTuple):
    """A figure that may not be defined, such as the mean return in an update in which no trial ended.

    NaN takes its place on the host only: in a compiled program it would be an error where `JAX_DEBUG_NANS` is set.
    """

    value: jax.Array
    """The figure, any number where it is not defined."""
    defined: jax.Array
    """Whether it is defined, bool."""


Metrics = dict[str, jax.Array | Measure]
"""By name, float32 [], or with further axes for chunks of updates and for seeds."""


def to_host(metrics: Metrics) -> dict[str, np.ndarray]:
    """The metrics as NumPy arrays, NaN where one is not defined; waits for them."""

    def plain(value: Any) -> np.ndarray:
        return np.where(value.defined, value.value, np.float32(np.nan)) if isinstance(value, Measure) else value

    return {name: plain(value) for name, value in jax.device_get(metrics).items()}


def of_trajectory(trajectory: Trajectory, axis: str | None) -> Metrics:
    """How trials, attempts and episodes went that ended in a rollout, over all devices of `axis`."""
    done = trajectory.terminated | trajectory.truncated
    return {
        "return": mean_where(done, trajectory.trial_return, axis),
        "trials": sum_over(axis, done.sum(dtype=jnp.float32)),
        **{name: mean_where(trajectory.over, outcome, axis) for name, outcome in trajectory.outcomes.items()},
        "reward_per_step": mean_over(axis, trajectory.reward.mean()),
    }


def mean_where(chosen: jax.Array, value: jax.Array, axis: str | None) -> Measure:
    """The mean of `value` where `chosen` (bool), over all devices of `axis`; not defined where none is chosen."""
    total = sum_over(axis, jnp.where(chosen, value, 0).sum())
    count = sum_over(axis, chosen.sum(dtype=jnp.float32))
    return Measure(total / jnp.maximum(count, 1), count > 0)


def explained_variance(value: jax.Array, advantage: jax.Array, axis: str | None) -> Measure:
    """Share of the variance of returns that the values explain, over all devices: 1 is perfect, a constant explains 0.

    Args:
      value: `[T, B]`.
      advantage: `[T, B]`; the return is the sum of both.
      axis: name of the device axis, if there is one.

    Returns:
      float32 []; not defined if all returns are the same.
    """

    def variance(x: jax.Array) -> jax.Array:
        return mean_over(axis, jnp.square(x - mean_over(axis, x.mean())).mean())

    spread = variance(value + advantage)
    return Measure(1 - variance(advantage) / jnp.where(spread > 0, spread, 1), spread > 0)
