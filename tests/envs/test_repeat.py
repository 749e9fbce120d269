import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import drawing
from envs.player import play_episodes
from envs.repeat import RepeatFirstConfig, RepeatPreviousConfig

FIRST = RepeatFirstConfig(length=8)
PREVIOUS = RepeatPreviousConfig(length=8, k=3)


def follow(config, answers):
    """Give `answers` in the first episode: symbols seen before each step, and the outcomes of the steps, `[T]`."""
    environment, params = config.make()
    first, state = environment.reset(jax.random.key(0), params)

    def step(carry, inputs):
        seen, state = carry
        key, answer = inputs
        observation, state, reward, terminated, info = environment.step_env(key, state, answer, params)
        return (observation, state), (seen, reward, terminated, info["accuracy"])

    keys = jax.random.split(jax.random.key(1), len(answers))
    steps = jax.jit(lambda: jax.lax.scan(step, (first, state), (keys, jnp.asarray(answers, jnp.int32))))()[1]
    return [np.asarray(leaf) for leaf in steps]


@pytest.mark.parametrize("config", [FIRST, PREVIOUS], ids=["first", "previous"])
def test_answers_are_judged(config):
    seen = follow(config, [0] * 8)[0]
    assert len(set(seen[:-2])) > 1
    if config == FIRST:
        solution, counted = np.full(8, seen[0]), np.arange(8)
    else:  # what was seen two steps before; there is nothing to say in the first two
        solution, counted = np.array([0, 0, *seen[:-2]]), np.arange(2, 8)
    wrong = np.array([0, 0, 0, 1, 0, 0, 1, 0])
    answers = (solution + wrong) % 4
    again, reward, terminated, accuracy = follow(config, answers)
    np.testing.assert_array_equal(again, seen)  # no answer changes what comes
    assert terminated.tolist() == [False] * 7 + [True]
    n = len(counted)
    np.testing.assert_allclose(reward[counted], (1 - 2 * wrong[counted]) / n, rtol=1e-6)
    np.testing.assert_array_equal(np.delete(reward, counted), 0)
    np.testing.assert_allclose(accuracy[counted], (1 - wrong[counted]).cumsum() / np.arange(1, n + 1), rtol=1e-6)
    np.testing.assert_array_equal(np.delete(accuracy, counted), 0)


def test_with_k_as_long_as_the_episode_one_answer_counts():
    config = RepeatPreviousConfig(length=3, k=3)
    seen = follow(config, [0] * 3)[0]
    _, reward, _, accuracy = follow(config, [0, 0, seen[0]])
    assert reward.tolist() == accuracy.tolist() == [0, 0, 1]


def test_symbols_are_uniform_and_independent(getkey):
    """All pairs of neighbours come equally often, within an episode and across its start."""
    environment, params = RepeatFirstConfig(symbols=3, length=3).make()

    def watch(key):
        reset_key, key = jax.random.split(key)
        first, state = environment.reset(reset_key, params)

        def step(state, key):
            observation, state, *_ = environment.step(key, state, jnp.int32(0), params)
            return state, observation

        return jnp.append(first, jax.lax.scan(step, state, jax.random.split(key, 5))[1])

    seen = np.asarray(jax.jit(jax.vmap(watch))(jax.random.split(getkey(), 3000)))  # [B, 6], two episodes
    for t in range(5):
        counts = [((seen[:, t] == a) & (seen[:, t + 1] == b)).sum() for a, b in itertools.product(range(3), repeat=2)]
        assert sum(counts) == 3000
        assert (np.abs(np.array(counts) - 3000 / 9) < 4.5 * np.sqrt(3000 / 9)).all()


@pytest.mark.parametrize(("config", "share"), [(FIRST, (1 + 7 / 4) / 8), (PREVIOUS, 1 / 4)], ids=["first", "previous"])
def test_players_reach_what_is_known(config, share):
    environment, params = config.make()
    episodes = {
        name: play_episodes(environment, params, player, jax.random.key(2), 4000)
        for name, player in environment.players().items()
    }
    np.testing.assert_allclose(episodes["oracle"].total, 1, rtol=1e-6)
    for name, known in (("oracle", 1.0), ("memoryless", share)):
        accuracy = np.asarray(episodes[name].outcomes["accuracy"])
        assert (np.asarray(episodes[name].length) == 8).all()
        # Shares of six answers or more, each of them right or wrong.
        assert accuracy.mean() == pytest.approx(known, abs=4 * 0.5 / np.sqrt(6 * 4000))
        np.testing.assert_allclose(episodes[name].total, 2 * accuracy - 1, atol=1e-6)


def test_splits_are_the_longer_levels():
    assert list(RepeatFirstConfig().splits()) == ["length=415", "length=831"]
    assert list(RepeatPreviousConfig(length=103, k=32).splits()) == ["length=155"]
    for config in (FIRST, PREVIOUS):
        for split in config.splits().values():
            assert split.length > config.length and split.make()[0] == config.make()[0]


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (RepeatFirstConfig, {"symbols": 1}, "symbols is 1, but must be at least 2"),
        (RepeatFirstConfig, {"length": 0}, "length is 0, but must be at least 1"),
        (RepeatPreviousConfig, {"symbols": 0}, "symbols is 0, but must be at least 2"),
        (RepeatPreviousConfig, {"k": 1}, "k is 1, but must be at least 2"),
        (RepeatPreviousConfig, {"k": 9, "length": 8}, "k is 9, but must be at most length, which is 8"),
    ],
)
def test_bad_parameters(config, fields, message):
    with pytest.raises(ValueError, match=message):
        config(**fields)


def test_default_parameters_fit_any_k():
    environment, _ = RepeatPreviousConfig(length=100, k=64).make()
    assert environment.default_params.max_steps_in_episode == 64


def test_picture_shows_cards_the_one_to_name_and_progress():
    environment, params = PREVIOUS.make()
    _, state = environment.reset(jax.random.key(0), params)
    state = state.replace(shown=jnp.int32([2, 1, 0]))

    def columns(colour, **changes):
        picture = environment.render(state.replace(**changes), params)
        return set((np.flatnonzero((picture == np.round(colour)).all(-1).any(0)) // drawing.CELL).tolist())

    assert environment.render(state, params).shape == (2 * drawing.CELL, 3 * drawing.CELL, 3)
    purple, vermillion, yellow, sky_blue = (
        np.array(getattr(drawing, name)) for name in ("PURPLE", "VERMILLION", "YELLOW", "SKY_BLUE")
    )
    assert columns(vermillion // 2) == set()  # in the first step one card has been shown
    assert columns(drawing.GREEN) == set()
    early = columns(sky_blue)
    assert columns(drawing.GREEN, time=2) == {0}
    assert columns(vermillion / 2, time=2) == {0} and columns(yellow / 2, time=2) == {1}
    assert early == {2}
    assert columns(sky_blue, time=8, right=6) == {0, 1, 2}
    assert columns(purple, shown=jnp.int32([2, 1, 3])) == {2}
