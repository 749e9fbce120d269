"""Every config trains: two updates in tiny sizes, everything else as it is."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import SIZES, TINY_ENVIRONMENTS

from envs import ENVIRONMENTS
from experiments.configs import CONFIGS
from experiments.runs.folder import build
from memrl.sharding import device_mesh

NAMES = {kind: name for name, kind in ENVIRONMENTS.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_trains(name):
    config = CONFIGS[name].config
    sizes = {field.name: SIZES[field.name] for field in dataclasses.fields(config.memory) if field.name in SIZES}
    sizes.pop("jitter", None)
    config = dataclasses.replace(
        config,
        env=dataclasses.replace(config.env, **TINY_ENVIRONMENTS[NAMES[type(config.env)]]),
        memory=dataclasses.replace(config.memory, **sizes).with_capacity(10),
        network=dataclasses.replace(config.network, encoder_features=(8,), head_features=(8,)),
        ppo=dataclasses.replace(config.ppo, num_envs=8, unroll_length=10, epochs=1, minibatches=2),
        total_steps=160,
    )
    assert config.num_updates == 2
    training = build(config, device_mesh())
    state = training.initial_state(jax.random.key(config.seed))
    before = jax.device_get(state.params)
    for _ in range(config.num_updates):
        state, metrics = training.advance(state)
    for name in ("loss", "gradient_norm", "reward_per_step"):  # a mean over trials is not a number if none ended
        assert np.isfinite(metrics[name]).all()
    assert metrics["ratio_deviation"].max() < 1e-5
    assert jax.tree.all(jax.tree.map(lambda old, new: (old != new).any(), before, jax.device_get(state.params)))
