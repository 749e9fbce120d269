"""What a worker does: `python -m experiments.workers.work FOLDER LOG CELL ..`, started by `experiments.grid`.

How far it is stands in `status.json` in the folder of a cell; what it says goes to a log.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import jax

from experiments.command_line import sentence
from experiments.training.cell import Programs, train_cell
from experiments.workers.store import cell_lock, load_grid, write_status

OWNED = "MEMRL_GRID_OWNED"
"""Environment variable of worker processes: they stop where the process that started them has ended."""


def work(folder: Path, names: Sequence[str], log: str) -> int:
    """Trains the cells `names` of the grid in `folder`, one after the other; returns the exit status.

    What it says goes to the file `log`. It stops, its state saved, on SIGTERM.
    """
    grid = load_grid(folder)
    # As Ctrl-C: at once, but while a cell is trained, which then is saved first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue] (JAX adds it)
        jax.config.update("jax_compilation_cache_dir", str((folder / "cache").absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    threading.Thread(target=stop_with, args=(folder,), daemon=True).start()
    cells = {cell.name: cell for cell in grid.cells}
    programs: Programs = {}
    for name in names:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(cell_lock(folder / name))
            except KeyboardInterrupt:  # while it waited for a worker of before
                return 128 + signal.SIGTERM
            start = time.time()
            write_status(folder / name, "training", log)
            try:
                configs = grid.configs(cells[name], folder.resolve().name)
                stopped_by = train_cell(folder / name, configs, grid.command, programs)
            except KeyboardInterrupt:  # while it was compiled or evaluated
                stopped_by = signal.SIGTERM
            except Exception as error:  # which says nothing about the other cells
                traceback.print_exc()
                write_status(folder / name, "failed", log, time.time() - start, sentence(error))
                continue
            write_status(folder / name, "stopped" if stopped_by else "done", log, time.time() - start)
            if stopped_by is not None:
                return 128 + stopped_by
    return 0


def job(folder: Path, names: Sequence[str]) -> int:
    """`work` as a job of submitit."""
    import submitit

    # submitit would ignore the first, and end the job at the second, which announces the end of its time.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    return work(folder, names, str(submitit.JobEnvironment().paths.stderr))


def stop_with(folder: Path) -> None:
    """Stops this process with the one that started it; a job, when there is a file `stop` in the grid's folder."""
    if os.environ.get(OWNED):
        while os.read(sys.stdin.fileno(), 1):  # not through a buffer, whose lock would be missed when the process ends
            pass
    else:
        while not (folder / "stop").exists():
            time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1]), sys.argv[3:], sys.argv[2]))
