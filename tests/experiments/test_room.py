"""A run that cannot fit into memory is refused with what it needs, part by part, before anything is allocated."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest

from experiments.command_line import UsageError, make_mesh
from experiments.configs import CONFIGS
from experiments.runs.folder import build, settings_of
from experiments.training import room
from memrl.footprint import footprint
from memrl.memory import FCT

SMALL = dataclasses.replace(CONFIGS["none_t_maze"].config, devices=1)
CPU = SimpleNamespace(platform="cpu")


def test_what_fits_is_said_with_the_number_of_parameters(monkeypatch):
    """Where nothing tells what is free, nothing is compared."""
    mesh, settings = make_mesh(SMALL), settings_of(SMALL)
    training = build(SMALL, mesh)
    state = jax.eval_shape(training.initial_state, jax.random.key(0), settings)
    needed = room.in_words(footprint(training.advance, state, settings).total)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    for free, said in ((8 * 10**9, " of 8 GB that are free"), (None, "")):
        monkeypatch.setattr(room, "free_bytes", lambda device, free=free: free)
        expected = f"{parameters:,} parameters; training needs about {needed}{said}"
        assert room.check_training(SMALL, training, mesh) == expected


@pytest.mark.parametrize(("seeds", "runs"), [(None, None), ("sequential", 3)])
def test_what_cannot_fit_is_refused_part_by_part(monkeypatch, seeds, runs):
    """The parts add up to the whole."""
    monkeypatch.setattr(room, "free_bytes", lambda device: 10**9)
    large = dataclasses.replace(SMALL, ppo=dataclasses.replace(SMALL.ppo, unroll_length=10**6))
    with pytest.raises(UsageError) as caught:
        room.check_training(large, build(large, make_mesh(large), seeds=seeds), make_mesh(large), runs=runs)
    said = str(caught.value)
    assert said.startswith("Training needs about ") and ", and 1 GB are free: parameters " in said
    assert said.endswith("and with more ppo.minibatches.") and "\n" not in said
    whole, _, parts = said.partition(" free: ")
    sizes = [in_bytes(part.split()[-2:]) for part in parts.partition(". Less")[0].split(", ")]
    # "activations, gradients and the rest" is two of these
    assert sum(sizes) == pytest.approx(in_bytes(whole.split()[3:5]), rel=0.02)


def in_bytes(words: list[str]) -> float:
    """The inverse of `in_words`; 0 for what is none."""
    number, unit = words if len(words) == 2 else ("", "")
    return (
        float(number) * {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit.strip(",.")] if number[:1].isdigit() else 0
    )


def test_evaluation_counts_trials_horizons_and_room_for_them(monkeypatch):
    monkeypatch.setattr(room, "free_bytes", lambda device: 10**9)
    config = dataclasses.replace(CONFIGS["none_gridworld"].config, devices=1)
    evaluation = dataclasses.replace(config.evaluation, num_trials=64)
    room.check_evaluation(config, evaluation)
    with pytest.raises(UsageError, match=r"^Evaluating 200000000 trials at once needs about .* and 1 GB are free\."):
        room.check_evaluation(config, dataclasses.replace(evaluation, num_trials=2 * 10**8))
    attends = dataclasses.replace(config, memory=FCT(context=100))
    with pytest.raises(UsageError, match=r"shorter evaluation\.horizons"):
        room.check_evaluation(attends, dataclasses.replace(evaluation, horizons=(1, 10**5)))


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 kB"), (1234, "1.23 kB"), (999_400, "999 kB"), (999_600, "1 MB"), (2.5e9, "2.5 GB"), (4e15, "4,000 TB")],
)
def test_in_words(size, words):
    assert room.in_words(size) == words


# What is free

V2 = "30 23 0:26 {mounted} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw"
V1 = "31 23 0:27 {mounted} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
INFO = "MemTotal: 32000000 kB\nMemFree: 1 kB\nMemAvailable: 16000000 kB\n"
GB = 10**9


@pytest.fixture
def free(tmp_path):
    """A function that gives what is free for CPUs under a root with these files."""

    def free(**files: str) -> int | None:
        for name, content in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return room.free_bytes(CPU, tmp_path)

    return free


def test_what_the_machine_has(free):
    assert free() is None
    assert free(proc__meminfo=INFO) == 16_000_000 * 1024


@pytest.mark.parametrize(("limit", "expected"), [(f"{4 * GB}\n", 3 * GB), ("max\n", 16_000_000 * 1024), ("1", 0)])
def test_version_2_has_less(free, limit, expected):
    """What has been read from files, and is no longer used, is let go."""
    group = "sys__fs__cgroup__job__memory."
    files = {f"{group}max": limit, f"{group}current": f"{2 * GB}", f"{group}stat": f"anon 5\ninactive_file {GB}\n"}
    groups = {"proc__self__cgroup": "0::/job\n", "proc__self__mountinfo": V2.format(mounted="/")}
    assert free(proc__meminfo=INFO, **groups, **files) == expected


def test_version_1_has_less_in_a_group_further_up(free):
    group = "sys__fs__cgroup__memory__memory."
    files = {
        f"{group}limit_in_bytes": f"{2 * GB}",
        f"{group}usage_in_bytes": f"{GB}",
        f"{group}stat": "total_inactive_file 0\n",
    }
    groups = {"proc__self__cgroup": "8:memory:/docker/1/job\n", "proc__self__mountinfo": V1.format(mounted="/docker/1")}
    assert free(proc__meminfo=INFO, **groups, **files) == GB


def test_an_accelerator_says_what_it_has():
    def device(**stats):
        return SimpleNamespace(platform="gpu", memory_stats=lambda: stats or None)

    assert room.free_bytes(device(bytes_limit=8 * GB, bytes_in_use=GB)) == 7 * GB
    assert room.free_bytes(device()) is None
