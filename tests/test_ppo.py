import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memrl.advantage import generalised_advantage, trajectory_advantage
from memrl.networks import Inputs, Outputs
from memrl.ppo import (
    Minibatch,
    PPOConfig,
    epoch_rows,
    loss,
    minibatch_rows,
)
from memrl.rollout import Trajectory

AXIS = "devices"


def on_devices(function, *arguments):
    """Runs `function` on each element of the leading axis as if it were a device of its own."""
    return jax.vmap(function, axis_name=AXIS)(*arguments)


# Advantages. Numbers are chosen so that they are exact in binary.


def test_generalised_advantage_by_hand():
    rewards, values, next_values = jnp.float32([[1, 2, 3], [0.5, 1, 1.5], [1, 1.5, 2]])
    half = jnp.full(3, 0.5)
    # δ = 1 + 0.5 - 0.5, 2 + 0.75 - 1, 3 + 1 - 1.5, and each later one counts a quarter.
    expected = [1 + 0.25 * (1.75 + 0.25 * 2.5), 1.75 + 0.25 * 2.5, 2.5]
    np.testing.assert_array_equal(generalised_advantage(rewards, half, values, next_values, half), expected)


def trajectory_of(**fields):
    return Trajectory(**{name: None for name in Trajectory._fields} | fields)


def test_advantage_ends_with_the_trial():
    """Four steps of reward 1. A trial that goes on, one terminated by the second step, one truncated there."""
    none = [False] * 3
    trajectory = trajectory_of(
        reward=jnp.ones((4, 3)),
        # Had anybody looked into the next trial, a 100 would tell.
        value=jnp.float32([[1, 1, 1], [1, 1, 1], [100, 100, 100], [100, 100, 100]]),
        terminated=jnp.array([none, [False, True, False], none, none]),
        truncated=jnp.array([none, [False, False, True], none, none]),
        final_value=jnp.float32([[0, 0, 0], [0, 0, 8], [0, 0, 0], [0, 0, 0]]),
    )
    advantage = trajectory_advantage(
        trajectory, jnp.full(3, 100.0), discount=0.5, gae_lambda=0.5, credit_across_attempts=True
    )
    third, fourth = 1 + 50 - 100 + 0.25 * -49, 1 + 50 - 100
    second = 1 + 50 - 1 + 0.25 * third
    np.testing.assert_array_equal(
        advantage.T,
        [
            [0.5 + 0.25 * second, second, third, fourth],
            [0.5, 0, third, fourth],  # 1 + 0 - 1: nothing follows
            [0.5 + 0.25 * 4, 4, third, fourth],  # 1 + 0.5 x 8 - 1: the final observation's value follows
        ],
    )


def test_credit_ends_with_the_attempt_if_asked():
    """Three steps of reward 1; the second ends an attempt."""
    trajectory = trajectory_of(
        reward=jnp.ones((3, 1)),
        value=jnp.float32([[1], [1], [100]]),
        terminated=jnp.zeros((3, 1), bool),
        truncated=jnp.zeros((3, 1), bool),
        final_value=jnp.zeros((3, 1)),
        soft_reset=jnp.array([[False], [True], [False]]),
    )
    third = 1 + 50 - 100
    for credit_across_attempts, second in ((True, 1 + 50 - 1 + 0.25 * third), (False, 0)):
        advantage = trajectory_advantage(
            trajectory,
            jnp.full(1, 100.0),
            discount=0.5,
            gae_lambda=0.5,
            credit_across_attempts=credit_across_attempts,
        )
        np.testing.assert_array_equal(advantage[:, 0], [0.5 + 0.25 * second, second, third])


# The loss


class Table:
    """A policy whose parameters are its outputs."""

    def apply(self, params, memory, inputs, resets, method):
        assert method == "unroll"
        return memory, params


def loss_of(outputs, batch, **settings):
    config, every_step = PPOConfig(**settings), jnp.ones(1, bool)
    of_device = functools.partial(
        loss,
        config=config,
        hyperparameters=config.hyperparameters(),
        entropy_coefficient=0.125,
        counts=every_step,
        newest=every_step,
        axis=AXIS,
    )
    return on_devices(lambda outputs, batch: of_device(Table(), outputs, None, batch), outputs, batch)


def batch_of(advantage, log_prob, value):
    """A minibatch on each device, one step long, in which action 0 was taken throughout; arguments `[devices, N]`."""
    fields = [jnp.asarray(leaf, jnp.float32)[:, None] for leaf in (log_prob, value, advantage)]
    inputs = Inputs(*[jnp.zeros_like(fields[0])] * 4)
    return Minibatch(inputs, jnp.zeros_like(fields[0], bool), jnp.zeros_like(fields[0], jnp.int32), *fields)


ADVANTAGE = np.array([[1, -1, 1, -1.0]])
RATIO = np.array([[1.5, 1.5, 0.5, 0.5]])
OLD = batch_of(ADVANTAGE, np.log([[0.5] * 4]), [[0, 0, 0, 0]])
NEW = Outputs(
    logits=jnp.log(jnp.float32(np.stack([RATIO / 2, 1 - RATIO / 2], axis=-1)))[:, None],
    value=jnp.float32([[[0.5, 0.05, 1.5, -0.1]]]),
)
ENTROPY = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))


@pytest.mark.parametrize(
    ("value_clip", "value_errors"),
    [
        (None, [0.5**2, 1.05**2, 0.5**2, 0.9**2]),
        # The first and the third move by more than 0.1: what counts is 0.1, where that is further from the target of 1.
        (0.1, [0.9**2, 1.05**2, 0.9**2, 0.9**2]),
    ],
)
def test_loss_by_hand(value_clip, value_errors):
    total, statistics = loss_of(NEW, OLD, normalise_advantage=False, value_clip=value_clip, value_coefficient=0.25)
    # Above 1.2 nothing more is to be gained, below 0.8 likewise; losses count in full.
    policy_loss = -(1.2 - 1.5 + 0.5 - 0.8) / 4
    value_loss = 0.5 * np.mean(value_errors)
    expected = {
        "loss": policy_loss + 0.25 * value_loss - 0.125 * ENTROPY,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": ENTROPY,
        "approximate_kl": np.mean(RATIO - 1 - np.log(RATIO)),
        "clip_fraction": 1,
        "ratio_deviation": 0.5,
    }
    assert {name: value.item() for name, value in statistics.items()} == pytest.approx(expected, rel=1e-6)
    assert total.item() == statistics["loss"].item()


def test_clipped_samples_have_no_gradient():
    def policy_loss(outputs):
        return loss_of(outputs, OLD, normalise_advantage=False)[1]["policy_loss"].sum()

    gradient = jax.grad(policy_loss)(NEW).logits
    assert (gradient != 0).any(axis=-1).ravel().tolist() == [False, True, True, False]


def test_advantages_are_normalised_over_all_devices():
    """Two devices see 1 and 3, 5 and 7: mean 4, variance 5."""
    batch = batch_of([[1, 3], [5, 7]], np.log(np.full((2, 2), 0.5)), np.zeros((2, 2)))
    outputs = Outputs(jnp.zeros((2, 1, 2, 2)), jnp.zeros((2, 1, 2)))
    _, statistics = loss_of(outputs, batch)
    np.testing.assert_allclose(statistics["policy_loss"], [2 / 5**0.5, -2 / 5**0.5], rtol=1e-6)


# Minibatches


def global_rows(seed, devices, num_envs=24, minibatches=3):
    """Which of all environments each minibatch takes, int `[minibatches, num_envs / minibatches]`, sorted."""
    local = num_envs // devices
    index = on_devices(
        lambda first: first + minibatch_rows(jax.random.key(seed), local, minibatches, AXIS),
        jnp.arange(devices, dtype=jnp.int32) * local,
    )
    return np.sort(np.moveaxis(np.asarray(index), 0, 1).reshape(minibatches, -1), axis=-1)


def test_minibatches_partition_the_environments():
    for seed in range(5):
        np.testing.assert_array_equal(np.sort(global_rows(seed, 1).ravel()), np.arange(24))


@pytest.mark.parametrize("devices", [2, 8])
def test_minibatches_are_the_same_on_any_number_of_devices(devices):
    np.testing.assert_array_equal(global_rows(0, devices), global_rows(0, 1))


def test_every_epoch_deals_anew():
    """24 environments in 3 minibatches: 4 epochs, each of which takes every environment once, no two the same."""
    index = jax.vmap(lambda _: epoch_rows(jax.random.key(0), 4, 24, 3, AXIS), axis_name=AXIS)(jnp.zeros(1))[0]
    epochs = np.sort(index.reshape(4, 3, 8), axis=-1)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch.ravel()), np.arange(24))
    assert len(np.unique(epochs.reshape(4, -1), axis=0)) == 4


def test_minibatches_are_drawn_at_random():
    """Any two environments meet in some minibatches and not in others, unless their group keeps them apart."""
    together = np.zeros((24, 24), int)
    for seed in range(60):
        for minibatch in global_rows(seed, 1):
            together[np.ix_(minibatch, minibatch)] += 1
    same_group = np.arange(24)[:, None] // 3 == np.arange(24) // 3
    assert (together[same_group & ~np.eye(24, dtype=bool)] == 0).all()
    meetings = together[~same_group]  # 60 trials of probability 1/3
    assert meetings.min() >= 5 and meetings.max() <= 38


# Settings


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"num_envs": 10, "minibatches": 4}, "ppo.num_envs is 10 and ppo.minibatches is 4"),
        ({"epochs": 0}, "ppo.epochs is 0: it must be at least 1"),
        ({"unroll_length": -1}, "ppo.unroll_length is -1"),
        ({"discount": 1.5}, "ppo.discount is 1.5: it must be from 0 to 1"),
        ({"gae_lambda": -0.1}, "ppo.gae_lambda is -0.1"),
        ({"learning_rate": 0.0}, "ppo.learning_rate is 0.0: it must be greater than 0"),
        ({"clip": float("nan")}, "ppo.clip is nan"),
        ({"value_clip": 0.0}, "ppo.value_clip is 0.0"),
        ({"final_learning_rate": -1e-3}, "ppo.final_learning_rate is -0.001"),
        ({"entropy_coefficient": -0.01}, "ppo.entropy_coefficient is -0.01: it must not be negative"),
    ],
)
def test_bad_settings_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        PPOConfig(**settings)
