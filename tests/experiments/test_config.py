"""Configs survive JSON, the command line sets any field of them, and says in one sentence what it cannot set."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from envs import ENVIRONMENTS
from envs.dark_key_to_door import DarkKeyToDoorConfig
from envs.gymnax_environment import GymnaxConfig
from experiments import command_line, report
from experiments.command_line import UsageError
from experiments.config import Config, config_from_dict, config_to_dict, load_config, make_policy
from experiments.configs import CONFIGS
from memrl.memory import FCT, GRU, MEMORIES, AutoCompressor, Memo
from memrl.ppo import PPOConfig
from memrl.rollout import initial_actor_state


@dataclasses.dataclass(frozen=True)
class Options:
    output: Path | None = None
    """Where to."""


def read(*arguments: str, config: Config | None = None) -> Config:
    return command_line.read("experiments.tool", "Does something.", Options(), arguments, config)[0]


def through_json(config: Config) -> Config:
    return config_from_dict(json.loads(json.dumps(config_to_dict(config))))


MAIN = CONFIGS["memo_gridworld"].config


# Configs


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_valid_and_survives_json(name):
    summary, config = CONFIGS[name]
    assert config.name == name
    config.validate()
    assert through_json(config) == config
    assert summary.endswith(".") and "\n" not in summary and len(summary) < 110


@pytest.mark.parametrize("memory", MEMORIES)
def test_every_memory_survives_json(memory):
    config = dataclasses.replace(MAIN, memory=MEMORIES[memory]().with_capacity(100))
    assert config_to_dict(config)["memory"]["name"] == memory
    assert type(through_json(config).memory) is MEMORIES[memory]
    assert through_json(config) == config


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_environment_survives_json(env):
    evaluation = dataclasses.replace(MAIN.evaluation, windows_per_trial=1)
    config = dataclasses.replace(MAIN, env=ENVIRONMENTS[env](), memory=GRU(), evaluation=evaluation)
    assert config_to_dict(config)["env"]["name"] == env
    assert through_json(config) == config


def test_what_json_lacks_takes_its_default():
    values = config_to_dict(MAIN)
    del values["devices"], values["ppo"]["clip"]
    assert config_from_dict(values) == MAIN


@pytest.mark.parametrize(
    ("total_steps", "chunk", "updates"), [(1, 1, 1), (600, 1, 1), (601, 1, 2), (1, 4, 4), (600 * 5, 4, 8)]
)
def test_number_of_updates(total_steps, chunk, updates):
    ppo = PPOConfig(num_envs=6, minibatches=1, unroll_length=100)
    config = dataclasses.replace(MAIN, total_steps=total_steps, updates_per_chunk=chunk, ppo=ppo)
    assert config.steps_per_update == 600
    assert config.num_updates == updates


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"total_steps": 0}, r"total_steps is 0: it must be at least 1\."),
        ({"updates_per_chunk": 0}, r"updates_per_chunk is 0: it must be at least 1\."),
        ({"checkpoint_every": 0}, r"checkpoint_every is 0: it must be at least 1\."),
        ({"devices": 0}, r"devices is 0: it must be at least 1\."),
        ({"seed": -1}, r"seed is -1: it must be from 0 to 2\^32 - 1\."),
        ({"name": "a/b"}, r"name is 'a/b': it becomes the name of a folder"),
    ],
)
def test_fields_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MAIN, **fields)


def test_policy_of_a_config():
    config = dataclasses.replace(MAIN, network=dataclasses.replace(MAIN.network, dtype="bfloat16"))
    environment, env_params = config.env.make()
    policy = make_policy(config, environment, env_params)
    assert policy.num_actions == environment.num_actions and policy.kinds == ("numbers",)
    assert policy.dtype == policy.memory.dtype == jnp.bfloat16
    assert policy.memory.capacity == MAIN.memory.capacity
    assert make_policy(config, environment, env_params, MAIN.memory.with_capacity(200)).memory.capacity == 9


# Files


def test_load(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config_to_dict(MAIN)))
    assert load_config(tmp_path) == MAIN


def break_json(values):
    return json.dumps(values)[:-1]


def change(path: str, value):
    def changed(values):
        *parts, last = path.split(".")
        inner = values
        for part in parts:
            inner = inner[part]
        inner[last] = value
        return json.dumps(values)

    return changed


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_json, "is not the config of a run: Expecting ',' delimiter"),
        (change("memory.name", "memory"), "is not the config of a run: There is no memory memory; did you mean memo?"),
        (change("ppo.clips", 0.2), "is not the config of a run: There is no field ppo.clips; did you mean ppo.clip?"),
        (change("ppo.clip", -1.0), "is not the config of a run: ppo.clip is -1.0: it must be greater than 0."),
        (
            change("total_steps", "many"),
            "is not the config of a run: total_steps is 'many': it must be of the type int.",
        ),
        (change("memory.features", 16.5), "memory.features is 16.5: it must be of the type int."),
        (change("evaluation.budgets", [1, "a"]), "budgets is (1, 'a'): it must be of the type tuple[float, ...]."),
        (change("network.dtype", "float8"), "network.dtype is 'float8': it must be of the type Literal['float32', "),
        (change("ppo", 3), "ppo is 3: it must be of the type PPOConfig."),
        (change("memory", {}), "It does not name its memory."),
        (change("ppo.clip", math.nan), "ppo.clip is nan: it must be a number."),
        (lambda values: "[1]", "It is not an object with fields."),
        (lambda values: json.dumps({"env": values["env"], "memory": values["memory"]}), "There is no name."),
        (change("memory.segment_length", 101), "is not the config of a run: memory.segment_length is 101 and a trial"),
    ],
)
def test_load_what_is_not_a_config(tmp_path, damage, message):
    with pytest.raises(ValueError, match=r"^There is no run in .*: it has no config\.json\.$"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text(damage(config_to_dict(MAIN)))
    with pytest.raises(ValueError) as caught:
        load_config(tmp_path)
    assert message in str(caught.value)


# The command line


def test_a_config_by_name():
    assert read("--config", "gru_gridworld") == CONFIGS["gru_gridworld"].config
    assert read("--config=gru_gridworld") == CONFIGS["gru_gridworld"].config
    assert read("--config", "fct_gridworld", "--config", "ac_gridworld").memory == CONFIGS["ac_gridworld"].config.memory


def test_overrides_of_every_kind():
    config = read(
        *("--config", "memo_gridworld", "--seed=3", "--devices", "2", "--total-steps", "1000"),
        *("--env.size", "4", "--env.start", "1", "2", "--env.observation", "coordinates", "--env.dark", "False"),
        *("--memory.segment_length", "10", "--memory.jitter", "0.25", "--ppo.value-clip", "0.1"),
        *("--network.encoder-features", "32", "16", "--network.head-features", "--tracking.tags", "a", "b"),
        *("--ppo.final-learning-rate", "1e-4", "--tracking.wandb", "disabled", "--network.soft-reset", "False"),
    )
    assert config == dataclasses.replace(
        MAIN,
        seed=3,
        devices=2,
        total_steps=1000,
        env=dataclasses.replace(MAIN.env, size=4, start=(1, 2), observation="coordinates", dark=False),
        memory=dataclasses.replace(MAIN.memory, segment_length=10, jitter=0.25).with_capacity(MAIN.trial_length),
        ppo=dataclasses.replace(MAIN.ppo, value_clip=0.1, final_learning_rate=1e-4),
        network=dataclasses.replace(MAIN.network, encoder_features=(32, 16), head_features=(), soft_reset=False),
        tracking=dataclasses.replace(MAIN.tracking, tags=("a", "b"), wandb="disabled"),
    )
    assert read("--devices", "None", config=config).devices is None


@pytest.mark.parametrize("memory", ["none", "gru", "memo"])
def test_options_of_several_values_may_be_given_none(memory):
    """No layer before the memory, none after it, no smaller memory to evaluate: an option without a value at the end,
    or before another option."""
    empty = ("--network.encoder-features", "--evaluation.budgets", "--network.head-features")
    config = read("--config", "memo_gridworld", "--memory", memory, *empty)
    assert config.network.encoder_features == config.network.head_features == config.evaluation.budgets == ()
    environment, env_params = config.env.make()
    policy = make_policy(config, environment, env_params)

    def act(key):
        actor = initial_actor_state(policy, environment, env_params, 2, key)
        arguments = (actor.memory, actor.inputs, actor.reset)
        return policy.apply(policy.init(key, *arguments, method="step"), *arguments, method="step")[1]

    assert jax.eval_shape(act, jax.random.key(0)).logits.shape == (2, environment.num_actions)


def test_options_of_the_tool():
    _, options = command_line.read("tool", ".", Options(), ["--config", "gru_gridworld", "--output", "a/b"])
    assert options == Options(Path("a/b"))


@pytest.mark.parametrize("memory", MEMORIES)
def test_another_memory(memory):
    config = read("--config", "memo_gridworld", "--memory", memory)
    assert type(config.memory) is MEMORIES[memory]
    assert dataclasses.replace(config, memory=MAIN.memory) == MAIN


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_has_room_for_a_trial(name):
    """Overrides are given just that, so that a config with less would change by itself."""
    config = CONFIGS[name].config
    assert config.memory == config.memory.with_capacity(config.trial_length)


def test_another_memory_has_room_for_a_trial_and_takes_overrides():
    assert read("--config", "gru_gridworld", "--memory=fct", "--memory.layers", "3").memory == FCT(
        layers=3, context=100
    )
    changed = read("--config", "memo_gridworld", "--memory", "ac", "--memory.segment-length", "10")
    assert changed.memory == AutoCompressor(segment_length=10).with_capacity(100)


def test_another_environment():
    config = read("--config", "fct_gridworld", "--env", "dark_key_to_door", "--env.size", "4")
    assert config.env == DarkKeyToDoorConfig(size=4)
    assert config.memory.context == 500


def test_an_environment_of_gymnax():
    config = read("--config", "gru_gridworld", "--env", "gymnax:MetaMaze-misc")
    assert config.env == GymnaxConfig("MetaMaze-misc")
    assert through_json(config) == config
    config = read("--config", "fct_gridworld", "--env=gymnax:MemoryChain-bsuite", "--env.settings", "num_bits=2")
    assert config.env == GymnaxConfig("MemoryChain-bsuite", ("num_bits=2",))
    assert config.memory.context == 1000
    assert through_json(config) == config


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "--config gru_gridworld --env gymnax:MetaMaz",
            "There is no gymnax environment MetaMaz; did you mean MetaMaze-misc?",
        ),
        (
            "--config gru_gridworld --env gymnax:Catch-bsuite --env.settings row=4",
            "settings has 'row=4', but Catch-bsuite has no row; did you mean rows?",
        ),
        ("--config memo_gridwrld", "There is no config memo_gridwrld; did you mean memo_gridworld?"),
        ("--config gru_gridworld --memory gro", "There is no memory gro; did you mean gru?"),
        ("--config gru_gridworld --env dark_key", "There is no environment dark_key; did you mean dark_key_to_door?"),
        ("--config gru_gridworld --ppo.num_env 4", "There is no option --ppo.num_env; did you mean --ppo.num-envs?"),
        (
            "--config gru_gridworld --memory.feature=4",
            "There is no option --memory.feature; did you mean --memory.features?",
        ),
        ("--config gru_gridworld --outptu x", "There is no option --outptu; did you mean --output?"),
        ("--config gru_gridworld more", "There is an argument too many: more."),
        ("--config gru_gridworld --ppo.clip x", "--ppo.clip: could not convert string to float: 'x'."),
        (
            "--config gru_gridworld --network.dtype float31",
            "invalid choice 'float31' for argument '--network.dtype'. Expected one of ('float32', 'bfloat16').",
        ),
        ("--config gru_gridworld --seed", "Missing value for argument '--seed'. Expected 1 values."),
        ("--config gru_gridworld --total-steps 0", "total_steps is 0: it must be at least 1."),
        ("--config gru_gridworld --ppo.learning-rate inf", "ppo.learning_rate is inf: it must be a finite number."),
        (
            "--config gru_gridworld --evaluation.budgets 1 nan",
            "evaluation.budgets is (1.0, nan): it must be a finite number.",
        ),
        (
            "--config gru_gridworld --memory.features 3000000000",
            "memory.features is 3000000000: it must be at most 2^31 - 1 in size (int32).",
        ),
        (
            "--config gru_gridworld --evaluation.horizons",
            "evaluation.horizons is (): all must be at least 1, and 1 among them.",
        ),
        ("--config gru_gridworld --ppo.clip -1", "ppo.clip is -1.0: it must be greater than 0."),
        (
            "--config gru_gridworld --ppo.num-envs 12 --ppo.minibatches 5",
            "ppo.num_envs is 12 and ppo.minibatches is 5: the minibatches must divide the environments.",
        ),
        (
            "--config memo_gridworld --memory.segment-length 101",
            "memory.segment_length is 101 and a trial has 100 steps: a segment must not be longer than the trial.",
        ),
        (
            "--config memo_gridworld --evaluation.windows-per-trial 3",
            "evaluation.windows_per_trial is 3 and a trial has 100 steps: the windows must divide the trial.",
        ),
    ],
)
def test_what_cannot_be_read(arguments, sentence):
    with pytest.raises(UsageError) as caught:
        read(*arguments.split())
    assert str(caught.value) == sentence


def test_what_is_named_without_an_option_is_not_proposed_as_one():
    with pytest.raises(UsageError, match=r"^There is no option --runs; did you mean --output\?$"):
        report.run(["--runs", "folder"])


def test_no_config():
    with pytest.raises(
        UsageError, match=r"^Choose a config with --config: memo_gridworld, .*gru_repeated_gridworld\.$"
    ):
        read("--seed", "1")


@pytest.mark.parametrize("option", ["--config=gru_gridworld", "--memory=gru", "--env=dark_key_to_door"])
def test_a_run_that_exists_has_its_config(option):
    with pytest.raises(UsageError, match=r"^A run that exists has its config already"):
        read(option, config=MAIN)
    assert read("--seed", "1", config=MAIN) == dataclasses.replace(MAIN, seed=1)


def test_list(capsys):
    with pytest.raises(SystemExit) as caught:
        read("--list")
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(CONFIGS)
    assert all(line.endswith(preset.summary) for line, preset in zip(lines, CONFIGS.values(), strict=True))


def test_help_names_every_field_and_its_value(capsys):
    with pytest.raises(SystemExit) as caught:
        read("--config", "ac_gridworld", "--help")
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "python -m experiments.tool" in said and "The values below are those of ac_gridworld." in said
    assert "--output" in said and "Where to." in said
    for field in dataclasses.fields(AutoCompressor):
        assert f"--memory.{field.name.replace('_', '-')} " in said
    for field in dataclasses.fields(PPOConfig):
        assert f"--ppo.{field.name.replace('_', '-')} " in said
    assert f"(default: {CONFIGS['ac_gridworld'].config.total_steps})" in said
    with pytest.raises(SystemExit):
        read("--help")
    assert "those of memo_gridworld" in capsys.readouterr().out


# Devices


@pytest.mark.parametrize(("num_envs", "devices"), [(8, 2), (9, 1)])
def test_as_many_devices_as_divide_a_minibatch(num_envs, devices):
    assert jax.device_count() == 2
    config = dataclasses.replace(MAIN, ppo=PPOConfig(num_envs=num_envs, minibatches=1))
    assert command_line.make_mesh(config).size == devices
    assert command_line.make_mesh(dataclasses.replace(config, devices=1)).size == 1


def test_devices_that_are_not_there_or_do_not_divide():
    with pytest.raises(UsageError, match=r"^devices is 3: this machine offers 2 \(cpu\), so it must be from 1 to 2\.$"):
        command_line.make_mesh(dataclasses.replace(MAIN, devices=3))
    config = dataclasses.replace(MAIN, devices=2, ppo=PPOConfig(num_envs=9, minibatches=3))
    with pytest.raises(UsageError, match=r"^devices is 2 and a minibatch has 3 environments .* must divide"):
        command_line.make_mesh(config)


def test_one_device_per_core(run_python):
    """What is in `experiments/__init__.py` comes before gymnax, which starts JAX's devices."""
    script = "import experiments, os, envs, jax; print(len(os.sched_getaffinity(0)), jax.device_count())"
    cores, devices = run_python("-c", script).stdout.split()
    assert cores == devices
    assert run_python("-c", script, env={"JAX_NUM_CPU_DEVICES": "5"}).stdout.split()[1] == "5"


def test_memo_is_the_main_job():
    assert type(MAIN.memory) is Memo
    assert MAIN.env == DarkKeyToDoorConfig(size=5, attempt_limit=20, trial_length=100, observation=MAIN.env.observation)
