"""The tasks of HCAM (arXiv 2105.14039) as gridworlds, in sizes for a CPU; the splits ask for more than was trained."""

from typing import Any

from envs.ballet import BalletConfig
from envs.base import EnvironmentConfig
from envs.boxes import BoxesConfig
from envs.graph_nav import GraphNavConfig
from envs.memory_planning import MemoryPlanningConfig
from envs.visual_match import VisualMatchConfig
from envs.word_rooms import WordRoomsConfig
from experiments.config import Config
from experiments.configs.preset import Preset
from memrl.evaluation import EvaluationConfig
from memrl.memory import GRU
from memrl.networks import NetworkConfig
from memrl.ppo import PPOConfig


def small(name: str, summary: str, env: EnvironmentConfig, unroll_length: int, total_steps: int, **ppo: Any) -> Preset:
    """The task `env` for a GRU; `--memory` puts another memory in its place."""
    settings = {
        "num_envs": 64,
        "epochs": 3,
        "minibatches": 4,
        "learning_rate": 1e-3,
        "final_learning_rate": 1e-4,
        "discount": 0.97,
        "entropy_coefficient": 0.02,
        "final_entropy_coefficient": 0.002,
        **ppo,
    }
    config = Config(
        name=name,
        env=env,
        memory=GRU(features=128),
        network=NetworkConfig(encoder_features=(64,), head_features=(64,), embedding_features=4),
        ppo=PPOConfig(unroll_length=unroll_length, **settings),
        evaluation=EvaluationConfig(num_trials=256, horizons=(1, 2, 4), budgets=()),
        total_steps=total_steps,
    )
    return Preset(summary, config)


PRESETS = [
    small(
        "gru_ballet",
        "Ballet, two dancers, delay 16: who danced which dance. GRU.",
        BalletConfig(num_dancers=(2,), delays=(16,)),
        unroll_length=96,
        total_steps=3_000_000,
    ),
    small(
        "gru_boxes",
        "Boxes, two of them, delays up to 16 steps: which box held the object. GRU.",
        BoxesConfig(num_boxes=(2,), delays=(0, 16)),
        unroll_length=64,
        total_steps=3_000_000,
    ),
    small(
        "gru_word_rooms",
        "WordRooms: words for three objects, asked for after up to two other lessons. GRU.",
        WordRoomsConfig(naming_reward=0.1),
        unroll_length=144,
        total_steps=4_000_000,
    ),
    small(
        "gru_visual_match",
        "Visual Match, passive: a colour to keep while apples distract. GRU.",
        # The published rewards divided by ten.
        VisualMatchConfig(apple_reward=(0.1, 1.0), final_reward=1.0),
        unroll_length=120,
        total_steps=4_000_000,
        discount=0.99,
    ),
    small(
        "gru_memory_planning",
        "Memory & Planning Game: a torus of 4x4 symbols, learned in one trial and planned on. GRU.",
        MemoryPlanningConfig(),
        unroll_length=100,
        total_steps=6_000_000,
        num_envs=128,
    ),
    small(
        "gru_graph_nav",
        "GraphNav: streets drawn at random, learned in one trial and planned on. GRU.",
        GraphNavConfig(),
        unroll_length=200,
        total_steps=6_000_000,
    ),
]
