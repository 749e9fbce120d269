import numpy as np
import pytest

from envs import minigrid_bridge
from envs.minigrid_bridge import ENVIRONMENT_IDS, Policy, play_minigrid
from envs.minigrid_memory import DONE, FORWARD, LEFT

SIZE, HALLWAY_END = 7, 4
ENVIRONMENT_ID = f"MiniGrid-MemoryS{SIZE}-v0"


class Scripted:
    """Takes the actions of a list and begins it anew where it is told to; notes all that it is told."""

    def __init__(self, actions):
        self.actions, self.told = np.array(actions), []

    def initial_state(self, batch):
        return np.zeros(batch, int)

    def step(self, taken, observation, action, reward, reset):
        self.told.append({"observation": observation, "action": action, "reward": reward, "reset": reset})
        taken = np.where(reset, 0, taken)
        return taken + 1, self.actions[taken % len(self.actions)]


def play(actions, num_episodes, seed=0):
    policy = Scripted(actions)
    return play_minigrid(ENVIRONMENT_ID, Policy(policy.initial_state, policy.step), num_episodes, seed), policy.told


def test_same_environments():
    import gymnasium
    import minigrid  # noqa: F401

    registered = {name for name in gymnasium.registry if name.startswith("MiniGrid-Memory")}
    assert registered == ENVIRONMENT_IDS.keys()
    for name, config in ENVIRONMENT_IDS.items():
        theirs = gymnasium.make(name).unwrapped
        assert (theirs.size, theirs.random_length) == (config.size, config.random_length)
        assert theirs.max_steps == config.make()[1].max_steps_in_episode


def test_each_episode_is_played_once_from_its_start(monkeypatch):
    """Seven episodes in three environments: to the end of the hallway, wherever it began, and north."""
    monkeypatch.setattr(minigrid_bridge, "MOST_AT_ONCE", 3)
    number, way = 7, [FORWARD] * HALLWAY_END + [LEFT, FORWARD]
    episodes, told = play(way, number)
    assert (episodes.length == len(way)).all()  # walls hold back who began further east
    success = episodes.outcomes["success"]
    assert 0 < success.sum() < number
    reward = np.float32(1 - 0.9 * len(way) / (5 * SIZE**2))
    np.testing.assert_array_equal(episodes.total, np.where(success, reward, 0))

    assert len(told) == 3 * len(way)
    for step, now in enumerate(told):
        assert now["observation"]["image"].shape == (3, 7, 7, 3) and now["observation"]["image"].dtype == np.uint8
        assert now["observation"]["direction"].dtype == now["action"].dtype == np.int32
        # In the last round, one environment has an episode left.
        rows = slice(None) if step < 2 * len(way) else slice(1)
        assert now["reset"][rows].all() if step % len(way) == 0 else not now["reset"][rows].any()
        assert (now["action"][rows] == (way[step % len(way) - 1] if step % len(way) else -1)).all()
        assert (now["reward"][rows] == 0).all()  # that of the last step belongs to an episode which is over
    starts = [now["observation"]["image"] for now in told if now["reset"][0]]
    assert any((start != starts[0]).any() for start in starts)


def test_same_seed_same_episodes():
    way = [FORWARD] * HALLWAY_END + [LEFT, FORWARD]
    success = [play(way, 20, seed)[0].outcomes["success"] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(success[0], success[1])
    assert (success[0] != success[2]).any()


def test_time_is_up():
    episodes, told = play([DONE], 2)
    assert (episodes.length == 5 * SIZE**2).all() and len(told) == 5 * SIZE**2
    assert (episodes.total == 0).all() and not episodes.outcomes["success"].any()


@pytest.mark.parametrize("name", ENVIRONMENT_IDS)
def test_ours_of_the_same_name_has_the_same_spaces(name):
    import gymnasium
    import minigrid  # noqa: F401

    theirs = gymnasium.make(name)
    environment, params = ENVIRONMENT_IDS[name].make()
    space = environment.observation_space(params)
    assert theirs.action_space.n == environment.num_actions
    assert theirs.observation_space["image"].shape == space.spaces["image"].shape
    assert theirs.observation_space["image"].dtype == space.spaces["image"].dtype
    assert theirs.observation_space["direction"].n == space.spaces["direction"].n
