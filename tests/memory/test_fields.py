"""Every field of every memory that can be nonsense is refused by name."""

import dataclasses
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from memrl.memory import MEMORIES

FIELDS = [
    (name, field.name, get_type_hints(kind)[field.name])
    for name, kind in MEMORIES.items()
    for field in dataclasses.fields(kind)
]
SIZES = [(name, field) for name, field, kind in FIELDS if kind is int or kind == int | None]
CHOICES = [(name, field, get_args(kind)) for name, field, kind in FIELDS if get_origin(kind) is Literal]


@pytest.mark.parametrize("value", [0, -4])
@pytest.mark.parametrize(("name", "field"), SIZES)
def test_a_size_is_at_least_1(name, field, value):
    with pytest.raises(ValueError, match=rf"memory\.{field} is {value}: it must be at least 1\."):
        MEMORIES[name](**{field: value})


@pytest.mark.parametrize(("name", "field", "allowed"), CHOICES)
def test_a_choice_is_one_of_those_there_are(name, field, allowed):
    with pytest.raises(ValueError, match=rf"memory\.{field} is 'other': it must be one of {', '.join(allowed)}\."):
        MEMORIES[name](**{field: "other"})


def test_every_memory_has_a_size():
    assert {name for name, _ in SIZES} == set(MEMORIES)
    assert len(CHOICES) > 5
