"""Measures speed: `python -m experiments.benchmark --config NAME`; of acting alone, `.. --acting MEMORY MEMORY ..`;
of environments or of memories alone, `python -m experiments.benchmark --environments all` or `--memories all`. And how
often the intervals of reports hold the true figure: `python -m experiments.benchmark --intervals`.

The first takes the environment alone (random actions), acting, learning (all epochs on one trajectory) and the whole
training step, and prints for each

    compile     seconds to trace and compile it
    steps/s     environment steps per second, over all devices: the median of several measurements, least and most
    FLOPs/step  floating-point operations in matrix products, for each environment step; see `benchmarks.flops`
    GFLOP/s     billions of them in a second
    memory      of one device: arguments, results and temporaries of the program

The second lets policies act for `--horizon` steps, all of which their memories have room for, and prints what a step
costs from then on. The memories are those named, with the settings that they share with the memory of the config.

The third lets 1024 copies of each environment, with the settings it has by default, be stepped at random, and prints
what multiple of the speed of gymnax's MetaMaze each reaches in the same process. The fourth takes each memory as it is
by default, with room for 1024 steps, and prints its parameters, the bytes of its state with room for several horizons,
what a step of acting costs after 1024 and after 16,384 steps, and a token of a sequence of 1024 steps in learning.

The fifth draws seeds from populations whose figures are known, and prints for the intervals of `memrl.statistics` and
for rivals how often they hold them and how wide they are; see `benchmarks.intervals`.

`--footprints all`, or the names of configs, prints for each the memory that a run says it needs before it is compiled,
what XLA gives out in the compiled program, and by how much the process grows; see `memrl.footprint`.

`--json FILE` writes all figures. Compiled programs are not taken from JAX's cache on disk.
"""

import dataclasses
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

import envs
from envs import ENVIRONMENTS
from experiments import command_line
from experiments.benchmarks.environments import compare_environments
from experiments.benchmarks.flops import matmul_flops
from experiments.benchmarks.footprints import compare_footprints
from experiments.benchmarks.intervals import EXPERIMENTS, compare_intervals
from experiments.benchmarks.memories import compare_memories
from experiments.benchmarks.timing import measure, prepare
from experiments.command_line import UsageError
from experiments.config import Config, config_to_dict, look_up, make_policy
from experiments.configs import CONFIGS
from experiments.runs.folder import build, settings_of
from memrl.advantage import trajectory_advantage
from memrl.files import check_writable
from memrl.memory import MEMORIES, MemoryConfig, state_bytes_per_env
from memrl.networks import ActorCritic
from memrl.ppo import learn
from memrl.rollout import ActorState, Trajectory, rollout
from memrl.sharding import AXIS, split_specs
from memrl.tracking import environment_record, write_json
from memrl.training import TrainState, make_optimizer

WITHOUT_CONFIG = ("environments", "memories", "footprints", "intervals")
"""Options that say what else is measured, without a config."""
WINDOW = 256
"""Steps in one measurement of acting: several segments, so that closing them counts."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    json: Path | None = None
    """File to write all figures to."""
    repeats: int = 5
    """Number of measurements; the median, the least and the most are reported."""
    acting: tuple[str, ...] = ()
    """Memories whose acting is compared, in place of the programs of training."""
    horizon: int = 4096
    """Steps that memories act, and remember, before their acting is measured."""
    environments: tuple[str, ...] = ()
    """Environments to step at random, or `all`. Nothing else is measured then, and no config is needed."""
    memories: tuple[str, ...] = ()
    """Memories to measure by themselves, or `all`. Nothing else is measured then, and no config is needed."""
    footprints: tuple[str, ...] = ()
    """Configs whose footprints to compare with what they need, or `all`. Nothing else is measured then."""
    intervals: bool = False
    """Measure the coverage of intervals over seeds. Nothing else is measured then, and no config is needed."""


def run(arguments: Sequence[str]) -> int:
    """Measures as the command line says; returns the exit status."""
    if {f"--{name}" for name in WITHOUT_CONFIG} & {argument.partition("=")[0] for argument in arguments}:
        return run_without_config(arguments)
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
        figures: dict[str, Any] = {"acting": compare_acting(config, memories, mesh, options.horizon, options.repeats)}
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
    if options.json is not None:
        check_writable(options.json.parent)


def run_without_config(arguments: Sequence[str]) -> int:
    """Measures what needs no config, or many, as the command line says; returns the exit status."""
    description = "Measures environments, memories, the footprints of configs, or the coverage of intervals."
    options = command_line.parse(Options, Options(), [Options()], "experiments.benchmark", description, arguments)
    check(options)
    chosen = [name for name in WITHOUT_CONFIG if getattr(options, name)]
    if not chosen:
        raise UsageError("Name what is to be measured after --environments, --memories or --footprints, or say all.")
    if len(chosen) > 1:
        raise UsageError(f"Measure one after the other: leave out all but one of --{' and --'.join(chosen)}.")
    (what,) = chosen
    every = {
        "environments": [name for name in ENVIRONMENTS if name != "gymnax"],
        "memories": list(MEMORIES),
        "footprints": list(CONFIGS),
    }
    names = getattr(options, what)
    names = every[what] if names == ("all",) else names
    record = {"environment": environment_record()}
    try:
        made = {name: envs.get(name)().make() for name in names} if what == "environments" else {}
        memories = {name: MEMORIES[look_up(name, MEMORIES, "memory")]() for name in names} if what == "memories" else {}
        configs = [look_up(name, CONFIGS, "config") for name in names] if what == "footprints" else []
    except ValueError as error:
        raise UsageError(str(error)) from error
    match what:
        case "environments":
            figures = compare_environments(made, options.repeats)
        case "memories":
            figures = compare_memories(memories, 1024, (1024, 16_384), 1024, options.repeats)
        case "footprints":
            figures = compare_footprints(configs)
        case _:
            figures = compare_intervals(EXPERIMENTS)
    if options.json is not None:
        write_json(options.json, {**record, what: figures})
    return 0


def measure_training(config: Config, mesh: Mesh, repeats: int) -> dict[str, Any]:
    """The figures of the training step and of its parts."""
    environment, env_params = config.env.make()
    policy, ppo = make_policy(config, environment, env_params), config.ppo
    optimizer = make_optimizer(ppo.hyperparameters(), config.num_updates * ppo.gradient_steps)

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
        advantage = trajectory_advantage(
            trajectory,
            jnp.zeros_like(trajectory.value[0]),
            discount=ppo.discount,
            gae_lambda=ppo.gae_lambda,
            credit_across_attempts=ppo.credit_across_attempts,
        )
        return learn(
            policy,
            optimizer,
            params,
            optimizer_state,
            memory=actor.memory,
            trajectory=trajectory,
            advantage=advantage,
            key=key,
            config=ppo,
            hyperparameters=ppo.hyperparameters(),
            entropy_coefficient=jnp.asarray(ppo.entropy_coefficient, advantage.dtype),
            axis=AXIS,
        )

    training = build(dataclasses.replace(config, updates_per_chunk=1), mesh)
    key = jax.random.key(config.seed)
    settings = settings_of(config)
    state = training.initial_state(key, settings)
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
    step_program = prepare(training.advance, state, settings)

    def step(state: TrainState) -> TrainState:
        return step_program.call(state, settings)[0]

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
        ("training step", step_program, act_flops + learn_flops, step, state),
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
    env_params = dataclasses.replace(env_params, max_steps_in_episode=np.int32(np.iinfo(np.int32).max))
    figures = {}
    for name, memory in memories.items():
        policy = make_policy(config, environment, env_params, memory)
        training = build(dataclasses.replace(config, memory=memory), mesh)
        state = training.initial_state(jax.random.key(config.seed), settings_of(config))
        split = split_specs(state.actor)

        def act(params: Any, actor: ActorState, policy: ActorCritic = policy) -> tuple[ActorState, Trajectory]:
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
