"""Grids: what they are made of, all that can be wrong with them, and that nothing that ends them loses anything."""

import dataclasses
import fcntl
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from tools import finish, wait_for

from experiments import command_line, grid, report
from experiments.command_line import UsageError
from experiments.configs import CONFIGS
from experiments.sweeps import GRIDS, Definition, cell_name, combinations
from experiments.workers import places as places_of_workers
from experiments.workers import schedule
from experiments.workers.store import Cell, Grid, claim, grid_lock, load_grid, read_status, save_grid
from memrl.memory import FCT, GRU
from memrl.tracking import read_metrics

REPOSITORY = Path(__file__).parents[2]

TINY = [
    *("--config", "gru_repeat_first", "--total-steps", "1280", "--checkpoint-every", "4", "--memory.features", "4"),
    *("--env.symbols", "3", "--env.length", "4", "--tracking.wandb", "disabled"),
    *("--network.encoder-features", "4", "--network.head-features", "4", "--evaluation.num-trials", "4"),
    *("--ppo.num-envs", "8", "--ppo.unroll-length", "4", "--ppo.epochs", "1", "--ppo.minibatches", "1"),
]
"""40 updates of a GRU."""
UPDATES = 40


def definition(*arguments: str) -> Definition:
    return grid.read_definition(arguments)


def cells(*arguments: str) -> dict[str, object]:
    """The configs of a grid by the names of its cells, none of them built."""
    said = definition(*arguments)
    return {cell_name(said.sweeps, choice): grid.read_cell(said, choice)[0] for choice in combinations(said.sweeps)}


# What is swept


def test_every_combination_is_a_cell():
    found = cells(
        "--config", "fct_gridworld", "--sweep", "memory=fct,gru", "--sweep", "env.size=3,4", "--env.dark", "False"
    )
    assert list(found) == [f"memory={memory},env.size={size}" for memory in ("fct", "gru") for size in (3, 4)]
    config = found["memory=gru,env.size=4"]
    base = CONFIGS["fct_gridworld"].config
    env = dataclasses.replace(base.env, size=4, dark=False)
    assert config == dataclasses.replace(base, memory=GRU(), env=env)
    assert found["memory=fct,env.size=3"].memory == FCT(context=100)  # the default one, with room for a trial


def test_configs_and_environments_are_swept_by_name():
    found = cells("--sweep", "config=gru_repeat_first,gru_bandit", "--memory", "none")
    assert [config.env for config in found.values()] == [
        CONFIGS[n].config.env for n in ("gru_repeat_first", "gru_bandit")
    ]
    found = cells("--config", "gru_bandit", "--sweep", "env=bandit,gymnax:Catch-bsuite")
    assert list(found) == ["env=bandit", "env=gymnax:Catch-bsuite"]


def test_memories_have_room_for_a_trial_whatever_is_varied():
    """Unless it is said for how much."""
    trials = ["--sweep", "env.trial-length=100,400"]
    fct = ["--config", "fct_gridworld", *trials]
    assert [config.memory.context for config in cells(*fct).values()] == [100, 400]
    assert [config.memory.context for config in cells(*fct, "--memory.context", "50").values()] == [50, 50]
    assert [config.memory.context for config in cells(*fct, "--sweep", "memory.context=10").values()] == [10, 10]
    memo = cells("--config", "memo_gridworld", "--sweep", "memory.segment-length=5,25")
    assert [config.memory.capacity for config in memo.values()] == [19, 3]


def test_values_of_several_words_and_names_with_hyphens():
    found = cells("--config", "gru_bandit", "--sweep", "network.head-features=8,16 4")
    assert [config.network.head_features for config in found.values()] == [(8,), (16, 4)]
    assert list(found) == ["network.head_features=8", "network.head_features=16+4"]


def test_without_sweeps_the_config_is_the_cell():
    (cell,) = grid.read_grid(definition(*TINY))[0].cells
    assert (cell.name, cell.config.memory.features) == ("gru_repeat_first", 4)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0..3", [0, 1, 2, 3]), ("7", [7]), ("0,3,5", [0, 3, 5]), ("0..1, 5..6", [0, 1, 5, 6])]
)
def test_seeds(text, seeds):
    assert definition(*TINY, "--seeds", text).seeds == seeds
    assert definition(*TINY).seeds == [0, 1, 2, 3, 4]


def test_the_seeds_of_a_cell():
    cell = Cell("a", CONFIGS["gru_bandit"].config)
    configs = Grid((cell,), (4, 2), {}).configs(cell, "mine")
    assert [(config.seed, config.tracking.group, config.name) for config in configs] == [
        (4, "mine", "gru_bandit"),
        (2, "mine", "gru_bandit"),
    ]
    tracking = dataclasses.replace(cell.config.tracking, group="said")
    cell = Cell("a", dataclasses.replace(cell.config, tracking=tracking))
    assert Grid((cell,), (4,), {}).configs(cell, "mine")[0].tracking.group == "said"


# Files

FILE = """
config = "gru_repeat_first"
seeds = [1, 2]
[sweep]
memory = ["gru", "lstm"]
env.length = [4, 5]
"network.head-features" = [[8, 4], 16]
[overrides]
total-steps = 64
ppo.discount = 0.5
[test]
env.length = [4, 6]
"""


def test_a_file(tmp_path):
    (tmp_path / "mine.toml").write_text(FILE)
    said = definition("--grid", str(tmp_path / "mine.toml"))
    assert (said.name, said.seeds, said.test) == ("mine", [1, 2], {"env.length": [["4"], ["6"]]})
    assert said.sweeps["network.head_features"] == [["8", "4"], ["16"]]
    found = cells("--grid", str(tmp_path / "mine.toml"))
    config = found["memory=lstm,env.length=5,network.head_features=8+4"]
    assert len(found) == 8
    assert (config.env.length, config.network.head_features) == (5, (8, 4))
    assert (config.total_steps, config.ppo.discount) == (64, 0.5)


def test_the_command_line_has_precedence_over_the_file(tmp_path):
    (tmp_path / "mine.toml").write_text(FILE)
    arguments = ["--grid", str(tmp_path / "mine.toml"), "--seeds", "3", "--total-steps", "128"]
    arguments += [
        "--env.length",
        "6",
        "--sweep",
        "memory=none",
        "--sweep",
        "env.symbols=2,3",
        "--network.head-features",
    ]
    assert definition(*arguments).seeds == [3]
    found = cells(*arguments)
    assert list(found) == ["memory=none,env.symbols=2", "memory=none,env.symbols=3"]
    assert {(config.env.length, config.total_steps) for config in found.values()} == {(6, 128)}


@pytest.mark.parametrize("file", sorted(GRIDS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_named_grid_can_be_read(file):
    said = definition("--grid", file.stem)
    found = cells("--grid", file.stem)
    assert len({dataclasses.replace(config, name="same") for config in found.values()}) == len(found) > 1
    grid.check_test(said.test, found)


def test_the_grids_of_the_t_maze_have_all_memories():
    assert set(cells("--grid", "t_maze")) == {f"config={name}" for name in CONFIGS if name.endswith("_t_maze")}
    assert len(cells("--grid", "t_maze_24")) == 7 * 6


# Bad input


def fails(capsys, monkeypatch, *arguments: object) -> str:
    """What is said of bad input on stderr, with status 2, before anything is trained."""
    monkeypatch.setattr(sys, "argv", ["grid", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        command_line.main(grid.run)
    assert caught.value.code == command_line.BAD_INPUT
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sweep", "env.siz=3"], "There is no option --env.siz; did you mean --env.size?"),
        (["--sweep", "env.size=3,x"], "--env.size: invalid literal for int() with base 10: 'x'."),
        (["--sweep", "memory=gru,memmo"], "There is no memory memmo; did you mean memo?"),
        (["--sweep", "env.size=3", "--sweep", "env.size=4"], "env.size is swept twice."),
        (["--sweep", "env.size=3", "--env.size", "4"], "env.size is swept and set: it can only be one of the two."),
        (["--sweep", "env.size=3,3"], "env.size is swept over 3 twice."),
        (["--sweep", "env.size"], "--sweep env.size: it must be FIELD=VALUE,VALUE,.. without an empty value."),
        (["--sweep", "env.size=3,"], "--sweep env.size=3,: it must be FIELD=VALUE,VALUE,.. without an empty value."),
        (["--sweep", "ppo.discount=0.9,.9"], "Cells ppo.discount=0.9 and ppo.discount=.9 are the same."),
        (["--sweep", "seed=3"], "seed is swept by --seeds: leave it out of --sweep."),
        (["--seed", "3"], "Every cell has the seeds of --seeds: leave out --seed."),
        (["--sweep", "name=a,b"], "name cannot be swept: what is learned does not depend on it."),
        (["--sweep", "tracking.group=a"], "tracking.group cannot be swept: what is learned does not depend on it."),
        (["--sweep", "workers=1,2"], "There is no field 'workers' to sweep."),
        (["--seeds", "3..1"], "seeds is '3..1': 1 is less than 3."),
        (["--seeds", "0..3,2"], "seeds is '0..3,2': 2 is in it twice."),
        (["--seeds", "a"], "seeds is 'a': it must be as 0..9, or 0,3,5, or 7."),
        (["--seeds", "4294967296"], "seeds has 4294967296: seeds must be from 0 to 2^32 - 1."),
        (["--workers", "0"], "workers is 0: it must be at least 1."),
        (["--job", "time"], "job has 'time': it must be NAME=VALUE."),
        (["--job", "timeout_min=3"], "job is what jobs of a cluster ask for: it needs --cluster slurm."),
        (["--outptu", "x"], "There is no option --outptu; did you mean --output?"),
        (["--grid", "gridwrld"], "There is no grid gridwrld; did you mean gridworld?"),
        (["--grid", "mine.toml"], "There is no file mine.toml."),
        (["--resume", "nowhere"], "A grid that goes on is the same as before: leave out --sweep."),
    ],
)
def test_bad_input(capsys, monkeypatch, tmp_path, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    more = ["--sweep", "ppo.discount=0.9"] if "--resume" in arguments else ["--config", "gru_gridworld"]
    assert fails(capsys, monkeypatch, *more, *arguments) == sentence
    assert list(tmp_path.iterdir()) == []


def test_everything_that_is_wrong_is_named_at_once(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = [
        "--config",
        "memo_gridworld",
        "--sweep",
        "env.size=3,x",
        "--sweep",
        "ppo.clp=1,2",
        "--sweep",
        "memory=memo,gro",
    ]
    assert fails(capsys, monkeypatch, *arguments).splitlines() == [
        "--env.size: invalid literal for int() with base 10: 'x'.",
        "There is no option --ppo.clp; did you mean --ppo.clip?",
        "There is no memory gro; did you mean gru?",
    ]
    arguments = ["--config", "memo_gridworld", "--sweep", "memory=memo,gru", "--sweep", "memory.layers=1,2"]
    said = fails(capsys, monkeypatch, *arguments).splitlines()
    assert [line.partition(": ")[0] for line in said] == [f"memory=gru,memory.layers={layers}" for layers in (1, 2)]
    assert "There is no option --memory.layers" in said[0]
    assert list(tmp_path.iterdir()) == []


def test_cells_that_cannot_be_built(capsys, monkeypatch, tmp_path):
    """Values that fit together only in some cells, found by building each."""
    monkeypatch.chdir(tmp_path)
    arguments = ["--devices", "2", "--sweep", "ppo.minibatches=2,8", "--sweep", "ppo.discount=0.5,0.6"]
    said = fails(capsys, monkeypatch, *TINY[:-2], *arguments)
    assert said == (
        "ppo.minibatches=8,ppo.discount=0.5 and 1 more: devices is 2 and a minibatch has 1 environments "
        "(ppo.num_envs / ppo.minibatches): the devices must divide the environments of a minibatch."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sweep = 3", "sweep is 3: it must be a table."),
        ("swep = {}", "there is no swep in a grid; did you mean sweep?"),
        ("[sweep]\nmemory = 'gru'", "sweep of memory is 'gru': it must be a list of values, not empty."),
        ("[sweep]\nmemory = []", "sweep of memory is []: it must be a list of values, not empty."),
        ("[sweep]\nmemory = ['gru']\n[overrides]\nmemory = 'fct'", "memory is swept and set: it can only be one of"),
        ("[sweep]\nenv.size = [3]\n'env.size' = [4]", "mine.toml: env.size is in sweep twice."),
        ("[sweep]\nenv.size = [3", "mine.toml is not a TOML file: "),
        ("config = 3", "config is 3: it must be a text."),
        ("[overrides]\nseeds = '0..1'", "seeds cannot be overridden; what is swept is in [sweep], and seeds in seeds."),
        ("[test]\nenv.sice = [3]", "Cannot test on env.sice. There is no field env.sice; did you mean env.size?"),
        ("[test]\nenv.size = [3, 'many']", "Cannot test on --env.size many: --env.size: invalid literal for int()"),
        ("[test]\nenv.size = [3, 0]", "Cannot test on --env.size 0: "),
        ("config = 'lstm_t_maze'\n[test]\nenv.junction_flag = [true]", "lstm_t_maze cannot be tested in "),
    ],
)
def test_bad_files(capsys, monkeypatch, tmp_path, text, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(text)
    more = [] if "config" in text else ["--config", "gru_gridworld"]
    assert sentence in fails(capsys, monkeypatch, "--grid", "mine.toml", *more)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_mode_that_wandb_has_not(capsys, monkeypatch, tmp_path):
    """Said before anything is trained, although it is no argument."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "of")
    assert fails(capsys, monkeypatch, *TINY).startswith("WANDB_MODE is 'of', but must be one of offline, online, ")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_else(tmp_path):
    cell = Cell("a", CONFIGS["gru_bandit"].config)
    folder = tmp_path / "grid"
    folder.mkdir()
    save_grid(Grid((cell,), (0, 1), {}), folder)
    assert load_grid(folder) == Grid((cell,), (0, 1), {})
    claim(Grid((cell,), (0, 1), {}), folder)
    with pytest.raises(
        UsageError, match=r"grid holds another grid: go on with it \(--resume .*\) or name another --ou"
    ):
        claim(Grid((cell,), (0, 2), {}), folder)
    with pytest.raises(UsageError, match=r"cannot be the folder of a grid: it is not empty\.$"):
        claim(Grid((cell,), (0, 1), {}), tmp_path)
    with pytest.raises(UsageError, match=r"^There is no grid in .*: it has no grid\.json\.$"):
        load_grid(tmp_path)
    with grid_lock(folder), pytest.raises(UsageError, match=r"^Another process is working on the grid in "):
        schedule.execute(Grid((cell,), (0, 1), {}), folder)


# Who does what


def test_batches():
    """Of one program each, cut where workers would be idle."""
    config = CONFIGS["gru_bandit"].config
    same = [
        Cell(str(n), dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, learning_rate=n / 10)))
        for n in range(1, 7)
    ]
    other = Cell("other", dataclasses.replace(config, memory=GRU(features=3)))
    assert schedule.batches([*same, other], 1) == [["1", "2", "3", "4", "5", "6"], ["other"]]
    assert schedule.batches([*same, other], 2) == [["1", "2", "3"], ["4", "5", "6"], ["other"]]
    assert sorted(map(len, schedule.batches([*same, other], 20))) == [1] * 7
    assert sorted(name for batch in schedule.batches([*same, other], 4) for name in batch) == [
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
        "other",
    ]


def test_each_worker_has_gpus_of_its_own(monkeypatch, tmp_path):
    """And no more of them, or of virtual devices on a CPU, than a run asks for."""

    def places(devices: int | None, count: int | None = None) -> places_of_workers.Places:
        config = dataclasses.replace(CONFIGS["gru_bandit"].config, devices=devices)
        return places_of_workers.Places(tmp_path, 0, Grid((Cell("a", config),), (0,), {}), count, "pool", {})

    assert places(None).environments == [{"JAX_NUM_CPU_DEVICES": "1"}]
    assert places(2, 3).environments == [{"JAX_NUM_CPU_DEVICES": "2"}] and places(2, 3).count == 3
    monkeypatch.setattr(places_of_workers.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(places_of_workers.jax, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert places(None).environments == [{"CUDA_VISIBLE_DEVICES": str(gpu)} for gpu in range(4)]
    assert places(None).count == 4 and places(None, 8).count == 8  # two to a GPU
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6")
    assert places(2).environments == [{"CUDA_VISIBLE_DEVICES": "3,5"}] and places(2).count == 1
    with pytest.raises(UsageError, match=r"^devices is 4 and this machine offers 3 of them\.$"):
        places(4)


# In processes


def learned(folder: Path) -> dict[str, list[dict]]:
    """The metrics of all runs, without those that depend on the machine."""
    return {
        str(path.parent.relative_to(folder)): [
            {name: value for name, value in line.items() if name not in ("seconds", "steps_per_second")}
            for line in read_metrics(path)
        ]
        for path in folder.rglob("metrics.jsonl")
    }


GRID = [*TINY, "--sweep", "ppo.learning-rate=0.001,1e30", "--seeds", "0..1", "--workers", "1"]
"""Two cells of one program, of which the second diverges."""


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory) -> tuple[Path, str]:
    """The folder of a grid that nothing disturbed, and what it said."""
    folder = tmp_path_factory.mktemp("grids") / "finished"
    return folder, finish(start("grid", *GRID, "--output", folder), schedule.FAILED)


@pytest.mark.timeout(300)
def test_a_cell_that_fails_leaves_the_others_alone(finished):
    folder, said = finished
    good, bad = (folder / f"ppo.learning_rate={rate}" for rate in ("0.001", "1e30"))
    assert read_status(good)["state"] == "done" and read_status(bad)["state"] == "failed"
    assert "Training diverged: " in read_status(bad)["error"]
    assert Path(read_status(bad)["log"]).read_text().count("Traceback") >= 1
    assert f"done    {good.name}" in said and f"failed  {bad.name}" in said and "Training diverged: " in said
    assert f"1 of 2 cells failed; to try them again: python -m experiments.grid --resume {folder}\n" in said
    for seed in (0, 1):
        run = good / f"seed{seed}"
        config = json.loads((run / "config.json").read_text())
        assert (config["seed"], config["tracking"]["group"]) == (seed, "finished")
        (record,) = json.loads((run / "environment.json").read_text())
        assert record["command"] == ["python", "-m", "experiments.grid", *GRID, "--output", str(folder)]
        assert [line["update"] for line in read_metrics(run / "metrics.jsonl")] == list(range(1, UPDATES + 1))
        assert (run / "evaluation.json").exists()
    assert load_grid(folder).seeds == (0, 1)


@pytest.mark.timeout(300)
def test_a_report_of_what_is_done(finished, tmp_path, capsys):
    """Says what is not."""
    folder, _ = finished
    assert report.run([str(folder), "--output", str(tmp_path)]) == 0
    failed = "ppo.learning_rate=1e30 is failed: DivergedError: Seed 0: Training diverged: "
    assert f"Left out: {failed}" in capsys.readouterr().out
    assert f"Cells that are not done, and left out: {failed}" in (tmp_path / "report.md").read_text()
    assert len(json.loads((tmp_path / "report.json").read_text())["arms"]) == 1
    with pytest.raises(UsageError, match=r"^No cell is done: ppo\.learning_rate=1e30 is failed: "):
        report.run([str(folder / "ppo.learning_rate=1e30")])


@pytest.mark.timeout(300)
def test_what_is_done_stays_and_what_failed_is_tried_again(finished, capsys):
    folder, _ = finished
    good = folder / "ppo.learning_rate=0.001"
    before = {path: path.read_bytes() for path in good.rglob("*") if path.is_file()}
    first_log = read_status(folder / "ppo.learning_rate=1e30")["log"]
    assert schedule.execute(load_grid(folder), folder) == schedule.FAILED
    assert "2 cells of 2 seeds, 1 of them done; 1 at a time." in capsys.readouterr().out
    assert {path: path.read_bytes() for path in good.rglob("*") if path.is_file()} == before
    assert read_status(folder / "ppo.learning_rate=1e30")["log"] != first_log


@pytest.mark.timeout(300)
def test_killed_and_resumed_is_the_same_grid(start, finished, tmp_path):
    """Killed without warning: its workers notice, save and stop, and until then nobody else can work on it."""
    folder = tmp_path / "finished"  # as the other: the name of a grid is in its configs
    process = start("grid", *GRID, "--output", folder)
    wait_for(process, folder, 5)
    process.kill()
    finish(process, -signal.SIGKILL)
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.close(descriptor)
    good = "ppo.learning_rate=0.001"
    assert read_status(folder / good)["state"] != "done"
    assert schedule.execute(load_grid(folder), folder) == schedule.FAILED
    assert learned(folder / good) == learned(finished[0] / good)
    for seed in (0, 1):
        one, other = (root / good / f"seed{seed}" / "evaluation.json" for root in (folder, finished[0]))
        assert one.read_text() == other.read_text()


STOPPED_WHILE_IT_EVALUATES = """
import os, signal, sys, time
from pathlib import Path
from experiments.workers import work

def train_cell(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

work.train_cell = train_cell
sys.exit(work.work(Path(sys.argv[1]), ["a", "b"], "its log"))
"""


def test_a_signal_while_nothing_is_trained_stops_a_worker(run_python, tmp_path):
    """A cell that is evaluated, or compiled, is not failed by it: another worker goes on with it."""
    save_grid(Grid(tuple(Cell(name, CONFIGS["gru_bandit"].config) for name in "ab"), (0,), {}), tmp_path)
    assert run_python("-c", STOPPED_WHILE_IT_EVALUATES, tmp_path).returncode == 128 + signal.SIGTERM
    assert [read_status(tmp_path / name)["state"] for name in "ab"] == ["stopped", "waiting"]


@pytest.mark.timeout(300)
def test_a_worker_that_is_killed_fails_its_cell(start, tmp_path):
    folder = tmp_path / "grid"
    process = start(
        "grid",
        *TINY,
        "--total-steps",
        "1000000",
        "--sweep",
        "ppo.discount=0.5,0.6",
        "--seeds",
        "0",
        "--workers",
        "1",
        "--output",
        folder,
    )
    wait_for(process, folder, 1)
    worker = int((folder / "ppo.discount=0.5" / "lock").read_text())
    os.kill(worker, signal.SIGKILL)
    first, second = (folder / f"ppo.discount={discount}" for discount in (0.5, 0.6))
    wait_for(process, second, 1)
    assert read_status(first)["error"] == "Its worker ended by SIGKILL."
    process.terminate()
    said = finish(process, 128 + signal.SIGTERM)
    again = f"python -m experiments.grid --resume {folder}"
    assert f"Stopped by SIGTERM, everything is saved; to go on: {again}\n" in said
    assert f"failed  {first.name}" in said
    assert read_status(second)["state"] == "stopped"


@pytest.mark.timeout(300)
def test_jobs_of_a_cluster(start, tmp_path):
    folder = tmp_path / "grid"
    arguments = ["--seeds", "0", "--workers", "2", "--cluster", "local", "--job", "timeout_min=5", "--output", folder]
    said = finish(start("grid", *GRID, *arguments), schedule.FAILED)
    assert "done    ppo.learning_rate=0.001" in said and "failed  ppo.learning_rate=1e30" in said
    assert Path(read_status(folder / "ppo.learning_rate=0.001")["log"]).parent == folder / "jobs"


def test_bad_jobs(tmp_path):
    cell = Cell("a", CONFIGS["gru_bandit"].config)
    with pytest.raises(UsageError, match=r"^--cluster local: Parameter|Unknown"):
        schedule.execute(Grid((cell,), (0,), {}), tmp_path / "grid", cluster="local", job={"timeout_hours": 3})


def test_a_machine_that_submits_no_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    cell = Cell("a", CONFIGS["gru_bandit"].config)
    message = r"^--cluster slurm: this machine has no sbatch; start the grid where jobs are submitted\.$"
    with pytest.raises(UsageError, match=message):
        schedule.execute(Grid((cell,), (0,), {}), tmp_path / "grid", cluster="slurm")
