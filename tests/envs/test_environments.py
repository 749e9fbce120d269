"""What holds for every registered environment."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.player import play

# Small ones, in which trials and attempts end often.
SMALL = {
    "dark_key_to_door": {"size": 3, "attempt_limit": 4, "trial_length": 12},
}
NUM_ENVIRONMENTS = 8
NUM_STEPS = 40


@pytest.fixture(params=envs.ENVIRONMENTS)
def made(request):
    return envs.get(request.param)(**SMALL[request.param]).make()


def random_steps(environment, params, key):
    """Every step's outcome, `[T, B, ...]`, with random actions; the states are those *before* the step."""
    reset_key, scan_key = jax.random.split(key)

    def step(state, key):
        action_key, step_key = jax.random.split(key)
        actions = jax.vmap(environment.action_space(params).sample)(jax.random.split(action_key, NUM_ENVIRONMENTS))
        step_keys = jax.random.split(step_key, NUM_ENVIRONMENTS)
        observation, next_state, reward, terminated, truncated, info = jax.vmap(environment.step, (0, 0, 0, None))(
            step_keys, state, actions, params
        )
        outcome = {"state": state, "next_state": next_state, "observation": observation, "reward": reward}
        return next_state, {**outcome, "terminated": terminated, "truncated": truncated, "info": info, "key": step_keys}

    @jax.jit
    def run(reset_key, scan_key):
        _, state = jax.vmap(environment.reset, (0, None))(jax.random.split(reset_key, NUM_ENVIRONMENTS), params)
        return jax.lax.scan(step, state, jax.random.split(scan_key, NUM_STEPS))[1]

    return run(reset_key, scan_key)


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_observations_are_in_their_space(made, getkey):
    environment, params = made
    space = environment.observation_space(params)
    steps = random_steps(environment, params, getkey())
    first, _ = environment.reset(getkey(), params)
    assert first.shape == space.shape and first.dtype == space.dtype
    for observations in (steps["observation"], steps["info"]["final_observation"]):
        assert observations.shape == (NUM_STEPS, NUM_ENVIRONMENTS, *space.shape)
        assert observations.dtype == space.dtype
        assert jax.vmap(jax.vmap(space.contains))(observations).all()


def test_rewards_and_flags(made, getkey):
    steps = random_steps(*made, getkey())
    assert steps["reward"].dtype == jnp.float32 and jnp.isfinite(steps["reward"]).all()
    flags = [steps["terminated"], steps["truncated"]]
    if "soft_reset" in steps["info"]:
        flags.append(steps["info"]["soft_reset"])
    for flag in flags:
        assert flag.shape == (NUM_STEPS, NUM_ENVIRONMENTS) and flag.dtype == jnp.bool_


def test_same_key_same_trial(made, getkey):
    key = getkey()
    one, same, other = (jax.tree.leaves(random_steps(*made, key)["state"]) for key in (key, key, getkey()))
    assert_equal(one, same)
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_trial_is_truncated_exactly_at_its_length(made, getkey):
    environment, params = made
    steps = random_steps(environment, params, getkey())
    ended = np.asarray(steps["terminated"] | steps["truncated"])
    age = np.zeros(NUM_ENVIRONMENTS, int)
    for t in range(NUM_STEPS):
        age += 1
        np.testing.assert_array_equal(steps["truncated"][t], age == params.max_steps_in_episode)
        age[ended[t]] = 0
    assert ended.any()


def test_nothing_of_a_trial_leaks_into_the_next(made, getkey):
    environment, params = made
    steps = random_steps(environment, params, getkey())
    ended = np.asarray(steps["terminated"] | steps["truncated"])
    reset_keys = jax.vmap(lambda key: jax.random.split(key)[1])(steps["key"][ended])
    fresh_observation, fresh_state = jax.vmap(environment.reset_env, (0, None))(reset_keys, params)
    assert_equal(jax.tree.map(lambda leaf: leaf[ended], steps["next_state"]), fresh_state)
    assert_equal(steps["observation"][ended], fresh_observation)
    assert (fresh_state.time == 0).all()


def test_state_keeps_its_types(made, getkey):
    environment, params = made

    def types(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), jax.eval_shape(lambda: tree))

    _, state = environment.reset(getkey(), params)
    action = environment.action_space(params).sample(getkey())
    _, next_state, *_ = environment.step(getkey(), state, action, params)
    assert types(state) == types(next_state)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    assert all(leaf.dtype in (jnp.int32, jnp.float32, jnp.bool_) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("name", envs.ENVIRONMENTS)
def test_equal_configs_share_a_compilation(name):
    config = envs.get(name)(**SMALL[name])
    environment, params = config.make()
    again, _ = dataclasses.replace(config).make()
    assert environment == again and hash(environment) == hash(again)
    assert jax.tree.structure(params) == jax.tree.structure(environment.default_params)


def test_render_gives_pictures(made, getkey):
    environment, params = made
    _, state = environment.reset(getkey(), params)
    picture = environment.render(state, params)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    _, state = environment.reset(getkey(), params)
    assert (picture != environment.render(state, params)).any()


def test_first_player_is_the_upper_bound(made, getkey):
    environment, params = made
    key = getkey()
    returns = {
        name: play(environment, params, player, key, num_environments=200, num_steps=NUM_STEPS).sum(0).mean()
        for name, player in environment.players().items()
    }
    assert max(returns, key=returns.get) == next(iter(returns))


def test_get_answers_a_typo_with_the_nearest_name():
    with pytest.raises(ValueError, match="no environment 'dark_key_door'; did you mean 'dark_key_to_door'"):
        envs.get("dark_key_door")
