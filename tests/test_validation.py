"""Every number of every config is one that arrays can hold, or is refused with its name; what is infinite is kept."""

import dataclasses
import json
import math
from typing import Any, get_args

import pytest

from envs import ENVIRONMENTS
from experiments.config import Config, config_from_dict, config_to_dict
from experiments.configs import CONFIGS
from memrl.evaluation import EvaluationConfig
from memrl.memory import MEMORIES
from memrl.networks import NetworkConfig
from memrl.ppo import PPOConfig

MAIN = CONFIGS["memo_gridworld"].config
PARTS = {
    **{f"env {name}": kind() for name, kind in ENVIRONMENTS.items()},
    **{f"memory {name}": kind() for name, kind in MEMORIES.items()},
    "network": NetworkConfig(),
    "ppo": PPOConfig(),
    "evaluation": EvaluationConfig(),
    "config": MAIN,
}


def types_of(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    return {annotation}.union(*map(types_of, get_args(annotation)))


def fields_of(kind: type) -> list[Any]:
    """A parameter of a test for every field that takes numbers of the `kind`."""
    return [
        pytest.param(part, field.name, id=f"{name}.{field.name}")
        for name, part in PARTS.items()
        for field in dataclasses.fields(part)
        if kind in types_of(field.type)
    ]


def with_value(part: Any, name: str, number: float) -> Any:
    """The config with another number in a field; in a tuple, it takes the place of the last one."""
    field = next(field for field in dataclasses.fields(part) if field.name == name)
    value = getattr(part, name)
    if tuple in {getattr(one, "__origin__", None) for one in types_of(field.type)}:
        value = (*value[:-1], number) if value else (number,) * max(1, len(get_args(field.type)))
    else:
        value = number
    return dataclasses.replace(part, **{name: value})


def through_json(part: Any) -> Any:
    """The part after a config that it belongs to has been written as JSON, as the standard has it, and read."""
    place = next(
        (field.name for field in dataclasses.fields(Config) if isinstance(part, field.type) and field.name != "name"),
        None,
    )
    config = part if place is None else dataclasses.replace(MAIN, **{place: part})
    text = json.dumps(config_to_dict(config), allow_nan=False)
    config = config_from_dict(json.loads(text))
    return config if place is None else getattr(config, place)


@pytest.mark.parametrize(("part", "name"), fields_of(float))
def test_floats_that_are_not_float32_are_refused_or_kept(part, name):
    for number in (math.nan, math.inf, -math.inf, 1e308, 1e-320):
        try:
            changed = with_value(part, name, number)
        except ValueError as error:
            assert name in str(error) and str(error).endswith(".") and "\n" not in str(error)
        else:
            assert number == math.inf and getattr(changed, name) == number
            assert through_json(changed) == changed


def test_what_may_be_infinite():
    """No clipping, that is; everything else is refused."""
    for name in ("clip", "value_clip", "max_gradient_norm"):
        assert getattr(dataclasses.replace(PPOConfig(), **{name: math.inf}), name) == math.inf
    allowed = set()
    for parameter in fields_of(float):
        part, name = parameter.values
        try:
            with_value(part, name, math.inf)
            allowed.add(name)
        except ValueError:
            pass
    assert allowed == {"clip", "value_clip", "max_gradient_norm"}


NOT_IN_ARRAYS = {"total_steps": 2**31, "seed": 2**31, "checkpoint_every": 10**30}
"""Fields of integers that no array holds, and the largest number below that they can be."""


@pytest.mark.parametrize(("part", "name"), fields_of(int))
def test_integers_beyond_int32_are_refused_where_arrays_hold_them(part, name):
    for number in (2**31, -(2**31), 2**63, 10**30):
        if 0 < number <= NOT_IN_ARRAYS.get(name, 0):
            assert getattr(with_value(part, name, number), name) == number
            continue
        with pytest.raises(ValueError) as caught:
            with_value(part, name, number)
        assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_steps": 10**17}, "that makes 781250000000000 steps of each environment"),
        ({"ppo": PPOConfig(unroll_length=1), "total_steps": 256 * 10**8}, "that makes 3200000000 gradient steps"),
        ({"updates_per_chunk": 2 * 10**9}, "total_steps is 8000000, in chunks of 2000000000 updates: that makes"),
    ],
)
def test_what_is_counted_fits_int32(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MAIN, **changes)
    assert dataclasses.replace(MAIN, total_steps=2**33).num_updates > 0


def test_steps_of_a_trial_fit_int32():
    with pytest.raises(ValueError, match=r"^A trial would have 12000000006 steps, but must have at most 2\^31 - 1\.$"):
        ENVIRONMENTS["t_maze"](length=2 * 10**9, corridors=1).make()
    evaluation = dataclasses.replace(MAIN.evaluation, horizons=(1, 10**9))
    with pytest.raises(ValueError, match=r"^evaluation.horizons is \(1, 1000000000\) and a trial has 100 steps"):
        dataclasses.replace(MAIN, evaluation=evaluation).validate()
