import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import ballet, drawing
from envs.boxes import WOOD, BoxesConfig, draw_shift
from envs.choice_room import MOVES
from envs.player import play_episodes

# Two to four boxes with turns of five steps, of which each is open for two; then three steps of delay, or none.
CONFIG = BoxesConfig(num_boxes=(2, 4), delays=(0, 3), turn_steps=5, open_steps=2, choice_steps=6, num_objects=9)


@pytest.fixture(scope="module")
def watched():
    """What happens to the oracle in 200 episodes, `[T, B, ...]`, first their first observations; none is begun anew."""
    environment, params = CONFIG.make()

    def step(state, key):
        act_key, step_key = jax.random.split(key)
        _, action = environment.players()["oracle"].act(act_key, None, state, params)
        observation, state, reward, terminated, _ = environment.step_env(step_key, state, action, params)
        outcome = {"reward": reward, "terminated": terminated, "truncated": environment.is_truncated(state, params)}
        return state, (observation, outcome)

    def episode(key):
        reset_key, steps_key = jax.random.split(key)
        first, state = environment.reset(reset_key, params)
        _, (observations, outcomes) = jax.lax.scan(step, state, jax.random.split(steps_key, 29))
        observations = jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), first, observations)
        return state, observations, outcomes

    episodes = jax.jit(jax.vmap(episode, out_axes=(0, 1, 1)))(jax.random.split(jax.random.key(0), 200))
    return jax.tree.map(np.asarray, episodes)


def room_with(state, i, opened=()):
    """What there is in the room of episode `i`, int [11, 11], with the agent in the middle."""
    room = np.zeros((11, 11), int)
    room[[0, -1]] = room[:, [0, -1]] = 1
    room[5, 5] = 2
    for box in range(state.level.num_places[i]):
        room[tuple(state.places[i, box])] = 4 + state.objects[i, box] if box in opened else 3
    return room


def test_boxes_open_one_after_the_other_and_then_are_closed(watched):
    state, observations, _ = watched
    seen = set()
    for i in range(200):
        num_boxes, choice_time = int(state.level.num_places[i]), int(state.level.choice_time[i])
        for time in range(5 * num_boxes):
            box, moment = divmod(time, 5)
            is_open = 0 <= moment - state.opening[i, box] < 2
            expected = room_with(state, i, (box,) if is_open else ())
            np.testing.assert_array_equal(observations["view"][time, i], expected)
        np.testing.assert_array_equal(observations["view"][choice_time, i], room_with(state, i))
        assert (observations["instruction"][:choice_time, i] == 0).all()
        asked_for = 1 + state.objects[i, state.target[i]]
        assert (observations["instruction"][choice_time:, i] == asked_for).all()
        seen.add((num_boxes, choice_time, int(state.level.time_limit[i])))
    assert seen == {(2, 10, 16), (2, 13, 19), (4, 20, 26), (4, 23, 29)}


def test_view_jumps_during_the_delay(watched):
    state, observations, _ = watched
    shifts = []
    for i in np.flatnonzero(state.level.choice_time % 5):
        room = np.pad(room_with(state, i), 2)  # outside the wall it is as on the floor
        for time in range(state.level.choice_time[i] - 3, state.level.choice_time[i]):
            view = observations["view"][time, i]
            row, column = np.argwhere(view == 2)[0] - 5  # the agent is in the middle of the room, but not of the view
            np.testing.assert_array_equal(view, room[2 - row :, 2 - column :][:11, :11])
            shifts.append((row, column))
    assert len(shifts) > 100 and len(set(shifts)) == 25


def test_oracle_takes_the_shortest_way(watched):
    state, _, outcomes = watched
    for i in range(200):
        answered = np.flatnonzero(outcomes["terminated"][:, i])[0]
        assert answered + 1 == state.level.choice_time[i] + 3
        assert np.flatnonzero(outcomes["reward"][: answered + 1, i]).tolist() == [answered]
        assert np.flatnonzero(outcomes["truncated"][:, i])[0] + 1 == state.level.choice_time[i] + 6


def test_shifts_are_uniform(getkey):
    shifts = jax.vmap(draw_shift, (0, None))(jax.random.split(getkey(), 4900), jnp.int32(3))
    rows, counts = np.unique(shifts, axis=0, return_counts=True)
    assert len(rows) == 49 and rows.min() == -3 and rows.max() == 3
    assert ((counts - 100) ** 2 / 100).sum() < 48 + 4 * 96**0.5


def test_draws(watched):
    state, _, _ = watched
    assert all(len(set(objects)) == 8 for objects in state.objects.tolist())
    assert set(state.objects.ravel().tolist()) == set(range(9))
    counts = np.bincount(state.opening.ravel())
    assert len(counts) == 4 and ((counts - 400) ** 2 / 400).sum() < 3 + 4 * 6**0.5
    assert {tuple(place) for place in state.places.reshape(-1, 2).tolist()} == {tuple(5 + 3 * move) for move in MOVES}


def test_memoryless_player_reaches_its_formula():
    environment, params = BoxesConfig(num_boxes=(3,), delays=(0,), turn_steps=1, open_steps=1, distance=2).make()
    player = environment.players()["memoryless"]
    episodes = play_episodes(environment, params, player, jax.random.key(0), 2000)
    assert float(episodes.total.mean()) == pytest.approx(1 / 3, abs=4 * (2 / 9 / 2000) ** 0.5)
    assert (episodes.length == 3 + 2).all()


def test_other_sizes(getkey):
    environment, params = BoxesConfig(distance=4, view_shift=6, num_objects=252, delays=(5,)).make()
    observation, state = environment.reset(getkey(), params)
    assert observation["view"].shape == (13, 13) and observation["view"].dtype == np.uint8
    assert {tuple(place) for place in state.places.tolist()} == {tuple((6 + 4 * move).tolist()) for move in MOVES}
    assert environment.observation_space(params).spaces["view"].high == 255


def test_splits():
    levels = {name: split.levels() for name, split in BoxesConfig().splits().items()}
    assert {name: [(level.num_places, level.choice_time) for level in split] for name, split in levels.items()} == {
        **{"delay64": [(4, 96)], "delay128": [(4, 160)], "delay256": [(4, 288)], "delay512": [(4, 544)]},
        **{f"{n}_boxes": [(n, 8 * n), (n, 8 * n + 16), (n, 8 * n + 32), (n, 8 * n + 64)] for n in (2, 3, 4, 6, 8)},
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_boxes": (9,)}, r"num_boxes is \(9,\), but must be one or more numbers, each from 2 to 8"),
        ({"delays": (-1, 4)}, r"delays is \(-1, 4\), but must be one or more numbers, each at least 0"),
        ({"num_objects": 7}, "num_objects is 7, but must be from 8 to 252"),
        ({"num_objects": 253}, "num_objects is 253, but must be from 8 to 252"),
        ({"open_steps": 9}, "open_steps is 9, but must be from 1 to the 8 steps of a turn"),
        ({"distance": 1}, "distance is 1, but must be at least 2"),
        ({"view_shift": 6}, "view_shift is 6, but must be from 0 to 5, where the wall is"),
        ({"choice_steps": 2}, "choice_steps is 2, but must be at least 3, the moves to a box"),
        ({"num_boxes": (2, 3), "delays": tuple(range(33))}, "66 levels are mixed, but must be at most 64"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        BoxesConfig(**fields)


def test_picture_for_spectators():
    environment, params = BoxesConfig(num_boxes=(2,)).make()
    _, state = environment.reset(jax.random.key(0), params)
    eight = jnp.arange(8, dtype=jnp.int32)
    state = state.replace(places=jnp.asarray(5 + 3 * MOVES), objects=eight, opening=0 * eight, target=jnp.int32(1))
    opened, closed = (environment.render(state.replace(time=jnp.int32(time)), params) for time in (0, 4))

    def pixels(picture, row, column, colour):
        tile = picture[row * drawing.CELL :, column * drawing.CELL :][: drawing.CELL, : drawing.CELL]
        return (tile == colour).all(-1).sum()

    red, green = ballet.COLOURS["red"], ballet.COLOURS["green"]
    assert pixels(opened, 2, 5, red) == 4 * 41 and pixels(closed, 2, 5, red) == 41  # a triangle
    assert pixels(opened, 2, 8, green) == pixels(closed, 2, 8, green) > 0
    assert pixels(opened, 2, 8, drawing.WHITE) > 20 and pixels(opened, 2, 5, drawing.WHITE) == 0
    assert pixels(closed, 2, 5, WOOD) > 300 and pixels(closed, 5, 5, drawing.VERMILLION) > 20
    assert pixels(opened, 5, 8, WOOD) == 0  # a box that is not in use
