"""Repeat First and Repeat Previous (POPGym, arXiv 2303.01859): does a memory keep one thing, and the latest few?

They take minutes on a CPU. The policy reads neither its previous action, since in Repeat First it could just repeat it,
nor its reward.
"""

from envs.base import EnvironmentConfig
from envs.repeat import RepeatFirstConfig, RepeatPreviousConfig
from experiments.config import Config
from experiments.configs.preset import Preset
from memrl.evaluation import EvaluationConfig
from memrl.memory import FCT, GRU, MemoryConfig
from memrl.networks import NetworkConfig
from memrl.ppo import PPOConfig


def repeat(name: str, summary: str, env: EnvironmentConfig, memory: MemoryConfig, learning_rate: float) -> Preset:
    """The task `env`, 32 steps long, with `memory`; `--memory` puts another one in its place."""
    config = Config(
        name=name,
        env=env,
        memory=memory.with_capacity(32),
        network=NetworkConfig(
            encoder_features=(64,), head_features=(64,), previous_action=False, previous_reward=False, soft_reset=False
        ),
        ppo=PPOConfig(
            num_envs=64,
            unroll_length=32,
            epochs=4,
            minibatches=4,
            learning_rate=learning_rate,
            final_learning_rate=learning_rate / 10,
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


FIRST, PREVIOUS = RepeatFirstConfig(length=32), RepeatPreviousConfig(length=32, k=4)
RECURRENT, ATTENTION = 2e-3, 5e-4
"""Learning rates. With that of recurrent memories FCT ends Repeat First at a return of 0.49 of 1."""

PRESETS = [
    repeat(
        "gru_repeat_first", "Repeat First: name the first of 32 symbols in every step. GRU.", FIRST, GRU(64), RECURRENT
    ),
    repeat(
        "gru_repeat_previous",
        "Repeat Previous: name the fourth latest of 32 symbols in every step. GRU.",
        PREVIOUS,
        GRU(64),
        RECURRENT,
    ),
    repeat("fct_repeat_first", "Repeat First with settings for attention. FCT.", FIRST, FCT(), ATTENTION),
    repeat("fct_repeat_previous", "Repeat Previous with settings for attention. FCT.", PREVIOUS, FCT(), ATTENTION),
]
