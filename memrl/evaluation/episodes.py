"""Episodes that end by the task, played to their end, and whatever is played in other settings."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from memrl.environment import hooks
from memrl.evaluation.config import EvaluationConfig, Setting, memory_sizes
from memrl.evaluation.result import EpisodesEntry, Interval, Means
from memrl.evaluation.subjects import Measured, Runner, player_subject, policy_subject
from memrl.memory.base import MemoryConfig, state_bytes_per_env
from memrl.networks import ActorCritic
from memrl.statistics import standard_error, wilson_interval


def evaluate_episodes(
    make_policy: Callable[[MemoryConfig], ActorCritic],
    memory: MemoryConfig,
    trained: Setting,
    splits: dict[str, Setting],
    params: Sequence[Any],
    config: EvaluationConfig,
    report: Callable[[EpisodesEntry], None],
) -> list[list[EpisodesEntry]]:
    """The entries of `episodes` of each policy, see `evaluate`.

    One program is compiled per environment and memory size, and serves all policies. There are two sizes of the
    unrestricted memory: as trained, for splits whose episodes are not longer, and one with room for the longest episode
    of all others.
    """
    run = Runner(params[0], config)
    longest = memory.with_capacity(max(setting.trial_length for setting in (trained, *splits.values())))
    agents: dict[tuple[Any, MemoryConfig], Callable[[Any], Measured[np.ndarray]]] = {}
    players: dict[tuple[Any, str], Callable[[Any], Measured[np.ndarray]]] = {}
    entries: list[list[EpisodesEntry]] = [[] for _ in params]
    for split, setting in {None: trained, **splits}.items():
        environment, env_params = setting
        agent = policy_subject(make_policy(memory), environment, config.num_trials)
        references = {}
        for name, player in hooks(environment).players().items():
            if (environment, name) not in players:
                players[environment, name] = run.episodes(player_subject(player, agent, environment))
            references[name] = episode_means(players[environment, name](env_params), environment)
        if split is None:
            sizes = list(memory_sizes(memory, setting.trial_length, setting.trial_length, config.budgets))
        else:
            sizes = [(None, memory if setting.trial_length <= trained.trial_length else longest)]
        for budget, sized in sizes:
            policy = make_policy(sized)
            if (environment, sized) not in agents:
                agents[environment, sized] = run.episodes(policy_subject(policy, environment, config.num_trials))
            for entries_of_one, own in zip(entries, params, strict=True):
                run.load(own)
                measured = agents[environment, sized](env_params)
                entry: EpisodesEntry = {
                    "split": split,
                    "horizon": setting.trial_length,
                    "budget": budget,
                    **episode_means(measured, environment),
                    "players": references,
                    "state_bytes_per_env": state_bytes_per_env(policy.memory),
                    "tokens_attended": float((measured.tokens / measured.steps).mean()),
                }
                if entries_of_one is entries[0]:
                    report(entry)
                entries_of_one.append(entry)
    return entries


def episode_means(measured: Measured[np.ndarray], environment: Any) -> Means:
    """Means over episodes of `environment`, with intervals: `return`, `length`, and `outcomes` by name."""

    def summary(values: np.ndarray) -> Interval:
        mean, error = float(values.mean()), float(standard_error(values))
        return {"mean": mean, "low": mean - 1.96 * error, "high": mean + 1.96 * error}

    def share(values: np.ndarray) -> Interval:
        if not np.isin(values, (0, 1)).all():  # a share of the attempts of each trial
            return summary(values)
        low, high = wilson_interval(values)
        return {"mean": float(values.mean()), "low": low, "high": high}

    # An episode has one outcome; a trial that is made of attempts has one for each that ended, if any did.
    told = measured.over > 0
    outcomes = {
        name: share(measured.outcomes[name][told] / measured.over[told]) if told.sum() > 1 else None
        for name in hooks(environment).outcomes
    }
    return {"return": summary(measured.reward), "length": summary(measured.steps), "outcomes": outcomes}
