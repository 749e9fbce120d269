import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import drawing
from envs.player import play_episodes
from envs.t_maze import FORWARD, LEFT, RIGHT, TMazeConfig


def first_episodes(environment, params, player, num_episodes=500):
    """Of the first episode of each of many environments: whether it succeeded, its return and its length."""
    episodes = play_episodes(environment, params, player, jax.random.key(0), num_episodes)
    return np.asarray(episodes.outcomes["success"]), np.asarray(episodes.total), np.asarray(episodes.length)


def follow(config, actions, cues=None):
    """Take `actions`; with `cues`, all corridors have these in turn. The steps' outcomes, `[T, ...]`."""
    environment, params = config.make()
    _, state = environment.reset(jax.random.key(0), params)
    if cues is not None:
        state = state.replace(cue=jnp.int32(cues))
    steps = []
    step = jax.jit(environment.step_env)
    for action in actions:
        observation, state, reward, terminated, info = step(jax.random.key(1), state, jnp.int32(action), params)
        if cues is not None:
            state = state.replace(cue=jnp.int32(cues))
        steps.append({"observation": observation, "reward": reward, "terminated": terminated, **info})
    return jax.tree.map(lambda *leaves: np.stack(leaves), *steps)


def test_rewards_of_the_code_and_of_the_paper():
    #          on, a useless turn, on, the turn, on, on, the wrong turn
    actions = [FORWARD, LEFT, FORWARD, LEFT, FORWARD, FORWARD, RIGHT]
    code = follow(TMazeConfig(length=2), actions, cues=LEFT)
    paper = follow(TMazeConfig(length=2, rewards="paper"), actions, cues=LEFT)
    np.testing.assert_allclose(code["reward"], [0, -0.01, 0, 1, 0, 0, -0.01])
    np.testing.assert_allclose(paper["reward"], [-0.01, -0.01, -0.01, 1, -0.01, -0.01, -1])
    for steps in (code, paper):
        assert steps["terminated"].tolist() == steps["wrong_turn"].tolist() == [False] * 6 + [True]
        assert steps["corridors_passed"].tolist() == [0, 0, 0, 1, 1, 1, 1]
        assert not steps["success"].any() and not steps["timed_out"].any()


def test_forward_at_a_junction_is_a_wrong_turn():
    steps = follow(TMazeConfig(length=1), [FORWARD, FORWARD])
    assert steps["terminated"].tolist() == steps["wrong_turn"].tolist() == [False, True]


def test_last_turn_is_success_and_leaves_the_agent_at_the_junction():
    steps = follow(TMazeConfig(length=1, corridors=2), [FORWARD, RIGHT, FORWARD, RIGHT], cues=RIGHT)
    assert steps["success"].tolist() == steps["terminated"].tolist() == [False, False, False, True]
    assert steps["observation"][:, 0].tolist() == [1, 0, 1, 1]
    assert steps["observation"][:, 1:].sum(-1).tolist() == [0, 1, 0, 0]


def test_time_out_is_told_apart_from_a_wrong_turn_and_from_success():
    config = TMazeConfig(length=1, corridors=1, time_limit=2)
    dawdles = follow(config, [LEFT, LEFT])
    fails = follow(config, [FORWARD, FORWARD])
    succeeds = follow(config, [FORWARD, LEFT], cues=LEFT)
    for steps, outcome in ((dawdles, "timed_out"), (fails, "wrong_turn"), (succeeds, "success")):
        told = {name: bool(steps[name][-1]) for name in ("timed_out", "wrong_turn", "success")}
        assert told == {name: name == outcome for name in told}
    assert not dawdles["terminated"].any()


def test_cue_is_seen_while_the_agent_stays_at_the_start():
    steps = follow(TMazeConfig(), [LEFT, RIGHT, FORWARD, LEFT], cues=RIGHT)
    assert steps["observation"][:, 2].tolist() == [1, 1, 0, 0]
    assert not steps["observation"][:, 1].any()


def test_junction_is_seen_where_it_should_be():
    """The observed position is exactly the quotient, also under `vmap`, where XLA would like to multiply."""
    positions = jnp.arange(8, dtype=jnp.int32)

    def observe(config, length):
        environment, params = config.make()
        _, state = environment.reset(jax.random.key(0), params)
        state = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], 8), state)
        state = state.replace(position=positions, length=jnp.full(8, length, jnp.int32))
        return np.asarray(jax.jit(jax.vmap(environment.observe, (None, 0, None, None)))(None, state, None, params))

    exact = np.arange(8, dtype=np.float32)
    longest = observe(TMazeConfig(regime="uniform", length=10), 7)
    actual = observe(TMazeConfig(regime="uniform", length=10, normalise_by="actual", junction_flag=True), 7)
    np.testing.assert_array_equal(longest[:, 0], exact / np.float32(10))
    np.testing.assert_array_equal(actual[:, 0], exact / np.float32(7))
    assert longest.shape == (8, 3) and actual[:, 3].tolist() == [0] * 7 + [1]


def test_corridors_are_drawn_as_the_regime_says(getkey):
    def draw(config):
        environment, params = config.make()
        _, state = jax.vmap(environment.reset, (0, None))(jax.random.split(getkey(), 6000), params)
        return np.asarray(state.cue), np.asarray(state.length)

    cue, length = draw(TMazeConfig(length=6, regime="uniform", min_length=4))
    counts = [((cue == c) & (length == n)).sum() for c, n in itertools.product((LEFT, RIGHT), (4, 5, 6))]
    assert sum(counts) == 6000
    assert (np.abs(np.array(counts) - 1000) < 4 * np.sqrt(1000)).all()
    assert set(draw(TMazeConfig(length=6))[1]) == {6}


def test_cue_of_the_next_corridor_is_a_new_draw(getkey):
    environment, params = TMazeConfig(length=1).make()

    def two_cues(key):
        reset_key, key = jax.random.split(key)
        _, state = environment.reset(reset_key, params)
        state = state.replace(position=jnp.int32(1))
        _, following, *_ = environment.step_env(key, state, state.cue, params)
        return state.cue, following.cue

    one, two = map(np.asarray, jax.jit(jax.vmap(two_cues))(jax.random.split(getkey(), 4000)))
    assert np.abs((one == two).mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)


@pytest.mark.parametrize("regime", ["fixed", "uniform"])
def test_players_reach_what_is_known(regime):
    environment, params = TMazeConfig(regime=regime).make()
    for corridors, length in ((1, 5), (3, 5), (10, 10)):
        _, params = TMazeConfig(corridors=corridors, length=length, regime=regime).make()
        players = environment.players()
        success, total, steps = first_episodes(environment, params, players["oracle"])
        assert success.all() and (total == corridors).all()
        if regime == "fixed":
            assert (steps == corridors * (length + 1)).all()
        else:
            assert steps.mean() == pytest.approx(corridors * ((length + 1) / 2 + 1), rel=0.05)
        assert first_episodes(environment, params, players["prober"])[0].all()
        by_chance = 0.5**corridors
        error = np.sqrt(by_chance * (1 - by_chance) / 500)
        assert abs(first_episodes(environment, params, players["memoryless"])[0].mean() - by_chance) < 4 * error


def test_prober_takes_the_steps_that_are_known():
    """6, 18 and 60 steps for 1, 3 and 10 corridors of up to 5 (counted independently of this code)."""
    for corridors, known in ((1, 6), (3, 18), (10, 60)):
        environment, params = TMazeConfig(corridors=corridors, regime="uniform").make()
        steps = first_episodes(environment, params, environment.players()["prober"])[2]
        assert steps.mean() == pytest.approx(known, rel=0.05)


def test_splits_are_those_of_the_cross_evaluation():
    splits = TMazeConfig(corridors=3, length=5).splits()
    assert set(splits) == {
        *(f"corridors={n}" for n in (1, 5, 10)),
        *(f"fixed length={n}" for n in (10, 15)),
        *("uniform length=2..5", "uniform length=5..10", "uniform length=7..15"),
    }
    assert splits["corridors=10"].make()[1].max_steps_in_episode == 6 * 6 * 10
    one = {config.make()[0] for config in splits.values()}
    assert len(one) == 1  # one program serves them all


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"corridors": 0}, "corridors is 0, but must be at least 1"),
        ({"length": -5}, "length is -5, but must be at least 1"),
        ({"min_length": 0}, "min_length is 0, but must be at least 1"),
        ({"min_length": 6}, "min_length is 6, but must be at most length, which is 5"),
        ({"time_limit": 0}, "time_limit is 0, but must be at least 1"),
        ({"regime": "drawn"}, "regime is 'drawn', but must be 'fixed' or 'uniform'"),
        ({"rewards": "mine"}, "rewards is 'mine', but must be 'code2025' or 'paper'"),
        ({"normalise_by": "l"}, "normalise_by is 'l', but must be 'longest' or 'actual'"),
    ],
)
def test_bad_parameters(fields, message):
    with pytest.raises(ValueError, match=message):
        TMazeConfig(**fields)


def test_picture_shows_agent_cue_and_corridors():
    environment, params = TMazeConfig(corridors=4, length=5).make()
    _, state = environment.reset(jax.random.key(0), params)
    picture = environment.render(state, params)
    later = environment.render(state.replace(position=jnp.int32(3), corridors_passed=jnp.int32(2)), params)
    assert picture.shape == (4 * drawing.CELL, 6 * drawing.CELL, 3)

    def columns_of(picture, colour):
        return np.flatnonzero((picture == colour).all(-1).any(0)) // drawing.CELL

    assert set(columns_of(picture, drawing.VERMILLION)) == {0} and set(columns_of(later, drawing.VERMILLION)) == {3}
    assert len(columns_of(picture, drawing.YELLOW)) and not len(columns_of(later, drawing.YELLOW))
    assert set(columns_of(picture, drawing.GREEN)) == {5}
    assert not len(columns_of(picture, drawing.SKY_BLUE)) and set(columns_of(later, drawing.SKY_BLUE)) == {0, 1, 2}
    right = dataclasses.replace(state, cue=jnp.int32(LEFT + RIGHT - state.cue))
    assert (environment.render(right, params) != picture).any()
