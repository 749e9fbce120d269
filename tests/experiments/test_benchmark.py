"""The benchmark reports what its documentation says; its count of operations is that of a pen and paper."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from tools import finish

from experiments import benchmark
from experiments.benchmarks import environments as benchmark_environments
from experiments.benchmarks import intervals as benchmark_intervals
from experiments.benchmarks import memories as benchmark_memories
from experiments.benchmarks import timing
from experiments.benchmarks.flops import matmul_flops
from experiments.command_line import UsageError
from experiments.configs import CONFIGS
from memrl.memory import FCT, GRU, Memo
from memrl.sharding import AXIS, device_mesh

# Operations

B, D, H, F = 4, 6, 8, 3


def mlp(params, x):
    return jax.nn.relu(x @ params[0]) @ params[1]


MLP = ([jnp.ones((D, H)), jnp.ones((H, F))], jnp.ones((B, D)))
MLP_FLOPS = 2 * B * (D * H + H * F)


def flops(function, *arguments, branches="dearest"):
    return matmul_flops(function, *arguments, branches=branches)


def test_flops_of_a_perceptron():
    assert flops(mlp, *MLP) == MLP_FLOPS
    # By each kernel, and by the hidden layer.
    assert flops(jax.grad(lambda *a: mlp(*a).sum()), *MLP) == 2 * MLP_FLOPS + 2 * B * H * F
    assert flops(jax.vmap(mlp, (None, 0)), MLP[0], jnp.ones((5, B, D))) == 5 * MLP_FLOPS


def test_flops_of_a_gru_count_every_step():
    steps, memory = 7, GRU(F).build()
    xs, resets, state = jnp.ones((steps, B, D)), jnp.zeros((steps, B), bool), memory.initial_state(B)
    params = memory.init(jax.random.key(0), state, xs, resets, method="unroll")

    def unroll(params):
        return memory.apply(params, state, xs, resets, method="unroll")[1].sum()

    forward = steps * 2 * B * 3 * (D * F + F * F)
    assert flops(unroll, params) == forward
    # The gradient by every kernel takes as much again, that by the hidden states their part of it.
    assert flops(jax.grad(unroll), params) == 2 * forward + steps * 2 * B * 3 * F * F


def test_flops_inside_of_other_programs():
    assert flops(jax.jit(mlp), *MLP) == MLP_FLOPS
    rematerialised = jax.grad(lambda params, x: jax.checkpoint(mlp)(params, x).sum())
    assert flops(rematerialised, *MLP) == 2 * MLP_FLOPS + 2 * B * H * F + 2 * B * D * H  # the hidden layer again
    specs = (PartitionSpec(), PartitionSpec(AXIS))
    split = jax.shard_map(mlp, mesh=device_mesh(2), in_specs=specs, out_specs=specs[1])
    assert flops(split, *MLP) == MLP_FLOPS


def test_flops_of_branches():
    def sometimes(params, x):
        return jax.lax.cond(x.sum() > 0, mlp, lambda params, x: jnp.zeros((B, F)), params, x)

    assert flops(sometimes, *MLP, branches="dearest") == MLP_FLOPS
    assert flops(sometimes, *MLP, branches="cheapest") == 0


def test_flops_of_an_endless_loop_are_refused():
    def loop(x):
        return jax.lax.while_loop(lambda x: x.sum() < 100, lambda x: x @ x, x)

    with pytest.raises(NotImplementedError, match="loop without a fixed length"):
        flops(loop, jnp.ones((2, 2)))


# The tool

SMALL = (
    "--env.size 2 --env.trial-length 10 --ppo.num-envs 4 --ppo.unroll-length 10 --ppo.minibatches 2 --ppo.epochs 2 "
    "--memory.features 8 --network.encoder-features 8 --network.head-features 8 --repeats 3"
)
SEGMENTS = (
    "--memory.layers 1 --memory.heads 2 --memory.mlp-features 8 --memory.segment-length 5 --memory.summary-tokens 2 "
    "--memory.jitter 0"
)


def test_benchmark_of_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(timing, "SHORTEST_MEASUREMENT", 0.01)
    file = tmp_path / "benchmark.json"
    assert benchmark.run(["--config", "gru_gridworld", *SMALL.split(), "--json", str(file)]) == 0
    figures, table = json.loads(file.read_text()), capsys.readouterr().out
    assert figures["config"]["memory"]["features"] == 8
    assert figures["environment"]["packages"]["jax"] == jax.__version__
    assert figures["devices_used"] == 2
    assert figures["peak_process_bytes"] > 1e8
    assert f"{figures['state_bytes_per_env']:,} bytes" in table
    assert f"{figures['parameters']:,} parameters" in table
    assert list(figures["programs"]) == ["environment", "acting", "learning", "training step"]
    for name, program in figures["programs"].items():
        speed = program["steps_per_second"]
        assert 0 < speed["least"] <= speed["median"] <= speed["most"]
        assert program["compile_seconds"] > 0
        assert program["memory_bytes"] > 0
        assert f"{name:13}" in table
    flops = {name: program["flops_per_step"] for name, program in figures["programs"].items()}
    assert flops["environment"] == 0
    # Each of the two epochs goes forward once and backward, which is twice as much but for the inputs.
    assert 4 < flops["learning"] / flops["acting"] < 6
    assert flops["training step"] == flops["acting"] + flops["learning"]


def test_comparison_of_acting(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(timing, "SHORTEST_MEASUREMENT", 0.01)
    monkeypatch.setattr(benchmark, "WINDOW", 10)
    file = tmp_path / "acting.json"
    arguments = f"--config memo_gridworld {SMALL} {SEGMENTS} --acting memo fct --horizon 40 --json {file}"
    assert benchmark.run(arguments.split()) == 0
    figures, table = json.loads(file.read_text()), capsys.readouterr().out
    assert figures["horizon"] == 40
    memo, fct = figures["acting"]["memo"], figures["acting"]["fct"]
    slot = 2 * 8 * 4  # keys and values of 8 features in float32
    assert fct["state_bytes_per_env"] // slot == 40
    assert memo["state_bytes_per_env"] // slot == 7 * 2 + 5
    for row in (memo, fct):
        time = row["milliseconds_per_step"]
        assert 0 < time["least"] <= time["median"] <= time["most"]
        assert f"{row['state_bytes_per_env']:12,} bytes" in table


def test_compared_memories_share_settings():
    memo = Memo(features=24, layers=3, heads=4, segment_length=10)
    assert benchmark.memory_like(memo, "fct", 70) == FCT(features=24, layers=3, heads=4, context=70)
    assert benchmark.memory_like(memo, "memo", 70) == Memo(
        features=24, layers=3, heads=4, segment_length=10, capacity=6
    )
    assert benchmark.memory_like(memo, "gru", 70) == GRU(features=24)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--repeats", "0"], "repeats is 0: it must be at least 1"),
        (["--horizon", "0"], "horizon is 0: it must be at least 1"),
        (["--acting", "mamo"], "There is no memory mamo; did you mean memo?"),
        (["--json", "nowhere/x.json"], r"nowhere/x.json cannot be written: there is no folder nowhere\."),
    ],
)
def test_bad_input_is_refused_before_anything_is_compiled(arguments, complaint):
    with pytest.raises(UsageError, match=complaint):
        benchmark.run(["--config", "memo_gridworld", *arguments])


# Environments and memories by themselves


def test_environments_are_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark_environments, "COPIES", 32)
    monkeypatch.setattr(benchmark_environments, "WINDOW", 4)
    monkeypatch.setattr(timing, "SHORTEST_MEASUREMENT", 0.0)
    file = tmp_path / "environments.json"
    assert benchmark.run(["--environments", "t_maze", "bandit", "--repeats", "2", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())["environments"]
    assert list(figures) == ["t_maze", "bandit"]
    for name, row in figures.items():
        speed = row["steps_per_second"]
        assert 0 < speed["least"] <= speed["median"] <= speed["most"] and row["times_reference"] > 0
        assert row["observation_bytes"] == {"t_maze": 12, "bandit": 4}[name]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[3:]] == ["t_maze", "bandit"]


def test_memories_are_compared(monkeypatch, capsys):
    monkeypatch.setattr(timing, "SHORTEST_MEASUREMENT", 0.0)
    monkeypatch.setattr(benchmark_memories, "WINDOW", 4)
    memories = {"gru": GRU(8), "fct": FCT(features=8, layers=1, heads=2, mlp_features=8)}
    figures = benchmark_memories.compare_memories(memories, capacity=8, horizons=(4, 12), tokens=6, repeats=2)
    state_bytes = {name: row["state_bytes"] for name, row in figures.items()}
    assert set(state_bytes["gru"].values()) == {8 * 4}
    assert state_bytes["fct"][4096] - state_bytes["fct"][512] == (4096 - 512) * 2 * 8 * 4
    for row in figures.values():
        assert list(row["acting_seconds"]) == [4, 12] and row["parameters"] > 0
        assert row["backward_seconds"]["median"] > 0 and row["forward_bytes"] > 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[4:]] == ["`gru`", "`fct`"]


def test_intervals_are_compared(monkeypatch, tmp_path, capsys):
    """Percentiles over three normal seeds cover 75%, Student's t 95%: within what 200 samples vary by."""
    small = {
        "EXPERIMENTS": 200,
        "TRUTH": 20_000,
        "RESAMPLES": 200,
        "SEEDS": (3,),
        "SEVERAL_TASKS_SEEDS": (3,),
        "SUCCESSES": {},
    }
    small["RETURNS"] = {"normal": benchmark_intervals.RETURNS["normal"]}
    for name, value in small.items():
        monkeypatch.setattr(benchmark_intervals, name, value)
    found = benchmark_intervals.of_one_task(np.random.default_rng(0), 200)["normal"]
    assert 0.65 < found["IQM, percentiles"][3]["coverage"] < 0.85
    assert 0.9 < found["IQM, widened bootstrap (taken)"][3]["coverage"] < 0.99
    assert found["mean, t"][3]["width"] == pytest.approx(2 * 4.303 * 0.886 / 3**0.5, rel=0.15)  # the mean s is 0.886

    monkeypatch.setattr(benchmark, "EXPERIMENTS", 10)
    assert benchmark.run(["--intervals", "--json", str(tmp_path / "intervals.json")]) == 0
    tables = json.loads((tmp_path / "intervals.json").read_text())["intervals"]
    printed = capsys.readouterr().out
    assert tables.pop("experiments") == 10 and len(tables) == 5
    for title, rows in tables.items():
        assert title in printed and all(method in printed for row in rows.values() for method in row)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_footprints_of_all_configs_are_right_within_a_factor_of_one_and_a_half(start, tmp_path):
    """Compared with what XLA gives out; with what the process grows by where that is no matter of some megabytes."""
    figures = tmp_path / "footprints.json"
    finish(start("benchmark", "--footprints", "all", "--json", figures, XLA_FLAGS=""), 0)
    footprints = json.loads(figures.read_text())["footprints"]
    assert list(footprints) == list(CONFIGS)
    for name, row in footprints.items():
        assert row["planned"] / 1.5 < row["estimated"] < row["planned"] * 1.5, name
        if row["planned"] > 10**8:
            assert row["measured"] / 1.5 < row["estimated"] < row["measured"] * 1.5, name


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--environments", "t_mazes"], "did you mean 't_maze'"),
        (["--memories", "gruu"], "did you mean gru"),
        (["--footprints", "gru_t_mze"], "There is no config gru_t_mze; did you mean gru_t_maze?"),
        (
            ["--environments"],
            "Name what is to be measured after --environments, --memories or --footprints, or say all",
        ),
        (["--memories", "gru", "--environments", "bandit"], "Measure one after the other"),
        (["--intervals", "--environments", "bandit"], "leave out all but one of --environments and --intervals"),
    ],
)
def test_bad_input_without_a_config(arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        benchmark.run(arguments)
