"""Reference traces, recorded from the published programs, replayed exactly.

The traces are the files `<family>_<number>.npz` of `tests/golden` and, where it is set, of the folder `MEMRL_GOLDEN`.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from memrl.memory.chunk_attention import ChunkAttention, Chunks

pytestmark = pytest.mark.golden


def replay_dark_key_to_door(trace):
    start, key, door = (tuple(map(int, cell)) for cell in trace["task_start_key_goal"])
    config = envs.get("dark_key_to_door")(
        size=int(trace["size"]),
        attempt_limit=int(trace["max_episode_steps"]),
        trial_length=len(trace["actions"]),
        dark=bool(trace["dark"]),
        start=start,
        key=key,
        door=door,
    )
    environment, params = config.make()
    first_observation, state = environment.reset(jax.random.key(0), params)

    def step(state, action):
        _, state, reward, terminated, truncated, info = environment.step(jax.random.key(0), state, action, params)
        return state, {**info, "reward": reward, "terminated": terminated, "truncated": truncated}

    _, steps = jax.lax.scan(step, state, trace["actions"].astype(np.int32))
    # The published program ends an episode where ours soft-resets: `terminated` is success and `truncated` time-out.
    after_soft_reset = np.where(steps["soft_reset"][:, None], steps["final_observation"], np.nan)
    np.testing.assert_array_equal(first_observation, trace["first_obs"])
    np.testing.assert_array_equal(steps["attempt_observation"], trace["obs"])
    np.testing.assert_array_equal(steps["reward"], trace["reward"])
    np.testing.assert_array_equal(steps["attempt_succeeded"], trace["terminated"])
    np.testing.assert_array_equal(steps["soft_reset"], trace["terminated"] | trace["truncated"])
    np.testing.assert_array_equal(after_soft_reset, trace["soft_reset_obs"])
    assert not steps["terminated"].any() and np.flatnonzero(steps["truncated"]).tolist() == [len(trace["actions"]) - 1]


def replay_t_maze(trace):
    lengths, cues = trace["lengths"], np.where(trace["hints"] < 0, 1, 2)
    config = envs.get("t_maze")(
        corridors=int(trace["num_corridors"]), length=int(trace["max_length"]), regime=str(trace["mode"])
    )
    environment, params = config.make()
    assert params.max_steps_in_episode == trace["max_steps"]
    assert (params.correct_turn_reward, params.idle_reward) == (trace["goal_reward"], np.float32(trace["penalty"]))

    def in_corridor_of_trace(state):
        """What would be drawn when a corridor is entered is what the published program drew."""
        corridor = jnp.minimum(state.corridors_passed, len(cues) - 1)
        return state.replace(cue=jnp.int32(cues)[corridor], length=jnp.int32(lengths)[corridor])

    key = jax.random.key(0)
    state = in_corridor_of_trace(environment.reset(key, params)[1])

    def step(state, action):
        _, state, reward, terminated, info = environment.step_env(key, state, action, params)
        state = in_corridor_of_trace(state)
        return state, (environment.observe(key, state, action, params), reward, terminated, info)

    first_observation = environment.observe(key, state, None, params)
    state, steps = jax.lax.scan(step, state, trace["actions"].astype(np.int32))
    observations, rewards, terminated, info = steps
    np.testing.assert_array_equal(np.concatenate([first_observation[None], observations]), trace["obs"])
    np.testing.assert_array_equal(rewards, trace["reward"].astype(np.float32))
    np.testing.assert_array_equal(terminated | (np.arange(1, len(rewards) + 1) >= trace["max_steps"]), trace["done"])
    assert int(info["corridors_passed"][-1]) == trace["corridors_cleared"]


def replay_ballet(trace):
    num_dancers, delay = int(trace["num_dancers"]), int(trace["delay"])
    config = envs.get("ballet")(num_dancers=(num_dancers,), delays=(delay,), observation="picture")
    environment, params = config.make()
    key = jax.random.key(0)
    _, state = environment.reset(key, params)
    assert state.level.time_limit == params.max_steps_in_episode == trace["max_steps"]

    def of_dancers(drawn, name):
        """What was drawn, but for the dancers of the trace what was drawn there."""
        return drawn.at[:num_dancers].set(trace[name].astype(np.int32))

    state = state.replace(
        places=of_dancers(state.places, "positions"),
        dances=of_dancers(state.dances, "motions"),
        shapes=of_dancers(state.shapes, "shapes"),
        colours=of_dancers(state.colours, "colors"),
        target=jnp.int32(trace["target"]),
    )

    def board(state):
        """Numbered as in the trace."""
        dancers = environment.dancer_cells(state)[:num_dancers]
        empty = jnp.zeros((environment.size, environment.size), jnp.int32)
        with_dancers = empty.at[dancers[:, 0], dancers[:, 1]].set(10 + jnp.arange(num_dancers, dtype=jnp.int32))
        return with_dancers.at[state.position[0], state.position[1]].set(1)

    def step(state, action):
        observation, state, reward, terminated, _ = environment.step_env(key, state, action, params)
        done = terminated | environment.is_truncated(state, params)
        return state, (board(state), observation["instruction"], observation["picture"], reward, done)

    first = environment.observe(key, state, None, params)
    first = board(state), first["instruction"], first["picture"], jnp.float32(0), jnp.bool_(False)
    _, steps = jax.lax.scan(step, state, trace["actions"].astype(np.int32))
    boards, instructions, pictures, rewards, done = (
        np.concatenate([np.asarray(one)[None], others]) for one, others in zip(first, steps, strict=True)
    )
    np.testing.assert_array_equal(boards, trace["boards"])
    np.testing.assert_array_equal(instructions - 1, trace["instruction"])
    np.testing.assert_array_equal(pictures[trace["image_steps"]], trace["images"])
    np.testing.assert_array_equal(rewards, trace["reward"])
    np.testing.assert_array_equal(done, trace["done"])


def replay_hcam(trace):
    """Of the released read, but for its key bias, which adds the same to all logits of a softmax."""
    contents = trace["contents"]
    batch, chunks, length, features = contents.shape
    queries = trace["queries"].shape[1]
    names = {
        "relevance_query": "query/w",
        "relevance_key": "key/w",
        **{name: f"within_mem_attn/{name}/w" for name in ("query", "key", "value")},
        **{f"{name}_bias": f"within_mem_attn/{name}/b" for name in ("query", "value")},
        "output": "within_mem_attn/linear/w",
        "output_bias": "within_mem_attn/linear/b",
    }
    params = {name: trace[f"param:{released}"] for name, released in names.items()}
    read = ChunkAttention(features, int(trace["num_heads"]), int(trace["k"]), jnp.float32)
    mask = trace.get("mask", np.ones((batch, queries, chunks), bool))
    first_row = np.where(mask, 0, length).astype(np.int32)
    numbers = np.arange(chunks, dtype=np.int32)
    for form in ("gather", "dense"):
        with jax.default_matmul_precision("highest"):
            out, *_ = read.apply(
                {"params": params}, trace["queries"], Chunks(contents, trace["keys"], numbers), first_row, form
            )
        np.testing.assert_allclose(out, trace["out"], atol=1e-5)


# Family -> the function that replays one of its traces. Files of other families are left alone.
REPLAYERS = {
    "ballet": replay_ballet,
    "dktd": replay_dark_key_to_door,
    "hcam": replay_hcam,
    "tmaze": replay_t_maze,
}

FOLDERS = {"tests/golden": Path(__file__).parent / "golden"}
if "MEMRL_GOLDEN" in os.environ:
    FOLDERS["MEMRL_GOLDEN"] = Path(os.environ["MEMRL_GOLDEN"])

TRACES = {
    f"{folder}/{file.name}": file
    for folder, path in FOLDERS.items()
    for family in REPLAYERS
    for file in sorted(path.glob(f"{family}_*.npz"))
}


@pytest.mark.parametrize("file", TRACES.values(), ids=TRACES)
def test_replays_exactly(file):
    with np.load(file) as trace:
        REPLAYERS[file.stem.rsplit("_", 1)[0]](dict(trace))


@pytest.mark.parametrize("family", REPLAYERS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_there_are_traces(folder, family):
    if not any(trace.startswith(f"{folder}/") for trace in TRACES):
        pytest.fail(f"{folder} ({FOLDERS[folder]}) holds no trace that a test can replay.")
    if not any(trace.startswith(f"{folder}/{family}_") for trace in TRACES):
        missing = f"{folder} ({FOLDERS[folder]}) holds no {family}_*.npz."
        pytest.fail(missing) if folder == "tests/golden" else pytest.skip(missing)
