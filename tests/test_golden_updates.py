"""Three whole updates of training, compared with what they were when `tests/golden/updates_*.npz` was written.

What stands there: the metrics of each update, and of every array of parameters, by name, up to 256 numbers after the
third. Between them the cases go through acting, resets, advantages, the loss, minibatches, schedules, auxiliary losses,
partial updates and the memory that is read again. They guard what a refactoring must leave alone: the order in which
random keys are drawn, what counts in a mean, the names of parameters, on which checkpoints depend. A change of any of
these fails here even where training would go on as well as before.

A change that is meant is written down by

    python -m pytest tests/test_golden_updates.py --renew-golden

and the commit that does so says why the figures are others. Random numbers are the same in every version of JAX and on
any number of devices; rounding differs between versions, processors and flags of XLA, and Adam makes more of it where
gradients are small: with other flags and one device the figures differ by 2e-6 of their size at most. The tolerances
leave room for rounding alone. Three updates move parameters by some 0.1, a thousand times as much.
"""

from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import TINY_ENVIRONMENTS, tiny_memory

import envs
from memrl.metrics import to_host
from memrl.networks import ActorCritic, NetworkConfig, observation_kinds
from memrl.ppo import PPOConfig
from memrl.sharding import device_mesh
from memrl.training import Settings, make_training

FOLDER = Path(__file__).parent / "golden"

CASES = {
    "gru_t_maze": ("gru", "t_maze", {"value_clip": 0.1}),
    "memo_dark_key_to_door": ("memo", "dark_key_to_door", {"credit_across_attempts": False}),
    "hcam_boxes": ("hcam", "boxes", {"reconstruction_coefficient": 0.5}),
    "lru_repeated_gridworld": (
        "lru",
        "repeated_gridworld",
        {"updates_per_rollout": 3, "refresh_memory": True, "prediction_coefficient": 0.5},
    ),
}
"""By name of the file: the memory, the environment, and what the hyperparameters have besides."""


def three_updates(memory: str, environment: str, settings: dict) -> dict[str, np.ndarray]:
    """What the file of a case holds."""
    env, env_params = envs.get(environment)(**TINY_ENVIRONMENTS[environment]).make()
    config = PPOConfig(
        num_envs=8,
        unroll_length=9,
        epochs=2,
        minibatches=2,
        learning_rate=0.01,
        final_learning_rate=0.002,
        entropy_coefficient=0.1,
        final_entropy_coefficient=0.02,
        **settings,
    )
    policy = ActorCritic(
        tiny_memory(memory, env_params.max_steps_in_episode).build(),
        env.num_actions,
        NetworkConfig((8,), (8,), embedding_features=2),
        kinds=observation_kinds(env.observation_space(env_params)),
        auxiliary=config.auxiliary,
    )
    training_settings = Settings(env_params, config.hyperparameters())
    training = make_training(policy, env, training_settings, config, 4, device_mesh(), chunk=3)
    state, metrics = training.advance(training.initial_state(jax.random.key(0), training_settings), training_settings)
    params = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state.params)}
    return {
        **{f"params{name}": np.ravel(leaf)[:: -(-leaf.size // 256)] for name, leaf in params.items()},
        **{f"metrics.{name}": values for name, values in to_host(metrics).items()},
    }


@pytest.mark.parametrize("case", CASES)
def test_three_updates_are_what_they_were(case, request):
    file, actual = FOLDER / f"updates_{case}.npz", three_updates(*CASES[case])
    if request.config.getoption("renew_golden"):
        np.savez_compressed(file, **actual)
    with np.load(file) as golden:
        assert set(actual) == set(golden.files)
        for name, expected in golden.items():
            np.testing.assert_allclose(actual[name], expected, rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_cases_go_through_what_they_guard(case):
    """Trials end in each of them, and everything but what no trial reported is a number."""
    with np.load(FOLDER / f"updates_{case}.npz") as golden:
        assert golden["metrics.trials"].sum() > 0
        assert golden["metrics.gradient_norm"].min() > 1e-3
        assert all(np.isfinite(golden[name]).all() for name in golden.files if name.startswith("params"))
        for auxiliary in ("reconstruction", "prediction"):
            present = f"{auxiliary}_coefficient" in CASES[case][2]
            assert (f"metrics.{auxiliary}_loss" in golden.files) == present
