"""Looking inside a run, as a user does it."""

import json
import shutil
from pathlib import Path

import jax
import pytest
from PIL import Image
from tools import main_of

from envs.dark_key_to_door import DarkKeyToDoor
from experiments import command_line, inspect
from experiments.command_line import make_mesh
from experiments.config import config_to_dict
from experiments.inspect import inspect_run
from experiments.run import Options as RunOptions
from experiments.runs.folder import build, identity, settings_of
from memrl.checkpoint import Checkpointer
from memrl.tracking import write_json

SIZES = [
    *("--env.size", "2", "--env.attempt-limit", "6", "--env.trial-length", "16"),
    *("--network.encoder-features", "8", "--network.head-features", "8", "--memory.features", "8"),
    *("--ppo.num-envs", "8", "--ppo.unroll-length", "7", "--ppo.epochs", "1", "--ppo.minibatches", "2"),
    *("--evaluation.windows-per-trial", "4"),
]
MEMO = [
    *("--memory.layers", "1", "--memory.heads", "2", "--memory.mlp-features", "8"),
    *("--memory.segment-length", "5", "--memory.summary-tokens", "2", "--memory.capacity", "8"),
]


def untrained(folder, *arguments):
    """A run folder as it is before the first update, with a checkpoint."""
    config, _ = command_line.read("experiments.run", "", RunOptions(), [*arguments, *SIZES])
    training = build(config, make_mesh(config))
    folder.mkdir()
    write_json(folder / "config.json", config_to_dict(config))
    with Checkpointer(folder / "checkpoints") as checkpointer:
        state = training.initial_state(jax.random.key(0), settings_of(config))
        checkpointer.save(0, state, {"seconds": 0.0, "identity": identity(config)})
    return folder


@pytest.fixture(scope="module")
def memo(tmp_path_factory):
    """A run with attention; not to be changed."""
    return untrained(tmp_path_factory.mktemp("runs") / "memo", "--config", "memo_gridworld", *MEMO)


@pytest.fixture(scope="module")
def gru(tmp_path_factory):
    """A run with gates; not to be changed."""
    return untrained(tmp_path_factory.mktemp("runs") / "gru", "--config", "gru_gridworld")


main = main_of(inspect.run)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def names(folder):
    return sorted(path.name for path in (folder / "inside").iterdir())


def test_the_tool_in_a_process_of_its_own(memo, tmp_path, run_python):
    folder = shutil.copytree(memo, tmp_path / "run")
    before = contents(folder)
    process = run_python("-m", "experiments.inspect", folder, "--trials", "120")
    assert (process.returncode, process.stderr) == (0, "")
    written = ["attention.png", "attention.svg", "inside.json", "memory.gif", "probe.png", "probe.svg"]
    assert names(folder) == written
    assert {name: content for name, content in contents(folder).items() if name.parts[0] != "inside"} == before

    said = process.stdout.splitlines()
    assert said[0] == f"{folder}: looking into update 0, 16 steps of a trial."
    assert said[1] == "There is no picture of gates: memo shows none."
    assert said[-1].startswith(f"Written to {folder / 'inside'}: attention.png, attention.svg, memory.gif, probe.png")
    for name in ("attention.png", "probe.png"):
        with Image.open(folder / "inside" / name) as image:
            assert image.format == "PNG"
    assert (folder / "inside" / "probe.svg").read_text().startswith("<?xml")
    with Image.open(folder / "inside" / "memory.gif") as image:
        assert image.n_frames == 16 and image.width > inspect.ROOM

    result = json.loads((folder / "inside" / "inside.json").read_text())
    assert (result["memory"], result["update"], result["steps"], result["gates"]) == ("memo", 0, 16, {})
    found = result["probe"]
    assert found["trials"] == 120 and "key" in found["facts"]
    assert found["sources"]["state"].startswith("256 random projections of the 336 numbers")
    for group in found["facts"]["key"]["groups"]:
        assert 0 <= group["state"]["low"] <= group["state"]["accuracy"] <= group["state"]["high"] <= 1


def test_gates_instead_of_attention(gru, tmp_path, capsys):
    folder = shutil.copytree(gru, tmp_path / "run")
    result = inspect_run(folder, trials=100)
    assert names(folder) == ["gates.png", "gates.svg", "inside.json", "memory.gif", "probe.png", "probe.svg"]
    assert set(result["gates"]) == {"keep gate", "reset gate"}
    assert all(0 < openness < 1 for openness in result["gates"].values())
    assert result["probe"]["sources"]["state"] == "the 8 numbers that the memory carries"
    said = capsys.readouterr().out
    assert "There is no picture of attention: gru attends to nothing of the past." in said
    again = inspect_run(folder, trials=100)
    assert again == result == json.loads((folder / "inside" / "inside.json").read_text())


def test_what_does_not_apply_is_left_out(gru, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(gru, tmp_path / "run")
    monkeypatch.delattr(DarkKeyToDoor, "facts")
    monkeypatch.delattr(DarkKeyToDoor, "render")
    result = inspect_run(folder)
    assert names(folder) == ["gates.png", "gates.svg", "inside.json"] and "probe" not in result
    said = capsys.readouterr().out
    assert "There is no memory.gif: the environment cannot be drawn." in said
    assert "There is no probe: dark_key_to_door does not say what its agents must remember." in said


# Bad input


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--trials", "20"], "trials is 20: it must be at least 100.\n"),
        (["--seed", "-1"], "seed is -1: it must be from 0 to 2^32 - 1.\n"),
        (["--trial", "200"], "There is no option --trial; did you mean --trials?\n"),
        (["another"], "There is an argument too many: another.\n"),
    ],
    ids=lambda value: None if isinstance(value, str) else "_".join(value),
)
def test_bad_arguments(arguments, sentence, gru, monkeypatch, capsys):
    before = contents(gru)
    assert main(monkeypatch, capsys, gru, *arguments) == (2, "", sentence)
    assert contents(gru) == before


def test_no_run(tmp_path, monkeypatch, capsys):
    status, _, said = main(monkeypatch, capsys)
    assert (status, said) == (2, "Name the folder of a run: python -m experiments.inspect FOLDER.\n")
    status, _, said = main(monkeypatch, capsys, tmp_path)
    assert (status, said) == (2, f"There is no run in {tmp_path}: it has no config.json.\n")


def test_no_checkpoint(gru, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(gru, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    status, _, said = main(monkeypatch, capsys, folder)
    assert (status, said) == (2, f"There is no checkpoint in {folder / 'checkpoints'}.\n")
    assert list(contents(folder)) == [Path("config.json")]
