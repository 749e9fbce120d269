"""What every number in a config must be, whatever it stands for; each config adds what its own fields ask for."""

import dataclasses
import math
from collections.abc import Collection
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

INT32_MAX = 2**31 - 1
FLOAT32_MIN, FLOAT32_MAX = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
"""The least and the largest positive float32, Python floats; what is less counts as 0."""


def check_numbers(config: Any, prefix: str = "", infinite: Collection[str] = (), large: Collection[str] = ()) -> None:
    """Raises ValueError if a number in the dataclass `config` is none that an array can hold.

    Arrays are int32 and float32. A larger integer overflows; 1e308 would become infinite, and 1e-320 would become 0.

    Args:
      config: whose fields are checked, and what is in tuples among them.
      prefix: what stands before the names of its fields, such as "ppo.".
      infinite: fields that may be infinite too.
      large: fields whose integers may have any size, because no array holds them.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            match number:
                case int() if abs(number) > INT32_MAX and field.name not in large:
                    allowed = "at most 2^31 - 1 in size (int32)"
                case float() if not math.isfinite(number) and not (math.isinf(number) and field.name in infinite):
                    allowed = "a number" if field.name in infinite else "a finite number"
                case float() if math.isfinite(number) and number and not FLOAT32_MIN <= abs(number) <= FLOAT32_MAX:
                    allowed = f"0, or from {FLOAT32_MIN:.1e} to {FLOAT32_MAX:.1e} in size (float32)"
                case _:
                    continue
            raise ValueError(f"{prefix}{field.name} is {value}: it must be {allowed}.")


def check_sizes(config: Any, prefix: str = "") -> None:
    """Raises ValueError if a field of type `int`, or `int | None`, is less than 1."""
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if (kind is int or kind == int | None) and value is not None and value < 1:
            raise ValueError(f"{prefix}{name} is {value}: it must be at least 1.")


def check_choices(config: Any, prefix: str = "") -> None:
    """Raises ValueError if a field of type `Literal` is none of what there is to choose from."""
    for name, kind in get_type_hints(type(config)).items():
        allowed, value = get_args(kind), getattr(config, name)
        if get_origin(kind) is Literal and value not in allowed:
            raise ValueError(f"{prefix}{name} is {value!r}: it must be one of {', '.join(map(str, allowed))}.")
