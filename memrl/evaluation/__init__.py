"""Evaluation: a frozen policy in trials longer than those it learned in, in other settings, with less memory."""

from memrl.evaluation.config import EvaluationConfig, Setting, memory_sizes
from memrl.evaluation.episodes import episode_means
from memrl.evaluation.evaluator import evaluate
from memrl.evaluation.recording import Recording, record_trial
from memrl.evaluation.result import INTERVAL
from memrl.evaluation.subjects import Measured, Runner, Subject, player_subject, policy_subject
from memrl.evaluation.windows import in_context

__all__ = [
    "INTERVAL",
    "EvaluationConfig",
    "Measured",
    "Recording",
    "Runner",
    "Setting",
    "Subject",
    "episode_means",
    "evaluate",
    "in_context",
    "memory_sizes",
    "player_subject",
    "policy_subject",
    "record_trial",
]
