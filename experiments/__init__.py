"""Command line tools that join `memrl` and `envs`; each is started with `python -m experiments.NAME`.

They make a JAX device of every processor core, since XLA computes most of our programs on one core per device: two
devices on two cores train 1.7 times faster than one. JAX_NUM_CPU_DEVICES and XLA_FLAGS have precedence. This has to be
settled here, before JAX is imported: importing gymnax starts JAX's devices.
"""

import os
import sys
from types import TracebackType

if "jax" not in sys.modules and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(cores))


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What is left uncaught; that gymnax cannot be used is answered in a sentence, wherever it is imported first."""
    if isinstance(error, ImportError) and error.name == "gymnax":
        print(error, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # imported for `python -m experiments.NAME`, and not by somebody's program
    sys.excepthook = _say
