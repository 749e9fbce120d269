"""The folder of a run: which run it is, what is in it, and the policy that was trained there.

One function reads each kind of file and answers for it: where a file is damaged, or of another run, it raises one
sentence that says so.
"""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from typing_extensions import TypedDict

from experiments.command_line import UsageError, make_output
from experiments.config import Config, config_to_dict, load_config, make_policy
from memrl.checkpoint import Checkpointer
from memrl.evaluation import SavedEvaluation, read_evaluation
from memrl.files import read_json
from memrl.rollout import initial_actor_state
from memrl.tracking import Tracker, environment_record, read_metrics, write_json
from memrl.training import Seeds, Settings, Training, make_training


class Record(TypedDict):
    """A process that worked on the run, in `environment.json`; see `memrl.tracking.environment_record` for the rest."""

    update: int
    """Update at which the process began."""
    command: list[str]
    """Command line of the process."""
    commit: str | None
    """Commit that the process ran, if that is known."""
    uncommitted_changes: bool | None
    """Whether files had been changed since that commit."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run and what is in its folder, read when it is asked for. What cannot be read raises a FileError."""

    folder: Path
    """Folder of the run."""
    config: Config
    """Settings of the run."""

    @property
    def checkpointer(self) -> Checkpointer:
        """Its checkpoints."""
        return Checkpointer(self.folder / "checkpoints")

    @property
    def updates_done(self) -> int:
        """Updates that led to its latest checkpoint; 0 if there is none."""
        return self.checkpointer.latest() or 0

    @cached_property
    def evaluation(self) -> SavedEvaluation:
        """What `evaluation.json` holds; UsageError if there is none or it is not of the latest checkpoint."""
        path = self.folder / "evaluation.json"
        again = f"Evaluate it: python -m experiments.evaluate {self.folder}"
        if not path.exists():
            raise UsageError(f"{self.folder} has no evaluation.json. {again}")
        result = read_evaluation(path, again)
        latest = self.checkpointer.latest()
        if latest is not None and result["update"] != latest:
            raise UsageError(f"{path} is of update {result['update']} and the latest checkpoint of {latest}. {again}")
        return result

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; none if there is no such file."""
        path = self.folder / "metrics.jsonl"
        return read_metrics(path, ("env_steps", "return", "trials", "seconds")) if path.exists() else []

    @cached_property
    def records(self) -> list[Record]:
        """The records of `environment.json`; none if there is no such file."""
        path = self.folder / "environment.json"
        remedy = "Put a good copy of it in its place, or remove it to do without."
        return read_json(path, list[Record], remedy) if path.exists() else []

    @property
    def seconds(self) -> float | None:
        """How long it was trained; None if it has no metrics."""
        return self.metrics[-1]["seconds"] if self.metrics else None


def load_run(folder: Path) -> Run:
    """The run in a folder; UsageError if there is none."""
    try:
        return Run(folder, load_config(folder))
    except ValueError as error:
        raise UsageError(str(error)) from error


def build(config: Config, mesh: Mesh, seeds: Seeds | None = None) -> Training:
    """The program of a run, or of several that differ in their seed alone, not yet compiled."""
    environment, env_params = config.env.make()
    return make_training(
        make_policy(config, environment, env_params),
        environment,
        settings_of(config),
        config.ppo,
        config.num_updates,
        mesh,
        chunk=config.updates_per_chunk,
        seeds=seeds,
    )


def settings_of(config: Config) -> Settings:
    """The arguments of the program of a run."""
    return Settings(config.env.make()[1], config.ppo.hyperparameters())


def parameter_shapes(config: Config) -> Any:
    """Shapes and types of the parameters of the policy of a run."""
    environment, env_params = config.env.make()
    policy = make_policy(config, environment, env_params)

    def init(key: jax.Array) -> Any:
        actor = initial_actor_state(policy, environment, env_params, 1, key)
        return policy.init(key, actor.memory, actor.inputs, actor.reset, method="step")

    return jax.eval_shape(init, jax.random.key(0))


def load_params(run: Run, shapes: Any) -> tuple[Any, int]:
    """The parameters of the latest checkpoint, on the first device, and the updates that made them.

    Args:
      run: which.
      shapes: `parameter_shapes` of its config, or of one that differs in its seed.

    Raises:
      CheckpointError, UsageError: there is none, it is damaged, or of another run.
    """
    update = run.checkpointer.latest()
    params, metadata = run.checkpointer.restore(shapes, update, part="params")
    check_identity(metadata["identity"], run.config, run.checkpointer)
    assert update is not None  # or there would have been nothing to restore
    return params, update


def identity(config: Config) -> dict[str, Any]:
    """What two processes that work on the same run must agree on: all that the state of training depends on."""
    values = config_to_dict(config)
    parts = {f"{part}.{name}": value for part in ("env", "memory", "network") for name, value in values[part].items()}
    whole = {name: values[name] for name in ("seed", "updates_per_chunk")}
    return {**parts, **whole, **{f"ppo.{name}": values["ppo"][name] for name in ("num_envs", "unroll_length")}}


def check_identity(saved: Mapping[str, Any], config: Config, checkpointer: Checkpointer) -> None:
    """UsageError if what `checkpointer` has saved is of another run than one of this `config`."""
    if differs := first_difference(saved, identity(config)):
        raise UsageError(f"{checkpointer.directory} is of another run: its {differs} is not the one in config.json.")


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first key whose values differ, where both have been through JSON; None if there is none."""
    saved, asked = json.loads(json.dumps(dict(one))), json.loads(json.dumps(dict(other)))
    return next((key for key in saved | asked if saved.get(key) != asked.get(key)), None)


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


def check_files(run: Run) -> list[Record]:
    """FileError if what a run would go on writing is damaged. Returns its records."""
    run.metrics  # noqa: B018 (reads it)
    return run.records


def open_files(config: Config, folder: Path, update: int, mesh: Mesh, command: Sequence[str], name: str) -> Tracker:
    """Writes down what is being run, and opens what the metrics go to: after `update`, which the run goes on from.

    `name` is what W&B calls the run. The folder is made if need be.

    Raises:
      FileError: what is there from before is damaged; nothing has been changed.
    """
    records = check_files(Run(folder, config))
    resumed = bool(records) or (folder / "metrics.jsonl").exists()
    folder.mkdir(parents=True, exist_ok=True)
    record = {"update": update, "command": list(command), **environment_record(), "devices_used": mesh.size}
    values = config_to_dict(config)
    write_json(folder / "config.json", values)
    write_json(folder / "environment.json", [*records, record])
    tracking = config.tracking
    return Tracker(
        folder,
        resume_after=update if resumed else None,
        mode=tracking.wandb,
        config=values,
        project=tracking.project,
        group=tracking.group,
        name=name,
        tags=tracking.tags,
    )
