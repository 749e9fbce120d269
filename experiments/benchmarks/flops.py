"""Counts the arithmetic of a program from what JAX has traced.

XLA's own count (`compiled.cost_analysis()`) is of no use here: it counts the body of a loop once, however often it
runs, and a policy lives in loops.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
from jax.extend import core


def matmul_flops(function: Callable[..., Any], *arguments: Any, branches: Literal["cheapest", "dearest"]) -> int:
    """Floating-point operations of all matrix products in `function(*arguments)`, over all devices.

    Everything else (activations, softmax, the environment, the optimiser) is left out. A product of `[m, k]` and
    `[k, n]` is 2 m k n operations.

    Args:
      arguments: arrays, or their shapes.
      branches: which side of a condition is counted, since it is not known how often it holds.

    Raises:
      NotImplementedError: there is a product in a loop without a fixed length.
    """
    choose = {"cheapest": min, "dearest": max}[branches]

    def count(jaxpr: core.Jaxpr) -> int:
        return sum(map(count_equation, jaxpr.eqns))

    def count_equation(equation: core.JaxprEqn) -> int:
        name, inner = equation.primitive.name, [count(jaxpr) for jaxpr in _inner_jaxprs(equation)]
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left: Any = equation.invars[0].aval  # an array's, as the primitive says
            result: Any = equation.outvars[0].aval
            return 2 * math.prod(result.shape) * math.prod(left.shape[axis] for axis in contracted)
        if name == "cond":
            return choose(inner)
        if name == "scan":
            return equation.params["length"] * sum(inner)
        if name == "shard_map":
            return equation.params["mesh"].size * sum(inner)
        if name == "while" and any(inner):
            raise NotImplementedError("A loop without a fixed length has matrix products: they cannot be counted.")
        return sum(inner)

    return count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _inner_jaxprs(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The programs inside an equation: bodies of loops, branches, functions that it calls."""
    for value in jax.tree.leaves(
        list(equation.params.values()), is_leaf=lambda value: isinstance(value, core.Jaxpr | core.ClosedJaxpr)
    ):
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value
