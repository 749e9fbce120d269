"""What environments say is to be remembered, in episodes made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY_ENVIRONMENTS

import envs
from envs import ballet, boxes, minigrid_memory, visual_match
from envs.ballet import BalletConfig
from envs.boxes import BoxesConfig
from envs.color_cubes import ColorCubesConfig
from envs.dark_key_to_door import DarkKeyToDoorConfig
from envs.minigrid_memory import MiniGridMemoryConfig
from envs.repeat import RepeatFirstConfig
from envs.repeated_gridworld import RepeatedGridworldConfig
from envs.t_maze import FORWARD, LEFT, RIGHT, TMazeConfig
from envs.visual_match import VisualMatchConfig

TELLING = [name for name in envs.ENVIRONMENTS if hasattr(envs.get(name)(**TINY_ENVIRONMENTS[name]).make()[0], "facts")]


def follow(config, actions, seed=0, **changes):
    """States, observations and facts in the first state and after each action; `changes` to the first state."""
    environment, params = config.make()
    facts, step = jax.jit(environment.facts), jax.jit(environment.step_env)
    observation, state = environment.reset_env(jax.random.key(seed), params)
    if changes:
        state = state.replace(**{name: jnp.asarray(value, jnp.int32) for name, value in changes.items()})
        observation = environment.observe(jax.random.key(seed), state, None, params)
    states, observations = [state], [observation]
    told = [facts(state, jnp.int32(-1), state, params)]
    for number, action in enumerate(actions):
        before = states[-1]
        observation, state, *_ = step(jax.random.key(number), before, jnp.int32(action), params)
        states.append(state)
        observations.append(observation)
        told.append(facts(before, jnp.int32(action), state, params))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *zip(states, observations, told, strict=True))


def moments(fact):
    """When it was shown."""
    return np.flatnonzero(fact.shown).tolist()


def test_who_tells():
    assert set(TELLING) == {
        "ballet", "boxes", "color_cubes", "dark_key_to_door", "minigrid_memory", "repeat_first", "repeated_gridworld",
        "t_maze", "visual_match",
    }  # fmt: skip


@pytest.mark.parametrize("name", TELLING)
def test_facts_are_scalars(name):
    environment, params = envs.get(name)(**TINY_ENVIRONMENTS[name]).make()
    _, state = jax.eval_shape(environment.reset_env, jax.random.key(0), params)
    facts = jax.eval_shape(environment.facts, state, jnp.int32(-1), state, params)
    for fact in facts.values():
        assert (fact.value.shape, fact.value.dtype) == ((), jnp.int32)
        assert (fact.shown.shape, fact.shown.dtype) == ((), jnp.bool_)


def test_dark_key_to_door():
    """Only the step onto the key without it, and onto the door with it, show a cell."""
    left, down, right, stay = range(1, 5)
    config = DarkKeyToDoorConfig(size=3, attempt_limit=20, trial_length=50, start=(0, 0), key=(2, 0), door=(1, 2))
    #          to the key, back and again, over its cell, to the door; then once more to the key
    actions = [right, right, left, right, stay, left, down, down, right, right]
    _, _, facts = follow(config, actions)
    assert (facts["key"].value == 2 * 3 + 0).all() and (facts["door"].value == 1 * 3 + 2).all()
    assert moments(facts["key"]) == [2, 10] and moments(facts["door"]) == [8]


def test_dark_key_to_door_shows_no_cell_before_an_action():
    config = DarkKeyToDoorConfig(size=3, attempt_limit=20, trial_length=50, start=(1, 1), key=(1, 1), door=(0, 0))
    stay = 4
    _, _, facts = follow(config, [stay, stay])
    assert moments(facts["key"]) == [1] and moments(facts["door"]) == []


def test_dark_key_to_door_shows_what_is_found_in_the_step_of_a_time_out():
    config = DarkKeyToDoorConfig(size=3, attempt_limit=1, trial_length=50, start=(0, 0), key=(2, 0), door=(0, 2))
    right = 3
    _, _, facts = follow(config, [right, right])
    assert moments(facts["key"]) == [2]


def test_lit_room_shows_everything():
    _, _, facts = follow(DarkKeyToDoorConfig(size=3, dark=False), [0, 1])
    assert facts["key"].shown.all() and facts["door"].shown.all()


def test_t_maze():
    states, observations, facts = follow(
        TMazeConfig(length=2), [LEFT, FORWARD, FORWARD, RIGHT, FORWARD, FORWARD], cue=RIGHT
    )
    assert facts["cue"].value.tolist() == (states.cue - LEFT).tolist() and facts["cue"].value[0] == 1
    assert moments(facts["cue"]) == [0, 1, 4] == np.flatnonzero(observations[:, 1:3].any(axis=1)).tolist()


@pytest.mark.parametrize(("level", "when"), [("medium", [0, 2]), ("extreme", [0])])
def test_color_cubes(level, when):
    up, right = 0, 1
    config = ColorCubesConfig(level, size=4, teleport_probability=0.0)
    # From the lower left corner, 12, over the empty cell 8 to the target in 4.
    states, _, facts = follow(config, [up, up, right], target=0, cubes=[4, 0, 15])
    cells = np.take_along_axis(states.cubes, states.target[:, None], axis=1)[:, 0]
    assert facts["target"].value.tolist() == cells.tolist() and cells[0] == 4
    assert moments(facts["target"]) == when


def test_ballet():
    config = BalletConfig(num_dancers=(2,), delays=(3,))
    states, observations, facts = follow(config, [0] * 40)
    period = ballet.DANCE_LENGTH - 1 + 3
    assert moments(facts["dance 1"]) == list(range(16))
    assert moments(facts["dance 2"]) == list(range(period, period + 16))
    assert not facts["dance 3"].shown.any() and len(facts) == 8
    assert (facts["dance 2"].value == states.dances[:, 1]).all()
    asked = observations["instruction"][-1] - 1
    assert asked in (facts["dance 1"].value[-1], facts["dance 2"].value[-1])


def test_boxes():
    """An object is shown when it is in the view."""
    states, observations, facts = follow(BoxesConfig(num_boxes=(3,), delays=(2,), turn_steps=4, open_steps=2), [0] * 13)
    for box in range(3):
        fact = facts[f"box {box + 1}"]
        in_view = (observations["view"] == boxes.OTHER + 1 + states.objects[0, box]).any(axis=(1, 2))
        assert (fact.value == states.objects[:, box]).all()
        assert fact.shown.tolist() == in_view.tolist() and fact.shown.sum() == 2
    assert not facts["box 4"].shown.any()


def test_repeat_first():
    _, observations, facts = follow(RepeatFirstConfig(symbols=4), [0] * 5)
    assert (facts["first symbol"].value == observations[0]).all()
    assert moments(facts["first symbol"]) == [0]


@pytest.mark.parametrize("explore", ["passive", "active"])
def test_visual_match(explore):
    """The colour is shown where it is in view, and by no door."""
    config = VisualMatchConfig(explore, explore_steps=25, distractor_steps=(3,), choose_steps=12)
    up, left, right = visual_match.UP, visual_match.LEFT, visual_match.RIGHT
    actions = [*np.random.default_rng(0).integers(0, 4, 28), *[up] * 3, *[left] * 2, *[right] * 4]
    states, observations, facts = follow(config, actions)
    in_view = (observations == visual_match.COLOUR + states.colour[0]).any(axis=(1, 2))
    assert (facts["colour"].value == states.colour).all()
    assert facts["colour"].shown[:25].tolist() == in_view[:25].tolist() and in_view[:25].any()
    assert in_view[28:].any() and not facts["colour"].shown[25:].any()


@pytest.mark.parametrize("cue", [minigrid_memory.KEY, minigrid_memory.BALL])
def test_minigrid_memory(cue):
    """From the start room no other object can be seen."""
    left, forward = minigrid_memory.LEFT, minigrid_memory.FORWARD
    actions = [left, left, left, left, left, left, forward, left]
    _, observations, facts = follow(MiniGridMemoryConfig(17), actions, cue=cue, position=[3, 8])
    in_view = (observations["image"][..., 0] > minigrid_memory.WALL).any(axis=(1, 2))
    assert facts["object"].shown.tolist() == in_view.tolist()
    assert in_view.any() and not in_view.all()
    assert (facts["object"].value == (cue == minigrid_memory.BALL)).all()


def test_repeated_gridworld():
    right = 3
    config = RepeatedGridworldConfig(size=3, attempt_limit=9, recurrence=1.0)
    _, _, facts = follow(config, [right, right, 0], position=[0, 1], goal=[2, 1])
    assert (facts["goal"].value == 2 * 3 + 1).all()
    assert moments(facts["goal"])[0] == 2 and not facts["goal"].shown[:2].any()
