"""gymnax's own environments, by their names there: `envs.get("gymnax:MemoryChain-bsuite")`.

Those with discrete actions can be trained on, 21 of the 26 in gymnax 1.0, and any that `gymnax.register` adds.
Episodes, observations and rewards are gymnax's own. Adapted are types alone: rewards to float32, observations to the
type of their space, and states keep theirs. What gymnax puts into `info` is left out.

Things to know about some of them:

- MetaMaze-misc means to end an episode at the goal, but asks whether the agent is there after having moved it away.
  So reaching the goal does not end an episode, it moves the agent to a random cell, except for the few times when that
  is the goal again. It is best taken as what it was modelled on: a trial of `max_steps_in_episode` steps with one goal.
- MemoryChain-bsuite shows the context in the first two observations, and its episodes have `memory_length` + 1 steps.
- Observations of MetaMaze-misc, BernoulliBandit-misc and GaussianBandit-misc hold the previous action and reward.
- MNISTBandit-bsuite downloads its pictures when it is made.
- States of DeepSea-bsuite count what happened in all episodes in gymnax, here in one.
"""

import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import environment, spaces

from envs import base


@dataclass(frozen=True)
class GymnaxConfig(base.EnvironmentConfig):
    """One of gymnax's own environments."""

    id: str = "MemoryChain-bsuite"
    """Name of the environment in gymnax."""
    settings: tuple[str, ...] = ()
    """Values, as `name=value`, of its gymnax parameters or of the arguments it is constructed with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.id not in gymnax.registered_envs:
            nearest = difflib.get_close_matches(self.id, gymnax.registered_envs, n=1, cutoff=0.0)[0]
            raise ValueError(f"There is no gymnax environment {self.id}; did you mean {nearest}?")
        for setting in self.settings:
            if "=" not in setting:
                raise ValueError(f"settings has {setting!r}, but must have the form name=value.")

    def make(self) -> tuple["GymnaxEnvironment", environment.EnvParams]:
        """The environment and its parameters.

        Raises:
          ValueError: `settings` do not fit the environment, or its actions are not discrete.
        """
        original = construct(self.id)
        parameters = {
            field.name: getattr(original.default_params, field.name)
            for field in dataclasses.fields(original.default_params)
        }
        arguments = {
            name: parameter.default
            for name, parameter in inspect.signature(type(original)).parameters.items()
            if parameter.default is not parameter.empty
        }
        values = {}
        for setting in self.settings:
            name, _, text = setting.partition("=")
            known = {**arguments, **parameters}
            if not known:
                raise ValueError(f"settings has {setting!r}, but {self.id} has none.")
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise ValueError(f"settings has {setting!r}, but {self.id} has no {name}; did you mean {nearest}?")
            values[name] = parse(setting, text, known[name])

        environment = GymnaxEnvironment(
            self.id, tuple((name, value) for name, value in values.items() if name in arguments)
        )
        changed = {name: value for name, value in values.items() if name in parameters}
        params = dataclasses.replace(
            environment.default_params, **{name: as_numpy(value) for name, value in changed.items()}
        )
        if params.max_steps_in_episode < 1:
            raise ValueError(f"max_steps_in_episode is {params.max_steps_in_episode}, but must be at least 1.")
        if not isinstance(space := environment.original.action_space(params), spaces.Discrete):
            raise ValueError(f"The actions of {self.id} are continuous ({space}), but must be discrete.")
        return environment, params


@dataclass(frozen=True)
class GymnaxEnvironment(base.Environment):
    """One of gymnax's environments; `GymnaxConfig` describes the arguments."""

    id: str
    arguments: tuple[tuple[str, Any], ...]

    @property
    def original(self) -> environment.Environment:
        """gymnax's own object."""
        return construct(self.id, self.arguments)

    @property
    def name(self) -> str:
        return self.id

    @property
    def default_params(self) -> environment.EnvParams:
        params = self.original.default_params
        names = [field.name for field in dataclasses.fields(params)]
        return dataclasses.replace(params, **{name: as_numpy(getattr(params, name)) for name in names})

    def reset_env(self, key: jax.Array, params: environment.EnvParams) -> tuple[Any, Any]:
        with their_rules():
            observation, state = self.original.reset_env(key, params)
            return self.adapt(observation, params), jax.tree.map(of_type(None), state)

    def step_env(
        self, key: jax.Array, state: Any, action: Any, params: environment.EnvParams
    ) -> tuple[Any, Any, jax.Array, jax.Array, dict[str, Any]]:
        with their_rules():
            observation, next_state, reward, terminated, _ = self.original.step_env(key, state, action, params)
            next_state = jax.tree.map(lambda new, old: of_type(old.dtype)(new), next_state, state)
            observation = self.adapt(observation, params)
            return observation, next_state, of_type(jnp.float32)(reward), of_type(jnp.bool_)(terminated), {}

    def adapt(self, observation: Any, params: environment.EnvParams) -> Any:
        """The observation with the types of its space."""
        return in_space(self.observation_space(params), observation)

    def is_terminated(self, state: Any, params: environment.EnvParams) -> jax.Array:
        with their_rules():
            return self.original.is_terminated(state, params)

    def is_truncated(self, state: Any, params: environment.EnvParams) -> jax.Array:
        with their_rules():
            return self.original.is_truncated(state, params)

    @property
    def num_actions(self) -> int:
        return self.action_space(self.default_params).n

    def action_space(self, params: environment.EnvParams) -> spaces.Discrete:
        return self.original.action_space(params)

    def observation_space(self, params: environment.EnvParams) -> spaces.Space:
        return self.original.observation_space(params)


@functools.cache
def construct(id: str, arguments: tuple[tuple[str, Any], ...] = ()) -> environment.Environment:
    """gymnax's environment of that name, one for all that ask; it holds arrays also if first asked while tracing."""
    try:
        with jax.ensure_compile_time_eval(), their_rules():
            return gymnax.make(id, **dict(arguments))[0]
    except Exception as error:  # whatever foreign code raises about its arguments
        chosen = ", ".join(f"{name}={value}" for name, value in arguments)
        raise ValueError(
            f"gymnax cannot make {id}{chosen and f' with {chosen}'}: {str(error) or type(error).__name__}."
        ) from error


@contextlib.contextmanager
def their_rules() -> Iterator[None]:
    """In which gymnax's code runs: it leans on JAX to convert types and ranks, also where its caller forbids that."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def of_type(dtype: Any) -> Callable[[Any], jax.Array]:
    """A function that makes an array of this type; of its own if None, but not weakly typed."""
    return lambda value: jax.lax.convert_element_type(value, jnp.result_type(value) if dtype is None else dtype)


def in_space(space: Any, observation: Any) -> Any:
    """An observation, an array or a dict, with the types of its space."""
    if isinstance(space, spaces.Dict):
        return {name: in_space(part, observation[name]) for name, part in space.spaces.items()}
    return of_type(space.dtype)(observation)


def as_numpy(value: Any) -> np.ndarray:
    """A parameter as a NumPy array, of the type that JAX would give it."""
    return np.asarray(value, jnp.result_type(value))


def parse(setting: str, text: str, default: Any) -> Any:
    """The value that `text` stands for, of the type that `default` has.

    Raises:
      ValueError: there is none.
    """
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(text)
        if type(default) in (bool, int) and type(value) is type(default) and abs(value) <= base.INT32_MAX:
            return value
        if isinstance(default, float) and type(value) in (int, float) and abs(value) <= base.FLOAT32_MAX:
            return float(value)
        if isinstance(default, jax.Array | np.ndarray):
            array = np.asarray(value, default.dtype)
            if array.shape == default.shape and np.isfinite(array).all():
                return array
        if default is None or isinstance(default, tuple):
            return tuple(value) if isinstance(value, list) else value
    except (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError):
        pass
    like = default.tolist() if isinstance(default, jax.Array | np.ndarray) else default
    raise ValueError(f"settings has {setting!r}, but the value must be like the default, {like}, and fit into 32 bits.")
