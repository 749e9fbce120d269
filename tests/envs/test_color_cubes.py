import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import drawing
from envs.color_cubes import ColorCubesConfig
from envs.player import play_episodes

UP, RIGHT, DOWN, LEFT = range(4)


def place(config, cubes, target):
    """The environment with cubes in these cells (row, column), at the start of an episode."""
    environment, params = config.make()
    _, state = environment.reset(jax.random.key(0), params)
    cells = jnp.int32([row * config.size + column for row, column in cubes])
    return environment, params, state.replace(cubes=cells, target=jnp.int32(target))


def cubes_of(observation, cubes):
    """What an observation says: target, whether it is an update, and rows of (row, column, colours)."""
    rest = np.asarray(observation)[3 + cubes :].reshape(cubes, 2 + cubes)
    return int(np.argmax(observation[2 : 2 + cubes])), bool(observation[2 + cubes]), rest


def test_an_episode_by_hand():
    config = ColorCubesConfig(teleport_probability=0.0, phases=2, wrong_cube_reward=-0.5)
    environment, params, state = place(config, [(2, 0), (4, 1), (0, 4)], target=0)
    step = jax.jit(environment.step_env)
    steps = []
    for action in [LEFT, RIGHT, LEFT, UP, UP]:  # wall, cube 1, back, free, cube 0
        observation, state, reward, terminated, info = step(jax.random.key(3), state, jnp.int32(action), params)
        steps.append((float(reward), bool(terminated), bool(info["wrong_cube"]), bool(observation[5])))
    rewards, terminated, wrong, updates = zip(*steps, strict=True)
    np.testing.assert_allclose(rewards, [-0.01, -0.5, -0.01, -0.01, 1])
    assert wrong == (False, True, False, False, False)
    assert updates == (False, False, False, False, True)
    assert not any(terminated)
    assert state.phases_done == 1 and not info["success"]
    assert state.cubes[0] != 2 * 5 and state.cubes[1:].tolist() == [4 * 5 + 1, 4]

    cell = state.cubes[state.target]
    state = state.replace(position=jnp.where(cell >= 5, cell - 5, cell + 5))
    _, _, reward, terminated, info = step(jax.random.key(3), state, jnp.where(cell >= 5, DOWN, UP), params)
    assert reward == 1 and terminated and info["success"] and info["phases_done"] == 2


def test_a_wrong_cube_may_end_the_episode():
    environment, params, state = place(ColorCubesConfig(wrong_cube_ends=True), [(2, 0), (4, 1), (0, 4)], target=0)
    _, _, _, terminated, info = environment.step_env(jax.random.key(0), state, jnp.int32(RIGHT), params)
    assert terminated and not info["success"]


@pytest.mark.parametrize(
    ("colours", "at_start", "at_teleport", "at_phase"),
    [("always", 1, 1, 1), ("phase", 1, 0, 1), ("episode", 1, 0, 0)],
)
def test_updates_show_what_they_should(colours, at_start, at_teleport, at_phase):
    config = ColorCubesConfig(colours=colours, teleport_probability=1.0)
    environment, params, state = place(config, [(3, 0), (4, 4), (0, 4)], target=0)
    first = environment.observe(None, state, None, params)
    observation, teleported, *_ = environment.step_env(jax.random.key(0), state, jnp.int32(LEFT), params)
    reached, *_ = environment.step_env(jax.random.key(0), state, jnp.int32(UP), params)
    quiet, *_ = environment.step_env(
        jax.random.key(0), state, jnp.int32(LEFT), params.replace(teleport_probability=jnp.float32(0))
    )
    for seen, shown in ((first, at_start), (observation, at_teleport), (reached, at_phase)):
        _, update, table = cubes_of(seen, 3)
        assert update and table[:, 2:].sum() == 3 * shown
        cells = np.round(table[:, :2] * 4) @ (5, 1)
        assert (np.diff(cells) > 0).all()  # their order shows nothing but where they are
    assert cubes_of(first, 3)[2][:, 2:].argmax(1).tolist() == [2, 0, 1]
    assert (teleported.cubes == state.cubes).sum() == 2 and teleported.cubes[0] == state.cubes[0]
    _, update, table = cubes_of(quiet, 3)
    assert not update and not table.any()


def test_teleports_are_as_frequent_and_as_even_as_they_should_be(getkey):
    config = ColorCubesConfig(size=3, cubes=2, teleport_probability=0.25)
    environment, params, state = place(config, [(0, 0), (0, 1)], target=0)
    keys = jax.random.split(getkey(), 8000)
    step = jax.jit(jax.vmap(environment.step_env, (0, None, None, None)))
    _, states, *_ = step(keys, state, jnp.int32(LEFT), params)
    moved = np.asarray(states.cubes[:, 1]) != 1
    assert (states.cubes[:, 0] == 0).all()  # the target stays
    assert abs(moved.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 8000)
    counts = np.bincount(np.asarray(states.cubes[:, 1])[moved], minlength=9)
    assert (counts[[0, 1, 6]] == 0).all()  # taken by a cube, left by it, the agent's
    expected = moved.sum() / 6
    assert (np.abs(counts[[2, 3, 4, 5, 7, 8]] - expected) < 4 * np.sqrt(expected)).all()


def test_cubes_start_apart_from_each_other_and_from_the_agent(getkey):
    environment, params = ColorCubesConfig(size=2, cubes=2).make()
    _, states = jax.vmap(environment.reset, (0, None))(jax.random.split(getkey(), 2400), params)
    pairs = np.asarray(states.cubes) @ (4, 1)
    values, counts = np.unique(pairs, return_counts=True)
    assert values.tolist() == [1, 3, 4, 7, 12, 13]  # all ordered pairs of cells 0, 1, 3; the agent is in 2
    assert (np.abs(counts - 400) < 4 * np.sqrt(400)).all()
    assert abs(np.asarray(states.target).mean() - 0.5) < 4 * 0.5 / np.sqrt(2400)


def test_every_cube_may_teleport_by_itself(getkey):
    config = ColorCubesConfig(size=4, teleports="each", teleport_probability=0.25)
    environment, params, state = place(config, [(0, 0), (0, 1), (0, 2)], target=0)
    step = jax.jit(jax.vmap(environment.step_env, (0, None, None, None)))
    _, states, *_ = step(jax.random.split(getkey(), 8000), state, jnp.int32(LEFT), params)
    moved = np.asarray(states.cubes != state.cubes[None])
    assert not moved[:, 0].any()
    for share, expected in ((moved[:, 1].mean(), 0.25), (moved[:, 2].mean(), 0.25), (moved.all(1).mean(), 0)):
        assert abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / 8000)
    assert abs((moved[:, 1] & moved[:, 2]).mean() - 1 / 16) < 4 * np.sqrt(1 / 16 / 8000)
    np.testing.assert_array_equal(states.positions_shown, moved.any(1))
    assert all(len(set(cells)) == 3 for cells in np.asarray(states.cubes).tolist())


def test_cubes_may_share_cells_if_asked(getkey):
    config = ColorCubesConfig(size=2, cubes=2, shared_cells=True, teleport_probability=1.0)
    environment, params, state = place(config, [(0, 1), (0, 0)], target=0)
    step = jax.jit(jax.vmap(environment.step_env, (0, None, None, None)))
    observations, states, *_ = step(jax.random.split(getkey(), 3000), state, jnp.int32(LEFT), params)
    cells, counts = np.unique(np.asarray(states.cubes[:, 1]), return_counts=True)
    assert cells.tolist() == [0, 1, 3] and (np.abs(counts - 1000) < 4 * np.sqrt(1000)).all()
    together = np.asarray(states.cubes[:, 1]) == 1
    tables = np.stack([cubes_of(observation, 2)[2] for observation in np.asarray(observations)[together][:5]])
    np.testing.assert_array_equal(tables, np.broadcast_to([[0, 1, 1, 0], [0, 1, 0, 1]], tables.shape))


def test_an_action_to_reach_what_is_here():
    environment, params, state = place(ColorCubesConfig(interact=True), [(3, 0), (4, 4), (0, 4)], target=0)
    assert environment.num_actions == 5
    step = jax.jit(environment.step_env)
    _, state, reward, _, _ = step(jax.random.key(3), state, jnp.int32(UP), params)
    assert reward == np.float32(-0.01) and state.phases_done == 0
    _, state, reward, _, _ = step(jax.random.key(3), state, jnp.int32(4), params)
    assert reward == 1 and state.phases_done == 1
    episodes = play_episodes(environment, params, environment.players()["tracker"], jax.random.key(0), 100)
    assert episodes.outcomes["success"].all()


@pytest.mark.parametrize("level", ["trivial", "medium", "extreme"])
def test_tracker_always_succeeds_and_stale_maps_do_not(level):
    environment, params = ColorCubesConfig(level).make()
    oracle, tracker, stale = (
        play_episodes(environment, params, player, jax.random.key(0), 500) for player in environment.players().values()
    )
    assert oracle.outcomes["success"].all() and tracker.outcomes["success"].all()
    np.testing.assert_array_equal(oracle.total, tracker.total)
    if level == "trivial":  # one cube that never moves before it is reached
        assert stale.outcomes["success"].all()
        distances = [abs(row - 4) + column for row in range(5) for column in range(5)]
        assert oracle.length.mean() == pytest.approx(np.sum(distances) / 24, rel=0.06)
    else:
        assert stale.outcomes["success"].mean() < 0.5
    most = params.phases * params.target_reward
    np.testing.assert_allclose(tracker.total, most - 0.01 * np.asarray(tracker.length - params.phases), atol=1e-4)


def test_tracker_uses_the_observation_alone():
    """With the cubes elsewhere, unseen, it acts the same."""
    config = ColorCubesConfig(teleport_probability=0.0)
    environment, params, state = place(config, [(0, 0), (4, 4), (0, 4)], target=1)
    tracker = environment.players()["tracker"]
    known, first = tracker.act(None, tracker.initial_state(params), state, params)
    hidden = state.replace(positions_shown=jnp.bool_(False))
    elsewhere = hidden.replace(cubes=jnp.int32([1, 2, 3]))
    assert first == RIGHT
    assert tracker.act(None, known, hidden, params)[1] == tracker.act(None, known, elsewhere, params)[1] == RIGHT


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"level": "hard"}, "level is 'hard', but must be 'trivial' or 'medium' or 'extreme'"),
        ({"colours": "never"}, "colours is 'never', but must be 'always' or 'phase' or 'episode'"),
        ({"teleports": "all"}, "teleports is 'all', but must be 'one' or 'each'"),
        ({"size": 1}, "size is 1, but must be at least 2"),
        ({"cubes": 0}, "cubes is 0, but must be at least 1"),
        ({"phases": -1}, "phases is -1, but must be at least 1"),
        ({"time_limit": 0}, "time_limit is 0, but must be at least 1"),
        ({"teleport_probability": 1.5}, "teleport_probability is 1.5, but must be from 0 to 1"),
        ({"size": 2, "cubes": 3}, "cubes is 3, but must be at most 2"),
    ],
)
def test_bad_parameters(fields, message):
    with pytest.raises(ValueError, match=message):
        ColorCubesConfig(**fields)


def test_picture_shows_cubes_target_and_agent():
    environment, params, state = place(ColorCubesConfig(), [(0, 1), (2, 3), (1, 4)], target=1)
    picture = environment.render(state, params)

    def shows(row, column, colour):
        tile = picture[row * drawing.CELL :, column * drawing.CELL :][: drawing.CELL, : drawing.CELL]
        return (tile == colour).all(-1).sum() > 50

    assert shows(0, 1, drawing.VERMILLION) and shows(2, 3, drawing.BLUE) and shows(1, 4, drawing.YELLOW)
    assert shows(2, 3, drawing.WHITE) and not shows(0, 1, drawing.WHITE)
    assert shows(4, 0, drawing.WHITE)
