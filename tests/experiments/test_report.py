"""Reports of runs that nobody trained, whose figures are known."""

import json
import re

import numpy as np
import pytest
import scipy.stats
from PIL import Image
from synthetic_runs import episodes, gridworld, t_maze, windows, write_run
from tools import main_of

from experiments import report
from experiments.reporting.comparison import binned
from experiments.reporting.published import PUBLISHED, published
from experiments.reporting.text import clock, interval, number
from experiments.runs.find import find_runs
from memrl.statistics import INTERVAL

SUCCESS = {"gru": 0.9, "fct": 0.6, "none": 0.25}
"""Of seed 1; a twentieth less and more for seeds 0 and 2."""
LEVEL = {"gru": 5.0, "fct": 3.0, "none": 1.0}
"""Return in the first window, of seed 1; a half less and more for seeds 0 and 2."""


def write_t_maze(folder, memory, seeds=(0, 1, 2)):
    for seed in seeds:
        evaluation = episodes(memory, SUCCESS[memory] + 0.05 * (seed - 1))
        write_run(folder / f"{memory}{seed}", t_maze(memory), seed, evaluation)


def write_gridworld(folder, memory, seeds=(0, 1, 2)):
    for seed in seeds:
        evaluation = windows(memory, LEVEL[memory] + 0.5 * (seed - 1))
        write_run(folder / f"{memory}{seed}", gridworld(memory), seed, evaluation)


def written(folder):
    """The numbers, the text, and the names of the figures of the report in `folder`."""
    numbers, text = json.loads((folder / "report.json").read_text()), (folder / "report.md").read_text()
    pictures = sorted(path.stem for path in folder.glob("*.png"))
    assert {path.name for path in folder.iterdir()} == {
        "report.json",
        "report.md",
        *(f"{name}.{kind}" for name in pictures for kind in ("png", "svg")),
    }
    assert re.findall(r"!\[[^]]+\]\((.+)\.png\)", text) == re.findall(r"\(\[SVG\]\((.+)\.svg\)\)", text)
    assert sorted(re.findall(r"!\[[^]]+\]\((.+)\.png\)", text)) == pictures  # each is shown, and none else
    return numbers, text, pictures


def table(text, title):
    """The rows of the first table after `title`: lists of cells, the first of them the head."""
    lines = text[text.index(title) :].splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    assert {len(row) for row in rows} == {len(rows[0])}
    return [rows[0], *rows[2:]]


main = main_of(report.run)


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory):
    """The folder of runs of three memories in two tasks, three seeds each, with the report on them."""
    folder = tmp_path_factory.mktemp("two_tasks")
    for memory in ("gru", "fct", "none"):
        write_t_maze(folder / "t_maze", memory)
        write_gridworld(folder / "gridworld", memory)
    assert report.run([str(folder)]) == 0
    return folder


def test_the_tool_in_a_process_of_its_own(tmp_path, run_python):
    """One arm with one seed: no intervals, and it says so. A report that is there is replaced, other files stay."""
    write_t_maze(tmp_path, "gru", seeds=(2,))
    (tmp_path / "report").mkdir()
    for name in ("report.md", "notes.txt"):
        (tmp_path / "report" / name).write_text("old")
    process = run_python("-m", "experiments.report", tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == (
        f"1 run in 1 arm. Written to {tmp_path / 'report'}: report.md, report.json, 3 figures as PNG and SVG.\n"
    )
    assert (tmp_path / "report" / "notes.txt").read_text() == "old"
    (tmp_path / "report" / "notes.txt").unlink()
    numbers, text, pictures = written(tmp_path / "report")
    assert pictures == ["learning_curves", "published", "settings"]
    assert "One seed only, 2: there are no intervals" in text and "[0." not in text
    assert table(text, "### In the setting trained in") == [
        ["policy", "success", "return", "return, share from memoryless to oracle"],
        ["gru", "0.95", "2.85", "0.93"],
        ["*oracle*", "1.00", "3.00", "1.00"],
        ["*memoryless*", "0.25", "0.75", "0.00"],
    ]
    assert numbers["tasks"]["t_maze"]["main"]["success"]["gru"]["low"] is None
    assert "Bands" not in text and "Differences" not in text
    assert numbers["aggregate"] is None


def test_what_was_run(two_tasks):
    numbers, text, _ = written(two_tasks / "report")
    rows = table(text, "## What was run")
    steps = {"t_maze": 4 * 64 * 128, "dark_key_to_door": 4 * gridworld().steps_per_update}
    assert [(row[0], *row[2:5], *row[6:]) for row in rows[1:]] == [
        (f"memory={memory}, env={env}", memory, env, "3", "0:04:30", "0123456789")
        for env in ("dark_key_to_door", "t_maze")
        for memory in ("none", "gru", "fct")
    ]
    assert all(row[5] == f"{steps[row[3]]:,}" for row in rows[1:])
    assert "over 3 seeds (0, 1, 2)" in text and INTERVAL in text and "it is their mean" in text
    assert "up to 63% of other seeds may still fail" in text  # 0.37³ is 0.05
    assert numbers["arms"][0]["commands"] == ["--seed 0", "--seed 1", "--seed 2"]
    assert "```\n--seed 0\n--seed 1\n--seed 2\n```" in text


def around(found, value, step):
    """Whether `found` is the interval of three seeds that are a `step` apart: theirs of Student's t, the mean ± 4.303
    standard errors."""
    away = scipy.stats.t.ppf(0.975, 2) * step / 3**0.5
    assert found["value"] == pytest.approx(value)
    assert (found["low"], found["high"]) == pytest.approx((value - away, value + away), abs=0.05 * away)
    return interval(found)


def test_figures_of_trials(two_tasks):
    """Of three seeds the interquartile mean is the mean, with the interval of Student's t."""
    numbers, text, _ = written(two_tasks / "report")
    found = numbers["tasks"]["dark_key_to_door"]
    of_gru = {name: measure["gru"] for name, measure in found["main"].items()}
    of_trial = of_gru["return in a trial"]
    told = around(of_trial, 35, 2.5)
    assert (of_trial["min"], of_trial["max"], of_trial["seeds"]) == (32.5, 37.5, [32.5, 35.0, 37.5])
    assert of_gru["return in the last window"]["seeds"] == [8.5, 9.0, 9.5]
    assert of_gru["trial, share of oracle"]["value"] == pytest.approx(35 / 50)
    assert of_gru["last window, share of oracle"]["value"] == pytest.approx(9 / 10)
    rows = table(text, "### In the setting trained in")
    assert rows[0][:4] == ["policy", "return in a trial", "least to most", "return in the last window"]
    assert rows[2][:4] == ["gru", told, "32.50 to 37.50", around(of_gru["return in the last window"], 9, 0.5)]
    assert rows[5][:4] == ["*searcher*", "40.00", "", "8.00"]

    assert "A window has 20 steps." in text
    assert found["horizons"]["time"] == list(range(10, 200, 20))
    assert found["horizons"]["curves"]["gru"]["value"] == pytest.approx(np.arange(5.0, 15.0))
    rows = table(text, "### Longer trials")
    assert rows[0] == ["policy", "100 steps", "200 steps", "200 less 100"]
    cells = [
        around(one, value, 0.5) for one, value in zip(found["horizons"]["last_window"]["gru"], (9, 14), strict=True)
    ]
    assert rows[2] == ["gru", *cells, "5.00"]  # by the same in each seed: nothing tells how much it varies
    assert rows[4] == ["*oracle*", "10.00", "10.00", ""]

    rows = table(text, "### What memory costs")
    assert [row[:4] for row in rows[2:]] == [
        ["gru", "all", "12,800", "8.0"],
        ["fct", "all", "12,800", "8.0"],
        ["fct", "5 steps", "320", "8.0"],
    ]
    assert rows[4][4:] == [around(found["memory"]["sizes"]["fct"][1], 11, 0.5), "-1.00"]
    assert rows[3][5] == ""


def test_figures_of_episodes(two_tasks):
    numbers, text, _ = written(two_tasks / "report")
    text = text[text.index("## t_maze") :]
    found = numbers["tasks"]["t_maze"]
    assert found["main"]["success"]["fct"]["seeds"] == pytest.approx([0.55, 0.6, 0.65])
    rows = table(text, "### Other settings")
    assert rows[0] == ["setting", "none", "gru", "fct", "*oracle*", "*memoryless*"]
    assert [row[0] for row in rows[1:]] == ["as trained", "corridors=1", "corridors=5"]
    cells = [
        around(found["settings"]["policies"][memory][2], value, 0.05) for memory, value in (("gru", 0.7), ("fct", 0.4))
    ]
    assert rows[3][2:4] == cells
    assert [row[1] for row in table(text, "### What memory costs")[1:]] == ["all", "all", "all", "5 steps"]
    assert found["memory"]["sizes"]["fct"][1]["value"] == pytest.approx(0.4)

    # The first update ended no trial; in the others seed 0 has returns 2, 3, 4, and each seed one more.
    curve = found["learning"]["curves"]["gru"]
    assert curve["env_steps"] == [2 * 8192, 3 * 8192, 4 * 8192]
    assert curve["seeds"] == [[2, 3, 4], [3, 4, 5], [4, 5, 6]]
    for point, value in enumerate((3, 4, 5)):
        around({name: curve[name][point] for name in ("value", "low", "high")}, value, 1)
    assert found["learning"]["references"] == {"oracle": 3.0, "memoryless": 0.75}


def test_published_figures(two_tasks):
    numbers, text, _ = written(two_tasks / "report")
    rows = table(text, "### Beside published figures")[1:]
    assert {row[0] for row in rows} == {"gru", "none"}  # no paper has a full-context transformer in this task
    found = {(row["policy"], row["setting"]): row["ours"] for row in numbers["tasks"]["t_maze"]["published"]}
    told = interval(found["gru", "as trained"])
    assert told.startswith("0.90 [0.7") and told.endswith(", 1.00]")  # no more than all
    assert ["gru", "as trained", "success", told, "0.90", "0.68"] in [row[:6] for row in rows]
    told = interval(found["none", "corridors=5"])
    assert told.startswith("0.05 [0.00, 0.1")  # no less than none
    assert ["none", "corridors=5", "success", told, "0.05", "0.04"] in [row[:6] for row in rows]
    assert all(row[7] == "read off a plot" for row in rows)
    assert numbers["tasks"]["dark_key_to_door"]["published"] == []  # published for other sizes only


def test_over_several_tasks(two_tasks):
    numbers, text, pictures = written(two_tasks / "report")
    found = numbers["aggregate"]
    assert table(text, "Scores are normalised to")[1:] == [
        ["dark_key_to_door", "return in a trial", "the policy without memory: 15.00", "the player oracle: 50.00"],
        ["t_maze", "success", "the player memoryless: 0.25", "the player oracle: 1.00"],
    ]
    scores = np.array(found["scores"]["gru"])  # [seeds, tasks]
    np.testing.assert_allclose(scores[:, 0], [17.5 / 35, 20 / 35, 22.5 / 35])
    np.testing.assert_allclose(scores[:, 1], [0.6 / 0.75, 0.65 / 0.75, 0.7 / 0.75])
    middle = np.sort(scores, axis=None)[1:-1]
    assert found["interquartile_mean"]["gru"]["value"] == pytest.approx(middle.mean())
    assert found["improvement"]["gru"]["fct"]["value"] == 1 and found["improvement"]["none"]["fct"]["value"] == 0
    assert found["profile"]["gru"]["value"][::50] == [1, pytest.approx(5 / 6), 0]  # above 0, 0.5 and 1; one is 0.5
    rows = table(text, "Probability that a run")
    assert rows[0] == ["", "none", "gru", "fct"] and rows[2] == [
        "gru", "1.00 [0.67, 1.00]", "", "1.00 [0.67, 1.00]",
    ]  # fmt: skip
    assert pictures == [
        "horizons-dark_key_to_door",
        "improvement",
        "interquartile_mean",
        "learning_curves-dark_key_to_door",
        "learning_curves-t_maze",
        "memory-dark_key_to_door",
        "memory-t_maze",
        "performance_profile",
        "published-t_maze",
        "settings-t_maze",
    ]


def test_differences(two_tasks):
    """Every two of three policies, paired by seed; those of which the interval leaves out 0 are bold."""
    numbers, _, _ = written(two_tasks / "report")
    found = numbers["tasks"]["t_maze"]["differences"]
    assert list(found) == ["success", "success, corridors=1", "success, corridors=5"]
    pairs = [("gru", "fct"), ("gru", "none"), ("fct", "none")]
    assert all([(row["policy"], row["other"]) for row in rows] == pairs for rows in found.values())
    # Each seed adds as much to all of them: the differences do not vary.
    assert [(row["value"], row["low"]) for row in found["success"]] == [
        (pytest.approx(0.3), None), (pytest.approx(0.65), None), (pytest.approx(0.35), None),
    ]  # fmt: skip
    lengths = numbers["tasks"]["dark_key_to_door"]["differences"]
    assert list(lengths)[2:] == ["return in the last window of 200 steps"]


def test_differences_are_bold_where_their_interval_leaves_out_zero(tmp_path):
    levels = {"gru": (0.9, 0.8, 0.85), "lstm": (0.85, 0.9, 0.8), "none": (0.3, 0.35, 0.2)}
    for memory, of_seeds in levels.items():
        for seed, level in enumerate(of_seeds):
            write_run(tmp_path / f"{memory}{seed}", t_maze(memory), seed, episodes(memory, level, splits=()))
    assert report.run([str(tmp_path)]) == 0
    numbers, text, _ = written(tmp_path / "report")
    rows = {row[0]: row[1] for row in table(text, "### Differences")[1:]}
    found = {(row["policy"], row["other"]): row for row in numbers["tasks"]["t_maze"]["differences"]["success"]}
    assert set(rows) == {f"{one} less {other}" for one, other in found} and len(rows) == 3
    for (one, other), row in found.items():
        differ = scipy.stats.ttest_rel(levels[one], levels[other]).pvalue < 0.05
        assert differ == ("none" in (one, other))
        assert rows[f"{one} less {other}"].startswith("**") == differ
        assert (row["low"] <= 0 <= row["high"]) != differ


def test_many_policies_are_compared_with_the_best(tmp_path):
    levels = {"none": 0.2, "elman": 0.5, "gru": 0.6, "lstm": 0.9, "fct": 0.4, "memo": 0.3, "rmt": 0.7}
    for memory, level in levels.items():
        for seed in range(3):
            evaluation = episodes(memory, level + 0.01 * seed**2 * level, splits=())
            write_run(tmp_path / f"{memory}{seed}", t_maze(memory), seed, evaluation)
    assert report.run([str(tmp_path)]) == 0
    rows = table(written(tmp_path / "report")[1], "### Differences")
    assert rows[0] == ["policy", "success, less lstm"]
    assert {row[0] for row in rows[1:]} == levels.keys() - {"lstm"}
    assert all(row[1].startswith("**-0.") for row in rows[1:])


def test_two_seeds_have_no_intervals(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"run{seed}", t_maze(), seed, episodes(success=0.5 + 0.1 * seed))
    assert report.run([str(tmp_path)]) == 0
    numbers, text, _ = written(tmp_path / "report")
    assert "2 seeds only (0, 1)" in text and "there are no intervals" in text
    assert "[0." not in text and "Bands" not in text and "Bars" not in text and "### Differences" not in text
    assert table(text, "### In the setting trained in")[1][:3] == ["gru", "0.55", "0.50 to 0.60"]
    assert numbers["tasks"]["t_maze"]["main"]["success"]["gru"]["low"] is None


@pytest.mark.parametrize("name", ["report.json", ""], ids=["file", "folder"])
def test_a_report_is_made_again_from_its_numbers(name, two_tasks, tmp_path, capsys):
    """Where the runs are gone: everything is as it was, and what intervals there were is made anew."""
    old = tmp_path / "old"
    old.mkdir()
    numbers = json.loads((two_tasks / "report" / "report.json").read_text())
    numbers["interval"] = "of another kind"
    numbers["tasks"]["t_maze"]["main"]["success"]["gru"]["low"] = -7.0
    (old / "report.json").write_text(json.dumps(numbers))
    new = tmp_path / "new" if name else old  # elsewhere, or in its place
    assert report.run([str(old / name), *(["--output", str(new)] if name else [])]) == 0
    assert capsys.readouterr().out.startswith(f"18 runs in 6 arms. Written to {new}: ")
    for path in (two_tasks / "report").iterdir():
        assert (new / path.name).read_bytes() == path.read_bytes(), path.name


def test_curves_of_which_no_seed_was_kept_have_no_bands(two_tasks, tmp_path):
    numbers = json.loads((two_tasks / "report" / "report.json").read_text())
    for curve in numbers["tasks"]["t_maze"]["learning"]["curves"].values():
        del curve["seeds"]
    (tmp_path / "report.json").write_text(json.dumps(numbers))
    assert report.run([str(tmp_path)]) == 0
    again, text, _ = written(tmp_path)
    curve = again["tasks"]["t_maze"]["learning"]["curves"]["gru"]
    assert (curve["value"], curve["low"], curve["high"]) == ([3, 4, 5], None, None)
    text = text[text.index("## t_maze") :]
    assert "so there are no bands. Lines across" in text and "Bands" not in text[: text.index("###", 40)]


def test_pictures(two_tasks):
    for path in (two_tasks / "report").glob("*.png"):
        with Image.open(path) as image:
            assert image.format == "PNG" and min(image.size) > 300, path
        assert path.with_suffix(".svg").read_text().lstrip().startswith("<?xml")


def test_the_same_runs_give_the_same_report(two_tasks, tmp_path):
    assert report.run([str(two_tasks), "--output", str(tmp_path / "again")]) == 0
    for path in (two_tasks / "report").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_without_players_metrics_or_success(tmp_path):
    """What is not known is left out."""
    for memory, length in (("gru", 5), ("gru", 10), ("lstm", 5)):
        for seed in (0, 1):
            evaluation = episodes(players=False, told=False, splits=())
            folder = write_run(tmp_path / f"{memory}{length}-{seed}", t_maze(memory, length=length), seed, evaluation)
            for name in ("metrics.jsonl", "environment.json"):
                (folder / name).unlink()
    assert report.run([str(tmp_path)]) == 0
    numbers, text, pictures = written(tmp_path / "report")
    assert pictures == []
    assert list(numbers["tasks"]["env.length=5"]["main"]) == ["return"]
    assert "env.length=5, since no player shows what can be reached; env.length=10, since no player shows" in text
    assert "No policy is in every task" in text
    assert table(text, "## What was run")[1][6:] == ["", ""]
    for absent in ("oracle", "### Other settings", "### Longer trials", "### Beside published", "## Command lines"):
        assert absent not in text


def test_policies_that_are_not_in_every_task_are_left_out(tmp_path):
    write_t_maze(tmp_path / "a", "gru")
    write_t_maze(tmp_path / "a", "none")
    write_gridworld(tmp_path / "b", "gru")
    assert report.run([str(tmp_path), "--output", str(tmp_path / "report")]) == 0
    numbers, text, _ = written(tmp_path / "report")
    assert list(numbers["aggregate"]["scores"]) == ["gru"] and "Not in every task, and left out: none." in text
    assert numbers["aggregate"]["tasks"]["dark_key_to_door"]["0"] == ["no return", 0]


def test_trials_of_one_length_in_several_settings(tmp_path):
    """Settings whose outcome is not reported are compared by the share of what the best player reaches."""
    played = episodes(success=0.6, told=False, splits=("size=7",))["episodes"]
    write_run(tmp_path / "run", gridworld(), 0, {**windows(horizons=(100,)), "players": ["oracle"], "episodes": played})
    assert report.run([str(tmp_path)]) == 0
    _, text, pictures = written(tmp_path / "report")
    assert pictures == ["horizons", "learning_curves", "settings"]
    assert "### Over a trial" in text and "### Longer trials" not in text
    assert "Return in the last 20 steps of a trial" not in text
    assert table(text, "### Other settings")[2] == ["size=7", "1.50", "3.00"]
    assert "Return (share of oracle) of each policy" in text


def test_more_policies_than_settings(tmp_path):
    for memory in ("none", "gru", "lstm", "fct"):
        write_run(tmp_path / memory, t_maze(memory), 0, episodes(memory, 0.6))
    assert report.run([str(tmp_path)]) == 0
    rows = table(written(tmp_path / "report")[1], "### Other settings")
    assert rows[0] == ["policy", "as trained", "corridors=1", "corridors=5"]
    assert [row[0] for row in rows[1:]] == ["none", "gru", "lstm", "fct", "*oracle*", "*memoryless*"]
    assert rows[4] == ["fct", "0.60", "0.50", "0.40"]


def test_learning_curves_are_means_over_trials(tmp_path):
    """Of those that ended since the point before: two updates, of 10 and 30 trials, for each of two points."""
    folder = write_run(tmp_path / "run", t_maze(), seed=0)
    lines = [
        {"update": i + 1, "env_steps": 100 * (i + 1), "return": value, "trials": trials, "seconds": 1.0}
        for i, (value, trials) in enumerate([(1.0, 10.0), (5.0, 30.0), (None, 0.0), (7.0, 3.0), (None, 0.0)])
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run,) = find_runs([folder])
    np.testing.assert_array_equal(binned(run, np.array([0.0, 200.0, 400.0, 600.0])), [4.0, 7.0, np.nan])


def test_default_folder_of_several(tmp_path, monkeypatch):
    write_t_maze(tmp_path / "a", "gru", seeds=(0,))
    write_t_maze(tmp_path / "b", "none", seeds=(0,))
    monkeypatch.chdir(tmp_path)
    assert report.run(["a", "b/none0"]) == 0
    assert list(written(tmp_path / "report")[0]["tasks"]["t_maze"]["main"]["success"]) == ["none", "gru"]


def test_published_settings():
    """A figure is shown where every field that could make a difference is the same."""
    env = {"name": "t_maze", **vars(t_maze().env)}
    assert [figure.value for figure in published(env, "lstm")] == [1.00, 1.00, 0.96, 0.96]
    assert [figure.split for figure in published(env, "lstm")] == ["corridors=1", None, "corridors=5", "corridors=10"]
    assert len(published({**env, "rewards": "paper"}, "lstm")) == 4
    for changes in ({"regime": "uniform"}, {"junction_flag": True}, {"length": 7}):
        assert published({**env, **changes}, "lstm") == []
    assert [figure.value for figure in published({**env, "corridors": 1, "length": 7}, "shm")] == [1.0]
    assert published(env, "memo") == []
    splits = {None} | {f"corridors={number}" for number in (1, 3, 5, 10)}
    assert all(figure.split in splits and 0 <= figure.value <= 1 for figure in PUBLISHED if figure.env == "t_maze")
    lstm = [figure.value for figure in PUBLISHED if (figure.env, figure.memory) == ("t_maze", "lstm")]
    assert np.mean(lstm[:24]) == pytest.approx(0.92, abs=0.01)  # the mean that the source's reader noted


def test_numbers():
    assert [number(value) for value in (0.126, -0.001, 12.345, 123.45, 1234.5)] == [
        "0.13", "0.00", "12.35", "123.5", "1234",
    ]  # fmt: skip
    assert [clock(seconds) for seconds in (None, 59.6, 3600 * 25 + 61)] == ["", "0:01:00", "25:01:01"]


# Bad input


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Name at least one folder of a run, or one that has runs below it.\n"),
        (["nowhere"], "There is no folder nowhere.\n"),
        ([300 * "x"], f"{300 * 'x'}: File name too long.\n"),
        (["empty"], "There is no run in empty: neither it nor a folder below it has a config.json.\n"),
        (["runs", "--output", "file"], "file cannot be the folder of a report: File exists.\n"),
        (["runs", "--outputs", "x"], "There is no option --outputs; did you mean --output?\n"),
        (["runs", "unevaluated"], "unevaluated/run has no evaluation.json. Evaluate it: python -m experiments.eval"),
        (
            ["numbers/report.json"],
            "numbers/report.json is not the report.json of a report (KeyError: 'tasks'). Make the",
        ),
        (["empty.json"], "empty.json is not the report.json of a report (it has no arms, no left_out, no policies, no"),
        (["file"], "file is not the report.json of a report (JSONDecodeError: "),
        (["runs", "numbers"], "numbers/report.json is a report: it is made again by itself. Name it alone, or name"),
        (["runs", "another"], "Arms can be compared only with the same seeds: memory=none has 0; memory=gru has 0,"),
    ],
    ids=lambda value: None if isinstance(value, str) else "_".join(value) or "nothing",
)
def test_bad_input(arguments, sentence, tmp_path, monkeypatch, capsys):
    write_t_maze(tmp_path / "runs", "gru")
    write_t_maze(tmp_path / "another", "none", seeds=(0,))
    write_run(tmp_path / "unevaluated" / "run", t_maze(), seed=3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "numbers").mkdir()
    kept = {"seeds": [0], "policies": [], "arms": [], "left_out": [], "matrices": [], "aggregate": None}
    (tmp_path / "numbers" / "report.json").write_text(json.dumps(kept))
    (tmp_path / "empty.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    status, _, said = main(monkeypatch, capsys, *arguments)
    assert status == 2 and said.startswith(sentence) and said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
