"""The cores that may be used, with the control groups of Linux as they are on hosts and in containers."""

import os
from pathlib import Path

import pytest

from experiments.cores import usable_cores

V2 = "30 23 0:26 {mounted} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate"
V1 = "31 23 0:27 {mounted} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct"
OTHERS = "24 23 0:22 / / rw,relatime shared:1 - ext4 /dev/root rw\n25 23 0:23 / /sys rw,nosuid - sysfs sysfs rw"
CPU = "sys/fs/cgroup/cpu,cpuacct"


@pytest.fixture
def cores(tmp_path, monkeypatch):
    """A function that gives the usable ones of 16 from the lines of two files of /proc and the content of others."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)

    def cores(groups: str, mounts: str, files: dict[str, str]) -> int:
        said = {"proc/self/cgroup": groups, "proc/self/mountinfo": f"{OTHERS}\n{mounts}"}
        for name, content in {**said, **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        return usable_cores(tmp_path)

    return cores


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("200000 100000", 2), ("max 100000", 16), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 16)],
)
def test_version_2_in_a_container(cores, quota, expected):
    assert cores("0::/", V2.format(mounted="/"), {"sys/fs/cgroup/cpu.max": f"{quota}\n"}) == expected


@pytest.mark.parametrize(("outer", "inner", "expected"), [("300000", "max", 3), ("max", "500000", 5), ("3", "5", 1)])
def test_version_2_nested(cores, outer, inner, expected):
    """The smallest quota on the way up counts; the root has no such file."""
    slices = "sys/fs/cgroup/system.slice"
    files = {f"{slices}/cpu.max": f"{outer} 100000", f"{slices}/job.service/cpu.max": f"{inner} 100000"}
    assert cores("0::/system.slice/job.service", V2.format(mounted="/"), files) == expected


@pytest.mark.parametrize(("quota", "expected"), [("400000", 4), ("-1", 16), ("150000", 1)])
def test_version_1(cores, quota, expected):
    files = {f"{CPU}/batch/cpu.cfs_quota_us": f"{quota}\n", f"{CPU}/batch/cpu.cfs_period_us": "100000\n"}
    groups = "5:memory:/other\n4:cpu,cpuacct:/batch\n1:name=systemd:/init.scope"
    assert cores(groups, V1.format(mounted="/"), files) == expected


def test_version_1_in_a_container_that_sees_paths_of_its_host(cores):
    files = {f"{CPU}/cpu.cfs_quota_us": "600000", f"{CPU}/cpu.cfs_period_us": "100000"}
    assert cores("4:cpu,cpuacct:/docker/123", V1.format(mounted="/docker/123"), files) == 6
    assert cores("4:cpu,cpuacct:/", V1.format(mounted="/docker/123"), files) == 6
    assert cores("4:cpu,cpuacct:/../docker/123", V1.format(mounted="/"), files) == 6


def test_both_versions_at_once(cores):
    """As systemd's hybrid hierarchy: the controller is version 1's, and the other tree has no quotas."""
    files = {f"{CPU}/cpu.cfs_quota_us": "200000", f"{CPU}/cpu.cfs_period_us": "100000"}
    mounts = f"{V1.format(mounted='/')}\n41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"
    assert cores("1:cpu,cpuacct:/\n0::/user.slice", mounts, files) == 2


def test_without_control_groups(cores, tmp_path):
    assert usable_cores(tmp_path / "nowhere") == 16
    assert cores("0::/", "", {}) == 16
    assert cores("0::/", V2.format(mounted="/"), {"sys/fs/cgroup/cpu.max": "nonsense"}) == 16


def test_here():
    assert 1 <= usable_cores(Path("/")) <= (os.cpu_count() or 1)
