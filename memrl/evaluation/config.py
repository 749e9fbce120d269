"""What is evaluated: settings, horizons, memory sizes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from memrl.memory.base import MemoryConfig
from memrl.validation import INT32_MAX, check_numbers


@dataclass(frozen=True)
class EvaluationConfig:
    """How a trained policy is evaluated."""

    num_trials: int = 256
    """Trials of each length with each memory budget."""
    horizons: tuple[int, ...] = (1, 2, 4, 8)
    """Lengths of the trials, as multiples of the trained length; 1 must be among them."""
    budgets: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Sizes of restricted memories: the steps that there is room for, as multiples of the trained trial length. The
    unrestricted memory is always evaluated too."""
    windows_per_trial: int = 5
    """Windows into which a trial of the trained length is cut to show learning; must divide its steps."""
    seed: int = 0
    """Seed of the tasks and of the actions sampled."""

    def __post_init__(self) -> None:
        check_numbers(self, "evaluation.", large=("seed",))
        if self.num_trials < 2:
            raise ValueError(f"evaluation.num_trials is {self.num_trials}: it must be at least 2.")
        if 1 not in self.horizons or any(horizon < 1 for horizon in self.horizons):
            raise ValueError(f"evaluation.horizons is {self.horizons}: all must be at least 1, and 1 among them.")
        if any(budget <= 0 for budget in self.budgets):
            raise ValueError(f"evaluation.budgets is {self.budgets}: all must be greater than 0.")
        if self.windows_per_trial < 1:
            raise ValueError(f"evaluation.windows_per_trial is {self.windows_per_trial}: it must be at least 1.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"evaluation.seed is {self.seed}: it must be from 0 to 2^32 - 1.")

    def window_length(self, trial_length: int) -> int:
        """Steps of a window, where the trials that the policy is trained in have `trial_length` steps.

        Raises:
          ValueError: the windows do not divide the trial, or the steps of the longest trials cannot be counted.
        """
        if trial_length % self.windows_per_trial:
            raise ValueError(
                f"evaluation.windows_per_trial is {self.windows_per_trial} and a trial has {trial_length} steps: "
                "the windows must divide the trial."
            )
        if (longest := max(self.horizons) * trial_length) > INT32_MAX:
            raise ValueError(
                f"evaluation.horizons is {self.horizons} and a trial has {trial_length} steps: "
                f"the longest would have {longest}, and must have at most 2^31 - 1."
            )
        return trial_length // self.windows_per_trial


class Setting(NamedTuple):
    """What is played."""

    environment: Any
    """A gymnax environment."""
    env_params: Any
    """Parameters of the environment."""

    @property
    def trial_length(self) -> int:
        """Steps of a trial, at most."""
        return int(self.env_params.max_steps_in_episode)


def memory_sizes(
    memory: MemoryConfig, trial: int, horizon: int, budgets: tuple[float, ...]
) -> Iterator[tuple[int | None, MemoryConfig]]:
    """The memories to evaluate in trials of `horizon` steps: each different one once, with its budget in steps.

    First the unrestricted one, budget `None`: as trained in trials of the trained length, with room for the whole trial
    in longer ones.
    """
    full = memory if horizon == trial else memory.with_capacity(horizon)
    yield None, full
    seen = {full}
    for budget in sorted({max(1, round(budget * trial)) for budget in budgets}, reverse=True):
        if budget < horizon and (sized := memory.with_capacity(budget)) not in seen:
            seen.add(sized)
            yield budget, sized
