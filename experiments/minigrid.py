"""Plays a trained policy in the real MiniGrid: `python -m experiments.minigrid FOLDER`, the folder of a run.

The run must have learned in `minigrid_memory`. The parameters of its latest checkpoint play episodes of the package
minigrid and, for comparison, as many of `minigrid_memory` in the same setting. It prints a line for each and writes
into the folder

    minigrid.json     the figures of both

Actions are sampled as in training.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from envs.minigrid_bridge import ENVIRONMENT_IDS, Policy, play_minigrid
from envs.minigrid_memory import MiniGridMemoryConfig
from experiments import command_line
from experiments.command_line import UsageError
from experiments.config import Config, config_to_dict, look_up, make_policy
from experiments.runs.folder import Run, load_params, load_run, parameter_shapes
from experiments.terminal import say
from memrl.evaluation import INTERVAL, EvaluationConfig, Interval, Measured, Runner, episode_means, policy_subject
from memrl.files import check_writable
from memrl.memory.base import State
from memrl.networks import ActorCritic, Inputs
from memrl.tracking import write_json


@dataclasses.dataclass(frozen=True)
class Options:
    """Which run, and how."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the run."""
    episodes: int = 100
    """Episodes to play in MiniGrid, and in `minigrid_memory`."""
    env_id: Annotated[str | None, tyro.conf.arg(metavar="ID")] = None
    """Name of MiniGrid's environment; the one of the setting that the run learned in if not given."""
    seed: int = 0
    """Seed of the tasks and of the actions sampled."""

    def __post_init__(self) -> None:
        if self.episodes < 2:
            raise ValueError(f"episodes is {self.episodes}: it must be at least 2, for an interval.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}: it must be from 0 to 2^32 - 1.")


def run(arguments: Sequence[str]) -> int:
    """Plays as the command line says; returns the exit status."""
    if not arguments:
        raise UsageError("Name the folder of a run: python -m experiments.minigrid FOLDER.")
    default = Options(tyro.MISSING)
    description = "Plays a trained policy in the real MiniGrid."
    options = command_line.parse(Options, default, [default], "experiments.minigrid", description, arguments)
    trained = load_run(options.folder)
    try:
        env_id = environment_id(trained.config, options.env_id)
    except ValueError as error:
        raise UsageError(str(error)) from error
    compare(trained, env_id, options.episodes, options.seed)
    return 0


def environment_id(config: Config, asked: str | None) -> str:
    """The environment of MiniGrid that is `asked` for, or else the one of the setting that the run learned in.

    Raises:
      ValueError: there is none, or the run learned something else.
    """
    if not isinstance(config.env, MiniGridMemoryConfig):
        name = config_to_dict(config)["env"]["name"]
        raise ValueError(f"The run learned in {name}; only one of minigrid_memory can play MiniGrid.")
    if asked is not None:
        return look_up(asked, ENVIRONMENT_IDS, "environment of MiniGrid")
    for env_id, setting in ENVIRONMENT_IDS.items():
        if (setting.size, setting.random_length) == (config.env.size, config.env.random_length):
            return env_id
    raise ValueError(
        f"MiniGrid has no environment of the setting that the run learned in, {config.env}: "
        f"choose one with --env-id: {', '.join(ENVIRONMENT_IDS)}."
    )


def compare(trained: Run, env_id: str, num_episodes: int, seed: int) -> dict[str, Any]:
    """Plays in MiniGrid's environment and in ours, and writes what the module's docstring says.

    Returns:
      What is written to `minigrid.json`.

    Raises:
      CheckpointError, UsageError: there is no checkpoint to play, or it cannot be; nothing has been changed.
    """
    folder, config = trained.folder, trained.config
    check_writable(folder)
    params, update = load_params(trained, parameter_shapes(config))
    setting = ENVIRONMENT_IDS[env_id]
    environment, env_params = setting.make()
    memory, steps = config.memory.without_noise(), int(env_params.max_steps_in_episode)
    # As in evaluation: as trained, with more room where episodes are longer.
    memory = memory if steps <= config.trial_length else memory.with_capacity(steps)
    policy = make_policy(config, environment, env_params, memory)

    say(f"{folder}: update {update} plays {num_episodes} episodes of {env_id}.")
    result: dict[str, Any] = {
        "config": config.name,
        "update": update,
        "env_id": env_id,
        "episodes": num_episodes,
        "seed": seed,
        "interval": INTERVAL,
    }
    say(f"{'':15}  {'success':>18}  {'return':>18}  steps")
    for name, play in (("minigrid", play_theirs), ("minigrid_memory", play_ours)):
        means = episode_means(play(policy, params, env_id, num_episodes, seed), environment)
        say(
            f"{name:15}  {_with_interval(means['outcomes']['success'])}  {_with_interval(means['return'])}  "
            f"{means['length']['mean']:5.1f}"
        )
        result[name] = means
    write_json(folder / "minigrid.json", result)
    say(f"Written to {folder}: minigrid.json")
    return result


def play_theirs(policy: ActorCritic, params: Any, env_id: str, num_episodes: int, seed: int) -> Measured[np.ndarray]:
    """How the policy does in the package's environment."""

    def initial_state(batch: int) -> tuple[jax.Array, State]:
        key, key_memory = jax.random.split(jax.random.key(seed))
        return key, policy.initial_state(batch, key_memory)

    @jax.jit
    def step(
        params: Any, state: tuple[jax.Array, State], observation: Any, action: Any, reward: Any, reset: Any
    ) -> tuple[tuple[jax.Array, State], jax.Array]:
        key, memory = state
        key, key_action = jax.random.split(key)
        inputs = Inputs(observation, action, reward, soft_reset=jnp.zeros_like(reset))
        memory, outputs = policy.apply(params, memory, inputs, reset, method="step")
        return (key, memory), jax.random.categorical(key_action, outputs.logits)

    episodes = play_minigrid(env_id, Policy(initial_state, partial(step, params)), num_episodes, seed)
    return Measured(
        reward=np.asarray(episodes.total),
        tokens=np.zeros(num_episodes, np.float32),  # not measured here
        steps=np.asarray(episodes.length, np.float32),
        over=np.ones(num_episodes, np.float32),
        outcomes={name: np.asarray(told, np.float32) for name, told in episodes.outcomes.items()},
    )


def play_ours(policy: ActorCritic, params: Any, env_id: str, num_episodes: int, seed: int) -> Measured[np.ndarray]:
    """How the policy does in the same setting of `minigrid_memory`."""
    environment, env_params = ENVIRONMENT_IDS[env_id].make()
    runner = Runner(params, EvaluationConfig(num_trials=num_episodes, seed=seed))
    return runner.episodes(policy_subject(policy, environment, num_episodes))(env_params)


def _with_interval(means: Interval | None) -> str:
    if means is None:
        return "".rjust(18)
    return f"{means['mean']:.2f} [{means['low']:.2f}, {means['high']:.2f}]".rjust(18)


if __name__ == "__main__":
    command_line.main(run)
