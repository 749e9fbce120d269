"""What is found out before a program is compiled."""

import dataclasses
from typing import Any

import gymnax
import jax.numpy as jnp
import pytest
from gymnax import registration
from gymnax.environments import environment, spaces
from gymnax.environments.bsuite.catch import Catch

import envs
from envs.gymnax_environment import GymnaxConfig
from experiments import run
from experiments.command_line import UsageError
from experiments.configs import CONFIGS
from experiments.training import start

CONFIG = CONFIGS["gru_repeat_first"].config


class Symbols(Catch):
    """Catch with observations that leave their space."""

    def observation_space(self, params):
        return spaces.Box(0, 1, (self.rows, self.columns), jnp.int32)

    def get_obs(self, state, params=None, key=None):
        return super().get_obs(state, params, key).astype(jnp.int32) - 1


@pytest.fixture
def registered(monkeypatch) -> str:
    for known, copy in (("_registry", dict), ("registered_envs", list)):
        monkeypatch.setattr(registration, known, copy(getattr(registration, known)))
    monkeypatch.setattr(gymnax, "registered_envs", registration.registered_envs)
    gymnax.register("Mine-v0", Symbols)
    return "gymnax:Mine-v0"


def test_a_run_does_not_begin_in_an_environment_that_is_wrong(registered, tmp_path):
    folder = tmp_path / "run"
    arguments = ["--config", "gru_repeat_first", "--env", registered, "--output", str(folder)]
    with pytest.raises(UsageError, match=r"^Mine-v0: the observation is -1 after reset, which is not in its space"):
        run.run(arguments)
    assert not folder.exists()


@dataclasses.dataclass(frozen=True)
class Screen(environment.Environment):
    """What is observed is all that there is to it."""

    space: Any

    num_actions = 2

    def observation_space(self, params):
        return self.space

    def reset(self, key, params):
        return jnp.zeros(self.space.shape, self.space.dtype), None


def remarks(space, **network) -> list[str]:
    config = dataclasses.replace(CONFIG, network=dataclasses.replace(CONFIG.network, **network))
    return list(start.remarks_on(config, Screen(space), None))


def test_nothing_is_said_of_what_is_usual():
    assert not remarks(spaces.Box(0, 255, (84, 84, 1), jnp.uint8))  # a picture: 3,200 numbers are left of it
    assert not remarks(spaces.Discrete(5))
    assert not remarks(spaces.Box(-1, 1, (40,)))


def test_large_encoders_are_told_of_with_the_options_that_change_them():
    (symbols,) = remarks(spaces.Box(0, 255, (84, 84), jnp.uint8))
    assert symbols == (
        "The encoder has 7,229,504 parameters, for observations uint8 [84, 84] read as 256 symbols. "
        "What changes it: network.embedding_features, network.encoder_features."
    )
    assert not remarks(spaces.Box(0, 255, (84, 84), jnp.uint8), embedding_features=2)
    (picture,) = remarks(spaces.Box(0, 255, (84, 84, 3), jnp.uint8), picture_patch=1)
    assert picture.endswith("network.encoder_features, network.picture_features, network.picture_patch.")
    (numbers,) = remarks(spaces.Box(-1, 1, (20_000,)))
    assert numbers.startswith("The encoder has 1,280,") and numbers.endswith(" network.encoder_features.")


def test_large_decoders_are_told_of():
    config = dataclasses.replace(CONFIG, ppo=dataclasses.replace(CONFIG.ppo, reconstruction_coefficient=1.0))
    remark = list(start.remarks_on(config, Screen(spaces.Box(0, 255, (20, 20), jnp.uint8)), None))[-1]
    assert remark.startswith("The decoder has ") and remark.endswith(
        " What changes it: ppo.reconstruction_coefficient."
    )


def test_grids_that_are_flattened_are_told_of():
    environment, params = GymnaxConfig("Breakout-MinAtar").make()
    assert list(start.remarks_on(CONFIG, environment, params)) == [
        "The observation, float32 [10, 10, 4], is read as 400 numbers: the encoder is not told which of them are "
        "neighbours."
    ]


def test_what_is_remarkable_is_said(monkeypatch, capsys):
    monkeypatch.setattr(envs, "check", lambda environment, params: None)
    monkeypatch.setattr(type(CONFIG.env), "make", lambda self: (Screen(spaces.Box(-1, 1, (2, 2, 2))), None))
    start.examine(CONFIG)
    assert "is read as 8 numbers" in capsys.readouterr().out
