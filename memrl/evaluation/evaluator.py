"""Evaluation: a frozen policy in trials longer than those it learned in, in other settings, with less memory.

The protocol is the published one (Memo, arXiv 2510.19732): actions are sampled as in training, segments have their
fixed length, and a memory that is full drops what is oldest, positions unshifted. Every trial is a fresh one; all
horizons, budgets and reference players meet the same tasks, so that their differences are paired.

Trials of a fixed number of steps are cut into windows, and lengthened. Episodes that end by the task are played to
their end. Both are also played in the other settings that the environment names, its *splits*.
"""

from collections.abc import Callable, Sequence
from typing import Any

from memrl.environment import hooks
from memrl.evaluation.config import EvaluationConfig, Setting
from memrl.evaluation.episodes import evaluate_episodes
from memrl.evaluation.result import INTERVAL, EpisodesEntry, Evaluation, WindowsEntry
from memrl.evaluation.windows import evaluate_windows, in_context
from memrl.memory.base import MemoryConfig
from memrl.networks import ActorCritic


def evaluate(
    make_policy: Callable[[MemoryConfig], ActorCritic],
    memory: MemoryConfig,
    trained: Setting,
    splits: dict[str, Setting],
    params: Sequence[Any],
    config: EvaluationConfig,
    report: Callable[[WindowsEntry | EpisodesEntry], None] = lambda entry: None,
) -> list[Evaluation]:
    """Evaluates policies of the same shape, such as several seeds, one by one: what is compiled serves them all.

    The reference players of `environment.players()`, the best one first, are evaluated beside them. It runs on as many
    of this process's devices as divide `config.num_trials`, and the figures do not depend on how many these are.

    Args:
      make_policy: the policy with the given memory; `params` fit it in every size of the same memory.
      memory: the memory as trained.
      trained: the setting that it was trained in.
      splits: others, by name.
      params: parameters of each policy.
      config: what is evaluated.
      report: called with every entry of `windows` and of `episodes` of the first policy as soon as it is there.

    Returns:
      What was found of each policy: `windows` if trials have a fixed length, `episodes` if they end by the task and of
      splits.

    Raises:
      ValueError: the windows do not divide the trial.
    """
    memory = memory.without_noise()
    environment = hooks(trained.environment)
    episodic, players = environment.episodic, environment.players()
    common: Evaluation = {
        "seed": config.seed,
        "num_trials": config.num_trials,
        "trial_length": trained.trial_length,
        "interval": INTERVAL,
        "players": list(players),
    }
    results = [common.copy() for _ in params]
    if not episodic:
        of_each = evaluate_windows(make_policy, memory, trained, params, config, report)
        for result, windows in zip(results, of_each, strict=True):
            result |= {
                "window_length": config.window_length(trained.trial_length),
                "in_context": in_context(windows[0], next(iter(players), None)),
                "windows": windows,
            }
    if episodic or splits:
        of_each = evaluate_episodes(make_policy, memory, trained, splits, params, config, report)
        for result, episodes in zip(results, of_each, strict=True):
            result["episodes"] = episodes
    return results
