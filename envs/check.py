"""Whether an environment keeps what training relies on: `envs.check(environment, params)`.

What an environment breaks here would not stop training but spoil it: a symbol outside its space is read as another one
or as NaN, and an episode that ends by `terminated` at the time limit teaches that nothing would have followed. So a
few random steps are taken before anything expensive is compiled.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces

COPIES = 8
"""Copies of the environment that are stepped together."""
STEPS = 32
"""Random steps of each."""
SHORT, LONG = 2, 6
"""Time limits to compare, in steps: far enough apart for environments that count from 0 or from 1."""
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Compiler options for a CPU: what runs for milliseconds need not be made fast."""
STEP_VALUES = "observation, state, reward, terminated, truncated, info"


class Steps(NamedTuple):
    """What happened to all copies."""

    first: Any
    """Observations of the reset, `[B, ..]`."""
    observation: Any
    """Observations after each step, of the next episode where one ended, `[T, B, ..]`."""
    final_observation: Any
    """Observations after each step, of the same episode, `[T, B, ..]`."""
    reward: jax.Array
    """`[T, B]`."""
    terminated: jax.Array
    """`[T, B]`, as `truncated`."""
    truncated: jax.Array


def check(environment: Any, params: Any) -> None:
    """Tries an environment out, which takes seconds.

    Checked are the values of `reset` and `step`, their shapes and types; that actions are numbered; that observations
    have the arrays that their space names; in a few random steps, that symbols and pixels are inside their space and
    numbers finite; and that reaching the time limit does not count as the end of the task. A limit that is not
    `max_steps_in_episode` of the parameters cannot be recognised as one.

    Numbers may leave their space: a policy reads them all the same, and many spaces are estimates.

    Args:
      environment: with the methods of gymnax 1.0's `Environment`.
      params: its parameters.

    Raises:
      ValueError: a sentence that names the environment and what is wrong.
    """
    name = getattr(environment, "name", type(environment).__name__)
    with jax.disable_jit(False):  # thousands of steps: they are compiled also where the rest is not
        if (problem := next(_problems(environment, params), None)) is not None:
            raise ValueError(f"{name}: {problem}")


def _problems(environment: Any, params: Any) -> Iterator[str]:
    """What is wrong, the cheapest to find out first. Each may rely on those before it not being the case."""
    if not hasattr(params, "max_steps_in_episode"):
        yield "its parameters have no max_steps_in_episode, the length of a trial."
    actions = environment.action_space(params)
    if not isinstance(actions, spaces.Discrete):
        yield f"its actions are in {actions}, but must be Discrete."
    if actions.n != environment.num_actions:
        yield f"num_actions is {environment.num_actions}, but the actions are in {actions}."
    yield from _problems_of_shapes(environment, params)
    play = _player(environment)
    yield from _problems_of_values(environment.observation_space(params), play(jax.random.key(0), params))
    if not getattr(environment, "ends_at_limit", False):
        yield from _problems_of_the_limit(play, params)


def _problems_of_shapes(environment: Any, params: Any) -> Iterator[str]:
    """What is wrong with what `reset` and `step` return; nothing is computed."""
    key = jax.random.key(0)
    returned = jax.eval_shape(environment.reset, key, params)
    if not isinstance(returned, tuple) or len(returned) != 2:
        yield "reset must return two values, observation and state."
    observation, state = returned
    yield from _problems_of_observation(environment.observation_space(params), observation)
    returned = jax.eval_shape(environment.step, key, state, jnp.int32(0), params)
    if not isinstance(returned, tuple) or len(returned) != 6:
        count = len(returned) if isinstance(returned, tuple) else 1
        yield (
            f"step returns {count} value{'s' * (count != 1)}, but must return six as in gymnax 1.0: {STEP_VALUES}. "
            "From a `done` for both, the end of the task looks like a time limit."
        )
    next_observation, next_state, reward, terminated, truncated, info = returned
    if differs := _first_difference(observation, next_observation):
        yield f"the observation{differs[0]} is {differs[1]} after reset, but {differs[2]} after step."
    if differs := _first_difference(state, next_state):
        yield f"the state{differs[0]} is {differs[1]} after reset, but {differs[2]} after step."
    if reward.shape != ():
        yield f"the reward has shape {reward.shape}, but must be a single number."
    if "final_observation" not in info:
        yield "info has no final_observation, what was observed before an episode that ended gave way to the next."
    if differs := _first_difference(observation, info["final_observation"]):
        yield f'info["final_observation"]{differs[0]} is {differs[2]}, but the observation {differs[1]}.'
    flags = {"terminated": terminated, "truncated": truncated}
    if "soft_reset" in info:
        flags['info["soft_reset"]'] = info["soft_reset"]
    for flag, value in flags.items():
        if value.shape != () or value.dtype != jnp.bool_:
            yield f"{flag} is {_described(value)}, but must be a single bool."
    for outcome in getattr(environment, "outcomes", ()):
        if outcome not in info:
            yield f"info has no {outcome!r}, which `outcomes` names."


def _problems_of_observation(space: Any, observation: Any) -> Iterator[str]:
    """What is wrong with the shape and the type of an observation."""
    try:
        expected = _space_tree(space)
    except TypeError:
        yield f"its observations are in {space}, but must be in a Box, Discrete or Dict of these."
        return
    if jax.tree.structure(observation) != jax.tree.structure(expected):
        yield (
            f"observations are in {space}, but reset returns one of another structure, "
            f"{jax.tree.structure(observation)}: a Dict needs a dict with the same names."
        )
        return
    for path, space, array in _named(expected, observation):
        if array.shape != tuple(space.shape):
            yield f"{path} has shape {array.shape}, but its space is {space}."
        if jnp.issubdtype(array.dtype, jnp.integer) != jnp.issubdtype(space.dtype, jnp.integer):
            yield f"{path} has type {array.dtype}, but its space is {space}."


def _problems_of_values(space: Any, steps: Steps) -> Iterator[str]:
    """What is wrong with what is observed, the earliest first."""
    steps = jax.tree.map(np.asarray, steps)
    expected = _space_tree(space)
    for when, observation in _in_order(steps):
        for path, space, array in _named(expected, observation):
            if not np.isfinite(array).all():
                yield f"{path} is {array[~np.isfinite(array)][0]} {when}; numbers must be finite."
            if jnp.issubdtype(space.dtype, jnp.integer):
                low, high = (0, space.n - 1) if isinstance(space, spaces.Discrete) else (space.low, space.high)
                outside = (array < np.asarray(low)) | (array > np.asarray(high))
                if outside.any():
                    yield (
                        f"{path} is {array[outside][0]} {when}, which is not in its space, {space}. "
                        "A policy would read it as another symbol or as NaN."
                    )
    if not np.isfinite(steps.reward).all():
        step = int(np.flatnonzero(~np.isfinite(steps.reward).all(axis=1))[0])
        yield f"the reward is {steps.reward[step][~np.isfinite(steps.reward[step])][0]} after {_steps(step + 1)}."


def _problems_of_the_limit(play: Callable[..., Steps], params: Any) -> Iterator[str]:
    """Whether episodes terminate by the time limit: where they do, termination follows a change of the limit.

    The same random steps are taken with two limits. Where an episode ends by the task, it ends as well with the later.
    """

    def first_ends(limit: int) -> tuple[np.ndarray, np.ndarray]:
        steps = np.asarray(limit, jnp.result_type(params.max_steps_in_episode))
        return _first_ends(play(jax.random.key(1), dataclasses.replace(params, max_steps_in_episode=steps)))

    (short, short_terminated), (long, _) = first_ends(SHORT), first_ends(LONG)
    for step in range(SHORT + 1):
        going = short >= step
        by_limit = going & (short == step) & short_terminated & (long > step)
        if going.any() and by_limit[going].all():
            yield (
                "`terminated` becomes true at max_steps_in_episode, so a policy would learn that nothing is worth "
                "anything beyond this limit. Leave the limit to `truncated`, which gymnax 1.0 sees to where step_env "
                "and is_terminated are about the task alone. If the task itself ends after so many steps, let the "
                "environment say so: ends_at_limit = True."
            )
            return


def _first_ends(steps: Steps) -> tuple[np.ndarray, np.ndarray]:
    """For each copy the step, from 0, with which its first episode ended (`STEPS` if none), and if by `terminated`."""
    terminated = np.asarray(steps.terminated)
    done = terminated | np.asarray(steps.truncated)
    first = np.where(done.any(axis=0), done.argmax(axis=0), STEPS)
    return first, terminated[np.minimum(first, STEPS - 1), np.arange(COPIES)]


def _player(environment: Any) -> Callable[[jax.Array, Any], Steps]:
    """A compiled function from a key and parameters to random steps."""

    num_actions = environment.num_actions  # outside of what is traced: it may make arrays

    @functools.partial(jax.jit, compiler_options=QUICK if jax.default_backend() == "cpu" else None)
    def play(key: jax.Array, params: Any) -> Steps:
        def one(key: jax.Array) -> Any:
            key_reset, key_steps = jax.random.split(key)
            first, state = environment.reset(key_reset, params)
            return first, jax.lax.scan(step, state, jax.random.split(key_steps, STEPS))[1]

        def step(state: Any, key: jax.Array) -> tuple[Any, Any]:
            key_action, key_step = jax.random.split(key)
            action = jax.random.randint(key_action, (), 0, num_actions)
            observation, state, reward, terminated, truncated, info = environment.step(key_step, state, action, params)
            return state, (observation, info["final_observation"], reward, terminated, truncated)

        first, steps = jax.lax.map(one, jax.random.split(key, COPIES))
        return Steps(first, *jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), steps))

    return play


def _in_order(steps: Steps) -> Iterator[tuple[str, Any]]:
    """The observations of all copies in the order of their time, and when they were made."""
    yield "after reset", steps.first
    for step in range(STEPS):
        for observation in (steps.final_observation, steps.observation):
            yield f"after {_steps(step + 1)}", jax.tree.map(lambda leaf, step=step: leaf[step], observation)


def _steps(count: int) -> str:
    return f"{count} random step{'s' * (count != 1)}"


def _space_tree(space: Any) -> Any:
    """The spaces of an observation's arrays, a pytree like it; TypeError for what a policy cannot read."""
    if isinstance(space, spaces.Dict):
        return {name: _space_tree(part) for name, part in space.spaces.items()}
    if not isinstance(space, spaces.Box | spaces.Discrete):
        raise TypeError
    return space


def _named(expected: Any, observation: Any) -> Iterator[tuple[str, Any, Any]]:
    """Each array of an observation: what it is called, its space, the array."""
    for (path, space), array in zip(
        jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(observation), strict=True
    ):
        yield f"the observation{jax.tree_util.keystr(path)}", space, array


def _first_difference(one: Any, other: Any) -> tuple[str, str, str] | None:
    """Where two trees of shapes differ first: the path, and both; None if they are the same."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return "", str(jax.tree.structure(one)), str(jax.tree.structure(other))
    for (path, before), after in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        if (before.shape, before.dtype) != (after.shape, after.dtype):
            return jax.tree_util.keystr(path), _described(before), _described(after)
    return None


def _described(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}"
