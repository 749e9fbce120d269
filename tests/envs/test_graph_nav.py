import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import drawing, graph_nav
from envs.graph_nav import COLLECT, CORNERS, FORWARD, GRID, LEFT, RIGHT, GraphNavConfig, GraphNavState

NORTH, EAST, SOUTH, WEST = range(4)

#   a - b - c
#   |   |
#   d - e   f     b: the T, c: a dead end, e: a T, g: a bend, f: a dead end
#       |   |
#       h - g
DRAWN = {
    "ab": EAST, "bc": EAST, "ad": SOUTH, "be": SOUTH, "de": EAST, "eh": SOUTH, "hg": EAST, "fg": SOUTH,
}  # fmt: skip
CORNER = {name: y * GRID + x for name, x, y in [
    ("a", 1, 1), ("b", 2, 1), ("c", 3, 1), ("d", 1, 2), ("e", 2, 2), ("f", 3, 2), ("h", 2, 3), ("g", 3, 3)
]}  # fmt: skip


@pytest.fixture(scope="module")
def drawn():
    """The environment, its parameters, the state of the neighbourhood above, and the number of each of its places."""
    streets = np.zeros((CORNERS, 4), bool)
    for (one, other), direction in DRAWN.items():
        streets[CORNER[one], direction] = streets[CORNER[other], (direction + 2) % 4] = True
    environment, params = GraphNavConfig().make()
    places, corner, direction, next_place = jax.jit(environment.survey)(jnp.asarray(streets))
    state = GraphNavState(
        time=jnp.int32(0),
        place=jnp.int32(0),
        goal=jnp.int32(1),
        places=places,
        corner=corner,
        direction=direction,
        next_place=next_place,
        symbol=jnp.arange(60, dtype=jnp.int32)[::-1],
    )
    names = {number: name for name, number in CORNER.items()}
    number = {(names[int(corner[i])], int(direction[i])): i for i in range(int(places))}
    return environment, params, state, number


def walk(environment, params, player, key, num_environments, num_steps):
    """`player` acts: the states and observations before each step, actions, rewards. NumPy, `[T, B, ...]`."""

    def walk_one(key):
        reset_key, step_key = jax.random.split(key)
        observation, state = environment.reset(reset_key, params)

        def step(carry, key):
            player_state, observation, state = carry
            player_state, action = player.act(key, player_state, state, params)
            then_observation, then_state, reward, _, _, info = environment.step(key, state, action, params)
            outcome = {"state": state, "observation": observation, "action": action, "reward": reward, **info}
            return (player_state, then_observation, then_state), outcome

        carry = (player.initial_state(params), observation, state)
        return jax.lax.scan(step, carry, jax.random.split(step_key, num_steps))[1]

    steps = jax.jit(jax.vmap(walk_one, out_axes=1))(jax.random.split(key, num_environments))
    return jax.tree.map(np.asarray, steps)


@pytest.fixture(scope="module")
def played():
    """What oracle and searcher do in 128 trials of 150 steps, and the beginning of the next."""
    environment, params = GraphNavConfig(junctions=4, trial_length=150).make()
    return {
        name: walk(environment, params, player, jax.random.key(0), 128, 160)
        for name, player in environment.players().items()
    }


@pytest.mark.parametrize(
    ("place", "action", "reached"),
    [
        ("a" + "E", FORWARD, "bE"),  # straight on
        ("e" + "N", FORWARD, "bE"),  # onto the T from below: right before left
        ("d" + "E", FORWARD, "eS"),  # straight on there is nothing
        ("c" + "W", FORWARD, "bW"),
        ("b" + "E", FORWARD, "cW"),  # a dead end: back
        ("g" + "N", FORWARD, "fS"),
        ("h" + "E", FORWARD, "gN"),  # round the bend, to the left
        ("f" + "S", FORWARD, "gW"),  # and to the right
        ("b" + "E", LEFT, "bW"),  # there is no street north
        ("b" + "E", RIGHT, "bS"),
        ("b" + "S", RIGHT, "bW"),
        ("e" + "N", LEFT, "eW"),
        ("e" + "N", RIGHT, "eS"),
        ("a" + "E", LEFT, "aS"),
        ("a" + "E", RIGHT, "aS"),
        ("c" + "W", LEFT, "cW"),
        ("c" + "W", RIGHT, "cW"),
        ("e" + "W", COLLECT, "eW"),
    ],
)
def test_walking_and_turning_by_hand(drawn, place, action, reached):
    _, _, state, number = drawn
    letters = "NESW"

    def numbered(name):
        return number[name[0], letters.index(name[1])]

    assert int(state.next_place[numbered(place), action]) == numbered(reached)


def test_a_trial_by_hand(drawn):
    environment, params, state, number = drawn
    assert int(state.places) == len(number) == 2 * len(DRAWN)
    goal = number["e", SOUTH]
    state = state.replace(place=jnp.int32(number["b", WEST]), goal=jnp.int32(goal))
    expected = [("b", WEST), ("b", SOUTH), ("e", SOUTH), ("e", SOUTH), ("e", SOUTH)]

    def step(state, action):
        observation, state, reward, terminated, info = environment.step_env(jax.random.key(0), state, action, params)
        return state, (observation, reward, terminated, info["soft_reset"])

    actions = jnp.array([COLLECT, LEFT, FORWARD, COLLECT, COLLECT])
    _, (observations, rewards, terminated, soft_resets) = jax.lax.scan(step, state, actions)
    seen, goals = np.asarray(observations).T
    assert seen.tolist() == [59 - number[place] for place in expected]
    assert rewards.tolist() == [0, 0, 0, 1, 0]
    assert soft_resets.tolist() == [False, False, False, True, False]
    assert (goals[:3] == 59 - goal).all() and (goals[3:] != 59 - goal).all() and goals[3] == goals[4]
    assert not terminated.any()


def test_neighbourhoods():
    """Connected, streets go both ways, so many junctions as asked for, no more places than there are symbols."""
    grow = jax.jit(jax.vmap(graph_nav.grow_streets, in_axes=(0, None)))
    for junctions in range(1, graph_nav.MAX_JUNCTIONS + 1):
        streets = np.asarray(grow(jax.random.split(jax.random.key(junctions), 500), jnp.int32(junctions)))
        assert ((streets.sum(-1) > 2).sum(-1) == junctions).all()
        assert streets.sum((1, 2)).max() <= graph_nav.places_needed(junctions) <= 60
        grid = streets.reshape(-1, GRID, GRID, 4)
        np.testing.assert_array_equal(grid[:, :, :-1, EAST], grid[:, :, 1:, WEST])
        np.testing.assert_array_equal(grid[:, :-1, :, SOUTH], grid[:, 1:, :, NORTH])
        assert not grid[:, :, -1, EAST].any() and not grid[:, -1, :, SOUTH].any()
        reached = np.zeros((500, CORNERS), bool)
        reached[:, CORNERS // 2] = True
        for _ in range(CORNERS):
            for direction, ahead in enumerate(graph_nav.AHEAD):
                reached |= np.roll(reached & streets[:, :, direction], ahead, axis=1)
        np.testing.assert_array_equal(reached, streets.any(-1))
        many = len(np.unique(streets.reshape(500, -1), axis=0))
        assert many == 5 if junctions == 1 else many > 50


def test_streets_are_drawn_evenly():
    """The middle has three or four streets, equally likely, and any of them."""
    streets = np.asarray(
        jax.jit(jax.vmap(graph_nav.grow_streets, in_axes=(0, None)))(
            jax.random.split(jax.random.key(0), 8000), jnp.int32(1)
        )
    )
    middle = streets[:, CORNERS // 2]
    counts = np.bincount(middle @ (1, 2, 4, 8), minlength=16)
    assert counts[15] == pytest.approx(4000, abs=4 * np.sqrt(2000))
    for missing in range(4):
        assert counts[15 - 2**missing] == pytest.approx(1000, abs=4 * np.sqrt(875))


def test_draws_are_uniform():
    environment, params = GraphNavConfig(junctions=1, symbols=8).make()
    _, state = jax.jit(jax.vmap(environment.reset, (0, None)))(jax.random.split(jax.random.key(0), 30_000), params)
    assert (np.sort(state.symbol, axis=1) == np.arange(8)).all()
    of_eight = np.asarray(state.places) == 8
    pairs = np.asarray(state.place * 8 + state.goal)[of_eight]
    of_symbols = np.asarray(jnp.take_along_axis(state.symbol, state.place[:, None], 1)[:, 0])
    counts = np.bincount(pairs, minlength=64)
    assert (counts.reshape(8, 8).diagonal() == 0).all() and (counts > 0).sum() == 56
    expected = of_eight.sum() / 56
    assert abs(((counts[counts > 0] - expected) ** 2 / expected).sum() - 55) < 4 * np.sqrt(2 * 55)
    assert np.bincount(of_symbols) == pytest.approx(np.full(8, 3750), abs=4 * np.sqrt(3750))


def test_neighbourhood_stays_for_a_trial(played):
    steps = played["oracle"]
    state, collected = steps["state"], steps["reward"] > 0
    for leaf in (state.next_place, state.symbol, state.corner, state.direction):
        assert (leaf[:150] == leaf[0]).all() and (leaf[150:] == leaf[150]).all() and (leaf[150] != leaf[0]).any()
    np.testing.assert_array_equal(steps["truncated"], np.arange(160)[:, None].repeat(128, 1) == 149)
    same_trial = collected[:-1] & ~steps["truncated"][:-1]
    np.testing.assert_array_equal(state.place[:-1][same_trial], state.place[1:][same_trial])
    assert (state.place != state.goal)[1:][same_trial].all()
    np.testing.assert_array_equal(steps["soft_reset"], collected)


def test_oracle_takes_a_shortest_way_to_every_goal(played):
    steps = played["oracle"]
    ends = 0
    for trial in range(128):
        moves = steps["state"].next_place[0, trial, :, :COLLECT]
        begin = 0
        for end in np.flatnonzero(steps["soft_reset"][:150, trial]):
            start, goal = steps["state"].place[begin, trial], steps["state"].goal[begin, trial]
            distance, queue = {start: 0}, collections.deque([start])
            while queue:  # breadth first
                place = queue.popleft()
                for onwards in moves[place]:
                    if onwards not in distance:
                        distance[onwards] = distance[place] + 1
                        queue.append(onwards)
            assert end - begin == distance[goal]
            begin, ends = end + 1, ends + 1
    assert ends > 128 * 20


def test_searcher_knows_only_what_it_was_told(played):
    """In two trials it acts alike until it saw a symbol again, or collected one, in only one of them."""
    steps = played["searcher"]
    symbols = steps["observation"].transpose(1, 0, 2).reshape(128, -1)
    first_seen = (symbols[:, :, None] == symbols[:, None, :]).argmax(-1).reshape(128, 160, 2)
    told = np.concatenate([first_seen, steps["reward"].T[..., None]], axis=-1)
    one, other = np.triu_indices(128, 1)
    told_apart = np.cumsum((told[one] != told[other]).any(-1), axis=1) > 0
    same_action = steps["action"].T[one] == steps["action"].T[other]
    assert (same_action | told_apart).all()
    assert not same_action.all() and (~told_apart).sum() > 2 * len(one)


def test_searcher_learns_the_streets(played):
    """Once it has tried everything it is as fast as the oracle, and before that not."""
    oracle, searcher = (played[name]["reward"].mean(1) for name in ("oracle", "searcher"))
    assert searcher[90:150].sum() == pytest.approx(oracle[90:150].sum(), rel=0.05)
    assert searcher[:30].sum() < 0.4 * oracle[:30].sum()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"junctions": 0}, "junctions is 0, but must be from 1 to 8"),
        ({"junctions": 9}, "junctions is 9, but must be from 1 to 8"),
        ({"trial_length": 0}, "trial_length is 0, but must be at least 1"),
        ({"symbols": 31}, "symbols is 31, but must be at least 32: 5 junctions may have so many places"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        GraphNavConfig(**fields)


def test_splits():
    assert list(GraphNavConfig().splits()) == [
        *("junctions=6", "junctions=7", "junctions=8"),
        *("trial_length=400", "trial_length=800"),
    ]
    assert GraphNavConfig().splits()["junctions=8"] == GraphNavConfig(junctions=8)
    assert "junctions=7" not in GraphNavConfig(symbols=40).splits()


def test_picture_shows_streets_agent_and_goal(drawn):
    environment, params, state, number = drawn
    state = state.replace(place=jnp.int32(number["a", EAST]), goal=jnp.int32(number["g", NORTH]))
    picture = environment.render(jax.tree.map(np.asarray, state), params)
    assert picture.shape == (GRID * drawing.CELL, GRID * drawing.CELL, 3)

    def pixels(x, y, colour):
        tile = picture[y * drawing.CELL :, x * drawing.CELL :][: drawing.CELL, : drawing.CELL]
        return (tile == colour).all(-1)

    agent, goal = pixels(1, 1, drawing.VERMILLION), pixels(3, 3, drawing.GREEN)
    assert agent.sum() > 20 and goal.sum() > 100
    assert agent[:, :16].sum() > agent[:, 16:].sum()  # its tip points to the right
    assert goal[16:].sum() > goal[:16].sum()  # its tip points up
    assert pixels(3, 2, drawing.GREY)[17:].any() and not pixels(3, 2, drawing.GREY)[:8].any()  # f: only downwards
    assert not pixels(0, 0, drawing.GREY).any()
