"""How much memory a program needs on a device, found out from its trace: nothing is compiled, nothing allocated.

XLA knows only after it has compiled, and by then a process that asks for more than there is has been killed, or is
about to be. Here the equations of the traced program are followed in their order: an array is there from the equation
that makes it to the last one that reads it, and the most bytes there at once are what the program needs. Three things
are taken over from XLA, without which the sum is far off:

- comparisons, broadcasts and reshapes are computed where they are read, so that what *they* read stays instead;
- what an elementwise operation or a loop makes takes the place of what it reads for the last time;
- what a loop carries, and what is donated to a program, is changed in place.

Other elementwise operations count as if none of them were fused. XLA fuses many, and makes copies that no trace shows;
`experiments.benchmark --footprints all` measures how far that is off.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

FUSED = frozenset(
    [
        *("eq", "ne", "ge", "gt", "le", "lt", "and", "or", "not", "is_finite"),
        *("iota", "broadcast_in_dim", "reshape", "squeeze", "expand_dims"),
    ]
)
"""Primitives that are computed where their result is read."""
FUSED_WITH_SCALARS = frozenset(["add", "sub", "mul", "div", "neg", "convert_element_type"])
"""Primitives that are too, where all but one of what they read are scalars."""
NOT_IN_PLACE = frozenset(("dot_general", "conv_general_dilated", "cond"))
"""Primitives whose results never take the place of what they read."""


class Footprint(NamedTuple):
    """Bytes on one device."""

    arguments: int
    """What a program is given."""
    temporaries: int
    """What else is there at the worst moment, results that do not take an argument's place included."""

    @property
    def total(self) -> int:
        """Both together."""
        return self.arguments + self.temporaries


def footprint(program: Any, *arguments: Any) -> Footprint:
    """The memory that a program needs on each device.

    Args:
      program: a jitted function, sharded or not. If it donates its first argument, its first result has the same
        leaves, and takes its place.
      arguments: arrays, or their shapes. One of several devices is given its part only.
    """
    traced = program.trace(*arguments)
    donated = sum(info.donated for info in jax.tree.leaves(traced.args_info))
    jaxpr = _of_one_device(traced.jaxpr.jaxpr)
    given = sum(_bytes(variable.aval, on_cpu=False) for variable in jaxpr.invars)
    return Footprint(given, _most_made(jaxpr, [(index, index) for index in range(donated)]))


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays, or of all shapes, in a tree."""
    return sum(_bytes(leaf, on_cpu=False) for leaf in jax.tree.leaves(tree))


@dataclasses.dataclass(eq=False)
class _Array:
    """An array in a program."""

    bytes: int


@dataclasses.dataclass(eq=False)
class _Step:
    """An equation of a program, calls replaced by what they call."""

    equation: core.JaxprEqn
    reads: list[_Array]
    makes: list[_Array]

    @property
    def name(self) -> str:
        return self.equation.primitive.name


def _most_made(jaxpr: core.Jaxpr, in_place: Sequence[tuple[int, int]] = ()) -> int:
    """The most bytes that are there at once, beyond the arguments.

    Args:
      in_place: pairs of an argument and a result, by their numbers, that have one place.
    """
    arrays = {variable: _Array(_bytes(variable.aval)) for variable in (*jaxpr.invars, *jaxpr.constvars)}
    steps = list(_steps(jaxpr, arrays))
    results = [arrays.get(variable) if isinstance(variable, core.Var) else None for variable in jaxpr.outvars]

    needs: dict[_Array, list[_Array]] = {}  # what has to be there for an array that is fused to be read
    made_at: dict[_Array, int] = {}
    last_read: dict[_Array, int] = {}
    for time, step in enumerate(steps):
        read = list(dict.fromkeys(source for array in step.reads for source in needs.get(array, [array])))
        last_read.update(dict.fromkeys(read, time))
        if _is_fused(step) and step.makes[0] not in results:
            needs[step.makes[0]] = read
        made_at.update(dict.fromkeys(step.makes, time))
    last_read.update({array: len(steps) for array in results if array is not None})

    placed = set()  # results that need no place of their own
    for argument, result in in_place:
        array, given = results[result], arrays[jaxpr.invars[argument]]
        if array in made_at and last_read.get(given, -1) <= made_at[array]:
            placed.add(array)
    ends: dict[int, list[_Array]] = {}
    for array, time in last_read.items():
        ends.setdefault(time, []).append(array)

    there: dict[_Array, int] = {}
    now = most = 0
    for time, step in enumerate(steps):
        made = {array: array.bytes for array in step.makes if array not in needs and array not in placed}
        new = sum(made.values())
        over = sum(there.get(array, 0) for array in ends.get(time, ()))
        reused = 0 if step.name in NOT_IN_PLACE else min(new, over)
        most = max(most, now + new - reused + _inside(step, new))
        there.update({array: size for array, size in made.items() if array in last_read})
        now += sum(size for array, size in made.items() if array in last_read)
        now -= sum(there.pop(array, 0) for array in ends.get(time, ()))
    return most


def _is_fused(step: _Step) -> bool:
    avals: list[Any] = [variable.aval for variable in step.equation.invars]
    arrays = sum(aval.ndim > 0 for aval in avals)
    return step.name in FUSED or (step.name in FUSED_WITH_SCALARS and arrays == 1)


def _inside(step: _Step, new: int) -> int:
    """Bytes that are there only while an equation is computed; `new` are those of its results."""
    parameters = step.equation.params
    match step.name:
        case "scan":
            first = parameters["num_consts"]
            carried = [(first + index, index) for index in range(parameters["num_carry"])]
            return _most_made(parameters["jaxpr"].jaxpr, carried)
        case "while":
            body, first = parameters["body_jaxpr"].jaxpr, parameters["body_nconsts"]
            return _most_made(body, [(first + index, index) for index in range(len(body.outvars))])
        case "cond":
            return max(0, *(_most_made(branch.jaxpr) - new for branch in parameters["branches"]))
        case "dot_general":
            return _transposed(step.equation)
    return 0


def _transposed(equation: core.JaxprEqn) -> int:
    """Bytes of the copies of what is multiplied, where its axes are not in the order that matrix products want."""
    (contracted, _), (_, batch) = equation.params["dimension_numbers"]
    avals: list[Any] = [variable.aval for variable in equation.invars]
    left, right = avals
    last_axes = tuple(range(left.ndim - len(contracted), left.ndim))
    copied_left = _bytes(left) if tuple(contracted) != last_axes else 0
    return copied_left + (_bytes(right) if tuple(batch) != tuple(range(len(batch))) else 0)


def _steps(jaxpr: core.Jaxpr, arrays: dict[core.Var, _Array]) -> Iterator[_Step]:
    """The equations in order. `arrays` has those of the arguments, and is given those of all other variables."""
    for equation in jaxpr.eqns:
        reads = [arrays[variable] if isinstance(variable, core.Var) else None for variable in equation.invars]
        called = list(_programs(equation))
        is_call = equation.primitive.name not in ("scan", "while", "cond") and len(called) == 1
        if is_call and len(called[0].invars) == len(reads):
            (inner,) = called
            own = {variable: _Array(_bytes(variable.aval)) for variable in (*inner.invars, *inner.constvars)}
            own.update({variable: array for variable, array in zip(inner.invars, reads, strict=True) if array})
            yield from _steps(inner, own)
            for variable, result in zip(equation.outvars, inner.outvars, strict=True):
                arrays[variable] = own[result] if isinstance(result, core.Var) else _Array(0)
        else:
            makes = [_Array(_bytes(variable.aval)) for variable in equation.outvars]
            arrays.update(zip(equation.outvars, makes, strict=True))
            yield _Step(equation, [array for array in reads if array], makes)


def _programs(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The programs among the parameters of an equation."""
    for value in jax.tree.leaves(
        list(equation.params.values()), is_leaf=lambda value: isinstance(value, core.Jaxpr | core.ClosedJaxpr)
    ):
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value


def _of_one_device(jaxpr: core.Jaxpr) -> core.Jaxpr:
    """What one device computes of a program that is nothing but a call, such as one that is split over devices."""
    if len(jaxpr.eqns) == 1 and jaxpr.eqns[0].primitive.name in ("jit", "pjit", "shard_map"):
        return _of_one_device(next(_programs(jaxpr.eqns[0])))
    return jaxpr


def _bytes(array: Any, on_cpu: bool | None = None) -> int:
    """Bytes of an array, or of its shape. XLA computes 16-bit floats in 32 bits on a CPU."""
    dtype = getattr(array, "dtype", None)
    if dtype is None:  # a token
        return 0
    on_cpu = jax.default_backend() == "cpu" if on_cpu is None else on_cpu
    widened = on_cpu and dtype.name in ("bfloat16", "float16")
    return math.prod(array.shape) * dtype.itemsize * (2 if widened else 1)
