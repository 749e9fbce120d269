import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from tiny import tiny_memory

from memrl.networks import ActorCritic, Inputs, NetworkConfig, observation_kinds

ACTIONS = 3


def inputs_of(observation, action, reward, soft_reset):
    return Inputs(jnp.float32(observation), jnp.int32(action), jnp.float32(reward), jnp.array(soft_reset, bool))


INPUTS = inputs_of([[1, 2], [3, 4]], [-1, 2], [0, 0.5], [False, True])


def make(**settings):
    policy = ActorCritic(tiny_memory("none", 1).build(), ACTIONS, NetworkConfig(**settings))
    params = jax.jit(lambda: policy.init(jax.random.key(0), (), INPUTS, jnp.zeros(2, bool), method="step"))()
    return policy, params


def encoder_input(settings):
    """What the first layer of the encoder receives, found by an encoder of the identity."""
    policy = ActorCritic(tiny_memory("none", 1).build(), ACTIONS, settings)
    width = policy.config.encoder_features[0]
    params = {"params": {"encoder_0": {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}}}
    return np.asarray(policy.apply(params, INPUTS, method="_encode"))


@pytest.mark.parametrize(
    ("switched_off", "expected"),
    [
        ((), [[1, 2, 0, 0, 0, 0, 0], [3, 4, 0, 0, 1, 0.5, 1]]),
        (("previous_action",), [[1, 2, 0, 0], [3, 4, 0.5, 1]]),
        (("previous_reward",), [[1, 2, 0, 0, 0, 0], [3, 4, 0, 0, 1, 1]]),
        (("soft_reset",), [[1, 2, 0, 0, 0, 0], [3, 4, 0, 0, 1, 0.5]]),
    ],
)
def test_policy_is_told_what_the_config_says(switched_off, expected):
    """The observation, the previous action as one-hot (zeros at the start of a trial), the reward, the soft reset."""
    settings = NetworkConfig(encoder_features=(len(expected[0]),))
    settings = dataclasses.replace(settings, **dict.fromkeys(switched_off, False))
    np.testing.assert_array_equal(encoder_input(settings), expected)


def test_observations_are_flattened():
    policy, _ = make(encoder_features=())
    images = INPUTS.replace(observation=jnp.arange(24.0).reshape(2, 3, 2, 2))
    encoded = policy.apply({}, images, method="_encode")
    np.testing.assert_array_equal(encoded[:, :12], np.arange(24).reshape(2, 12))


def test_step_and_unroll_agree(getkey):
    policy, params = make()
    sequence = Inputs(
        jax.random.normal(getkey(), (5, 2, 2)),
        jax.random.randint(getkey(), (5, 2), -1, ACTIONS),
        jax.random.normal(getkey(), (5, 2)),
        jax.random.bernoulli(getkey(), 0.5, (5, 2)),
    )
    resets = jnp.zeros((5, 2), bool)
    _, learned = policy.apply(params, (), sequence, resets, method="unroll")
    assert (learned.logits.shape, learned.value.shape) == ((5, 2, ACTIONS), (5, 2))
    _, acted = jax.lax.scan(lambda state, now: policy.apply(params, state, *now, method="step"), (), (sequence, resets))
    np.testing.assert_allclose(acted.logits, learned.logits, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(acted.value, learned.value, rtol=1e-5, atol=1e-6)


def test_initial_policy_is_nearly_uniform():
    policy, params = make()
    logits = policy.apply(params, (), INPUTS, jnp.zeros(2, bool), method="step")[1].logits
    assert 0 < np.abs(logits).max() < 0.1


def test_heads_share_nothing_behind_the_memory():
    """The logits do not depend on the critic, nor the value on the actor, and both depend on encoder and memory."""
    policy, params = make(encoder_features=(16, 16), head_features=(16, 16))

    def dependence(output):
        def total(params):
            return getattr(policy.apply(params, (), INPUTS, jnp.zeros(2, bool), method="step")[1], output).sum()

        gradient = jax.jit(jax.grad(total))(params)["params"]
        return {name for name, part in gradient.items() if any((leaf != 0).any() for leaf in jax.tree.leaves(part))}

    shared = {"encoder_0", "encoder_1", "memory"}
    assert dependence("logits") == {*shared, "actor_0", "actor_1", "logits"}
    assert dependence("value") == {*shared, "critic_0", "critic_1", "value"}


@pytest.mark.parametrize("name", ["gru", "memo"])
def test_bfloat16_computes_in_half_and_answers_in_float32(name):
    memory = tiny_memory(name, 4)
    policy = ActorCritic(memory.build(jnp.bfloat16), ACTIONS, NetworkConfig(dtype="bfloat16"), jnp.bfloat16)

    def run(key):
        state = policy.initial_state(2, key)
        params = policy.init(key, state, INPUTS, jnp.ones(2, bool), method="step")
        encoded = policy.apply(params, INPUTS, method="_encode")
        return params, encoded, state, policy.apply(params, state, INPUTS, jnp.ones(2, bool), method="step")

    with jax.numpy_dtype_promotion("standard"):  # Flax's RMSNorm promotes bfloat16 by itself
        params, encoded, before, (after, outputs) = jax.eval_shape(run, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert encoded.dtype == jnp.bfloat16
    assert outputs.logits.dtype == outputs.value.dtype == jnp.float32
    assert jax.tree.map(lambda leaf: leaf.dtype, before) == jax.tree.map(lambda leaf: leaf.dtype, after)
    assert jnp.dtype("bfloat16") in {leaf.dtype for leaf in jax.tree.leaves(before)}


@pytest.mark.parametrize("field", ["encoder_features", "head_features"])
def test_widths_must_be_positive(field):
    with pytest.raises(ValueError, match=rf"network.{field} is \(64, 0\): every width must be at least 1"):
        NetworkConfig(**{field: (64, 0)})


# Observations of several parts


def test_kinds_follow_from_the_space():
    space = spaces.Dict(
        {
            "word": spaces.Discrete(7),
            "cells": spaces.Box(0, 4, (3, 3), jnp.uint8),
            "position": spaces.Box(-1.0, 1.0, (2,), jnp.float32),
            "view": spaces.Box(0, 255, (18, 18, 3), jnp.uint8),
        }
    )
    assert observation_kinds(space) == (5, "numbers", "picture", 7)  # cells, position, view, word
    assert observation_kinds(spaces.Box(0, 255, (84, 84, 1), jnp.uint8)) == ("picture",)
    assert observation_kinds(spaces.Box(0, 255, (21, 79), jnp.uint8)) == (256,)  # such as letters on a screen


@pytest.mark.parametrize(
    "space", [spaces.Box(-1, 1, (2,), jnp.int32), spaces.Box(jnp.zeros(2), 1, (2,), jnp.int32), spaces.Tuple([])]
)
def test_spaces_that_cannot_be_read(space):
    with pytest.raises(ValueError, match="A policy cannot read observations in"):
        observation_kinds(space)


def test_symbols_are_embedded_and_pictures_convolved(getkey):
    kinds, settings = (5, "numbers", "picture"), NetworkConfig((), (8,), embedding_features=3, picture_features=(4, 6))
    policy = ActorCritic(tiny_memory("gru", 1).build(), ACTIONS, settings, kinds=kinds)
    observation = {
        "cells": jnp.array([[[0, 1], [2, 4]], [[0, 0], [4, 3]]], jnp.uint8),
        "position": jnp.float32([[0.5, 1], [0, 2]]),
        "view": jax.random.randint(getkey(), (2, 18, 27, 3), 0, 256, jnp.int32).astype(jnp.uint8),
    }
    inputs, reset = INPUTS.replace(observation=observation), jnp.zeros(2, bool)
    state = policy.initial_state(2)
    params = policy.init(getkey(), state, inputs, reset, method="step")
    encoded = policy.apply(params, inputs, method="_encode")
    table = params["params"]["embeddings_0"]["embedding"]
    assert table.shape == (5, 3)
    np.testing.assert_array_equal(encoded[:, :12], table[observation["cells"].astype(jnp.int32)].reshape(2, 12))
    np.testing.assert_array_equal(encoded[:, 12:14], observation["position"])
    assert encoded.shape == (2, 12 + 2 + 2 * 3 * 6 + ACTIONS + 2)  # 2 x 3 patches of 9 pixels, 6 channels each
    assert (encoded[0, 14:50] != encoded[1, 14:50]).any()

    sequence = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), inputs)
    _, unrolled = policy.apply(params, state, sequence, jnp.zeros((4, 2), bool), method="unroll")
    for t in range(4):
        state, stepped = policy.apply(params, state, inputs, reset, method="step")
        np.testing.assert_allclose(stepped.logits, unrolled.logits[t], atol=1e-5)


def test_memory_is_cleared_between_attempts_if_asked(getkey):
    settings = NetworkConfig((8,), (8,), memory_across_attempts=False)
    policy = ActorCritic(tiny_memory("gru", 1).build(), ACTIONS, settings)
    state, reset = jax.tree.map(jnp.ones_like, policy.initial_state(2)), jnp.zeros(2, bool)
    params = policy.init(getkey(), state, INPUTS, reset, method="step")
    assert INPUTS.soft_reset.tolist() == [False, True]
    _, kept = policy.apply(params, state, INPUTS, reset, method="step")
    _, cleared = policy.apply(params, policy.initial_state(2), INPUTS, reset, method="step")
    assert (kept.value[0] != cleared.value[0]) and (kept.value[1] == cleared.value[1])
    _, unrolled = policy.apply(params, state, jax.tree.map(lambda x: x[None], INPUTS), reset[None], method="unroll")
    np.testing.assert_allclose(unrolled.value[0], kept.value, atol=1e-6)
