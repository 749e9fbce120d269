"""Where things live: one axis of devices; environments are split over it, everything else is on all of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "devices"
"""Name of the one mesh axis."""


def start_processes(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Makes this process one of several that compute together. To be called before anything else asks for devices.

    Args:
      coordinator: `HOST:PORT` of the process with id 0.
      num_processes: how many there are.
      process_id: which of them this one is, from 0. JAX finds out all three by itself under SLURM, Open MPI, on TPUs.
    """
    jax.distributed.initialize(coordinator, num_processes, process_id)
    # On CPUs the processes connect in their first collective and wait 30 s for each other there; in later ones they
    # wait longer. It takes place here because, after this, one may compile much longer than another.
    multihost_utils.sync_global_devices("memrl.sharding.start_processes")


def device_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh of `num_devices` devices, over all processes; all there are if `None`.

    Raises:
      ValueError: more devices are asked for than there are.
    """
    devices = jax.devices()
    if num_devices is None:
        num_devices = len(devices)
    if not 1 <= num_devices <= len(devices):
        raise ValueError(
            f"devices is {num_devices}: this machine offers {len(devices)} ({devices[0].platform}), "
            f"so it must be from 1 to {len(devices)}."
        )
    return Mesh(np.array(devices[:num_devices]), (AXIS,), axis_types=(AxisType.Auto,))


def compiles() -> bool:
    """Whether JAX compiles what is to be compiled; not under `JAX_DISABLE_JIT`."""
    return not jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue] (added when JAX is imported)


def split_specs(tree: Any) -> Any:
    """Partition specs of a tree whose leaves are scalars, on all devices, or `[B, ..]`, split over them."""
    return jax.tree.map(lambda leaf: PartitionSpec(AXIS) if leaf.ndim else PartitionSpec(), tree)


def shardings(mesh: Mesh, specs: Any) -> Any:
    """The same tree with every partition spec bound to `mesh`."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def mean_over(axis: str | None, x: Any) -> Any:
    """The mean of a pytree over the devices of `axis`; the tree itself where there is no such axis."""
    return x if axis is None else jax.lax.pmean(x, axis)


def sum_over(axis: str | None, x: jax.Array) -> jax.Array:
    """The sum of `x` over the devices of `axis`; `x` itself where there is no such axis."""
    return x if axis is None else jax.lax.psum(x, axis)


def max_over(axis: str | None, x: jax.Array) -> jax.Array:
    """The maximum of `x` over the devices of `axis`; `x` itself where there is no such axis."""
    return x if axis is None else jax.lax.pmax(x, axis)


def device_index(axis: str | None) -> jax.Array:
    """Which device of `axis` this is, int32 []; 0 where there is no such axis."""
    return jnp.int32(0) if axis is None else jax.lax.axis_index(axis)
