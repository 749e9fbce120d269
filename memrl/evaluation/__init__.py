"""Evaluation: a frozen policy in trials longer than those it learned in, in other settings, with less memory."""

from memrl.evaluation.config import EvaluationConfig, Setting, memory_sizes
from memrl.evaluation.episodes import episode_means
from memrl.evaluation.evaluator import evaluate
from memrl.evaluation.recording import Recording, record_trial
from memrl.evaluation.result import (
    INTERVAL,
    EpisodesEntry,
    Evaluation,
    Interval,
    Means,
    SavedEvaluation,
    WindowsEntry,
    episodes_of,
    main_measure,
    measured,
    read_evaluation,
    returns_per_window,
    windows_of,
    write_evaluation,
)
from memrl.evaluation.subjects import Measured, Runner, Subject, player_subject, policy_subject
from memrl.evaluation.windows import in_context

__all__ = [
    "INTERVAL",
    "EpisodesEntry",
    "Evaluation",
    "EvaluationConfig",
    "Interval",
    "Means",
    "Measured",
    "Recording",
    "Runner",
    "SavedEvaluation",
    "Setting",
    "Subject",
    "WindowsEntry",
    "episode_means",
    "episodes_of",
    "evaluate",
    "in_context",
    "main_measure",
    "measured",
    "memory_sizes",
    "player_subject",
    "policy_subject",
    "read_evaluation",
    "record_trial",
    "returns_per_window",
    "windows_of",
    "write_evaluation",
]
