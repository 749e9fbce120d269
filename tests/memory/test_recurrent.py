"""The recurrent memories compute their published equations, written out here once more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import dense, sigmoid

from memrl.memory import GRU, LSTM, MEMORIES, Elman, NoMemory

STEPS, BATCH, INPUTS, FEATURES = 5, 3, 4, 6


def run(config, getkey):
    """Initial and perturbed parameters, inputs `[T, B, D]`, and the outputs of an unroll without resets."""
    memory = config.build()
    state = memory.initial_state(BATCH)
    xs = jax.random.normal(getkey(), (STEPS, BATCH, INPUTS))
    resets = jnp.zeros((STEPS, BATCH), bool)
    initial = memory.init(getkey(), state, xs, resets, method="unroll")["params"]
    leaves, tree = jax.tree.flatten(initial)
    params = jax.tree.unflatten(tree, [leaf + 0.3 * jax.random.normal(getkey(), leaf.shape) for leaf in leaves])
    _, ys = jax.jit(lambda params: memory.apply({"params": params}, state, xs, resets, method="unroll"))(params)
    return initial["cell"], params["cell"], np.asarray(xs), np.asarray(ys)


def test_elman_equations(getkey):
    initial, p, xs, ys = run(Elman(FEATURES), getkey)
    h = np.zeros((BATCH, FEATURES))
    for x, y in zip(xs, ys, strict=True):
        h = np.tanh(dense(p["i"], x) + dense(p["h"], h))
        np.testing.assert_allclose(y, h, atol=1e-5)
    assert "bias" in p["i"] and "bias" not in p["h"]
    kernel = np.asarray(initial["h"]["kernel"])
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(FEATURES), atol=1e-5)


def test_gru_equations(getkey):
    _, p, xs, ys = run(GRU(FEATURES), getkey)
    h = np.zeros((BATCH, FEATURES))
    for x, y in zip(xs, ys, strict=True):
        r = sigmoid(dense(p["ir"], x) + dense(p["hr"], h))
        z = sigmoid(dense(p["iz"], x) + dense(p["hz"], h))
        n = np.tanh(dense(p["in"], x) + r * dense(p["hn"], h))
        h = (1 - z) * n + z * h
        np.testing.assert_allclose(y, h, atol=1e-5)


def test_lstm_equations(getkey):
    _, p, xs, ys = run(LSTM(FEATURES), getkey)
    h = c = np.zeros((BATCH, FEATURES))
    for x, y in zip(xs, ys, strict=True):
        i, f, o = (sigmoid(dense(p[f"i{gate}"], x) + dense(p[f"h{gate}"], h)) for gate in "ifo")
        g = np.tanh(dense(p["ig"], x) + dense(p["hg"], h))
        c = f * c + i * g
        h = o * np.tanh(c)
        np.testing.assert_allclose(y, h, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "gates"),
    [
        (GRU(FEATURES), {"reset_gate": "r", "keep_gate": "z"}),
        (LSTM(FEATURES), {"forget_gate": "f", "input_gate": "i", "output_gate": "o"}),
    ],
    ids=["gru", "lstm"],
)
def test_gates_are_sown(config, gates, getkey):
    """In learning, and the same in acting."""
    memory = config.build()
    xs, resets = jax.random.normal(getkey(), (STEPS, BATCH, INPUTS)), jnp.zeros((STEPS, BATCH), bool)
    state = memory.initial_state(BATCH)
    params = memory.init(getkey(), state, xs[0], resets[0], method="step")
    (_, ys), sown = memory.apply(params, state, xs, resets, method="unroll", mutable=["intermediates"])
    _, first = memory.apply(params, state, xs[0], resets[0], method="step", mutable=["intermediates"])
    before = np.concatenate([np.zeros((1, BATCH, FEATURES)), ys[:-1]])
    for name, letter in gates.items():
        p = params["params"]["cell"]
        expected = sigmoid(dense(p[f"i{letter}"], np.asarray(xs)) + dense(p[f"h{letter}"], before))
        (openness,) = sown["intermediates"]["cell"][name]
        np.testing.assert_allclose(openness, expected, atol=1e-5)
        np.testing.assert_allclose(first["intermediates"]["cell"][name][0], expected[0], atol=1e-5)


def test_lstm_starts_with_its_forget_bias_and_orthogonal_kernels(getkey):
    initial, *_ = run(LSTM(FEATURES, forget_bias=2.5), getkey)
    for gate in "ifgo":
        np.testing.assert_array_equal(initial[f"i{gate}"]["bias"], 2.5 if gate == "f" else 0.0)
        kernel = np.asarray(initial[f"h{gate}"]["kernel"])
        np.testing.assert_allclose(kernel @ kernel.T, np.eye(FEATURES), atol=1e-5)


def test_gru_starts_with_orthogonal_kernels(getkey):
    initial, *_ = run(GRU(FEATURES), getkey)
    for gate in "rzn":
        kernel = np.asarray(initial[f"h{gate}"]["kernel"])
        np.testing.assert_allclose(kernel @ kernel.T, np.eye(FEATURES), atol=1e-5)


@pytest.mark.parametrize("config", [Elman, GRU, LSTM, NoMemory])
def test_a_width_below_one_is_refused(config):
    with pytest.raises(ValueError, match=r"memory\.features is 0: it must be at least 1\."):
        config(features=0)


@pytest.mark.parametrize("name", ["none", "frame_stack", "elman", "gru", "lstm"])
def test_nothing_is_attended_to(name):
    memory = MEMORIES[name](features=FEATURES).build()
    tokens = memory.tokens_attended(memory.initial_state(BATCH))
    assert tokens.dtype == jnp.int32 and (tokens == 0).all()
