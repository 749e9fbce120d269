"""Checkpoints of the training state, written with Orbax in the background.

A checkpoint is a folder `<directory>/<update>` that appears whole or not at all: Orbax writes it under a temporary
name and renames it when it is complete, so a process killed at any moment leaves the previous checkpoints behind.

Beside the state a checkpoint holds a description of it: path, type and CRC-32 of every array. The description shows
whether a checkpoint is of another model, or damaged: Orbax 0.12.8 raises an error where a file is missing or truncated,
but returns wrong numbers where a byte of an array has changed on disk.
"""

import contextlib
import functools
import json
import logging
import os
import re
import shutil
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from memrl.files import StorageError


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read, in one sentence for the person at the terminal."""


class _DamagedError(CheckpointError):
    """What is wrong with a checkpoint that does not hold what was saved."""


class Checkpointer:
    """Saves and restores the states of one training run.

    Use it as a context manager: leaving the block waits for the save that is under way. Only `save` creates or removes
    anything on disk, so a run can be read while it is being trained. It works the same on several processes; all of
    them call every method with the same arguments.
    """

    def __init__(self, directory: str | Path) -> None:
        """`directory` holds the checkpoints of one run and is created by the first `save`."""
        self.directory = Path(directory).absolute()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits until the last save is on disk. Raises StorageError if it could not be written."""
        if "_manager" in vars(self):
            with self._writing():
                self._manager.close()
            del self._manager

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Raises StorageError where Orbax could not write, now or in the background, and makes room: for what is here
        already, and for another attempt."""
        try:
            yield
        except Exception as error:
            # TensorStore raises ValueErrors, which end like "No space left on device [os_error_code='28']".
            code = re.search(r"os_error_code='(\d+)'", str(error))
            if not (code or isinstance(error, OSError)):
                raise
            vars(self).pop("_manager", None)  # it would raise the same once more
            # Of what Orbax has left half done; it goes on for as long as somebody holds the error.
            warnings.filterwarnings("ignore", r"coroutine '.*' was never awaited", RuntimeWarning)
            for unfinished in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            reason = os.strerror(int(code[1])) if code else getattr(error, "strerror", None) or error
            raise StorageError(f"{self.directory} cannot be written to: {reason}.") from error

    @functools.cached_property
    def _manager(self) -> Any:
        import orbax.checkpoint as ocp  # here and below, since many commands need no checkpoint, and it takes its time

        logging.getLogger("absl").addFilter(_is_news)  # once there is one, which Orbax makes
        # The latest two are kept, never the best: what is evaluated is the end of training, not its luckiest moment.
        # The older one is there should the newest get damaged. Temporary folders are left over from killed processes.
        options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
        return ocp.CheckpointManager(self.directory, options=options)

    def save(self, update: int, state: Any, metadata: dict[str, Any]) -> None:
        """Starts to save `state` as the checkpoint of `update`; returns as soon as the arrays are copied.

        They may then be donated or deleted. An earlier save that is still under way is waited for. An update that has
        a checkpoint already is not saved again. Of all checkpoints the two with the latest updates are kept.

        Args:
          update: number of updates that led to the state.
          state: pytree of JAX arrays, typed keys included.
          metadata: what else to keep, of JSON types.

        Raises:
          CheckpointError: a leaf of the state is no JAX array or has no elements, or a later update has a checkpoint.
          StorageError: an earlier save or this one could not be written. What was saved before stays as it is.
        """
        for path, leaf in _leaves(state):
            if not isinstance(leaf, jax.Array):
                raise CheckpointError(f"Cannot save {path}: it is a {type(leaf).__name__}, not a JAX array.")
            if leaf.size == 0:
                raise CheckpointError(f"Cannot save {path}: an array of shape {leaf.shape} has no elements.")
        with self._writing():
            saved = self._manager.all_steps()
        if update in saved:
            return
        if saved and update < max(saved):  # Orbax would skip it without a word.
            raise CheckpointError(f"Cannot save update {update}: {self.directory} holds the later update {max(saved)}.")
        description = {
            "metadata": metadata,
            "types": {path: _type(leaf) for path, leaf in _leaves(state)},
            "checksums": {path: _checksum(leaf) for path, leaf in _leaves(state)},
        }
        description["checksum"] = _json_checksum(description)
        import orbax.checkpoint as ocp

        items = {"state": ocp.args.StandardSave(state), "description": ocp.args.JsonSave(description)}
        with self._writing():
            self._manager.save(update, args=ocp.args.Composite(**items))

    def updates(self) -> list[int]:
        """The updates that have a checkpoint on disk, in ascending order; CheckpointError if that is no folder."""
        if not self.directory.exists():
            return []
        if not self.directory.is_dir():
            raise CheckpointError(f"{self.directory} is not a folder of checkpoints: move that file away.")
        return sorted(int(folder.name) for folder in self.directory.iterdir() if folder.name.isdecimal())

    def latest(self) -> int | None:
        """The last update that has a checkpoint on disk; None if there is none."""
        return max(self.updates(), default=None)

    def restore(self, template: Any, update: int | None = None, part: str | None = None) -> tuple[Any, dict[str, Any]]:
        """Reads a checkpoint.

        Args:
          template: pytree of arrays or `jax.ShapeDtypeStruct`s, like the state that was saved. Each array is put where
            the sharding of its template says, whatever devices it came from; without one, on the first device.
          update: the checkpoint to read; None for the newest.
          part: read this field of the state alone; `template` then is like it.

        Returns:
          The state, or the part of it, bit for bit as it was saved, and the metadata.

        Raises:
          CheckpointError: there is no such checkpoint, it has other arrays than the template, or it is damaged. No
            older checkpoint is silently read instead of a damaged one; the message names the one to go back to.
        """
        updates = self.updates()
        if not updates:
            raise CheckpointError(f"There is no checkpoint in {self.directory}.")
        update = updates[-1] if update is None else update
        if update not in updates:
            raise CheckpointError(f"There is no checkpoint of update {update} in {self.directory}, only of {updates}.")
        try:
            return self._read(template, update, part)
        except _DamagedError as error:
            good = [older for older in updates if older < update and self._is_good(template, older, part)]
            advice = f"remove that folder to go back to update {good[-1]}" if good else "there is no good older one"
            raise CheckpointError(
                f"The checkpoint {self.directory / str(update)} is damaged: {error}; {advice}."
            ) from error

    def _is_good(self, template: Any, update: int, part: str | None) -> bool:
        try:
            self._read(template, update, part)
        except CheckpointError:
            return False
        return True

    def _read(self, template: Any, update: int, part: str | None) -> tuple[Any, dict[str, Any]]:
        import orbax.checkpoint as ocp

        folder = self.directory / str(update)
        asked = {path: _type(leaf) for path, leaf in _leaves(template, part)}
        # Not through a CheckpointManager, which would take the temporary folders of a running save for left over.
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            try:
                restored = reader.restore(folder, args=ocp.args.Composite(description=ocp.args.JsonRestore()))
                description = restored["description"]
                intact = description.pop("checksum") == _json_checksum(description)
            except Exception as error:
                raise _DamagedError("its description cannot be read") from error
            if not intact:
                raise _DamagedError("its description has changed since it was saved")
            saved = {path: kind for path, kind in description["types"].items() if part in (None, _field(path))}
            if differences := _differences(saved, asked):
                raise CheckpointError(f"The checkpoint {folder} is of another model or configuration: {differences}.")
            try:
                _check_readable(folder / "state", len(saved), part)
                if part is None:
                    args = ocp.args.StandardRestore(jax.tree.map(_abstract, template))
                    state = reader.restore(folder, args=ocp.args.Composite(state=args))["state"]
                else:
                    item = {part: jax.tree.map(_abstract, template)}
                    places = ocp.checkpoint_utils.construct_restore_args(item)
                    args = ocp.args.PyTreeRestore(item, restore_args=places, partial_restore=True)
                    state = reader.restore(folder, args=ocp.args.Composite(state=args))["state"][part]
            except Exception as error:
                raise _DamagedError("its arrays cannot be read") from error
        for path, leaf in _leaves(state, part):
            if _checksum(leaf) != description["checksums"][path]:
                raise _DamagedError(f"{path} has changed since it was saved")
        return state, description["metadata"]


def _check_readable(folder: Path, number: int, part: str | None) -> None:
    """Raises an error if not all arrays of a state, `number` of them, can be read.

    Orbax would find that out as well, but it reads them all at once, and when one fails the others print pages of
    tracebacks ("Event loop is closed"), some of them later and from other threads.
    """
    import tensorstore

    base = {"driver": "ocdbt", "base": folder.as_uri()}
    names = [
        name.removesuffix("/.zarray")
        for name in map(bytes.decode, tensorstore.KvStore.open(base).result().list().result())
        if name.endswith("/.zarray") and part in (None, _field(name))
    ]
    for name in names:
        array = tensorstore.open({"driver": "zarr", "kvstore": {**base, "path": f"{name}/"}}).result()
        array.read().result()
    if len(names) != number:
        raise ValueError(f"There are {len(names)} arrays where {number} were saved.")


def _field(path: str) -> str:
    """The field of a state in which a path begins."""
    return re.split(r"[.\[/]", path, maxsplit=1)[0]


def _is_news(record: logging.LogRecord) -> bool:
    """False for an error that Orbax logs: in each thread that it passes through on its way to where it is raised."""
    return not (record.exc_info and "orbax" in Path(record.pathname).parts)


def _leaves(tree: Any, part: str | None = None) -> list[tuple[str, Any]]:
    """The leaves of a pytree, each with its path as it is written in Python, such as `params['encoder']['bias']`.

    `part` is the field of a state that the tree is, if it is one.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(f"{part or ''}{jax.tree_util.keystr(path)}".removeprefix("."), leaf) for path, leaf in leaves]


def _type(leaf: Any) -> str:
    """Data type and shape, such as `float32[2, 3]`."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def _checksum(leaf: jax.Array) -> int:
    """CRC-32 of the bytes of an array. On several processes all have to call it."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)


def _json_checksum(value: Any) -> int:
    """CRC-32 of a value of JSON types."""
    return zlib.crc32(json.dumps(value).encode())


def _differences(saved: dict[str, str], asked: dict[str, str]) -> str:
    """Says which paths differ between two `{path: type}`: the first three, and how many more; "" where none does."""
    missing = "missing"
    differing = [
        f"{path} is {saved.get(path, missing)} there but {asked.get(path, missing)} here"
        for path in asked | saved
        if saved.get(path) != asked.get(path)
    ]
    more = [f"{len(differing) - 3} more"] if len(differing) > 3 else []
    return ", ".join(differing[:3] + more)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, type and placement of a leaf of a template."""
    # Orbax would look for the devices that the checkpoint was saved from, which this machine may not have.
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
