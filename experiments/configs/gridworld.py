"""Dark Key-To-Door (from Memo, arXiv 2510.19732): the same room, search after search, with every memory.

The small task is for a CPU: a 5x5 room, attempts of 20 steps, trials of 100. Every memory meets it with the same
encoder, heads and PPO, and has between 65 and 105 thousand parameters of its own, but for `none`.
"""

import dataclasses
from typing import Any

from envs.dark_key_to_door import DarkKeyToDoorConfig
from experiments.config import Config
from experiments.configs.preset import Preset, SegmentSizes, TransformerSizes
from memrl.memory import FCT, GRU, LSTM, RMT, AutoCompressor, Memo, MemoryConfig, NoMemory
from memrl.networks import NetworkConfig
from memrl.ppo import PPOConfig


def small(name: str, summary: str, memory: MemoryConfig, **ppo: Any) -> Preset:
    """The CPU-sized task with `memory`, and with what is different in PPO."""
    config = Config(
        name=name,
        env=DarkKeyToDoorConfig(size=5, attempt_limit=20, trial_length=100, observation="one_hot"),
        memory=memory,
        network=NetworkConfig(encoder_features=(64,), head_features=(64,)),
        ppo=PPOConfig(
            num_envs=128,
            unroll_length=100,
            epochs=2,
            minibatches=4,
            learning_rate=1e-3,
            final_learning_rate=1e-4,
            # A trial is truncated, so with 0.99 values are several times larger and bootstrapped over ends of trials;
            # Memo then collects 9 per trial after 2.5 million steps, and 12 with 0.95.
            discount=0.95,
            entropy_coefficient=0.015,
            final_entropy_coefficient=0.002,
        ),
        total_steps=8_000_000,
    )
    return Preset(summary, dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, **ppo)))


TRANSFORMER: TransformerSizes = {"features": 64, "layers": 2, "heads": 2, "mlp_features": 128}
SEGMENTS: SegmentSizes = {"segment_length": 20, "summary_tokens": 2}

PRESETS = [
    small(
        "memo_gridworld",
        "Memo learns in context on a CPU: 5x5 room, trials of 100 steps. The main job.",
        Memo(**TRANSFORMER, **SEGMENTS, rotary_base=100.0).with_capacity(100),
    ),
    small(
        "fct_gridworld", "The same task, full-context transformer.", FCT(**TRANSFORMER, rotary_base=100.0, context=100)
    ),
    # As in ReLIC (arXiv 2410.02751), on this task and with its PPO: updates and numbers are ours, not the paper's. With
    # one epoch for each update instead of two there are two and a half times as many gradient steps.
    small(
        "relic_gridworld",
        "The same task, ReLIC: a transformer with a sink, an update after each 20 steps, memories read again after it.",
        FCT(**TRANSFORMER, rotary_base=100.0, context=100, sink="key_value"),
        updates_per_rollout=5,
        refresh_memory=True,
        epochs=1,
    ),
    small(
        "rmt_gridworld",
        "The same task, Recurrent Memory Transformer.",
        RMT(**TRANSFORMER, **SEGMENTS, rotary_base=100.0),
    ),
    small(
        "ac_gridworld",
        "The same task, AutoCompressor.",
        AutoCompressor(**TRANSFORMER, **SEGMENTS, rotary_base=100.0).with_capacity(100),
    ),
    small("gru_gridworld", "The same task, GRU.", GRU(features=128)),
    small("lstm_gridworld", "The same task, LSTM.", LSTM(features=128)),
    small("none_gridworld", "The same task without a memory: what can be had by chance.", NoMemory(features=128)),
    Preset(
        "Memo on the published task, for a GPU: 9x9 room, trials of 500 steps, transformer of the published size.",
        Config(
            name="memo_gridworld_paper",
            # As published: the task, the size of the transformer, the jitter and the number of steps.
            env=DarkKeyToDoorConfig(size=9, attempt_limit=50, trial_length=500),
            memory=Memo(
                features=256,
                layers=3,
                heads=8,
                mlp_features=1024,
                # Not published for this task. 8 steps to a summary token is the ratio of the paper's other task.
                segment_length=32,
                summary_tokens=4,
                jitter=0.2,
            ).with_capacity(500),
            total_steps=40_000_000,
            # The published agent learns off-policy. PPO and its settings are ours, and so are encoder and heads.
            network=NetworkConfig(encoder_features=(256,), head_features=(256, 256)),
            ppo=PPOConfig(num_envs=256, unroll_length=500, minibatches=8, learning_rate=3e-4, discount=0.995),
        ),
    ),
]
