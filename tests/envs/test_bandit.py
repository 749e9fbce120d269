import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import drawing
from envs.bandit import BanditConfig, Known
from envs.player import play

GAUSSIAN = BanditConfig(arms=3, prior=(2.0, 0.5), noise=0.3, recurrence=0.75, trial_length=50)
BERNOULLI = BanditConfig(arms=2, rewards="bernoulli", trial_length=50)


def follow(config, num_trials=4000, num_steps=60):
    """Pull random arms: states before the pulls, arms, and what came of them, `[T, B, ...]`."""
    environment, params = config.make()
    _, state = jax.vmap(environment.reset, (0, None))(jax.random.split(jax.random.key(0), num_trials), params)

    def step(state, key):
        arms = jax.random.randint(key, (num_trials,), 0, config.arms)
        _, next_state, reward, _, truncated, info = jax.vmap(environment.step, (0, 0, 0, None))(
            jax.random.split(key, num_trials), state, arms, params
        )
        return next_state, (state, arms, reward, truncated, info)

    keys = jax.random.split(jax.random.key(1), num_steps)
    return jax.tree.map(np.asarray, jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))(state, keys)[1])


def test_gaussian_arms():
    states, arms, rewards, truncated, info = follow(GAUSSIAN)
    # Means as the prior says, for the first block and for all that follow.
    for means in (states.means[0], states.means[40]):
        assert means.mean() == pytest.approx(2, abs=4 * 0.5 / math.sqrt(means.size))
        assert means.std() == pytest.approx(0.5, rel=4 / math.sqrt(2 * means.size))
        assert abs(np.corrcoef(means.T) - np.eye(3)).max() < 4 / math.sqrt(4000)
    # An arm pays its mean and noise that depends on nothing else.
    pulled = np.take_along_axis(states.means, arms[..., None], axis=-1)[..., 0]
    noise = rewards - pulled
    assert noise.mean() == pytest.approx(0, abs=4 * 0.3 / math.sqrt(noise.size))
    assert noise.std() == pytest.approx(0.3, rel=4 / math.sqrt(2 * noise.size))
    assert abs(np.corrcoef(noise.ravel(), pulled.ravel())[0, 1]) < 4 / math.sqrt(noise.size)
    assert abs(np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]) < 4 / math.sqrt(noise.size)
    # All arms are drawn anew with probability 1 - recurrence, but in the step that ends the trial for certain.
    changed = states.means[1:] != states.means[:-1]
    assert (changed == changed[..., :1]).all()
    assert changed[49].all() and truncated[49].all() and truncated.sum() == 4000
    assert changed[:49].mean() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / (49 * 4000)))
    # What the next state and `info` tell of the pull.
    inside = np.s_[:49]
    np.testing.assert_array_equal(states.arm[1:][inside], arms[inside])
    np.testing.assert_array_equal(states.reward[1:][inside], rewards[inside])
    assert (states.arm[[0, 50]] == -1).all()
    np.testing.assert_array_equal(info["best_arm"], pulled == states.means.max(-1))
    assert info["soft_reset"].all()


def test_bernoulli_arms():
    states, arms, rewards, _, _ = follow(BERNOULLI)
    assert (states.means[:50] == states.means[0]).all()  # they recur for certain by default
    counts = np.histogram(states.means[0], bins=10, range=(0, 1))[0]
    assert counts.sum() == 8000 and ((counts - 800) ** 2 / 800).sum() < 9 + 4 * math.sqrt(18)
    assert np.isin(rewards, (0, 1)).all()
    pulled = np.take_along_axis(states.means, arms[..., None], axis=-1)[..., 0]
    for tenth in range(10):
        inside = (pulled >= tenth / 10) & (pulled < (tenth + 1) / 10)
        assert rewards[inside].mean() == pytest.approx(pulled[inside].mean(), abs=4 * 0.5 / math.sqrt(inside.sum()))


def measured(config, *names, num_trials=40_000, num_steps=3):
    """The mean reward of each player in each step, `[T]`, and how far off it may be."""
    environment, params = config.make()
    players = environment.players()
    rewards = [
        np.asarray(play(environment, params, players[name], jax.random.key(0), num_trials, num_steps)) for name in names
    ]
    return [array.mean(1) for array in rewards], 4 * rewards[0].std() / num_trials**0.5


def test_players_of_bernoulli_arms_reach_what_can_be_worked_out():
    (oracle, thompson, ucb1, memoryless), tolerance = measured(BERNOULLI, *BERNOULLI.make()[0].players())
    np.testing.assert_allclose(oracle, 2 / 3, atol=tolerance)
    np.testing.assert_allclose(memoryless, 1 / 2, atol=tolerance)
    # After a success (probability 1/2) the same arm is sampled better with probability 2/3, and pays 2/3 on average;
    # after a failure with probability 1/3, and pays 1/3.
    second = (2 / 3 * 2 / 3 + 1 / 3 * 1 / 2) / 2 + (1 / 3 * 1 / 3 + 2 / 3 * 1 / 2) / 2
    np.testing.assert_allclose(thompson[:2], [1 / 2, second], atol=tolerance)
    # Both arms once; then one that paid if only one did (probability 1/2), with mean 2/3, else any, with mean 1/2.
    np.testing.assert_allclose(ucb1, [1 / 2, 1 / 2, (2 / 3 + 1 / 2) / 2], atol=tolerance)


def test_players_of_gaussian_arms_reach_what_can_be_worked_out():
    config = BanditConfig(arms=2)
    (oracle, thompson, ucb1, memoryless), tolerance = measured(config, *config.make()[0].players())
    np.testing.assert_allclose(oracle, 1 / math.sqrt(math.pi), atol=tolerance)
    np.testing.assert_allclose(memoryless, 0, atol=tolerance)
    # The believed mean m of the arm pulled first is normal with variance 1/2. It is pulled again with probability
    # Phi(m / sqrt(1/2 + 1)); by Stein's lemma the expectation of m Phi(m / sqrt(3/2)) is 1/2 / sqrt(2 pi (3/2 + 1/2)).
    np.testing.assert_allclose(thompson[:2], [0, 0.5 / math.sqrt(4 * math.pi)], atol=tolerance)
    # The better of two with rewards of variance 2, of which half is the mean's: sqrt(2) / sqrt(pi) / 2.
    np.testing.assert_allclose(ucb1, [0, 0, math.sqrt(2 / math.pi) / 2], atol=tolerance)


def test_prior_moves_the_reference_lines():
    (oracle,), tolerance = measured(BanditConfig(prior=(2.0, 0.5), noise=0.3), "oracle", num_steps=1)
    np.testing.assert_allclose(oracle, 2 + 0.5 * 3 / (2 * math.sqrt(math.pi)), atol=tolerance)
    (oracle,), tolerance = measured(BanditConfig(rewards="bernoulli", prior=(0.4, 0.6)), "oracle", num_steps=1)
    np.testing.assert_allclose(oracle, 0.4 + 0.2 * 3 / 4, atol=tolerance)


def test_memory_is_worth_nothing_where_nothing_recurs():
    (thompson,), tolerance = measured(BanditConfig(recurrence=0.0), "thompson", num_trials=2000, num_steps=20)
    np.testing.assert_allclose(thompson.mean(), 0, atol=tolerance / math.sqrt(20))


def test_upper_confidence_bounds_by_hand():
    environment, params = BanditConfig(arms=3, noise=2.0).make()
    _, state = environment.reset(jax.random.key(0), params)
    ucb1 = environment.players()["ucb1"]
    # After this pull of arm 1: means 1, 2, 0; pulls 9, 4, 1; bounds 1 + 4 sqrt(2 log(14) / 9) = 4.06, 6.59, 9.19.
    state = state.replace(time=jnp.int32(14), arm=jnp.int32(1), reward=jnp.float32(5))
    known, arm = ucb1.act(jax.random.key(0), Known(jnp.array([9.0, 3, 1]), jnp.array([9.0, 3, 0])), state, params)
    assert known.pulls.tolist() == [9, 4, 1] and known.paid.tolist() == [9, 8, 0]
    assert int(arm) == 2
    # Pulled as often, the one that paid more: bounds 4.42, 4.87, 4.53.
    known = Known(jnp.array([9.0, 8, 9]), jnp.array([9.0, 8, 10]))
    assert int(ucb1.act(jax.random.key(0), known, state, params)[1]) == 1


def test_what_is_known_is_discounted_where_arms_may_change():
    environment, params = BanditConfig(arms=2, recurrence=0.5).make()
    _, state = environment.reset(jax.random.key(0), params)
    thompson = environment.players()["thompson"]
    known, _ = thompson.act(jax.random.key(0), thompson.initial_state(params), state, params)
    assert known.pulls.tolist() == known.paid.tolist() == [0, 0]
    for arm in (0, 1):
        state = state.replace(arm=jnp.int32(arm), reward=jnp.float32(4))
        known, _ = thompson.act(jax.random.key(0), known, state, params)
    assert known.pulls.tolist() == [0.25, 0.5] and known.paid.tolist() == [1, 2]


def test_players_know_only_what_they_were_told(getkey):
    """They act alike whatever the means are."""
    environment, params = BanditConfig(arms=3).make()
    key = getkey()
    _, state = environment.reset(getkey(), params)
    state = state.replace(time=jnp.int32(3), arm=jnp.int32(1), reward=jnp.float32(0.7))
    means = jax.random.normal(getkey(), (100, 3))
    for name in ("thompson", "ucb1", "memoryless"):
        player = environment.players()[name]
        _, arms = jax.vmap(
            lambda means, player=player: player.act(
                key, player.initial_state(params), state.replace(means=means), params
            )
        )(means)
        assert (arms == arms[0]).all()


def test_picture_shows_means_and_the_last_pull():
    environment, params = BanditConfig(arms=3, rewards="bernoulli").make()
    _, state = environment.reset(jax.random.key(0), params)
    state = state.replace(means=jnp.array([0.5, 0.25, 0.75]), arm=jnp.int32(1), reward=jnp.float32(1))
    picture = environment.render(state, params)
    columns = np.split(picture, 3, axis=1)

    def area(column, colour):
        return (column == colour).all(-1).sum()

    middle, low = area(columns[0], drawing.BLUE), area(columns[1], drawing.BLUE)
    assert area(columns[2], drawing.GREEN) > middle > low > 0 and area(columns[2], drawing.BLUE) == 0
    assert [area(column, drawing.YELLOW) > 0 for column in columns] == [False, True, False]
    assert columns[1][:20, :, :].max() == 240 and columns[0][:20, :, :].max() == 40  # it paid the most there is


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"arms": 1}, "arms is 1, but must be at least 2"),
        ({"trial_length": 0}, "trial_length is 0, but must be at least 1"),
        ({"rewards": "normal"}, "rewards is 'normal', but must be 'gaussian' or 'bernoulli'"),
        ({"prior": (0, 0)}, r"prior is \(0, 0\), but its standard deviation must be greater than 0"),
        (
            {"rewards": "bernoulli", "prior": (0.5, 1.5)},
            r"prior is \(0.5, 1.5\), but bernoulli means must be from 0 to 1",
        ),
        ({"rewards": "bernoulli", "prior": (0.5, 0.5)}, r"prior is \(0.5, 0.5\), but .* the lesser one first"),
        ({"noise": 0}, "noise is 0, but must be greater than 0"),
        ({"recurrence": 1.5}, "recurrence is 1.5, but must be from 0 to 1"),
        ({"recurrence": -0.5}, "recurrence is -0.5, but must be from 0 to 1"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        BanditConfig(**fields)
