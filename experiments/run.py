"""Trains one policy: `python -m experiments.run --config NAME`.

Everything a run produces is in its folder:

    config.json         the settings, overrides included
    environment.json    for each process that worked on the run: the update it began at, its command line, versions,
                        commit, devices
    metrics.jsonl       a line per update; `seconds` and `steps_per_second` tell of the machine, the rest of learning
    checkpoints/        the latest two
    evaluation.json, pictures, wandb/

Exit status: 0 when the run is complete; 1 when it diverged; 2 for bad input; 128 + the signal's number when SIGTERM or
Ctrl-C ended it, its state saved. However it ended, `--resume FOLDER` goes on, bit for bit if on as many devices.
"""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from experiments import command_line
from experiments.command_line import UsageError
from experiments.config import Config, config_to_dict, load_config, make_policy
from experiments.log import DivergedError, Log, Progress, say
from memrl.checkpoint import Checkpointer
from memrl.tracking import Tracker, environment_record, write_json
from memrl.training import Training, make_training

DIVERGED = 1
"""Exit status of a run whose loss is no longer finite."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Where the run is written."""

    output: Path | None = None
    """Folder of the new run; runs/NAME-seedSEED, or the next free one like it, if not given."""
    resume: Path | None = None
    """Folder of a run to go on with, in place of --config. What its state depends on cannot be overridden then."""


def run(arguments: Sequence[str]) -> int:
    """Trains and evaluates as the command line says; returns the exit status."""
    resumed = command_line.value_of("--resume", arguments)
    try:
        saved = None if resumed is None else load_config(Path(resumed))
    except ValueError as error:
        raise UsageError(str(error)) from error
    config, options = command_line.read("experiments.run", "Trains a policy.", Options(), arguments, saved)
    if saved is not None and options.output is not None:
        raise UsageError("A run that goes on does so in its own folder: leave out --output.")
    if saved is not None and (differs := first_difference(identity(saved), identity(config))):
        raise UsageError(f"A run cannot go on with another {differs}: start a new one.")
    mesh = command_line.make_mesh(config)
    training = build(config, mesh)

    folder = options.resume or make_folder(config, options.output)
    resume = f"python -m experiments.run --resume {folder}"
    try:
        with locked(folder):
            stopped_by = train(config, folder, training, mesh, ["python", "-m", "experiments.run", *arguments])
    except DivergedError as error:
        latest = Checkpointer(folder / "checkpoints").latest() or 0
        advice = f"To go on from update {latest}, which is good: {resume} --ppo.learning-rate SMALLER"
        print(f"{error} {advice}", file=sys.stderr)
        return DIVERGED
    if stopped_by is not None:
        say(f"Stopped by {stopped_by.name}, everything is saved; to go on: {resume}")
        return 128 + stopped_by
    evaluation = f"python -m experiments.evaluate {folder}"
    if jax.process_count() > 1:
        say(f"Trained; to evaluate: {evaluation}")
        return 0
    say(f"Trained; evaluating. To do so again: {evaluation}")
    from experiments.evaluate import evaluate_run  # brings matplotlib, half a second that the start need not wait for

    evaluate_run(folder)
    return 0


def build(config: Config, mesh: Mesh) -> Training:
    """The program of a run, not yet compiled."""
    environment, env_params = config.env.make()
    policy = make_policy(config, environment, env_params)
    chunk = config.updates_per_chunk
    return make_training(policy, environment, env_params, config.ppo, config.num_updates, mesh, chunk)


def train(
    config: Config, folder: Path, training: Training, mesh: Mesh, command: Sequence[str]
) -> signal.Signals | None:
    """Trains from the latest checkpoint in `folder`, or from the start, to the end.

    Returns:
      The signal that asked to stop, the state then saved; None if none did.

    Raises:
      CheckpointError, UsageError: the latest checkpoint is damaged or of another run; nothing has been changed.
      DivergedError: a loss or gradient is not finite; all checkpoints are from before that.
    """
    key = jax.random.key(config.seed)
    with contextlib.ExitStack() as stack:
        checkpointer = stack.enter_context(Checkpointer(folder / "checkpoints"))
        state, update, seconds = None, 0, 0.0
        if checkpointer.latest() is not None:
            # Shapes of `initial_state` carry its shardings: every array is read to where it belongs.
            state, metadata = checkpointer.restore(jax.eval_shape(training.initial_state, key))
            if differs := first_difference(metadata["identity"], identity(config)):
                raise UsageError(f"{checkpointer.directory} is of another run: its {differs} is not the one here.")
            update, seconds = int(state.update), metadata["seconds"]

        tracker = None
        if jax.process_index() == 0:
            tracker = stack.enter_context(open_files(config, folder, update, mesh, command, folder.name))
        stop = stack.enter_context(StopRequest())
        if update < config.num_updates:
            devices = f"{mesh.size} {mesh.devices.flat[0].platform} device{'s' * (mesh.size > 1)}"
            say(f"{folder}: {update} of {config.num_updates} updates done. Compiling for {devices} ...", end=" ")
            start = time.perf_counter()
            state = training.initial_state(key) if state is None else state
            advance = training.advance.lower(state).compile()
            say(f"took {time.perf_counter() - start:.0f} s.")
            progress = Progress(config, update)
            stack.callback(progress.end)
            log = Log(config, tracker, update, seconds, progress)

            def save() -> None:
                log.flush()  # first: metrics.jsonl then misses no update, and what has diverged is not saved
                checkpointer.save(update, state, {"seconds": log.seconds, "identity": identity(config)})

            while update < config.num_updates and not stop.pending():
                state, metrics = advance(state)
                update += config.updates_per_chunk
                log.add(metrics)
                if update % config.checkpoint_every < config.updates_per_chunk:
                    save()
            save()
        return stop.received


class StopRequest:
    """Takes SIGTERM and Ctrl-C as a request to stop when it suits; a second one ends the process at once."""

    def __enter__(self) -> Self:
        self.received: signal.Signals | None = None
        self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: Any) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        message = f"\n{self.received.name}: will save and stop after this chunk; a second one stops at once.\n"
        os.write(sys.stderr.fileno(), message.encode())  # `print` may be what the signal interrupted

    def pending(self) -> bool:
        """Whether to stop. All processes have to ask at the same time, and get the same answer."""
        number = int(self.received or 0)
        if jax.process_count() > 1:
            number = int(multihost_utils.process_allgather(np.int32(number)).max())
        if number:
            self.received = signal.Signals(number)
        return number > 0


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
        if command_line.make_output(output, "a run"):
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


if __name__ == "__main__":
    command_line.main(run)
