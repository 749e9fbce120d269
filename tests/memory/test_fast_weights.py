"""Fast weights compute their published equations, written out here once more, and rewrite as these say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import dense, rms_norm, sigmoid, silu

from memrl.memory.chunkwise import Projected, in_chunks, unit_lower_inverse
from memrl.memory.delta_rule import DeltaLayer, DeltaNet, DeltaTokens, GatedDeltaNet
from memrl.memory.fast_weights import with_ones
from memrl.memory.linear_attention import LinearAttention, LinearAttentionLayer
from memrl.memory.mlstm import MLSTM, MLSTMLayer, MLSTMTokens
from memrl.memory.shm import SHM, theta_rows

STEPS, BATCH, INPUTS = 11, 3, 5
SIZES = {"features": 8, "layers": 1, "heads": 2, "chunk_length": 4}
CONFIGS = {
    "linear_attention": LinearAttention(**SIZES),
    "mlstm": MLSTM(**SIZES),
    "mlstm_alone": MLSTM(**SIZES, convolution=1),
    "shm": SHM(**SIZES, theta_rows=5),
    "shm_first": SHM(**SIZES, theta_rows=5, theta="first"),
    "deltanet": DeltaNet(**SIZES),
    "deltanet_alone": DeltaNet(**SIZES, convolution=1),
    "gated_deltanet": GatedDeltaNet(**SIZES, convolution=3),
    "gated_deltanet_hard": GatedDeltaNet(**SIZES, gates="hard"),
}
RESETS = np.zeros((STEPS, BATCH), bool)
RESETS[[0, 5, 6], 1] = RESETS[[3, 8], 2] = True


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


def run(config, seed=0, change=lambda params: params):
    """Perturbed parameters, inputs, initial state, and what an unroll makes of them, all in float64."""
    memory = config.build(jnp.float64)
    rng = np.random.default_rng(seed)
    state = memory.initial_state(BATCH, jax.random.key(seed))
    xs = jnp.asarray(rng.standard_normal((STEPS, BATCH, INPUTS)))
    params = jax.jit(lambda: memory.init(jax.random.key(1), state, xs[0], RESETS[0], method="step"))()["params"]
    params = change(jax.tree.map(lambda p: p + 0.3 * rng.standard_normal(p.shape), params))
    after, ys = unroll(memory, params, state, xs)
    return params, state, xs, after, ys


def unroll(memory, params, state, xs):
    return jax.jit(lambda p, s, x: memory.apply({"params": p}, s, x, RESETS, method="unroll"))(params, state, xs)


def elu_plus_one(x):
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def length_one(x):
    return x / np.sqrt((x**2).sum() + 1e-6)


def convolved(p, width, history):
    """SiLU of the sum over the latest steps of an episode, the newest last in `history`, channel by channel."""
    if width == 1:
        return silu(history[-1])
    return silu(sum(weights * x for weights, x in zip(p["kernel"], history[::-1][:width], strict=False)))


def queries_keys_values(name, p, width, history):
    """What enters the memory, from the normalised inputs of the episode: each `[heads, d]`."""
    if name.startswith("mlstm"):
        joined = [dense(p["projection"], convolved(p.get("convolution"), width, history))]
        joined.append(dense(p["value_projection"], history[-1]))
        return np.concatenate(joined).reshape(3, 2, 4)
    projected = [dense(p["projection"], x) for x in history]
    if "delta" in name:
        return convolved(p.get("convolution"), width, projected).reshape(3, 2, 4)
    return projected[-1].reshape(3, 2, 4)


def share(x):
    x = np.maximum(x, 0)
    return x / (1e-5 + x.sum())


# One step of one head, for one environment: old matrix, normaliser, what was drawn -> new ones and what is read.


def linear_attention(p, head, x, q, k, v, S, n, row):
    S, n = S + np.outer(v, elu_plus_one(k)), n + elu_plus_one(k)
    return S, n, S @ elu_plus_one(q) / (n @ elu_plus_one(q) + 1e-6)


def mlstm(p, head, x, q, k, v, S, n, row):
    f = sigmoid(dense(p["forget_gate"], x)[head])
    i = np.exp(dense(p["input_gate"], x)[head])  # as it is, without a stabiliser
    o = sigmoid(dense(p["output_gate"], x)).reshape(2, 4)[head]
    k = k / 2  # √d
    S, n = f * S + i * np.outer(v, k), f * n + i * k
    return S, n, o * (S @ q) / max(abs(n @ q), 1)


def shm(p, head, x, q, k, v, S, n, row):
    theta = p["theta"][row].reshape(2, 4)[head]
    C = 1 + np.tanh(np.outer(theta, dense(p["calibration"], x).reshape(2, 4)[head]))
    S = S * C + np.outer(sigmoid(dense(p["write_gate"], x)[head]) * v, share(k))
    return S, n, S @ share(q)


def delta(p, head, x, q, k, v, S, n, alpha, beta):
    k = length_one(k)
    S = alpha * S @ (np.eye(4) - beta * np.outer(k, k)) + beta * np.outer(v, k)
    return S, n, rms_norm(p["read_norm"], S @ length_one(q))


def deltanet(p, head, x, q, k, v, S, n, row):
    return delta(p, head, x, q, k, v, S, n, 1, 2 * sigmoid(dense(p["write_gate"], x)[head]))


def gated_deltanet(p, head, x, q, k, v, S, n, row, gate=sigmoid):
    alpha, beta = gate(dense(p["forget_gate"], x)[head]), 2 * gate(dense(p["write_gate"], x)[head])
    S, n, y = delta(p, head, x, q, k, v, S, n, alpha, beta)
    return S, n, y * silu(dense(p["output_gate"], x).reshape(2, 4)[head])


def gated_deltanet_hard(*arguments):
    return gated_deltanet(*arguments, gate=lambda z: np.clip(z / 6 + 0.5, 0, 1))


EQUATIONS = {
    "linear_attention": linear_attention,
    "mlstm": mlstm,
    "mlstm_alone": mlstm,
    "shm": shm,
    "shm_first": shm,
    "deltanet": deltanet,
    "deltanet_alone": deltanet,
    "gated_deltanet": gated_deltanet,
    "gated_deltanet_hard": gated_deltanet_hard,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equations(name):
    params, state, xs, _, ys = run(CONFIGS[name])
    rows = np.zeros((STEPS, BATCH), int)
    if name == "shm":
        rows = np.asarray(theta_rows(CONFIGS[name], state[0].memory, STEPS))
    params, xs = jax.tree.map(np.asarray, (params, xs))
    p = params["layers_0"]
    for b in range(BATCH):
        for t in range(STEPS):
            if t == 0 or RESETS[t, b]:
                matrices, normalisers, history = np.zeros((2, 4, 4)), np.zeros((2, 4)), []
            h = dense(params["input_projection"], xs[t, b])
            x = rms_norm(p["norm"], h)
            history.append(x)
            q, k, v = queries_keys_values(name, p, getattr(CONFIGS[name], "convolution", 1), history)
            y = np.zeros((2, 4))
            for head in range(2):
                matrices[head], normalisers[head], y[head] = EQUATIONS[name](
                    p, head, x, q[head], k[head], v[head], matrices[head], normalisers[head], rows[t, b]
                )
            expected = rms_norm(params["final_norm"], h + dense(p["output"], y.ravel()))
            np.testing.assert_allclose(ys[t, b], expected, rtol=1e-9, atol=1e-9, err_msg=f"step {t} of row {b}")


@pytest.mark.parametrize("name", ["linear_attention", "mlstm", "shm", "deltanet", "gated_deltanet_hard"])
def test_chunks_are_a_matter_of_speed(name):
    config = dataclasses.replace(CONFIGS[name], layers=2)
    params, state, xs, *expected = run(dataclasses.replace(config, chunk_length=1))
    for length in (2, 5, STEPS, 64):
        memory = dataclasses.replace(config, chunk_length=length).build(jnp.float64)
        actual = unroll(memory, params, state, xs)
        for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(tuple(expected)), strict=True):
            if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("config", [LinearAttention(), MLSTM(), SHM(), DeltaNet(), GatedDeltaNet()])
def test_learning_keeps_no_matrix_per_step(config):
    config = dataclasses.replace(config, features=128, layers=1, heads=1)
    memory = config.build()

    def kept(steps):
        """Bytes that the gradient needs beside its arguments and results."""
        state, xs, resets = memory.initial_state(1), jnp.zeros((steps, 1, 4), jnp.float32), jnp.zeros((steps, 1), bool)
        params = jax.eval_shape(lambda: memory.init(jax.random.key(0), state, xs[0], resets[0], method="step"))
        gradient = jax.jit(jax.grad(lambda p: memory.apply(p, state, xs, resets, method="unroll")[1].sum()))
        return gradient.lower(params).compile().memory_analysis().temp_size_in_bytes

    per_step = (kept(1024) - kept(256)) / (1024 - 256)
    assert per_step < 4 * 128 * 128 / 2


# Delta rule


def deltas(keys, values, queries, write, forget=None, chunk_length=4):
    """What a delta rule with these tokens `[T, d]` and gates `[T]` reads, `[T, d]`."""
    width = keys.shape[-1]
    keys, values, queries = (jnp.asarray(x, float)[:, None, None] for x in (keys, values, queries))
    write, forget = (None if x is None else jnp.asarray(x, float)[:, None, None] for x in (write, forget))
    tokens = DeltaTokens(Projected(queries, keys, values), write, forget)
    empty, resets = jnp.zeros((1, 1, width, width)), jnp.zeros((len(keys), 1), bool)
    return np.asarray(in_chunks(DeltaLayer.read_chunk, chunk_length, empty, tokens, resets)[1][:, 0, 0])


@pytest.mark.parametrize("chunk_length", [1, 2, 4])
def test_a_second_write_replaces_the_first(chunk_length):
    rng = np.random.default_rng(0)
    key, other = np.linalg.qr(rng.standard_normal((4, 4)))[0][:2]
    first, second, elsewhere = [1.0, 2, 3, 4], [5.0, 6, 7, 8], [-1.0, 0, 1, 0]
    keys = np.stack([key, other, key, other])
    values = np.stack([first, elsewhere, second, first])
    reads = deltas(keys, values, np.stack([key, key, key, other]), [1, 1, 1, 0], chunk_length=chunk_length)
    # The second value in place of the first, not their sum; what is stored under the other key stays.
    np.testing.assert_allclose(reads, [first, first, second, elsewhere], atol=1e-12)


def test_linear_attention_averages_instead():
    key, values = np.ones(4), np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    tokens = jax.tree.map(
        lambda x: jnp.asarray(x)[:, None, None], Projected(np.stack([key, key]), np.stack([key, key]), values)
    )
    tokens = tokens._replace(values=with_ones(tokens.values))
    reads = LinearAttentionLayer.read_chunk(jnp.zeros((1, 1, 5, 4)), tokens, jnp.zeros((2, 1), bool))[1]
    np.testing.assert_allclose(reads[:, 0, 0], [[1, 2, 3, 4], [3, 4, 5, 6]], rtol=1e-6)


def test_double_strength_reflects():
    """With β = 2 the value `v` turns `S k` into `2 v - S k`: written as 0, the sign changes, and memories count."""
    keys, start = np.tile([1.0, 0, 0, 0], (6, 1)), np.array([1.0, 2, 3, 4])
    values = np.stack([start] + [np.zeros(4)] * 5)
    reads = deltas(keys, values, keys, [1, 2, 2, 2, 2, 2])
    np.testing.assert_allclose(reads, np.outer([1, -1, 1, -1, 1, -1], start), atol=1e-12)


def test_forget_gates_of_0_and_1():
    rng = np.random.default_rng(0)
    keys, values = np.eye(4)[[0, 1, 2, 3, 0, 1, 2, 3]], rng.standard_normal((8, 4))
    queries = np.tile(keys[0], (8, 1))
    reads = deltas(keys, values, queries, [1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 1], chunk_length=3)
    np.testing.assert_array_equal(reads[:6], np.tile(values[0], (6, 1)))
    np.testing.assert_array_equal(reads[6:], 0)


@pytest.mark.parametrize("length", [1, 2, 5, 8, 13])
def test_inverse_of_triangular_matrices(length):
    rng = np.random.default_rng(length)
    for x in (rng.standard_normal((3, length, length)), np.full((1, length, length), 2.0)):
        expected = np.linalg.inv(np.eye(length) + np.tril(x, -1))
        np.testing.assert_allclose(unit_lower_inverse(jnp.asarray(x)), expected, rtol=1e-10, atol=1e-10)


def with_gates(write, forget):
    """Changes parameters so that the gates are closed or open all the time."""

    def change(params):
        layer = dict(params["layers_0"])
        for name, z in (("write_gate", write), ("forget_gate", forget)):
            layer[name] = {"kernel": 0 * layer[name]["kernel"], "bias": jnp.full_like(layer[name]["bias"], z)}
        return {**params, "layers_0": layer}

    return change


def test_hard_gates_hold_exactly_and_clear_in_one_step():
    config = CONFIGS["gated_deltanet_hard"]
    memory = config.build(jnp.float64)
    _, _, xs, (used,), _ = run(config)
    matrix = used.memory[0]  # of the row without resets
    for forget, expected in ((3.0, matrix), (-3.0, jnp.zeros_like(matrix))):
        params, *_ = run(config, change=with_gates(-3.0, forget))
        (held,), _ = unroll(memory, params, (used,), xs)
        np.testing.assert_array_equal(held.memory[0], expected)


def test_hard_gates_can_leave_their_ends():
    config = CONFIGS["gated_deltanet_hard"]
    memory = config.build(jnp.float64)
    _, _, xs, used, _ = run(config)
    for z in (-4.0, 4.0):
        params, *_ = run(config, change=with_gates(z, z))
        gradient = jax.grad(lambda p: unroll(memory, p, used, xs)[1].sum())(params)["layers_0"]
        assert (gradient["forget_gate"]["bias"] != 0).all() and (gradient["write_gate"]["bias"] != 0).all()


# mLSTM


def mlstm_reads(log_input, log_forget):
    """Reads and their gradient by both gates, for gates `[T]` and random tokens."""
    rng = np.random.default_rng(0)
    steps = len(log_input)
    queries, keys, values = jnp.asarray(rng.standard_normal((3, steps, 1, 1, 4)))
    state = MLSTM(4, heads=1).empty(1, jax.random.key(0), jnp.float64)

    def reads(log_input, log_forget):
        gates = (log_forget[:, None, None], log_input[:, None, None])
        tokens = MLSTMTokens(Projected(queries, keys, with_ones(values)), *gates)
        return in_chunks(MLSTMLayer.read_chunk, 4, state, tokens, jnp.zeros((steps, 1), bool))[1][:, 0, 0]

    gates = jnp.asarray(log_input, float), jnp.asarray(log_forget, float)
    return reads(*gates), jax.jacobian(reads, (0, 1))(*gates)


def test_mlstm_is_stable_where_its_equations_overflow():
    rng = np.random.default_rng(1)
    log_input, log_forget = rng.standard_normal(9), -rng.random(9)
    large, _ = mlstm_reads(log_input + 30, log_forget)
    huge, gradient = mlstm_reads(log_input + 5000, log_forget)
    np.testing.assert_allclose(huge, large, rtol=1e-9)  # the lower bound is out of reach: only ratios count
    assert all(np.isfinite(g).all() for g in gradient)


def test_mlstm_forgets_what_is_beyond_the_range_of_numbers():
    nothing, gradient = mlstm_reads(np.full(9, -5000.0), np.full(9, -3000.0))
    np.testing.assert_array_equal(nothing, 0)
    assert all(np.isfinite(g).all() for g in gradient)


def test_input_gate_of_mlstm_is_sown_as_the_state_is_written_with_it():
    params, _, xs, used, _ = run(CONFIGS["mlstm"])
    memory = CONFIGS["mlstm"].build(jnp.float64)
    (after, _), sown = memory.apply({"params": params}, used, xs, RESETS, method="unroll", mutable=["intermediates"])
    (openness,) = sown["intermediates"]["layers_0"]["stabilised_input"]
    params = jax.tree.map(np.asarray, params)
    p = params["layers_0"]
    x = rms_norm(p["norm"], dense(params["input_projection"], np.asarray(xs)))
    log_input, log_forget = dense(p["input_gate"], x), np.log(sigmoid(dense(p["forget_gate"], x)))
    log_scale = np.array(used[0].memory.log_scale)
    for time in range(STEPS):
        log_scale[RESETS[time]] = 0
        log_scale = np.maximum(np.maximum(log_forget[time] + log_scale, log_input[time]), 0)
        np.testing.assert_allclose(openness[time], np.exp(log_input[time] - log_scale), rtol=1e-6)
    np.testing.assert_allclose(after[0].memory.log_scale, log_scale, rtol=1e-6, atol=1e-12)  # that of the state
    assert log_input.max() > 0.5 and openness.max() == 1


def test_gates_start_long():
    for config in (MLSTM(8, 1, 4), GatedDeltaNet(8, 1, 4)):
        memory = config.build()
        state, x, reset = memory.initial_state(1), jnp.zeros((1, INPUTS), jnp.float32), jnp.zeros(1, bool)
        gate = memory.init(jax.random.key(0), state, x, reset, method="step")["params"]["layers_0"]["forget_gate"]
        np.testing.assert_allclose(gate["bias"], [3, 4, 5, 6])
        np.testing.assert_array_equal(gate["kernel"], 0)


# SHM, see also test_shm.py


def test_shm_published_and_fixed_calibration_differ():
    (_, _, _, _, random), (_, _, _, _, first) = (run(CONFIGS[name]) for name in ("shm", "shm_first"))
    assert not np.allclose(random, first)


def test_shm_with_a_fixed_calibration_learns_one_row():
    config = CONFIGS["shm_first"]
    params, state, xs, *_ = run(config)
    gradient = jax.grad(lambda p: unroll(config.build(jnp.float64), p, state, xs)[1].sum())(params)["layers_0"]["theta"]
    assert (gradient[0] != 0).all() and (gradient[1:] == 0).all()


# All of them


@pytest.mark.parametrize("config", [LinearAttention, MLSTM, SHM, DeltaNet, GatedDeltaNet])
def test_bad_sizes_are_refused(config):
    for name in ("features", "layers", "heads", "chunk_length"):
        with pytest.raises(ValueError, match=rf"memory\.{name} is 0: it must be at least 1\."):
            config(**{name: 0})
    with pytest.raises(ValueError, match=r"memory\.features is 8 and memory\.heads is 3: the heads must divide the"):
        config(features=8, heads=3)


def test_a_table_without_rows_is_refused():
    with pytest.raises(ValueError, match=r"memory\.theta_rows is 0: it must be at least 1\."):
        SHM(theta_rows=0)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_matrices_are_kept_in_float32_at_least(config):
    (layer,) = config.build(jnp.bfloat16).initial_state(BATCH)
    for leaf in jax.tree.leaves(layer.memory):
        assert not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype == jnp.float32


def test_nothing_is_attended_to():
    memory = DeltaNet(**SIZES).build()
    tokens = memory.tokens_attended(memory.initial_state(BATCH))
    assert tokens.dtype == jnp.int32 and tokens == 0
