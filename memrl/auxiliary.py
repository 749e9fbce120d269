"""Losses that shape what is remembered, besides those of PPO: each is a small network on what the memory says."""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from memrl.memory.base import parameter_dtype
from memrl.memory.layers import dense

Auxiliary = Literal["reconstruction", "prediction"]
"""A loss that shapes what is remembered, besides those of PPO."""


class Reconstruction(nn.Module):
    """Reconstructs the observation from the output of the memory, as HCAM's agents do (arXiv 2105.14039, figure 1d).

    HCAM stops gradients into what it stores, so that without this loss little shapes what it stores. One hidden layer;
    then for numbers half the squared error, for symbols the cross-entropy, for pictures that of each pixel with an
    intensity as a probability; each averaged over an array, and summed over the arrays of the observation.
    """

    kinds: tuple[int | Literal["numbers", "picture"], ...]
    """How the arrays of the observation are read, see `memrl.networks.observation_kinds`."""
    picture_features: tuple[int, ...]
    """Channels of the encoder's convolutions."""
    picture_patch: int
    """Pixels along each side of a patch of a picture."""
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, features: jax.Array, observation: Any) -> jax.Array:
        wide, leading = parameter_dtype(self.dtype), features.shape[:-1]
        hidden = nn.relu(dense(2 * features.shape[-1], self.dtype)(features))
        total = jnp.zeros(leading, wide)
        for array, kind in zip(jax.tree.leaves(observation), self.kinds, strict=True):
            shape = array.shape[len(leading) :]
            if kind == "numbers":
                told = dense(math.prod(shape), self.dtype)(hidden).astype(wide)
                error = 0.5 * jnp.square(told - array.reshape(*leading, -1).astype(wide))
            elif kind == "picture":
                told = self._paint(hidden, shape).astype(wide)
                error = optax.sigmoid_binary_cross_entropy(told, array.reshape(told.shape).astype(wide) / 255)
            else:
                told = dense(math.prod(shape) * kind, self.dtype)(hidden).astype(wide)
                told = told.reshape(*leading, math.prod(shape), kind)
                symbols = array.reshape(*leading, -1).astype(jnp.int32)
                error = optax.softmax_cross_entropy_with_integer_labels(told, symbols)
            total = total + error.mean(axis=-1)
        return total

    def _paint(self, hidden: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Logits of the pixels, patch by patch: the encoder's convolutions the other way round."""
        patch = self.picture_patch
        height, width, channels = shape
        if height % patch or width % patch:
            raise ValueError(f"network.picture_patch is {patch}: to be reconstructed, it must divide {height}x{width}.")
        rows, columns, depth = height // patch, width // patch, self.picture_features[-1]
        x = nn.relu(dense(rows * columns * depth, self.dtype)(hidden)).reshape(-1, rows, columns, depth)
        wide = parameter_dtype(self.dtype)
        x = nn.ConvTranspose(channels, (patch, patch), (patch, patch), dtype=self.dtype, param_dtype=wide)(x)
        return x.reshape(*hidden.shape[:-1], -1)


class Prediction(nn.Module):
    """Predicts the next output of the memory from the present one and the action (arXiv 2401.08898, section 4).

    The squared error, averaged over features; no gradient flows into what is predicted.
    """

    num_actions: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, features: jax.Array, action: jax.Array, cleared: jax.Array) -> jax.Array:
        # The action between two steps is the previous one of the later step.
        done = jax.nn.one_hot(action[1:], self.num_actions, dtype=self.dtype)
        hidden = nn.relu(dense(2 * features.shape[-1], self.dtype)(jnp.concatenate([features[:-1], done], axis=-1)))
        told = dense(features.shape[-1], self.dtype)(hidden)
        error = jnp.square(told - jax.lax.stop_gradient(features[1:])).astype(parameter_dtype(self.dtype)).mean(axis=-1)
        error = jnp.where(cleared[1:], 0, error)
        return jnp.concatenate([error, jnp.zeros_like(error, shape=(1, *error.shape[1:]))])  # the last is not known yet
