"""What a program is said to need before it is compiled is what XLA then gives out."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from memrl.footprint import footprint, tree_bytes
from memrl.sharding import AXIS, device_mesh

WIDTH, ROWS, LAYERS, STEPS = 64, 1024, 5, 16
ARRAY = ROWS * WIDTH * 4
"""Bytes of the arrays that count."""
WEIGHTS = jnp.zeros((LAYERS, WIDTH, WIDTH))
X = jnp.zeros((ROWS, WIDTH))


def forward(weights, x):
    for index in range(LAYERS):
        x = jnp.tanh(x @ weights[index])
    return jnp.square(x).sum()


def forward_in_a_loop(weights, x):
    return jnp.square(jax.lax.scan(lambda x, weight: (jnp.tanh(x @ weight), None), x, weights)[0]).sum()


def over_time(weight, xs):
    """A recurrence whose states are all kept for the gradient."""
    return jnp.square(jax.lax.scan(lambda h, x: (jnp.tanh(h @ weight + x),) * 2, X, xs)[1]).sum()


def count(state):
    """Changes its argument in place, as often as there are steps."""
    return jax.lax.scan(lambda state, _: (jnp.sin(state), None), state, length=STEPS)[0]


def until(weight, x):
    return jax.lax.while_loop(lambda x: x.sum() < 0, lambda x: jnp.cos(x @ weight), x)


PROGRAMS = {
    "gradient": (jax.jit(jax.grad(forward)), (WEIGHTS, X)),
    "gradient of a loop": (jax.jit(jax.grad(forward_in_a_loop)), (WEIGHTS, X)),
    "gradient over time": (jax.jit(jax.grad(over_time)), (WEIGHTS[0], jnp.zeros((STEPS, ROWS, WIDTH)))),
    "recomputed": (jax.jit(jax.grad(jax.checkpoint(forward_in_a_loop))), (WEIGHTS, X)),
    "donated": (jax.jit(count, donate_argnums=0), (X,)),
    "not donated": (jax.jit(count), (X,)),
    "until": (jax.jit(until), (WEIGHTS[0], X)),
    "bfloat16": (jax.jit(jax.grad(forward)), (WEIGHTS.astype(jnp.bfloat16), X.astype(jnp.bfloat16))),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_agrees_with_what_xla_gives_out(name):
    program, arguments = PROGRAMS[name]
    needed = footprint(program, *arguments)
    plan = program.lower(*arguments).compile().memory_analysis()
    planned = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    planned += plan.temp_size_in_bytes
    assert needed.arguments == plan.argument_size_in_bytes
    assert planned / 1.5 < needed.total < planned * 1.5, needed.total / planned


def test_what_is_kept_for_a_gradient_counts():
    """By hand: each layer's output, and of those beyond one forward pass needs no more than two at a time."""
    kept = LAYERS * ARRAY
    forwards, backwards = (footprint(program, WEIGHTS, X) for program in (jax.jit(forward), PROGRAMS["gradient"][0]))
    assert forwards.temporaries < 3 * ARRAY
    assert kept <= backwards.temporaries <= kept + 2 * ARRAY + WEIGHTS.nbytes


def test_what_is_donated_is_changed_in_place():
    donated, not_donated = (footprint(PROGRAMS[name][0], X) for name in ("donated", "not donated"))
    assert not_donated.total == donated.total + ARRAY
    assert tree_bytes({"x": X, "key": jax.random.key(0)}) == ARRAY + 8


def test_one_of_several_devices_is_given_its_part():
    split = PartitionSpec(AXIS)
    program = jax.jit(jax.shard_map(jnp.sin, mesh=device_mesh(2), in_specs=split, out_specs=split))
    assert footprint(program, X) == (ARRAY // 2, ARRAY // 2)


def test_what_no_machine_could_hold_is_only_counted():
    """Shapes will do, however large."""
    weights, x = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((10**6, 10**6), (10**9, 10**6)))
    needed = footprint(jax.jit(lambda weights, x: (x @ weights).sum()), weights, x)
    assert needed.arguments == 4 * (10**12 + 10**15) and needed.temporaries >= 4 * 10**15
