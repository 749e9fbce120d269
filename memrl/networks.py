"""The policy: an encoder, a memory and two heads."""

import dataclasses
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from memrl.memory.base import Memory, State, parameter_dtype


class Inputs(struct.PyTreeNode):
    """What the policy is told at each step, leading axes `[B]` or `[T, B]`, as in RL² (arXiv 1611.02779)."""

    observation: jax.Array
    """`[.., *observation_shape]`."""
    action: jax.Array
    """The previous action, int32; -1 at the start of a trial."""
    reward: jax.Array
    """The previous reward, float32; 0 at the start of a trial."""
    soft_reset: jax.Array
    """Whether the previous step ended an attempt of the same trial, bool."""


class Outputs(NamedTuple):
    """What the policy says, float32."""

    logits: jax.Array
    """Unnormalised log-probabilities of the actions, `[.., A]`."""
    value: jax.Array
    """Expected discounted return, `[..]`."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The parts of the policy around the memory."""

    encoder_features: tuple[int, ...] = (64,)
    """Width of each encoder layer before the memory."""
    head_features: tuple[int, ...] = (64,)
    """Width of each hidden layer of the actor, and of the critic."""
    previous_action: bool = True
    """Tell the policy its previous action."""
    previous_reward: bool = True
    """Tell the policy the reward it just received."""
    soft_reset: bool = True
    """Tell the policy when an attempt of the same trial has ended."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network's arithmetic; parameters, softmax, advantages and loss are float32 either way."""

    def __post_init__(self) -> None:
        for name in ("encoder_features", "head_features"):
            if any(width < 1 for width in getattr(self, name)):
                raise ValueError(f"network.{name} is {getattr(self, name)}: every width must be at least 1.")


class ActorCritic(nn.Module):
    """Encoder, memory, heads; the same contract as a memory, from `Inputs` to `Outputs`."""

    memory: Memory
    num_actions: int
    config: NetworkConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.encoder = [self._dense(width) for width in self.config.encoder_features]
        self.actor = [self._dense(width) for width in self.config.head_features]
        self.critic = [self._dense(width) for width in self.config.head_features]
        # Nearly equal probabilities at the start, and values of order one (arXiv 2006.05990, section 3.2).
        self.logits = self._dense(self.num_actions, 0.01)
        self.value = self._dense(1, 1.0)

    def initial_state(self, batch: int, key: jax.Array | None = None) -> State:
        """The state of `batch` empty memories; `key` feeds what they draw at random."""
        return self.memory.initial_state(batch, key)

    def step(self, state: State, inputs: Inputs, reset: jax.Array) -> tuple[State, Outputs]:
        """Acting: `inputs` and `reset` (bool) have leading axis `[B]`."""
        state, features = self.memory.step(state, self._encode(inputs), reset)
        return state, self._heads(features)

    def unroll(self, state: State, inputs: Inputs, resets: jax.Array) -> tuple[State, Outputs]:
        """Learning: `inputs` and `resets` (bool) have leading axes `[T, B]`; equal to a scan of `step`."""
        state, features = self.memory.unroll(state, self._encode(inputs), resets)
        return state, self._heads(features)

    def _encode(self, inputs: Inputs) -> jax.Array:
        leading = inputs.action.shape
        parts = [inputs.observation.reshape(*leading, -1)]
        if self.config.previous_action:
            parts.append(jax.nn.one_hot(inputs.action, self.num_actions))
        if self.config.previous_reward:
            parts.append(inputs.reward[..., None])
        if self.config.soft_reset:
            parts.append(inputs.soft_reset[..., None])
        x = jnp.concatenate([part.astype(self.dtype) for part in parts], axis=-1)
        for layer in self.encoder:
            x = nn.relu(layer(x))
        return x

    def _heads(self, features: jax.Array) -> Outputs:
        actor = critic = features
        for actor_layer, critic_layer in zip(self.actor, self.critic, strict=True):
            actor, critic = nn.relu(actor_layer(actor)), nn.relu(critic_layer(critic))
        wide = parameter_dtype(self.dtype)
        return Outputs(self.logits(actor).astype(wide), self.value(critic)[..., 0].astype(wide))

    def _dense(self, width: int, scale: float = 2**0.5) -> nn.Dense:
        return nn.Dense(
            width,
            kernel_init=nn.initializers.orthogonal(scale),
            dtype=self.dtype,
            param_dtype=parameter_dtype(self.dtype),
        )
