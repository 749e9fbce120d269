"""Metrics come back as written, a resumed run has each update once, and W&B can never stop a run."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memrl import tracking
from memrl.files import StorageError
from memrl.tracking import Tracker, environment_record, read_metrics, wandb_mode, write_json


def log(folder: Path, *updates: int, **arguments) -> None:
    with Tracker(folder, **arguments) as tracker:
        for update in updates:
            tracker.log(update, {"loss": 1.0 / update})


def logged_updates(folder: Path) -> list[int]:
    return [line["update"] for line in read_metrics(folder / "metrics.jsonl")]


def test_metrics_round_trip(tmp_path):
    with Tracker(tmp_path / "new" / "run") as tracker:
        tracker.log(1, {"loss": 0.1, "steps": 128, "return": np.float32(0.1), "value/mean": jnp.float32(2.5)})
        tracker.log(2, {"loss": jnp.bfloat16(3.0), "updates": jnp.int32(7), "done": np.True_})
    assert read_metrics(tmp_path / "new" / "run" / "metrics.jsonl") == [
        {"update": 1, "loss": 0.1, "steps": 128, "return": float(np.float32(0.1)), "value/mean": 2.5},
        {"update": 2, "loss": 3.0, "updates": 7, "done": True},
    ]


def test_non_finite_metrics_are_null(tmp_path):
    with Tracker(tmp_path) as tracker:
        tracker.log(1, {"a": math.nan, "b": jnp.float32(jnp.inf), "c": -math.inf})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=refuse) == {"update": 1, "a": None, "b": None, "c": None}


def test_lines_outlive_a_killed_process(tmp_path):
    script = (
        "import sys, time; from memrl.tracking import Tracker\n"
        "tracker = Tracker(sys.argv[1]); tracker.log(1, {'loss': 0.5}); print('logged', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "logged\n"
    finally:
        process.kill()
        process.communicate()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"update": 1, "loss": 0.5}]


def test_a_folder_with_metrics_is_not_overwritten(tmp_path):
    log(tmp_path, 1, 2)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match=r"already holds the metrics of a run; resume it or use another folder\."):
        Tracker(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_resuming_removes_what_comes_after_the_checkpoint(tmp_path):
    log(tmp_path, 1, 2, 3, 4)
    before = read_metrics(tmp_path / "metrics.jsonl")
    log(tmp_path, 3, 4, 5, resume_after=2)
    assert logged_updates(tmp_path) == [1, 2, 3, 4, 5]
    assert read_metrics(tmp_path / "metrics.jsonl")[:4] == before
    log(tmp_path, 1, resume_after=0)
    assert logged_updates(tmp_path) == [1]


def test_resuming_a_run_that_was_killed_before_it_logged(tmp_path):
    log(tmp_path, 1, resume_after=0)
    assert logged_updates(tmp_path) == [1]


@pytest.mark.parametrize("torn", ['{"update": 3, "lo', '{"update": 3, "loss": 0.3}', '{"'])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    log(tmp_path, 1, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert logged_updates(tmp_path) == [1, 2]
    log(tmp_path, 3, resume_after=2)
    assert logged_updates(tmp_path) == [1, 2, 3]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    log(tmp_path, 1, 2, 3)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace('{"update": 2', '{"upd'))
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged: line 2, .*, is not a line of metrics\. "):
        read_metrics(path)


def test_a_full_disk_loses_no_line_that_is_written(tmp_path, full_disk):
    log(tmp_path, 1, 2)
    written = (tmp_path / "metrics.jsonl").stat().st_size
    message = rf"^{tmp_path} cannot be written to: File too large\.$"
    with full_disk(written + 10), pytest.raises(StorageError, match=message):
        log(tmp_path, 3, 4, resume_after=2)
    assert (tmp_path / "metrics.jsonl").stat().st_size == written + 10
    assert logged_updates(tmp_path) == [1, 2]
    log(tmp_path, 3, resume_after=2)
    assert logged_updates(tmp_path) == [1, 2, 3]


def test_wandb_is_not_touched_when_disabled(tmp_path, run_python):
    script = (
        "import sys; from memrl.tracking import Tracker\n"
        "with Tracker(sys.argv[1], mode='disabled') as tracker: tracker.log(1, {'loss': 0.5})\n"
        "sys.exit('wandb' in sys.modules)"
    )
    assert run_python("-c", script, tmp_path).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


ANY_KEY = "0" * 40


def wandb_environment(tmp_path: Path, mode: str, key: str = "", url: str = "http://127.0.0.1:9") -> dict[str, str]:
    """Without settings of the machine's user. At the default `url` every connection is refused."""
    names = ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")
    folders = dict.fromkeys(names, str(tmp_path / "home"))
    return {**folders, "WANDB_MODE": mode, "WANDB_API_KEY": key, "WANDB_BASE_URL": url}


TRACK = """
import os, signal, sys
from memrl.tracking import Tracker

folder, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
resume_after = first - 1 if first > 1 else None
labels = {"group": "a group", "tags": ["a tag"], "config": {"ppo": {"epochs": 4}}}
with Tracker(folder, resume_after=resume_after, **labels) as tracker:
    assert tracker.url is None
    for update in range(first, last + 1):
        tracker.log(update, {"loss": 1 / update, "steps": 7, "bad": float("nan")})
    if sys.argv[4:]:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_wandb_offline_needs_neither_account_nor_network(tmp_path, run_python):
    folder = tmp_path / "run"
    # An empty mode, which W&B refuses, is as none: then it is offline by default.
    for first, last, mode in ((1, 3, "offline"), (4, 5, "")):
        process = run_python("-c", TRACK, folder, first, last, env=wandb_environment(tmp_path, mode))
        assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert logged_updates(folder) == [1, 2, 3, 4, 5]
    (file,) = wandb_files(folder)
    assert b"a group" in file.read_bytes()


def wandb_files(folder: Path) -> list[Path]:
    """What `wandb sync` would send."""
    run_id = (folder / "wandb" / "run_id").read_text()
    return list(folder.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"))


def test_wandb_sync_sends_each_update_of_a_killed_and_resumed_run_once(tmp_path, run_python, wandb_server):
    """Read as W&B itself reads it. The file of the killed process ends in a torn record."""
    folder = tmp_path / "run"
    environment = wandb_environment(tmp_path, "offline", ANY_KEY, wandb_server.url)

    def sync(result: str) -> list[int]:
        process = run_python("-m", "wandb", "sync", "--yes", "--include-synced", folder / "wandb", env=environment)
        assert result in process.stderr, process
        return wandb_server.updates((folder / "wandb" / "run_id").read_text())

    # So many that W&B's process, which writes when 32 kB are full, has written some.
    assert run_python("-c", TRACK, folder, 1, 400, "killed", env=environment).returncode == -signal.SIGKILL
    (torn,) = wandb_files(folder)
    torn.write_bytes(torn.read_bytes()[:-5])
    assert 1 < len(sync("ends with an incomplete record")) < 400
    assert run_python("-c", TRACK, folder, 301, 420, env=environment).returncode == 0
    once = list(range(1, 421))
    assert logged_updates(folder) == once
    assert sync("Finished syncing") == once
    assert sync("Finished syncing") == once
    (run,) = wandb_server.history.values()
    assert json.loads(run[349])["loss"] == 1 / 350 and math.isnan(json.loads(run[1])["bad"])


def test_wandb_online_gets_each_update_of_a_resumed_run_once(tmp_path, run_python, wandb_server):
    """What the server has from before is not sent again; what a killed process could not send is."""
    folder, environment = tmp_path / "run", wandb_environment(tmp_path, "online", ANY_KEY, wandb_server.url)
    script = TRACK.replace("assert tracker.url is None", "assert '/runs/' in tracker.url")
    run_python("-c", script, folder, 1, 8, env=environment)
    (run,) = wandb_server.history
    assert wandb_server.updates(run) == list(range(1, 9))
    for known in (8, 2):
        del wandb_server.history[run][known:]
        process = run_python("-c", script, folder, 6, 10, env=environment)
        assert process.returncode == 0 and "WARNING" not in process.stderr, process
        assert wandb_server.updates(run) == logged_updates(folder) == list(range(1, 11))


@pytest.mark.parametrize("key", ["", ANY_KEY], ids=["no account", "no network"])
def test_wandb_online_without_account_or_network_costs_one_line(tmp_path, run_python, key):
    start = time.monotonic()
    process = run_python("-c", TRACK, tmp_path / "run", 1, 2, env=wandb_environment(tmp_path, "online", key))
    assert process.returncode == 0
    # With a key W&B says first where it has it from.
    *news, warning = process.stderr.splitlines()
    assert all(line.startswith("wandb: ") for line in news)
    assert warning.startswith("Warning: W&B is off, metrics.jsonl has everything (")
    assert logged_updates(tmp_path / "run") == [1, 2]
    assert time.monotonic() - start < 60


def test_missing_wandb_costs_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setitem(sys.modules, "wandb", None)  # the import fails
    log(tmp_path, 1, 2)
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("Warning: W&B is off, metrics.jsonl has everything (")
    assert logged_updates(tmp_path) == [1, 2]


def test_wandb_that_fails_later_costs_one_line(tmp_path, monkeypatch, capsys):
    class Broken:
        starting_step = 0

        def log(self, *_, **__):
            raise ConnectionError("the service died\nand left a long story")

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(Tracker, "_start_wandb", lambda *_: Broken())
    log(tmp_path, 1, 2)
    assert capsys.readouterr().err == "Warning: W&B is off, metrics.jsonl has everything (the service died)\n"
    assert logged_updates(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    ("variable", "mode"),
    [("dryrun", "offline"), ("run", "online"), ("shared", "shared"), ("", "disabled"), (None, "disabled")],
)
def test_wandb_modes_as_wandb_takes_them(monkeypatch, variable, mode):
    monkeypatch.delenv("WANDB_MODE")
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)
    assert wandb_mode("disabled") == mode


@pytest.mark.parametrize("variable", [True, False])
def test_unknown_wandb_mode(tmp_path, monkeypatch, variable):
    monkeypatch.delenv("WANDB_MODE")
    if variable:
        monkeypatch.setenv("WANDB_MODE", "ofline")
    said = "WANDB_MODE" if variable else "The W&B mode"
    message = rf"^{said} is 'ofline', but must be one of offline, online, disabled, shared, dryrun, run\.$"
    with pytest.raises(ValueError, match=message):
        Tracker(tmp_path / "run", mode="offline" if variable else "ofline")
    assert not (tmp_path / "run").exists()


def test_write_json(tmp_path, monkeypatch):
    path = tmp_path / "evaluation.json"
    value = {"a": (1, 2.5, None, "b"), "array": jnp.arange(3), "nan": [np.nan], "path": tmp_path, 8: np.float32(0.5)}
    write_json(path, value)
    expected = {"a": [1, 2.5, None, "b"], "array": [0, 1, 2], "nan": [None], "path": str(tmp_path), "8": 0.5}
    assert json.loads(path.read_text()) == expected

    def fail(*_):
        raise OSError("killed here")

    monkeypatch.setattr(tracking.os, "replace", fail)
    with pytest.raises(StorageError, match=rf"^{tmp_path} cannot be written to: killed here\.$"):
        write_json(path, {"new": 1})
    assert json.loads(path.read_text()) == expected
    assert list(tmp_path.iterdir()) == [path]


def test_environment_record(tmp_path, monkeypatch):
    record = environment_record()
    assert record["packages"]["jax"] == jax.__version__
    assert record["devices"] == {"platform": "cpu", "kind": "cpu", "count": 2}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert record["commit"] == commit.stdout.strip()
    assert isinstance(record["uncommitted_changes"], bool)

    monkeypatch.setattr(tracking, "__file__", str(tmp_path / "tracking.py"))
    assert environment_record()["commit"] is None
    assert environment_record()["uncommitted_changes"] is None
