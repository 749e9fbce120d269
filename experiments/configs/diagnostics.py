"""Repeat First and Repeat Previous (POPGym, arXiv 2303.01859): does a memory keep one thing, and the latest few?

A minute on a CPU. The policy is not told its previous action, since in Repeat First it could just say the same again,
nor its reward.
"""

from envs.base import EnvironmentConfig
from envs.repeat import RepeatFirstConfig, RepeatPreviousConfig
from experiments.config import Config
from experiments.configs.preset import Preset
from memrl.evaluation import EvaluationConfig
from memrl.memory import GRU
from memrl.networks import NetworkConfig
from memrl.ppo import PPOConfig


def repeat(name: str, summary: str, env: EnvironmentConfig) -> Preset:
    """The task `env`, 32 steps long, for a GRU; `--memory` puts another memory in its place."""
    config = Config(
        name=name,
        env=env,
        memory=GRU(features=64),
        network=NetworkConfig(
            encoder_features=(64,), head_features=(64,), previous_action=False, previous_reward=False, soft_reset=False
        ),
        ppo=PPOConfig(
            num_envs=64,
            unroll_length=32,
            epochs=4,
            minibatches=4,
            learning_rate=2e-3,
            final_learning_rate=2e-4,
            # No answer changes what comes, so that nothing is gained by looking far ahead.
            discount=0.5,
            gae_lambda=0.5,
            entropy_coefficient=0.01,
            final_entropy_coefficient=0.001,
        ),
        evaluation=EvaluationConfig(num_trials=1024, budgets=()),
        total_steps=500_000,
    )
    return Preset(summary, config)


PRESETS = [
    repeat(
        "gru_repeat_first",
        "Repeat First: name the first of 32 symbols in every step. GRU.",
        RepeatFirstConfig(length=32),
    ),
    repeat(
        "gru_repeat_previous",
        "Repeat Previous: name the fourth latest of 32 symbols in every step. GRU.",
        RepeatPreviousConfig(length=32, k=4),
    ),
]
