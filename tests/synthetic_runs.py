"""Folders of runs that nobody trained, written by hand for tools that read them."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from envs.minigrid_memory import MiniGridMemoryConfig
from experiments.config import config_to_dict
from experiments.configs import CONFIGS
from experiments.runs.folder import build, identity, settings_of
from experiments.workers.store import Cell, Grid, save_grid, write_status
from memrl.checkpoint import Checkpointer
from memrl.evaluation import EvaluationConfig
from memrl.memory import GRU
from memrl.networks import NetworkConfig
from memrl.ppo import PPOConfig
from memrl.sharding import device_mesh

UPDATES = 4
CELL = "memory=gru"
"""The cell of the grid that `write_grid` writes."""
BUDGETS = {"fct": (None, 5), "memo": (None, 5)}
"""Sizes of memory, of those that can be restricted."""


def t_maze(memory="gru", **env):
    """The config of a short run in the Endless T-Maze, whose episodes end by the task."""
    config = CONFIGS[f"{memory}_t_maze"].config
    return dataclasses.replace(
        config, env=dataclasses.replace(config.env, **env), total_steps=UPDATES * config.steps_per_update
    )


def gridworld(memory="gru"):
    """The config of a short run in Dark Key-To-Door, whose trials have a fixed length."""
    config = CONFIGS[f"{memory}_gridworld"].config
    return dataclasses.replace(config, total_steps=UPDATES * config.steps_per_update)


def write_run(folder, config, seed=0, evaluation=None, commit="0123456789abcdef", seconds=90.0):
    """Writes the folder of a run and returns it; without an evaluation if there is none."""
    folder.mkdir(parents=True)
    config = dataclasses.replace(config, seed=seed)
    (folder / "config.json").write_text(json.dumps(config_to_dict(config)))
    record = {"update": 0, "command": ["--seed", str(seed)], "commit": commit, "uncommitted_changes": False}
    (folder / "environment.json").write_text(json.dumps([record]))
    lines = [
        {
            "update": update,
            "env_steps": update * config.steps_per_update,
            "return": None if update == 1 else float(update + seed),  # none ended in the first
            "trials": 10.0,
            "seconds": seconds * update / UPDATES,
        }
        for update in range(1, UPDATES + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "checkpoints" / str(UPDATES)).mkdir(parents=True)
    if evaluation is not None:
        (folder / "evaluation.json").write_text(json.dumps({"config": config.name, "update": UPDATES, **evaluation}))
    return folder


def means(success, scale=3.0, told=True):
    """The means of an entry of `episodes`, of an environment that reports success or does not."""

    def around(value):
        return {"mean": value, "low": value - 0.1, "high": value + 0.1}

    outcomes = {"success": around(success)} if told else {}
    return {"return": around(scale * success), "length": around(18.0), "outcomes": outcomes}


def episodes(memory="gru", success=0.5, splits=("corridors=1", "corridors=5"), players=True, told=True, **changes):
    """An evaluation of episodes; success falls by a tenth with each split and by a fifth with less memory."""
    reference = {"oracle": means(1.0, told=told), "memoryless": means(0.25, told=told)} if players else {}
    return {
        "seed": 0,
        "num_trials": 64,
        "trial_length": 108,
        "interval": "95%",
        "players": list(reference),
        "episodes": [
            {
                "split": split,
                "horizon": 108,
                "budget": budget,
                **means(success - 0.1 * number - 0.2 * (budget is not None), told=told),
                "players": reference,
                "state_bytes_per_env": 256 if budget is None else 64,
                "tokens_attended": 4.0,
            }
            for number, split in enumerate((None, *splits))
            for budget in (BUDGETS.get(memory, (None,)) if split is None else (None,))
        ],
        **changes,
    }


def windows(memory="gru", level=4.0, horizons=(100, 200), players=True, **changes):
    """An evaluation of trials of five windows of 20 steps: the return rises by 1 a window; the oracle's is 10."""

    def entry(horizon, budget):
        number = horizon // 20
        returns = level + np.arange(number) - (1.0 if budget else 0.0)
        reference = {"oracle": 10.0, "searcher": 8.0} if players else {}
        return {
            "horizon": horizon,
            "budget": budget,
            "return_per_window": returns.tolist(),
            "return_per_window_low": (returns - 0.5).tolist(),
            "return_per_window_high": (returns + 0.5).tolist(),
            "outcomes_per_window": {},
            **{f"{name}_return_per_window": [value] * number for name, value in reference.items()},
            "state_bytes_per_env": 64 * (budget or horizon),
            "tokens_attended": 8.0,
        }

    return {
        "seed": 0,
        "num_trials": 64,
        "trial_length": 100,
        "interval": "95%",
        "window_length": 20,
        "players": ["oracle", "searcher"] if players else [],
        "windows": [entry(horizon, budget) for horizon in horizons for budget in BUDGETS.get(memory, (None,))],
        **changes,
    }


def minigrid_memory():
    """A run that all tools can read: of MiniGrid's memory task."""
    config = dataclasses.replace(
        CONFIGS["gru_t_maze"].config,
        env=MiniGridMemoryConfig(size=7),
        memory=GRU(features=4),
        network=NetworkConfig(encoder_features=(4,), head_features=(4,)),
        ppo=PPOConfig(num_envs=2, unroll_length=2, minibatches=1, epochs=1),
        evaluation=EvaluationConfig(num_trials=2),
        devices=1,
    )
    return dataclasses.replace(config, total_steps=UPDATES * config.steps_per_update)


def write_grid(folder):
    """Writes the folder of a grid of one run that nobody trained, and returns it; its checkpoints hold zeros."""
    config = minigrid_memory()
    trained = write_run(
        folder / CELL / "seed0", config, evaluation=episodes(splits=(), trial_length=config.trial_length)
    )
    save_grid(Grid((Cell(CELL, config),), (0,), {}, ("python",)), folder)
    write_status(folder / CELL, "done", "a log", 1.0)
    shutil.rmtree(trained / "checkpoints")
    initial_state = build(config, device_mesh(1)).initial_state
    shapes = jax.eval_shape(initial_state, jax.random.key(0), settings_of(config))

    def zeros(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.split(jax.random.key(0), leaf.shape) if is_key else jnp.zeros(leaf.shape, leaf.dtype)

    state = jax.tree.map(zeros, shapes)
    with Checkpointer(trained / "checkpoints") as checkpointer:
        for update in (UPDATES - 1, UPDATES):
            checkpointer.save(update, state, {"seconds": 1.0, "identity": identity(config)})
    return folder
