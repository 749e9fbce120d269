"""How many processor cores this process may use: what it is bound to, and the share of a container or job."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that this process is bound to, or fewer where a control group of it has a smaller quota; at least 1.

    A quota that is no whole number is rounded down: a device too many waits for the others at each step.

    Args:
      root: where `proc` and `sys` are.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([bound, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """The cores that the control groups of this process, and those that these are in, have for all their processes.

    Both versions of control groups are described in Linux's Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux, or not allowed
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in mounts:
            before, _, after = mount.partition(" - ")
            _, _, _, mounted, at, *_ = before.split()
            kind, _, options = after.split()
            if kind == ("cgroup" if controllers else "cgroup2") and (not controllers or "cpu" in options.split(",")):
                top = root / at.lstrip("/")
                # In a container the path may be as the host sees it, of which only a part, or nothing, is mounted.
                inside = PurePosixPath(path).is_relative_to(mounted) and ".." not in path
                here = top / PurePosixPath(path).relative_to(mounted) if inside else top
                for folder in (here, *here.parents):
                    yield from _quota(folder)
                    if folder == top:
                        break


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
