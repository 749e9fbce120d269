"""The tasks of "Memory Retention Is Not Enough" (arXiv 2601.15086): Endless T-Maze and Color-Cubes.

Sizes for a CPU. As published, the policy is told neither its previous action nor its reward in the T-Maze.
"""

from envs.color_cubes import ColorCubesConfig
from envs.t_maze import TMazeConfig
from experiments.config import Config
from experiments.configs.preset import Preset
from memrl.evaluation import EvaluationConfig
from memrl.memory import LSTM, MemoryConfig
from memrl.networks import NetworkConfig
from memrl.ppo import PPOConfig


def t_maze(name: str, summary: str, memory: MemoryConfig) -> Preset:
    """Endless T-Maze with `memory`: three corridors of five steps, cross-evaluated."""
    config = Config(
        name=name,
        env=TMazeConfig(corridors=3, length=5),
        memory=memory,
        network=NetworkConfig(
            encoder_features=(64,), head_features=(64,), previous_action=False, previous_reward=False, soft_reset=False
        ),
        ppo=PPOConfig(
            num_envs=64,
            unroll_length=128,
            epochs=4,
            minibatches=4,
            learning_rate=1e-3,
            final_learning_rate=1e-4,
            discount=0.99,
            entropy_coefficient=0.02,
            final_entropy_coefficient=0.001,
        ),
        evaluation=EvaluationConfig(num_trials=1024, budgets=(0.1,)),
        total_steps=2_000_000,
    )
    return Preset(summary, config)


PRESETS = [
    t_maze("lstm_t_maze", "Endless T-Maze, three corridors of five steps, cross-evaluated; LSTM.", LSTM(features=64)),
    Preset(
        "Color-Cubes, medium: a map of three cubes, rewritten whenever one teleports; LSTM.",
        Config(
            name="lstm_color_cubes",
            env=ColorCubesConfig("medium"),
            memory=LSTM(features=128),
            network=NetworkConfig(encoder_features=(128,), head_features=(64,), soft_reset=False),
            ppo=PPOConfig(
                num_envs=128,
                unroll_length=96,
                epochs=4,
                minibatches=4,
                learning_rate=1e-3,
                final_learning_rate=1e-4,
                discount=0.97,
                entropy_coefficient=0.02,
                final_entropy_coefficient=0.001,
            ),
            evaluation=EvaluationConfig(num_trials=1024, budgets=()),
            total_steps=8_000_000,
        ),
    ),
]
