import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import environment
from probe_environments import Probe
from tiny import tiny_memory, tiny_policy

from envs.dark_key_to_door import DarkKeyToDoorConfig
from memrl.advantage import trajectory_advantage
from memrl.memory import MEMORIES
from memrl.networks import Outputs
from memrl.rollout import initial_actor_state, log_prob, rollout


class StepCounter:
    """A policy with known behaviour: its memory counts the steps since a reset, its value is that count.

    The action is the count modulo 2, as good as certainly.
    """

    def initial_state(self, batch, key):
        return jnp.zeros(batch)

    def apply(self, params, memory, inputs, reset, method):
        assert method == "step"
        count = jnp.where(reset, 0, memory) + 1
        return count, Outputs(100 * jax.nn.one_hot(count.astype(jnp.int32) % 2, 2), self.value(count, inputs))

    def value(self, count, inputs):
        return count


class Witness(StepCounter):
    """The digits of its value are all that it has read: soft reset, action + 1, reward, observation, count."""

    def value(self, count, inputs):
        digits = (inputs.soft_reset, inputs.action + 1, inputs.reward, inputs.observation[:, 0], count)
        return sum(10**place * digit.astype(jnp.float32) for place, digit in enumerate(reversed(digits)))


@dataclasses.dataclass(frozen=True)
class Clock(Probe):
    """Trials of three steps in which the observation and the reward are the time; the second step is a soft reset.

    The third step ends the trial by truncation, or by termination and truncation at once, and its second attempt too.
    """

    terminates: bool

    def reset_env(self, key, params):
        return jnp.zeros(1), environment.EnvState(jnp.int32(0))

    def step_env(self, key, state, action, params):
        time = state.time + 1
        terminated = (time == 3) & self.terminates
        info = {"soft_reset": time >= 2}
        return time[None].astype(jnp.float32), environment.EnvState(time), time, terminated, info


def act(terminates, length, batch=2, policy=None, clock=Clock):
    policy = policy or StepCounter()
    env, params = clock(terminates), environment.EnvParams(max_steps_in_episode=3)
    actor = initial_actor_state(policy, env, params, batch, jax.random.key(0))
    return jax.jit(lambda actor: rollout(policy, env, params, None, actor, length))(actor)


@pytest.fixture(scope="module")
def truncated():
    return act(terminates=False, length=7)


@pytest.fixture(scope="module")
def terminated():
    return act(terminates=True, length=7)


def column(leaf):
    """The first environment's part, checked to be that of all."""
    leaf = np.asarray(leaf)
    np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:, :1], leaf.shape))
    return leaf[:, 0].ravel().tolist()


def test_policy_is_told_its_own_trial(truncated):
    """At the start of a trial, and nowhere else: reset, no previous action, no previous reward, no soft reset."""
    _, trajectory = truncated
    assert column(trajectory.reset) == [1, 0, 0, 1, 0, 0, 1]
    assert column(trajectory.inputs.observation) == [0, 1, 2, 0, 1, 2, 0]
    assert column(trajectory.inputs.reward) == [0, 1, 2, 0, 1, 2, 0]
    assert column(trajectory.inputs.action) == [-1, 1, 0, -1, 1, 0, -1]
    assert column(trajectory.inputs.soft_reset) == [0, 0, 1, 0, 0, 1, 0]
    assert column(trajectory.action) == [1, 0, 1, 1, 0, 1, 1]
    assert column(trajectory.reward) == [1, 2, 3, 1, 2, 3, 1]
    assert column(trajectory.trial_return) == [1, 3, 6, 1, 3, 6, 1]


def test_memory_is_reset_with_the_trial(truncated):
    assert column(truncated[1].value) == [1, 2, 3, 1, 2, 3, 1]


def test_truncated_trial_is_continued_by_its_final_observation(truncated):
    """By a step further with the memory of that trial: the count of 4, where the next trial begins with 1."""
    _, trajectory = truncated
    assert column(trajectory.truncated) == [0, 0, 1, 0, 0, 1, 0]
    assert not trajectory.terminated.any()
    assert column(trajectory.final_value) == [0, 0, 4, 0, 0, 4, 0]


@pytest.mark.parametrize("length", [3, 7])
def test_final_observation_is_read_with_all_that_led_to_it(length):
    """The third step, by action 1, ended an attempt and brought reward 3 and observation 3; the count is 4."""
    _, trajectory = act(terminates=False, length=length, policy=Witness())
    assert column(trajectory.value) == [1, 2112, 11223, 1, 2112, 11223, 1][:length]
    assert column(trajectory.final_value) == [0, 0, 12334, 0, 0, 12334, 0][:length]


def test_terminated_trial_is_not_continued(terminated):
    """Gymnax reports the time limit besides; termination wins."""
    _, trajectory = terminated
    assert column(trajectory.terminated) == [0, 0, 1, 0, 0, 1, 0]
    assert not trajectory.truncated.any()
    assert not trajectory.final_value.any()
    assert column(trajectory.reset) == [1, 0, 0, 1, 0, 0, 1]


def test_next_rollout_goes_on_where_this_one_stopped(truncated):
    actor, _ = truncated
    assert actor.memory.tolist() == [1, 1]
    assert actor.inputs.observation.ravel().tolist() == [1, 1]
    assert actor.inputs.action.tolist() == [1, 1]
    assert actor.inputs.reward.tolist() == [1, 1]
    assert actor.trial_return.tolist() == [1, 1]
    assert not actor.reset.any()


def test_environments_without_soft_resets_have_none():
    class Plain(Clock):
        def step_env(self, *arguments):
            *step, _ = super().step_env(*arguments)
            return *step, {}

    env, params, policy = Plain(False), environment.EnvParams(max_steps_in_episode=3), StepCounter()
    actor = initial_actor_state(policy, env, params, 2, jax.random.key(0))
    assert not rollout(policy, env, params, None, actor, 3)[1].inputs.soft_reset.any()


def test_log_prob_is_that_of_the_action(getkey):
    logits = jax.random.normal(getkey(), (4, 3))
    expected = np.log(np.asarray(jax.nn.softmax(logits)))[np.arange(4), [0, 2, 1, 0]]
    np.testing.assert_allclose(log_prob(logits, jnp.int32([0, 2, 1, 0])), expected, rtol=1e-6)


def test_environments_do_not_share_randomness(getkey):
    """Rooms and actions differ between environments, and an environment's do not depend on how many there are."""
    env, params = DarkKeyToDoorConfig(size=5, attempt_limit=5, trial_length=4).make()
    policy = tiny_policy(tiny_memory("none", 1), env.num_actions)

    @jax.jit
    def initialise(key):
        actor = initial_actor_state(policy, env, params, 6, key)
        return actor, policy.init(key, actor.memory, actor.inputs, actor.reset, method="step")

    @jax.jit
    def act(actor, policy_params):
        return rollout(policy, env, params, policy_params, actor, 12)

    actor, policy_params = initialise(getkey())
    _, trajectory = act(actor, policy_params)
    for leaf in (trajectory.action, trajectory.inputs.observation[..., :2]):
        flat = np.moveaxis(np.asarray(leaf), 1, 0).reshape(6, -1)
        assert len(np.unique(flat, axis=0)) == 6
    two = jax.tree.map(lambda leaf: leaf[2:4], actor)
    np.testing.assert_array_equal(act(two, policy_params)[1].action, trajectory.action[:, 2:4])


def test_no_key_is_used_twice(monkeypatch):
    """Whatever draws at random as an actor starts and acts has a key of its own."""
    used = []

    def use(key):
        jax.debug.callback(lambda data: used.append(tuple(data.tolist())), jax.random.key_data(key))

    class Keyed(Clock):
        def reset(self, key, params):
            use(key)
            return super().reset_env(key, params)

        def step(self, key, state, action, params):
            use(key)
            observation, state, reward, terminated, info = super().step_env(key, state, action, params)
            return observation, state, reward, terminated, jnp.bool_(False), {"final_observation": observation, **info}

    class KeyedCounter(StepCounter):
        def initial_state(self, batch, key):
            use(key)
            return super().initial_state(batch, key)

    def categorical(key, logits):
        use(key)
        return logits.argmax()

    monkeypatch.setattr(jax.random, "categorical", categorical)
    act(False, 5, batch=3, policy=KeyedCounter(), clock=Keyed)
    jax.effects_barrier()
    assert len(used) == 1 + 3 + 5 * 3 * 2
    assert len(set(used)) == len(used)


# Law 7: what is learned is what was acted.


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [*((name, "float64", 1e-12) for name in MEMORIES), ("gru", "float32", 1e-5), ("memo", "float32", 1e-5)],
)
def test_learning_replays_acting(name, dtype, tolerance):
    """Log-probabilities and values of an unroll are those of the rollout, wherever rollouts cut segments and trials.

    Rollouts of 7 steps, trials of 13, segments of 3 to 7: no two of them end together.
    """
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        env, params = DarkKeyToDoorConfig(size=2, attempt_limit=4, trial_length=13).make()
        policy = tiny_policy(tiny_memory(name, 13), env.num_actions, jnp.dtype(dtype))

        @jax.jit
        def act_and_learn(policy_params, actor):
            following, trajectory = rollout(policy, env, params, policy_params, actor, 7)
            memory, outputs = policy.apply(
                policy_params, actor.memory, trajectory.inputs, trajectory.reset, method="unroll"
            )
            ratio = jnp.exp(log_prob(outputs.logits, trajectory.action) - trajectory.log_prob)
            return following, jnp.abs(ratio - 1).max(), jnp.abs(outputs.value - trajectory.value).max(), memory

        @jax.jit
        def initialise(key):
            actor = initial_actor_state(policy, env, params, 3, key)
            policy_params = policy.init(key, actor.memory, actor.inputs, actor.reset, method="step")
            # Sharpened, so that a wrong memory would show in the probabilities.
            policy_params["params"]["logits"]["kernel"] *= 100
            return actor, policy_params

        actor, policy_params = initialise(jax.random.key(1))
        for _ in range(5):
            actor, ratio_deviation, value_deviation, memory = act_and_learn(policy_params, actor)
            assert ratio_deviation < tolerance
            assert value_deviation < tolerance
            for learned, acted in zip(jax.tree.leaves(memory), jax.tree.leaves(actor.memory), strict=True):
                if not jnp.issubdtype(acted.dtype, jax.dtypes.prng_key):
                    np.testing.assert_allclose(learned, acted, atol=10 * tolerance)


def test_advantage_of_a_rollout(truncated, terminated):
    """The whole chain by hand, with γ = λ = 1/2: the trial of rewards 1, 2, 3 and values 1, 2, 3."""
    for (_, trajectory), third in ((truncated, 3 + 0.5 * 4 - 3), (terminated, 3 - 3)):
        second = 2 + 0.5 * 3 - 2 + 0.25 * third
        first = 1 + 0.5 * 2 - 1 + 0.25 * second
        last = 1 + 0.5 * 2 - 1  # cut by the end of the rollout; the value of what follows is 2
        advantage = trajectory_advantage(
            trajectory, jnp.full(2, 2.0), discount=0.5, gae_lambda=0.5, credit_across_attempts=True
        )
        assert column(advantage) == [first, second, third, first, second, third, last]
