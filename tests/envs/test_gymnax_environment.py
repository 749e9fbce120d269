import dataclasses

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax import registration
from gymnax.environments.bsuite.catch import Catch
from gymnax.utils import load_mnist

import envs
from envs.gymnax_environment import GymnaxConfig, GymnaxEnvironment, construct, their_rules
from memrl.memory import GRU
from memrl.networks import ActorCritic, Inputs, NetworkConfig, observation_kinds

CONTINUOUS = {"Pendulum-v1", "MountainCarContinuous-v0", "PointRobot-misc", "Reacher-misc", "Swimmer-misc"}
CHEAP = ["MemoryChain-bsuite", "FourRooms-misc", "BernoulliBandit-misc", "FrozenLake-misc"]


def made(id, *settings):
    return GymnaxConfig(id, settings).make()


def trajectory(environment, params, num_steps, action=None):
    """The reset's observation and every step's outcome, `[T, ...]`, with random actions unless one is given."""

    def step(state, key):
        action_key, step_key = jax.random.split(key)
        drawn = jax.random.randint(action_key, (), 0, environment.action_space(params).n)
        observation, state, reward, terminated, truncated, info = environment.step(
            step_key, state, drawn if action is None else jnp.int32(action), params
        )
        return state, (observation, reward, terminated, truncated, info["final_observation"])

    observation, state = environment.reset(jax.random.key(0), params)
    return observation, jax.lax.scan(step, state, jax.random.split(jax.random.key(1), num_steps))[1]


def check(id):
    """That what is adapted does not change what happens, and that a policy can read it."""
    environment, params = made(id)
    first, steps = jax.jit(lambda: trajectory(environment, params, 60))()
    space = environment.observation_space(params)
    observation, reward, terminated, truncated, final_observation = steps
    assert (first.shape, first.dtype) == (space.shape, space.dtype)
    assert reward.dtype == jnp.float32 and terminated.dtype == truncated.dtype == jnp.bool_
    with their_rules():
        original, original_params = gymnax.make(id)
        theirs = jax.jit(lambda: trajectory(original, original_params, 60))()
    for mine, other in zip(
        jax.tree.leaves((first, observation, reward, terminated, truncated, final_observation)),
        jax.tree.leaves((theirs[0], theirs[1])),
        strict=True,
    ):
        np.testing.assert_allclose(mine.astype(jnp.float32), other.astype(jnp.float32), rtol=1e-6)

    policy = ActorCritic(
        GRU(features=4).build(jnp.float32), environment.num_actions, NetworkConfig(), kinds=observation_kinds(space)
    )
    inputs = Inputs(first[None], jnp.array([-1]), jnp.zeros(1), jnp.zeros(1, bool))
    logits = jax.eval_shape(
        lambda key: (
            policy.init_with_output(key, policy.initial_state(1), inputs, jnp.ones(1, bool), method="step")[0][1].logits
        ),
        jax.random.key(0),
    )
    assert logits.shape == (1, environment.num_actions)


@pytest.mark.parametrize("id", CHEAP)
def test_nothing_but_types_is_changed(id):
    check(id)


@pytest.mark.slow
@pytest.mark.parametrize("id", sorted(set(gymnax.registered_envs) - CONTINUOUS - set(CHEAP)))
def test_nothing_but_types_is_changed_in_the_others(id, monkeypatch):
    pictures = np.arange(20 * 28 * 28, dtype=np.uint8).reshape(20, 28, 28).astype(np.int8)
    labels = np.arange(20, dtype=np.uint8) % 10
    monkeypatch.setattr(load_mnist, "load_mnist", lambda: ((pictures, labels), None))  # nothing is downloaded
    check(id)


@pytest.mark.parametrize("id", sorted(set(gymnax.registered_envs) - {"MNISTBandit-bsuite"}))
def test_discrete_actions_or_a_clear_error(id):
    if id in CONTINUOUS:
        with pytest.raises(ValueError, match=rf"^The actions of {id} are continuous \(Box\(.*\), but must be discrete"):
            made(id)
        return
    environment, params = made(id)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
    first, state = jax.eval_shape(environment.reset, jax.random.key(0), params)
    space = environment.observation_space(params)
    assert (first.shape, first.dtype) == (space.shape, space.dtype)
    after, next_state, reward, *_ = jax.eval_shape(environment.step, jax.random.key(0), state, jnp.int32(0), params)
    assert (after, next_state) == (first, state)
    assert (reward.shape, reward.dtype, reward.weak_type) == ((), jnp.float32, False)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((first, state)))


def test_data_that_cannot_be_had(monkeypatch):
    def fail():
        raise OSError("no network")

    monkeypatch.setattr(load_mnist, "load_mnist", fail)
    with pytest.raises(ValueError, match="gymnax cannot make MNISTBandit-bsuite: no network"):
        made("MNISTBandit-bsuite")


def test_settings_of_parameters_and_of_the_constructor():
    environment, params = made("MemoryChain-bsuite", "memory_length=3", "num_bits=4", "max_steps_in_episode=50")
    assert params.memory_length == 3 and params.memory_length.dtype == np.int32 and params.max_steps_in_episode == 50
    _, (observation, _, terminated, truncated, _) = trajectory(environment, params, 12)
    assert observation.shape == (12, 6)
    assert np.flatnonzero(terminated).tolist() == [3, 7, 11] and not truncated.any()


def test_settings_of_every_type():
    _, params = made("MetaMaze-misc", "reward=3", "punishment=-0.5", "normalize_time=True")
    assert (params.reward, params.punishment, params.normalize_time) == (3, -0.5, True)
    assert (params.reward.dtype, params.normalize_time.dtype) == (np.float32, np.bool_)
    _, params = made("DiscountingChain-bsuite", "reward_timestep=[1, 2, 3, 4, 5]")
    assert params.reward_timestep.tolist() == [1, 2, 3, 4, 5] and params.reward_timestep.dtype == np.int32
    assert made("FourRooms-misc", "goal_fixed=[1, 2]")[0].original.goal_fixed.tolist() == [1, 2]
    environment, params = made("FrozenLake-misc", "map_name=8x8", "is_slippery=False", "reward_schedule=(5, -1, 0)")
    assert environment.observation_space(params).n == 64
    assert params.max_steps_in_episode == 200  # the default of what the constructor made
    _, (_, reward, terminated, _, _) = trajectory(environment, params, 30, action=1)  # down, and into a hole or not
    assert (reward == 0).all() and not terminated.any()
    hole = made("FrozenLake-misc", "is_slippery=False", "desc=('SF', 'HG')", "reward_schedule=(5, -1, 0)")
    _, (_, reward, terminated, _, _) = trajectory(*hole, 3, action=1)
    assert (reward == -1).all() and terminated.all()


@pytest.mark.parametrize(
    ("id", "settings", "message"),
    [
        ("MetaMaz", (), "There is no gymnax environment MetaMaz; did you mean MetaMaze-misc?"),
        ("MetaMaze-misc", ("reward",), "settings has 'reward', but must have the form name=value."),
        (
            "MemoryChain-bsuite",
            ("memory_lenght=3",),
            "settings has 'memory_lenght=3', but MemoryChain-bsuite has no memory_lenght; did you mean memory_length?",
        ),
        (
            "MemoryChain-bsuite",
            ("memory_length=3.5",),
            "settings has 'memory_length=3.5', but the value must be like the default, 5, and fit into 32 bits.",
        ),
        (
            "MetaMaze-misc",
            ("normalize_time=1",),
            "settings has 'normalize_time=1', but the value must be like the default, False, and fit into 32 bits.",
        ),
        (
            "MetaMaze-misc",
            ("reward=ten",),
            "settings has 'reward=ten', but the value must be like the default, 10.0, and fit into 32 bits.",
        ),
        (
            "MemoryChain-bsuite",
            ("memory_length=9999999999",),
            "settings has 'memory_length=9999999999', but the value must be like the default, 5, and fit into 32 bits.",
        ),
        (
            "MetaMaze-misc",
            ("reward=1e999",),
            "settings has 'reward=1e999', but the value must be like the default, 10.0, and fit into 32 bits.",
        ),
        (
            "DiscountingChain-bsuite",
            ("reward_timestep=[1, 2]",),
            "settings has 'reward_timestep=[1, 2]', but the value must be like the default, "
            "[1, 3, 10, 30, 100], and fit into 32 bits.",
        ),
        ("MetaMaze-misc", ("maze_size=8",), "gymnax cannot make MetaMaze-misc with maze_size=8: AssertionError."),
        ("Catch-bsuite", ("max_steps_in_episode=0",), "max_steps_in_episode is 0, but must be at least 1."),
    ],
)
def test_bad_fields_are_named(id, settings, message):
    with pytest.raises(ValueError) as caught:
        made(id, *settings)
    assert str(caught.value) == message


def test_by_name():
    config = envs.get("gymnax:MetaMaze-misc")(settings=("reward=1.0",))
    assert config == GymnaxConfig("MetaMaze-misc", ("reward=1.0",))
    environment, _ = config.make()
    assert environment.name == "MetaMaze-misc" and not environment.outcomes and environment.episodic
    assert environment == dataclasses.replace(config, settings=()).make()[0]  # they differ in parameters alone


def test_what_is_registered_with_gymnax_is_found(monkeypatch):
    for known, copy in (("_registry", dict), ("registered_envs", list)):
        monkeypatch.setattr(registration, known, copy(getattr(registration, known)))
    monkeypatch.setattr(gymnax, "registered_envs", registration.registered_envs)
    gymnax.register("Mine-v0", Catch)
    environment, params = made("Mine-v0", "rows=4")
    assert environment.observation_space(params).shape == (4, 5)


def test_first_use_while_tracing_leaves_no_tracers_behind():
    environment = GymnaxEnvironment("Catch-bsuite", (("rows", 6),))
    params = made("Catch-bsuite")[1]
    construct.cache_clear()
    first, _ = jax.jit(lambda key: environment.reset_env(key, params))(jax.random.key(0))
    again, _ = environment.reset_env(jax.random.key(0), params)
    np.testing.assert_array_equal(first, again)


def test_goal_of_meta_maze_does_not_end_an_episode():
    """As the module's docstring says."""
    environment, params = made("MetaMaze-misc")
    _, state = environment.reset(jax.random.key(0), params)
    left_of_goal = environment.original.coords[0]
    state = state.replace(pos=left_of_goal, goal=left_of_goal + jnp.array([0, 1]))
    right = jnp.int32(1)
    keys = jax.random.split(jax.random.key(1), 500)
    _, _, reward, terminated, *_ = jax.vmap(environment.step, (0, None, None, None))(keys, state, right, params)
    assert (reward == 10).all() and 0 < terminated.mean() < 0.1
