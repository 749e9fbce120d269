"""Command line tools that join `memrl` and `envs`; each is started with `python -m experiments.NAME`.

They make a JAX device of every processor core, since XLA computes most of our programs on one core per device: two
devices on two cores train 1.7 times faster than one. JAX_NUM_CPU_DEVICES and XLA_FLAGS have precedence. This has to be
settled here, before JAX is imported: importing gymnax starts JAX's devices.
"""

import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path
from types import TracebackType

from experiments.cores import usable_cores


def _raised_in(trace: TracebackType | None) -> str | None:
    """The module whose code raised the error."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else trace.tb_frame.f_globals.get("__name__")


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What is left uncaught. Answered in a sentence, wherever it is found out first, is that a package cannot be used,
    and that JAX does not know what an environment variable asks for."""
    if isinstance(error, ImportError) and error.name in ("gymnax", "envs", "memrl"):
        print(error, file=sys.stderr)
    elif _raised_in(trace) in ("jax._src.config", "jax._src.xla_bridge"):
        print(f"JAX cannot start as its environment variables ask for: {error}", file=sys.stderr)
    # TensorStore's threads still end writes of a checkpoint after one has failed, which is told: they say nothing.
    elif threading.current_thread() is threading.main_thread() or str(error) != "Event loop is closed":
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # imported for `python -m experiments.NAME`, and not by somebody's program
    sys.excepthook = _say
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        # Ctrl-C ends a tool at once, in whatever it is, by the signal itself: a KeyboardInterrupt would show as a
        # traceback of imports, and be lost where it is raised in a callback. Training takes it as a request to stop.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

for _name in ("envs", "memrl"):
    _spec = importlib.util.find_spec(_name)
    _places = (_spec.submodule_search_locations or [_spec.origin]) if _spec else []
    _found = [Path(place).resolve() for place in _places if place]
    if _found and Path(__file__).resolve().parents[1] / _name not in _found:
        raise ImportError(
            f"{_found[0]} takes the place of the package {_name} that these tools need: start them in another folder, "
            "or with python -P, which does not look for packages in the current one.",
            name=_name,
        )

if "jax" not in sys.modules and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(usable_cores()))
    os.environ.setdefault("NPROC", str(usable_cores()))  # threads that XLA's devices share
