import collections
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import drawing
from envs import multi_object_navigation as navigation
from envs.multi_object_navigation import (
    DIRECTIONS,
    DOOR,
    FLOOR,
    FORWARD,
    HIDDEN,
    LEFT,
    OBJECT,
    RIGHT,
    STOP,
    WALL,
    MultiObjectNavigationConfig,
)

NORTH, EAST, SOUTH, WEST = range(4)
SIZE, VIEW, REACH = 9, 5, 2
CONFIG = MultiObjectNavigationConfig(
    size=SIZE, rooms=2, categories=4, objects=4, view_size=VIEW, reach=REACH, episode_limit=60, trial_length=150
)
PLAN = """
#########
#..0#...#
#...+...#
#...#..1#
#...#...#
#...###+#
#...#...#
#.1.+..2#
#########
"""
CODES = np.array(
    [[{"#": WALL, ".": FLOOR, "+": DOOR}.get(sign) or OBJECT + int(sign) for sign in row] for row in PLAN.split()],
    np.int32,
)


@pytest.fixture(scope="module")
def made():
    return CONFIG.make()


@pytest.fixture(scope="module")
def house(made):
    """The house of the plan above."""
    return jax.jit(made[0].survey)(jnp.asarray(CODES))


def views_of(environment, house):
    """What is seen in the house from every cell in every direction, [size**2, 4, view, view]."""
    look = jax.vmap(jax.vmap(environment.look, (None, None, 0)), (None, 0, None))
    seen = jax.jit(look)(house.codes, jnp.arange(SIZE**2), jnp.arange(4))
    return np.asarray(seen).reshape(SIZE**2, 4, environment.view_size, environment.view_size)


@pytest.fixture(scope="module")
def views(made, house):
    return views_of(made[0], house)


@pytest.fixture(scope="module")
def follow(made, house):
    """A function that takes actions in it: the steps' outcomes, `[T, ...]`, `state` that after the step."""
    environment, params = made

    @jax.jit
    def run(state, actions):
        def step(carry, action):
            state, key = carry
            key, step_key = jax.random.split(key)
            observation, state, reward, terminated, info = environment.step_env(step_key, state, action, params)
            outcome = {"observation": observation, "state": state, "reward": reward, "terminated": terminated, **info}
            outcome["observed"] = environment.observe(step_key, state, action, params)
            return (state, key), outcome

        return jax.lax.scan(step, (state, jax.random.key(0)), actions)[1]

    _, drawn = environment.reset(jax.random.key(0), params)

    def from_start(x, y, direction, goal, actions, episode_time=0):
        cell = jnp.int32(y * SIZE + x)
        distance = house.distances[goal, cell]
        view = environment.look(house.codes, cell, jnp.int32(direction))
        state = drawn.replace(
            house=house,
            episode_time=jnp.int32(episode_time),
            cell=cell,
            direction=jnp.int32(direction),
            start_cell=cell,
            start_direction=jnp.int32(direction),
            goal=jnp.int32(goal),
            shortest=distance,
            distance=distance,
            found=environment.is_found(view, goal),
        )
        return jax.tree.map(np.asarray, run(state, jnp.array(actions, jnp.int32)))

    return from_start


def visible_by_definition(x, y, direction, size):
    """The view of `size`, looked up cell by cell."""
    (forward_x, forward_y), (right_x, right_y) = DIRECTIONS[direction], DIRECTIONS[(direction + 1) % 4]

    def code(ahead, aside):
        column, row = x + ahead * forward_x + aside * right_x, y + ahead * forward_y + aside * right_y
        return CODES[row, column] if 0 <= column < SIZE and 0 <= row < SIZE else HIDDEN

    def nearest(exact):
        """Of the cells around, the one nearer to the agent's axes if there are two."""
        return min((math.floor(exact), math.ceil(exact)), key=lambda cell: (abs(cell - exact), abs(cell)))

    view = np.full((size, size), HIDDEN)
    for ahead in range(size):
        for aside in range(-(size // 2), size // 2 + 1):
            length = max(ahead, abs(aside))
            line = [(nearest(ahead * step / length), nearest(aside * step / length)) for step in range(1, length)]
            if all(code(*cell) != WALL for cell in line):
                view[size - 1 - ahead, size // 2 + aside] = code(ahead, aside)
    return view


def test_view_by_hand(views):
    h, f, w, d = HIDDEN, FLOOR, WALL, DOOR
    through_the_door = [
        [w, f, f, OBJECT + 1, f],
        [h, f, f, f, h],
        [h, f, f, f, h],
        [w, w, d, w, w],
        [w, OBJECT, f, f, f],
    ]
    assert views[2 * SIZE + 3, EAST].tolist() == through_the_door
    to_the_corner = [[h] * 5, [h] * 5, [h, w, w, w, w], [h, w, f, f, OBJECT], [h, w, f, f, f]]
    assert views[2 * SIZE + 1, NORTH].tolist() == to_the_corner


@pytest.mark.parametrize("size", [VIEW, SIZE])
def test_view_is_that_of_its_definition(house, size):
    views = views_of(dataclasses.replace(CONFIG, view_size=size).make()[0], house)
    for y, x in np.argwhere(CODES != WALL):
        for direction in range(4):
            np.testing.assert_array_equal(views[y * SIZE + x, direction], visible_by_definition(x, y, direction, size))


def test_distances_lead_to_where_stop_succeeds(house, views):
    """Breadth first from all cells from which, turned the right way, an object is in view and within reach."""
    rows, columns = np.indices((VIEW, VIEW))
    within = (VIEW - 1 - rows) ** 2 + (columns - VIEW // 2) ** 2 <= REACH**2
    for category in range(4):
        near = ((views == OBJECT + category) & within).any((1, 2, 3)) & (CODES.ravel() != WALL)
        distance = dict.fromkeys(np.flatnonzero(near), 0)
        queue = collections.deque(distance)
        while queue:
            cell = queue.popleft()
            for onwards in (cell - SIZE, cell + 1, cell + SIZE, cell - 1):
                if CODES.ravel()[onwards] != WALL and onwards not in distance:
                    distance[onwards] = distance[cell] + 1
                    queue.append(onwards)
        expected = [distance.get(cell, SIZE**2) for cell in range(SIZE**2)]
        np.testing.assert_array_equal(house.distances[category], expected)
    assert house.distances[3].min() == SIZE**2  # there is no object of this category
    assert house.present_categories == 3 and house.present[:3].tolist() == [0, 1, 2]


def test_an_episode_by_hand(follow):
    """Three cells to go; five walked, one of them away from the goal, and once into a wall."""
    actions = [LEFT, LEFT, FORWARD, LEFT, LEFT, FORWARD, FORWARD, FORWARD, FORWARD, FORWARD, RIGHT, STOP]
    steps = follow(1, 4, NORTH, 0, actions)
    state = steps["state"]
    assert state.cell[:11].tolist() == [SIZE * y + 1 for y in (4, 4, 5, 5, 5, 4, 3, 2, 1, 1, 1)]
    assert state.direction[:11].tolist() == [WEST, SOUTH, SOUTH, EAST, NORTH, NORTH, NORTH, NORTH, NORTH, NORTH, EAST]
    assert state.distance[:11].tolist() == [3, 3, 4, 4, 4, 3, 2, 1, 0, 0, 0]
    nearer = np.array([0, 0, -1, 0, 0, 1, 1, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(steps["reward"], 0.25 * nearer - 0.003 + 2.0 * (np.arange(12) == 11), rtol=1e-6)
    for name in ("soft_reset", "success"):
        assert np.flatnonzero(steps[name]).tolist() == [11]
    np.testing.assert_allclose(steps["spl"], 3 / 5 * (np.arange(12) == 11))
    assert not steps["timed_out"].any() and not steps["terminated"].any()
    # From its start on it looked north: now it is three cells ahead, and turned right.
    np.testing.assert_allclose(steps["observation"]["pose"][10], [0.3, 0, 0, 1])
    np.testing.assert_allclose(steps["observation"]["pose"][2], [-0.1, 0, -1, 0])
    # The next episode has begun.
    np.testing.assert_allclose(steps["observation"]["pose"][11], [0, 0, 1, 0])
    assert state.walked.tolist() == [0, 0, 1, 1, 1, 2, 3, 4, 5, 5, 5, 0]
    assert state.episode_time[10:].tolist() == [11, 0]
    assert state.time[11] - state.time[0] == 11


def test_pose_is_seen_as_the_agent_looked_at_first(follow):
    steps = follow(1, 1, SOUTH, 2, [FORWARD, FORWARD, LEFT, FORWARD])
    np.testing.assert_allclose(steps["observation"]["pose"][3], [0.2, -0.1, 0, -1])  # east is left of south


@pytest.mark.parametrize(
    ("x", "y", "direction", "goal", "success"),
    [
        (3, 3, NORTH, 0, True),  # two cells ahead
        (1, 1, NORTH, 0, True),  # aside, and still in view
        (1, 1, WEST, 0, False),  # behind
        (3, 3, NORTH, 1, False),  # another category
        (3, 4, NORTH, 0, False),  # too far
        (5, 1, WEST, 0, False),  # behind the wall
        (4, 2, WEST, 0, True),  # from the door
        (3, 1, SOUTH, 0, True),  # on it
    ],
)
def test_stop_is_a_success_near_an_object_in_view(follow, x, y, direction, goal, success):
    steps = follow(x, y, direction, goal, [STOP])
    assert steps["soft_reset"][0] and steps["success"][0] == success
    assert steps["spl"][0] == success  # nothing to walk, and nothing walked
    np.testing.assert_allclose(steps["reward"][0], -0.003 + 2.0 * success, rtol=1e-6)


def test_time_out(follow):
    steps = follow(3, 3, NORTH, 0, [RIGHT, LEFT, LEFT], episode_time=58)
    assert steps["soft_reset"].tolist() == steps["timed_out"].tolist() == [False, True, False]
    assert not steps["success"].any() and not steps["spl"].any()
    in_time = follow(3, 3, NORTH, 0, [LEFT, RIGHT, STOP], episode_time=57)
    assert in_time["success"].tolist() == in_time["soft_reset"].tolist() == [False, False, True]
    assert not in_time["timed_out"].any()
    in_the_end = follow(3, 3, NORTH, 0, [FORWARD], episode_time=59)
    assert in_the_end["reward"][0] == np.float32(-0.003)  # of the episode that ended, whatever the next one's distance


def test_episodes_begin_anywhere_with_anything(made, house):
    draws = 60_000
    keys = jax.random.split(jax.random.key(0), draws)
    cell, direction, goal = map(np.asarray, jax.jit(jax.vmap(navigation.draw_episode, (0, None)))(keys, house))
    floor = np.flatnonzero(CODES.ravel() != WALL)
    counts = np.bincount((np.searchsorted(floor, cell) * 4 + direction) * 3 + goal, minlength=len(floor) * 12)
    assert set(cell) == set(floor) and len(counts) == len(floor) * 12
    expected = draws / len(counts)
    squares = ((counts - expected) ** 2 / expected).sum()
    assert abs(squares - (len(counts) - 1)) < 4 * np.sqrt(2 * (len(counts) - 1))


def test_oracle_always_succeeds_on_a_shortest_path(made):
    environment, params = made
    oracle = environment.players()["oracle"]

    def trial(key):
        reset_key, step_key = jax.random.split(key)
        _, state = environment.reset(reset_key, params)

        def step(state, key):
            _, action = oracle.act(key, None, state, params)
            observation, then, reward, _, truncated, info = environment.step(key, state, action, params)
            outcome = {"state": state, "action": action, "reward": reward, "truncated": truncated, **info}
            same = jax.tree.map(jnp.array_equal, observation, environment.observe(key, then, action, params))
            return then, {**outcome, "observed": jnp.stack(jax.tree.leaves(same)).all()}

        return jax.lax.scan(step, state, jax.random.split(step_key, 160))[1]

    steps = jax.tree.map(np.asarray, jax.jit(jax.vmap(trial, out_axes=1))(jax.random.split(jax.random.key(0), 64)))
    ended = steps["soft_reset"]
    assert ended[:150].sum(0).min() > 5
    assert steps["success"][ended].all() and (steps["spl"][ended] == 1).all()
    assert (steps["action"][ended] == STOP).all() and not steps["timed_out"].any()
    assert steps["observed"].all()
    np.testing.assert_array_equal(steps["truncated"], np.arange(160)[:, None].repeat(64, 1) == 149)
    house = steps["state"].house
    for leaf in jax.tree.leaves(house):
        assert (leaf[:150] == leaf[0]).all() and (leaf[150:] == leaf[150]).all()
    assert (house.codes[150] != house.codes[0]).any((1, 2)).all()
    # What is walked with a step's reward is the distance, so the sum over an episode is known from its beginning.
    for trial in range(64):
        begin = 0
        for end in np.flatnonzero(ended[:150, trial]):
            shortest = steps["state"].distance[begin, trial]
            total = steps["reward"][begin : end + 1, trial].sum()
            assert total == pytest.approx(2 + 0.25 * shortest - 0.003 * (end + 1 - begin), abs=1e-5)
            begin = end + 1


@pytest.mark.parametrize(("size", "rooms"), [(7, 1), (9, 2), (19, 6), (19, 9)])
def test_houses(size, rooms):
    """So many rooms, each a rectangle at least three wide; doors connect them all; objects are on the floor."""
    keys = jax.random.split(jax.random.key(size), 200)
    build = jax.jit(jax.vmap(lambda key: navigation.build_house(key, size, jnp.int32(rooms))))
    place = jax.jit(jax.vmap(lambda key, house: navigation.place_objects(key, house, jnp.int32(5), 3)))
    houses = np.asarray(build(keys))
    outside = np.ones((size, size), bool)
    outside[1:-1, 1:-1] = False
    assert (houses[:, outside] == WALL).all()

    def connected(open_cells):
        """Every open cell's number is that of the last cell it is connected with."""
        number = np.where(open_cells, np.arange(size**2).reshape(size, size), -1)
        while True:
            neighbours = [np.roll(number, step, axis) for step in (-1, 1) for axis in (1, 2)]
            spread = np.where(open_cells, np.maximum.reduce([number, *neighbours]), -1)
            if (spread == number).all():
                return number
            number = spread

    whole, apart = connected(houses != WALL), connected(houses == FLOOR)
    for house in range(200):
        assert len(np.unique(whole[house])) == 2  # the walls, and the rest
        numbers = np.unique(apart[house])[1:]
        assert len(numbers) == rooms
        for number in numbers:
            rows, columns = np.nonzero(apart[house] == number)
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert height * width == len(rows) and min(height, width) >= 3
    doors = (houses == DOOR).sum((1, 2))
    assert (doors >= rooms - 1).all() and (doors <= 2 * (rooms - 1)).all()
    assert len(np.unique(houses.reshape(200, -1), axis=0)) > (0 if rooms == 1 else 5)

    furnished = np.asarray(place(keys, jnp.asarray(houses)))
    is_object = furnished >= OBJECT
    assert (is_object.sum((1, 2)) == 5).all()
    np.testing.assert_array_equal(furnished[~is_object], houses[~is_object])
    assert (houses[is_object] != WALL).all()
    assert set(furnished[is_object]) == {OBJECT, OBJECT + 1, OBJECT + 2}


def test_objects_are_spread_evenly():
    house = jnp.asarray(np.where(CODES >= OBJECT, FLOOR, CODES))
    place = jax.jit(jax.vmap(lambda key: navigation.place_objects(key, house, jnp.int32(4), 3)))
    houses = np.asarray(place(jax.random.split(jax.random.key(0), 20_000)))
    free = CODES != WALL
    for category in range(3):
        counts = (houses == OBJECT + category).sum(0)[free]
        expected = 20_000 * 4 / 3 / free.sum()
        squares = ((counts - expected) ** 2 / expected).sum()
        assert abs(squares - free.sum()) < 4 * np.sqrt(2 * free.sum())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 5}, "size is 5, but must be an odd number of at least 7"),
        ({"size": 18}, "size is 18, but must be an odd number of at least 7"),
        ({"view_size": 4}, "view_size is 4, but must be an odd number of at least 3"),
        ({"size": 9, "view_size": 11, "rooms": 1}, "view_size is 11, but must be at most 9: there is no more to see"),
        ({"rooms": 0}, "rooms is 0, but must be at least 1"),
        ({"categories": 0}, "categories is 0, but must be at least 1"),
        ({"objects": 0}, "objects is 0, but must be at least 1"),
        ({"reach": 0}, "reach is 0, but must be at least 1"),
        ({"episode_limit": 0}, "episode_limit is 0, but must be at least 1"),
        ({"trial_length": 0}, "trial_length is 0, but must be at least 1"),
        ({"rooms": 10}, "rooms is 10, but must be at most 9: a house of size 19 has no place for more for certain"),
        ({"size": 7, "rooms": 1, "objects": 26}, "objects is 26, but must be at most 25: more may not find room"),
        ({"reach": 4}, "reach is 4, but must be at most 3: what is farther away may be out of view"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        MultiObjectNavigationConfig(**fields)


def test_splits():
    config = MultiObjectNavigationConfig()
    splits = config.splits()
    assert list(splits) == ["trial_length=32768", "size=25"]
    assert splits["trial_length=32768"] == dataclasses.replace(config, trial_length=32_768)
    assert splits["size=25"] == dataclasses.replace(config, size=25, rooms=11, objects=27)
    assert CONFIG.splits()["size=15"].rooms == 6
    full = MultiObjectNavigationConfig(size=7, rooms=1, objects=25).splits()["size=13"]
    assert (full.rooms, full.objects) == (4, 91)  # not 100 objects, for which there may be no room


def test_pose_can_be_withheld():
    environment, params = dataclasses.replace(CONFIG, pose=False).make()
    observation, _ = jax.eval_shape(environment.reset, jax.random.key(0), params)
    assert set(observation) == set(environment.observation_space(params).spaces) == {"view", "goal"}


def test_picture_shows_agent_goals_and_what_is_seen(made, follow):
    environment, params = made
    steps = follow(3, 2, NORTH, 1, [RIGHT])
    state = jax.tree.map(lambda leaf: leaf[0], steps["state"])
    picture = environment.render(state, params).astype(int)
    side = drawing.CELL // 2
    assert picture.shape == (SIZE * side, SIZE * side, 3)

    def tile(x, y):
        return picture[y * side : (y + 1) * side, x * side : (x + 1) * side]

    def pixels(x, y, colour):
        return (np.abs(tile(x, y) - colour).max(-1) < 12).sum()

    assert pixels(3, 2, drawing.VERMILLION) > 20
    assert pixels(7, 3, drawing.GREEN) > 20 and pixels(2, 7, drawing.GREEN) > 20
    assert pixels(3, 1, drawing.GREEN) == 0 and pixels(3, 1, drawing.GREY) > 20
    assert tile(6, 2).mean() > 1.5 * tile(6, 4).mean()  # seen through the door, and not
    assert tile(4, 7)[..., 2].mean() > 1.5 * tile(4, 7)[..., 0].mean()  # a door is blue
