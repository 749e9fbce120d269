"""What is found out about a run before its program is compiled: an environment that breaks its contract, odd sizes."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

import envs
from experiments.command_line import UsageError
from experiments.config import Config, make_policy
from experiments.terminal import say
from memrl.networks import Inputs, observation_kinds

MANY = 1_000_000
"""Parameters of an encoder or decoder beyond which something is said."""


def examine(config: Config) -> None:
    """Tries the environment of a run out, for seconds, and says what is remarkable about how it is observed.

    Raises:
      UsageError: the environment breaks its contract, or the policy cannot read its observations.
    """
    environment, env_params = config.env.make()
    try:
        envs.check(environment, env_params)
        remarks = list(remarks_on(config, environment, env_params))
    except ValueError as error:
        raise UsageError(str(error)) from error
    for remark in remarks:
        say(remark)


def remarks_on(config: Config, environment: Any, env_params: Any) -> Iterator[str]:
    """A sentence for each thing about reading the observations that one may not have meant."""
    observation, _ = jax.eval_shape(environment.reset, jax.random.key(0), env_params)
    kinds = observation_kinds(environment.observation_space(env_params))
    arrays = jax.tree_util.tree_leaves_with_path(observation)
    for (path, array), kind in zip(arrays, kinds, strict=True):
        if kind == "numbers" and len(array.shape) == 3:
            yield (
                f"The observation{jax.tree_util.keystr(path)}, {array.dtype} {list(array.shape)}, is read as "
                f"{math.prod(array.shape)} numbers: the encoder is not told which of them are neighbours."
            )
    counts = parameters_by_part(config, environment, env_params, observation)
    options = {"encoder": {"network.encoder_features"}, "decoder": set()}
    if "picture" in kinds:
        for part in options.values():
            part |= {"network.picture_patch", "network.picture_features"}
    if any(isinstance(kind, int) for kind in kinds):
        options["encoder"].add("network.embedding_features")
    options["decoder"].add("ppo.reconstruction_coefficient")
    for part, names in options.items():
        if counts[part] > MANY:
            shapes = ", ".join(f"{array.dtype} {list(array.shape)}" for _, array in arrays)
            read = ", ".join(f"{kind} symbols" if isinstance(kind, int) else kind for kind in kinds)
            yield (
                f"The {part} has {counts[part]:,} parameters, for observations {shapes} read as {read}. "
                f"What changes it: {', '.join(sorted(names))}."
            )


def parameters_by_part(config: Config, environment: Any, env_params: Any, observation: Any) -> dict[str, int]:
    """How many parameters read an observation, `encoder`, and reconstruct it, `decoder`; none are made.

    `observation` has the shapes of one.
    """
    policy = make_policy(config, environment, env_params)

    def parameters(key: jax.Array) -> Any:
        batch = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape), leaf.dtype), observation)
        inputs = Inputs(batch, jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.float32), jnp.zeros(1, bool))
        return policy.init(key, policy.initial_state(1, key), inputs, jnp.ones(1, bool), method="step")["params"]

    counts = {"encoder": 0, "decoder": 0}
    for name, part in jax.eval_shape(parameters, jax.random.key(0)).items():
        size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part))
        if name.startswith(("embeddings", "convolutions", "encoder")):
            counts["encoder"] += size
        elif name == "reconstruction":
            counts["decoder"] += size
    return counts
