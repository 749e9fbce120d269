"""Runs are found, grouped into arms, and what cannot be compared is named."""

import dataclasses
import json
import re

import pytest
from synthetic_runs import UPDATES, episodes, gridworld, t_maze, windows, write_run

from experiments.command_line import UsageError
from experiments.runs.arms import check_evaluations, check_seeds, group
from experiments.runs.find import find_runs
from memrl.files import FileError


def labels(folder):
    return [arm.label for arm in group(find_runs([folder]))]


def with_learning_rate(config, rate):
    return dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, learning_rate=rate))


# Finding


def test_runs_are_found_below_folders_each_once(tmp_path):
    """A folder in a run is not looked into: what a tool writes there is no run."""
    first = write_run(tmp_path / "grid" / "memory=gru" / "seed0", t_maze())
    write_run(first / "copy", t_maze(), seed=5)
    second = write_run(tmp_path / "grid" / "memory=lstm" / "seed0", t_maze("lstm"))
    third = write_run(tmp_path / "alone", t_maze(), seed=1)
    assert [run.folder for run in find_runs([tmp_path])] == [third, first, second]
    assert [run.folder for run in find_runs([first, tmp_path / "grid", tmp_path / "grid" / ".." / "grid"])] == [
        first,
        second,
    ]


def test_nothing_to_be_found(tmp_path):
    with pytest.raises(UsageError, match="Name at least one folder"):
        find_runs([])
    with pytest.raises(UsageError, match=r"^There is no folder .*/nowhere\.$"):
        find_runs([tmp_path / "nowhere"])
    (tmp_path / "empty" / "folder").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"^There is no run in .*/empty: neither it nor a folder below it has a conf"):
        find_runs([tmp_path / "empty"])
    (write_run(tmp_path / "damaged", t_maze()) / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json is not the config of a run"):
        find_runs([tmp_path])


# Grouping


def test_runs_that_differ_in_their_seed_are_an_arm(tmp_path):
    """So are runs that differ in what does not change what is learned."""
    config = t_maze()
    write_run(tmp_path / "b", config, seed=10)
    write_run(tmp_path / "a", dataclasses.replace(config, name="another", devices=1, checkpoint_every=2), seed=2)
    tracking = dataclasses.replace(config.tracking, wandb="disabled", group="group")
    evaluation = dataclasses.replace(config.evaluation, num_trials=5)
    write_run(tmp_path / "c", dataclasses.replace(config, tracking=tracking, evaluation=evaluation), seed=1)
    (arm,) = group(find_runs([tmp_path]))
    assert (arm.seeds, [run.folder.name for run in arm.runs]) == ((1, 2, 10), ["c", "a", "b"])
    assert (arm.label, arm.policy, arm.task, arm.memory) == ("memory=gru", "gru", "t_maze", "gru")


def test_labels_tell_the_fields_that_differ(tmp_path):
    """Other memories by their names alone, in the order of the registry; fields by their size."""
    small = dataclasses.replace(t_maze().memory, features=8)
    for name, config in {
        "1": t_maze("lstm"),
        "2": t_maze(),
        "3": dataclasses.replace(t_maze(), memory=small),
    }.items():
        write_run(tmp_path / "memories" / name, config)
    assert labels(tmp_path / "memories") == ["memory=gru, memory.features=8", "memory=gru, memory.features=64",
                                             "memory=lstm"]  # fmt: skip
    for number, rate in enumerate((0.01, 0.002)):
        write_run(tmp_path / "rates" / str(number), with_learning_rate(t_maze(), rate))
    arms = group(find_runs([tmp_path / "rates"]))
    assert [arm.label for arm in arms] == ["ppo.learning_rate=0.002", "ppo.learning_rate=0.01"]
    assert [arm.policy for arm in arms] == [arm.label for arm in arms] and {arm.task for arm in arms} == {"t_maze"}


def test_labels_of_several_tasks(tmp_path):
    """What is fitted to the task, as its sizes of networks, distinguishes no policies: they are the same in each."""
    for memory in ("gru", "lstm"):
        for length in (10, 5):
            write_run(tmp_path / "lengths" / f"{memory}{length}", t_maze(memory, length=length))
        write_run(tmp_path / "tasks" / memory / "0", t_maze(memory))
        write_run(tmp_path / "tasks" / memory / "1", gridworld(memory))
    assert labels(tmp_path / "lengths") == [
        "memory=gru, env.length=5",
        "memory=lstm, env.length=5",
        "memory=gru, env.length=10",
        "memory=lstm, env.length=10",
    ]
    arms = group(find_runs([tmp_path / "tasks"]))
    assert [(arm.label, arm.policy, arm.task) for arm in arms] == [
        ("memory=gru, env=dark_key_to_door", "gru", "dark_key_to_door"),
        ("memory=lstm, env=dark_key_to_door", "lstm", "dark_key_to_door"),
        ("memory=gru, env=t_maze", "gru", "t_maze"),
        ("memory=lstm, env=t_maze", "lstm", "t_maze"),
    ]


def test_the_same_seed_twice(tmp_path):
    for name in "ab":
        write_run(tmp_path / name, t_maze(), seed=3)
    with pytest.raises(UsageError, match=r"^memory=gru has seed 3 more than once: .*/a and .*/b\.$"):
        group(find_runs([tmp_path]))


# What is in a run


def test_contents(tmp_path):
    folder = write_run(tmp_path / "run", t_maze(), evaluation=episodes())
    (run,) = find_runs([folder])
    assert run.evaluation["num_trials"] == 64 and len(run.metrics) == UPDATES and run.seconds == 90
    assert run.records[0]["commit"] == "0123456789abcdef"
    for name in ("metrics.jsonl", "environment.json"):
        (folder / name).unlink()
    (run,) = find_runs([folder])
    assert (run.metrics, run.records, run.seconds) == ([], [], None)


def test_damaged_contents(tmp_path):
    folder = write_run(tmp_path / "run", t_maze())
    for name in ("metrics.jsonl", "environment.json"):
        (folder / name).write_text("[\n")
    (run,) = find_runs([folder])
    with pytest.raises(FileError, match=r"metrics.jsonl is damaged: line 1, .* is not a line of metrics"):
        _ = run.metrics
    with pytest.raises(FileError, match=r"environment.json is damaged: invalid JSON"):
        _ = run.records


# What cannot be compared


def test_other_seeds(tmp_path):
    for memory, seeds in (("gru", (0, 1, 2)), ("lstm", (0, 2))):
        for seed in seeds:
            write_run(tmp_path / f"{memory}{seed}", t_maze(memory), seed)
    with pytest.raises(UsageError, match=r"the same seeds: memory=gru has 0, 1, 2; memory=lstm has 0, 2\.$"):
        check_seeds(group(find_runs([tmp_path])))


def refused(tmp_path):
    """What is said about the evaluations of the runs below `tmp_path`; the path itself left out."""
    with pytest.raises((FileError, UsageError)) as caught:
        check_evaluations(group(find_runs([tmp_path])))
    assert re.search(r"experiments\.(evaluate|run --resume) ", str(caught.value))  # what to do
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_no_evaluation_or_none_of_the_end(tmp_path):
    write_run(tmp_path / "a", t_maze(), evaluation=episodes())
    folder = write_run(tmp_path / "b", t_maze(), seed=1)
    assert refused(tmp_path).startswith("b has no evaluation.json. ")
    path = folder / "evaluation.json"
    for text in ("{", "[]", '{"update": 4}', '{"windows": [{}], "update": 4}'):
        path.write_text(text)
        assert refused(tmp_path).startswith("b/evaluation.json is damaged: ")
    path.write_text(json.dumps({**episodes(), "config": "gru_t_maze", "update": UPDATES - 1}))
    assert refused(tmp_path).startswith("b/evaluation.json is of update 3 and the latest checkpoint of 4. ")
    (folder / "checkpoints" / str(UPDATES)).rename(folder / "checkpoints" / str(UPDATES - 1))
    assert refused(tmp_path).startswith("b is not complete: 3 of 4 updates are done. ")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_trials": 65}, "num_trials 64 and b with 65"),
        ({"seed": 7}, "seed 0 and b with 7"),
        ({"horizons": (100,)}, "horizons [100, 200] and b with [100]"),
        ({"window_length": 10}, "window_length 20 and b with 10"),
    ],
    ids=lambda value: None if isinstance(value, str) else "_".join(value),
)
@pytest.mark.parametrize("memory", ["gru", "lstm"])
def test_evaluated_differently(change, sentence, memory, tmp_path):
    """Within an arm, and between arms of the same task."""
    write_run(tmp_path / "a", gridworld(), evaluation=windows())
    write_run(tmp_path / "b", gridworld(memory), seed=1, evaluation=windows(**change))
    assert sentence in refused(tmp_path)


def test_other_settings_and_budgets(tmp_path):
    """Budgets may differ between memories, since not every memory can be restricted, but not within an arm."""
    write_run(tmp_path / "a", t_maze("fct"), evaluation=episodes("fct"))
    write_run(tmp_path / "b", t_maze("gru"), evaluation=episodes("gru"))
    write_run(tmp_path / "task" / "c", t_maze("gru", length=10), evaluation=episodes("gru", splits=(), num_trials=8))
    check_evaluations(group(find_runs([tmp_path])))
    write_run(tmp_path / "d", t_maze("fct"), seed=1, evaluation=episodes("gru"))
    assert 'budgets ["all", 5, "all", "all"] and d with ["all", "all", "all"]' in refused(tmp_path)
    write_run(tmp_path / "e", t_maze("gru"), seed=1, evaluation=episodes("gru", splits=()))
    (tmp_path / "d" / "config.json").unlink()
    assert 'splits ["as trained", "corridors=1", "corridors=5"] and e with ["as trained"]' in refused(tmp_path)
