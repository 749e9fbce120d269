import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnax.environments import environment
from probe_environments import ConstantReward, DelayedSign, Recall
from tiny import tiny_memory, tiny_policy

import memrl.training
from envs.dark_key_to_door import DarkKeyToDoorConfig
from memrl.metrics import explained_variance, mean_where, to_host
from memrl.ppo import PPOConfig
from memrl.rollout import ActorState, rollout
from memrl.sharding import device_mesh
from memrl.training import Settings, begin, make_optimizer, make_training

CONFIG = PPOConfig(num_envs=8, unroll_length=7, epochs=2, minibatches=2)


def gridworld_training(memory="gru", chunk=1, config=CONFIG):
    """Trials of 5 steps, which rollouts of 7 steps cut: the program and its settings."""
    env, params = DarkKeyToDoorConfig(size=2, attempt_limit=4, trial_length=5).make()
    policy = tiny_policy(tiny_memory(memory, 5), env.num_actions)
    settings = Settings(params, config.hyperparameters())
    return make_training(policy, env, settings, config, 10, device_mesh(), chunk=chunk), settings


@pytest.fixture(scope="module")
def gru():
    return gridworld_training()


def assert_equal(actual, expected, **tolerance):
    for (path, a), e in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, e = jax.random.key_data(a), jax.random.key_data(e)
        np.testing.assert_allclose(a, e, **{"rtol": 0, **tolerance}, err_msg=jax.tree_util.keystr(path))


# Environments with known values and policies


def train(env, trial_length, memory="none", updates=100):
    """Trains an easily trained policy, all updates in one call.

    Returns:
      What the trained policy then goes through, the metrics of each update.
    """
    # Told its previous action, a policy without memory learns to remember by what it does.
    policy = tiny_policy(tiny_memory(memory, trial_length, features=16), env.num_actions, previous_action=False)
    params = environment.EnvParams(max_steps_in_episode=trial_length)
    config = PPOConfig(
        num_envs=32, unroll_length=7, minibatches=2, learning_rate=0.01, discount=0.5, max_gradient_norm=10.0
    )
    settings = Settings(params, config.hyperparameters())
    training = make_training(policy, env, settings, config, updates, device_mesh(), chunk=updates)
    state, metrics = training.advance(training.initial_state(jax.random.key(0), settings), settings)
    assert metrics["ratio_deviation"].max() < 1e-5
    act = jax.jit(functools.partial(rollout, policy, env, params, length=config.unroll_length))
    _, trajectory = act(state.params, state.actor)
    return jax.tree.map(np.asarray, trajectory), to_host(metrics)


def test_value_of_a_constant_reward_cut_by_a_time_limit():
    trajectory, _ = train(ConstantReward(terminates=False), trial_length=3)
    np.testing.assert_allclose(trajectory.value, 2, atol=0.1)


def test_value_of_a_constant_reward_ended_by_termination():
    trajectory, _ = train(ConstantReward(terminates=True), trial_length=3)
    expected = trajectory.inputs.observation @ np.array([1.75, 1.5, 1])
    np.testing.assert_allclose(trajectory.value, expected, atol=0.1)


def test_value_of_a_delayed_sign():
    """Discounted once, and dependent on what is observed."""
    trajectory, _ = train(DelayedSign(), trial_length=2)
    sign, time = np.moveaxis(trajectory.inputs.observation, -1, 0)
    assert set(sign.ravel()) == {-1, 1}
    np.testing.assert_allclose(trajectory.value, sign * np.where(time == 0, 0.5, 1), atol=0.1)


@pytest.mark.parametrize(
    ("memory", "delay", "cut", "learnable"),
    [
        ("none", 0, 0, True),  # The cue is before its eyes.
        ("none", 2, 2, False),
        ("gru", 2, 2, True),
        ("gru", 2, 1, False),  # The trial ends in between, and all that was remembered with it.
    ],
)
def test_recall(memory, delay, cut, learnable):
    _, metrics = train(Recall(delay, cut), delay + 1, memory)
    correct = metrics["reward_per_step"][-12:].mean() * (delay + 1)  # 12 x 7 steps: a whole number of questions
    assert correct > 0.9 if learnable else 0.4 < correct < 0.6


# The program


def test_update_compiles_once(gru):
    """A program compiled ahead takes its own result: types and placement never change, or it would refuse them."""
    training, settings = gru
    state = training.initial_state(jax.random.key(0), settings)
    advance = training.advance.lower(state, settings).compile()
    for _ in range(3):
        state, _ = advance(state, settings)


def test_state_is_consumed(gru):
    training, settings = gru
    state = training.initial_state(jax.random.key(0), settings)
    following, _ = training.advance(state, settings)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert jax.tree.structure(following) == jax.tree.structure(state)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(following), strict=True):
        assert (before.shape, before.dtype, before.sharding) == (after.shape, after.dtype, after.sharding)


def test_environments_are_split_over_devices_and_parameters_are_not(gru):
    training, settings = gru
    state, metrics = training.advance(training.initial_state(jax.random.key(0), settings), settings)
    for leaf in jax.tree.leaves(state.actor):
        assert len(leaf.sharding.device_set) == 2
        assert leaf.addressable_shards[0].data.shape[:1] == ((4,) if leaf.ndim else ())
    for leaf in jax.tree.leaves((state.params, state.optimizer, state.key, state.update, metrics)):
        assert leaf.sharding.is_fully_replicated


def test_a_chunk_is_that_many_updates(gru):
    training, settings = gru
    state = training.initial_state(jax.random.key(0), settings)
    separate = []
    for _ in range(3):
        state, metrics = training.advance(state, settings)
        separate.append(metrics)
    chunk, _ = gridworld_training(chunk=3)
    chunk_state, chunk_metrics = chunk.advance(chunk.initial_state(jax.random.key(0), settings), settings)
    assert_equal(chunk_state, state, atol=1e-6)
    assert_equal(chunk_metrics, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *separate), atol=1e-6)
    assert chunk_metrics["update"].tolist() == [1, 2, 3]


def test_metrics_count_trials_and_their_returns(gru):
    """Trials of 5 steps in rollouts of 7: one or two end, and their return is what was earned, also across rollouts."""
    training, settings = gru
    state, trials, returns, rewards = training.initial_state(jax.random.key(0), settings), [], 0.0, 0.0
    for _ in range(5):
        state, metrics = training.advance(state, settings)
        metrics = to_host(metrics)
        trials.append(metrics["trials"].item() / 8)
        returns += (metrics["return"] * metrics["trials"]).item()
        rewards += metrics["reward_per_step"].item() * 7 * 8
    assert trials == [1, 1, 2, 1, 2]
    assert rewards > 0
    assert returns == pytest.approx(rewards, rel=1e-5)  # 35 steps are 7 trials: nothing is under way


def test_update_without_a_finished_trial_has_no_return():
    config = PPOConfig(num_envs=4, unroll_length=2, epochs=1, minibatches=1)
    training, settings = gridworld_training(config=config)
    metrics = to_host(training.advance(training.initial_state(jax.random.key(0), settings), settings)[1])
    assert metrics["trials"].item() == 0
    assert np.isnan(metrics["return"])
    assert all(np.isfinite(value).all() for name, value in metrics.items() if name != "return")


def test_explained_variance_by_hand():
    """Of the returns 0, 2, 4, 6 on two devices, whose variance is 5."""
    on_devices = jax.vmap(lambda value, advantage: explained_variance(value, advantage, "devices"), axis_name="devices")
    for value, expected in (([0, 2, 4, 6], 1), ([3, 3, 3, 3], 0), ([1, 3, 3, 5], 0.8), ([6, 4, 2, 0], -3)):
        returns, value = jnp.float32([0, 2, 4, 6]).reshape(2, 2, 1), jnp.float32(value).reshape(2, 2, 1)
        actual = to_host({"it": on_devices(value, returns - value)})["it"]
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)
    assert not on_devices(jnp.float32([[[1]], [[1]]]), jnp.zeros((2, 1, 1))).defined.any()


@pytest.mark.parametrize(("chosen", "expected"), [([1, 0, 1, 0], 4), ([0, 1, 0, 0], 3), ([0, 0, 0, 0], np.nan)])
def test_a_mean_over_what_is_chosen_on_two_devices(chosen, expected):
    on_devices = jax.vmap(lambda chosen, value: mean_where(chosen, value, "devices"), axis_name="devices")
    value = jnp.float32([1, 3, 7, np.inf]).reshape(2, 2)
    mean = to_host({"it": on_devices(jnp.array(chosen, bool).reshape(2, 2), value)})["it"]
    np.testing.assert_array_equal(mean, np.full(2, expected))


def test_nothing_at_the_start_is_drawn_from_the_same_key(monkeypatch):
    """Parameters, environments and memories, and what training draws later: none depends on another."""
    keys = {}

    class Policy:
        def init(self, key, *_, method):
            keys["parameters"] = key
            return {}

    def actors(policy, environment, env_params, batch, key):
        keys["actors"] = key
        return ActorState(None, None, None, None, None, None)

    monkeypatch.setattr(memrl.training, "initial_actor_state", actors)
    given = jax.random.key(0)
    state = begin(given, Settings(None, CONFIG.hyperparameters()), Policy(), None, CONFIG, optax.sgd(1.0))
    keys |= {"given": given, "kept": state.key}
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys.values()}) == 4


# Schedules


@pytest.mark.parametrize(("updates", "per_rollout"), [(2, 1), (1, 2)])
def test_step_size_falls_linearly(updates, per_rollout):
    """Adam moves by the step size where the gradient never changes. 2 updates of 2 epochs of 2 minibatches: 8 steps."""
    config = PPOConfig(num_envs=4, epochs=2, minibatches=2, learning_rate=0.8, updates_per_rollout=per_rollout)
    optimizer = make_optimizer(config.hyperparameters(), updates * config.gradient_steps)
    params = {"w": jnp.zeros(())}
    state, moves = optimizer.init(params), []
    for _ in range(9):
        with jax.numpy_dtype_promotion("standard"):
            update, state = optimizer.update({"w": jnp.float32(0.1)}, state, params)
        moves.append(-update["w"].item())
    np.testing.assert_allclose(moves, [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0], rtol=1e-3, atol=1e-6)


def test_long_gradients_are_shortened():
    """To the maximal norm, before Adam, so that one of any length counts the same."""
    optimizer = make_optimizer(PPOConfig(max_gradient_norm=0.5).hyperparameters(), 1)
    params = {"w": jnp.zeros(2)}

    def first_moment(gradient):
        with jax.numpy_dtype_promotion("standard"):
            _, state = optimizer.update({"w": jnp.float32(gradient)}, optimizer.init(params), params)
        return np.asarray(optax.tree_utils.tree_get(state, "mu")["w"])

    np.testing.assert_allclose(first_moment([30, 40]), 0.1 * np.array([0.3, 0.4]), rtol=1e-5)
    np.testing.assert_allclose(first_moment([0.03, 0.04]), 0.1 * np.array([0.03, 0.04]), rtol=1e-5)


def test_entropy_bonus_falls_linearly():
    config = PPOConfig(
        num_envs=2, unroll_length=3, epochs=1, minibatches=1, entropy_coefficient=1.0, final_entropy_coefficient=0.0
    )
    training, settings = gridworld_training(memory="none", chunk=4, config=config)
    _, m = training.advance(training.initial_state(jax.random.key(0), settings), settings)
    weight = (m["policy_loss"] + config.value_coefficient * m["value_loss"] - m["loss"]) / m["entropy"]
    np.testing.assert_allclose(weight, [1, 0.9, 0.8, 0.7], rtol=1e-4)


# Bad input


def test_devices_must_divide_the_minibatches():
    with pytest.raises(ValueError, match=r"ppo.num_envs is 6, ppo.minibatches 2 and devices 2: .* = 4\."):
        gridworld_training(config=PPOConfig(num_envs=6, minibatches=2))


# Several seeds in one program


def test_seeds_train_side_by_side():
    """`vmap` over whole trainings gives each seed what it gets alone."""
    config = PPOConfig(num_envs=4, unroll_length=7, epochs=1, minibatches=1)
    training, settings = gridworld_training(memory="memo", config=config)
    keys = jax.random.split(jax.random.key(0), 2)
    # lax.map: JAX 0.10 hangs in a vmapped orthogonal initialisation on few cores.
    states = jax.jit(lambda keys: jax.lax.map(lambda key: training.initial_state(key, settings), keys))(keys)
    states, metrics = jax.jit(jax.vmap(lambda state: training.advance(state, settings)))(states)
    for seed, key in enumerate(keys):
        alone = training.advance(training.initial_state(key, settings), settings)
        assert_equal(jax.tree.map(lambda leaf, seed=seed: leaf[seed], (states, metrics)), alone, atol=1e-5, rtol=1e-5)


SEEDS = """
import json, jax, sys
sys.path.insert(0, "tests")
from test_training import gridworld_training
training, settings = gridworld_training()
initial_states = jax.jit(lambda keys: jax.lax.map(lambda key: training.initial_state(key, settings), keys))
states = initial_states(jax.random.split(jax.random.key(0), 3))
print(json.dumps(jax.device_get(states.update).tolist()))
"""


def test_initialising_seeds_does_not_hang(run_python):
    """In a process of its own, for a hanging computation can be stopped in no other way."""
    done = run_python("-c", SEEDS, env={"JAX_NUM_CPU_DEVICES": "2"}, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0, 0, 0]


# Seeds


def assert_near(actual, expected):
    """Equal but for rounding; what Adam divides by is small at first, and its rounding grows."""
    assert_equal(actual, expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("form", ["parallel", "sequential"])
@pytest.mark.parametrize("memory", ["gru", "memo"])
def test_seeds_together_learn_what_each_learns_alone(form, memory):
    env, params = DarkKeyToDoorConfig(size=2, attempt_limit=4, trial_length=5).make()
    policy = tiny_policy(tiny_memory(memory, 5), env.num_actions)
    mesh, seeds = device_mesh(1), (0, 7)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    settings = Settings(params, CONFIG.hyperparameters())
    together = make_training(policy, env, settings, CONFIG, 10, mesh, seeds=form)
    alone = make_training(policy, env, settings, CONFIG, 10, mesh)
    states = together.initial_state(keys, settings)
    each = [alone.initial_state(jax.random.key(seed), settings) for seed in seeds]
    for seed, state in enumerate(each):
        assert_equal(jax.tree.map(lambda leaf, seed=seed: leaf[seed], states), state, atol=1e-6)
    for _ in range(2):
        states, metrics = together.advance(states, settings)
        each, expected = zip(*(alone.advance(state, settings) for state in each), strict=True)
    for seed, state in enumerate(each):
        assert_near(jax.tree.map(lambda leaf, seed=seed: leaf[seed], states.params), state.params)
        assert_near(jax.tree.map(lambda leaf, seed=seed: leaf[seed], metrics), expected[seed])


def test_other_numbers_and_tasks_share_a_program():
    """What a run learns with them is what one learns that was compiled for them."""
    config = dataclasses.replace(CONFIG, learning_rate=0.02, discount=0.5, clip=0.1, entropy_coefficient=0.1)
    env, params = DarkKeyToDoorConfig(size=2, attempt_limit=4, trial_length=5).make()
    shorter = params.replace(max_steps_in_episode=np.int32(3))
    policy, mesh, keys = tiny_policy(tiny_memory("gru", 5), env.num_actions), device_mesh(1), jax.random.key(1)[None]
    first = Settings(params, CONFIG.hyperparameters())
    together = make_training(policy, env, first, CONFIG, 10, mesh, seeds="auto")
    together.advance(together.initial_state(keys, first), first)
    other = Settings(shorter, config.hyperparameters())
    states, _ = together.advance(together.initial_state(keys, other), other)
    assert together.advance._cache_size() == 1
    alone = make_training(policy, env, other, config, 10, mesh)
    state, _ = alone.advance(alone.initial_state(jax.random.key(1), other), other)
    assert_near(jax.tree.map(lambda leaf: leaf[0], states.params), state.params)
