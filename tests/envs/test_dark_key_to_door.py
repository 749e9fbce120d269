import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import drawing
from envs.dark_key_to_door import DarkKeyToDoorConfig
from envs.player import play

UP, LEFT, DOWN, RIGHT, STAY = range(5)  # y grows downwards


def follow(config, actions):
    """Take `actions` in one environment: the reset's observation, the final state, every step's outcome, `[T, ...]`."""
    environment, params = config.make()
    first_observation, state = environment.reset(jax.random.key(0), params)

    def step(state, action):
        observation, state, reward, _, _, info = environment.step(jax.random.key(1), state, action, params)
        return state, {"observation": observation, "state": state, "reward": reward, **info}

    state, steps = jax.lax.scan(step, state, jnp.array(actions, jnp.int32))
    return first_observation, state, jax.tree.map(np.asarray, steps)


def test_attempts_by_hand():
    config = DarkKeyToDoorConfig(size=4, attempt_limit=10, start=(1, 1), key=(2, 1), door=(2, 3))
    #          onto the key, back, again, door    | next attempt: the door without the key gives nothing
    actions = [RIGHT, LEFT, RIGHT, DOWN, DOWN, DOWN, RIGHT, DOWN, UP, UP, UP, UP, LEFT, LEFT, LEFT]
    first_observation, _, steps = follow(config, actions)
    assert steps["reward"].tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert np.flatnonzero(steps["soft_reset"]).tolist() == [4]
    assert np.flatnonzero(steps["attempt_succeeded"]).tolist() == [4]
    np.testing.assert_allclose(first_observation, [1 / 4, 1 / 4, 0, 0])
    np.testing.assert_allclose(steps["observation"][0], [2 / 4, 1 / 4, 1, 1 / 10])
    np.testing.assert_allclose(steps["attempt_observation"][4], [2 / 4, 3 / 4, 1, 5 / 10])
    np.testing.assert_array_equal(steps["observation"][4], first_observation)  # the door's cell is never observed
    np.testing.assert_allclose(steps["observation"][-1], [0, 0, 1, 10 / 10])  # walls held the agent back


def test_failed_attempt_takes_one_step_more_than_its_limit():
    _, state, steps = follow(DarkKeyToDoorConfig(size=2, attempt_limit=3, start=(0, 0), key=(1, 1)), [STAY] * 9)
    assert np.flatnonzero(steps["soft_reset"]).tolist() == [3, 7]
    assert not steps["attempt_succeeded"].any()
    np.testing.assert_allclose(steps["observation"][:, 3], np.array([1, 2, 3, 0] * 2 + [1]) / 3)
    np.testing.assert_allclose(steps["attempt_observation"][3, 3], 4 / 3)
    assert (int(state.time), int(state.attempt_time)) == (9, 1)


def test_success_in_the_step_of_the_time_out():
    config = DarkKeyToDoorConfig(size=2, attempt_limit=1, start=(0, 0), key=(1, 0), door=(1, 1))
    _, _, steps = follow(config, [RIGHT, DOWN, STAY])
    assert steps["reward"].tolist() == [1, 1, 0]
    assert steps["soft_reset"].tolist() == steps["attempt_succeeded"].tolist() == [False, True, False]


def test_all_on_one_cell_takes_one_action_for_each_reward():
    _, _, steps = follow(DarkKeyToDoorConfig(size=3, start=(1, 1), key=(1, 1), door=(1, 1)), [STAY] * 4)
    assert steps["reward"].tolist() == [1, 1, 1, 1]
    assert steps["soft_reset"].tolist() == [False, True, False, True]


def test_trial_and_attempt_end_in_the_same_step():
    config = DarkKeyToDoorConfig(size=3, trial_length=2, start=(0, 0), key=(1, 0), door=(2, 0))
    first_observation, _, steps = follow(config, [RIGHT, RIGHT])
    assert steps["truncated"].tolist() == steps["soft_reset"].tolist() == [False, True]
    np.testing.assert_array_equal(steps["final_observation"][1], first_observation)
    np.testing.assert_allclose(steps["attempt_observation"][1], [2 / 3, 0, 1, 2 / 50])


def test_room_stays_for_a_trial_and_changes_with_the_next():
    _, _, steps = follow(DarkKeyToDoorConfig(size=9, attempt_limit=5, trial_length=30), [RIGHT, DOWN] * 30)
    rooms = np.stack([getattr(steps["state"], field) for field in ("start", "key", "door")], axis=1)
    assert (rooms[:29] == rooms[0]).all()
    assert (rooms[29] != rooms[0]).any()  # the state after the trial's last step is the next trial's first
    assert steps["soft_reset"][:29].sum() == 4


def test_placements_are_uniform_and_independent(getkey):
    environment, params = DarkKeyToDoorConfig(size=3).make()
    _, state = jax.vmap(environment.reset, (0, None))(jax.random.split(getkey(), 72_900), params)
    np.testing.assert_array_equal(state.position, state.start)
    start, key, door = (np.asarray(cell) @ (3, 1) for cell in (state.start, state.key, state.door))
    counts = np.bincount((start * 9 + key) * 9 + door, minlength=729)
    # 100 expected for each of 729 rooms: chi-squared with 728 degrees of freedom, standard deviation 38.
    assert 728 - 4 * 38 < ((counts - 100) ** 2 / 100).sum() < 728 + 4 * 38


def test_some_placements_may_be_fixed(getkey):
    environment, params = DarkKeyToDoorConfig(size=3, start=(0, 2), door=(1, 0)).make()
    _, state = jax.vmap(environment.reset, (0, None))(jax.random.split(getkey(), 100), params)
    assert (state.start == jnp.array([[0, 2]])).all() and (state.door == jnp.array([[1, 0]])).all()
    assert len(np.unique(state.key, axis=0)) == 9


def test_light_appends_door_and_key():
    config = DarkKeyToDoorConfig(size=4, dark=False, start=(0, 0), key=(1, 2), door=(3, 0))
    first_observation, _, _ = follow(config, [STAY])
    np.testing.assert_allclose(first_observation, [0, 0, 0, 0, 3 / 4, 0, 1 / 4, 2 / 4])


def test_coordinates_and_clock_are_exact_quotients():
    # XLA's product with 1/14 or 1/50 would round some of them differently.
    config = DarkKeyToDoorConfig(size=14, attempt_limit=50, start=(0, 0), key=(0, 1), door=(0, 1))
    _, _, steps = follow(config, [RIGHT] * 50)
    time = np.arange(1, 51, dtype=np.float32)
    np.testing.assert_array_equal(steps["observation"][:, 0], np.minimum(time, 13) / np.float32(14))
    np.testing.assert_array_equal(steps["observation"][:, 3], time / np.float32(50))


@pytest.mark.parametrize("dark", [True, False])
def test_one_hot_tells_what_coordinates_tell(dark):
    config = {"size": 3, "attempt_limit": 4, "dark": dark, "start": (0, 2), "key": (1, 2), "door": (2, 0)}
    actions = [RIGHT, UP, UP, LEFT, RIGHT, RIGHT, UP, UP, STAY]
    _, _, published = follow(DarkKeyToDoorConfig(**config), actions)
    _, _, one_hot = follow(DarkKeyToDoorConfig(**config, observation="one_hot"), actions)

    def coordinates(cells):
        assert np.isin(cells, (0, 1)).all() and (cells.reshape(-1, 2, 3).sum(-1) == 1).all()
        return cells.reshape(-1, 2, 3).argmax(-1) / 3

    observations = one_hot["observation"]
    decoded = [coordinates(observations[:, :6]), observations[:, 6:8]]
    decoded += [] if dark else [coordinates(observations[:, 8:14]), coordinates(observations[:, 14:])]
    np.testing.assert_allclose(np.concatenate(decoded, axis=1), published["observation"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 1}, "size is 1, but must be at least 2"),
        ({"attempt_limit": 0}, "attempt_limit is 0, but must be at least 1"),
        ({"trial_length": 0}, "trial_length is 0, but must be at least 1"),
        ({"size": 5, "key": (0, 5)}, r"key is \(0, 5\), but must be a cell \(x, y\), x and y from 0 to 4"),
        ({"start": (-1, 0)}, r"start is \(-1, 0\), but must be a cell"),
        ({"door": (1, 2, 3)}, r"door is \(1, 2, 3\), but must be a cell"),
        ({"observation": "pixels"}, "observation is 'pixels', but must be 'coordinates' or 'one_hot'"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        DarkKeyToDoorConfig(**fields)


def test_oracle_is_as_fast_as_can_be_in_every_room():
    size, num_steps = 4, 40
    environment, params = DarkKeyToDoorConfig(size=size, trial_length=num_steps).make()
    cells = np.array(list(itertools.product(range(size), repeat=2)), np.int32)
    start, key, door = (cells[index.ravel()] for index in np.indices((size**2,) * 3))
    rooms = params.replace(start=start, key=key, door=door)
    in_axes = params.replace(max_steps_in_episode=None, start=0, key=0, door=0)

    def oracle_return(params):
        return play(environment, params, environment.players()["oracle"], jax.random.key(0), 1, num_steps).sum()

    returns = jax.jit(jax.vmap(oracle_return, in_axes=(in_axes,)))(rooms)
    to_key = np.maximum(1, np.abs(key - start).sum(-1))  # one action even where there is no way to go
    to_door = np.maximum(1, np.abs(door - key).sum(-1))
    attempts, rest = np.divmod(num_steps, to_key + to_door)
    np.testing.assert_array_equal(returns, 2 * attempts + (rest >= to_key))


@pytest.mark.parametrize(
    ("config", "known_oracle", "known_searcher"),
    [
        # Returns of steps first to last of a trial, measured independently of this code. The published rules:
        (DarkKeyToDoorConfig(9, trial_length=1000), 100.0, {(0, 500): 84.9, (500, 1000): 100.1}),
        (DarkKeyToDoorConfig(8, trial_length=1000), 113.0, {(0, 500): 100.0, (500, 1000): 113.1}),
        # A room for a quick run:
        (DarkKeyToDoorConfig(5, attempt_limit=20, trial_length=100), 35.1, {(0, 100): 28.5, (80, 100): 35.8 / 5}),
    ],
)
def test_searcher_reaches_its_known_share_of_the_oracle(config, known_oracle, known_searcher):
    """Compared in the same rooms, since returns differ so much between rooms that a mean is good to some percent."""
    environment, params = config.make()
    num_trials = 1_000_000 // config.trial_length
    oracle, searcher = (
        play(environment, params, player, jax.random.key(0), num_trials, config.trial_length).mean(1)
        for player in environment.players().values()
    )
    first_window = slice(*next(iter(known_searcher)))
    for (first, last), known in known_searcher.items():
        share = float(searcher[first:last].sum() / oracle[first_window].sum())
        assert share == pytest.approx(known / known_oracle, rel=0.02)


def test_uniform_random_return(getkey):
    environment, params = DarkKeyToDoorConfig(9).make()

    def step(state, key):
        actions = jax.random.randint(key, (8192,), 0, 5)
        _, state, reward, *_ = jax.vmap(environment.step, (None, 0, 0, None))(key, state, actions, params)
        return state, reward.mean()

    _, state = jax.vmap(environment.reset, (0, None))(jax.random.split(getkey(), 8192), params)
    _, rewards = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))(state, jax.random.split(getkey(), 500))
    assert float(rewards.sum()) == pytest.approx(2.75, rel=0.1)


def test_searcher_knows_only_what_it_was_told(getkey):
    """In two rooms that differ in key and door it acts alike until it has seen a difference."""
    environment, params = DarkKeyToDoorConfig(5, attempt_limit=20, start=(1, 3)).make()
    searcher = environment.players()["searcher"]

    def trial(key):
        def step(carry, _):
            known, state = carry
            known, action = searcher.act(key, known, state, params)
            observation, state, reward, _, info = environment.step_env(key, state, action, params)
            told = jnp.concatenate([observation, jnp.stack([reward, info["soft_reset"].astype(jnp.float32)])])
            return (known, state), (action, told)

        _, state = environment.reset(key, params)
        return jax.lax.scan(step, (searcher.initial_state(params), state), length=100)[1]

    actions, told = jax.jit(jax.vmap(trial))(jax.random.split(getkey(), 200))
    one, other = np.triu_indices(200, 1)
    same_action = np.asarray(actions)[one] == np.asarray(actions)[other]
    same_told = (np.asarray(told)[one] == np.asarray(told)[other]).all(-1)
    told_apart_before = np.cumsum(~same_told, axis=1) - ~same_told > 0
    assert (same_action | told_apart_before).all()
    assert not same_action.all()


def test_picture_shows_key_door_and_agent():
    config = DarkKeyToDoorConfig(size=3, start=(0, 0), key=(1, 0), door=(2, 1))
    environment, params = config.make()
    _, state = environment.reset(jax.random.key(0), params)
    _, with_key, *_ = environment.step(jax.random.key(0), state, RIGHT, params)
    _, carried_on, *_ = environment.step(jax.random.key(0), with_key, DOWN, params)
    before, after = environment.render(state, params), environment.render(carried_on, params)
    assert before.shape == after.shape == (3 * drawing.CELL, 3 * drawing.CELL, 3)

    def shows(picture, x, y, colour):
        tile = picture[y * drawing.CELL :, x * drawing.CELL :][: drawing.CELL, : drawing.CELL]
        return (tile == colour).all(-1).sum() > 20

    assert shows(before, 0, 0, drawing.VERMILLION) and shows(before, 1, 0, drawing.YELLOW)
    assert shows(before, 2, 1, drawing.BLUE) and shows(after, 2, 1, drawing.SKY_BLUE)
    assert shows(after, 1, 1, drawing.VERMILLION) and shows(after, 1, 1, drawing.YELLOW)
    assert not shows(after, 1, 0, drawing.YELLOW) and shows(after, 0, 0, drawing.WHITE)
