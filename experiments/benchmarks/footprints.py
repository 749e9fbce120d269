"""What `memrl.footprint` finds out about configs beside what they need, for `experiments.benchmark --footprints`."""

import gc
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.command_line import make_mesh
from experiments.configs import CONFIGS
from experiments.runs.folder import build, settings_of
from experiments.terminal import say
from memrl.footprint import footprint


def compare_footprints(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Measures a training step of each config in a process of its own; prints a line for each, returns the figures."""
    say(f"{'config':36} estimated      XLA  measured   estimated / XLA")
    figures = {}
    # A pool whose process is a new one for each task.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in names:
            row = figures[name] = pool.apply(measure_footprint, (name,))
            told = (f"{row[key] / 1e6:8.1f}" if row[key] else " " * 8 for key in ("estimated", "planned", "measured"))
            say(f"{name:36}  {'  '.join(told)} MB   {row['estimated'] / row['planned']:15.2f}")
    return figures


def measure_footprint(name: str) -> dict[str, Any]:
    """The figures of the config called `name`, in bytes over all devices.

    Returns:
      estimated: from the trace, before anything was compiled.
      planned: what XLA gives out in the compiled program.
      measured: by how much the process grew at most in two updates, if the devices are CPUs under Linux; what the
        allocator and threads need is in it, some megabytes.
    """
    config = CONFIGS[name].config
    mesh = make_mesh(config)
    training = build(config, mesh)
    key, settings = jax.random.key(config.seed), settings_of(config)
    shapes = jax.eval_shape(training.initial_state, key, settings)
    estimated = footprint(training.advance, shapes, settings).total * mesh.size
    begin = training.initial_state.lower(key, settings).compile()
    advance = training.advance.lower(shapes, settings).compile()
    plan: Any = advance.memory_analysis()
    planned = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    planned = (planned + plan.temp_size_in_bytes) * mesh.size

    measured, status = None, Path("/proc/self/status")
    if mesh.devices.flat[0].platform == "cpu" and status.exists():
        gc.collect()
        before = _resident_bytes(status, "VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        state = begin(key, settings)
        for _ in range(2):
            state, _ = jax.block_until_ready(advance(state, settings))
        measured = _resident_bytes(status, "VmHWM") - before
    return {"estimated": estimated, "planned": planned, "measured": measured}


def _resident_bytes(status: Path, name: str) -> int:
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
