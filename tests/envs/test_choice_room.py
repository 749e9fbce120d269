"""The parts that Ballet and Boxes share, seen through Ballet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.ballet import BalletConfig
from envs.choice_room import MAX_PLACES, MOVES, draw_distinct

NORTH, NORTH_EAST, EAST, SOUTH_EAST, SOUTH, SOUTH_WEST, WEST, NORTH_WEST = range(8)


@pytest.fixture(scope="module")
def two_dancers():
    """After 32 steps of dances the agent has 8 steps to walk."""
    return BalletConfig(num_dancers=(2,), delays=(1,), max_steps=40).make()


@pytest.fixture(scope="module")
def walk(two_dancers):
    """A function that takes 8 actions from a state, `[8, ...]`: positions, rewards, terminated, truncated, success."""
    environment, params = two_dancers

    @jax.jit
    def walk(state, actions):
        def step(state, action):
            _, state, reward, terminated, info = environment.step_env(jax.random.key(0), state, action, params)
            truncated = environment.is_truncated(state, params)
            return state, (state.position, reward, terminated, truncated, info["success"])

        return jax.lax.scan(step, state, actions)[1]

    return lambda state, actions: jax.tree.map(np.asarray, walk(state, np.array(actions, np.int32)))


@pytest.fixture(scope="module")
def begun(two_dancers):
    """An episode with the right dancer in the north-west and the other one in the east, when walking begins."""
    environment, params = two_dancers
    _, state = environment.reset(jax.random.key(0), params)
    directions = [NORTH_WEST, EAST, NORTH, NORTH_EAST, SOUTH_EAST, SOUTH, SOUTH_WEST, WEST]
    places = jnp.asarray(5 + 3 * MOVES[directions])
    return state.replace(time=jnp.int32(32), places=places, target=jnp.int32(0))


def test_walks_to_the_right_one(walk, begun):
    positions, rewards, terminated, _, success = walk(begun, [NORTH_WEST] * 3 + [EAST] * 5)
    assert positions[:3].tolist() == [[4, 4], [3, 3], [2, 2]]
    assert rewards.tolist() == success.tolist() == terminated.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]


def test_walks_to_the_wrong_one(walk, begun):
    _, rewards, terminated, _, success = walk(begun, [NORTH_EAST, SOUTH_EAST, EAST] + [NORTH] * 5)
    assert terminated.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert not rewards.any() and not success.any()


def test_walls_hold_the_agent_back_without_sliding(walk, begun):
    positions, _, terminated, _, _ = walk(begun, [SOUTH] * 5 + [SOUTH_EAST, SOUTH_WEST, NORTH_EAST])
    assert positions.tolist() == [[6, 5], [7, 5], [8, 5], [9, 5], [9, 5], [9, 5], [9, 5], [8, 6]]
    assert not terminated.any()  # (8, 5) is the place of a dancer that does not take part


def test_actions_do_nothing_before_the_question(walk, begun):
    positions, _, _, _, _ = walk(begun.replace(time=jnp.int32(29)), [NORTH, EAST, SOUTH_WEST, NORTH, *[EAST] * 4])
    assert positions[:5].tolist() == [[5, 5], [5, 5], [5, 5], [4, 5], [4, 6]]


def test_time_limit_truncates(walk, begun):
    _, rewards, terminated, truncated, _ = walk(begun, [NORTH, SOUTH] * 4)
    assert truncated.tolist() == [0, 0, 0, 0, 0, 0, 0, 1]
    assert not terminated.any() and not rewards.any()


def test_an_answer_in_the_last_step_counts(walk, begun):
    actions = [EAST, WEST, NORTH, SOUTH, NORTH, NORTH_WEST, NORTH_WEST, WEST]
    _, rewards, terminated, truncated, success = walk(begun, actions)
    for last in (rewards, terminated, truncated, success):
        assert last.tolist() == [0, 0, 0, 0, 0, 0, 0, 1]


def test_draws_are_distinct_and_uniform(getkey):
    draws = np.asarray(jax.vmap(lambda key: draw_distinct(key, 13))(jax.random.split(getkey(), 13_000)))
    assert draws.shape == (13_000, MAX_PLACES)
    assert all(len(set(row)) == MAX_PLACES for row in draws[:1000].tolist())
    for place in (0, 7):
        counts = np.bincount(draws[:, place], minlength=13)
        assert ((counts - 1000) ** 2 / 1000).sum() < 12 + 4 * 24**0.5  # chi-squared with 12 degrees of freedom
    pairs = np.bincount(draws[:, 0] * 13 + draws[:, 1], minlength=169)
    expected = 13_000 / (13 * 12)
    assert ((pairs[pairs > 0] - expected) ** 2 / expected).sum() < 155 + 4 * 310**0.5


def test_levels_are_mixed_evenly_and_fit_one_program(getkey):
    environment, mixture = BalletConfig(num_dancers=(2, 5, 8), delays=(3, 16)).make()
    other, single = BalletConfig(num_dancers=(3,), delays=(7,)).make()
    assert environment == other
    assert jax.tree.map(np.shape, mixture) == jax.tree.map(np.shape, single)

    draw = jax.jit(jax.vmap(lambda key, params: environment.reset(key, params)[1], (0, None)))
    levels = np.stack(draw(jax.random.split(getkey(), 6000), mixture).level, axis=1)
    rows, counts = np.unique(levels, axis=0, return_counts=True)
    assert rows.tolist() == [
        *([2, 36, 1024], [2, 62, 320], [5, 90, 1024], [5, 155, 320], [8, 144, 1024], [8, 248, 320]),
    ]
    assert ((counts - 1000) ** 2 / 1000).sum() < 5 + 4 * 10**0.5
    assert (np.stack(draw(jax.random.split(getkey(), 6000), single).level, axis=1) == [3, 66, 1024]).all()


def test_too_many_levels():
    with pytest.raises(ValueError, match="66 levels are mixed, but must be at most 64"):
        BalletConfig(num_dancers=(2, 3), delays=tuple(range(1, 34)))
