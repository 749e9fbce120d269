import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import drawing
from envs.player import play
from envs.repeated_gridworld import DOWN, LEFT, RIGHT, UP, RepeatedGridworldConfig, round_tour


def follow(config, position, goal, actions):
    """Take `actions` from `position`: every step's outcome, `[T, ...]`."""
    environment, params = config.make()
    _, state = environment.reset(jax.random.key(0), params)
    state = state.replace(position=jnp.array(position, jnp.int32), goal=jnp.array(goal, jnp.int32))

    def step(state, action_and_key):
        action, key = action_and_key
        observation, state, reward, _, truncated, info = environment.step(key, state, action, params)
        outcome = {"observation": observation, "state": state, "reward": reward, "truncated": truncated, **info}
        return state, outcome

    keys = jax.random.split(jax.random.key(1), len(actions))
    return jax.tree.map(np.asarray, jax.lax.scan(step, state, (jnp.array(actions, jnp.int32), keys))[1])


def test_attempts_by_hand():
    config = RepeatedGridworldConfig(size=4, attempt_limit=4, trial_length=8)
    steps = follow(config, (1, 1), (2, 0), [LEFT, LEFT, UP, RIGHT, UP, UP, UP, UP, UP])
    # The wall holds the agent back; the fourth step is the last of the attempt.
    assert steps["observation"][:3].tolist() == [[0, 1], [0, 1], [0, 0]]
    assert np.flatnonzero(steps["soft_reset"]).tolist() == [3] + [t for t in range(4, 9) if steps["soft_reset"][t]]
    assert not steps["attempt_succeeded"][:4].any() and not steps["reward"][:4].any()
    assert steps["state"].attempt_time[:5].tolist() in ([1, 2, 3, 0, 1], [1, 2, 3, 0, 0])
    assert np.flatnonzero(steps["truncated"]).tolist() == [7]
    assert (steps["state"].goal[:7] == (2, 0)).all()


@pytest.mark.parametrize("attempt_limit", [2, 9])
def test_goal_in_time_or_in_the_step_of_the_time_out(attempt_limit):
    config = RepeatedGridworldConfig(size=4, attempt_limit=attempt_limit)
    steps = follow(config, (1, 1), (2, 2), [RIGHT, DOWN])
    for name in ("reward", "soft_reset", "attempt_succeeded"):
        assert steps[name].tolist() == [0, 1]
    assert steps["state"].attempt_time.tolist() == [1, 0]
    assert tuple(steps["observation"][1]) != (2, 2)  # the next attempt's start


def random_walk(config, num_trials, num_steps):
    """States before the steps, and `info`, `[T, B, ...]`."""
    environment, params = config.make()
    _, state = jax.vmap(environment.reset, (0, None))(jax.random.split(jax.random.key(0), num_trials), params)

    def step(state, key):
        actions = jax.random.randint(key, (num_trials,), 0, 4)
        _, next_state, _, _, _, info = jax.vmap(environment.step, (0, 0, 0, None))(
            jax.random.split(key, num_trials), state, actions, params
        )
        return next_state, (state, next_state, info)

    run = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))
    return jax.tree.map(np.asarray, run(state, jax.random.split(jax.random.key(1), num_steps))[1])


def test_draws_and_recurrence():
    config = RepeatedGridworldConfig(size=2, attempt_limit=3, recurrence=0.75, trial_length=100)
    before, after, info = random_walk(config, num_trials=2000, num_steps=20)
    goals, positions = after.goal @ (2, 1), after.position @ (2, 1)
    assert (goals != positions).all()
    began, changed = info["soft_reset"], after.goal != before.goal

    def assert_uniform(pairs):
        counts = np.bincount(pairs, minlength=16)[
            [4 * goal + start for goal in range(4) for start in range(4) if goal != start]
        ]
        expected = len(pairs) / 12
        assert counts.sum() == len(pairs)
        assert ((counts - expected) ** 2 / expected).sum() < 11 + 4 * np.sqrt(22)

    assert_uniform((before.goal[0] @ (2, 1)) * 4 + before.position[0] @ (2, 1))
    assert_uniform((goals * 4 + positions)[began])
    # A goal that is drawn anew is the same by chance in one of four cases.
    changed = changed.any(-1)
    assert not changed[~began].any()
    share = 0.25 * 0.75
    assert changed[began].mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / began.sum()))


def test_recurrence_at_its_ends():
    for recurrence in (0.0, 1.0):
        config = RepeatedGridworldConfig(size=5, attempt_limit=2, recurrence=recurrence, trial_length=100)
        before, after, info = random_walk(config, num_trials=200, num_steps=20)
        changed = (after.goal != before.goal).any(-1)[info["soft_reset"]]
        assert changed.mean() == (0 if recurrence else pytest.approx(24 / 25, abs=4 * np.sqrt(24 / 625 / changed.size)))


def tour_return(size, attempt_limit, num_steps):
    """The formula in `players`."""
    cells, returns = size**2, np.zeros(num_steps + 1)
    for total in range(1, num_steps + 1):
        reached = np.arange(1, min(attempt_limit, total, cells - 1) + 1)
        returns[total] = (1 + returns[total - reached]).sum() / (cells - 1)
        if total >= attempt_limit:
            returns[total] += max(0, cells - 1 - attempt_limit) / (cells - 1) * returns[total - attempt_limit]
    return returns[-1]


@pytest.mark.parametrize(("attempt_limit", "recurrence"), [(36, 1.0), (10, 0.5)])
def test_memoryless_tour_reaches_its_formula(attempt_limit, recurrence):
    environment, params = RepeatedGridworldConfig(6, attempt_limit, recurrence, 100).make()
    player = environment.players()["memoryless"]
    returns = np.asarray(play(environment, params, player, jax.random.key(0), 4000, 100).sum(0))
    expected = tour_return(6, attempt_limit, 100)
    assert returns.mean() == pytest.approx(expected, abs=4 * returns.std() / np.sqrt(returns.size))


def test_tours_visit_every_cell():
    for size in (2, 4, 6):
        environment, _ = RepeatedGridworldConfig(size).make()
        position, visited = jnp.array([0, 0]), set()
        tour = round_tour(size)
        for _ in range(size**2):
            position = np.asarray(environment.move(position, tour[tuple(position)]))
            visited.add(tuple(position.tolist()))
        assert len(visited) == size**2 and position.tolist() == [0, 0]
    assert "memoryless" not in RepeatedGridworldConfig(3).make()[0].players()


def test_oracle_takes_shortest_paths():
    environment, params = RepeatedGridworldConfig(size=3).make()
    cells = np.stack(np.indices((3, 3)), -1).reshape(-1, 2).astype(np.int32)
    positions, goals = cells.repeat(9, 0), np.tile(cells, (9, 1))
    apart = (positions != goals).any(-1)
    _, state = environment.reset(jax.random.key(0), params)

    def after(position, goal):
        _, action = environment.players()["oracle"].act(
            jax.random.key(0), None, state.replace(position=position, goal=goal), params
        )
        return environment.move(position, action)

    reached = jax.vmap(after)(positions[apart], goals[apart])
    distance = np.abs(positions - goals).sum(-1)[apart]
    np.testing.assert_array_equal(np.abs(np.asarray(reached) - goals[apart]).sum(-1), distance - 1)
    assert distance.mean() == 2  # 2/3 of the size


def test_searcher_remembers():
    """Once it has found the goal it is as fast as the oracle, until the goal moves."""

    def rewards(name, **fields):
        environment, params = RepeatedGridworldConfig(**fields).make()
        player = environment.players()[name]
        return np.asarray(play(environment, params, player, jax.random.key(0), 2000, 100))

    oracle, searcher = rewards("oracle"), rewards("searcher")
    assert (np.cumsum(searcher, axis=0) > 0)[35].mean() > 0.9
    assert searcher[60:].mean() == pytest.approx(oracle[60:].mean(), rel=0.02)
    moving = rewards("searcher", recurrence=0.9).sum(0).mean()
    assert 1.2 * tour_return(6, 36, 100) < moving < 0.8 * searcher.sum(0).mean()


def test_searcher_by_hand():
    environment, params = RepeatedGridworldConfig(size=3).make()
    searcher = environment.players()["searcher"]
    _, state = environment.reset(jax.random.key(0), params)

    def act(possible, position, goal):
        state_there = state.replace(position=jnp.array(position, jnp.int32), goal=jnp.array(goal, jnp.int32))
        known, action = searcher.act(jax.random.key(0), jnp.array(possible), state_there, params)
        return np.asarray(known), tuple(np.asarray(environment.move(jnp.array(position), action)).tolist())

    def only(*cells):
        possible = np.zeros((3, 3), bool)
        possible[tuple(np.transpose(cells))] = True
        return possible

    # To the nearest cell that is left, noting that the cell on the way and the one it is on are not the goal's.
    known, reached = act(only((0, 0), (2, 0), (1, 0), (2, 2)), (0, 0), (2, 2))
    assert reached == (1, 0)
    np.testing.assert_array_equal(known, only((2, 0), (2, 2)))
    # Found: nothing else is left.
    known, reached = act(only((1, 0), (2, 2)), (0, 0), (1, 0))
    np.testing.assert_array_equal(known, only((1, 0)))
    # The last cell turns out empty: the goal has moved, and may be anywhere else.
    known, _ = act(only((1, 0)), (0, 0), (2, 2))
    assert not known.any()
    known, reached = act(known, (1, 0), (2, 2))
    np.testing.assert_array_equal(known, ~only((1, 0), reached))


def test_searcher_knows_only_what_it_was_told(getkey):
    """Wherever the goal is, unless it is stepped on, it acts and learns alike."""
    environment, params = RepeatedGridworldConfig(size=4).make()
    searcher = environment.players()["searcher"]
    _, state = environment.reset(getkey(), params)
    possible = jax.random.bernoulli(getkey(), 0.5, (100, 4, 4))
    positions = jax.random.randint(getkey(), (100, 2), 0, 4)
    goals = jnp.array(np.stack(np.indices((4, 4), np.int32), -1).reshape(-1, 2))

    def act(possible, position, goal):
        there = state.replace(position=position, goal=goal)
        known, action = searcher.act(jax.random.key(0), possible, there, params)
        return known, action, jnp.all(environment.move(position, action) == goal)

    over_goals = jax.vmap(act, (None, None, 0))
    known, actions, found = map(np.asarray, jax.jit(jax.vmap(over_goals, (0, 0, None)))(possible, positions, goals))
    assert (actions == actions[:, :1]).all()
    assert (found.sum(1) == 1).all()
    for row in range(100):
        missed = known[row][~found[row]]
        assert (missed == missed[0]).all()


def test_picture_shows_goal_and_agent():
    environment, params = RepeatedGridworldConfig(size=3).make()
    _, state = environment.reset(jax.random.key(0), params)
    picture = environment.render(state.replace(position=np.array([0, 1]), goal=np.array([2, 0])), params)
    tiles = picture.reshape(3, drawing.CELL, 3, drawing.CELL, 3).swapaxes(1, 2)

    def where(colour):
        return np.argwhere((tiles == colour).all(-1).sum((2, 3)) > 20).tolist()

    assert where(drawing.VERMILLION) == [[1, 0]]  # row y, column x
    assert where(drawing.BLUE) == [[0, 2]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 1}, "size is 1, but must be at least 2"),
        ({"attempt_limit": 0}, "attempt_limit is 0, but must be at least 1"),
        ({"trial_length": 0}, "trial_length is 0, but must be at least 1"),
        ({"recurrence": 1.1}, "recurrence is 1.1, but must be from 0 to 1"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        RepeatedGridworldConfig(**fields)
