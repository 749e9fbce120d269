"""Trains one run, or several that differ in their seed alone: from the latest checkpoint, or the start, to the end."""

import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from experiments.runs.folder import Run, check_identity, identity, open_files, settings_of
from experiments.terminal import say
from experiments.training.log import DivergedError, Log, Progress
from experiments.training.stop import StopRequest
from memrl.checkpoint import Checkpointer
from memrl.sharding import compiles
from memrl.training import Settings, Training, TrainState


class Trained(NamedTuple):
    """What training led to; all of it is saved."""

    state: TrainState
    """The state of the run, or of all seeds together."""
    seconds: float
    """How long each run was trained, in all processes that worked on it."""
    stopped_by: signal.Signals | None
    """The signal that asked to stop; None if none did, and the runs are complete."""


def train(
    folder: Path, runs: Sequence[Run], training: Training, mesh: Mesh, command: Sequence[str], *, together: bool = False
) -> Trained:
    """Trains from the latest checkpoint in `folder`, or from the start, to the end.

    Args:
      folder: where the checkpoints are.
      runs: what is trained; their configs differ in the seed alone.
      training: their program.
      mesh: its devices.
      command: the command line, to be written down.
      together: whether the program is one of several seeds, whose states are saved as one; else there is one run.

    Raises:
      CheckpointError, FileError, UsageError: what is in the folders is damaged or of other runs; nothing has been
        changed.
      DivergedError: a loss or gradient is not finite; all checkpoints are from before that.
    """
    config, settings = runs[0].config, settings_of(runs[0].config)
    keys = [jax.random.key(run.config.seed) for run in runs]
    key = jax.numpy.stack(keys) if together else keys[0]
    identities = [identity(run.config) for run in runs]
    with contextlib.ExitStack() as stack:
        checkpointer = stack.enter_context(Checkpointer(folder / "checkpoints"))
        state, update, seconds = None, checkpointer.latest() or 0, 0.0
        if checkpointer.latest() is not None:
            # Shapes of `initial_state` carry its shardings: every array is read to where it belongs.
            state, metadata = checkpointer.restore(jax.eval_shape(training.initial_state, key, settings))
            saved = metadata["identities"] if together else [metadata["identity"]]
            for one, run in zip(saved, runs, strict=True):
                check_identity(one, run.config, checkpointer)
            seconds = metadata["seconds"]

        trackers = [None] * len(runs)
        if jax.process_index() == 0:
            names = [f"{folder.name}-{run.folder.name}" if together else folder.name for run in runs]
            trackers = [
                stack.enter_context(open_files(run.config, run.folder, update, mesh, command, name))
                for run, name in zip(runs, names, strict=True)
            ]
        if state is not None and update >= config.num_updates:
            return Trained(state, seconds, None)
        state = training.initial_state(key, settings) if state is None else state
        done = f"{folder}: {update} of {config.num_updates} updates done"
        if together:  # cells of a grid share their program, which is compiled by the first call
            say(f"{done}, {len(runs)} seeds together.")
            advance = training.advance
        else:
            advance = compiled(training, state, settings, mesh, done)
        stop = stack.enter_context(StopRequest())  # until now there was nothing to save
        progress = Progress(config, update)
        stack.callback(progress.end)
        logs = [
            Log(run.config, tracker, update, seconds, None if number else progress, together=len(runs))
            for number, (run, tracker) in enumerate(zip(runs, trackers, strict=True))
        ]

        def flush() -> None:
            for log in logs:
                try:
                    log.flush()
                except DivergedError as error:
                    raise DivergedError(f"Seed {log.config.seed}: {error}" if together else str(error)) from error

        def save() -> None:
            flush()  # first: metrics.jsonl then misses no update, and what has diverged is not saved
            of_runs = {"identities": identities} if together else {"identity": identities[0]}
            checkpointer.save(update, state, {"seconds": logs[0].seconds, **of_runs})

        while update < config.num_updates and not stop.pending():
            state, metrics = advance(state, settings)
            update += config.updates_per_chunk
            flush()
            for log, of_run in zip(logs, by_seed(metrics, len(runs)) if together else [metrics], strict=True):
                log.add(of_run)
            if update % config.checkpoint_every < config.updates_per_chunk:
                save()
        save()
        checkpointer.close()  # waits, while another signal would still do no harm
        return Trained(state, logs[0].seconds, stop.received)


def compiled(training: Training, state: TrainState, settings: Settings, mesh: Mesh, done: str) -> Callable[..., Any]:
    """`training.advance` compiled ahead, if JAX compiles at all; says how long it took, after what has been `done`."""
    if not compiles():
        say(f"{done}. JAX_DISABLE_JIT is set: nothing is compiled, which takes seconds for each update.")
        return training.advance
    devices = f"{mesh.size} {mesh.devices.flat[0].platform} device{'s' * (mesh.size > 1)}"
    say(f"{done}. Compiling for {devices} ...", end=" ")
    start = time.perf_counter()
    advance = training.advance.lower(state, settings).compile()
    say(f"took {time.perf_counter() - start:.0f} s.")
    return advance


def by_seed(tree: Any, seeds: int) -> list[Any]:
    """The parts of a tree with leaves `[S, ..]` that belong to each seed."""
    return [jax.tree.map(lambda leaf, seed=seed: leaf[seed], tree) for seed in range(seeds)]
