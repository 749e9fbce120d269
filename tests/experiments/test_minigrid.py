"""A run of minigrid_memory in the real MiniGrid, as a user calls it."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_memory
from tools import main_of

from envs.minigrid_memory import DONE, EAST, FORWARD, LEFT, RIGHT, WALL, WEST, MiniGridMemoryConfig
from experiments import minigrid
from experiments.config import Config, config_to_dict, load_config
from experiments.minigrid import play_ours, play_theirs
from experiments.runs.folder import build, identity, settings_of
from memrl.checkpoint import Checkpointer
from memrl.networks import NetworkConfig, Outputs
from memrl.ppo import PPOConfig
from memrl.sharding import device_mesh
from memrl.tracking import write_json

ENV_ID = "MiniGrid-MemoryS7-v0"


class Rememberer:
    """In place of a policy and its memory: looks for the object of the room, and turns to its like at the crossing.

    It remembers how many steps it has taken, what it did last and, once seen, the object.
    """

    @property
    def memory(self):
        return self

    def tokens_attended(self, state):
        return jnp.int32(0)

    def initial_state(self, batch, key):
        return jnp.full((batch, 3), -100, jnp.int32)  # to be cleared before it is used

    def apply(self, params, state, inputs, reset, method):
        steps, previous, cue = jnp.where(reset[:, None], jnp.int32([[0, -1, 0]]), state).T
        direction = inputs.observation["direction"]
        objects = inputs.observation["image"][..., 0].astype(jnp.int32)
        cue = jnp.where(direction == WEST, jnp.where(objects > WALL, objects, 0).max((1, 2)), cue)
        north = objects[:, 1, 6]  # at the crossing, two cells to the left of who faces east
        at_crossing = (direction == EAST) & (north > WALL)
        action = jnp.where(at_crossing, jnp.where(north == cue, LEFT, RIGHT), FORWARD)
        action = jnp.where(steps < 4, LEFT, action)
        # It waits for ever if it is told anything else of the previous step than what is so.
        informed = (inputs.action == previous) & (inputs.reward == 0) & ~inputs.soft_reset
        action = jnp.where(informed, action, DONE)
        logits = 100.0 * jax.nn.one_hot(action, 7)
        return jnp.stack([steps + 1, action, cue], axis=1), Outputs(logits, jnp.zeros(len(steps), jnp.float32))


def test_who_remembers_succeeds_in_both():
    """Inputs, memory and actions are the same in either; there are more episodes than environments at once."""
    for play in (play_ours, play_theirs):
        measured = play(Rememberer(), {}, ENV_ID, 80, 0)
        assert measured.outcomes["success"].all()
        assert set(measured.steps.tolist()) == {7, 8, 9, 10}  # four to look round, then from each start
        np.testing.assert_allclose(measured.reward, 1 - 0.9 * measured.steps / 245, rtol=1e-6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that has not learned yet; not to be changed."""
    config = Config(
        name="tiny",
        env=MiniGridMemoryConfig(7, max_steps=10),
        memory=tiny_memory("fct", 10),
        network=NetworkConfig((8,), (8,)),
        ppo=PPOConfig(num_envs=2, unroll_length=2, minibatches=1),
        total_steps=4,
    )
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    write_json(folder / "config.json", config_to_dict(config))
    with Checkpointer(folder / "checkpoints") as checkpointer:
        state = build(config, device_mesh(1)).initial_state(jax.random.key(0), settings_of(config))
        checkpointer.save(0, state, {"identity": identity(config)})
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(trained, tmp_path / "run")


main = main_of(minigrid.run)


def test_the_tool_in_a_process_of_its_own(folder, run_python):
    process = run_python("-m", "experiments.minigrid", folder, "--episodes", "4")
    assert (process.returncode, process.stderr) == (0, "")
    result = json.loads((folder / "minigrid.json").read_text())
    assert (result["config"], result["update"], result["env_id"]) == ("tiny", 0, ENV_ID)
    assert (result["episodes"], result["seed"]) == (4, 0)

    said = process.stdout.splitlines()
    assert said[0] == f"{folder}: update 0 plays 4 episodes of {ENV_ID}."
    assert said[1].split() == ["success", "return", "steps"]
    for line, name in zip(said[2:4], ("minigrid", "minigrid_memory"), strict=True):
        means = result[name]
        assert 1 <= means["length"]["mean"] <= 245
        told = [means["outcomes"]["success"], means["return"]]
        cells = [f"{of['mean']:.2f} [{of['low']:.2f}, {of['high']:.2f}]".split() for of in told]
        assert line.split() == [name, *cells[0], *cells[1], f"{means['length']['mean']:.1f}"]
    assert said[4] == f"Written to {folder}: minigrid.json"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--episodes", "1"], "episodes is 1: it must be at least 2, for an interval."),
        (["--seed", "-1"], "seed is -1: it must be from 0 to 2^32 - 1."),
        (["--env-id", "MiniGrid-S31"], "There is no environment of MiniGrid MiniGrid-S31; did you mean MiniGrid-M"),
        (["--episode", "9"], "There is no option --episode; did you mean --episodes?"),
        (["another"], "There is an argument too many: another."),
    ],
    ids=lambda value: None if isinstance(value, str) else "_".join(value),
)  # fmt: skip
def test_bad_arguments(arguments, sentence, trained, monkeypatch, capsys):
    status, _, said = main(monkeypatch, capsys, trained, *arguments)
    assert status == 2 and sentence in said and said.count("\n") == 1
    assert not (trained / "minigrid.json").exists()


def test_no_run(tmp_path, monkeypatch, capsys):
    status, _, said = main(monkeypatch, capsys)
    assert (status, said) == (2, "Name the folder of a run: python -m experiments.minigrid FOLDER.\n")
    status, _, said = main(monkeypatch, capsys, tmp_path / "nowhere")
    assert (status, said) == (2, f"There is no run in {tmp_path / 'nowhere'}: it has no config.json.\n")


def rewrite_config(folder, **env):
    """Another environment for the run."""
    config = json.loads((folder / "config.json").read_text())
    config["env"] = env
    (folder / "config.json").write_text(json.dumps(config))


def test_a_run_of_another_task(folder, monkeypatch, capsys):
    rewrite_config(folder, name="dark_key_to_door")
    status, _, said = main(monkeypatch, capsys, folder)
    assert (status, said) == (
        2, "The run learned in dark_key_to_door; only one of minigrid_memory can play MiniGrid.\n"
    )  # fmt: skip


def test_the_setting_trained_in_decides_if_it_can(folder, monkeypatch, capsys):
    config = load_config(folder)

    def chosen(size, random_length, asked=None):
        env = dataclasses.replace(config.env, size=size, random_length=random_length)
        return minigrid.environment_id(dataclasses.replace(config, env=env), asked)

    assert chosen(7, False) == ENV_ID
    assert chosen(13, True) == "MiniGrid-MemoryS13Random-v0"
    assert chosen(13, True, ENV_ID) == ENV_ID
    assert chosen(17, False, ENV_ID) == ENV_ID

    rewrite_config(folder, name="minigrid_memory", size=17)
    status, _, said = main(monkeypatch, capsys, folder)
    assert status == 2 and said.count("\n") == 1
    assert "MiniGrid has no environment of the setting that the run learned in, MiniGridMemoryConfig(size=17" in said
    assert "choose one with --env-id: MiniGrid-MemoryS7-v0, " in said
