from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import drawing
from envs.player import play
from envs.visual_match import (
    ACTIVE_ROOM,
    AGENT,
    APPLE,
    APPLE_CELLS,
    COLOUR,
    DOWN,
    FLOOR,
    LEFT,
    NEVER,
    PLACES,
    RIGHT,
    STARTS,
    UP,
    WALL,
    VisualMatchConfig,
)


@partial(jax.jit, static_argnums=0)
def follow(environment, params, state, actions):
    """Take `actions` in one environment: every step's outcome, `[T, ...]`."""

    def step(state, action):
        observation, state, reward, terminated, info = environment.step_env(jax.random.key(0), state, action, params)
        return state, {"observation": observation, "reward": reward, "terminated": terminated, "state": state, **info}

    return jax.lax.scan(step, state, actions)[1]


@partial(jax.jit, static_argnums=(0, 3))
def reset(environment, params, key, number):
    return jax.vmap(environment.reset_env, (0, None))(jax.random.split(key, number), params)


def arranged(environment, params, apples=(), **fields):
    """The start of an episode with apples on the cells of `apples`, and all else as given by `fields`."""
    _, state = reset(environment, params, jax.random.key(0), 1)
    ripe_at = np.where([tuple(cell) in apples for cell in APPLE_CELLS.tolist()], 0, NEVER).astype(np.int32)
    fields = {"ripe_at": ripe_at, "apple_reward": np.float32(2), **fields}
    fields = {name: np.asarray(value, np.asarray(getattr(state, name)).dtype) for name, value in fields.items()}
    return jax.tree.map(lambda leaf: leaf[0], state).replace(**fields)


def place(*cell):
    """The index of a cell (room, row, column) that may show the colour."""
    return PLACES.tolist().index(list(cell))


def test_an_episode_by_hand():
    environment, params = VisualMatchConfig(distractor_steps=(30,)).make()
    state = arranged(
        environment, params, apples=[(5, 3), (3, 3)], colour=1, place=place(0, 3, 6), door_colours=(0, 1, 2)
    )
    actions = [UP] * 15 + [LEFT] * 2 + [DOWN] * 28 + [UP] * 4 + [LEFT] * 3 + [UP] * 8
    steps = follow(environment, params, state, np.array(actions, np.int32))

    walled_in = np.zeros((5, 5), int)
    walled_in[1:4, 1:4] = WALL
    walled_in[2, 2], walled_in[3, 3] = AGENT, COLOUR + 1
    np.testing.assert_array_equal(environment.observe(None, state, None, params), walled_in)
    np.testing.assert_array_equal(steps["observation"][:14], np.broadcast_to(walled_in, (14, 5, 5)))

    # After 15 actions the agent is at the bottom of the room of apples: walls below, and beyond them nothing.
    bottom = np.array([[APPLE, 0, 0, 0, 0], [0] * 5, [APPLE, 0, AGENT, 0, 0], [WALL] * 5, [FLOOR] * 5])
    np.testing.assert_array_equal(steps["observation"][14], bottom)
    # The apple on the left is taken in the 17th step. From then on the agent stays there, against the wall.
    np.testing.assert_array_equal(steps["observation"][16][2], [0, 0, AGENT, 0, 0])
    assert np.flatnonzero(steps["reward"]).tolist() == [16, 38, 48]
    assert steps["reward"][np.array([16, 38])].tolist() == [2, 2]
    assert steps["apples"][-1] == 2

    corridor = np.array([[0] * 5, [WALL, 0, 0, 0, WALL], [WALL, 0, AGENT, 0, WALL], [WALL] * 5, [FLOOR] * 5])
    np.testing.assert_array_equal(steps["observation"][44], corridor)
    # Two steps further up it sees the door in the middle, two more and it is there.
    np.testing.assert_array_equal(steps["observation"][46][0], [0, 0, COLOUR + 1, 0, 0])
    assert steps["reward"][48] == 10
    assert np.flatnonzero(steps["success"]).tolist() == list(range(48, 60))
    np.testing.assert_array_equal(steps["observation"][50][2], [0, 0, AGENT, 0, 0])  # the other doors are gone
    np.testing.assert_array_equal(steps["state"].position[51], (1, 2))
    assert np.flatnonzero(steps["terminated"]).tolist() == [59]


@pytest.mark.parametrize(("respawn_steps", "seen_again"), [(20, 21), (3, 4)])
def test_a_collected_apple_comes_back(respawn_steps, seen_again):
    environment, params = VisualMatchConfig(explore_steps=1, respawn_steps=respawn_steps).make()
    state = arranged(environment, params, apples=[(5, 7)])
    actions = [UP, RIGHT, RIGHT, LEFT] + [DOWN] * 26
    steps = follow(environment, params, state, np.array(actions, np.int32))
    seen = np.asarray(steps["observation"] == APPLE).any((1, 2))
    collected = 2
    assert np.flatnonzero(seen).tolist() == [0, 1, *range(collected + seen_again, 30)]
    assert np.flatnonzero(steps["reward"]).tolist() == [collected]


def test_the_last_step_of_a_phase_counts():
    config = VisualMatchConfig(explore_steps=1, distractor_steps=(2,), choose_steps=4)
    environment, params = config.make()
    state = arranged(environment, params, apples=[(5, 7)], colour=2, door_colours=(0, 2, 1))
    actions = np.array([UP, RIGHT, RIGHT, UP, UP, UP, UP], np.int32)
    steps = follow(environment, params, state, actions)
    assert steps["reward"].tolist() == [0, 0, 2, 0, 0, 0, 10]
    assert steps["success"].tolist() == [False] * 6 + [True]
    assert np.flatnonzero(steps["terminated"]).tolist() == [6] and params.max_steps_in_episode == 7
    steps = follow(environment, params.replace(explore_steps=np.int32(2)), state, actions)
    assert steps["reward"].tolist() == [0] * 7  # the door was reached one step after the apple, with none left


def test_the_first_door_is_the_choice():
    environment, params = VisualMatchConfig(num_colours=4, explore_steps=1, distractor_steps=(0,)).make()
    state = arranged(environment, params, colour=3, door_colours=(3, 0, 1, 2))
    to_second_door, to_first_door = [LEFT] + [UP] * 4, [LEFT, LEFT]
    steps = follow(environment, params, state, np.array([UP, *to_second_door, *to_first_door], np.int32))
    np.testing.assert_array_equal(steps["state"].position[-1], (1, 2))
    assert not steps["reward"].any() and not steps["success"].any()
    assert steps["state"].chosen.tolist() == [-1] * 5 + [0] * 3


def test_the_colour_can_be_found_in_time():
    """14 moves show an active agent all walls of both rooms, from any start."""
    environment, params = VisualMatchConfig(explore="active").make()
    sweep = [LEFT] * 3 + [RIGHT] * 3 + [LEFT] + [UP] * 3 + [RIGHT] + [LEFT] * 3
    places = np.flatnonzero(PLACES[:, 0] == ACTIVE_ROOM)
    assert len(sweep) < 15 and len(places) * len(STARTS) == 260
    starts, places = (grid.ravel() for grid in np.meshgrid(np.arange(len(STARTS)), places))
    state = arranged(environment, params, colour=2)

    def first_sight(start, place):
        start_state = state.replace(position=jnp.asarray(STARTS)[start], place=place)
        first = environment.observe(None, start_state, None, params)
        steps = follow(environment, params, start_state, np.array(sweep, np.int32))
        seen = (jnp.concatenate([first[None], steps["observation"]]) == COLOUR + 2).any((1, 2))
        return jnp.where(seen.any(), jnp.argmax(seen), -1)

    sights = jax.jit(jax.vmap(first_sight))(starts, places.astype(np.int32))
    assert (sights >= 0).all() and (sights > 0).any() and (sights == 0).any()


def test_only_the_first_phase_shows_the_colour():
    environment, params = VisualMatchConfig(distractor_steps=(30,)).make()
    state = arranged(environment, params, apples=[(3, 5), (2, 4)], colour=0, place=0)
    actions = jax.random.randint(jax.random.key(0), (60,), 0, 4, jnp.int32)
    one, other = (
        follow(environment, params, state.replace(colour=jnp.int32(colour), place=jnp.int32(colour)), actions)
        for colour in (0, 2)
    )
    differs = np.asarray(one["observation"] != other["observation"]).any((1, 2))
    assert differs.tolist() == [True] * 14 + [False] * 46


def assert_uniform(values, number):
    """Chi-squared test of `values`, integers that should be uniform below `number`."""
    counts = np.bincount(np.asarray(values), minlength=number)
    assert len(counts) == number
    statistic = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert abs(statistic - (number - 1)) < 5 * np.sqrt(2 * (number - 1))


def test_draws_are_uniform_and_independent():
    config = VisualMatchConfig(explore="active")
    (environment, active), (_, passive) = config.make(), VisualMatchConfig().make()
    _, states = reset(environment, active, jax.random.key(0), 30_000)
    _, walled_in = reset(environment, passive, jax.random.key(0), 30_000)
    places = np.flatnonzero(PLACES[:, 0] == ACTIVE_ROOM)
    assert_uniform(states.colour * 26 + states.place - places[0], 3 * 26)
    assert_uniform(walled_in.colour * 8 + walled_in.place, 3 * 8)
    assert (walled_in.position == np.array([[2, 5]])).all()
    starts = (np.asarray(states.position)[:, None] == STARTS).all(-1)
    assert starts.any(1).all()
    lengths = np.searchsorted([30, 60, 90], states.distractor_steps)
    rewards = np.searchsorted([1, 10], states.apple_reward)
    doors = np.unique(states.door_colours, axis=0, return_inverse=True)[1].ravel()
    assert_uniform(((starts.argmax(1) * 3 + lengths) * 2 + rewards) * 6 + doors, 10 * 3 * 2 * 6)
    assert_uniform(doors * 3 + states.colour, 18)
    apples = np.asarray(states.ripe_at) == 0
    assert (apples.sum(1) == 10).all() and apples.shape == (30_000, 22)
    expected = 10 / 22
    assert np.abs(apples.mean(0) - expected).max() < 5 * np.sqrt(expected * (1 - expected) / 30_000)
    both = 10 / 22 * 9 / 21  # of two places
    assert np.abs((apples.T @ apples.astype(float) / 30_000)[~np.eye(22, dtype=bool)] - both).max() < 0.02


@pytest.mark.parametrize("num_colours", [3, 4])
def test_oracle_chooses_right_and_the_memoryless_by_chance(num_colours):
    config = VisualMatchConfig(num_colours=num_colours, distractor_steps=(10,), num_apples=0)
    environment, params = config.make()
    oracle, memoryless = (
        play(environment, params, player, jax.random.key(1), 4000, 40).sum(0)
        for player in environment.players().values()
    )
    assert (oracle == 10).all()  # without apples the largest possible return
    chance = 1 / num_colours
    assert abs((memoryless == 10).mean() - chance) < 4 * np.sqrt(chance * (1 - chance) / 4000)
    assert ((memoryless == 0) | (memoryless == 10)).all()


def test_longer_episodes_share_a_compilation():
    config = VisualMatchConfig()
    environment, params = config.make()
    splits = config.splits()
    assert list(splits) == ["distractor_90", "distractor_250", "distractor_500", "distractor_1000"]
    for steps, split in zip((90, 250, 500, 1000), splits.values(), strict=True):
        other, other_params = split.make()
        assert other == environment and other_params.max_steps_in_episode == steps + 30
        assert (other_params.distractor_steps == steps).all()
        shapes, other_shapes = (jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), p) for p in (params, other_params))
        assert shapes == other_shapes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"explore": "lazy"}, "explore is 'lazy', but must be 'passive' or 'active'"),
        ({"num_colours": 5}, "num_colours is 5, but must be 3 or 4"),
        ({"explore_steps": 0}, "explore_steps is 0, but must be at least 1"),
        ({"choose_steps": 0}, "choose_steps is 0, but must be at least 1"),
        ({"respawn_steps": -1}, "respawn_steps is -1, but must be at least 0"),
        ({"distractor_steps": ()}, r"distractor_steps is \(\), but must be numbers that are at least 0"),
        ({"distractor_steps": (30, -1)}, r"distractor_steps is \(30, -1\), but must be numbers that are at least 0"),
        ({"num_apples": 23}, "num_apples is 23, but must be from 0 to 22"),
        ({"apple_reward": (1.0,)}, r"apple_reward is \(1.0,\), but must be two numbers to draw from"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        VisualMatchConfig(**fields)


def test_picture_shows_colour_apples_and_doors():
    environment, params = VisualMatchConfig(explore_steps=1, distractor_steps=(1,)).make()
    state = arranged(environment, params, apples=[(5, 7)], colour=1, place=place(0, 1, 4), door_colours=(0, 1, 2))
    steps = follow(environment, params, state, np.array([UP, UP, UP, UP, UP, UP], np.int32))
    states = [state, *(jax.tree.map(lambda leaf, t=t: np.asarray(leaf[t]), steps["state"]) for t in (0, 1, 5))]
    explore, collect, choose, chosen = (environment.render(state, params) for state in states)

    def shows(picture, row, column, colour):
        tile = picture[row * drawing.CELL :, column * drawing.CELL :][: drawing.CELL, : drawing.CELL]
        return (tile == colour).all(-1).sum() > 100

    assert explore.shape == (8 * drawing.CELL, 11 * drawing.CELL, 3)
    assert shows(explore, 1, 4, drawing.BLUE) and shows(explore, 7, 0, drawing.BLUE)
    assert shows(explore, 2, 5, drawing.WHITE) and not shows(collect, 2, 5, drawing.WHITE)
    assert shows(collect, 5, 7, drawing.GREEN) and shows(collect, 5, 5, drawing.WHITE)
    assert (choose[int(1.5 * drawing.CELL), int(2.5 * drawing.CELL)] < np.array(drawing.VERMILLION)).any()  # dimmed
    assert shows(chosen, 7, 1, drawing.BLUE) and not shows(choose, 7, 1, drawing.BLUE)
    assert not shows(chosen, 1, 2, drawing.VERMILLION)
