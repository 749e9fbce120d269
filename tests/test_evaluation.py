"""Evaluation: what is measured is what happened, on the same tasks, with the memory that is said."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import environment
from probe_environments import Probe
from tiny import initial_params, tiny_memory, tiny_policy

from envs.dark_key_to_door import DarkKeyToDoorConfig
from envs.player import Player
from envs.t_maze import TMazeConfig
from memrl.evaluation import EvaluationConfig, Setting, evaluate, in_context, memory_sizes, record_trial
from memrl.memory import FCT, GRU, MEMORIES, Memo, MemoryConfig
from memrl.memory.recurrent import RecurrentMemory

TRIAL = 6  # steps


@struct.dataclass
class WageState(environment.EnvState):
    pays: jax.Array  # int32: 0 or 1, drawn for each trial


@dataclasses.dataclass(frozen=True)
class Wage(Probe):
    """In half of all trials, action 1 is worth 1 in the first step, 2 in the second and so on until the trial ends."""

    def reset_env(self, key, params):
        return jnp.zeros(1), WageState(jnp.int32(0), jax.random.bernoulli(key).astype(jnp.int32))

    def step_env(self, key, state, action, params):
        state = state.replace(time=state.time + 1)
        return jnp.zeros(1), state, state.pays * action * state.time, jnp.bool_(False), {}


class WageWithPlayers(Wage):
    def players(self):
        def rest(key, memory, state, params):  # its own memory is the number of steps, each kind of player has another
            return memory + 1, jnp.where(memory < 2, 1, 0)

        return {
            "worker": Player(lambda params: None, lambda key, memory, state, params: (memory, jnp.int32(1))),
            "idler": Player(lambda params: jnp.int32(0), rest),
        }


def run(env=None, memory="none", always=None, env_params=None, splits=None, **settings):
    """Evaluates a policy that was never trained; `always` makes it take that action. A tuple: a policy for each."""
    env = Wage() if env is None else env
    env_params = environment.EnvParams(max_steps_in_episode=TRIAL) if env_params is None else env_params
    trial = int(env_params.max_steps_in_episode)
    memory = memory if isinstance(memory, MemoryConfig) else tiny_memory(memory, trial)
    every = []
    for action in always if isinstance(always, tuple) else (always,):
        params = initial_params(tiny_policy(memory, env.num_actions), env, env_params)
        if action is not None:
            logits = params["params"]["logits"]
            logits["kernel"] = jnp.zeros_like(logits["kernel"])
            logits["bias"] = 100 * jax.nn.one_hot(action, env.num_actions)
        every.append(params)
    config = EvaluationConfig(**{"num_trials": 16, "horizons": (1,), "budgets": (), "windows_per_trial": 3, **settings})
    trained, splits = Setting(env, env_params), {} if splits is None else splits
    results = evaluate(lambda memory: tiny_policy(memory, env.num_actions), memory, trained, splits, every, config)
    return results if isinstance(always, tuple) else results[0]


def test_policies_together_are_evaluated_as_each_alone():
    splits = {"longer": Setting(WageWithPlayers(), environment.EnvParams(max_steps_in_episode=12))}
    settings = {"env": WageWithPlayers(), "splits": splits, "horizons": (1, 2)}
    together = run(always=(0, 1), **settings)
    assert together == [run(always=0, **settings), run(always=1, **settings)]
    assert together[0]["windows"] != together[1]["windows"] and together[0]["episodes"] != together[1]["episodes"]


# What is measured


def test_returns_are_those_of_one_long_trial():
    result = run(always=1, horizons=(3, 1))
    one, three = result["windows"]
    assert (one["horizon"], three["horizon"]) == (6, 18)
    paid = three["return_per_window"][0] / 3  # the share of trials that pay; 1 + 2 in the first window
    assert 0 < paid < 1 and (16 * paid).is_integer()
    # 18 steps without a new beginning
    np.testing.assert_allclose(three["return_per_window"], [paid * (4 * window + 3) for window in range(9)], rtol=1e-6)
    # The same tasks at each horizon
    assert one["return_per_window"] == three["return_per_window"][:3]


def test_interval_is_that_of_the_mean_over_trials():
    (entry,) = run(always=1)["windows"]
    paid = entry["return_per_window"][0] / 3
    error = math.sqrt(paid * (1 - paid) / 15)  # of the mean of 16 draws from {0, 1}
    window = np.array([3, 7, 11])
    np.testing.assert_allclose(entry["return_per_window_low"], window * (paid - 1.96 * error), rtol=1e-5)
    np.testing.assert_allclose(entry["return_per_window_high"], window * (paid + 1.96 * error), rtol=1e-5)


def test_players_meet_the_same_tasks():
    result = run(WageWithPlayers(), always=1, horizons=(1, 2))
    assert result["players"] == ["worker", "idler"]
    for entry in result["windows"]:
        assert entry["worker_return_per_window"] == entry["return_per_window"]
        assert entry["idler_return_per_window"] == [entry["return_per_window"][0], *[0] * (entry["horizon"] // 2 - 1)]
    rate = sum(result["windows"][0]["return_per_window"]) / 3
    last = result["windows"][0]["return_per_window"][-1]
    np.testing.assert_allclose(result["in_context"]["last_window_over_upper_bound"], last / rate)
    np.testing.assert_allclose(result["in_context"]["last_window_over_first"], 11 / 3, rtol=1e-6)


def test_players_of_dark_key_to_door():
    """The oracle collects key and door on every shortest path; the searcher catches up with it and no policy does."""
    env, env_params = DarkKeyToDoorConfig(size=3, attempt_limit=10, trial_length=60).make()
    (entry,) = run(env, env_params=env_params, num_trials=64)["windows"]
    oracle, searcher = np.array(entry["oracle_return_per_window"]), np.array(entry["searcher_return_per_window"])
    assert oracle.sum() > searcher.sum() > sum(entry["return_per_window"]) > 0
    assert searcher[0] < 0.9 * oracle[0] and searcher[-1] > 0.95 * oracle[-1]


def test_in_context_divides_by_nothing():
    entry = {"return_per_window": [0.0, 1.0], "oracle_return_per_window": [0.0, 0.0]}
    assert in_context(entry, "oracle") == in_context(entry, None)
    assert set(in_context(entry, None).values()) == {None}


def test_actions_are_sampled():
    """An untrained policy takes both actions about equally often; the greedy one would earn all or nothing."""
    (entry,) = run(WageWithPlayers(), num_trials=128)["windows"]
    share = np.array(entry["return_per_window"]) / entry["worker_return_per_window"]
    np.testing.assert_allclose(share, 0.5, atol=0.12)


def test_seed_decides_everything():
    assert run() == run()
    assert run()["windows"][0]["return_per_window"] != run(seed=1)["windows"][0]["return_per_window"]


def test_number_of_devices_changes_nothing(monkeypatch):
    results = run(WageWithPlayers(), "memo")
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    assert run(WageWithPlayers(), "memo") == results
    monkeypatch.undo()
    assert run(num_trials=3)["num_trials"] == 3  # on one of two devices


@pytest.mark.parametrize("name", MEMORIES)
def test_every_memory_is_evaluated(name):
    result = run(memory=name, horizons=(1, 2), budgets=(0.5,))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert list(result) == [
        "seed", "num_trials", "trial_length", "interval", "players", "window_length", "in_context", "windows"
    ]  # fmt: skip
    for entry in result["windows"]:
        windows = entry["horizon"] // result["window_length"]
        assert len(entry["return_per_window"]) == windows
        assert len(entry["return_per_window_low"]) == len(entry["return_per_window_high"]) == windows
        assert (entry["state_bytes_per_env"] > 0) == (name != "none")
        assert (entry["tokens_attended"] > 0) == (name in ("fct", "trxl", "gtrxl", "memo", "rmt", "ac", "hcam"))
    budgets = [(entry["horizon"], entry["budget"]) for entry in result["windows"]]
    if tiny_memory(name, 1) == tiny_memory(name, 100):
        assert budgets == [(6, None), (12, None)]
    else:
        assert budgets[0] == (6, None) and (12, None) in budgets and (12, 3) in budgets


# Budgets


def test_budget_limits_what_is_attended_to():
    entries = run(memory="fct", horizons=(1, 2), budgets=(1.0, 0.5, 0.2))["windows"]
    attended = {(entry["horizon"], entry["budget"]): entry["tokens_attended"] for entry in entries}
    expected = {
        (horizon, budget): np.mean([min(step, budget or horizon) for step in range(1, horizon + 1)])
        for horizon, budgets in ((6, (None, 3, 1)), (12, (None, 6, 3, 1)))
        for budget in budgets
    }
    assert attended.keys() == expected.keys()
    np.testing.assert_allclose(list(attended.values()), list(expected.values()), rtol=1e-6)
    assert len({entry["state_bytes_per_env"] for entry in entries}) == 4  # of 12, 6, 3 and 1 tokens


def test_budget_limits_the_summaries():
    memory = Memo(features=8, layers=1, heads=2, mlp_features=8, segment_length=2, summary_tokens=3, capacity=9)
    entries = run(memory=memory, horizons=(1, 2), budgets=(1.0, 0.5))["windows"]
    attended = {(entry["horizon"], entry["budget"]): entry["tokens_attended"] for entry in entries}
    # The first step of a segment attends to itself; the second closes it, and counts as its summary does.
    assert attended[6, None] == np.mean([1, 3, 4, 6, 7, 9])
    assert attended[12, 6] == np.mean([1, 3, 4, 6, 7, 6, 7, 6, 7, 6, 7, 6])  # two sets kept
    assert attended[12, 3] == np.mean([1, 3, 4, 3, 4, 3, 4, 3, 4, 3, 4, 3])  # one set kept


def test_memory_sizes():
    assert list(memory_sizes(GRU(), 100, 800, (1.0, 0.5))) == [(None, GRU())]
    # As trained in trials of the trained length, even if that is less than the trial.
    assert list(memory_sizes(FCT(context=70), 100, 100, (1.0, 0.5))) == [(None, FCT(context=70)), (50, FCT(context=50))]
    assert list(memory_sizes(FCT(context=70), 100, 200, (0.5, 1.0, 2.0))) == [
        (None, FCT(context=200)),
        (100, FCT(context=100)),
        (50, FCT(context=50)),
    ]
    # Two budgets for which the memory has the same room are one.
    assert [budget for budget, _ in memory_sizes(Memo(segment_length=20), 100, 200, (0.5, 0.45))] == [None, 50]


def test_segments_have_their_fixed_length():
    """Jitter is for learning."""
    memory = Memo(features=8, layers=1, heads=2, mlp_features=8, segment_length=3, summary_tokens=1, jitter=0.4)
    noisy, quiet = (run(memory=setting)["windows"] for setting in (memory, memory.without_noise()))
    assert noisy == quiet


# Compilation


class CountingMemory(RecurrentMemory):
    def step(self, state, x, reset):
        CountingGRU.traces += 1
        return super().step(state, x, reset)


@dataclasses.dataclass(frozen=True)
class CountingGRU(GRU):
    """A GRU that counts how often it is traced, and as many sizes of it as budgets, all the same."""

    capacity: int = 0
    traces = 0

    def build(self, dtype=jnp.float32):
        return CountingMemory(super().build(dtype).cell, dtype)

    def with_capacity(self, steps):
        return dataclasses.replace(self, capacity=min(steps, TRIAL))


def count_traces(**settings):
    CountingGRU.traces = 0
    entries = run(memory=CountingGRU(features=2, capacity=TRIAL), **settings)["windows"]
    return CountingGRU.traces, len(entries)


def test_horizons_share_a_program():
    once, entries = count_traces(horizons=(1,))
    assert once > 0 and entries == 1
    assert count_traces(horizons=(1, 2, 3)) == (once, 3)  # with room for a trial at most, they are of one size
    more, entries = count_traces(horizons=(1, 2, 3), budgets=(0.5,))
    assert entries == 6 and once < more <= 2 * once


# Episodes that end by the task


def maze(corridors, **fields):
    return Setting(*TMazeConfig(corridors=corridors, length=1, **fields).make())


@pytest.fixture(scope="module")
def episodes():
    """Of a policy that goes forward and turns at random, trained with one corridor, in mazes of one and of two."""
    trained, splits = maze(1), {"two": maze(2), "rewarded otherwise": maze(1, rewards="paper")}
    return run(
        trained.environment, "fct", env_params=trained.env_params, splits=splits, num_trials=512, budgets=(0.25,)
    )


def test_episodes_are_played_to_their_end(episodes):
    entries = {(entry["split"], entry["budget"]): entry for entry in episodes["episodes"]}
    assert list(entries) == [(None, None), (None, 3), ("two", None), ("rewarded otherwise", None)]
    assert "windows" not in episodes and episodes["trial_length"] == 12
    for (split, _), entry in entries.items():
        corridors = 2 if split == "two" else 1
        assert entry["horizon"] == 12 * corridors
        oracle, guess = entry["players"]["oracle"], entry["players"]["memoryless"]
        certain = oracle["outcomes"]["success"]
        assert certain["mean"] == pytest.approx(certain["high"]) == 1 and 0.99 < certain["low"] < 1  # of 512
        assert oracle["return"]["mean"] == pytest.approx(corridors - 0.01 * corridors * (split == "rewarded otherwise"))
        assert oracle["length"]["mean"] == 2 * corridors
        assert abs(guess["outcomes"]["success"]["mean"] - 0.5**corridors) < 4 * 0.5 / np.sqrt(512)
        # Untrained, each action has about the same probability: a corridor is passed with 1/3, and left after 3 + 1.5.
        success, length = entry["outcomes"]["success"], entry["length"]
        assert abs(success["mean"] - 3.0**-corridors) < 0.1
        assert success["low"] < success["mean"] < success["high"]
        assert length["mean"] < 12 * corridors
        told = [entry["outcomes"][name]["mean"] for name in ("success", "wrong_turn", "timed_out")]
        assert sum(told) == pytest.approx(1)


def test_episodes_share_programs_and_have_room(episodes):
    one, small, two, otherwise = episodes["episodes"]
    assert small["state_bytes_per_env"] < one["state_bytes_per_env"] < two["state_bytes_per_env"]
    assert one["state_bytes_per_env"] == otherwise["state_bytes_per_env"]
    # The reward differs, the game does not: the same tasks, the same program.
    assert one["outcomes"] == otherwise["outcomes"] and one["return"] != otherwise["return"]
    assert 1 < small["tokens_attended"] <= 3 and small["tokens_attended"] < one["tokens_attended"]


def test_outcomes_of_attempts_are_told_per_window():
    """Two attempts in a window succeed or not; in the last one none ends."""

    class Attempts(Wage):
        outcomes = ("success",)

        def step_env(self, key, state, action, params):
            observation, state, reward, terminated, _ = super().step_env(key, state, action, params)
            ends = (state.time % 2 == 0) & (state.time <= 4)
            return observation, state, reward, terminated, {"soft_reset": ends, "success": state.time == 2}

    (entry,) = run(Attempts(), windows_per_trial=3)["windows"]
    assert entry["outcomes_per_window"] == {"success": [1.0, 0.0, None]}


# Bad input


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_trials", 1),
        ("horizons", ()),
        ("horizons", (2, 4)),
        ("horizons", (0, 1)),
        ("budgets", (0.5, 0.0)),
        ("windows_per_trial", 0),
        ("seed", -1),
    ],
)
def test_bad_settings(setting, value):
    with pytest.raises(ValueError, match=rf"^evaluation\.{setting} is .*: .*\.$"):
        EvaluationConfig(**{setting: value})


def test_windows_must_divide_the_trial():
    assert EvaluationConfig(windows_per_trial=4).window_length(100) == 25
    with pytest.raises(ValueError, match="windows_per_trial is 3 and a trial has 100 steps"):
        EvaluationConfig(windows_per_trial=3).window_length(100)


# The trial that is shown


def test_record_trial():
    env, env_params = DarkKeyToDoorConfig(size=2, attempt_limit=3, trial_length=20).make()
    policy = tiny_policy(tiny_memory("gru", 20), env.num_actions)
    params = initial_params(policy, env, env_params)
    recording = record_trial(policy, env, env_params, params, 20, jax.random.key(1))
    assert recording.reward.shape == recording.over.shape == (20,)
    # One trial from its first to its last state: nothing has been drawn anew.
    assert recording.states.time.tolist() == list(range(21))
    for cell in (recording.states.start, recording.states.key, recording.states.door):
        assert (cell == cell[0]).all()
    began = np.flatnonzero(recording.over) + 1
    assert len(began) >= 5
    assert (recording.states.attempt_time[began] == 0).all()
    assert (recording.states.position[began] == recording.states.start[0]).all()
    # A reward is either for finding the key or for an attempt that ended at the door.
    found = recording.states.has_key[1:] & ~recording.states.has_key[:-1]
    assert ((recording.reward == 1) == (found | (recording.over & (recording.reward == 1)))).all()
    assert recording.reward[found].all()
