"""Checkpoints come back bit for bit, survive being killed, and are not believed when damaged."""

import random
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec

from memrl.checkpoint import Checkpointer, CheckpointError
from memrl.files import StorageError


class State(struct.PyTreeNode):
    """One of everything that a training state holds."""

    parameters: dict
    optimiser: optax.OptState
    memory: tuple
    key: jax.Array
    update: jax.Array
    nothing: None = None


OPTIMISER = optax.chain(optax.clip_by_global_norm(1.0), optax.inject_hyperparams(optax.adam)(learning_rate=1e-3))


def make_state(seed: int = 0, features: int = 16) -> State:
    key = jax.random.key(seed)
    parameters = {"kernel": jax.random.normal(key, (64, features)), "bias": jnp.zeros(features)}
    return State(
        parameters=parameters,
        optimiser=OPTIMISER.init(parameters),
        memory=(jnp.full((2, 3), jnp.pi, jnp.bfloat16), jnp.array([True, False]), jax.random.split(key, 2)),
        key=key,
        update=jnp.int32(seed),
    )


def assert_identical(actual, expected) -> None:
    """The same structure, types and bits."""

    def raw(leaf):
        return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    assert jax.tree.map(lambda leaf: leaf.dtype, actual) == jax.tree.map(lambda leaf: leaf.dtype, expected)
    chex.assert_trees_all_equal(jax.tree.map(raw, actual), jax.tree.map(raw, expected), strict=True)


def save(directory: Path, *seeds: int) -> None:
    with Checkpointer(directory) as checkpointer:
        for seed in seeds:
            checkpointer.save(seed, make_state(seed), {"seed": seed})


def template(**sizes: int) -> State:
    return jax.eval_shape(lambda: make_state(**sizes))


def test_round_trip_is_bit_for_bit(tmp_path):
    save(tmp_path / "new" / "folder", 7)
    state, metadata = Checkpointer(tmp_path / "new" / "folder").restore(template())
    assert_identical(state, make_state(7))
    assert metadata == {"seed": 7}


def test_arrays_may_be_donated_while_they_are_saved(tmp_path):
    overwrite = jax.jit(lambda array: array * 0, donate_argnums=0)
    array = jnp.arange(100_000, dtype=jnp.float32)
    expected = np.array(array)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, {"array": array}, {})
        overwrite(array).block_until_ready()
    state, _ = Checkpointer(tmp_path).restore({"array": jax.ShapeDtypeStruct((100_000,), jnp.float32)})
    np.testing.assert_array_equal(state["array"], expected)


def test_latest_two_are_kept_and_any_can_be_read(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    assert checkpointer.latest() is None
    save(tmp_path, 1, 2, 10)
    assert checkpointer.updates() == [2, 10]
    assert checkpointer.latest() == 10
    state, metadata = checkpointer.restore(template(), update=2)
    assert_identical(state, make_state(2))
    assert metadata == {"seed": 2}


def test_an_update_is_saved_once(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, make_state(1), {"first": True})
        checkpointer.save(1, make_state(1), {"first": False})
    assert Checkpointer(tmp_path).restore(template())[1] == {"first": True}


def test_an_update_before_the_latest_is_refused(tmp_path):
    save(tmp_path, 1, 5)
    with pytest.raises(CheckpointError, match=r"Cannot save update 3: .* holds the later update 5\."):
        save(tmp_path, 3)
    assert Checkpointer(tmp_path).updates() == [1, 5]


def test_reading_changes_nothing_on_disk(tmp_path):
    save(tmp_path, 1)
    unfinished = tmp_path / "2.orbax-checkpoint-tmp-0"  # as of a save that another process is at
    unfinished.mkdir()
    Checkpointer(tmp_path).restore(template())
    assert unfinished.exists()
    missing = Checkpointer(tmp_path / "missing")
    assert missing.latest() is None
    assert not missing.directory.exists()


def test_sharded_state_moves_to_other_devices(tmp_path):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    split, replicated = (NamedSharding(mesh, spec) for spec in (PartitionSpec("d"), PartitionSpec()))
    expected = {"split": jnp.arange(6.0), "replicated": jnp.arange(3.0), "keys": jax.random.split(jax.random.key(0), 4)}
    shardings = {"split": split, "replicated": replicated, "keys": split}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, jax.device_put(expected, shardings), {})

    on_one_device, _ = Checkpointer(tmp_path).restore(jax.eval_shape(lambda: expected))
    on_two_devices, _ = Checkpointer(tmp_path).restore(jax.device_put(expected, shardings))

    assert_identical(on_one_device, expected)
    assert_identical(on_two_devices, expected)
    for name in expected:
        assert on_one_device[name].devices() == {jax.devices()[0]}
        assert on_two_devices[name].sharding == shardings[name]


def test_a_full_disk_loses_nothing_that_is_saved(tmp_path, full_disk, capfd, caplog):
    """The error comes from the background, at the next save or at the end. Then there is room again."""
    save(tmp_path, 1)
    large = {"array": jax.random.normal(jax.random.key(0), (50_000,))}
    sentence = rf"^{tmp_path} cannot be written to: File too large\.$"
    with full_disk(100_000):
        with pytest.raises(StorageError, match=sentence), Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(2, large, {})
        with pytest.raises(StorageError, match=sentence), Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(2, large, {})
            checkpointer.save(3, large, {})
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert capfd.readouterr() == ("", "")
    assert not [record.message for record in caplog.records if record.exc_info]
    save(tmp_path, 2)
    for update in (1, 2):
        assert_identical(Checkpointer(tmp_path).restore(template(), update)[0], make_state(update))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"empty": jnp.zeros((0, 3))}, r"Cannot save \['empty'\]: an array of shape \(0, 3\) has no elements\."),
        ({"count": 3}, r"Cannot save \['count'\]: it is a int, not a JAX array\."),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path, state, message):
    with Checkpointer(tmp_path / "run") as checkpointer, pytest.raises(CheckpointError, match=message):
        checkpointer.save(1, state, {})
    assert not (tmp_path / "run").exists()


def test_missing_checkpoints(tmp_path):
    with pytest.raises(CheckpointError, match=r"There is no checkpoint in .*\."):
        Checkpointer(tmp_path).restore(template())
    save(tmp_path, 1, 2)
    with pytest.raises(CheckpointError, match=r"There is no checkpoint of update 3 in .*, only of \[1, 2\]\."):
        Checkpointer(tmp_path).restore(template(), update=3)


def test_foreign_checkpoint_names_what_differs(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(CheckpointError) as caught:
        Checkpointer(tmp_path).restore(template(features=8))
    message = str(caught.value)
    assert "is of another model or configuration: " in message
    assert "parameters['kernel'] is float32[64, 16] there but float32[64, 8] here" in message
    assert message.endswith(" more.")
    with pytest.raises(CheckpointError, match=r"key is key<fry>\[\] there but missing here\."):
        Checkpointer(tmp_path).restore(template().replace(key=None))


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    middle = len(content) // 2
    if how == "deleted":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(content[:middle])
    else:
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


def array_file(checkpoint: Path) -> Path:
    files = (checkpoint / "state" / "ocdbt.process_0" / "d").iterdir()
    return max(files, key=lambda file: file.stat().st_size)


def description_file(checkpoint: Path) -> Path:
    return checkpoint / "description" / "metadata"


@pytest.mark.parametrize(
    ("which", "how"),
    [(array_file, "garbled"), *((description_file, how) for how in ("deleted", "truncated", "garbled"))],
)
def test_damage_is_noticed(tmp_path, which, how):
    save(tmp_path, 1, 2)
    damage(which(tmp_path / "2"), how)
    checkpointer = Checkpointer(tmp_path)
    with pytest.raises(CheckpointError, match=r"/2 is damaged: .*; remove that folder to go back to update 1\.$"):
        checkpointer.restore(template())
    assert_identical(checkpointer.restore(template(), update=1)[0], make_state(1))
    damage(which(tmp_path / "1"), how)
    with pytest.raises(CheckpointError, match=r"/2 is damaged: .*; there is no good older one\.$"):
        checkpointer.restore(template())


@pytest.mark.parametrize("how", ["deleted", "truncated"])
def test_arrays_that_cannot_be_read(tmp_path, run_python, how):
    """In a process of its own: Orbax abandons its other reads, which then raise exceptions that nobody can catch."""
    save(tmp_path, 1, 2)
    damage(array_file(tmp_path / "2"), how)
    script = (
        "import sys; from tests.test_checkpoint import *\n"
        "try: Checkpointer(sys.argv[1]).restore(template())\n"
        "except CheckpointError as error: print(error)"
    )
    printed = run_python("-c", script, tmp_path).stdout
    assert printed == (
        f"The checkpoint {tmp_path / '2'} is damaged: its arrays cannot be read; "
        "remove that folder to go back to update 1.\n"
    )


SAVE_FOR_EVER = """
import itertools, sys
import jax.numpy as jnp
from memrl.checkpoint import Checkpointer

with Checkpointer(sys.argv[1]) as checkpointer:
    first = (checkpointer.latest() or 0) + 1
    print("ready", flush=True)
    for update in itertools.count(first):
        state = {"large": jnp.full(6_000_000, update, jnp.float32), "small": jnp.int32(update)}
        checkpointer.save(update, state, {"update": update})
"""


def test_killed_while_saving(tmp_path):
    """Whenever a process that saves 24 MB over and over is killed, what it leaves is whole, and the next goes on."""
    target = {"large": jax.ShapeDtypeStruct((6_000_000,), jnp.float32), "small": jax.ShapeDtypeStruct((), jnp.int32)}
    delays = random.Random(0)
    previous = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, tmp_path], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline() == "ready\n"
            while Checkpointer(tmp_path).latest() in (None, previous):
                time.sleep(0.01)
                assert process.poll() is None
            time.sleep(delays.uniform(0, 0.5))
        finally:
            process.kill()
            process.communicate()
        state, metadata = Checkpointer(tmp_path).restore(target)
        assert metadata["update"] > previous
        previous = metadata["update"]
        np.testing.assert_array_equal(state["large"], np.full(6_000_000, previous, np.float32))
        assert state["small"] == previous
