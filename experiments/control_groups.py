"""Where Linux says what a container, a job or a service may use: the control groups that this process is in.

Both versions are described in Linux's Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """The folders of this process's control groups, and of those that these are in; none where there are no such.

    Args:
      controller: what is limited, such as "cpu" or "memory". All groups of version 2 are given, whatever they limit.
      root: where `proc` and `sys` are.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux, or not allowed
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for mount in mounts:
            before, _, after = mount.partition(" - ")
            _, _, _, mounted, at, *_ = before.split()
            kind, _, options = after.split()
            is_version_1 = kind == "cgroup" and controller in options.split(",")
            if is_version_1 if controllers else kind == "cgroup2":
                top = root / at.lstrip("/")
                # In a container the path may be as the host sees it, of which only a part, or nothing, is mounted.
                inside = PurePosixPath(path).is_relative_to(mounted)
                here = top / PurePosixPath(path).relative_to(mounted) if inside else top
                for folder in (here, *here.parents):
                    yield folder
                    if folder == top:
                        break
