"""The evaluation of a run, as a user calls it."""

import json
import shutil

import pytest
from PIL import Image
from tools import main_of

from envs.dark_key_to_door import DarkKeyToDoor
from experiments import evaluate, run
from experiments.reporting.table import summary
from experiments.runs import evaluation
from experiments.runs.evaluation import evaluate_run

TINY = [
    *("--config", "fct_gridworld", "--total-steps", "112", "--tracking.wandb", "disabled"),
    *("--env.size", "3", "--env.attempt-limit", "4", "--env.trial-length", "10"),
    *("--memory.features", "8", "--memory.layers", "1", "--memory.heads", "2", "--memory.mlp-features", "8"),
    *("--memory.context", "10"),
    *("--network.encoder-features", "8", "--network.head-features", "8"),
    *("--ppo.num-envs", "8", "--ppo.unroll-length", "7", "--ppo.epochs", "1", "--ppo.minibatches", "2"),
    *("--evaluation.num-trials", "4", "--evaluation.horizons", "1", "2", "--evaluation.budgets", "0.5"),
]

PICTURES = ["horizons.png", "in_context.png", "training.png"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a complete run; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert run.run([*TINY, "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(trained, tmp_path / "run")


main = main_of(evaluate.run)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def result_in(folder):
    return json.loads((folder / "evaluation.json").read_text())


def test_a_run_ends_with_its_evaluation(trained):
    result = result_in(trained)
    assert (result["config"], result["update"], result["seed"]) == ("fct_gridworld", 2, 0)
    assert result["players"] == ["oracle", "searcher"]
    budgets = [(entry["horizon"], entry["budget"]) for entry in result["windows"]]
    assert budgets == [(10, None), (10, 5), (20, None), (20, 5)]
    for entry in result["windows"]:
        assert len(entry["oracle_return_per_window"]) == len(entry["searcher_return_per_window"])
    for name in PICTURES:
        with Image.open(trained / name) as image:
            assert image.format == "PNG"
    with Image.open(trained / "trial.gif") as image:
        assert image.n_frames == 11  # before the first step and after each of ten
        assert image.width >= evaluation.NARROWEST_ANIMATION


def test_the_tool_in_a_process_of_its_own(trained, folder, run_python):
    """It makes the same figures from the checkpoint, and leaves alone what training wrote."""
    before = contents(folder)
    process = run_python("-m", "experiments.evaluate", folder)
    assert (process.returncode, process.stderr) == (0, "")
    assert result_in(folder) == result_in(trained)
    changed = {path.name for path, content in contents(folder).items() if before.get(path) != content}
    assert changed <= {"evaluation.json", "trial.gif", *PICTURES}

    said = process.stdout.splitlines()
    assert said[0] == f"{folder}: evaluating update 2, 4 trials for each line."
    assert said[1].split()[:2] == ["trial", "remembers"]
    for line, entry in zip(said[2:6], result_in(folder)["windows"], strict=True):
        returns, oracle = entry["return_per_window"], entry["oracle_return_per_window"]
        assert line.split() == [
            str(entry["horizon"]),
            str(entry["budget"] or "all"),
            f"{returns[0]:.2f}",
            f"{returns[-1]:.2f}",
            f"{sum(returns):.2f}",
            f"{100 * sum(returns) / sum(oracle):.1f}",
            f"{entry['state_bytes_per_env']:,}",
            f"{entry['tokens_attended']:.1f}",
        ]
    assert said[6].startswith("oracle: ") and said[7].startswith("searcher: ")
    assert said[-1] == f"Written to {folder}: evaluation.json, in_context.png, horizons.png, training.png, trial.gif"


def test_settings_are_overridden(folder, monkeypatch, capsys):
    """What is not said is as in the config of the run, and the new result takes the place of the old."""
    arguments = ("--evaluation.num-trials", "6", "--evaluation.horizons", "1", "--evaluation.seed=3")
    status, said, _ = main(monkeypatch, capsys, folder, *arguments)
    assert status == 0 and "6 trials for each line" in said
    entries = result_in(folder)["windows"]
    assert (result_in(folder)["num_trials"], result_in(folder)["seed"]) == (6, 3)
    assert len(entries[0]["return_per_window"]) == 5


def test_an_environment_without_players_and_pictures(folder, monkeypatch, capsys):
    (folder / "trial.gif").unlink()
    (folder / "metrics.jsonl").unlink()
    monkeypatch.delattr(DarkKeyToDoor, "players")
    monkeypatch.delattr(DarkKeyToDoor, "render")
    result = evaluate_run(folder)
    assert result["players"] == [] and result["in_context"]["last_window_over_upper_bound"] is None
    assert not any("oracle" in name for name in result["windows"][0])
    said = capsys.readouterr().out
    assert "oracle" not in said and "There is no trial.gif" in said
    assert said.endswith(": evaluation.json, in_context.png, horizons.png\n")
    assert not (folder / "trial.gif").exists()


def test_summary():
    entry = {"return_per_window": [2.0, 3.0, 6.0], "oracle_return_per_window": [8.0, 8.0, 8.0]}
    gain = {"last_window_over_upper_bound": 0.75, "last_window_over_first": 3.0}
    result = {
        "trial_length": 30, "window_length": 10, "players": ["oracle"], "in_context": gain, "windows": [entry]
    }  # fmt: skip
    assert summary(result).splitlines() == [
        "oracle: 24.00 in 30 steps, 8.00 in the first 10, 8.00 in the last.",
        "In the last 10 of 30 steps the agent collects 75.0% of what the oracle does in 10 on average.",
        "In the last 10 of 30 steps the agent collects 3.00 times its first 10.",
    ]


# Bad input


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--evaluation.num-trial", "8"], "There is no option --evaluation.num-trial; did you mean --evaluation.num-"),
        (["--evaluation.num-trials", "1"], "evaluation.num_trials is 1: it must be at least 2.\n"),
        (
            ["--evaluation.num-trials", "many"],
            "--evaluation.num-trials: invalid literal for int() with base 10: 'many'",
        ),
        (["--evaluation.horizons", "2", "4"], "evaluation.horizons is (2, 4): all must be at least 1, and 1 among the"),
        (["--evaluation.windows-per-trial", "3"], "windows_per_trial is 3 and a trial has 10 steps"),
        (["--ppo.num-envs", "8"], "There is no option --ppo.num-envs"),
        (["another"], "There is an argument too many: another."),
    ],
    ids=lambda value: None if isinstance(value, str) else "_".join(value),
)
def test_bad_arguments(arguments, sentence, trained, monkeypatch, capsys):
    before = contents(trained)
    status, _, said = main(monkeypatch, capsys, trained, *arguments)
    assert status == 2 and sentence in said and said.count("\n") == 1
    assert contents(trained) == before


def test_no_folder(tmp_path, monkeypatch, capsys):
    status, _, said = main(monkeypatch, capsys)
    assert (status, said) == (2, "Name the folder of a run: python -m experiments.evaluate FOLDER.\n")
    status, _, said = main(monkeypatch, capsys, tmp_path / "nowhere")
    assert (status, said) == (2, f"There is no run in {tmp_path / 'nowhere'}: it has no config.json.\n")


def test_no_checkpoint(folder, monkeypatch, capsys):
    shutil.rmtree(folder / "checkpoints")
    before = contents(folder)
    status, _, said = main(monkeypatch, capsys, folder)
    assert (status, said) == (2, f"There is no checkpoint in {folder / 'checkpoints'}.\n")
    assert contents(folder) == before


def test_damaged_checkpoint(folder, monkeypatch, capsys):
    description = next(folder.glob("checkpoints/2/description/*"))
    description.write_text(description.read_text()[:-5])
    before = contents(folder)
    status, _, said = main(monkeypatch, capsys, folder)
    assert status == 2 and "checkpoints/2 is damaged: " in said and said.count("\n") == 1
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("features", 16, "is of another model"),
        ("positions", "none", "is of another run: its memory.positions is not the"),
    ],
    ids=["other shapes", "same shapes"],
)
def test_checkpoint_of_another_run(folder, field, value, sentence, monkeypatch, capsys):
    config = json.loads((folder / "config.json").read_text())
    config["memory"][field] = value
    (folder / "config.json").write_text(json.dumps(config))
    status, _, said = main(monkeypatch, capsys, folder)
    assert status == 2 and sentence in said and said.count("\n") == 1


def test_help(run_python):
    process = run_python("-m", "experiments.evaluate", "--help")
    assert process.returncode == 0
    for name in ("FOLDER", "--evaluation.num-trials", "--evaluation.horizons", "Lengths of the trials"):
        assert name in process.stdout
    assert "--ppo" not in process.stdout
