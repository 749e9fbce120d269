"""What memories of every kind are made of: normalisations, and checks of their sizes."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from memrl.memory.base import parameter_dtype


def check_sizes(config: Any, sizes: Sequence[str]) -> None:
    """Refuses sizes below 1: raises ValueError naming the field."""
    for name in sizes:
        if getattr(config, name) < 1:
            raise ValueError(f"memory.{name} is {getattr(config, name)}: it must be at least 1.")


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuses a `value` of the field `name` that is not allowed: raises ValueError."""
    if value not in allowed:
        raise ValueError(f"memory.{name} is {value!r}: it must be one of {', '.join(allowed)}.")


def rms_norm(dtype: jnp.dtype) -> nn.RMSNorm:
    """Root-mean-square normalisation (arXiv 1910.07467), its statistics in float32 at least."""
    # Flax's own switch to float32 asks for an implicit promotion that does not exist from float64.
    return nn.RMSNorm(dtype=dtype, param_dtype=parameter_dtype(dtype), force_float32_reductions=dtype != jnp.float64)


def layer_norm(dtype: jnp.dtype, affine: bool = True) -> nn.LayerNorm:
    """Layer normalisation (arXiv 1607.06450), its statistics in float32 at least, with scale and bias if `affine`."""
    return nn.LayerNorm(
        use_bias=affine,
        use_scale=affine,
        dtype=dtype,
        param_dtype=parameter_dtype(dtype),
        # Flax's own switch to float32 asks for an implicit promotion that does not exist from float64.
        force_float32_reductions=dtype != jnp.float64,
    )
