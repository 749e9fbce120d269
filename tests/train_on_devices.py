"""Trains a few updates with SGD in float64 on so many devices, then afresh on as many, and prints each outcome.

    python train_on_devices.py MEMORY DEVICES,DEVICES,.. [PROCESSES PROCESS PORT]

SGD, because Adam and gradient clipping make nothing of a gradient that is too long by a factor, which is what adding up
over devices where averages are due would give.
"""

import json
import sys

import jax
import numpy as np
import optax

memory, devices, *distributed = sys.argv[1:]
jax.config.update("jax_enable_x64", True)
if distributed:
    from memrl.sharding import start_processes

    processes, process, port = map(int, distributed)
    start_processes(f"localhost:{port}", processes, process)

from tiny import tiny_memory, tiny_policy  # noqa: E402  (gymnax starts JAX's devices when it is imported)

from envs.dark_key_to_door import DarkKeyToDoorConfig  # noqa: E402
from memrl.metrics import to_host  # noqa: E402
from memrl.ppo import PPOConfig  # noqa: E402
from memrl.sharding import device_mesh  # noqa: E402
from memrl.training import Settings, make_training  # noqa: E402

env, env_params = DarkKeyToDoorConfig(size=2, attempt_limit=4, trial_length=5).make()
policy = tiny_policy(tiny_memory(memory, 5), env.num_actions, jax.numpy.float64)
config = PPOConfig(num_envs=16, unroll_length=7, epochs=2, minibatches=2)
for number in map(int, devices.split(",")):
    mesh = device_mesh(number)
    settings = Settings(env_params, config.hyperparameters())
    training = make_training(policy, env, settings, config, 3, mesh, chunk=3, optimizer=optax.sgd(0.5))
    state, metrics = training.advance(training.initial_state(jax.random.key(0), settings), settings)
    params = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state.params)])
    metrics = {name: value.tolist() for name, value in to_host(metrics).items()}
    place = {"devices": mesh.size, "processes": jax.process_count()}
    print(json.dumps({**place, "params": params.tolist(), "metrics": metrics}))
