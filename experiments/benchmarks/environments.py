"""The speed of environments alone, for `experiments.benchmark --environments`."""

import math
import statistics
from typing import Any, NamedTuple

import gymnax
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from experiments.benchmarks.timing import Program, measure, prepare
from memrl.sharding import AXIS, device_mesh, shardings, split_specs

COPIES = 1024
"""How many copies of each environment are stepped."""
WINDOW = 256
"""Steps in one measurement."""
REFERENCE = "MetaMaze-misc"
"""gymnax's environment whose speed is the unit: stepped by gymnax itself, not as `gymnax:MetaMaze-misc`."""


def compare_environments(made: dict[str, tuple[Any, Any]], repeats: int) -> dict[str, dict[str, Any]]:
    """Lets copies of each environment be stepped at random; prints a line for each, and returns the figures.

    Args:
      made: environments and their parameters, by name.
      repeats: measurements, each in turn with one of the reference, so that whatever else keeps the machine busy slows
        down both.
    """
    mesh = device_mesh(math.gcd(COPIES, jax.device_count()))
    print(f"{COPIES} copies on {mesh.size} x {mesh.devices.flat[0].device_kind}, random actions\n")
    print(f"{'':24}   compile   million steps/s  least   most   x MetaMaze   bytes of observation")
    # gymnax relies on implicit promotion, also where ours is strict.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        reference = prepare_environment(*gymnax.make(REFERENCE), mesh)
    figures = {}
    for name, (environment, env_params) in made.items():
        prepared = prepare_environment(environment, env_params, mesh)
        speeds = [(steps_per_second(prepared), steps_per_second(reference)) for _ in range(repeats + 1)][1:]
        own = [speed for speed, _ in speeds]
        row = figures[name] = {
            "compile_seconds": prepared.program.compile_seconds,
            "steps_per_second": {"median": statistics.median(own), "least": min(own), "most": max(own)},
            "times_reference": statistics.median(speed / unit for speed, unit in speeds),
            "observation_bytes": prepared.observation_bytes,
        }
        speed = row["steps_per_second"]
        print(
            f"{name:24} {row['compile_seconds']:7.1f} s {speed['median'] / 1e6:17.2f} {speed['least'] / 1e6:6.2f} "
            f"{speed['most'] / 1e6:6.2f} {row['times_reference']:12.2f} {row['observation_bytes']:12,}",
            flush=True,
        )
    return figures


class PreparedEnvironment(NamedTuple):
    """`COPIES` copies of an environment and the program that steps them at random."""

    program: Program
    """From states and keys to the same, `WINDOW` steps later, and a number that depends on all that was observed."""
    start: Any
    observation_bytes: int


def steps_per_second(prepared: PreparedEnvironment) -> float:
    """Environment steps per second, of all copies together."""
    return COPIES * WINDOW / measure(lambda now: prepared.program.call(*now)[0], prepared.start, 1)["median"]


def prepare_environment(environment: Any, env_params: Any, mesh: Mesh) -> PreparedEnvironment:
    """Compiles an environment for `steps_per_second`."""

    def reset(key: jax.Array) -> Any:
        return jax.vmap(environment.reset, in_axes=(0, None))(jax.random.split(key, COPIES), env_params)[1]

    def advance(state: Any, key: jax.Array) -> tuple[tuple[Any, jax.Array], jax.Array]:
        copies = COPIES // mesh.size

        def step(now: tuple[Any, jax.Array], _: None) -> tuple[tuple[Any, jax.Array], jax.Array]:
            state, key = now
            key, action_key, step_key = jax.random.split(key, 3)
            actions = jax.random.randint(action_key, (copies,), 0, environment.num_actions, jnp.int32)
            observation, state, *outcome, _ = jax.vmap(environment.step, in_axes=(0, 0, 0, None))(
                jax.random.split(step_key, copies), state, actions, env_params
            )
            # All that is observed is used, and nothing of size [T, B] is kept.
            leaves = jax.tree.leaves((observation, outcome))
            seen = sum((leaf.astype(jnp.float32).sum() for leaf in leaves), start=jnp.zeros(()))
            return (state, key), seen

        (state, key), seen = jax.lax.scan(step, (state, key[0]), length=WINDOW)
        return (state, key[None]), seen.sum()[None]

    split, key = PartitionSpec(AXIS), jax.random.key(0)
    specs = split_specs(jax.eval_shape(reset, key))
    state = jax.jit(reset, out_shardings=shardings(mesh, specs))(key)
    keys = jax.device_put(jax.random.split(key, mesh.size), shardings(mesh, split))
    sharded = jax.shard_map(
        advance, mesh=mesh, in_specs=(specs, split), out_specs=((specs, split), split), check_vma=False
    )
    program = prepare(jax.jit(sharded), state, keys)
    observation = jax.eval_shape(environment.reset, key, env_params)[0]
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(observation))
    return PreparedEnvironment(program, (state, keys), size)
