"""Evaluation: a frozen policy in trials longer than those it learned in, with less memory than it had.

The protocol is the published one (Memo, arXiv 2510.19732): actions are sampled as in training, segments have their fixed
length, and a memory that is full drops what is oldest, positions unshifted. Every trial is a fresh one; all horizons,
budgets and reference players meet the same tasks, so that their differences are paired.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from memrl import sharding
from memrl.memory.base import MemoryConfig, state_bytes_per_env
from memrl.networks import ActorCritic
from memrl.rollout import initial_actor_state, rollout

INTERVAL = "95%: mean ± 1.96 standard errors over the trials"


@dataclass(frozen=True)
class EvaluationConfig:
    """How a trained policy is evaluated."""

    num_trials: int = 256
    """Trials of each length with each memory budget."""
    horizons: tuple[int, ...] = (1, 2, 4, 8)
    """Lengths of the trials, as multiples of the trained length; 1 must be among them."""
    budgets: tuple[float, ...] = (1.0, 0.5, 0.25)
    """What a restricted memory has room for, in trained trial lengths; the oldest is dropped. The memory without
    restriction is always evaluated too, and one of a fixed size is evaluated only so."""
    windows_per_trial: int = 5
    """Windows into which a trial of the trained length is cut to show learning; must divide its steps."""
    seed: int = 0
    """Seed of tasks and actions."""

    def __post_init__(self) -> None:
        if self.num_trials < 2:
            raise ValueError(f"evaluation.num_trials is {self.num_trials}: it must be at least 2.")
        if 1 not in self.horizons or min(self.horizons) < 1:
            raise ValueError(f"evaluation.horizons is {self.horizons}: all must be at least 1, and 1 among them.")
        if any(budget <= 0 for budget in self.budgets):
            raise ValueError(f"evaluation.budgets is {self.budgets}: all must be greater than 0.")
        if self.windows_per_trial < 1:
            raise ValueError(f"evaluation.windows_per_trial is {self.windows_per_trial}: it must be at least 1.")

    def window_length(self, trial_length: int) -> int:
        """Steps of a window; ValueError if the windows do not divide a trial of `trial_length` steps."""
        if trial_length % self.windows_per_trial:
            raise ValueError(
                f"evaluation.windows_per_trial is {self.windows_per_trial} and a trial has {trial_length} steps: "
                "the windows must divide the trial."
            )
        return trial_length // self.windows_per_trial


class Measured(NamedTuple):
    """What is measured of every trial, float32 `[B]`, or `[W, B]` for `W` windows."""

    reward: jax.Array
    """Sum of rewards."""
    tokens: jax.Array
    """Sum over the steps of the tokens attended to."""


def evaluate(
    make_policy: Callable[[MemoryConfig], ActorCritic],
    memory: MemoryConfig,
    environment: Any,
    env_params: Any,
    params: Any,
    config: EvaluationConfig,
    report: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> dict[str, Any]:
    """Evaluates a policy; a reference player is evaluated beside it if `environment.players()` has any.

    Work is done window by window in one compiled program per memory size, for all horizons, on as many of this
    process's devices as divide `config.num_trials`.

    Args:
      make_policy: the policy with the given memory; its parameters are `params` for every size of the same memory.
      memory: the memory as trained.
      environment, env_params: a gymnax environment and its parameters as trained.
      config: what is evaluated.
      report: called with every entry of `results` as soon as it is there.

    Returns:
      What is written to `evaluation.json`, see `README.md`: plain numbers, strings, lists and dictionaries.

    Raises:
      ValueError: the windows do not divide the trial.
    """
    raise NotImplementedError
