import concurrent.futures
import json
import re
import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from memrl.sharding import AXIS, device_mesh, shardings, split_specs

# The mesh and what goes where


def test_mesh_takes_all_devices_or_as_many_as_asked_for():
    assert device_mesh().devices.tolist() == jax.devices()
    assert device_mesh(1).devices.tolist() == jax.devices()[:1]


@pytest.mark.parametrize("devices", [0, -1, 3])
def test_mesh_of_other_devices_than_there_are_is_refused(devices):
    message = f"devices is {devices}: this machine offers 2 (cpu), so it must be from 1 to 2."
    with pytest.raises(ValueError, match=re.escape(message)):
        device_mesh(devices)


def test_batches_are_split_and_scalars_are_everywhere():
    tree = {"batch": jnp.arange(4), "keys": jax.random.split(jax.random.key(0), 4), "clock": jnp.int32(0)}
    specs = split_specs(tree)
    assert specs == {"batch": PartitionSpec(AXIS), "keys": PartitionSpec(AXIS), "clock": PartitionSpec()}
    placed = jax.device_put(tree, shardings(device_mesh(), specs))
    assert [shard.data.tolist() for shard in placed["batch"].addressable_shards] == [[0, 1], [2, 3]]
    assert placed["clock"].sharding.is_fully_replicated


# The same learning curve on any number of devices and processes


def train_on_devices(run_python, memory, devices, *distributed, local_devices):
    """What `train_on_devices.py` prints in a process with `local_devices` virtual devices."""
    env = {"JAX_NUM_CPU_DEVICES": str(local_devices), "PYTHONPATH": "."}
    done = run_python("tests/train_on_devices.py", memory, devices, *distributed, env=env, timeout=280)
    assert done.returncode == 0, done.stderr
    # Gloo, which connects processes, prints lines of its own.
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def assert_same_curve(one, other):
    np.testing.assert_allclose(one["params"], other["params"], rtol=0, atol=1e-10)
    assert one["metrics"].keys() == other["metrics"].keys()
    for name, values in one["metrics"].items():
        tolerance = 1e-6 if name == "reward_per_step" else 1e-10  # rewards are float32
        np.testing.assert_allclose(values, other["metrics"][name], tolerance, tolerance, err_msg=name)
    assert max(one["metrics"]["ratio_deviation"]) < 1e-12
    assert min(one["metrics"]["gradient_norm"]) > 1e-3


@pytest.mark.timeout(300)
@pytest.mark.parametrize("memory", ["gru", "memo"])
def test_eight_devices_learn_what_one_does(run_python, memory):
    eight, one = train_on_devices(run_python, memory, "8,1", local_devices=8)
    assert (eight["devices"], one["devices"]) == (8, 1)
    assert_same_curve(eight, one)


@pytest.mark.timeout(300)
def test_two_processes_learn_what_one_does(run_python):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with concurrent.futures.ThreadPoolExecutor() as threads:
        running = [
            threads.submit(train_on_devices, run_python, "gru", 2, 2, process, port, local_devices=1)
            for process in (0, 1)
        ]
        (first,), (second,) = (process.result() for process in running)
    (alone,) = train_on_devices(run_python, "gru", 2, local_devices=2)
    assert (first["processes"], second["processes"], alone["processes"]) == (2, 2, 1)
    assert_same_curve(first, alone)
    assert first == second
