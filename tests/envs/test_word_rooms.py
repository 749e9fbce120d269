import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import drawing
from envs.word_rooms import FLOOR, OBJECT, WALL, WordRoomsConfig, different, places_of

UP, DOWN, LEFT, RIGHT = range(4)


def follow(environment, params, state, actions):
    """Take `actions` in one environment: every step's outcome, `[T, ...]`."""
    return jax.tree.map(np.asarray, _follow(environment, params, state, np.array(actions, np.int32)))


@partial(jax.jit, static_argnums=0)
def _follow(environment, params, state, actions):
    def step(state, action):
        observation, state, reward, terminated, info = environment.step_env(jax.random.key(1), state, action, params)
        return state, {"observation": observation, "reward": reward, "terminated": terminated, "state": state, **info}

    return jax.lax.scan(step, state, actions)[1]


NUM_ENVIRONMENTS, NUM_STEPS = 300, 350


@partial(jax.jit, static_argnums=(0, 2))
def play(environment, params, player, key):
    """What happens when a player acts in many environments, `[T, B, ...]`; `state` is the one *before* the step."""

    def step(state, key):
        _, actions = jax.vmap(environment.players()[player].act, (None, None, 0, None))(key, None, state, params)
        keys = jax.random.split(key, NUM_ENVIRONMENTS)
        _, next_state, reward, terminated, _, info = jax.vmap(environment.step, (0, 0, 0, None))(
            keys, state, actions, params
        )
        outcomes = {name: info[name] for name in environment.outcomes}
        return next_state, {"state": state, "reward": reward, "terminated": terminated, **outcomes}

    reset_key, scan_key = jax.random.split(key)
    _, state = jax.vmap(environment.reset, (0, None))(jax.random.split(reset_key, NUM_ENVIRONMENTS), params)
    return jax.lax.scan(step, state, jax.random.split(scan_key, NUM_STEPS))[1]


CELLS, OBJECTS, WORDS = [(3, 3), (3, 5), (7, 7)], [0, 7, 35], [5, 6, 9]


def arranged(environment, params, phase=0, asked=0, **fields):
    """The start of a phase of an episode without distractors, in a room of which everything is known."""
    _, state = environment.reset(jax.random.key(0), params)
    known = {"cells": CELLS, "objects": OBJECTS, "words": WORDS, "asked": asked, "distractors": 0, "lag": 0}
    known = {name: np.array(value, np.int32) for name, value in (known | fields).items()}
    return state.replace(phase=jnp.int32(phase), room=state.room.replace(**known))


def test_a_lesson_by_hand():
    environment, params = WordRoomsConfig(distractors=(0,), naming_reward=0.5).make()
    state = arranged(environment, params)
    to_first, to_second, to_third = [UP, LEFT], [RIGHT, RIGHT], [DOWN] * 4 + [RIGHT] * 2
    steps = follow(environment, params, state, to_first + to_second + to_third + [UP, UP])

    room = np.full((9, 9), FLOOR)
    room[3, 3], room[3, 5], room[7, 7] = OBJECT, OBJECT + 7, OBJECT + 35
    first = environment.observe(None, state, None, params)
    np.testing.assert_array_equal(first["room"], room)
    assert (int(first["word"]), int(first["question"])) == (0, 0)

    words = [0, 5, 0, 6, 0, 0, 0, 0, 0, 9]
    assert steps["observation"]["word"][:10].tolist() == words
    np.testing.assert_allclose(steps["reward"], 0.5 * np.isin(np.arange(12), (1, 3, 9)))
    middle = steps["observation"]["room"][:10, 4, 4]
    assert middle.tolist() == [FLOOR, OBJECT, FLOOR, OBJECT + 7, *[FLOOR] * 5, OBJECT + 35]
    # At the third object the view reaches over the walls, and just to the others.
    corner = np.full((9, 9), FLOOR)
    corner[6:] = corner[:, 6:] = WALL
    corner[4, 4], corner[0, 2], corner[0, 0] = OBJECT + 35, OBJECT + 7, OBJECT
    np.testing.assert_array_equal(steps["observation"]["room"][9], corner)

    # One step later the test begins.
    assert steps["observation"]["question"].tolist() == [0] * 10 + [1, 1]
    test = steps["state"]
    assert test.phase_time[9:].tolist() == [10, 0, 1] and test.position[10].tolist() == [4, 4]
    assert not test.heard[10:].any() and test.heard[9].all()


def test_an_object_heard_twice_is_rewarded_once_and_a_lesson_may_be_left_unfinished():
    environment, params = WordRoomsConfig(distractors=(0,), naming_reward=0.5, phase_steps=6).make()
    steps = follow(environment, params, arranged(environment, params), [UP, LEFT, UP, DOWN, RIGHT, RIGHT])
    # The last word would have been heard in the step in which time was up.
    assert steps["observation"]["word"][:5].tolist() == [0, 5, 0, 5, 0]
    assert steps["observation"]["question"].tolist() == [0] * 5 + [1]
    assert steps["reward"].tolist() == [0, 0.5, 0, 0, 0, 0.5]


@pytest.mark.parametrize(
    ("asked", "actions", "reward", "steps_taken"),
    [
        (0, [UP, LEFT], 1, 2),
        (1, [LEFT, UP], 0, 2),  # the first object is the answer, and the wrong one
        (2, [DOWN] * 3 + [RIGHT] * 3, 1, 6),
        (2, [DOWN] * 3 + [RIGHT, LEFT, RIGHT], 0, 6),  # time is up
    ],
)
def test_a_final_test_by_hand(asked, actions, reward, steps_taken):
    environment, params = WordRoomsConfig(distractors=(0,), phase_steps=6).make()
    state = arranged(environment, params, phase=1, asked=asked)
    steps = follow(environment, params, state, actions + [UP] * (6 - len(actions)))
    last = steps_taken - 1
    assert steps["reward"][: last + 1].tolist() == [0] * last + [reward]
    assert np.flatnonzero(steps["terminated"])[0] == last
    assert steps["success"][last] == reward and steps["final_accuracy"][last] == reward
    assert (steps["observation"]["question"][: last + 1] == 1).all()
    assert (steps["observation"]["word"][: last + 1] == WORDS[asked]).all()
    assert steps["distractor_accuracy"][last] == 1 and steps["lag"][last] == 0


def test_a_test_does_not_show_which_object_is_asked_for():
    environment, params = WordRoomsConfig(distractors=(0,)).make()
    one = arranged(environment, params, phase=1, asked=0, words=[5, 6, 9])
    other = arranged(environment, params, phase=1, asked=1, words=[6, 5, 9])
    steps = [follow(environment, params, state, [UP] * 3)["observation"] for state in (one, other)]
    jax.tree.map(np.testing.assert_array_equal, *steps)


def test_who_does_nothing_takes_all_the_time_there_is():
    config = WordRoomsConfig(distractors=(1,), episodes=2, phase_steps=5)
    environment, params = config.make()
    _, state = environment.reset(jax.random.key(0), params)
    steps = follow(environment, params, state, [UP] * 40)
    assert np.flatnonzero(steps["terminated"]).tolist() == [39] and params.max_steps_in_episode == 40
    assert not steps["reward"].any() and not steps["observation"]["word"][steps["observation"]["question"] == 0].any()
    states = steps["state"]
    phases = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert list(zip(states.episode[4:39:5], states.phase[4:39:5], strict=True)) == phases[1:]
    assert states.episode[-1] == 2 and states.distractors_over[-1] == 2
    assert (steps["final_accuracy"][-1], steps["distractor_accuracy"][-1], steps["lag"][-1]) == (0, 0, 1)


def assert_uniform(values, number):
    """Chi-squared test of `values`, integers that should be uniform below `number`."""
    counts = np.bincount(np.asarray(values), minlength=number)
    assert len(counts) == number
    statistic = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert abs(statistic - (number - 1)) < 5 * np.sqrt(2 * (number - 1))


@pytest.fixture(scope="module")
def chain():
    """The oracle in chains of three episodes, from the start of the first trial to the end of the last whole one."""
    environment, params = WordRoomsConfig(distractors=(0, 1, 2), episodes=3).make()
    return jax.tree.map(np.asarray, play(environment, params, "oracle", jax.random.key(0)))


def phases_of(steps):
    """For each trial, the phases in order: those of the states whose `phase_time` is 0."""
    states = steps["state"]
    trials = []
    for row in range(steps["reward"].shape[1]):
        ends = np.flatnonzero(steps["terminated"][:, row])
        for first, last in zip(np.concatenate([[0], ends[:-1] + 1]), ends, strict=True):
            starts = first + np.flatnonzero(states.phase_time[first : last + 1, row] == 0)
            trials.append([jax.tree.map(lambda leaf, t=t, row=row: leaf[t, row], states) for t in starts])
    return trials


def test_lessons_tests_and_recalls_of_a_chain(chain):
    trials = phases_of(chain)
    assert len(trials) > NUM_ENVIRONMENTS
    drawn, lags, asked, cells = [], [], [], []
    for trial in trials:
        taught = {}
        for state in trial:
            room, episode, phase = state.room, int(state.episode), int(state.phase)
            pairs = list(zip(room.objects.tolist(), room.words.tolist(), strict=True))
            assert len(set(room.objects.tolist())) == len(set(map(tuple, room.cells))) == 3
            if phase == 0:
                drawn.append(int(room.distractors))
            assert room.distractors == drawn[-1]
            final = phase == 1 + 2 * room.distractors
            if not final and (phase == 0 or phase % 2 == 1):
                taught[episode, (phase + 1) // 2] = pairs
                assert room.lag == 0
            elif not final:
                assert pairs == taught[episode, phase // 2] and room.lag == 0
            else:
                assert pairs == taught[episode - int(room.lag), 0]
                if episode == 2:
                    lags.append(int(room.lag))
                else:
                    assert room.lag == 0
            asked.append(int(room.asked))
            cells.append(room.cells)
        words = [word for pairs in taught.values() for _, word in pairs]
        assert len(set(words)) == len(words) and min(words) >= 1 and max(words) <= 72
        assert [int(state.episode) for state in trial] == sorted(int(state.episode) for state in trial)
        assert len(trial) == 6 + 2 * sum(drawn[-3:]) and len(taught) == 3 + sum(drawn[-3:])
    assert_uniform(drawn, 3)
    assert_uniform(np.array(lags) - 1, 2)
    assert_uniform(asked, 3)
    places = places_of(9).tolist()
    assert_uniform([places.index(cell) for cell in np.concatenate(cells).tolist()], 16)
    assert_uniform([state.room.objects[0] for trial in trials for state in trial[:1]], 36)


def test_oracle_gets_every_reward(chain):
    ends = np.argwhere(chain["terminated"])
    for name in ("success", "final_accuracy", "distractor_accuracy"):
        assert (chain[name][chain["terminated"]] == 1).all()
    rows = np.arange(NUM_ENVIRONMENTS)
    first_ends = np.array([ends[ends[:, 1] == row, 0].min() for row in rows])
    returns = np.where(np.arange(NUM_STEPS)[:, None] <= first_ends[None], chain["reward"], 0).sum(0)
    distractors = chain["state"].distractors_over[first_ends, rows]
    np.testing.assert_allclose(returns, 3 + 0.1 * distractors, rtol=1e-5)
    states = chain["state"]
    lesson = (states.phase == 0) | ((states.phase % 2 == 1) & (states.phase < 1 + 2 * states.room.distractors))
    over = (states.phase[:-1] + 1 == states.phase[1:]) & lesson[:-1]
    assert over.sum() > len(ends) and states.heard[:-1][over].all()  # in time for all words


def test_memoryless_answers_by_chance():
    environment, params = WordRoomsConfig(distractors=(1,), episodes=2).make()
    steps = jax.tree.map(np.asarray, play(environment, params, "memoryless", jax.random.key(0)))
    ends = steps["terminated"]
    tests = ends.sum()
    assert tests > 1000
    deviation = np.sqrt(1 / 3 * 2 / 3 / tests)
    assert abs(steps["success"][ends].mean() - 1 / 3) < 4 * deviation
    assert abs(steps["distractor_accuracy"][ends].mean() - 1 / 3) < 4 * deviation / np.sqrt(2)
    assert abs(steps["final_accuracy"][ends].mean() - 1 / 3) < 4 * deviation / np.sqrt(2)


def test_rebound_words_are_the_same_in_every_lesson():
    environment, params = WordRoomsConfig(distractors=(2, 2, 2), episodes=3, rebind=True).make()
    steps = jax.tree.map(np.asarray, play(environment, params, "oracle", jax.random.key(0)))
    trials = phases_of(steps)
    assert len(trials) > NUM_ENVIRONMENTS / 2
    for trial in trials:
        lessons = [
            tuple(state.room.objects.tolist())
            for state in trial
            if state.phase == 0 or (state.phase % 2 and state.phase < 5)
        ]
        assert len(lessons) == 9 and len(set(lessons)) > 7  # the same three objects may come again, by chance
        assert len({tuple(state.room.words.tolist()) for state in trial}) == 1
    assert (steps["success"] == steps["terminated"]).all()
    assert_uniform([trial[0].room.words[0] - 1 for trial in trials], 72)
    WordRoomsConfig(distractors=(5,), episodes=9, rebind=True, num_words=3)  # need no more words


def test_draws_are_uniform():
    numbers = jax.random.uniform(jax.random.key(0), (60_000, 3))
    triples = jax.vmap(partial(different, 5))(numbers) @ np.array([25, 5, 1], np.int32)
    possible = [a * 25 + b * 5 + c for a, b, c in itertools.permutations(range(5), 3)]
    assert_uniform(np.searchsorted(possible, triples), 60)
    assert set(np.asarray(triples).tolist()) == set(possible)

    environment, params = WordRoomsConfig(distractors=(0, 1), num_words=6).make()
    _, words = jax.vmap(
        lambda seed: jax.vmap(environment.lesson, (None, None, 0, None))(seed, 0, jnp.arange(2), params)
    )(jnp.arange(72_000, dtype=jnp.int32))
    orders, counts = np.unique(np.asarray(words).reshape(-1, 6), axis=0, return_counts=True)
    assert (np.sort(orders, axis=1) == np.arange(1, 7)).all()
    assert_uniform(np.repeat(np.arange(len(counts)), counts), 720)


def test_oracle_takes_shortest_ways():
    """To every object past any two others it takes as many steps as a breadth-first search finds, in a test."""
    environment, params = WordRoomsConfig(distractors=(0,)).make()
    places = places_of(9)
    rooms = np.array([(a, b, c) for a in range(16) for b, c in itertools.combinations(range(16), 2) if a not in (b, c)])
    state = arranged(environment, params, phase=1, asked=0)

    def steps_to_answer(cells):
        def step(state, _):
            _, action = environment.players()["oracle"].act(None, None, state, params)
            _, state, reward, terminated, _ = environment.step_env(jax.random.key(0), state, action, params)
            return state, (terminated, reward)

        _, (terminated, reward) = jax.lax.scan(step, state.replace(room=state.room.replace(cells=cells)), length=14)
        return jnp.argmax(terminated) + 1, reward[jnp.argmax(terminated)]

    taken, rewards = jax.jit(jax.vmap(steps_to_answer))(jnp.asarray(places[rooms]))

    def shortest(target, *others):
        distance, frontier, seen = 0, {(4, 4)}, {(4, 4)} | set(others)
        while target not in frontier:
            beside = {(r + dr, c + dc) for r, c in frontier for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0))}
            frontier = {cell for cell in beside if min(cell) >= 0 and max(cell) < 9} - seen
            seen, distance = seen | frontier, distance + 1
        return distance

    assert (rewards == 1).all()
    assert taken.tolist() == [shortest(*map(tuple, places[room].tolist())) for room in rooms]


def test_every_lesson_can_be_learnt_in_time():
    places = [tuple(cell) for cell in places_of(9).tolist()]

    def distance(one, other):
        return abs(one[0] - other[0]) + abs(one[1] - other[1])

    longest = max(
        min(
            sum(distance(*pair) for pair in itertools.pairwise([(4, 4), *order]))
            for order in itertools.permutations(room)
        )
        for room in itertools.combinations(places, 3)
    )
    assert longest < WordRoomsConfig().phase_steps


def test_splits_are_those_reported_and_share_a_compilation():
    config = WordRoomsConfig()
    environment, params = config.make()
    splits = config.splits()
    assert {name for name in splits if name.startswith("headline")} == {
        "headline_distractors_10",
        "headline_episodes_4_distractors_0",
        "headline_episodes_2_distractors_5",
    }
    assert {name for name in splits if name.startswith("stretch")} == {
        "stretch_distractors_20",
        "stretch_episodes_4_distractors_1",
        "stretch_episodes_3_distractors_5",
    }
    assert len(splits) == 12

    def shapes(params):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)

    for split in splits.values():
        other, other_params = split.make()
        assert other == environment and shapes(other_params) == shapes(params)
    _, longest = splits["episodes_4_distractors_5"].make()
    assert longest.max_steps_in_episode == 4 * 12 * 24 and (longest.distractors == 5).all() and longest.episodes == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"episodes": 0}, "episodes is 0, but must be at least 1"),
        ({"phase_steps": 0}, "phase_steps is 0, but must be at least 1"),
        ({"num_words": 2, "rebind": True}, "num_words is 2, but must be at least 3"),
        ({"distractors": ()}, r"distractors is \(\), but must be numbers that are at least 0"),
        ({"distractors": (1, -1)}, r"distractors is \(1, -1\), but must be numbers that are at least 0"),
        ({"room_size": 8}, "room_size is 8, but must be an odd number that is at least 5"),
        ({"room_size": 3}, "room_size is 3, but must be an odd number that is at least 5"),
        ({"view_size": 6}, "view_size is 6, but must be an odd number from 3 to 17"),
        ({"view_size": 19}, "view_size is 19, but must be an odd number from 3 to 17"),
        ({"num_shapes": 7}, "num_shapes is 7, but must be from 1 to 6"),
        ({"num_colours": 0}, "num_colours is 0, but must be from 1 to 6"),
        ({"num_shapes": 1, "num_colours": 2}, "num_shapes is 1 and num_colours 2, but they must make at least 3"),
        (
            {"distractors": (0, 24)},
            "num_words is 72, but must be at least 75 for 1 episodes with up to 24 distractors, unless rebind is set",
        ),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        WordRoomsConfig(**fields)


def test_picture_shows_the_room_its_words_and_whether_they_are_asked_for():
    environment, params = WordRoomsConfig(distractors=(0,)).make()
    lesson, test = (arranged(environment, params, phase=phase) for phase in (0, 1))
    lesson = lesson.replace(heard=np.array([False, True, False]))
    pictures = [environment.render(state, params) for state in (lesson, test)]

    def count(picture, row, column, colour):
        tile = picture[row * drawing.CELL :, column * drawing.CELL :][: drawing.CELL, : drawing.CELL]
        return (tile == colour).all(-1).sum()

    for picture in pictures:
        assert picture.shape == (11 * drawing.CELL, 9 * drawing.CELL, 3)
        assert count(picture, 4, 4, drawing.WHITE) > 20  # the agent
        for (row, column), index, colour in zip(
            CELLS, range(3), (drawing.VERMILLION, drawing.BLUE, drawing.SKY_BLUE), strict=True
        ):
            assert count(picture, row, column, colour) > 50 and count(picture, 9, 2 * index, colour) > 50
    heard, asked = ([count(picture, 9, 2 * index + 1, drawing.WHITE) > 5 for index in range(3)] for picture in pictures)
    assert heard == [False, True, False] and asked == [True, False, False]
    assert [count(picture, 0, 0, drawing.YELLOW) > 50 for picture in pictures] == [False, True]
