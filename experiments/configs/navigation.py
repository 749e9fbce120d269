"""MiniGrid's Memory task, houses with many objects after Memo's second benchmark, bandits and repeated gridworlds."""

import dataclasses

from envs.bandit import BanditConfig
from envs.minigrid_memory import MiniGridMemoryConfig
from envs.multi_object_navigation import MultiObjectNavigationConfig
from envs.repeated_gridworld import RepeatedGridworldConfig
from experiments.config import Config
from experiments.configs.preset import Preset
from memrl.evaluation import EvaluationConfig
from memrl.memory import GRU, Memo
from memrl.networks import NetworkConfig
from memrl.ppo import PPOConfig

PPO = PPOConfig(learning_rate=1e-3, final_learning_rate=1e-4, entropy_coefficient=0.02, final_entropy_coefficient=0.002)
SYMBOLS = NetworkConfig(encoder_features=(64,), head_features=(64,), embedding_features=4)


def houses(
    name: str, summary: str, env: MultiObjectNavigationConfig, memory: Memo, num_envs: int, total_steps: int
) -> Preset:
    """Multi-object navigation as ExtObjNav is trained (arXiv 2510.19732).

    The policy does not read its reward, which says how far away the goal is, and returns end where an episode does,
    though the memory goes on.
    """
    config = Config(
        name=name,
        env=env,
        memory=memory.with_capacity(env.trial_length),
        network=dataclasses.replace(SYMBOLS, previous_reward=False),
        ppo=dataclasses.replace(
            PPO,
            num_envs=num_envs,
            unroll_length=256,
            epochs=2,
            minibatches=4,
            discount=0.99,
            credit_across_attempts=False,
        ),
        evaluation=EvaluationConfig(num_trials=64, horizons=(1, 8), budgets=(1.0,), windows_per_trial=8),
        total_steps=total_steps,
    )
    return Preset(summary, config)


PRESETS = [
    Preset(
        "MiniGrid's Memory task, size 11, evaluated in all sizes; experiments.minigrid asks the package. GRU.",
        Config(
            name="gru_minigrid_memory",
            env=MiniGridMemoryConfig(size=11),
            memory=GRU(features=128),
            network=SYMBOLS,
            ppo=dataclasses.replace(PPO, num_envs=64, unroll_length=128, epochs=3, minibatches=4, discount=0.99),
            evaluation=EvaluationConfig(num_trials=256, budgets=()),
            total_steps=3_000_000,
        ),
    ),
    houses(
        "memo_multi_object_navigation",
        "Houses of four rooms, objects asked for one after another, trials of 512 steps; Memo.",
        MultiObjectNavigationConfig(size=13, rooms=4, categories=6, objects=8, episode_limit=100, trial_length=512),
        Memo(features=64, layers=2, heads=2, mlp_features=128, segment_length=32, summary_tokens=4),
        num_envs=64,
        total_steps=8_000_000,
    ),
    houses(
        "memo_multi_object_navigation_paper",
        "Houses of six rooms, trials of 4,096 steps, evaluated over 32,768, for a GPU; Memo as published.",
        MultiObjectNavigationConfig(),
        Memo(features=256, layers=4, heads=8, mlp_features=1024, segment_length=256, summary_tokens=32, jitter=0.2),
        num_envs=320,
        total_steps=700_000_000,
    ),
    Preset(
        "Bandit of three arms, pulled a hundred times: exploration that pays later. GRU.",
        Config(
            name="gru_bandit",
            env=BanditConfig(),
            memory=GRU(features=64),
            network=NetworkConfig(encoder_features=(32,), head_features=(32,)),
            ppo=PPOConfig(
                num_envs=256,
                unroll_length=100,
                epochs=4,
                minibatches=8,
                learning_rate=3e-3,
                final_learning_rate=1e-4,
                discount=0.9,
                entropy_coefficient=0.05,
                final_entropy_coefficient=0.0,
            ),
            evaluation=EvaluationConfig(num_trials=1024, horizons=(1, 2, 4), budgets=(), windows_per_trial=10),
            total_steps=3_000_000,
        ),
    ),
    Preset(
        "A small gridworld again and again, its goal hidden. GRU.",
        Config(
            name="gru_repeated_gridworld",
            env=RepeatedGridworldConfig(),
            memory=GRU(features=128),
            network=SYMBOLS,
            ppo=dataclasses.replace(PPO, num_envs=128, unroll_length=100, epochs=3, minibatches=4, discount=0.97),
            evaluation=EvaluationConfig(num_trials=256, horizons=(1, 2, 4), budgets=()),
            total_steps=6_000_000,
        ),
    ),
]
