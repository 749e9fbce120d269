"""Settings to test policies in: environments with other values, what they are called, and what a policy meets there."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from envs import ENVIRONMENTS
from experiments import command_line
from experiments.command_line import UsageError, option
from experiments.config import AnyEnvironment
from experiments.sweeps import Sweeps
from memrl.evaluation import Setting
from memrl.networks import observation_kinds


@dataclasses.dataclass(frozen=True)
class Tested:
    """What `--test` changes."""

    env: Annotated[AnyEnvironment, tyro.conf.FlagConversionOff]


def tested(trained: Sequence[Any], tests: Sweeps) -> list[Any]:
    """The environments to test in, as configs, each once: those `trained` in, changed in every combination of `tests`.

    Without `tests` those trained in and their splits.

    Raises:
      UsageError: an environment has no such field, or not that value.
    """
    found: dict[Any, Any] = {}
    for env in trained:
        for one in changed(env, tests) if tests else [env, *env.splits().values()]:
            found.setdefault(made(Setting(*one.make())), one)
    return list(found.values())


def changed(env: Any, tests: Sweeps) -> Iterator[Any]:
    """The environment `env`, a config, with every combination of values; UsageError if it cannot have one."""
    for choice in itertools.product(*tests.values()):
        yield change(
            env, [word for field, value in zip(tests, choice, strict=True) for word in (option(field), *value)]
        )


def change(env: Any, arguments: list[str]) -> Any:
    """An environment's config with other values; UsageError if it cannot have them."""
    try:
        return command_line.parse(Tested, Tested(env), [Tested(env)], "experiments.matrix", "", arguments).env
    except ValueError as error:
        raise UsageError(f"Cannot test on {' '.join(arguments)}: {error}") from error


def made(setting: Setting) -> Any:
    """A setting in a form that is equal for equal ones."""
    environment, params = setting
    leaves, structure = jax.tree.flatten(params)
    return environment, structure, tuple((np.asarray(leaf).dtype.str, np.asarray(leaf).tobytes()) for leaf in leaves)


def names_of(environments: Sequence[Any]) -> list[str]:
    """Names of environments by the fields in which they differ, short but different from each other.

    Numbers are always named, other values where they are not the default. A field that follows from the others is not.
    """
    told = []
    kinds = {type(env) for env in environments}
    names = {kind: name for name, kind in ENVIRONMENTS.items()}
    for kind in kinds:
        same = [env for env in environments if type(env) is kind]
        fields = [field for field in dataclasses.fields(kind) if len({getattr(env, field.name) for env in same}) > 1]
        for field in reversed(list(fields)):
            others = [other for other in fields if other is not field]
            if len({tuple(getattr(env, other.name) for other in others) for env in same}) == len(same) and others:
                fields = others
        for env in same:
            values = {field.name: getattr(env, field.name) for field in fields}
            numbers = {field.name for field in fields if type(getattr(env, field.name)) in (int, float)}
            shown = [
                f"{field.name}={values[field.name]}"
                for field in fields
                if field.name in numbers or values[field.name] != field.default
            ]
            told.append((env, ", ".join(([names[kind]] if len(kinds) > 1 else []) + shown) or names[kind]))
    return [next(name for one, name in told if one is env) for env in environments]


def faced(setting: Setting) -> tuple[Any, ...]:
    """What a policy sees and can do in a setting; it can face all others of which this is the same."""
    environment, params = setting
    observation = jax.eval_shape(lambda key: environment.reset(key, params)[0], jax.random.key(0))
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(observation))
    return environment.num_actions, observation_kinds(environment.observation_space(params)), shapes


def check_faced(trained: Mapping[str, Any], settings: Mapping[str, Setting]) -> None:
    """UsageError if what was trained in an environment cannot face a setting; both by name."""
    others = {name: faced(setting) for name, setting in settings.items()}
    for label, env in trained.items():
        own = faced(Setting(*env.make()))
        for name, other in others.items():
            if other != own:
                raise UsageError(
                    f"{label} cannot be tested in {name}: it is trained with {in_words(own)}, "
                    f"and there are {in_words(other)}."
                )


def in_words(what: tuple[Any, ...]) -> str:
    """What `faced` returns, in words."""
    actions, kinds, shapes = what
    told = [
        f"{kind if isinstance(kind, str) else f'{kind} symbols'} {list(shape)}"
        for kind, (shape, _) in zip(kinds, shapes, strict=True)
    ]
    return f"{actions} actions and observations of {', '.join(told)}"
