"""Damaged files: every tool names them in a sentence before anything is compiled, and loses nothing."""

import dataclasses
import json
import shutil

import jax
import pytest
from synthetic_runs import CELL, UPDATES, minigrid_memory, write_grid
from tools import main_of

from experiments import evaluate, grid, inspect, matrix, minigrid, report, run
from experiments.runs.folder import (
    Run,
    load_params,
    load_run,
    open_files,
    parameter_shapes,
)
from experiments.training.cell import train_cell
from experiments.workers.schedule import is_done
from experiments.workers.store import load_grid
from memrl.files import FileError
from memrl.memory import GRU
from memrl.sharding import device_mesh

TOOLS = {
    "resume": lambda folder: (run, "--resume", folder / CELL / "seed0"),
    "evaluate": lambda folder: (evaluate, folder / CELL / "seed0"),
    "inspect": lambda folder: (inspect, folder / CELL / "seed0"),
    "minigrid": lambda folder: (minigrid, folder / CELL / "seed0"),
    "matrix": lambda folder: (matrix, folder),
    "report": lambda folder: (report, folder),
    "grid": lambda folder: (grid, "--resume", folder),
}
"""What is started with the folder of a grid."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a grid of one run that nobody trained."""
    return write_grid(tmp_path_factory.mktemp("grids") / "grid")


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(whole, tmp_path / "grid")


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def change_config(change):
    def damage(path):
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return damage


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def in_the_middle(text):
    """Puts a line into the middle of a file."""

    def damage(path):
        lines = path.read_bytes().split(b"\n")
        path.write_bytes(b"\n".join([*lines[:2], text, *lines[2:]]))

    return damage


def a_file(path):
    shutil.rmtree(path)
    path.write_text("not a folder")


def replaced_by(text):
    return lambda path: path.write_text(text)


def without_its_largest_piece(path):
    pieces = [piece for piece in path.rglob("*") if piece.is_file()]
    max(pieces, key=lambda piece: piece.stat().st_size).unlink()


def without_its_pieces(path):
    for piece in path.rglob("d/*"):
        piece.unlink()


def without_its_manifest(path):
    (path / "manifest.ocdbt").unlink()


SEED, READERS = f"{CELL}/seed0", ["resume", "evaluate", "inspect", "minigrid", "matrix"]
DAMAGES = {
    "a float for a whole number": (
        f"{SEED}/config.json", change_config(lambda it: it["memory"].update(features=16.5)), [*READERS, "report"]
    ),
    "no steps": (f"{SEED}/config.json", change_config(lambda it: it.pop("total_steps")), [*READERS, "report"]),
    "no environment": (f"{SEED}/config.json", change_config(lambda it: it.pop("env")), [*READERS, "report"]),
    "an unknown key": (f"{SEED}/config.json", change_config(lambda it: it.update(stepz=1)), [*READERS, "report"]),
    "half a config": (f"{SEED}/config.json", cut, [*READERS, "report"]),
    "another object": (f"{SEED}/metrics.jsonl", in_the_middle(b'{"foo": 1}'), ["resume", "evaluate", "report"]),
    "a list": (f"{SEED}/metrics.jsonl", in_the_middle(b"[1]"), ["resume", "evaluate", "report"]),
    "bytes": (f"{SEED}/metrics.jsonl", in_the_middle(b"\xff\x00\xfe"), ["resume", "evaluate", "report"]),
    "half a line": (f"{SEED}/metrics.jsonl", in_the_middle(b'{"update": 3, "ret'), ["resume", "evaluate", "report"]),
    "half a record": (f"{SEED}/environment.json", cut, ["resume", "report"]),
    "a record of something else": (f"{SEED}/environment.json", replaced_by('{"a": 1}'), ["resume", "report"]),
    "half an evaluation": (f"{SEED}/evaluation.json", cut, ["report"]),
    "an empty evaluation": (
        f"{SEED}/evaluation.json", change_config(lambda it: it.update(episodes=[])), ["report"]
    ),
    "an evaluation without its returns": (
        f"{SEED}/evaluation.json", change_config(lambda it: it["episodes"][0].pop("return")), ["report"]
    ),
    "checkpoints that are a file": (f"{SEED}/checkpoints", a_file, [*READERS, "report", "grid"]),
    "a piece gone": (f"{SEED}/checkpoints/{UPDATES}", without_its_largest_piece, ["resume"]),
    "its pieces gone": (f"{SEED}/checkpoints/{UPDATES}", without_its_pieces, READERS),
    "the manifest gone": (f"{SEED}/checkpoints/{UPDATES}/state", without_its_manifest, READERS),
    "half a status": (f"{CELL}/status.json", cut, ["matrix", "report", "grid"]),
    "a status of something else": (f"{CELL}/status.json", replaced_by('{"state": "ok"}'), ["matrix", "report", "grid"]),
    "half a grid": ("grid.json", cut, ["matrix", "report", "grid"]),
    "a grid of something else": ("grid.json", replaced_by('{"cells": [1]}'), ["matrix", "report", "grid"]),
    "half a matrix": ("matrix.json", replaced_by('{"arms": ['), ["report"]),
}  # fmt: skip
"""What is damaged, how, and which tools read it."""


@pytest.mark.parametrize(
    ("damage", "tool"), [(damage, tool) for damage, (_, _, tools) in DAMAGES.items() for tool in tools]
)
def test_damage_is_answered(damage, tool, folder, monkeypatch, capfd):
    name, do, _ = DAMAGES[damage]
    do(folder / name)
    before = contents(folder)
    module, *arguments = TOOLS[tool](folder)
    status, _, said = main_of(module.run)(monkeypatch, capfd, *arguments)
    assert status == 2 and said.count("\n") == 1 and len(said) < 600, said
    assert name.removesuffix("/state") in said
    assert contents(folder) == before


def test_a_grid_of_runs_that_cannot_be_read(folder, capsys):
    """A cell that is done is left alone, unless its evaluation cannot be read: that is made again, and it is said."""
    whole_grid = load_grid(folder)
    (cell,) = whole_grid.cells
    assert is_done(whole_grid, folder, cell) and not capsys.readouterr().out
    for damage in (cut, lambda path: path.unlink()):
        damage(folder / SEED / "evaluation.json")
        assert not is_done(whole_grid, folder, cell)
        assert capsys.readouterr().out.startswith(f"To be evaluated again: {folder / SEED}")


def test_a_cell_with_damaged_metrics(folder):
    """Nothing is written to any of its runs."""
    shutil.copytree(folder / SEED, folder / CELL / "seed1")
    configs = [dataclasses.replace(minigrid_memory(), seed=seed, total_steps=10**4) for seed in (0, 1)]
    in_the_middle(b"[1]")(folder / CELL / "seed1" / "metrics.jsonl")
    before = contents(folder)
    with pytest.raises(FileError, match=r"seed1/metrics.jsonl is damaged: line 3, "):
        train_cell(folder / CELL, configs, ["python"], {})
    assert contents(folder) == before


@pytest.mark.parametrize("missing", [["environment.json"], ["metrics.jsonl"], ["environment.json", "metrics.jsonl"]])
def test_what_is_missing_is_begun_anew(missing, folder):
    """Without the records of what worked on a run before, or without its metrics, it goes on all the same."""
    trained = load_run(folder / SEED)
    config = dataclasses.replace(
        trained.config, tracking=dataclasses.replace(trained.config.tracking, wandb="disabled")
    )
    for name in missing:
        (trained.folder / name).unlink()
    with open_files(config, trained.folder, UPDATES, device_mesh(1), ["this"], "name") as tracker:
        tracker.log(UPDATES + 1, {"env_steps": 1, "return": 0.0, "trials": 1.0, "seconds": 2.0})
    after = Run(trained.folder, config)
    assert [record["update"] for record in after.records] == [0, UPDATES]["environment.json" in missing :]
    updates = [line["update"] for line in after.metrics]
    assert updates == [*([] if "metrics.jsonl" in missing else range(1, UPDATES + 1)), UPDATES + 1]


def test_parameters_are_read_without_the_rest(folder):
    """What is damaged elsewhere in the state does not matter to who reads the parameters alone."""
    trained = load_run(folder / SEED)
    params, update = load_params(trained, parameter_shapes(trained.config))
    assert update == UPDATES and all(not leaf.any() for leaf in jax.tree.leaves(params))
    other = parameter_shapes(dataclasses.replace(trained.config, memory=GRU(features=5)))
    with pytest.raises(ValueError, match=r"is of another model or configuration: params\['params'\]"):
        load_params(trained, other)
