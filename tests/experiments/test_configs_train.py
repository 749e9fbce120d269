"""Every config trains, in tiny sizes and everything else as it is.

Configs that differ in nothing but numbers and their memory are one *family*: the first of each is compiled and trained
for two updates. The others are traced as far as compiling, which is where shapes and types are checked; that every
memory acts as it learns is in `tests/memory` and `tests/test_rollout.py`.
"""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import SIZES, TINY_ENVIRONMENTS

from envs import ENVIRONMENTS
from experiments.config import Config
from experiments.configs import CONFIGS
from experiments.runs.folder import build, settings_of
from memrl.sharding import device_mesh

NAMES = {kind: name for name, kind in ENVIRONMENTS.items()}


def tiny(config: Config) -> Config:
    """The config with an environment, memory and layers as small as they come, and two updates."""
    sizes = {field.name: SIZES[field.name] for field in dataclasses.fields(config.memory) if field.name in SIZES}
    sizes.pop("jitter", None)
    return dataclasses.replace(
        config,
        env=dataclasses.replace(config.env, **TINY_ENVIRONMENTS[NAMES[type(config.env)]]),
        memory=dataclasses.replace(config.memory, **sizes).with_capacity(10),
        network=dataclasses.replace(config.network, encoder_features=(8,), head_features=(8,)),
        ppo=dataclasses.replace(config.ppo, num_envs=8, unroll_length=10, epochs=1, minibatches=2),
        total_steps=160,
    )


def family(config: Config) -> tuple:
    """What decides the program beside the memory: environment, network, and which parts of PPO are switched on."""
    switches = {
        name: value
        for name, value in dataclasses.asdict(config.ppo).items()
        if isinstance(value, bool) or value is None or name == "updates_per_rollout"
    }
    return type(config.env), config.network, config.ppo.auxiliary, tuple(switches.items())


TINY = {name: tiny(preset.config) for name, preset in CONFIGS.items()}
FIRST = {family(config): name for name, config in reversed(TINY.items())}


@pytest.mark.parametrize("name", FIRST.values())
def test_the_first_config_of_a_family_trains(name):
    config = TINY[name]
    assert config.num_updates == 2
    training = build(config, device_mesh())
    settings = settings_of(config)
    state = training.initial_state(jax.random.key(config.seed), settings)
    before = jax.device_get(state.params)
    for _ in range(config.num_updates):
        state, metrics = training.advance(state, settings)
    for name in ("loss", "gradient_norm", "reward_per_step"):  # a mean over trials is not a number if none ended
        assert np.isfinite(metrics[name]).all()
    assert metrics["ratio_deviation"].max() < 1e-5
    assert jax.tree.all(jax.tree.map(lambda old, new: (old != new).any(), before, jax.device_get(state.params)))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in FIRST.values()])
def test_every_other_config_can_be_compiled(name):
    training, settings = build(TINY[name], device_mesh()), settings_of(TINY[name])
    state = jax.eval_shape(training.initial_state, jax.random.key(0), settings)
    after, metrics = jax.eval_shape(training.advance, state, settings)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (state, after))
    assert shapes[0] == shapes[1]
    assert metrics["loss"].shape == (TINY[name].updates_per_chunk,)
