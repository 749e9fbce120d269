"""The folder of a run: what makes it that of one run and no other, and what is in it."""

import contextlib
import fcntl
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from experiments.command_line import UsageError, make_output
from experiments.config import Config, config_to_dict, make_policy
from memrl.checkpoint import Checkpointer
from memrl.sharding import device_mesh
from memrl.tracking import Tracker, environment_record, write_json
from memrl.training import Training, make_training


def build(config: Config, mesh: Mesh) -> Training:
    """The program of a run, not yet compiled."""
    environment, env_params = config.env.make()
    policy = make_policy(config, environment, env_params)
    chunk = config.updates_per_chunk
    return make_training(policy, environment, env_params, config.ppo, config.num_updates, mesh, chunk)


def load_params(folder: Path, config: Config) -> tuple[Any, int]:
    """The parameters of the latest checkpoint, on the first device, and the updates that made them.

    Raises:
      CheckpointError, UsageError: there is none, it is damaged, or of another run.
    """
    training = build(config, device_mesh(1))
    checkpointer = Checkpointer(folder / "checkpoints")
    state, metadata = checkpointer.restore(jax.eval_shape(training.initial_state, jax.random.key(0)))
    if differs := first_difference(metadata["identity"], identity(config)):
        raise UsageError(f"{checkpointer.directory} is of another run: its {differs} is not the one in config.json.")
    return state.params, int(state.update)


def identity(config: Config) -> dict[str, Any]:
    """What two processes that work on the same run must agree on: all that the state of training depends on."""
    values = config_to_dict(config)
    parts = {f"{part}.{name}": value for part in ("env", "memory", "network") for name, value in values[part].items()}
    whole = {name: values[name] for name in ("seed", "updates_per_chunk")}
    return {**parts, **whole, **{f"ppo.{name}": values["ppo"][name] for name in ("num_envs", "unroll_length")}}


def first_difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The first key whose values differ, where both have been through JSON; None if there is none."""
    one, other = json.loads(json.dumps(one)), json.loads(json.dumps(other))
    return next((key for key in one | other if one.get(key) != other.get(key)), None)


def make_folder(config: Config, output: Path | None) -> Path:
    """Makes the folder of a new run, on the first process; UsageError if there is something in it already."""
    if output is None:
        if jax.process_count() > 1:
            raise UsageError("Several processes need to be told where to write: --output FOLDER.")
        first = Path("runs") / f"{config.name}-seed{config.seed}"
        numbered = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
        output = next(folder for folder in itertools.chain([first], numbered) if not folder.exists())
    if jax.process_index() == 0:
        if (output / "config.json").exists():
            raise UsageError(
                f"{output} holds a run already: go on with it (--resume {output}) or name another --output."
            )
        if make_output(output, "a run"):
            raise UsageError(f"{output} cannot be the folder of a run: it is not empty.")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("folder made")
    return output


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other runs out of `folder` for as long as this process lives, however it ends."""
    if jax.process_index() > 0:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"Another process is working on the run in {folder}.") from None
    try:
        yield
    finally:
        os.close(descriptor)


def open_files(config: Config, folder: Path, update: int, mesh: Mesh, command: Sequence[str], name: str) -> Tracker:
    """Writes down what is being run, and opens what the metrics go to: after `update`, which the run goes on from.

    `name` is what W&B calls the run. The folder is made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "environment.json"
    before = json.loads(path.read_text()) if path.exists() else []
    record = {"update": update, "command": list(command), **environment_record(), "devices_used": mesh.size}
    values = config_to_dict(config)
    write_json(folder / "config.json", values)
    write_json(path, [*before, record])
    tracking = config.tracking
    return Tracker(
        folder,
        resume_after=update if before else None,
        mode=tracking.wandb,
        config=values,
        project=tracking.project,
        group=tracking.group,
        name=name,
        tags=tracking.tags,
    )
