"""What memories of every kind are made of: linear maps and normalisations."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from memrl.memory.base import parameter_dtype


def dense(features: int, dtype: jnp.dtype, **settings: Any) -> nn.Dense:
    """A linear map computed in `dtype`, its parameters in float32 at least; with a bias unless `settings` differ."""
    return nn.Dense(features, dtype=dtype, param_dtype=parameter_dtype(dtype), **settings)


def rms_norm(dtype: jnp.dtype) -> nn.RMSNorm:
    """Root-mean-square normalisation (arXiv 1910.07467), its statistics in float32 at least."""
    # Flax's own switch to float32 asks for an implicit promotion that does not exist from float64.
    return nn.RMSNorm(dtype=dtype, param_dtype=parameter_dtype(dtype), force_float32_reductions=dtype != jnp.float64)


def layer_norm(dtype: jnp.dtype, epsilon: float = 1e-6, affine: bool = True) -> nn.LayerNorm:
    """Layer normalisation (arXiv 1607.06450), its statistics in float32 at least; with scale and bias if `affine`."""
    return nn.LayerNorm(
        epsilon=epsilon,
        use_bias=affine,
        use_scale=affine,
        dtype=dtype,
        param_dtype=parameter_dtype(dtype),
        force_float32_reductions=dtype != jnp.float64,  # see `rms_norm`
    )
