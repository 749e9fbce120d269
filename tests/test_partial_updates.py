"""Updates in the middle of a rollout, memories that are read again, and losses that shape what is remembered."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_memory

import memrl.partial_updates
from envs.t_maze import TMazeConfig
from memrl.networks import ActorCritic, Inputs, NetworkConfig
from memrl.ppo import PPOConfig
from memrl.rollout import rollout
from memrl.sharding import device_mesh
from memrl.training import Settings, make_training

CONFIG = PPOConfig(num_envs=4, unroll_length=12, epochs=2, minibatches=1, learning_rate=0.01, updates_per_rollout=3)


def make(memory="memo", **settings):
    """Training in a maze whose episodes end at random, by what it does."""
    config = dataclasses.replace(CONFIG, **settings)
    env, params = TMazeConfig(length=1).make()
    policy = ActorCritic(
        tiny_memory(memory, 36, **({"jitter": 0.0} if memory == "memo" else {})).build(),
        env.num_actions,
        NetworkConfig((8,), (8,)),
        auxiliary=config.auxiliary,
    )
    settings = Settings(params, config.hyperparameters())
    return policy, env, settings, make_training(policy, env, settings, config, 10, device_mesh(1))


def test_refreshed_memories_are_what_the_new_parameters_would_remember():
    """Then acting and learning agree in every update, partial ones included."""
    policy, env, settings, training = make(refresh_memory=True)
    state = training.initial_state(jax.random.key(0), settings)
    first = jax.tree.map(jnp.copy, state.actor)
    deviations = []
    for _ in range(3):
        state, metrics = training.advance(state, settings)
        deviations.append(float(metrics["ratio_deviation"][0]))
    assert max(deviations) < 1e-4

    # After one update of one piece, the memory is that of reading its steps with the parameters that came out of it.
    _, _, _, training = make(refresh_memory=True, updates_per_rollout=1)
    initial = training.initial_state(jax.random.key(0), settings)
    _, trajectory = rollout(policy, env, settings.env_params, initial.params, initial.actor, CONFIG.unroll_length)
    after, _ = training.advance(initial, settings)
    expected, _ = policy.apply(after.params, first.memory, trajectory.inputs, trajectory.reset, method="unroll")
    for actual, wanted in zip(*map(jax.tree.leaves, (after.actor.memory, expected)), strict=True):
        if not jnp.issubdtype(actual.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(actual, wanted, atol=1e-5)


def test_memories_that_are_not_refreshed_are_stale():
    _, _, settings, training = make()
    _, metrics = training.advance(training.initial_state(jax.random.key(0), settings), settings)
    assert metrics["ratio_deviation"][0] > 1e-3


def test_partial_updates_learn_from_the_newest_steps_alone(monkeypatch):
    """What each of three updates is given: which steps count, which are newest, and the trajectory so far."""
    given = []
    learn = memrl.partial_updates.learn

    def spy(*arguments, newest, counts, trajectory, advantage, key, **others):
        values = newest, counts, trajectory.inputs.action, advantage, jax.random.key_data(key)
        jax.debug.callback(lambda *values: given.append(values), *values, ordered=True)
        given_on = {"newest": newest, "counts": counts, "trajectory": trajectory, "advantage": advantage, "key": key}
        return learn(*arguments, **given_on, **others)

    monkeypatch.setattr(memrl.partial_updates, "learn", spy)
    _, _, settings, training = make("gru")
    jax.block_until_ready(training.advance(training.initial_state(jax.random.key(0), settings), settings))
    jax.effects_barrier()
    assert len(given) == 3
    assert len({tuple(key.tolist()) for *_, key in given}) == 3  # each deals minibatches of its own
    time = np.arange(12)
    for piece, (newest, counts, _, advantage, _) in enumerate(given):
        np.testing.assert_array_equal(newest, time // 4 == piece)
        np.testing.assert_array_equal(counts, newest if piece < 2 else np.ones(12, bool))
        assert (np.asarray(advantage)[time // 4 > piece] == 0).all()  # not taken yet
    final = np.asarray(given[-1][2])
    for piece, (_, _, action, _, _) in enumerate(given):
        np.testing.assert_array_equal(action[time // 4 <= piece], final[time // 4 <= piece])


def test_updates_must_divide_the_rollout():
    with pytest.raises(ValueError, match=r"ppo\.unroll_length is 12 and ppo\.updates_per_rollout is 5"):
        dataclasses.replace(CONFIG, updates_per_rollout=5)


def test_auxiliary_losses_go_down_and_reach_the_memory():
    """What can be known of the maze is learned, with a reward that says nothing about it."""
    coefficients = {"updates_per_rollout": 1, "reconstruction_coefficient": 1.0, "prediction_coefficient": 1.0}
    _, _, settings, training = make("gru", **coefficients, minibatches=2, epochs=4)
    state = training.initial_state(jax.random.key(0), settings)
    losses = []
    for _ in range(40):
        state, metrics = training.advance(state, settings)
        losses.append([float(metrics[f"{name}_loss"][0]) for name in ("reconstruction", "prediction")])
    assert losses[-1][0] < 0.5 * losses[0][0]
    assert np.isfinite(losses).all()


KINDS = ("numbers", "picture", 5)


def auxiliary_losses(getkey, **changed):
    """Of a policy never trained, `[T, B]` each, for three steps of two environments; `changed` parts of the inputs."""
    observation = {
        "numbers": jax.random.normal(getkey(), (3, 2, 4)),
        "picture": jax.random.randint(getkey(), (3, 2, 18, 9, 3), 0, 256, jnp.int32).astype(jnp.uint8),
        "symbols": jax.random.randint(getkey(), (3, 2, 6), 0, 5, jnp.int32),
    }
    inputs = Inputs(observation, jnp.ones((3, 2), jnp.int32), jnp.zeros((3, 2)), jnp.zeros((3, 2), bool))
    policy = ActorCritic(
        tiny_memory("gru", 1).build(),
        3,
        NetworkConfig((8,), (8,)),
        kinds=KINDS,
        auxiliary=("reconstruction", "prediction"),
    )
    state, resets = policy.initial_state(2), jnp.zeros((3, 2), bool).at[2, 1].set(True)
    params = policy.init(jax.random.key(5), state, *jax.tree.map(lambda leaf: leaf[0], (inputs, resets)), method="step")
    inputs = inputs.replace(**{name: change(getattr(inputs, name)) for name, change in changed.items()})
    features = jax.random.normal(jax.random.key(6), (3, 2, 8))
    return policy.apply(params, inputs, features, resets, method="auxiliary_losses")


def test_auxiliary_losses_step_by_step(getkey):
    losses = auxiliary_losses(getkey)
    assert {name: loss.shape for name, loss in losses.items()} == {"reconstruction": (3, 2), "prediction": (3, 2)}
    # Untrained: about log 5 for symbols, log 2 for pixels, half the variance for numbers.
    assert 1 < losses["reconstruction"].mean() < 6
    assert (losses["prediction"][2] == 0).all()  # what comes after the last step is not known
    assert losses["prediction"][1, 1] == 0 and losses["prediction"][1, 0] > 0  # nor what comes after a trial


def test_prediction_is_told_what_was_done():
    key = jax.random.key(0)
    one = auxiliary_losses(lambda: key)["prediction"]
    other = auxiliary_losses(lambda: key, action=lambda action: action.at[1, 0].set(2))["prediction"]
    assert one[0, 0] != other[0, 0]
    np.testing.assert_array_equal(one[1:], other[1:])
    assert one[0, 1] == other[0, 1]
