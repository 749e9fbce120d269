"""Trials of a fixed number of steps, cut into windows, and lengthened."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from memrl.environment import hooks
from memrl.evaluation.config import EvaluationConfig, Setting, memory_sizes
from memrl.evaluation.result import InContext, WindowsEntry, returns_per_window
from memrl.evaluation.subjects import Measured, Runner, Subject, player_subject, policy_subject
from memrl.memory.base import MemoryConfig, state_bytes_per_env
from memrl.networks import ActorCritic
from memrl.statistics import standard_error


def evaluate_windows(
    make_policy: Callable[[MemoryConfig], ActorCritic],
    memory: MemoryConfig,
    setting: Setting,
    params: Sequence[Any],
    config: EvaluationConfig,
    report: Callable[[WindowsEntry], None],
) -> list[list[WindowsEntry]]:
    """The entries of `windows` of each policy, see `evaluate`.

    One program is compiled per memory size and serves all horizons and policies.
    """
    environment, env_params = setting
    trial, window = setting.trial_length, config.window_length(setting.trial_length)
    run = Runner(params[0], config)

    def trials_of(subject: Subject) -> Callable[[int], Measured[np.ndarray]]:
        return run.windows(subject, env_params, window)

    agent = policy_subject(make_policy(memory), environment, config.num_trials)
    players = {
        name: trials_of(player_subject(player, agent, environment))
        for name, player in hooks(environment).players().items()
    }
    agents: dict[MemoryConfig, Callable[[int], Measured[np.ndarray]]] = {}
    entries: list[list[WindowsEntry]] = [[] for _ in params]
    for horizon in sorted({multiple * trial for multiple in config.horizons}):
        references = {name: play(horizon) for name, play in players.items()}
        for budget, sized in memory_sizes(memory, trial, horizon, config.budgets):
            policy = make_policy(sized)
            if sized not in agents:
                agents[sized] = trials_of(policy_subject(policy, environment, config.num_trials))
            for entries_of_one, own in zip(entries, params, strict=True):
                run.load(own)
                measured = agents[sized](horizon)
                mean, error = measured.reward.mean(axis=1), standard_error(measured.reward)
                entry = {
                    "horizon": horizon,
                    "budget": budget,
                    "return_per_window": mean.tolist(),
                    "return_per_window_low": (mean - 1.96 * error).tolist(),
                    "return_per_window_high": (mean + 1.96 * error).tolist(),
                    "outcomes_per_window": outcomes_per_window(measured),
                    **{
                        f"{name}_return_per_window": reference.reward.mean(axis=1).tolist()
                        for name, reference in references.items()
                    },
                    **{
                        f"{name}_outcomes_per_window": outcomes_per_window(reference)
                        for name, reference in references.items()
                        if reference.outcomes
                    },
                    "state_bytes_per_env": state_bytes_per_env(policy.memory),
                    "tokens_attended": float(measured.tokens.mean() / window),
                }
                if entries_of_one is entries[0]:
                    report(cast(WindowsEntry, entry))
                entries_of_one.append(cast(WindowsEntry, entry))
    return entries


def outcomes_per_window(measured: Measured[np.ndarray]) -> dict[str, list[float | None]]:
    """Means over all attempts that ended in a window, `None` where none did."""
    over = measured.over.sum(axis=1)
    return {
        name: [float(total / count) if count else None for total, count in zip(told.sum(axis=1), over, strict=True)]
        for name, told in measured.outcomes.items()
    }


def in_context(entry: WindowsEntry, upper_bound: str | None) -> InContext:
    """How much is learned within a trial, from an entry of `windows`; `upper_bound` names the best player, if any."""
    first, last = entry["return_per_window"][0], entry["return_per_window"][-1]
    bound = np.mean(returns_per_window(entry, upper_bound)).item() if upper_bound else 0.0
    return {
        "last_window_over_upper_bound": last / bound if bound > 0 else None,
        "last_window_over_first": last / first if first > 0 else None,
    }
