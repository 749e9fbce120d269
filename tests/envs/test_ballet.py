import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import ballet, drawing
from envs.ballet import COLOURS, DANCES, SHAPES, STEPS, BalletConfig
from envs.choice_room import MOVES
from envs.player import play_episodes

# Where a dancer is during each dance: the nine cells around its place in reading order, 4 in the middle.
CELLS = [
    *("1258763012587634", "1036785210367854", "1474147414741474", "5434543454345434", "0484048404840484"),
    *("2464246424642464", "1454743414547434", "1434745414347454", "2484640424846404", "0464842404648424"),
    *("2101242467876464", "0375242425730404", "8513646463158484"),
]


@pytest.fixture(scope="module")
def watched():
    """What happens to the oracle in 64 episodes of the six levels of the paper, `[T, B, ...]`; none is begun anew."""
    environment, params = BalletConfig().make()

    def step(state, key):
        _, action = environment.players()["oracle"].act(key, None, state, params)
        observation, next_state, reward, terminated, _ = environment.step_env(key, state, action, params)
        outcome = {"instruction": observation["instruction"], "reward": reward, "terminated": terminated}
        return next_state, {**outcome, "position": state.position, "dancers": environment.dancer_cells(state)}

    def episode(key):
        observation, state = environment.reset(key, params)
        return observation["instruction"], state, jax.lax.scan(step, state, jax.random.split(key, 510))[1]

    first, state, steps = jax.jit(jax.vmap(episode, out_axes=(0, 0, 1)))(jax.random.split(jax.random.key(0), 64))
    return jax.tree.map(np.asarray, (first, state, steps))


def test_levels_of_the_paper_step_by_step(watched):
    first, state, steps = watched
    assert (first == 0).all()
    seen = set()
    for i in range(64):
        num_dancers, limit = int(state.level.num_places[i]), int(state.level.time_limit[i])
        named = np.flatnonzero(steps["instruction"][:, i]) + 1  # `instruction` is that after the step
        answered = np.flatnonzero(steps["terminated"][:, i])[0]
        assert np.flatnonzero(steps["reward"][: answered + 1, i]).tolist() == [answered]
        assert (steps["instruction"][named - 1, i] == 1 + state.dances[i, state.target[i]]).all()
        assert (steps["position"][: named[0] + 1, i] == 5).all()
        seen.add((num_dancers, limit, int(named[0]), int(answered) + 1))
    assert seen == {
        *{(2, 320, 62, 65), (4, 320, 124, 127), (8, 320, 248, 251)},
        *{(2, 1024, 126, 129), (4, 1024, 252, 255), (8, 1024, 504, 507)},
    }


def test_dances_one_after_the_other(watched):
    _, state, steps = watched
    danced = set()
    for i in range(64):
        num_dancers, period = int(state.level.num_places[i]), 31 if state.level.time_limit[i] == 320 else 63
        from_place = steps["dancers"][:, i] - state.places[i]
        cells = 4 + from_place[:, :num_dancers] @ (3, 1)
        expected = np.full_like(cells, 4)
        for dancer, dance in enumerate(state.dances[i, :num_dancers]):
            expected[dancer * period :][:16, dancer] = [int(cell) for cell in CELLS[dance]]
            danced.add(int(dance))
        np.testing.assert_array_equal(cells, expected)
    assert danced == set(range(len(DANCES)))


def test_tables_are_the_published_ones():
    tables = json.loads((Path(__file__).parents[1] / "golden" / "ballet_tables.json").read_text())
    assert list(DANCES) == tables["motion_names"]
    assert {name: [int(move) for move in moves] for name, moves in DANCES.items()} == tables["motion_moves"]
    assert list(COLOURS.items()) == [(name, tuple(colour)) for name, colour in tables["colors"].items()]
    assert list(SHAPES) == tables["shapes"]
    assert {name: pixels.astype(int).tolist() for name, pixels in SHAPES.items()} == tables["shape_templates"]
    assert sorted((5 + 3 * MOVES).tolist()) == tables["positions"]


def test_what_tells_dances_apart():
    windows = [{tuple(steps[i : i + 5].ravel()) for i in range(12)} for steps in STEPS]
    assert all(one.isdisjoint(other) for i, one in enumerate(windows) for other in windows[:i])
    names = list(DANCES)
    for one, other in (("plus_cw", "plus_ccw"), ("times_cw", "times_ccw")):
        histograms = [sorted(STEPS[names.index(name)].tolist()) for name in (one, other)]
        assert histograms[0] == histograms[1]


@pytest.fixture(scope="module")
def scenes():
    """300 states at random times with the agent anywhere, and how each is observed in either coding."""
    config = BalletConfig(num_dancers=(2, 5, 8), delays=(2,))

    def scene(key):
        keys = jax.random.split(key, 3)
        environment, params = config.make()
        pictured, _ = BalletConfig(observation="picture").make()
        _, state = environment.reset(keys[0], params)
        state = state.replace(
            time=jax.random.randint(keys[1], (), 0, 140, jnp.int32),
            position=jax.random.randint(keys[2], (2,), 1, 10, jnp.int32),
        )
        views = [each.observe(key, state, None, params) for each in (environment, pictured)]
        return state, environment.dancer_cells(state), *views

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(scene))(jax.random.split(jax.random.key(0), 300)))


def test_view_is_centred_on_the_agent(scenes):
    states, dancers, views, _ = scenes
    covered = 0
    for i in range(300):
        shape, colour = np.zeros((2, 21, 21), int)  # the room with five cells of nothing around it
        shape[5:16, 5:16] = 1
        shape[6:15, 6:15] = 0
        row, column = states.position[i]
        shape[5 + row, 5 + column] = 2
        for dancer in range(states.level.num_places[i]):
            cell = tuple(5 + dancers[i, dancer])
            covered += shape[cell] == 2
            shape[cell], colour[cell] = 3 + states.shapes[i, dancer], 1 + states.colours[i, dancer]
        crop = slice(row, row + 11), slice(column, column + 11)
        np.testing.assert_array_equal(views["shape"][i], shape[crop])
        np.testing.assert_array_equal(views["colour"][i], colour[crop])
        choosing = states.time[i] >= 17 * states.level.num_places[i]
        assert views["instruction"][i] == (1 + states.dances[i, states.target[i]] if choosing else 0)
    assert covered > 0


def test_picture_shows_what_the_grids_hold(scenes):
    _, _, views, pictures = scenes
    np.testing.assert_array_equal(views["instruction"], pictures["instruction"])
    assert pictures["picture"].shape == (300, 99, 99, 3) and pictures["picture"].dtype == np.uint8
    for shape, colour, picture in zip(views["shape"], views["colour"], pictures["picture"], strict=True):
        for (row, column), code in np.ndenumerate(shape):
            if code < 3:
                expected = np.full((9, 9, 3), (0, 40, 255)[code])
            else:
                pixels, rgb = list(SHAPES.values())[code - 3], list(COLOURS.values())[colour[row, column] - 1]
                expected = pixels[..., None] * np.array(rgb)
            np.testing.assert_array_equal(picture[9 * row :, 9 * column :][:9, :9], expected)


def test_draws(getkey):
    environment, params = BalletConfig(num_dancers=(4,)).make()
    _, state = jax.vmap(environment.reset, (0, None))(jax.random.split(getkey(), 4000), params)
    state = jax.tree.map(np.asarray, state)

    def assert_uniform(values, count):
        assert values.min() == 0 and values.max() == count - 1
        expected = len(values) / count
        excess = ((np.bincount(values) - expected) ** 2 / expected).sum() - (count - 1)
        assert abs(excess) < 4 * (2 * (count - 1)) ** 0.5

    assert_uniform(state.target, 4)
    attributes = {
        "dances": (state.dances, len(DANCES)),
        "shapes": (state.shapes, len(SHAPES)),
        "colours": (state.colours, len(COLOURS)),
        "places": (np.argmax((state.places[:, :, None] == 5 + 3 * MOVES).all(-1), axis=-1), 8),
    }
    for values, count in attributes.values():
        assert_uniform(values[np.arange(4000), state.target], count)
        assert (np.diff(np.sort(values[:, :8], axis=1), axis=1) > 0).all()
    for one, other in (("dances", "places"), ("shapes", "colours")):
        together = np.corrcoef(attributes[one][0][:, 0], attributes[other][0][:, 0])[0, 1]
        assert abs(together) < 4 / 4000**0.5


def test_memoryless_player_reaches_its_formula():
    environment, params = BalletConfig(num_dancers=(2, 8), delays=(1,)).make()
    player = environment.players()["memoryless"]
    episodes = play_episodes(environment, params, player, jax.random.key(0), 2000)
    expected = (1 / 2 + 1 / 8) / 2
    assert float(episodes.total.mean()) == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 2000) ** 0.5)
    assert set(np.unique(episodes.length).tolist()) == {2 * 16 + 3, 8 * 16 + 3}
    np.testing.assert_array_equal(episodes.total, episodes.outcomes["success"])


def test_splits_and_their_time_limits():
    splits = BalletConfig(num_dancers=(3,), max_steps=1000, observation="picture").splits()
    limits = {name: int(split.make()[1].max_steps_in_episode) for name, split in splits.items()}
    assert limits == {
        **{"2_delay16": 320, "4_delay16": 320, "8_delay16": 320, "2_delay48": 1024, "4_delay48": 1024},
        **{"8_delay48": 1024, "2_delay96": 1024, "4_delay96": 1024, "8_delay96": 1024},
        **{"2_delay192": 1024, "4_delay192": 1024, "8_delay192": 8 * 207 + 72},
    }
    assert all(split.observation == "picture" for split in splits.values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_dancers": (2, 9)}, r"num_dancers is \(2, 9\), but must be one or more numbers, each from 2 to 8"),
        ({"num_dancers": (1,)}, r"num_dancers is \(1,\), but must be"),
        ({"num_dancers": ()}, r"num_dancers is \(\), but must be one or more"),
        ({"delays": (16, 0)}, r"delays is \(16, 0\), but must be one or more numbers, each at least 1"),
        ({"observation": "pixels"}, "observation is 'pixels', but must be 'symbolic' or 'picture'"),
        (
            {"num_dancers": (2, 4), "delays": (16,), "max_steps": 126},
            "max_steps is 126, but must be at least 127: that",
        ),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        BalletConfig(**fields)


def test_picture_for_spectators():
    environment, params = BalletConfig(num_dancers=(2,), delays=(16,)).make()
    _, state = environment.reset(jax.random.key(0), params)
    dances = jnp.arange(8, dtype=jnp.int32)  # the first dancer moves north at first
    state = state.replace(places=jnp.asarray(5 + 3 * MOVES), dances=dances, target=jnp.int32(1))
    state = state.replace(shapes=jnp.full(8, 3, jnp.int32), colours=dances)
    before, after = (environment.render(state.replace(time=jnp.int32(time)), params) for time in (0, 62))
    assert before.shape == (11 * drawing.CELL, 11 * drawing.CELL, 3)

    def shows(picture, row, column, colour):
        tile = picture[row * drawing.CELL :, column * drawing.CELL :][: drawing.CELL, : drawing.CELL]
        return (tile == colour).all(-1).sum() > 20

    red, green = ballet.COLOURS["red"], ballet.COLOURS["green"]
    assert shows(before, 1, 5, red) and not shows(before, 2, 5, red) and shows(after, 2, 5, red)
    assert shows(before, 2, 8, green) and shows(before, 2, 8, drawing.WHITE) and not shows(before, 2, 5, drawing.WHITE)
    assert shows(before, 3, 4, (60, 60, 60)) and not shows(after, 3, 4, (60, 60, 60))
    assert shows(before, 5, 5, drawing.VERMILLION)
    assert not shows(before, 8, 5, ballet.COLOURS["orange"])  # a dancer that does not take part
