"""Whether a run fits into memory, before anything is compiled or allocated."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from experiments.command_line import UsageError
from experiments.config import Config, make_policy
from experiments.control_groups import control_groups
from experiments.runs.folder import parameter_shapes, settings_of
from memrl.environment import hooks
from memrl.evaluation import EvaluationConfig, policy_subject
from memrl.footprint import Footprint, footprint, tree_bytes
from memrl.rollout import initial_actor_state, rollout
from memrl.sharding import compiles
from memrl.training import Training

ACCURACY = 1.5
"""The factor by which a footprint may be wrong; what is refused does not fit even if it is wrong by that much."""


def check_training(config: Config, training: Training, mesh: Mesh, runs: int | None = None) -> str:
    """What training needs, in words.

    Args:
      config: of the run, or of one of those that are trained together.
      training: the program.
      mesh: the devices.
      runs: how many are trained together, if the program is one of several.

    Raises:
      UsageError: it cannot fit into the memory that there is.
    """
    settings = settings_of(config)
    keys = jax.random.key(0) if runs is None else jax.random.split(jax.random.key(0), runs)
    state = jax.eval_shape(training.initial_state, keys, settings)
    parameters = f"{sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)) // (runs or 1):,} parameters"
    if not compiles():  # there is no program then
        return parameters
    needed = footprint(training.advance, state, settings).total
    devices = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
    device = mesh.local_devices[0]
    if device.platform == "cpu":  # all devices share the memory of the machine
        needed *= devices
    free = free_bytes(device)
    if free is not None and needed > ACCURACY * free:
        split = devices if device.platform == "cpu" else 1
        share = split / mesh.size  # of what is split over all devices
        parts = {
            "parameters": split * tree_bytes(state.params),
            "optimiser": split * tree_bytes(state.optimizer),
            "memories": round(share * tree_bytes(state.actor.memory)),
            "environments": round(share * tree_bytes(state.actor.environment)),
            "trajectory": round(share * (runs or 1) * trajectory_bytes(config)),
        }
        parts["activations, gradients and the rest"] = needed - sum(parts.values())
        told = ", ".join(f"{name} {in_words(size)}" for name, size in parts.items())
        raise UsageError(
            f"Training needs about {in_words(needed)}, and {in_words(free)} are free: {told}. Less is needed with "
            "smaller ppo.num_envs, ppo.unroll_length, memory and network, and with more ppo.minibatches."
        )
    of_free = "" if free is None else f" of {in_words(free)} that are free"
    return f"{parameters}; training needs about {in_words(needed)}{of_free}"


def trajectory_bytes(config: Config) -> int:
    """What is kept of the steps between two updates, of all environments."""
    environment, env_params = config.env.make()
    policy = make_policy(config, environment, env_params)

    def trajectory(key: jax.Array, params: Any) -> Any:
        actor = initial_actor_state(policy, environment, env_params, config.ppo.num_envs, key)
        return rollout(policy, environment, env_params, params, actor, config.ppo.unroll_length)[1]

    return tree_bytes(jax.eval_shape(trajectory, jax.random.key(0), parameter_shapes(config)))


def check_evaluation(config: Config, evaluation: EvaluationConfig) -> None:
    """Raises UsageError if the longest trials with the largest memory cannot fit into the memory that there is."""
    if not compiles():
        return
    needed = evaluation_footprint(config, evaluation).total
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        needed *= math.gcd(evaluation.num_trials, jax.local_device_count())
    free = free_bytes(device)
    if free is not None and needed > ACCURACY * free:
        raise UsageError(
            f"Evaluating {evaluation.num_trials} trials at once needs about {in_words(needed)}, and {in_words(free)} "
            "are free. Less is needed with fewer evaluation.num_trials, shorter evaluation.horizons, a smaller memory."
        )


def evaluation_footprint(config: Config, evaluation: EvaluationConfig) -> Footprint:
    """What one device needs for the longest trials that the evaluation of a run asks for, with memory for all steps."""
    environment, env_params = config.env.make()
    if hooks(environment).episodic:
        others = (int(split.make()[1].max_steps_in_episode) for split in config.env.splits().values())
        longest = max([config.trial_length, *others])
    else:
        longest = config.trial_length * max(evaluation.horizons)
    memory = config.memory.without_noise()
    if longest > config.trial_length:
        memory = memory.with_capacity(longest)
    policy = make_policy(config, environment, env_params, memory)
    trials = evaluation.num_trials // math.gcd(evaluation.num_trials, jax.local_device_count())
    subject = policy_subject(policy, environment, trials)
    actor = jax.eval_shape(subject.begin, jax.random.key(0), env_params)
    step = jax.jit(lambda actor, params: subject.step(actor, params, env_params), donate_argnums=0)
    return footprint(step, actor, parameter_shapes(config))


def in_words(size: float) -> str:
    """Bytes, in the unit that suits them."""
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.3g} {unit}"
    return f"{size / 1000:,.4g} TB"


def free_bytes(device: Any, root: Path = Path("/")) -> int | None:
    """Bytes that can still be allocated for a device; None if nothing tells.

    Args:
      device: an accelerator, or a CPU, which has what the machine and this process's control groups have left.
      root: where `proc` and `sys` are.
    """
    if device.platform != "cpu":
        told = device.memory_stats() or {}
        return told["bytes_limit"] - told.get("bytes_in_use", 0) if "bytes_limit" in told else None
    return min(
        [*_machine(root), *(free for group in control_groups("memory", root) for free in _group(group))], default=None
    )


def _machine(root: Path) -> Iterator[int]:
    """What Linux estimates that can be allocated without swapping."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return
    yield from (1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def _group(folder: Path) -> Iterator[int]:
    """What a control group has left, if it has a limit. Files that it has read and no longer uses are let go."""
    names = ("memory.max", "memory.current", "inactive_file")
    if not (folder / names[0]).exists():
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    try:
        limit, used = ((folder / name).read_text().strip() for name in names[:2])
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        if limit != "max":
            yield max(0, int(limit) - int(used) + int(statistics.get(names[2], 0)))
    except (OSError, ValueError):
        return
