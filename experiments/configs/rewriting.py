"""The tasks of "Memory Retention Is Not Enough" (arXiv 2601.15086): Endless T-Maze and Color-Cubes.

Sizes for a CPU. As published, the policy reads neither its previous action nor its reward in the T-Maze.
"""

from envs.color_cubes import ColorCubesConfig
from envs.t_maze import TMazeConfig
from experiments.config import Config
from experiments.configs.preset import Preset, SegmentSizes, TransformerSizes
from memrl.evaluation import EvaluationConfig
from memrl.memory import (
    FCT,
    FFM,
    GRU,
    HCAM,
    LRU,
    LSTM,
    MLSTM,
    RMT,
    S5,
    SHM,
    AutoCompressor,
    DeltaNet,
    Elman,
    FrameStack,
    GatedDeltaNet,
    GTrXL,
    LinearAttention,
    Memo,
    MemoryConfig,
    MinGRU,
    NoMemory,
    TrXL,
)
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


TRANSFORMER: TransformerSizes = {"features": 64, "layers": 2, "heads": 2, "mlp_features": 128}
SEGMENTS: SegmentSizes = {"segment_length": 12, "summary_tokens": 2}
LONGEST = 108
"""Steps of an episode, at most."""

MEMORY_OF_T_MAZE: dict[str, MemoryConfig] = {
    "lstm": LSTM(features=64),
    "gru": GRU(features=64),
    "elman": Elman(features=64),
    "none": NoMemory(features=64),
    "frame_stack": FrameStack(features=64, frames=6),  # as many as solve corridors of five steps without rewriting
    "lru": LRU(features=64),
    "s5": S5(features=64),
    "mingru": MinGRU(features=64),
    "ffm": FFM(features=64),
    "linear_attention": LinearAttention(features=64),
    "mlstm": MLSTM(features=64),
    "shm": SHM(features=64),
    "deltanet": DeltaNet(features=64),
    "gated_deltanet": GatedDeltaNet(features=64),
    "fct": FCT(**TRANSFORMER, rotary_base=100.0).with_capacity(LONGEST),
    "trxl": TrXL(**TRANSFORMER).with_capacity(LONGEST),
    "gtrxl": GTrXL(**TRANSFORMER).with_capacity(LONGEST),
    "memo": Memo(**TRANSFORMER, **SEGMENTS, rotary_base=100.0).with_capacity(LONGEST),
    "rmt": RMT(**TRANSFORMER, **SEGMENTS, rotary_base=100.0),
    "ac": AutoCompressor(**TRANSFORMER, **SEGMENTS, rotary_base=100.0).with_capacity(LONGEST),
    "hcam": HCAM(**TRANSFORMER, window=16, chunk_length=8, top_k=4).with_capacity(LONGEST),
}

PRESETS = [
    *(
        t_maze(f"{name}_t_maze", f"Endless T-Maze, three corridors of five steps, cross-evaluated; {name}.", memory)
        for name, memory in MEMORY_OF_T_MAZE.items()
    ),
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
