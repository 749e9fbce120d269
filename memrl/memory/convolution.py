"""A short causal convolution over time, which many recurrent blocks have in front of their memory."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from memrl.memory.base import parameter_dtype


def nothing_recent(batch: int, width: int, features: int, dtype: jnp.dtype) -> jax.Array | None:
    """The state of `batch` convolutions that have read nothing: `[B, width - 1, C]`, None for a width of 1."""
    return jnp.zeros((batch, width - 1, features), dtype) if width > 1 else None


class ShortConvolution(nn.Module):
    """Every channel's weighted sum of its latest `width` values, of those that belong to the episode.

        y_t = Σ_a w_a ⊙ x_(t-a)        a = 0 .. width - 1

    Nothing is mixed between channels, and there is no bias.
    """

    width: int
    """Steps, the current one included; at least 2."""
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, recent: jax.Array, x: jax.Array, resets: jax.Array) -> tuple[jax.Array, jax.Array]:
        """From the inputs before, `[B, width - 1, C]`, and `x` `[T, B, C]`, finite: those to come before, and `y`."""
        steps = x.shape[0]
        # As PyTorch begins a convolution: uniform within 1 / √width.
        initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        kernel = self.param("kernel", initializer, (self.width, x.shape[-1]), parameter_dtype(self.dtype))
        time = jnp.arange(steps, dtype=jnp.int32)[:, None]
        began = jax.lax.cummax(jnp.where(resets, time, -self.width), axis=0)
        values = jnp.concatenate([recent.swapaxes(0, 1), x])
        taps = []
        for age in range(self.width):
            first = self.width - 1 - age
            taps.append(jnp.where((time - age >= began)[..., None], values[first : first + steps], 0))
        weighted = [weights[None, None] * tap for weights, tap in zip(kernel.astype(self.dtype), taps, strict=True)]
        y = functools.reduce(jnp.add, weighted)
        return jnp.stack([tap[-1] for tap in reversed(taps[:-1])], axis=1), y
