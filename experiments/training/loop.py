"""Trains one run: from its latest checkpoint, or from the start, to the end."""

import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh

from experiments.config import Config
from experiments.runs.folder import check_identity, identity, open_files, settings_of
from experiments.terminal import say
from experiments.training.log import Log, Progress
from experiments.training.stop import StopRequest
from memrl.checkpoint import Checkpointer
from memrl.training import Training, TrainState


def train(
    config: Config, folder: Path, training: Training, mesh: Mesh, command: Sequence[str]
) -> signal.Signals | None:
    """Trains from the latest checkpoint in `folder`, or from the start, to the end.

    Returns:
      The signal that asked to stop, the state then saved; None if none did.

    Raises:
      CheckpointError, FileError, UsageError: what is in the folder is damaged or of another run; nothing has been
        changed.
      DivergedError: a loss or gradient is not finite; all checkpoints are from before that.
    """
    key, settings = jax.random.key(config.seed), settings_of(config)
    with contextlib.ExitStack() as stack:
        checkpointer = stack.enter_context(Checkpointer(folder / "checkpoints"))
        state, update, seconds = None, 0, 0.0
        if checkpointer.latest() is not None:
            # Shapes of `initial_state` carry its shardings: every array is read to where it belongs.
            state, metadata = checkpointer.restore(jax.eval_shape(training.initial_state, key, settings))
            check_identity(metadata["identity"], config, checkpointer)
            update, seconds = int(state.update), metadata["seconds"]

        tracker = None
        if jax.process_index() == 0:
            tracker = stack.enter_context(open_files(config, folder, update, mesh, command, folder.name))
        if update >= config.num_updates:
            return None
        devices = f"{mesh.size} {mesh.devices.flat[0].platform} device{'s' * (mesh.size > 1)}"
        say(f"{folder}: {update} of {config.num_updates} updates done. Compiling for {devices} ...", end=" ")
        start = time.perf_counter()
        state = training.initial_state(key, settings) if state is None else state
        advance = training.advance.lower(state, settings).compile()
        stop = stack.enter_context(StopRequest())  # until now there was nothing to save
        say(f"took {time.perf_counter() - start:.0f} s.")
        progress = Progress(config, update)
        stack.callback(progress.end)
        log = Log(config, tracker, update, seconds, progress)

        def save(update: int, state: TrainState) -> None:
            log.flush()  # first: metrics.jsonl then misses no update, and what has diverged is not saved
            checkpointer.save(update, state, {"seconds": log.seconds, "identity": identity(config)})

        advance_to_end(config, lambda state: advance(state, settings), state, update, stop, log.add, save)
        checkpointer.close()  # waits, while another signal would still do no harm
        return stop.received


def advance_to_end(
    config: Config,
    advance: Callable[[TrainState], tuple[TrainState, dict[str, jax.Array]]],
    state: TrainState,
    update: int,
    stop: StopRequest,
    log: Callable[[dict[str, jax.Array]], None],
    save: Callable[[int, TrainState], None],
) -> tuple[TrainState, int]:
    """Advances one run, or the seeds of a cell together, chunk by chunk until the end or until a signal asks to stop.

    Args:
      config: of the run, or of any seed of the cell.
      advance: from a state, which is consumed, to the state a chunk of updates later and the metrics of the chunk.
      state: where training begins or goes on.
      update: updates that led to `state`.
      stop: entered already.
      log: takes the metrics of each chunk.
      save: takes an update and its state, every `config.checkpoint_every` updates and when there is no more to do.

    Returns:
      The last state, and the updates that led to it.
    """
    while update < config.num_updates and not stop.pending():
        state, metrics = advance(state)
        update += config.updates_per_chunk
        log(metrics)
        if update % config.checkpoint_every < config.updates_per_chunk:
            save(update, state)
    save(update, state)
    return state, update
