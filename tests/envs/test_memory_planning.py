import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import drawing
from envs.memory_planning import COLLECT, DOWN, LEFT, MOVES, RIGHT, UP, MemoryPlanningConfig
from envs.player import play


def walk(environment, params, player, key, num_environments, num_steps):
    """`player` acts, or a uniformly random one if None: the states and observations before each step, actions, rewards.

    Each leaf `[T, B, ...]`, as NumPy.
    """

    def walk_one(key):
        reset_key, step_key = jax.random.split(key)
        observation, state = environment.reset(reset_key, params)

        def step(carry, key):
            player_state, observation, state = carry
            act_key, step_key = jax.random.split(key)
            if player is None:
                action = jax.random.randint(act_key, (), 0, environment.num_actions)
            else:
                player_state, action = player.act(act_key, player_state, state, params)
            then_observation, then_state, reward, _, _, info = environment.step(step_key, state, action, params)
            outcome = {"state": state, "observation": observation, "action": action, "reward": reward, **info}
            return (player_state, then_observation, then_state), outcome

        player_state = None if player is None else player.initial_state(params)
        return jax.lax.scan(step, (player_state, observation, state), jax.random.split(step_key, num_steps))[1]

    steps = jax.jit(jax.vmap(walk_one, out_axes=1))(jax.random.split(key, num_environments))
    return jax.tree.map(np.asarray, steps)


def torus_distance(one, other, size):
    x, y = np.abs(one % size - other % size), np.abs(one // size - other // size)
    return np.minimum(x, size - x) + np.minimum(y, size - y)


def test_a_trial_by_hand():
    environment, params = MemoryPlanningConfig(size=3, symbols=9).make()
    _, state = environment.reset(jax.random.key(0), params)
    dealt = jnp.array([4, 7, 2, 0, 8, 1, 3, 6, 5], jnp.int32)
    #   4 7 2
    #   0 8 1    from the 4 in the corner to the 3 below the 0
    #   3 6 5
    state = state.replace(cell=jnp.int32(0), goal=jnp.int32(6), dealt=dealt)
    actions = jnp.array([LEFT, DOWN, RIGHT, COLLECT, UP, UP, COLLECT, COLLECT])

    def step(state, action):
        observation, state, reward, terminated, info = environment.step_env(jax.random.key(0), state, action, params)
        return state, (observation, reward, terminated, info["soft_reset"])

    _, (observations, rewards, terminated, soft_resets) = jax.lax.scan(step, state, actions)
    seen, goals = np.asarray(observations).T
    # Over the edges to the 2, the 1, the 0; nothing to collect there; to the 4, and over the edge to the 3.
    assert seen.tolist() == [2, 1, 0, 0, 4, 3, 3, 3]
    assert rewards.tolist() == [0, 0, 0, 0, 0, 0, 1, 0]
    assert soft_resets.tolist() == [False] * 6 + [True, False]
    assert (goals[:6] == 3).all() and (goals[6:] == goals[6]).all() and goals[6] != 3
    assert not terminated.any()


def test_board_stays_for_a_trial_and_the_agent_where_it_collects():
    environment, params = MemoryPlanningConfig(trial_length=50).make()
    steps = walk(environment, params, environment.players()["oracle"], jax.random.key(0), 64, 60)
    state, collected = steps["state"], steps["reward"] > 0
    assert (state.dealt[:50] == state.dealt[0]).all() and (state.dealt[50:] == state.dealt[50]).all()
    assert (state.dealt[50] != state.dealt[0]).any(-1).all()
    np.testing.assert_array_equal(steps["truncated"], np.arange(60)[:, None].repeat(64, 1) == 49)
    same_trial = collected[:-1] & ~steps["truncated"][:-1]
    np.testing.assert_array_equal(state.cell[:-1][same_trial], state.cell[1:][same_trial])
    assert (state.cell != state.goal)[1:][same_trial].all()
    np.testing.assert_array_equal(steps["soft_reset"], collected)
    assert collected.sum() > 64 * 10


def test_draws_are_uniform(getkey):
    environment, params = MemoryPlanningConfig(size=3, symbols=12).make()
    trials = 71_280
    observation, state = jax.vmap(environment.reset, (0, None))(jax.random.split(getkey(), trials), params)
    dealt = np.sort(state.dealt, axis=1)
    assert (dealt == np.arange(12)).all()
    # Start and goal, 9 x 8 pairs; and by the symbols that are seen, 12 x 11: all equally likely.
    for counts, kinds in (
        (np.bincount(np.asarray(state.cell * 9 + state.goal), minlength=81), 72),
        (np.bincount(np.asarray(observation @ jnp.array([12, 1])), minlength=144), 132),
    ):
        assert (counts > 0).sum() == kinds
        expected = trials / kinds
        squares = ((counts[counts > 0] - expected) ** 2 / expected).sum()
        assert abs(squares - (kinds - 1)) < 4 * np.sqrt(2 * (kinds - 1))


def test_uniform_random_return_is_that_of_the_markov_chain(getkey):
    """The way to the goal is a Markov chain; the expected number of goals in a trial follows exactly."""
    size, length = 3, 100
    ways = [(x, y) for x in range(size) for y in range(size)]
    elsewhere = np.array([way != (0, 0) for way in ways]) / (size**2 - 1)
    chain = np.zeros((size**2, size**2))
    for number, way in enumerate(ways):
        for action, move in enumerate(MOVES):
            if action == COLLECT and way == (0, 0):
                chain[number] += elsewhere / 5
            else:
                chain[number, ways.index(tuple((np.array(way) - move) % size))] += 1 / 5
    there, probabilities, expected = ways.index((0, 0)), elsewhere, 0.0
    for _ in range(length):
        expected += probabilities[there] / 5
        probabilities = probabilities @ chain

    environment, params = MemoryPlanningConfig(size=size, trial_length=length).make()
    rewards = walk(environment, params, None, getkey(), 8192, length)["reward"].sum(0)
    assert rewards.mean() == pytest.approx(expected, abs=4 * rewards.std() / np.sqrt(8192))


@pytest.mark.parametrize("size", [3, 4])
def test_oracle_takes_a_shortest_way_to_every_goal(size):
    environment, params = MemoryPlanningConfig(size=size, symbols=16, trial_length=300).make()
    steps = walk(environment, params, environment.players()["oracle"], jax.random.key(0), 64, 300)
    collected = steps["soft_reset"]
    begins = np.concatenate([np.ones((1, 64), bool), collected[:-1]])
    distance = torus_distance(steps["state"].cell, steps["state"].goal, size)
    for trial in range(64):
        starts, ends = np.flatnonzero(begins[:, trial]), np.flatnonzero(collected[:, trial])
        np.testing.assert_array_equal(ends - starts[: len(ends)], distance[starts[: len(ends)], trial])
    mean_distance = torus_distance(0, np.arange(1, size**2), size).mean()
    assert steps["reward"].sum(0).mean() == pytest.approx(300 / (1 + mean_distance), rel=0.02)


def test_searcher_learns_the_board():
    """After it has been everywhere it is as fast as the oracle, and before that not."""
    environment, params = MemoryPlanningConfig().make()
    oracle, searcher = (
        play(environment, params, player, jax.random.key(0), 2000, 100).mean(1)
        for player in environment.players().values()
    )
    assert float(oracle.sum()) == pytest.approx(100 / (1 + 32 / 15), rel=0.02)
    assert float(searcher[-50:].sum()) == pytest.approx(float(oracle[-50:].sum()), rel=0.03)
    assert float(searcher[:10].sum()) < 0.5 * float(oracle[:10].sum())


def test_searcher_knows_only_what_it_was_told():
    """In two trials it acts alike until it saw a symbol again, or collected one, in only one of them."""
    environment, params = MemoryPlanningConfig(size=3, symbols=9).make()
    steps = walk(environment, params, environment.players()["searcher"], jax.random.key(0), 200, 40)
    symbols = steps["observation"].transpose(1, 0, 2).reshape(200, -1)
    first_seen = (symbols[:, :, None] == symbols[:, None, :]).argmax(-1).reshape(200, 40, 2)
    told = np.concatenate([first_seen, steps["reward"].T[..., None]], axis=-1)
    one, other = np.triu_indices(200, 1)
    told_apart = np.cumsum((told[one] != told[other]).any(-1), axis=1) > 0
    same_action = steps["action"].T[one] == steps["action"].T[other]
    assert (same_action | told_apart).all()
    assert not same_action.all() and (~told_apart).sum() > 3 * len(one)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 1}, "size is 1, but must be at least 2"),
        ({"trial_length": 0}, "trial_length is 0, but must be at least 1"),
        ({"size": 7}, "symbols is 36, but must be at least 49, one for each cell of the board"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        MemoryPlanningConfig(**fields)


def test_splits():
    config = MemoryPlanningConfig()
    assert {name: dataclasses.replace(config, **_fields(name)) for name in config.splits()} == config.splits()
    assert list(config.splits()) == ["size=3", "size=5", "size=6"] + [f"trial_length={n}" for n in (200, 400, 800)]
    assert "size=5" not in MemoryPlanningConfig(symbols=16).splits()


def _fields(name):
    field, value = name.split("=")
    return {field: int(value)}


def test_picture_shows_symbols_agent_and_goal():
    environment, params = MemoryPlanningConfig(size=2, symbols=36).make()
    _, state = environment.reset(jax.random.key(0), params)
    state = state.replace(cell=jnp.int32(1), goal=jnp.int32(2), dealt=state.dealt.at[:2].set(jnp.array([1, 8])))
    picture = environment.render(state, params)
    assert picture.shape == (2 * drawing.CELL, 2 * drawing.CELL, 3)

    def pixels(x, y, colour):
        tile = picture[y * drawing.CELL :, x * drawing.CELL :][: drawing.CELL, : drawing.CELL]
        return (tile == colour).all(-1).sum()

    assert pixels(1, 0, drawing.VERMILLION) > 100 and pixels(0, 1, drawing.GREEN) > 100
    assert pixels(0, 0, drawing.VERMILLION) == pixels(0, 0, drawing.GREEN) == 0
    assert pixels(1, 0, drawing.WHITE) > pixels(0, 0, drawing.WHITE) > 0  # an 8 is more than a 1
