"""Measures speed: `python -m experiments.benchmark --config NAME`; of acting alone, `.. --acting MEMORY MEMORY ..`;
of environments alone, `python -m experiments.benchmark --environments all`.

The first takes the environment alone (random actions), acting, learning (all epochs on one trajectory) and the whole
training step, and prints for each

    compile     seconds to trace and compile it
    steps/s     environment steps per second, over all devices: the median of several measurements, least and most
    FLOPs/step  floating-point operations in matrix products, for each environment step; see `experiments.flops`
    GFLOP/s     billions of them in a second
    memory      of one device: arguments, results and temporaries of the program

The second lets policies act for `--horizon` steps, all of which their memories have room for, and prints what a step
costs from then on. The memories are those named, with the settings that they share with the memory of the config.

The third lets 1024 copies of each environment, with the settings it has by default, be stepped at random, and prints
what multiple of the speed of gymnax's MetaMaze each reaches in the same process.

`--json FILE` writes all figures. Compiled programs are not taken from JAX's cache on disk.
"""

import dataclasses
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

import envs
from envs import ENVIRONMENTS
from experiments import command_line
from experiments.command_line import UsageError
from experiments.config import Config, config_to_dict, look_up, make_policy
from experiments.flops import matmul_flops
from experiments.run import build
from memrl.memory import MEMORIES, MemoryConfig, state_bytes_per_env
from memrl.ppo import learn, trajectory_advantage
from memrl.rollout import ActorState, Trajectory, rollout
from memrl.sharding import AXIS, device_mesh, shardings, split_specs
from memrl.tracking import environment_record, write_json
from memrl.training import make_optimizer

SHORTEST_MEASUREMENT = 0.2
"""Seconds; a quicker program is run several times in one measurement."""
WINDOW = 256
"""Steps in one measurement of acting: several segments, so that closing them counts."""
COPIES = 1024
"""Of an environment whose speed is measured."""
REFERENCE = "MetaMaze-misc"
"""gymnax's environment whose speed is the unit: stepped by gymnax itself, not as `gymnax:MetaMaze-misc`."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    json: Path | None = None
    """File to write all figures to."""
    repeats: int = 5
    """Measurements, of which the median, the least and the most are told."""
    acting: tuple[str, ...] = ()
    """Memories whose acting is compared; the programs of training are left out then."""
    horizon: int = 4096
    """Steps that they act, and remember, before they are measured."""
    environments: tuple[str, ...] = ()
    """Environments that are stepped at random, or all; nothing else is measured then, and no config is needed."""


class Program(NamedTuple):
    """A compiled program."""

    call: Callable[..., Any]
    compile_seconds: float
    memory_bytes: int
    """Arguments, results and temporaries on one device."""


def run(arguments: Sequence[str]) -> int:
    """Measures as the command line says; returns the exit status."""
    if command_line.value_of("--environments", arguments) is not None:
        return run_environments(arguments)
    description = "Measures the speed of training or, with --acting, of memories in acting."
    config, options = command_line.read("experiments.benchmark", description, Options(), arguments)
    check(options)
    try:
        memories = {name: memory_like(config.memory, name, options.horizon) for name in options.acting}
    except ValueError as error:
        raise UsageError(str(error)) from error
    mesh = command_line.make_mesh(config)

    device = mesh.devices.flat[0]
    print(f"{config.name}: {config.ppo.num_envs} environments on {mesh.size} x {device.device_kind}", flush=True)
    if memories:
        figures = {"acting": compare_acting(config, memories, mesh, options.horizon, options.repeats)}
        print_acting(figures["acting"])
    else:
        figures = measure_training(config, mesh, options.repeats)
        print_training(figures)
    # Linux counts in KiB, macOS in bytes.
    figures["peak_process_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    figures["peak_device_bytes"] = (device.memory_stats() or {}).get("peak_bytes_in_use")
    for name in ("process", "device"):
        if figures[f"peak_{name}_bytes"] is not None:
            print(f"Most memory of the {name}: {figures[f'peak_{name}_bytes'] / 2**20:,.0f} MiB")
    if options.json is not None:
        record = {"config": config_to_dict(config), "environment": environment_record(), "devices_used": mesh.size}
        write_json(options.json, {**record, "horizon": options.horizon, **figures})
    return 0


def check(options: Options) -> None:
    """UsageError if the options cannot be."""
    for name in ("repeats", "horizon"):
        if getattr(options, name) < 1:
            raise UsageError(f"{name} is {getattr(options, name)}: it must be at least 1.")
    if options.json is not None and not options.json.parent.is_dir():
        raise UsageError(f"{options.json} cannot be written: there is no folder {options.json.parent}.")


def run_environments(arguments: Sequence[str]) -> int:
    """Measures environments as the command line says; returns the exit status."""
    description = "Measures the speed of environments."
    options = command_line.parse(Options, Options(), [Options()], "experiments.benchmark", description, arguments)
    check(options)
    named = [name for name in ENVIRONMENTS if name != "gymnax"] if options.environments == ("all",) else None
    try:
        made = {name: envs.get(name)().make() for name in named or options.environments}
    except ValueError as error:
        raise UsageError(str(error)) from error
    mesh = device_mesh(math.gcd(COPIES, jax.device_count()))
    print(f"{COPIES} copies on {mesh.size} x {mesh.devices.flat[0].device_kind}, random actions\n")
    print(f"{'':24}   compile   million steps/s  least   most   x MetaMaze   bytes of observation")
    reference = prepare_environment(*gymnax.make(REFERENCE), mesh)
    figures: dict[str, dict[str, Any]] = {}
    for name, (environment, env_params) in made.items():
        prepared = prepare_environment(environment, env_params, mesh)
        # In turn, so that whatever else keeps the machine busy slows down both.
        speeds = [(steps_per_second(prepared), steps_per_second(reference)) for _ in range(options.repeats + 1)][1:]
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
    if options.json is not None:
        record = {"environment": environment_record(), "devices_used": mesh.size, "copies": COPIES}
        write_json(options.json, {**record, "environments": figures})
    return 0


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
            seen = sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves((observation, outcome)))
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


def measure_training(config: Config, mesh: Mesh, repeats: int) -> dict[str, Any]:
    """The figures of the training step and of its parts."""
    environment, env_params = config.env.make()
    policy, ppo = make_policy(config, environment, env_params), config.ppo
    optimizer = make_optimizer(ppo, config.num_updates)

    def act_at_random(actor: ActorState) -> tuple[ActorState, Any]:
        def step(actor: ActorState, _: None) -> tuple[ActorState, Any]:
            keys = jax.vmap(lambda key: jax.random.split(key, 3))(actor.key)
            action = jax.vmap(lambda key: jax.random.randint(key, (), 0, environment.num_actions, jnp.int32))(
                keys[:, 1]
            )
            observation, state, *outcome, _ = jax.vmap(environment.step, in_axes=(0, 0, 0, None))(
                keys[:, 2], actor.environment, action, env_params
            )
            return actor.replace(environment=state, key=keys[:, 0]), (observation, *outcome)

        return jax.lax.scan(step, actor, length=ppo.unroll_length)

    def act(params: Any, actor: ActorState) -> tuple[ActorState, Trajectory]:
        return rollout(policy, environment, env_params, params, actor, ppo.unroll_length)

    def learn_from(params: Any, optimizer_state: Any, actor: ActorState, trajectory: Trajectory, key: jax.Array) -> Any:
        advantage = trajectory_advantage(trajectory, jnp.zeros_like(trajectory.value[0]), ppo)
        entropy_coefficient = jnp.asarray(ppo.entropy_coefficient, advantage.dtype)
        every_step = jnp.ones(ppo.unroll_length, bool)
        return learn(
            policy,
            optimizer,
            params,
            optimizer_state,
            actor.memory,
            trajectory,
            advantage,
            entropy_coefficient,
            every_step,
            every_step,
            key,
            ppo,
            AXIS,
        )

    training = build(dataclasses.replace(config, updates_per_chunk=1), mesh)
    key = jax.random.key(config.seed)
    state = training.initial_state(key)
    everywhere, over_time, split = PartitionSpec(), PartitionSpec(None, AXIS), split_specs(state.actor)

    def on_devices(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False))

    act_at_random = on_devices(act_at_random, (split,), (split, over_time))
    act = on_devices(act, (everywhere, split), (split, over_time))
    learn_from = on_devices(learn_from, (everywhere, everywhere, split, over_time, everywhere), everywhere)
    random_program = prepare(act_at_random, state.actor)
    act_program = prepare(act, state.params, state.actor)
    lesson = (state.params, state.optimizer, state.actor, act_program.call(state.params, state.actor)[1], key)
    learn_program = prepare(learn_from, *lesson)
    step_program = prepare(training.advance, state)

    # While acting, few steps close a segment or ask for the value of a final observation.
    act_flops = matmul_flops(act, state.params, state.actor, branches="cheapest")
    learn_flops = matmul_flops(learn_from, *lesson, branches="dearest")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    programs = {}
    for name, program, flops, call, start in (
        ("environment", random_program, 0, lambda actor: random_program.call(actor)[0], state.actor),
        ("acting", act_program, act_flops, lambda actor: act_program.call(state.params, actor)[0], state.actor),
        ("learning", learn_program, learn_flops, lambda _: learn_program.call(*lesson), None),
        # Last, since it consumes its state.
        ("training step", step_program, act_flops + learn_flops, lambda state: step_program.call(state)[0], state),
    ):
        seconds = measure(call, start, repeats)
        speed = {name: config.steps_per_update / seconds[name] for name in seconds}
        programs[name] = {
            "compile_seconds": program.compile_seconds,
            "steps_per_second": {"median": speed["median"], "least": speed["most"], "most": speed["least"]},
            "flops_per_step": flops / config.steps_per_update,
            "flops_per_second": flops / seconds["median"],
            "memory_bytes": program.memory_bytes,
        }
    bytes_per_env = state_bytes_per_env(policy.memory)
    return {"programs": programs, "parameters": parameters, "state_bytes_per_env": bytes_per_env}


def compare_acting(
    config: Config, memories: dict[str, MemoryConfig], mesh: Mesh, horizon: int, repeats: int
) -> dict[str, Any]:
    """The figures of acting with each of `memories` after `horizon` steps, trials without end."""
    environment, env_params = config.env.make()
    env_params = env_params.replace(max_steps_in_episode=np.int32(np.iinfo(np.int32).max))
    figures = {}
    for name, memory in memories.items():
        policy = make_policy(config, environment, env_params, memory)
        state = build(dataclasses.replace(config, memory=memory), mesh).initial_state(jax.random.key(config.seed))
        split = split_specs(state.actor)

        def act(params: Any, actor: ActorState, policy=policy) -> tuple[ActorState, Trajectory]:
            return rollout(policy, environment, env_params, params, actor, WINDOW)

        act = jax.shard_map(
            act,
            mesh=mesh,
            in_specs=(PartitionSpec(), split),
            out_specs=(split, PartitionSpec(None, AXIS)),
            check_vma=False,
        )
        program, actor = prepare(jax.jit(act, donate_argnums=1), state.params, state.actor), state.actor
        for _ in range(-(-horizon // WINDOW)):
            actor, _ = program.call(state.params, actor)
        seconds = measure(lambda actor, call=program.call, params=state.params: call(params, actor)[0], actor, repeats)
        figures[name] = {
            "compile_seconds": program.compile_seconds,
            "milliseconds_per_step": {name: 1e3 * value / WINDOW for name, value in seconds.items()},
            "state_bytes_per_env": state_bytes_per_env(policy.memory),
        }
    return figures


def memory_like(memory: MemoryConfig, name: str, capacity: int) -> MemoryConfig:
    """The memory `name` with room for `capacity` steps and the settings that it shares with `memory`.

    Raises:
      ValueError: there is no such memory, or it cannot have these settings.
    """
    kind = MEMORIES[look_up(name, MEMORIES, "memory")]
    shared = {field.name for field in dataclasses.fields(kind)} & {field.name for field in dataclasses.fields(memory)}
    return kind(**{field: getattr(memory, field) for field in shared}).with_capacity(capacity)


def prepare(function: Any, *arguments: Any) -> Program:
    """Compiles the jitted `function` for `arguments`."""
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return Program(compiled, seconds, total - memory.alias_size_in_bytes)


def measure(call: Callable[[Any], Any], state: Any, repeats: int) -> dict[str, float]:
    """Seconds that `state = call(state)` takes: the median, the least and the most of `repeats` measurements."""
    for _ in range(2):  # the first call is never like the others
        start = time.perf_counter()
        state = jax.block_until_ready(call(state))
        seconds = time.perf_counter() - start
    calls = max(1, round(SHORTEST_MEASUREMENT / seconds))
    measured = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            state = call(state)
        jax.block_until_ready(state)
        measured.append((time.perf_counter() - start) / calls)
    return {"median": statistics.median(measured), "least": min(measured), "most": max(measured)}


def print_training(figures: dict[str, Any]) -> None:
    """Prints what `measure_training` returns."""
    print(f"{figures['parameters']:,} parameters, {figures['state_bytes_per_env']:,} bytes of memory per environment\n")
    print("                 compile     steps/s       least        most   FLOPs/step   GFLOP/s       memory")
    for name, program in figures["programs"].items():
        speed = program["steps_per_second"]
        print(
            f"{name:13} {program['compile_seconds']:8.1f} s {speed['median']:11,.0f} {speed['least']:11,.0f} "
            f"{speed['most']:11,.0f} {program['flops_per_step']:12,.0f} {program['flops_per_second'] / 1e9:9.2f} "
            f"{program['memory_bytes'] / 2**20:8,.1f} MiB"
        )


def print_acting(figures: dict[str, Any]) -> None:
    """Prints what `compare_acting` returns, and each memory's cost as a multiple of the first one's."""
    first = next(iter(figures.values()))
    print("\n         ms/step    least     most                  state per environment")
    for name, row in figures.items():
        time_of = row["milliseconds_per_step"]
        slower = time_of["median"] / first["milliseconds_per_step"]["median"]
        larger = row["state_bytes_per_env"] / max(1, first["state_bytes_per_env"])
        print(
            f"{name:6} {time_of['median']:9.3f} {time_of['least']:8.3f} {time_of['most']:8.3f} ({slower:6.1f} x)"
            f" {row['state_bytes_per_env']:12,} bytes ({larger:6.1f} x)"
        )


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    command_line.main(run)
