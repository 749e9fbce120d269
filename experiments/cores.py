"""How many processor cores this process may use: what it is bound to, and the share of a container or job."""

import os
from collections.abc import Iterator
from pathlib import Path

from experiments.control_groups import control_groups


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that this process is bound to, or fewer where a control group of it has a smaller quota; at least 1.

    A quota that is no whole number is rounded down: a device too many waits for the others at each step.

    Args:
      root: where `proc` and `sys` are.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = (quota for group in control_groups("cpu", root) for quota in _quota(group))
    return max(1, int(min([bound, *quotas])))


def _quota(folder: Path) -> Iterator[float]:
    """The quota of one control group, if it has one."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if quota != "max" and int(quota) > 0:  # -1: no quota
            yield int(quota) / int(period)
    except (OSError, ValueError):
        return
