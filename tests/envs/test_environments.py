"""What holds for every registered environment."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from tiny import TINY_ENVIRONMENTS

import envs
from envs.player import play
from memrl.networks import observation_kinds

REWARDS = {
    "gymnax": (-1, 1),
    "ballet": (0, 1),
    "boxes": (0, 1),
    "bandit": (-np.inf, np.inf),  # normally distributed
    "repeat_first": (-1, 1),
    "repeat_previous": (-1, 1),
    "repeated_gridworld": (0, 1),
    "dark_key_to_door": (0, 1),
    "color_cubes": (-0.01, 1),
    "graph_nav": (0, 1),
    # A cell nearer or further, success, and a step's cost.
    "multi_object_navigation": (-0.25 - 0.003, 0.25 + 2),
    "memory_planning": (0, 1),
    "minigrid_memory": (0, 1),
    "t_maze": (-0.01, 1),
    "visual_match": (0, 10 + 10),
    "word_rooms": (0, 1),
}
"""The least and the most that a step may give."""
NUM_ENVIRONMENTS = 8
NUM_STEPS = 40


@pytest.fixture(scope="module", params=envs.ENVIRONMENTS)
def made(request):
    return envs.get(request.param)(**TINY_ENVIRONMENTS[request.param]).make()


@pytest.fixture(scope="module")
def steps(take_random_steps):
    """What happened in many random steps, `[T, B, ...]`."""
    return take_random_steps(jax.random.key(1))


@pytest.fixture(scope="module")
def take_random_steps(made):
    """A function from a key to every step's outcome, `[T, B, ...]`; `state` is the one *before* the step."""
    environment, params = made
    space = environment.action_space(params)

    def step(state, key):
        action_key, step_key = jax.random.split(key)
        actions = jax.vmap(space.sample)(jax.random.split(action_key, NUM_ENVIRONMENTS))
        step_keys = jax.random.split(step_key, NUM_ENVIRONMENTS)
        observation, next_state, reward, terminated, truncated, info = jax.vmap(environment.step, (0, 0, 0, None))(
            step_keys, state, actions, params
        )
        outcome = {"state": state, "next_state": next_state, "observation": observation, "reward": reward}
        return next_state, {**outcome, "terminated": terminated, "truncated": truncated, "info": info, "key": step_keys}

    @jax.jit
    def run(key):
        reset_key, scan_key = jax.random.split(key)
        _, state = jax.vmap(environment.reset, (0, None))(jax.random.split(reset_key, NUM_ENVIRONMENTS), params)
        return jax.lax.scan(step, state, jax.random.split(scan_key, NUM_STEPS))[1]

    return run


def ends_of(steps):
    return np.asarray(steps["terminated"] | steps["truncated"])


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def spaces_of(space):
    """The spaces of an observation's arrays, a pytree like it."""
    return {name: spaces_of(part) for name, part in space.spaces.items()} if isinstance(space, spaces.Dict) else space


def test_observations_are_in_their_space(made, steps):
    environment, params = made
    space = environment.observation_space(params)
    assert observation_kinds(space)
    first, _ = environment.reset(jax.random.key(0), params)

    def check(space, first, *observations):
        assert first.shape == space.shape and first.dtype == space.dtype
        for array in map(np.asarray, observations):
            assert array.shape == (NUM_STEPS, NUM_ENVIRONMENTS, *space.shape) and array.dtype == space.dtype
            low, high = (0, space.n - 1) if isinstance(space, spaces.Discrete) else (space.low, space.high)
            assert (low <= array).all() and (array <= high).all()

    jax.tree.map(check, spaces_of(space), first, steps["observation"], steps["info"]["final_observation"])


@pytest.mark.slow  # the tests below look at all of it, without compiling every environment once more
def test_nothing_is_said_of_it(made):
    envs.check(*made)


def test_rewards_flags_and_outcomes(request, made, steps):
    environment, _ = made
    assert steps["reward"].dtype == jnp.float32 and jnp.isfinite(steps["reward"]).all()
    least, most = REWARDS[request.node.callspec.params["made"]]
    assert (steps["reward"] >= np.float32(least)).all() and (steps["reward"] <= np.float32(most)).all()
    flags = [steps["terminated"], steps["truncated"]]
    if "soft_reset" in steps["info"]:
        flags.append(steps["info"]["soft_reset"])
    for flag in flags:
        assert flag.shape == (NUM_STEPS, NUM_ENVIRONMENTS) and flag.dtype == jnp.bool_
    for name in environment.outcomes:
        outcome = steps["info"][name]
        assert outcome.shape == (NUM_STEPS, NUM_ENVIRONMENTS) and outcome.dtype in (jnp.bool_, jnp.float32)
        assert jnp.isfinite(outcome).all()


def test_same_key_same_trial(take_random_steps, steps):
    same, other = (take_random_steps(jax.random.key(seed)) for seed in (1, 2))
    assert_equal({**steps, "key": None}, {**same, "key": None})
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (steps["state"], other["state"])), strict=True))


def test_trials_end_in_time(made, steps):
    """Truncation exactly at the time limit; termination at any time, and only where episodes end by the task."""
    environment, params = made
    ended = ends_of(steps)
    age = np.zeros(NUM_ENVIRONMENTS, int)
    for t in range(NUM_STEPS):
        age += 1
        np.testing.assert_array_equal(steps["truncated"][t], age == params.max_steps_in_episode)
        age[ended[t]] = 0
    assert ended.any()
    assert environment.episodic or not steps["terminated"].any()


def test_nothing_of_a_trial_leaks_into_the_next(made, steps):
    environment, params = made
    ended = ends_of(steps)
    reset_keys = jax.vmap(lambda key: jax.random.split(key)[1])(steps["key"][ended])
    fresh_observation, fresh_state = jax.vmap(environment.reset_env, (0, None))(reset_keys, params)
    assert_equal(jax.tree.map(lambda leaf: leaf[ended], steps["next_state"]), fresh_state)
    assert_equal(jax.tree.map(lambda leaf: leaf[ended], steps["observation"]), fresh_observation)
    assert (fresh_state.time == 0).all()


def test_state_keeps_its_types(made):
    environment, params = made
    _, state = jax.eval_shape(environment.reset, jax.random.key(0), params)
    _, next_state, *_ = jax.eval_shape(environment.step, jax.random.key(0), state, jnp.int32(0), params)
    one, other = (
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree) for tree in (state, next_state)
    )
    assert one == other
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    assert all(leaf.dtype in (jnp.int32, jnp.float32, jnp.bool_) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("name", envs.ENVIRONMENTS)
def test_splits_have_the_spaces_of_their_origin(name):
    """So that one policy can face all of them."""
    config = envs.get(name)()

    def spaces_and_types(config):
        environment, params = config.make()
        shapes = jax.eval_shape(environment.reset, jax.random.key(0), params)[0]
        return environment.num_actions, observation_kinds(environment.observation_space(params)), str(shapes)

    for split in config.splits().values():
        assert spaces_and_types(split) == spaces_and_types(config)


@pytest.mark.parametrize("name", envs.ENVIRONMENTS)
def test_equal_configs_share_a_compilation(name):
    config = envs.get(name)(**TINY_ENVIRONMENTS[name])
    environment, params = config.make()
    again, _ = dataclasses.replace(config).make()
    assert environment == again and hash(environment) == hash(again)
    assert jax.tree.structure(params) == jax.tree.structure(environment.default_params)


def test_render_gives_pictures(made, steps):
    environment, params = made
    if not hasattr(environment, "render"):
        pytest.skip(f"{environment.name} cannot be drawn.")
    pictures = [
        environment.render(jax.tree.map(lambda leaf, t=t: np.asarray(leaf[t, 0]), steps["state"]), params)
        for t in (0, 1, 2, NUM_STEPS - 1)
    ]
    for picture in pictures:
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
        assert picture.shape == pictures[0].shape
    assert any((picture != pictures[0]).any() for picture in pictures)


def test_first_player_is_the_upper_bound(made):
    environment, params = made
    if not hasattr(environment, "players"):
        pytest.skip(f"{environment.name} has no reference players.")
    returns = {
        name: play(environment, params, player, jax.random.key(0), num_environments=200, num_steps=NUM_STEPS)
        .sum(0)
        .mean()
        for name, player in environment.players().items()
    }
    assert max(returns, key=returns.get) == next(iter(returns))


def test_get_answers_a_typo_with_the_nearest_name():
    with pytest.raises(ValueError, match="no environment 'dark_key_door'; did you mean 'dark_key_to_door'"):
        envs.get("dark_key_door")
    with pytest.raises(ValueError, match=r"no gymnax environment MetaMaze; did you mean MetaMaze-misc\?"):
        envs.get("gymnax:MetaMaze")()
