"""What a memory attends to, its gates, and what can be decoded from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY_ENVIRONMENTS, initial_params, tiny_memory, tiny_policy

import envs
from envs.base import Fact
from envs.repeat import RepeatFirst, RepeatFirstConfig
from envs.t_maze import TMazeConfig
from memrl.introspection import (
    FEWEST,
    PROJECTED,
    Attention,
    Samples,
    accuracy_by_age,
    age_groups,
    attention_map,
    flatten_state,
    sample_memories,
    state_size,
    trace_trial,
)
from memrl.memory import MEMORIES
from memrl.memory.base import Memory, select
from memrl.networks import ActorCritic, NetworkConfig, observation_kinds

STEPS = 14
ATTENTIVE = {
    "fct": ["layer 1"],
    "trxl": ["layer 1"],
    "gtrxl": ["layer 1"],
    "memo": ["layer 1: steps and, as blocks, summaries of 5 steps"],
    "rmt": ["layer 1: steps and, as blocks, summaries of 5 steps"],
    "ac": ["layer 1: steps and, as blocks, summaries of 5 steps"],
    "hcam": ["layer 1: chunks of 4 steps", "layer 1: the window"],
}
GATED = {
    "gru": {"reset gate", "keep gate"},
    "lstm": {"forget gate", "input gate", "output gate"},
    "gtrxl": {"layer 1, attention gate, update", "layer 1, mlp gate, update"},
    "mlstm": {"layer 1, forget", "layer 1, stabilised input"},
    "shm": {"layer 1, write"},
    "deltanet": {"layer 1, write strength"},
    "gated_deltanet": {"layer 1, write strength", "layer 1, forget"},
    "lru": {"layer 1, decay"},
    "s5": {"layer 1, decay"},
    "mingru": {"layer 1, decay"},
    "ffm": {"decay", "write", "read"},
}


def policy_in(environment, params, memory):
    """A tiny policy around `memory`, and random parameters."""
    kinds = observation_kinds(environment.observation_space(params))
    policy = ActorCritic(memory, environment.num_actions, NetworkConfig((8,), (8,)), jnp.float32, kinds)
    return policy, initial_params(policy, environment, params)


def trace_of(name, config, **settings):
    environment, params = config.make()
    memory = tiny_memory(name, STEPS, **settings).without_noise().build()
    policy, variables = policy_in(environment, params, memory)
    return trace_trial(policy, environment, params, variables, STEPS, jax.random.key(2))


@pytest.mark.parametrize("name", MEMORIES)
def test_what_is_seen_of_each_memory(name):
    """Attention adds up to 1 and sees the past of the episode, and nothing else. Gates are in the range drawn."""
    trace = trace_of(name, RepeatFirstConfig(symbols=3, length=7))  # two episodes
    assert list(trace.attention) == ATTENTIVE.get(name, [])
    assert set(trace.gates) == GATED.get(name, set())
    for gate, (openness, most) in trace.gates.items():
        assert len(openness) == STEPS and openness.ndim == 2
        assert (openness >= 0).all() and (openness <= most + 1e-6).all()
        assert most == (2 if "write strength" in gate else 1)

    time = np.arange(STEPS)
    began = time // 7 * 7
    for layer, seen in trace.attention.items():
        total = seen.weights.sum(axis=1)
        assert (seen.weights >= 0).all()
        there = seen.weights > 0
        assert (seen.begin[there] >= 0).all() and (seen.end <= time[:, None] + 1)[there].all()
        seen_steps = attention_map(seen, STEPS) > 0
        if "chunks" in layer:
            # Closed chunks with a step of the episode; none at first.
            np.testing.assert_allclose(total, np.where(time // 4 * 4 > began, 1, 0), atol=1e-5)
            assert (seen.end[there] > np.broadcast_to(began[:, None], there.shape)[there]).all()
        else:
            np.testing.assert_allclose(total, 1, atol=1e-5)
            reach = 5 if "window" in layer else STEPS
            oldest = np.maximum(began, time - reach + 1)
            if name == "rmt":  # the latest segment and the one before it
                oldest = np.maximum(began, (time // 5 - 1) * 5)
            expected = (time[None] >= oldest[:, None]) & (time[None] <= time[:, None])
            if "blocks" in layer:  # the block of a segment in which an episode began reaches back before it
                first = began // 5 * 5
                closed = (began // 5 < time // 5)[:, None] & (time[None] >= first[:, None])
                before = (time[None] < began[:, None]) & closed & (oldest <= began)[:, None]
                expected |= before
            np.testing.assert_array_equal(seen_steps, expected)


def test_the_sink_takes_part_in_the_sum_and_holds_no_step():
    (seen,) = trace_of("fct", RepeatFirstConfig(symbols=3, length=7), sink="key").attention.values()
    np.testing.assert_allclose(seen.weights.sum(axis=1), 1, atol=1e-5)
    assert (seen.begin[:, 0] == -1).all() and (seen.weights[:, 0] > 0).all()
    np.testing.assert_allclose(attention_map(seen, STEPS).sum(axis=1), 1 - seen.weights[:, 0], atol=1e-5)


class Latest(Memory):
    """Says for itself what it attends to, the latest two inputs, and how far its valve can open."""

    attention_names = ("shares",)

    def initial_state(self, batch, key=None):
        return {"time": jnp.int32(0), "before": jnp.zeros((batch, 8))}

    def step(self, state, x, reset):
        self.sow("intermediates", "shares", jnp.array([0.25, 0.75]))
        self.sow("intermediates", "main_valve", jnp.full((len(x), 1), 1.5))
        before = select(reset, jnp.zeros_like(x), state["before"])
        return {"time": state["time"] + 1, "before": x}, 0.25 * before + 0.75 * x

    def tokens_attended(self, state):
        return jnp.int32(2)

    def attended(self, state, sown):
        begin = jnp.array([-1, 0]) + state["time"]
        return {"the latest two": Attention(sown["shares"][0], begin, begin + 1)}

    def fully_open(self):
        return {"main_valve": 3}


def test_a_memory_says_itself_what_it_attends_to_and_how_to_read_its_gates():
    environment, params = RepeatFirstConfig(symbols=3, length=7).make()
    policy, variables = policy_in(environment, params, Latest())
    trace = trace_trial(policy, environment, params, variables, 4, jax.random.key(2))
    (gate,) = trace.gates.items()
    assert gate[0] == "main valve" and gate[1].fully_open == 3 and (gate[1].openness == 1.5).all()
    shares = attention_map(trace.attention["the latest two"], 4)
    np.testing.assert_array_equal(shares, np.diag([0.75] * 4) + np.diag([0.25] * 3, -1))


def test_map_of_attention():
    """Two tokens hold steps 0 and 1, one holds step 2, one holds nothing; what ends late is cut."""
    attention = Attention(
        np.array([[0.1, 0.2, 0.4, 0.3], [0.0, 0.5, 0.25, 0.25]], np.float32),
        np.array([[0, 0, 2, -1], [0, 0, 2, 3]]),
        np.array([[2, 2, 3, 1], [2, 2, 3, 6]]),
    )
    np.testing.assert_allclose(attention_map(attention, 4), [[0.3, 0.3, 0.4, 0], [0.5, 0.5, 0.25, 0.25]], rtol=1e-6)


def test_trace_tells_when_facts_are_shown():
    trace = trace_of("gru", TMazeConfig(corridors=2, length=1))
    position = np.asarray(trace.recording.states.position)
    assert trace.shown["cue"].tolist() == (position[:-1] == 0).tolist()
    assert trace.recording.over.any() and len(position) == STEPS + 1


def test_trial_of_a_fixed_length_does_not_end():
    config = envs.get("dark_key_to_door")(**{**TINY_ENVIRONMENTS["dark_key_to_door"], "trial_length": 5, "size": 2})
    trace = trace_of("none", config)
    states = trace.recording.states
    assert states.time.tolist() == list(range(STEPS + 1))
    rewarded = np.flatnonzero(trace.recording.reward)
    shown = np.flatnonzero(trace.shown["key"] | trace.shown["door"])
    assert shown.tolist() == [step + 1 for step in rewarded if step + 1 < STEPS] and len(shown)


# Samples


class Clock(Memory):
    """Counts the steps of a trial: its state shows when it was looked at."""

    def initial_state(self, batch, key=None):
        return jnp.zeros((batch, 1))

    def step(self, state, x, reset):
        state = select(reset, self.initial_state(len(reset)), state) + 1
        return state, -state

    def tokens_attended(self, state):
        return jnp.int32(0)


def test_moments_that_are_looked_at():
    """Each is in its group, and all of a group are equally likely."""
    trials, length = 400, 8
    environment, params = RepeatFirstConfig(symbols=3, length=length).make()
    policy, variables = policy_in(environment, params, Clock())
    found = sample_memories(policy, environment, params, variables, length, trials, jax.random.key(3))
    samples = found["first symbol"]
    groups = age_groups(length)
    assert groups == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 5), (6, 7)]
    assert not samples.taken[:, 0].any() and samples.taken[:, 1:].all()
    ages = samples.features["state"][..., 0] - 1
    np.testing.assert_array_equal(samples.features["output"], -samples.features["state"])
    for group, (first, last) in enumerate(groups, start=1):
        assert set(ages[:, group]) == set(range(first, last + 1))
    assert abs((ages[:, -1] == 7).mean() - 0.5) < 4 * 0.5 / trials**0.5
    # The value does not change, and the input shows it as long as it is in sight.
    assert (samples.value[:, 1:] == samples.value[:, 1:2]).all() and set(samples.value[:, 1]) == {0, 1, 2}
    inputs = samples.features["input"][:, 1]
    for symbol in range(3):
        shown = inputs[samples.value[:, 1] == symbol]
        np.testing.assert_array_equal(shown, np.broadcast_to(shown[:1], shown.shape))


def test_moments_before_a_fact_was_shown_are_told_apart():
    config = envs.get("dark_key_to_door")(size=2, attempt_limit=4, trial_length=12)
    environment, params = config.make()
    policy, variables = policy_in(environment, params, Clock())
    samples = sample_memories(policy, environment, params, variables, 12, 100, jax.random.key(3))
    key, door = samples["key"], samples["door"]
    assert key.taken[:, 0].all() and door.taken[:, 0].all()  # no step has been taken yet
    found = key.taken[:, 1:].any(axis=1)
    assert 50 < found.sum() < 100
    assert (door.taken[:, 1:].any(axis=1) <= found).all()  # a door is shown to who has the key


def test_a_fact_that_changed_without_being_shown_has_not_been_shown(monkeypatch):
    """The clock shows when each sample was taken: the fact changes every three steps and is shown at 0, 1 and 7."""

    def facts(self, before, action, state, params):
        return {"third": Fact(state.time // 3, jnp.isin(state.time, jnp.array([0, 1, 7])))}

    monkeypatch.setattr(RepeatFirst, "facts", facts)
    environment, params = RepeatFirstConfig(symbols=3, length=12).make()
    policy, variables = policy_in(environment, params, Clock())
    samples = sample_memories(policy, environment, params, variables, 12, 200, jax.random.key(3))["third"]
    times = samples.features["state"][..., 0] - 1
    seen = [set(times[samples.taken[:, group], group].tolist()) for group in range(samples.taken.shape[1])]
    # Ages 0, 1, and nothing older; never shown: 3 to 6, and 9 to 11.
    assert seen == [{3, 4, 5, 6, 9, 10, 11}, {0, 1, 7}, {2, 8}, *[set()] * (len(seen) - 3)]
    assert (samples.value == times // 3)[samples.taken].all()


def test_nothing_to_sample():
    environment, params = envs.get("bandit")().make()
    policy, variables = policy_in(environment, params, Clock())
    assert sample_memories(policy, environment, params, variables, 5, 4, jax.random.key(0)) == {}


def test_flattened_state():
    small = {"a": jnp.arange(6.0).reshape(2, 3), "key": jax.random.key(0), "clock": jnp.int32(3), "t": jnp.float32(1)}
    np.testing.assert_array_equal(flatten_state(small, 2), np.arange(6).reshape(2, 3))
    assert flatten_state({"clock": jnp.int32(3)}, 2).shape == (2, 0)

    size = 3 * PROJECTED + 17
    sums = np.asarray(flatten_state(jnp.eye(size), size))  # a row for each number
    assert sums.shape == (size, PROJECTED)
    np.testing.assert_array_equal(np.abs(sums).sum(axis=1), 1)  # each in one sum
    assert np.abs(sums).sum(axis=0).max() == 4


def test_size_of_a_state():
    policy = tiny_policy(tiny_memory("lstm", 5), 2)
    assert state_size(policy.memory) == 2 * 8


# The probe


def planted(trials=400, values=4):
    """Samples in two groups of ages whose value `here` holds in the first alone, and `nowhere` in none."""
    rng = np.random.default_rng(0)
    value = np.repeat(rng.integers(0, values, (trials, 1)), 3, axis=1).astype(np.int32)
    here, nowhere = rng.standard_normal((2, trials, 3, 8)).astype(np.float32)
    here[:, 1, :values] += 8 * np.eye(values, dtype=np.float32)[value[:, 1]]
    taken = np.ones((trials, 3), bool)
    return Samples(value, taken, {"state": here, "output": nowhere})


def test_probe_finds_what_is_there_and_nothing_else():
    result = accuracy_by_age(planted(), [(0, 0), (1, 1)])
    before, now, later = result["groups"]
    assert (result["values"], result["trials"]) == (4, 280)
    assert [group["ages"] for group in result["groups"]] == [None, [0, 0], [1, 1]]
    assert all(group["tested"] == 120 for group in result["groups"])
    assert now["state"]["accuracy"] > 0.97
    for absent in (before["state"], later["state"], before["output"], now["output"], later["output"]):
        assert absent["low"] < 0.25 < absent["high"]
    for group in result["groups"]:
        assert 0.1 < group["chance"] < 0.4


def test_probe_is_tested_on_other_trials_than_it_learns_from():
    """Features that name the trial let a classifier learn by heart what it is asked, if it may."""
    samples = planted(100)
    named = np.broadcast_to(100 * np.eye(100, dtype=np.float32)[:, None], (100, 3, 100))
    result = accuracy_by_age(samples._replace(features={"state": named}), [(0, 0), (1, 1)])
    for group in result["groups"]:
        assert group["state"]["accuracy"] < 0.6


def test_probe_without_enough_to_go_by():
    samples = planted(100)
    assert accuracy_by_age(samples._replace(value=np.ones_like(samples.value)), [(0, 0), (1, 1)]) is None
    assert accuracy_by_age(samples._replace(taken=np.zeros_like(samples.taken)), [(0, 0), (1, 1)]) is None
    taken = samples.taken.copy()
    taken[70 + FEWEST - 1 :, 2] = False
    groups = accuracy_by_age(samples._replace(taken=taken), [(0, 0), (1, 1)])["groups"]
    assert [group["ages"] for group in groups] == [None, [0, 0]]


@pytest.mark.parametrize("length", [1, 5, 100])
def test_groups_of_ages_cover_all(length):
    groups = age_groups(length)
    assert [age for first, last in groups for age in range(first, last + 1)] == list(range(length))
