"""The policy: an encoder, a memory and two heads."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from memrl.auxiliary import Auxiliary, Prediction, Reconstruction
from memrl.memory.base import Memory, State, parameter_dtype
from memrl.validation import check_numbers


class Inputs(struct.PyTreeNode):
    """What the policy reads at each step, leading axes `[B]` or `[T, B]`, as in RL² (arXiv 1611.02779)."""

    observation: Any
    """A pytree of arrays `[.., *shape]`, read as `observation_kinds` says."""
    action: jax.Array
    """The previous action, int32; -1 at the start of a trial."""
    reward: jax.Array
    """The previous reward, float32; 0 at the start of a trial."""
    soft_reset: jax.Array
    """Whether the previous step ended an attempt of the same trial, bool."""


class Outputs(NamedTuple):
    """Output of the policy, float32."""

    logits: jax.Array
    """Unnormalised log-probabilities of the actions, `[.., A]`."""
    value: jax.Array
    """Expected discounted return, `[..]`."""
    features: jax.Array | None = None
    """Output of the memory, `[.., F]`, from which logits and value follow."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The parts of the policy around the memory."""

    encoder_features: tuple[int, ...] = (64,)
    """Width of each encoder layer before the memory."""
    head_features: tuple[int, ...] = (64,)
    """Width of each hidden layer of the actor, and of the critic."""
    previous_action: bool = True
    """Whether the policy reads its previous action."""
    previous_reward: bool = True
    """Whether the policy reads the reward that it has just received."""
    soft_reset: bool = True
    """Whether the policy reads that an attempt of the same trial has just ended."""
    memory_across_attempts: bool = True
    """Whether the memory is kept when an attempt of the same trial has ended; the end of a trial always clears it."""
    embedding_features: int = 16
    """Width of the embedding of a symbol, such as the content of a cell; the number of symbols if that is smaller."""
    picture_features: tuple[int, ...] = (16, 32, 32)
    """Channels of the convolutions that read pictures: the first sees one patch at a time, the others 3x3 patches."""
    picture_patch: int = 9
    """Pixels along each side of a patch, one cell of a game."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network's arithmetic; parameters, softmax, advantages and loss are float32 either way."""

    def __post_init__(self) -> None:
        check_numbers(self, "network.")
        if not self.picture_features:
            raise ValueError("network.picture_features is (): pictures need at least one convolution.")
        for name in ("encoder_features", "head_features", "picture_features"):
            if any(width < 1 for width in getattr(self, name)):
                raise ValueError(f"network.{name} is {getattr(self, name)}: every width must be at least 1.")
        for name in ("embedding_features", "picture_patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"network.{name} is {getattr(self, name)}: it must be at least 1.")


Kind = int | Literal["numbers", "picture"]
"""How an array of an observation is read: as numbers, as a picture, or as symbols (an integer: how many there are)."""


def observation_kinds(space: Any) -> tuple[Kind, ...]:
    """How the arrays of an observation in a gymnax space are read, in the order of `jax.tree.leaves`.

    Floating-point and boolean arrays are numbers. Integers are symbols from 0 to the highest of their space, which have
    no order, but for pictures: uint8 `[H, W, C]`, the highest 255.

    Raises:
      ValueError: a space of another kind.
    """
    from gymnax.environments import spaces  # gymnax takes seconds to import, and only this function needs it

    if isinstance(space, spaces.Dict):
        return tuple(kind for name in sorted(space.spaces) for kind in observation_kinds(space.spaces[name]))
    if isinstance(space, spaces.Discrete):
        return (space.n,)
    if not isinstance(space, spaces.Box):
        raise ValueError(f"A policy cannot read observations in {space}: they must be in a Box, Discrete or Dict.")
    if not jnp.issubdtype(space.dtype, jnp.integer):
        return ("numbers",)
    if jnp.ndim(space.low) or jnp.ndim(space.high) or space.low != 0:
        raise ValueError(f"A policy cannot read observations in {space}: integers must be symbols that count from 0.")
    if space.high == 255 and space.dtype == jnp.uint8 and len(space.shape) == 3:
        return ("picture",)
    return (int(space.high) + 1,)


class ActorCritic(nn.Module):
    """Encoder, memory, heads; the same contract as a memory, from `Inputs` to `Outputs`."""

    if TYPE_CHECKING:  # as in `Memory`

        def init(self, *args: Any, **kwargs: Any) -> Any: ...
        def apply(self, *args: Any, **kwargs: Any) -> Any: ...

    memory: Memory
    num_actions: int
    config: NetworkConfig
    dtype: jnp.dtype = jnp.float32
    kinds: tuple[Kind, ...] = ("numbers",)
    """How each array of the observation is read, see `observation_kinds`."""
    auxiliary: tuple[Auxiliary, ...] = ()
    """Losses besides those of PPO that `auxiliary_losses` computes."""

    def setup(self) -> None:
        self.embeddings = [self._embedding(kind) if isinstance(kind, int) else None for kind in self.kinds]
        if "picture" in self.kinds:
            first, *others = self.config.picture_features
            patch = self.config.picture_patch, self.config.picture_patch
            self.convolutions = [self._convolution(first, patch, patch)] + [
                self._convolution(width, (3, 3), (1, 1)) for width in others
            ]
        if "reconstruction" in self.auxiliary:
            self.reconstruction = Reconstruction(
                self.kinds, self.config.picture_features, self.config.picture_patch, self.dtype
            )
        if "prediction" in self.auxiliary:
            self.prediction = Prediction(self.num_actions, self.dtype)
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
        state, features = self.memory.step(state, self._encode(inputs), self._clears(inputs, reset))
        if self.is_initializing() and self.auxiliary:
            self.auxiliary_losses(*jax.tree.map(lambda leaf: leaf[None], (inputs, features, reset)))
        return state, self._heads(features)

    def unroll(self, state: State, inputs: Inputs, resets: jax.Array) -> tuple[State, Outputs]:
        """Learning: `inputs` and `resets` (bool) have leading axes `[T, B]`; equal to a scan of `step`."""
        state, features = self.memory.unroll(state, self._encode(inputs), self._clears(inputs, resets))
        return state, self._heads(features)

    def auxiliary_losses(self, inputs: Inputs, features: jax.Array, resets: jax.Array) -> dict[str, jax.Array]:
        """The losses of `auxiliary` in each step, float32 `[T, B]`.

        Args:
          inputs: what the policy read, `[T, B, ..]`.
          features: what its memory said, `[T, B, F]`.
          resets: where a trial began, bool `[T, B]`.
        """
        losses = {}
        if "reconstruction" in self.auxiliary:
            losses["reconstruction"] = self.reconstruction(features, inputs.observation)
        if "prediction" in self.auxiliary:
            # Where the memory is cleared, nothing can predict what comes.
            losses["prediction"] = self.prediction(features, inputs.action, self._clears(inputs, resets))
        return losses

    def _encode(self, inputs: Inputs) -> jax.Array:
        leading = inputs.action.shape
        arrays = jax.tree.leaves(inputs.observation)
        parts = [
            self._read(array, kind, embedding).reshape(*leading, -1)
            for array, kind, embedding in zip(arrays, self.kinds, self.embeddings, strict=True)
        ]
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

    def _read(self, array: jax.Array, kind: Kind, embedding: nn.Module | None) -> jax.Array:
        if embedding is not None:
            return embedding(array.astype(jnp.int32))
        if kind == "numbers":
            return array
        x = array.reshape(-1, *array.shape[-3:]).astype(self.dtype) / 255
        for layer in self.convolutions:
            x = nn.relu(layer(x))
        return x

    def _clears(self, inputs: Inputs, reset: jax.Array) -> jax.Array:
        """Where the memory is cleared."""
        return reset if self.config.memory_across_attempts else reset | inputs.soft_reset

    def _heads(self, features: jax.Array) -> Outputs:
        actor = critic = features
        for actor_layer, critic_layer in zip(self.actor, self.critic, strict=True):
            actor, critic = nn.relu(actor_layer(actor)), nn.relu(critic_layer(critic))
        wide = parameter_dtype(self.dtype)
        return Outputs(self.logits(actor).astype(wide), self.value(critic)[..., 0].astype(wide), features)

    def _embedding(self, symbols: int) -> nn.Module:
        features = min(symbols, self.config.embedding_features)
        return nn.Embed(symbols, features, dtype=self.dtype, param_dtype=parameter_dtype(self.dtype))

    def _convolution(self, width: int, kernel: tuple[int, int], strides: tuple[int, int]) -> nn.Conv:
        return nn.Conv(width, kernel, strides, dtype=self.dtype, param_dtype=parameter_dtype(self.dtype))

    def _dense(self, width: int, scale: float = 2**0.5) -> nn.Dense:
        return nn.Dense(
            width,
            kernel_init=nn.initializers.orthogonal(scale),
            dtype=self.dtype,
            param_dtype=parameter_dtype(self.dtype),
        )
