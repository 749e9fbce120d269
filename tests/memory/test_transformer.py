"""The transformers over the raw past: their published equations written out once more, positions, sinks, windows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import dense, gelu, layer_norm, rms_norm, rotated, sigmoid, softmax

from memrl.memory import FCT, GTrXL, TrXL, laws
from memrl.memory.attention import alibi
from memrl.memory.transformer_xl import Gate, in_order_of_time

STEPS, INPUTS, FEATURES, HEADS, MLP = 7, 5, 8, 2, 6
SIZES = {"features": FEATURES, "layers": 2, "heads": HEADS, "mlp_features": MLP, "context": 3}


@pytest.fixture(autouse=True)
def float64():
    """Everything here is compared in float64."""
    with jax.enable_x64(True):
        yield


def perturbed(params, scale=0.3):
    """Parameters moved from where they were initialised, so that no zero among them hides a term."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: p + scale * rng.standard_normal(p.shape), params)


def initialise(config):
    """The memory in float64 and the parameters as they are initialised."""
    memory = config.build(jnp.float64)
    x, reset = jnp.zeros((1, INPUTS), jnp.float64), jnp.zeros(1, bool)
    init = functools.partial(memory.init, method="step")
    params = jax.jit(init)(jax.random.key(0), memory.initial_state(1), x, reset)["params"]
    return memory, jax.tree.map(np.asarray, params)


def unroll(memory, params, xs, resets=None):
    """Outputs `[T, B, D]` from an empty memory, and what was sown."""
    resets = np.zeros(xs.shape[:2], bool) if resets is None else resets

    @jax.jit
    def run(params, xs, resets):
        state = memory.initial_state(xs.shape[1])
        return memory.apply({"params": params}, state, xs, resets, method="unroll", mutable=["intermediates"])

    (_, ys), sown = run(params, xs, resets)
    return np.asarray(ys), sown["intermediates"]


def inputs(steps=STEPS, batch=1, seed=0):
    return np.random.default_rng(seed).standard_normal((steps, batch, INPUTS))


# The equations, for one row of inputs [T, D_in]

EPSILON = 1e-5  # of Transformer-XL's layer normalisations


def fct(config, p, xs):
    width = config.features // config.heads
    x = dense(p["input_projection"], xs)
    if config.positions == "learned":
        x = x + p["position_table"][np.minimum(np.arange(len(x)), config.learned_positions - 1)]
    for number in range(config.layers):
        layer = p[f"layers_{number}"]
        joined = dense(layer["projection"], rms_norm(layer["attention_norm"], x))
        q, k, v = joined.reshape(len(x), 3, config.heads, width).swapaxes(0, 1)
        if config.positions == "rotary":
            q, k = (np.stack([rotated(a[t], t, config.rotary_base) for t in range(len(x))]) for a in (q, k))
        attended = np.zeros_like(q)
        for t, h in np.ndindex(len(x), config.heads):
            seen = np.arange(max(0, t - config.context + 1), t + 1)
            keys, values, bias = k[seen, h], v[seen, h], np.zeros(len(seen))
            if config.positions == "alibi":
                bias = -(t - seen) * 2 ** (-8 * (h + 1) / config.heads)
            if config.sink != "none":
                value = layer["sink_value"][h] if config.sink == "key_value" else np.zeros(width)
                keys, values = np.vstack([layer["sink_key"][h], keys]), np.vstack([value, values])
                bias = np.append(0, bias)
            attended[t, h] = softmax(keys @ q[t, h] / np.sqrt(width) + bias) @ values
        x = x + dense(layer["attention_output"], attended.reshape(x.shape))
        gate, value = np.split(dense(layer["mlp_input"], rms_norm(layer["mlp_norm"], x)), 2, axis=-1)
        x = x + dense(layer["mlp_output"], gelu(gate) * value)
    return rms_norm(p["final_norm"], x)


def gated(p, x, y):
    w_r, w_z, w_g = np.split(p["from_y"]["kernel"], 3, axis=1)
    u_r, u_z = np.split(p["from_x"]["kernel"], 2, axis=1)
    u_g = p["from_reset_x"]["kernel"]
    r = sigmoid(y @ w_r + x @ u_r)
    z = sigmoid(y @ w_z + x @ u_z - p["bias"])
    h = np.tanh(y @ w_g + (r * x) @ u_g)
    return (1 - z) * x + z * h


def transformer_xl(config, p, xs):
    width, has_gates = config.features // config.heads, isinstance(config, GTrXL)
    u, v = p["content_bias"], p["distance_bias"]
    frequencies = 1 / 10_000 ** (np.arange(0, config.features, 2) / config.features)
    x = dense(p["input_projection"], xs)
    for number in range(config.layers):
        layer = p[f"layers_{number}"]
        attention = layer["attention"]
        normed = layer_norm(layer["attention_norm"], x, EPSILON) if has_gates else x
        q, k, values = dense(attention["projection"], normed).reshape(len(x), 3, config.heads, width).swapaxes(0, 1)
        attended = np.zeros_like(q)
        for t, h in np.ndindex(len(x), config.heads):
            seen = np.arange(max(0, t - config.context + 1), t + 1)
            logits = []
            for s in seen:
                encoding = np.concatenate([np.sin((t - s) * frequencies), np.cos((t - s) * frequencies)])
                r = dense(attention["distance_projection"], encoding).reshape(config.heads, width)[h]
                logits.append(q[t, h] @ k[s, h] + q[t, h] @ r + u[h] @ k[s, h] + v[h] @ r)
            attended[t, h] = softmax(np.array(logits) / np.sqrt(width)) @ values[seen, h]
        attended = dense(attention["output"], attended.reshape(x.shape))

        def feed_forward(x, mlp=layer["mlp"]):
            return dense(mlp["output"], np.maximum(dense(mlp["hidden"], x), 0))

        if has_gates:
            x = gated(layer["attention_gate"], x, np.maximum(attended, 0))
            x = gated(layer["mlp_gate"], x, np.maximum(feed_forward(layer_norm(layer["mlp_norm"], x, EPSILON)), 0))
        else:
            x = layer_norm(layer["attention_norm"], x + attended, EPSILON)
            x = layer_norm(layer["mlp_norm"], x + feed_forward(x), EPSILON)
    return x


@pytest.mark.parametrize(
    ("positions", "sink"),
    [("rotary", "none"), ("rotary", "key"), ("learned", "key_value"), ("alibi", "key_value"), ("none", "none")],
)
def test_fct_equations(positions, sink):
    config = FCT(**SIZES, positions=positions, sink=sink, rotary_base=20.0, learned_positions=4)
    memory, params = initialise(config)
    params = perturbed(params)
    ys, _ = unroll(memory, params, inputs())
    np.testing.assert_allclose(ys[:, 0], fct(config, params, inputs()[:, 0]), atol=1e-10)


@pytest.mark.parametrize("config", [TrXL(**SIZES), GTrXL(**SIZES)], ids=["trxl", "gtrxl"])
def test_transformer_xl_equations(config):
    memory, params = initialise(config)
    params = perturbed(params)
    ys, _ = unroll(memory, params, inputs())
    np.testing.assert_allclose(ys[:, 0], transformer_xl(config, params, inputs()[:, 0]), atol=1e-10)


# Positions


def test_alibi_by_hand():
    steps_back = np.array([[-1, -2, 1, 0], [0, -1, 2, 1], [1, 0, 3, 2]])
    bias = alibi(jnp.asarray(steps_back), heads=2, dtype=jnp.float64)
    np.testing.assert_allclose(bias, [[-steps_back / 16, -steps_back / 256]])


@pytest.mark.parametrize("queries", [1, 4])
def test_scores_in_order_of_time(queries):
    distances = 5
    scores = np.random.default_rng(0).standard_normal((2, 3, queries, distances))
    ordered = np.asarray(in_order_of_time(jnp.asarray(scores)))
    assert ordered.shape == (2, 3, queries, distances + queries)
    for query, distance in np.ndindex(queries, distances):
        np.testing.assert_array_equal(
            ordered[:, :, query, distances + query - distance], scores[:, :, query, distances - 1 - distance]
        )


@pytest.mark.parametrize(
    ("config", "relative"),
    [
        (FCT(**SIZES, positions="rotary"), True),
        (FCT(**SIZES, positions="alibi", sink="key_value"), True),
        (FCT(**SIZES, positions="none"), True),
        (FCT(**SIZES, positions="learned"), False),
        (FCT(**SIZES, positions="rotary", sink="key"), False),
        (TrXL(**SIZES), True),
        (GTrXL(**SIZES), True),
    ],
    ids=["rotary", "alibi-with-sink", "none", "learned", "rotary-with-sink", "trxl", "gtrxl"],
)
def test_what_a_shift_in_time_changes(config, relative):
    config = dataclasses.replace(config, layers=1)
    memory, params = initialise(config)
    params = perturbed(params)
    short = inputs(config.context)
    long = np.concatenate([inputs(8, seed=1), short])
    expected, _ = unroll(memory, params, short)

    # Positions count from the reset, whatever the clock says.
    reset = np.arange(len(long))[:, None] == 8
    np.testing.assert_allclose(unroll(memory, params, long, reset)[0][8:], expected, atol=1e-10)

    # A full window deep inside an episode looks like one at its beginning, if only distances count.
    difference = np.abs(unroll(memory, params, long)[0][-1] - expected[-1]).max()
    assert difference < 1e-10 if relative else difference > 1e-3


def test_learned_positions_end_with_the_table():
    config = FCT(**{**SIZES, "layers": 1}, positions="learned", learned_positions=4)
    memory, params = initialise(config)
    params = perturbed(params)
    window = inputs(config.context)
    after = [unroll(memory, params, np.concatenate([inputs(steps, seed=1), window]))[0][-1] for steps in (0, 2, 3, 9)]
    np.testing.assert_allclose(after[3], after[2], atol=1e-10)
    assert min(np.abs(after[0] - after[2]).max(), np.abs(after[1] - after[2]).max()) > 1e-3


@pytest.mark.parametrize(
    "law",
    [laws.gradients_reach_every_parameter, laws.capacity_and_noise_are_no_parameters],
    ids=lambda law: law.__name__,
)
def test_table_and_sink_are_learned_and_as_large_whatever_the_context(law):
    law(laws.Subject(FCT(**SIZES, positions="learned", learned_positions=6, sink="key_value")))


# Sinks


def test_a_sink_takes_part_of_the_attention():
    config = FCT(**{**SIZES, "layers": 1})
    memory, params = initialise(config)
    with_sink, with_sink_params = initialise(dataclasses.replace(config, sink="key"))
    layer = with_sink_params["layers_0"]
    np.testing.assert_array_equal(layer.pop("sink_key"), np.zeros((HEADS, FEATURES // HEADS)))
    assert jax.tree.structure(with_sink_params) == jax.tree.structure(params)

    params = perturbed(params)
    _, sown = unroll(memory, params, inputs())
    plain = np.asarray(sown["attention"][0])  # [B * spans, layers, H, K, slots]
    params["layers_0"]["sink_key"] = np.zeros((HEADS, FEATURES // HEADS))
    _, sown = unroll(with_sink, params, inputs())
    weights = np.asarray(sown["attention"][0])
    sink, tokens = weights[..., :1], weights[..., 1:]
    np.testing.assert_allclose(plain.sum(-1), 1)
    np.testing.assert_allclose(weights.sum(-1), 1)
    assert ((sink > 0.01) & (sink < 0.99)).all()
    # What the tokens get is shared out as before, so that with value 0 the attended value shrinks by 1 - sink.
    np.testing.assert_allclose(tokens, (1 - sink) * plain, atol=1e-12)
    # At first its logit is 0: the softmax has a 1 more in its denominator.
    spans = len(weights) // inputs().shape[1]
    assert spans > 1
    tokens, sink = tokens[::spans, ..., 0, :], sink[::spans, ..., 0, 0]
    np.testing.assert_allclose(tokens.max(-1) / sink, np.exp(_own_logit(params, config)))


def _own_logit(params, config):
    """The logit of the first token for itself, `[B, layers, H]`."""
    layer = params["layers_0"]
    x = rms_norm(layer["attention_norm"], dense(params["input_projection"], inputs()[0]))
    q, k, _ = dense(layer["projection"], x).reshape(1, 3, config.heads, -1).swapaxes(0, 1)
    return (q * k).sum(-1)[:, None] / np.sqrt(FEATURES // HEADS)


# Gates


def test_gate_by_hand():
    x, y = (jnp.asarray(inputs(seed=seed)) for seed in (0, 1))
    gate = Gate(INPUTS, 2.0, jnp.float64)
    params = gate.init(jax.random.key(0), x, y)["params"]
    np.testing.assert_array_equal(params["bias"], 2.0)
    params = perturbed(jax.tree.map(np.asarray, params))
    result, sown = gate.apply({"params": params}, x, y, mutable=["intermediates"])
    np.testing.assert_allclose(result, gated(params, np.asarray(x), np.asarray(y)), atol=1e-12)
    assert ((sown["intermediates"]["update"][0] > 0) & (sown["intermediates"]["update"][0] < 1)).all()


def test_gtrxl_starts_close_to_the_identity():
    def distance(gate_bias):
        memory, params = initialise(GTrXL(**SIZES, gate_bias=gate_bias))
        ys, _ = unroll(memory, params, inputs())
        x = dense(params["input_projection"], inputs())
        return np.linalg.norm(ys - x) / np.linalg.norm(x)

    assert distance(50.0) < 1e-12
    assert distance(2.0) < 0.5 < distance(0.0)


# Windows


@pytest.mark.parametrize("way", ["step", "unroll", "unrolls"])
@pytest.mark.parametrize(
    "config",
    [
        FCT(**SIZES),
        FCT(**{**SIZES, "layers": 1}, positions="alibi", sink="key"),
        TrXL(**SIZES),
        GTrXL(**{**SIZES, "layers": 1}),
    ],
    ids=["fct", "fct-one-layer", "trxl", "gtrxl-one-layer"],
)
def test_exactly_the_window_is_seen(config, way):
    """By the gradient: `context - 1` steps back a layer, however time is cut, through the state as well."""
    memory, params = initialise(config)
    params = {"params": perturbed(params)}
    resets = np.zeros((9, 2), bool)
    resets[5, 1] = True

    def outputs(xs):
        state = memory.initial_state(2)
        if way == "step":
            step = functools.partial(memory.apply, params, method="step")
            return jax.lax.scan(lambda state, now: step(state, *now), state, (xs, resets))[1].sum(-1)
        ys = []
        for piece in [slice(0, 9)] if way == "unroll" else [slice(0, 4), slice(4, 9)]:
            state, y = memory.apply(params, state, xs[piece], resets[piece], method="unroll")
            ys.append(y.sum(-1))
        return jnp.concatenate(ys)

    jacobian = np.asarray(jax.jit(jax.jacrev(outputs))(jnp.asarray(inputs(9, 2))))  # [T, B, T, B, D]
    seen = np.einsum("tbsb->tbs", (jacobian != 0).any(-1))
    time = np.arange(9)
    reach = config.layers * (config.context - 1)
    np.testing.assert_array_equal(seen, laws.since_reset(resets) & (time[:, None, None] - time <= reach))


@pytest.mark.parametrize("config", [FCT(**SIZES), TrXL(**SIZES), GTrXL(**SIZES)], ids=["fct", "trxl", "gtrxl"])
def test_the_state_is_one_window(config):
    memory, params = initialise(config)
    state = memory.initial_state(2)
    ring = (2, HEADS, config.context, FEATURES // HEADS)
    assert [cache.shape for cache in jax.tree.leaves(state.tokens)] == [ring] * 2 * config.layers

    def step(state, now):
        state, _ = memory.apply({"params": params}, state, *now, method="step")
        return state, memory.tokens_attended(state)

    resets = np.zeros((6, 2), bool)
    resets[4, 1] = True
    attended = jax.jit(functools.partial(jax.lax.scan, step))(state, (inputs(6, 2), resets))[1]
    np.testing.assert_array_equal(attended, np.transpose([[1, 2, 3, 3, 3, 3], [1, 2, 3, 3, 1, 2]]))


# Bad hyperparameters


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (FCT, {"positions": "relative"}, r"memory\.positions is 'relative': .* one of rotary, learned, alibi, none\."),
        (FCT, {"sink": "value"}, r"memory\.sink is 'value': it must be one of none, key, key_value\."),
        (FCT, {"learned_positions": 0}, r"memory\.learned_positions is 0: it must be at least 1\."),
        (FCT, {"context": 0}, r"memory\.context is 0: it must be at least 1\."),
        (TrXL, {"context": 0}, r"memory\.context is 0: it must be at least 1\."),
        (GTrXL, {"mlp_features": 0}, r"memory\.mlp_features is 0: it must be at least 1\."),
        (TrXL, {"features": 6, "heads": 4}, r"memory\.features is 6 and memory\.heads is 4: .* multiple of the heads"),
        (GTrXL, {"features": 9, "heads": 3}, r"memory\.features is 9 .* even"),
    ],
)
def test_what_cannot_be_built_is_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)
