"""`envs.check`: each kind of mistake, made in an environment that is right otherwise."""

import dataclasses
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import pytest
from flax import struct
from gymnax.environments import environment, spaces
from gymnax.wrappers.compat import LegacyStepAPIWrapper

import envs
from envs.base import EnvParams
from envs.gymnax_environment import GymnaxConfig


@struct.dataclass
class CountState(environment.EnvState):
    level: jax.Array  # int32


FOUR = spaces.Discrete(4)


@dataclasses.dataclass(frozen=True)
class Count(environment.Environment):
    """Two actions: up and down. The level, from 0 to 3, is observed beside the time; 3 ends the episode."""

    symbols: Any = FOUR
    lift: int = 0
    """Added to the level that is observed."""
    unit: float = 0.1
    """What the time is observed as a multiple of."""

    @property
    def num_actions(self) -> int:
        return 2

    def action_space(self, params):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Dict({"level": self.symbols, "time": spaces.Box(0, 1, (1,))})

    def reset_env(self, key, params):
        state = CountState(jnp.int32(0), jnp.int32(0))
        return self.observe(key, state, None, params), state

    def step_env(self, key, state, action, params):
        level = jnp.clip(state.level + jnp.where(action == 1, 1, -1), 0, 3)
        state = CountState(state.time + 1, level)
        terminated = self.is_terminated(state, params)
        return self.observe(key, state, action, params), state, jnp.float32(terminated), terminated, {}

    def observe(self, key, state, action, params):
        return {"level": state.level + self.lift, "time": self.unit * state.time[None].astype(jnp.float32)}

    def is_terminated(self, state, params):
        return state.level == 3


PARAMS = EnvParams(max_steps_in_episode=20)


def problem(environment, params=PARAMS) -> str:
    with pytest.raises(ValueError) as caught:
        envs.check(environment, params)
    return str(caught.value)


def test_nothing_is_said_of_an_environment_that_is_right():
    envs.check(Count(), PARAMS)  # its numbers leave their space, which is no mistake


@pytest.mark.parametrize(
    ("lift", "message"),
    [
        (-1, "Count: the observation['level'] is -1 after reset, which is not in its space, Discrete(4, dtype=int32)."),
        (1, "Count: the observation['level'] is 4 after 3 random steps, which is not in its space, Discrete(4, "),
    ],
)
def test_symbols_outside_their_space(lift, message):
    """The first is read as the last symbol, the other as NaN. The last of an episode is looked at, too."""
    assert problem(Count(lift=lift)).startswith(message)


def test_pixels_and_symbols_of_a_box():
    space = spaces.Box(0, 2, (), jnp.uint8)
    message = f"the observation['level'] is 3 after 3 random steps, which is not in its space, {space}."
    assert message in problem(Count(symbols=space))


def test_numbers_that_are_not_finite():
    assert problem(Count(unit=jnp.inf)) == "Count: the observation['time'] is nan after reset; numbers must be finite."

    class Costly(Count):
        def step_env(self, *arguments):
            observation, state, _, terminated, info = super().step_env(*arguments)
            return observation, state, jnp.where(state.level > 0, jnp.inf, 0.0), terminated, info

    assert problem(Costly()) == "Costly: the reward is inf after 1 random step."


def test_the_time_limit_is_no_end_of_the_task():
    class Limited(Count):
        def is_terminated(self, state, params):
            return super().is_terminated(state, params) | (state.time >= params.max_steps_in_episode)

    class Finite(Limited):
        ends_at_limit = True

    assert problem(Limited()).startswith("Limited: `terminated` becomes true at max_steps_in_episode, ")
    envs.check(Finite(), PARAMS)


def test_a_task_that_ends_at_once_has_no_limit():
    class Single(Count):
        def is_terminated(self, state, params):
            return state.time == 1

    envs.check(Single(), PARAMS)


def test_limits_that_are_counted_otherwise():
    class Early(Count):
        def is_terminated(self, state, params):
            return super().is_terminated(state, params) | (state.time >= params.max_steps_in_episode - 1)

    assert problem(Early()).startswith("Early: `terminated` becomes true at max_steps_in_episode, ")


def test_the_five_value_interface():
    assert problem(LegacyStepAPIWrapper(Count())) == (
        "Count: step returns 5 values, but must return six as in gymnax 1.0: observation, state, reward, terminated, "
        "truncated, info. From a `done` for both, the end of the task looks like a time limit."
    )


def overriding(**methods) -> Count:
    """A `Count` some of whose methods are others; they get the outcome of the original's as well."""

    def replaced(name, change):
        return lambda self, *arguments: change(getattr(Count, name)(self, *arguments))

    return type("Changed", (Count,), {name: replaced(name, change) for name, change in methods.items()})()


def with_value(index, change):
    return lambda outcome: (*outcome[:index], change(outcome[index]), *outcome[index + 1 :])


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"reset": lambda outcome: outcome[0]}, "reset must return two values, observation and state."),
        (
            {"action_space": lambda _: spaces.Box(-1, 1, (2,))},
            "its actions are in Box(low=-1, high=1, shape=(2,), dtype=float32), but must be Discrete.",
        ),
        (
            {"action_space": lambda _: spaces.Discrete(3)},
            "num_actions is 2, but the actions are in Discrete(3, dtype=int32).",
        ),
        (
            {"observation_space": lambda space: spaces.Tuple(tuple(space.spaces.values()))},
            "must be in a Box, Discrete or Dict of these.",
        ),
        (
            {"observation_space": lambda space: spaces.Dict({**space.spaces, "more": space.spaces["time"]})},
            "a Dict needs a dict with the same names.",
        ),
        (
            {"observe": lambda observation: {**observation, "time": jnp.zeros(2)}},
            "the observation['time'] has shape (2,), but its space is Box(low=0, high=1, shape=(1,), dtype=float32).",
        ),
        (
            {"observe": lambda observation: {**observation, "level": jnp.float32(0)}},
            "the observation['level'] has type float32, but its space is Discrete(4, dtype=int32).",
        ),
        (
            {"step": with_value(0, lambda observation: {**observation, "time": jnp.zeros(2)})},
            "the observation['time'] is float32 [1] after reset, but float32 [2] after step.",
        ),
        (
            {"step": with_value(1, lambda state: state.replace(level=jnp.float32(0)))},
            "the state.level is int32 [] after reset, but float32 [] after step.",
        ),
        ({"step": with_value(2, lambda reward: reward[None])}, "the reward has shape (1,), but must be a single "),
        ({"step": with_value(3, jnp.float32)}, "terminated is float32 [], but must be a single bool."),
        ({"step": with_value(4, lambda flag: flag[None])}, "truncated is bool [1], but must be a single bool."),
        (
            {"step": with_value(5, lambda info: {**info, "soft_reset": 0})},
            'info["soft_reset"] is int32 [], but must be a single bool.',
        ),
        (
            {"step": with_value(5, lambda info: {**info, "final_observation": jnp.zeros(3)})},
            'info["final_observation"] is',
        ),
        ({"step": with_value(5, lambda _: {})}, "info has no final_observation, "),
    ],
)
def test_shapes_and_types(methods, message):
    """Nothing is compiled to find these out."""
    said = problem(overriding(**methods))
    assert said.startswith("Changed: ") and message in said


def test_outcomes_that_are_not_told():
    class Promising(Count):
        outcomes = ("success",)

    assert problem(Promising()) == "Promising: info has no 'success', which `outcomes` names."


def test_parameters_without_a_limit():
    @struct.dataclass
    class Nothing:
        pass

    assert problem(Count(), Nothing()).startswith("Count: its parameters have no max_steps_in_episode")


def test_where_nothing_may_be_compiled():
    """JAX_DISABLE_JIT=1 is how people debug; thousands of steps would take minutes then."""
    calls = []

    class Counted(Count):
        def step_env(self, *arguments):
            calls.append(arguments)
            return super().step_env(*arguments)

    with jax.disable_jit():
        assert "is -1 after reset" in problem(Counted(lift=-1))
    assert len(calls) < 10


@pytest.mark.slow
@pytest.mark.parametrize("id", sorted(set(gymnax.registered_envs) - {"MNISTBandit-bsuite"}))
def test_those_of_gymnax_are_right(id):
    try:
        environment, params = GymnaxConfig(id).make()
    except ValueError:
        pytest.skip("Its actions are continuous.")
    envs.check(environment, params)
