import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import drawing
from envs.minigrid_memory import (
    BALL,
    EAST,
    FORWARD,
    KEY,
    LEFT,
    RIGHT,
    SEEN_FLOOR,
    SEEN_WALL,
    SIZES,
    WEST,
    MiniGridMemory,
    MiniGridMemoryConfig,
    MiniGridMemoryState,
)
from envs.player import play_episodes

ENVIRONMENT = MiniGridMemory()
SETTINGS = [(size, False) for size in SIZES] + [(size, True) for size in SIZES[1:]]
LENGTHS = [(size, hallway_end) for size in SIZES for hallway_end in range(4, size - 2)]


@pytest.fixture(scope="module")
def memory_env():
    """MiniGrid's own environment."""
    from minigrid.envs import MemoryEnv

    return MemoryEnv


def layout(theirs):
    """Our state for the state of their environment, without the clock."""
    grid, middle = theirs.grid, theirs.size // 2
    symbols = {"key": KEY, "ball": BALL}
    hallway_end = theirs.success_pos[0] - 1
    return {
        "hallway_end": hallway_end,
        "cue": symbols[grid.get(1, middle - 1).type],
        "north": symbols[grid.get(hallway_end + 1, middle - 2).type],
        "position": np.array(theirs.agent_pos),
        "direction": theirs.agent_dir,
    }


def states_of(layouts, time=0):
    """Our states `[N, ...]` from `layout`s."""
    leaves = {name: np.array([layout[name] for layout in layouts], np.int32) for name in layouts[0]}
    return MiniGridMemoryState(time=np.full(len(layouts), time, np.int32), **leaves)


def params_of(configs):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(config.make()[1] for config in configs))


def test_episodes_are_those_of_minigrid(memory_env):
    """From the same layouts with the same actions, all sizes and time limits in one program."""
    num_steps, rng = 120, np.random.default_rng(0)
    configs, layouts, plans, played = [], [], [], []
    for index in range(140):
        size, random_length = SETTINGS[index % len(SETTINGS)]
        max_steps = int(rng.integers(1, num_steps)) if index % 4 == 0 else None
        theirs = memory_env(size=size, random_length=random_length, max_steps=max_steps)
        first, _ = theirs.reset(seed=index)
        layouts.append(layout(theirs))
        # Uniform actions, or mostly steps; some go to an end, and for some of these time is up just then.
        actions = rng.choice(7, num_steps, p=np.full(7, 1 / 7) if index % 2 else [0.15, 0.15, 0.5, *[0.05] * 4])
        if index % 3 == 0:
            way = [FORWARD] * (theirs.success_pos[0] - theirs.agent_pos[0]) + [rng.choice([LEFT, RIGHT]), FORWARD]
            actions[: len(way)] = way
            if index % 9 == 0:
                max_steps = theirs.max_steps = len(way)
        configs.append(MiniGridMemoryConfig(size, random_length, max_steps))
        plans.append(actions)
        steps = [(first, 0, False, False)]
        while not any(steps[-1][2:]) and len(steps) <= num_steps:
            steps.append(theirs.step(int(actions[len(steps) - 1]))[:4])
        played.append(steps)

    @jax.jit
    @jax.vmap
    def replay(state, params, actions):
        def step(state, action):
            observation, state, reward, terminated, info = ENVIRONMENT.step_env(None, state, action, params)
            return state, (observation, reward, terminated, ENVIRONMENT.is_truncated(state, params), info["success"])

        return ENVIRONMENT.observe(None, state, None, params), jax.lax.scan(step, state, actions)[1]

    replayed = replay(states_of(layouts), params_of(configs), np.array(plans, np.int32))
    firsts, (observations, rewards, terminated, truncated, success) = jax.tree.map(np.asarray, replayed)

    def assert_same_observation(ours, theirs, *at):
        for name, array in ours.items():
            np.testing.assert_array_equal(array[at], theirs[name])

    ends = collections.Counter()
    for n, (first, *steps) in enumerate(played):
        assert_same_observation(firsts, first[0], n)
        for t, (observation, reward, *flags) in enumerate(steps):
            assert_same_observation(observations, observation, n, t)
            assert rewards[n, t] == np.float32(reward) and success[n, t] == (reward > 0)
            assert [terminated[n, t], truncated[n, t]] == flags
        ends[reward > 0, *flags] += 1
    # Success and failure, in time and in the last step, and time-outs.
    assert min(ends[end] for end in itertools.product([True, False], [True], [False, True])) > 5
    assert ends[False, False, True] > 5


def test_views_are_those_of_minigrid(memory_env):
    """From every cell in every direction, in every length of every size."""
    configs, layouts, images = [], [], []
    for size, hallway_end in LENGTHS:
        theirs = memory_env(size=size, random_length=True)
        theirs.reset(seed=size)
        while theirs.success_pos[0] - 1 != hallway_end:
            theirs.reset()
        middle = size // 2
        room = [(x, y) for x in (1, 2, 3) for y in (middle - 1, middle, middle + 1) if (x, y) != (1, middle - 1)]
        hallway = [(x, middle) for x in range(4, hallway_end + 2)]
        for cell in [*room, *hallway, (hallway_end + 1, middle - 1), (hallway_end + 1, middle + 1)]:
            theirs.agent_pos = cell
            for theirs.agent_dir in range(4):
                configs.append(MiniGridMemoryConfig(size))
                layouts.append(layout(theirs))
                images.append(theirs.gen_obs()["image"])
    observe = jax.jit(jax.vmap(lambda state, params: ENVIRONMENT.observe(None, state, None, params)["image"]))
    np.testing.assert_array_equal(observe(states_of(layouts), params_of(configs)), images)


def test_rewards_are_those_of_minigrid():
    """To the last bit, at all times, in many environments at once."""
    _, state = ENVIRONMENT.reset_env(jax.random.key(0), ENVIRONMENT.default_params)
    times = np.arange(1, 5 * max(SIZES) ** 2 + 1, dtype=np.int32)
    rewards = jax.jit(
        jax.vmap(lambda time, params: ENVIRONMENT.success_reward(state.replace(time=time), params), (0, None))
    )
    for size in SIZES:
        max_steps = 5 * size**2
        expected = np.float32([1 - 0.9 * (step / max_steps) for step in range(1, max_steps + 1)])
        np.testing.assert_array_equal(rewards(times, MiniGridMemoryConfig(size).make()[1])[:max_steps], expected)


@pytest.mark.parametrize("random_length", [False, True])
def test_layouts_are_drawn_as_in_minigrid(memory_env, random_length):
    size, middle, number = 9, 4, 3000
    environment, params = MiniGridMemoryConfig(size, random_length).make()
    keys = jax.random.split(jax.random.key(0), number)
    _, states = jax.jit(jax.vmap(environment.reset, (0, None)))(keys, params)
    theirs = memory_env(size=size, random_length=random_length)
    theirs.reset(seed=0)
    layouts = [layout(theirs) for _ in range(number) if theirs.reset()]

    ends = range(4 if random_length else size - 3, size - 2)
    expected = {
        (end, cue, north, x): number / len(ends) / 4 / end
        for end in ends
        for cue in (KEY, BALL)
        for north in (KEY, BALL)
        for x in range(1, end + 1)
    }
    for drawn in (states, states_of(layouts)):
        assert (drawn.position[:, 1] == middle).all() and (drawn.direction == EAST).all() and (drawn.time == 0).all()
        columns = (drawn.hallway_end, drawn.cue, drawn.north, drawn.position[:, 0])
        counts = collections.Counter(zip(*(np.asarray(column).tolist() for column in columns), strict=True))
        assert counts.keys() <= expected.keys()
        chi_squared = sum((counts[what] - mean) ** 2 / mean for what, mean in expected.items())
        degrees = len(expected) - 1
        assert abs(chi_squared - degrees) < 4 * (2 * degrees) ** 0.5


def test_players_do_what_they_claim():
    num_episodes = 2000
    environment, params = MiniGridMemoryConfig(11).make()
    hallway_end, max_steps = 8, 605
    steps = hallway_end + 3 - np.arange(1, hallway_end + 1)  # from every start
    reward = 1 - 0.9 * steps / max_steps

    oracle, memoryless = (
        jax.tree.map(np.asarray, play_episodes(environment, params, player, jax.random.key(0), num_episodes))
        for player in environment.players().values()
    )
    assert oracle.outcomes["success"].all()
    assert set(np.asarray(oracle.length).tolist()) == set(steps.tolist())
    np.testing.assert_allclose(oracle.total, 1 - 0.9 * oracle.length / max_steps, rtol=1e-6)
    np.testing.assert_allclose(oracle.total.mean(), reward.mean(), atol=4 * reward.std() / num_episodes**0.5)
    # Neither player idles, so each is as fast as can be.
    np.testing.assert_array_equal(oracle.length, memoryless.length)
    chance_deviation = 0.5 / num_episodes**0.5
    success = memoryless.outcomes["success"]
    np.testing.assert_allclose(success.mean(), 1 / 2, atol=4 * chance_deviation)
    np.testing.assert_allclose(memoryless.total.mean(), reward.mean() / 2, atol=4 * chance_deviation)
    assert ((memoryless.total > 0) == success).all()


def test_who_looks_back_from_the_crossing_sees_everything_in_small_grids_only():
    def seen(size):
        environment, params = MiniGridMemoryConfig(size).make()
        _, state = environment.reset_env(jax.random.key(0), params)
        state = state.replace(position=jnp.int32([size - 2, size // 2]), direction=jnp.int32(WEST))
        image = np.asarray(environment.observe(None, state, None, params)["image"][..., 0])
        return np.count_nonzero(image > 2)

    # The objects in the arms are beside the agent. (One step west of the crossing, in the hallway, they are behind it.)
    assert [seen(size) for size in (7, 9, 11, 13)] == [3, 3, 2, 2]


def test_one_program_serves_all_splits():
    splits = MiniGridMemoryConfig(13).splits()
    assert list(splits) == [
        *("size=7", "size=9", "size=11", "size=17"),
        *("size=9 random", "size=11 random", "size=13 random", "size=17 random"),
    ]
    for split in splits.values():
        environment, params = split.make()
        assert environment == ENVIRONMENT
        assert int(params.size) == split.size and int(params.max_steps_in_episode) == 5 * split.size**2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 5}, "size is 5, but must be an odd number of at least 7"),
        ({"size": 12}, "size is 12, but must be an odd number of at least 7"),
        ({"max_steps": 0}, "max_steps is 0, but must be at least 1"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        MiniGridMemoryConfig(**fields)


def test_picture():
    environment, params = MiniGridMemoryConfig(9).make()
    layout = {"hallway_end": 6, "cue": KEY, "north": BALL, "position": (4, 4), "direction": EAST}
    state = jax.tree.map(lambda leaf: leaf[0], states_of([layout]))

    def shows(state, cell, colour):
        x, y = np.array(cell) * drawing.CELL
        tile = environment.render(state, params)[y : y + drawing.CELL, x : x + drawing.CELL]
        return (tile == colour).all(-1).any()

    assert shows(state, (4, 4), drawing.VERMILLION)
    assert shows(state, (1, 3), drawing.YELLOW)
    assert shows(state, (7, 2), drawing.YELLOW) and shows(state, (7, 6), drawing.YELLOW)
    assert shows(state, (7, 5), drawing.GREEN) and not shows(state, (7, 3), drawing.GREEN)
    # It sees the crossing, not the room behind it, until it turns round.
    west = state.replace(direction=np.int32(WEST))
    assert shows(state, (7, 4), SEEN_FLOOR) and not shows(state, (2, 4), SEEN_FLOOR)
    assert shows(west, (2, 4), SEEN_FLOOR) and not shows(west, (7, 4), SEEN_FLOOR)
    assert shows(west, (4, 3), SEEN_WALL)
