"""The matrix of what was trained and what is tested: the figures of evaluations, and what cannot be tested."""

import dataclasses
import json
import shutil
import sys

import pytest
from PIL import Image

from envs.bandit import BanditConfig
from envs.repeat import RepeatFirstConfig
from envs.t_maze import TMazeConfig
from experiments import command_line, matrix, report
from experiments.command_line import UsageError
from experiments.configs import CONFIGS
from experiments.settings import names_of
from experiments.training.cell import train_cell
from experiments.workers.store import Cell, Grid, save_grid, write_status
from memrl.evaluation import EvaluationConfig
from memrl.files import FileError
from memrl.memory import FCT, GRU, MemoryConfig
from memrl.networks import NetworkConfig
from memrl.ppo import PPOConfig

SEEDS = (0, 1)


def tiny(env, memory: MemoryConfig, **settings):
    """A config of one update."""
    return dataclasses.replace(
        CONFIGS["gru_repeat_first"].config,
        env=env,
        memory=memory,
        network=NetworkConfig(encoder_features=(4,), head_features=(4,)),
        ppo=PPOConfig(num_envs=4, unroll_length=4, epochs=1, minibatches=1),
        evaluation=EvaluationConfig(num_trials=4, horizons=(1,), budgets=(), windows_per_trial=1),
        tracking=dataclasses.replace(CONFIGS["gru_repeat_first"].config.tracking, wandb="disabled"),
        total_steps=16,
        **settings,
    )


def train(folder, configs):
    """Cells of runs with `SEEDS`, of each config one."""
    programs = {}
    for number, config in enumerate(configs):
        seeds = [dataclasses.replace(config, seed=seed) for seed in SEEDS]
        assert train_cell(folder / str(number), seeds, [], programs) is None


@pytest.fixture(scope="module")
def mazes(tmp_path_factory):
    """A grid of two cells: mazes of one and of two corridors."""
    folder = tmp_path_factory.mktemp("grids") / "mazes"
    train(folder, [tiny(TMazeConfig(corridors=n, length=2), GRU(features=4)) for n in (1, 2)])
    return folder


@pytest.fixture(scope="module")
def bandits(tmp_path_factory):
    """Runs in trials of a fixed length, with a memory that has room for one."""
    folder = tmp_path_factory.mktemp("grids") / "bandits"
    memory = FCT(features=4, layers=1, heads=1, mlp_features=4).with_capacity(6)
    train(folder, [tiny(BanditConfig(trial_length=6), memory)])
    return folder


def test_the_product_of_what_is_tested(mazes, capsys):
    arguments = [str(mazes), "--test", "env.corridors=2,1,3", "--test", "env.length=2,3"]
    assert matrix.run(arguments) == 0
    result = json.loads((mazes / "matrix.json").read_text())
    names = [f"corridors={corridors}, length={length}" for corridors in (2, 1, 3) for length in (2, 3)]
    assert [setting["name"] for setting in result["settings"]] == names
    assert [(arm["label"], arm["trained"]) for arm in result["arms"]] == [
        (f"memory=gru, env.corridors={n}", f"corridors={n}, length=2") for n in (1, 2)
    ]
    for cell, arm in enumerate(result["arms"]):
        assert [run["seed"] for run in arm["runs"]] == list(SEEDS)
        for run in arm["runs"]:
            assert list(run["settings"]) == names and run["update"] == 1
            # As evaluated by itself, each setting with a program of its own.
            evaluation = json.loads((mazes / str(cell) / f"seed{run['seed']}" / "evaluation.json").read_text())
            (own,) = [entry for entry in evaluation["episodes"] if entry["split"] is None]
            for measure in ("return", "length", "outcomes"):
                assert run["settings"][arm["trained"]][measure] == own[measure]
            (other,) = [entry for entry in evaluation["episodes"] if entry["split"] == "corridors=3"]
            assert run["settings"]["corridors=3, length=2"]["return"] == other["return"]
            assert result["players"]["oracle"][arm["trained"]]["return"] == own["players"]["oracle"]["return"]

    table = (mazes / "matrix.md").read_text()
    assert table in capsys.readouterr().out
    assert table.startswith("# Success of each policy in each setting")
    (row,) = [line for line in table.splitlines() if line.startswith("| memory=gru, env.corridors=2 |")]
    told = [run["settings"][names[0]]["outcomes"]["success"]["mean"] for run in result["arms"][1]["runs"]]
    assert row.split(" | ")[1] == f"**{sum(told) / 2:.2f}** ({min(told):.2f} to {max(told):.2f})"
    with Image.open(mazes / "matrix.png") as image:
        assert image.format == "PNG"
    assert (mazes / "matrix.svg").read_text().count("corridors=3, length=3") >= 1


def test_a_report_has_it(mazes, tmp_path):
    assert matrix.run([str(mazes), "--test", "env.corridors=1,2"]) == 0
    assert report.run([str(mazes), "--output", str(tmp_path)]) == 0
    (found,) = json.loads((tmp_path / "report.json").read_text())["matrices"]
    result = json.loads((mazes / "matrix.json").read_text())
    assert found["names"] == ["corridors=1", "corridors=2"] and found["measure"] == "success"
    for arm in result["arms"]:
        for name, one in zip(found["names"], found["policies"][arm["label"]], strict=True):
            assert one["seeds"] == [run["settings"][name]["outcomes"]["success"]["mean"] for run in arm["runs"]]
            assert one["value"] == pytest.approx(sum(one["seeds"]) / len(SEEDS))
    text = (tmp_path / "report.md").read_text()
    (row,) = [
        line for line in text.splitlines() if line.startswith("| memory=gru, env.corridors=2 | ") and "**" in line
    ]
    _, _, one, two, _ = row.split("|")
    assert two.strip().startswith("**") and "**" not in one
    assert "![Success of each policy in each setting.](matrix.png)" in text and (tmp_path / "matrix.svg").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda run: run.update(update=0), "is of update 0 of "),
        (
            lambda run: run.update(folder="elsewhere/seed0"),
            "elsewhere/seed0 too, which is not among the runs compared.",
        ),
        (
            lambda run: run.pop("folder"),
            "is damaged: arms.1.runs.0.folder: field required. Test again, python -m ",
        ),
    ],
)
def test_a_report_refuses_what_is_not_of_its_runs(mazes, tmp_path, change, sentence):
    assert matrix.run([str(mazes), "--test", "env.corridors=1"]) == 0
    file = mazes / "matrix.json"
    result = json.loads(file.read_text())
    change(result["arms"][1]["runs"][0])
    file.write_text(json.dumps(result))
    with pytest.raises((FileError, UsageError)) as caught:
        report.run([str(mazes), "--output", str(tmp_path / "report")])
    file.unlink()
    assert sentence in str(caught.value) and not (tmp_path / "report").exists()


def test_without_a_word_all_settings_and_splits_are_tested(mazes, tmp_path):
    """And what is in grid.json comes before that."""
    arguments = ["--output", str(tmp_path / "new")]
    assert matrix.run([str(mazes / "0"), *arguments]) == 0
    names = [setting["name"] for setting in json.loads((tmp_path / "new" / "matrix.json").read_text())["settings"]]
    base = TMazeConfig(corridors=1, length=2)
    assert len(names) == len(set(names)) == 1 + len(base.splits())
    assert names[0] == "corridors=1, length=2"
    assert "corridors=1, length=10, regime=uniform" in names


def test_a_named_grid_says_what_is_tested(mazes, tmp_path):
    grid = {"command": [], "seeds": SEEDS, "test": {"env.corridors": [["1"], ["4"]]}, "cells": []}
    (mazes / "grid.json").write_text(json.dumps(grid))
    tests = matrix.read_tests(matrix.Options((mazes,)))
    (mazes / "grid.json").unlink()
    assert tests == {"env.corridors": [["1"], ["4"]]}
    assert matrix.read_tests(matrix.Options((mazes,), test=("env.length=3",))) == {"env.length": [["3"]]}


def test_horizons_and_budgets(bandits):
    assert matrix.run([str(bandits), "--horizons", "2", "--budgets", "1", "0.5"]) == 0
    result = json.loads((bandits / "matrix.json").read_text())
    lengths = {setting["name"]: (setting["trial_length"], setting["budget"]) for setting in result["settings"]}
    assert list(lengths.values()) == [(6, None), (6, 0.5), (12, None), (12, 1), (12, 0.5)]
    (arm,) = result["arms"]
    for run in arm["runs"]:
        assert [means["length"]["mean"] for means in run["settings"].values()] == [6, 6, 12, 12, 12]
        evaluation = json.loads((bandits / "0" / f"seed{run['seed']}" / "evaluation.json").read_text())
        mean = run["settings"][arm["trained"]]["return"]["mean"]
        assert mean == pytest.approx(sum(evaluation["windows"][0]["return_per_window"]), rel=1e-6)


def test_names_tell_settings_apart():
    maze = TMazeConfig(corridors=1, length=5)
    assert names_of([maze]) == ["t_maze"]
    both = [maze, RepeatFirstConfig(), dataclasses.replace(maze, length=7)]
    assert names_of(both) == ["t_maze, length=5", "repeat_first", "t_maze, length=7"]
    drawn = [maze, dataclasses.replace(maze, regime="uniform"), dataclasses.replace(maze, corridors=2)]
    assert names_of(drawn) == ["corridors=1", "corridors=1, regime=uniform", "corridors=2"]


def test_cells_that_are_not_done_are_named(mazes, tmp_path, capsys):
    grid = tmp_path / "grid"
    shutil.copytree(mazes, grid)
    save_grid(Grid(tuple(Cell(name, CONFIGS["gru_t_maze"].config) for name in "01"), (0, 1), {}), grid)
    for cell, state, error in (("0", "done", None), ("1", "failed", "Its worker was killed.")):
        write_status(grid / cell, state, "its log", error=error)
    assert matrix.run([str(grid), "--test", "env.corridors=1"]) == 0
    assert "Left out: 1 is failed: Its worker was killed.\n" in capsys.readouterr().out
    (arm,) = json.loads((grid / "matrix.json").read_text())["arms"]
    assert {run["folder"] for run in arm["runs"]} == {"0/seed0", "0/seed1"}


# Bad input


def test_runs_that_cannot_be_compared(mazes, tmp_path):
    """Found before the first is tested."""
    shutil.copytree(mazes / "0", tmp_path / "0")
    shutil.copytree(mazes / "1", tmp_path / "1")
    shutil.rmtree(tmp_path / "1" / "seed1" / "checkpoints" / "1")
    with pytest.raises(UsageError, match=r"1/seed1 is not complete: 0 of 1 updates are done\. Go on with it: "):
        matrix.run([str(tmp_path)])
    shutil.rmtree(tmp_path / "1" / "seed1")
    with pytest.raises(UsageError, match=r"the same seeds: memory=gru, env\.corridors=1 has 0, 1; "):
        matrix.run([str(tmp_path)])
    assert not (tmp_path / "matrix.json").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Name the folder of a grid: python -m experiments.matrix GRID."),
        (["nowhere"], "There is no folder nowhere."),
        (
            ["MAZES", "--test", "corridors=1"],
            "--test corridors=1: only fields of the environment can be tested on: env.",
        ),
        (
            ["MAZES", "--test", "env.corridors"],
            "--test env.corridors: it must be FIELD=VALUE,VALUE,.. without an empty",
        ),
        (["MAZES", "--test", "env.length=1", "--test", "env.length=2"], "env.length is tested twice."),
        (["MAZES", "--test", "env.lenght=1"], "There is no option --env.lenght; did you mean --env.length?"),
        (["MAZES", "--test", "env.length=x"], "invalid literal for int() with base 10: 'x'."),
        (["MAZES", "--test", "env.length=0"], "length is 0, but must be at least 1."),
        (["MAZES", "--test", "env.junction_flag=True"], "memory=gru, env.corridors=1 cannot be tested in "),
        (["MAZES", "--horizons", "2"], "horizons is (2,): these episodes end by the task and cannot be made longer."),
        (["MAZES", "--num-trials", "0"], "num_trials is 0: it must be at least 2."),
        (["MAZES", "--budgets", "0"], "budgets is (0.0,): all must be greater than 0."),
        (["MAZES", "--tst", "1"], "There is no option --tst; did you mean --test?"),
    ],
)
def test_bad_input(capsys, monkeypatch, mazes, tmp_path, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in mazes.rglob("*")}
    monkeypatch.setattr(sys, "argv", ["matrix", *[str(mazes) if word == "MAZES" else word for word in arguments]])
    with pytest.raises(SystemExit) as caught:
        command_line.main(matrix.run)
    said = capsys.readouterr()
    assert caught.value.code == command_line.BAD_INPUT
    assert sentence in said.err and said.err.count("\n") == 1 and said.out == ""
    assert {path: path.stat().st_mtime_ns for path in mazes.rglob("*")} == before
