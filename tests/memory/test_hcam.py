"""HCAM computes its published read, over chunks that are kept, dropped and cut by resets as its docstring says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import dense, gelu, rms_norm, rotated, softmax

from memrl.memory import HCAM
from memrl.memory.chunk_attention import ChunkAttention, Chunks, summarise

TINY = {"features": 8, "layers": 1, "heads": 2, "mlp_features": 8}
INPUTS = 3


@pytest.fixture
def float64():
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


def parameters(config, dtype=jnp.float64):
    """The memory and its parameters, moved from where they were initialised."""
    memory = config.build(dtype)
    x, reset = jnp.zeros((1, INPUTS), dtype), jnp.zeros(1, bool)
    params = jax.jit(lambda: memory.init(jax.random.key(0), memory.initial_state(1), x, reset, method="step"))()
    rng = np.random.default_rng(0)
    return memory, jax.tree.map(lambda p: p + jnp.asarray(0.2 * rng.standard_normal(p.shape), p.dtype), params)


def unroll(memory, params, xs, resets=None, state=None):
    """State, outputs and intermediates of an unroll, from an empty memory unless there is a state."""
    resets = jnp.zeros(xs.shape[:2], bool) if resets is None else jnp.asarray(resets)
    state = memory.initial_state(xs.shape[1]) if state is None else state
    run = jax.jit(functools.partial(memory.apply, method="unroll", mutable="intermediates"))
    (state, ys), sown = run(params, state, jnp.asarray(xs), resets)
    return state, np.asarray(ys), sown["intermediates"]


# The read


def read(form=None, *, heads=2, top_k=3, **changes):
    """A read of 6 random chunks by 5 queries: the result; what it is made from, after `changes`; and the parameters."""
    batch, queries, chunks, length, features = 2, 5, 6, 4, 8
    rng = np.random.default_rng(0)
    made = {
        "queries": rng.standard_normal((batch, queries, features)),
        "contents": rng.standard_normal((batch, chunks, length, features)),
        "summaries": rng.standard_normal((batch, chunks, features)),
        "numbers": np.arange(chunks, dtype=np.int32),
        "first_row": rng.integers(0, length + 1, (batch, queries, chunks), np.int32),
    }
    made = {name: jnp.asarray(changes[name](value) if name in changes else value) for name, value in made.items()}
    module = ChunkAttention(features, heads, top_k, jnp.float64)
    arguments = made["queries"], Chunks(made["contents"], made["summaries"], made["numbers"]), made["first_row"]
    params = jax.tree.map(
        lambda p: jnp.asarray(0.5 * rng.standard_normal(p.shape)),
        jax.eval_shape(module.init, jax.random.key(0), *arguments),
    )
    return jax.jit(lambda: module.apply(params, *arguments, form))(), made, params["params"]


def published_read(params, query, contents, summaries, first_row, heads, top_k):
    """The equations once more, for one query: contents `[N, C, D]`, `first_row` `[N]`."""
    p = {name: np.asarray(value) for name, value in params.items()}
    length, features = contents.shape[1:]
    seen = [n for n in range(len(contents)) if first_row[n] < length]
    if not seen:
        return np.zeros(features)
    relevance = {n: (query @ p["relevance_query"]) @ (summaries[n] @ p["relevance_key"]) for n in seen}
    best = sorted(seen, key=relevance.get, reverse=True)[:top_k]
    weights = softmax(np.array([relevance[n] for n in best]) / np.sqrt(features))
    result = np.zeros(features)
    for weight, n in zip(weights, best, strict=True):
        age = np.arange(length - 1, -1, -1)[:, None]
        angles = age / 10_000 ** (np.arange(0, features, 2) / features)
        rows = (contents[n] + np.concatenate([np.sin(angles), np.cos(angles)], axis=1))[first_row[n] :]
        mixed = []
        for head in np.split(np.arange(features), heads):
            logits = (rows @ p["key"][:, head]) @ (query @ p["query"] + p["query_bias"])[head]
            values = rows @ p["value"][:, head] + p["value_bias"][head]
            mixed.append(softmax(logits / np.sqrt(len(head))) @ values)
        result += weight * (np.concatenate(mixed) @ p["output"] + p["output_bias"])
    return result


@pytest.mark.parametrize("form", ["gather", "dense"])
@pytest.mark.parametrize(("heads", "top_k"), [(1, 1), (2, 3), (4, 9)])
def test_both_forms_of_the_read_are_the_published_one(float64, form, heads, top_k):
    (result, *_), made, params = read(form, heads=heads, top_k=top_k)
    made = {name: np.asarray(value) for name, value in made.items()}
    for b, q in np.ndindex(result.shape[:2]):
        expected = published_read(
            params, made["queries"][b, q], made["contents"][b], made["summaries"][b], made["first_row"][b, q],
            heads, top_k,
        )  # fmt: skip
        np.testing.assert_allclose(result[b, q], expected, atol=1e-12)


@pytest.mark.parametrize("form", ["gather", "dense"])
def test_a_read_of_nothing_is_exactly_zero_and_what_is_masked_makes_no_difference(float64, form):
    masked = np.zeros((2, 5, 6), bool)
    masked[0], masked[1, :, 3:] = True, True

    def run(garbage):
        return read(
            form,
            first_row=lambda row: np.where(masked, 4, np.minimum(row, 3)),
            contents=lambda c: np.where(masked[:, 0, :, None, None], garbage, c),
            summaries=lambda s: np.where(masked[:, 0, :, None], -garbage, s),
        )[0]

    result, weights, _ = run(1.0)
    assert (result[0] == 0).all() and (weights[0] == 0).all()
    assert (result[1] != 0).all()
    np.testing.assert_allclose(weights[1].sum(axis=-1), 1)
    np.testing.assert_array_equal(run(1e30)[0], result)


def test_the_most_relevant_chunks_are_read_and_the_newest_of_equals(float64):
    (_, weights, numbers), made, params = read(first_row=np.zeros_like, top_k=2)
    relevance = np.einsum(
        "bqd,bnd->bqn", made["queries"] @ params["relevance_query"], made["summaries"] @ params["relevance_key"]
    ) / np.sqrt(8)
    np.testing.assert_array_equal(numbers, np.argsort(-relevance, axis=-1)[..., :2])
    best = np.take_along_axis(relevance, np.asarray(numbers), axis=-1)
    np.testing.assert_allclose(weights, np.exp(best) / np.exp(best).sum(axis=-1, keepdims=True))

    alike = {"first_row": np.zeros_like, "summaries": lambda s: s[:, :1] + 1e-7 * s}
    (_, weights, numbers), *_ = read(top_k=2, numbers=lambda n: (n + 3) % 6, **alike)
    np.testing.assert_array_equal(numbers, np.broadcast_to([5, 4], numbers.shape))
    np.testing.assert_allclose(weights, 0.5, atol=1e-5)


@pytest.mark.parametrize(("queries", "chunks", "form"), [(1, 5, "gather"), (40, 4, "dense"), (40, 16, "gather")])
def test_the_cheaper_form_is_taken(queries, chunks, form):
    """Many chunks are not projected for the sake of a few; in acting, none is."""
    module = ChunkAttention(features=8, heads=2, top_k=4, dtype=jnp.float32)
    contents = Chunks(jnp.zeros((1, chunks, 3, 8)), jnp.zeros((1, chunks, 8)), jnp.arange(chunks, dtype=jnp.int32))
    arguments = jnp.zeros((1, queries, 8)), contents, jnp.zeros((1, queries, chunks), jnp.int32)
    jaxpr = jax.make_jaxpr(module.init)(jax.random.key(0), *arguments)
    projected = f"1,{chunks},3,8] = dot_general"
    assert (projected in str(jaxpr)) == (form == "dense")


def test_a_summary_is_the_mean_of_what_is_visible():
    contents = jnp.arange(12.0).reshape(1, 2, 3, 2)
    visible = jnp.array([[[False, True, True], [False, False, False]]])
    np.testing.assert_array_equal(summarise(contents, visible), [[[3.0, 4.0], [0.0, 0.0]]])


# The memory


def remembered_in_full(config, params, xs, resets):
    """The algorithm for one environment, with nothing ever dropped from the lists it keeps: outputs `[T, D]`."""
    p = jax.tree.map(np.asarray, params["params"])
    layers = [p[f"layers_{number}"] for number in range(config.layers)]
    keys, values, contents = ([[] for _ in layers] for _ in range(3))
    first, length, ys = 0, config.chunk_length, []
    for t, (inputs, reset) in enumerate(zip(xs, resets, strict=True)):
        first = t if reset else first
        x = dense(p["input_projection"], inputs)
        for number, layer in enumerate(layers):
            query, key, value = np.split(rms_norm(layer["attention_norm"], x) @ layer["projection"]["kernel"], 3)
            keys[number].append(rotated(key.reshape(config.heads, -1), t - first))
            values[number].append(value.reshape(config.heads, -1))
            span = range(max(first, t - config.window + 1), t + 1)
            query = rotated(query.reshape(config.heads, -1), t - first) / np.sqrt(config.features // config.heads)
            attended = [
                softmax(np.array([keys[number][s][head] @ query[head] for s in span]))
                @ np.array([values[number][s][head] for s in span])
                for head in range(config.heads)
            ]
            x = x + np.concatenate(attended) @ layer["attention_output"]["kernel"]

            h = rms_norm(layer["read_norm"], x)
            open_chunk = t // length
            closed = range(max(0, open_chunk - config.capacity), open_chunk)
            if closed:
                chunks = np.array([contents[number][c * length : (c + 1) * length] for c in closed])
                first_row = np.clip([first - c * length for c in closed], 0, length)
                summaries = [
                    rows[row:].mean(axis=0) if row < length else rows[0]
                    for rows, row in zip(chunks, first_row, strict=True)
                ]
                x = x + published_read(
                    layer["chunk_attention"], h, chunks, summaries, first_row, config.heads, config.top_k
                )
            contents[number].append(h)

            gate, value = np.split(rms_norm(layer["mlp_norm"], x) @ layer["mlp_input"]["kernel"], 2)
            x = x + (gelu(gate) * value) @ layer["mlp_output"]["kernel"]
        ys.append(rms_norm(p["final_norm"], x))
    return np.array(ys)


def test_the_memory_is_the_algorithm_written_out(float64):
    """Windows, chunks cut by resets, chunks that are dropped: from two unrolls whose border is inside a chunk."""
    config = HCAM(**{**TINY, "layers": 2}, window=7, chunk_length=5, top_k=2, capacity=3)
    memory, params = parameters(config)
    xs = np.random.default_rng(1).standard_normal((36, 2, INPUTS))
    resets = np.zeros((36, 2), bool)
    resets[[8, 11], 1] = True
    state, begun, _ = unroll(memory, params, xs[:18], resets[:18])
    _, continued, _ = unroll(memory, params, xs[18:], resets[18:], state)
    for row in range(2):
        expected = remembered_in_full(config, params, xs[:, row], resets[:, row])
        np.testing.assert_allclose(np.concatenate([begun, continued])[:, row], expected, atol=1e-10)


def test_the_newest_chunks_are_kept_and_older_ones_have_no_effect(float64):
    """A step is felt in the window, then through the chunks that hold it or what saw it, until they are dropped."""
    config = HCAM(**TINY, window=5, chunk_length=4, top_k=9, capacity=2)
    memory, params = parameters(config)
    xs = np.random.default_rng(1).standard_normal((24, 1, INPUTS))
    times = np.arange(24)
    outputs = unroll(memory, params, np.broadcast_to(xs, (24, 25, INPUTS)) + _bumps(24))[1]
    for step in times:
        changed = (np.abs(outputs[:, step] - outputs[:, -1]) > 1e-9).any(axis=-1)
        in_window = (times >= step) & (times < step + config.window)
        chunks = range(step // 4, (step + config.window - 1) // 4 + 1)
        in_chunk = np.any([(times // 4 > c) & (times // 4 <= c + config.capacity) for c in chunks], axis=0)
        np.testing.assert_array_equal(changed, in_window | in_chunk)


def _bumps(steps):
    """`[T, T + 1, D]`: in row `i`, something is added at step `i` alone; nothing in the last."""
    return np.concatenate([np.eye(steps), np.zeros((steps, 1))], axis=1)[..., None] * np.ones(INPUTS)


def test_no_gradient_flows_into_what_is_remembered(float64):
    """Neither into the state nor into earlier inputs, except through the window; the read learns all the same."""
    config = HCAM(**TINY, window=4, chunk_length=4, top_k=2, capacity=3)
    memory, params = parameters(config)
    xs = jnp.asarray(np.random.default_rng(1).standard_normal((12, 2, INPUTS)))
    state, *_ = unroll(memory, params, xs)
    resets = jnp.zeros((12, 2), bool)

    @functools.partial(jax.grad, argnums=(0, 1, 2), allow_int=True)
    def gradients(params, state, xs):
        return memory.apply(params, state, xs, resets, method="unroll")[1][8:].sum()

    by_params, by_state, by_inputs = jax.jit(gradients)(params, state, xs)
    assert all((leaf == 0).all() for leaf in (by_state.layers[0].contents, by_state.layers[0].summaries))
    reached = (by_inputs != 0).any(axis=(1, 2))
    np.testing.assert_array_equal(reached, np.arange(12) >= 8 - (config.window - 1))
    assert all((leaf != 0).all() for leaf in jax.tree.leaves(by_params["params"]["layers_0"]["chunk_attention"]))


def test_bad_inputs_of_an_earlier_episode_spoil_neither_outputs_nor_gradients(float64):
    config = HCAM(**TINY, window=6, chunk_length=4, top_k=2, capacity=3)
    memory, params = parameters(config)
    xs = np.random.default_rng(1).standard_normal((16, 2, INPUTS))
    state, *_ = unroll(memory, params, np.where(np.arange(16)[:, None, None] % 5 == 4, np.nan, xs))
    resets = jnp.zeros((16, 2), bool).at[0].set(True)

    def loss(params, state):
        return (memory.apply(params, state, jnp.asarray(xs), resets, method="unroll")[1] ** 2).sum()

    gradient = jax.jit(jax.grad(loss))
    actual, expected = gradient(params, state), gradient(params, memory.initial_state(2))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-9), actual, expected)


def test_static_inputs_are_learned_as_they_were_acted():
    """All chunks of an episode are then equally relevant, its first one, which is cut, included."""
    config = HCAM(**TINY, window=8, chunk_length=8, top_k=2, capacity=8)
    memory, params = parameters(config, dtype=jnp.float32)
    xs = jnp.broadcast_to(jnp.arange(1.0, 1 + INPUTS), (40, 4, INPUTS))
    resets = jnp.zeros((40, 4), bool).at[jnp.arange(1, 8, 2), jnp.arange(4)].set(True)
    _, learned, sown = unroll(memory, params, xs, resets)

    def step(state, inputs):
        return memory.apply(params, state, *inputs, method="step")

    _, acted = jax.jit(lambda: jax.lax.scan(step, memory.initial_state(4), (xs, resets)))()
    np.testing.assert_allclose(learned, acted, atol=1e-5)
    (chunks,) = sown["chunks"]
    assert (chunks[:, 0, -1] == jnp.array([[3, 2]])).all()


def test_what_was_read_can_be_collected(float64):
    config = HCAM(**TINY, window=5, chunk_length=4, top_k=2, capacity=3)
    memory, params = parameters(config)
    xs = np.random.default_rng(1).standard_normal((10, 2, INPUTS))
    resets = np.zeros((10, 2), bool)
    resets[5, 1] = True
    sown = unroll(memory, params, xs, resets)[2]
    (chunks,), (relevance,) = sown["chunks"], sown["relevance"]
    seen = np.sort(chunks[:, 0, :10], axis=-1)
    none, one, both = [-1, -1], [-1, 0], [0, 1]
    np.testing.assert_array_equal(seen[0], [none] * 4 + [one] * 4 + [both] * 2)
    np.testing.assert_array_equal(seen[1], [none] * 4 + [one] + [none] * 3 + [[-1, 1]] * 2)
    np.testing.assert_allclose(relevance.sum(axis=-1), (chunks >= 0).any(axis=-1))
    assert sown["attention"][0].shape == (2 * 2, 1, 2, 5, 5 + 5)


def test_tokens_attended():
    """The window; then, for each chunk seen, its summary; and the steps of at most `top_k` chunks."""
    memory = HCAM(**TINY, window=5, chunk_length=4, top_k=2, capacity=3).build()
    state = memory.initial_state(2)
    assert memory.tokens_attended(state).tolist() == [0, 0]
    expected = {1: 1, 4: 4, 5: 5 + 1 + 4, 8: 5 + 1 + 4, 9: 5 + 2 + 8, 13: 5 + 3 + 8, 17: 5 + 3 + 8, 1000: 5 + 3 + 8}
    for clock, tokens in expected.items():
        assert memory.tokens_attended(state.replace(clock=jnp.int32(clock))).tolist() == [tokens] * 2
    begun = state.replace(clock=jnp.int32(11), first=jnp.array([6, 8]))
    assert memory.tokens_attended(begun).tolist() == [5 + 1 + 4, 3]


def test_capacity_is_what_the_span_needs():
    config = HCAM(chunk_length=16)
    for steps, capacity in ((1, 1), (16, 1), (32, 1), (33, 2), (500, 31)):
        assert config.with_capacity(steps).capacity == capacity


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 0}, r"memory\.top_k is 0: it must be at least 1\."),
        ({"chunk_length": 0}, r"memory\.chunk_length is 0: it must be at least 1\."),
        ({"capacity": 0}, r"memory\.capacity is 0: it must be at least 1\."),
        ({"window": 15}, r"memory\.window is 15 and memory\.chunk_length 16: the window must be at least as long"),
        ({"features": 63}, r"memory\.features is 63 and memory\.heads is 4"),
        ({"features": 12}, r"memory\.features is 12 and memory\.heads is 4"),
    ],
)
def test_bad_parameters_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HCAM(**settings)
