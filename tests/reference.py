"""What memories are made of once more, in NumPy and as it stands in textbooks, to write their equations with.

`p` is the part of the parameters that belongs to a layer.
"""

import numpy as np


def dense(p, x):
    """`W x + b`, or without `b` where there is none."""
    return x @ np.asarray(p["kernel"]) + np.asarray(p.get("bias", 0.0))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def gelu(x):
    """In the approximation by a hyperbolic tangent (arXiv 1606.08415, section 2)."""
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(logits):
    """Of one row of logits."""
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def rms_norm(p, x):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * np.asarray(p["scale"])


def normalised(x, epsilon=1e-6):
    """With mean 0 and variance 1."""
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + epsilon)


def layer_norm(p, x, epsilon=1e-6):
    return normalised(x, epsilon) * np.asarray(p["scale"]) + np.asarray(p["bias"])


def rotated(x, position, base=10_000.0):
    """Rotary positions: the pair (i, i + d / 2) is a complex number that turns."""
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * position * base ** (-np.arange(half) / half))
    return np.concatenate([turned.real, turned.imag], axis=-1)
