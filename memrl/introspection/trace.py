"""What happens in a memory, step by step: what is attended to, and how far gates are open."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memrl.environment import hooks
from memrl.evaluation.recording import Recording, in_one_trial
from memrl.memory.base import Attention, Memory, State
from memrl.networks import ActorCritic
from memrl.rollout import ActorState, initial_actor_state, rollout


class Gate(NamedTuple):
    """How far a gate was open."""

    openness: np.ndarray
    """Openness of each unit, float `[T, units]`; 0 where closed."""
    fully_open: float
    """Openness of a gate that is fully open."""


class Trace(NamedTuple):
    """`T` steps from the start of a trial."""

    recording: Recording
    """The trial as spectators see it."""
    shown: dict[str, np.ndarray]
    """Whether each fact was shown to the agent with the input of the step, by name, bool `[T]`."""
    attention: dict[str, Attention]
    """What was attended to, by layer, `[T, N]`; empty without attention."""
    gates: dict[str, Gate]
    """Gates, by layer and name; empty without gates."""


class Now(NamedTuple):
    """Acting, one step at a time: the actor, and what led to where it is."""

    actor: ActorState
    before: Any
    """The environment's states before the latest step; those of now at the start of an episode."""


class Look(NamedTuple):
    """What one step shows of `B` trials, all that the memory read included."""

    reset: jax.Array
    """Whether a trial began, bool `[B]`."""
    memory: State
    """The memory after reading."""
    output: jax.Array
    """Output of the memory, `[B, F]`."""
    inputs: Any
    """What the policy read."""
    facts: dict[str, tuple[jax.Array, jax.Array]]
    """Value of each fact, and whether it was shown, by name, `[B]` each."""


def begin_trials(policy: ActorCritic, environment: Any, env_params: Any, batch: int, key: jax.Array) -> Now:
    """`batch` trials at their start. Consumes `key`."""
    actor = initial_actor_state(policy, environment, env_params, batch, key)
    return Now(actor, actor.environment)


def advance(
    policy: ActorCritic, environment: Any, env_params: Any, params: Any, now: Now
) -> tuple[Now, Look, dict[str, Any], tuple[jax.Array, jax.Array]]:
    """One step: where it leads, what it shows, what the memory sowed, and rewards and ends `[B]`."""
    actor = now.actor
    # The rollout computes the same once more, unless the compiler sees that it is the same.
    (_, outputs), sown = policy.apply(
        params, actor.memory, actor.inputs, actor.reset, method="step", mutable=["intermediates"]
    )
    following, trajectory = rollout(policy, environment, env_params, params, actor, 1)
    look = Look(actor.reset, following.memory, outputs.features, actor.inputs, facts_of(environment, env_params, now))
    before = jax.tree.map(
        lambda new, old: jnp.where(following.reset.reshape(-1, *(1,) * (new.ndim - 1)), new, old),
        following.environment,
        actor.environment,
    )
    sown = sown.get("intermediates", {}).get("memory", {})
    return Now(following, before), look, sown, (trajectory.reward[0], trajectory.over[0])


def facts_of(environment: Any, env_params: Any, now: Now) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The facts of the environment; empty if it has none."""
    actor, facts = now.actor, hooks(environment).facts
    facts = jax.vmap(facts, (0, 0, 0, None))(now.before, actor.inputs.action, actor.environment, env_params)
    return {name: (value, shown) for name, (value, shown) in facts.items()}


def trace_trial(
    policy: ActorCritic, environment: Any, env_params: Any, params: Any, length: int, key: jax.Array
) -> Trace:
    """Follows `length` steps from the start of a trial. Consumes `key`.

    If trials are a fixed number of steps, all are of one trial; else episodes follow each other.
    """
    env_params = in_one_trial(environment, env_params, length)

    def step(now: Now, _: None) -> tuple[Now, Any]:
        memory = now.actor.memory
        now, look, sown, (reward, over) = advance(policy, environment, env_params, params, now)
        shown = {name: told[0] for name, (_, told) in look.facts.items()}
        seen = policy.memory.attended(memory, sown)
        return now, (now.actor.environment, reward[0], over[0], shown, seen, gates_of(policy.memory, sown))

    @jax.jit
    def trace(params: Any, key: jax.Array) -> tuple[Any, Any]:
        now = begin_trials(policy, environment, env_params, 1, key)
        return now.actor.environment, jax.lax.scan(step, now, length=length)[1]

    first, (states, reward, over, shown, attention, gates) = jax.device_get(trace(params, key))
    states = jax.tree.map(lambda start, rest: np.concatenate([start, rest[:, 0]]), first, states)
    most = {_title(name): value for name, value in policy.memory.fully_open().items()}
    gates = {name: Gate(openness, most.get(name.split(", ")[-1], 1)) for name, openness in gates.items()}
    return Trace(Recording(states, reward, over), shown, attention, gates)


def attention_map(attention: Attention, steps: int) -> np.ndarray:
    """The weight of whatever holds each step, float32 `[T, steps]`, from `[T, N]`; 0 where nothing does.

    Items that hold the same steps, such as the tokens of one summary, count together. The weight of an item that holds
    several steps is given at each of them: rows of such a map have no sum of 1.
    """
    weights, begin, end = (np.asarray(part) for part in attention)
    seen = np.zeros((len(weights), steps + 1), np.float32)
    time = np.arange(len(weights))[:, None]
    for offset in range(int((end - begin).max(initial=0))):
        there = (begin >= 0) & (begin + offset < np.minimum(end, steps))
        np.add.at(seen, (time, np.where(there, begin + offset, steps)), weights)
    return seen[:, :steps]


def gates_of(memory: Memory, sown: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The gates that one step of one environment of `memory` sowed, `[units]`, by layer and name."""
    gates = {}
    for path, value in jax.tree.leaves_with_path(sown):
        names = [part.key for part in path if isinstance(part, jax.tree_util.DictKey)]
        if names[-1] not in memory.attention_names:
            gates[", ".join(filter(None, map(_title, names)))] = value.reshape(-1)
    return gates


def _title(name: str) -> str:
    """What a part of a memory is called in pictures; empty where it goes without saying."""
    if name.startswith("layers_"):
        return f"layer {int(name.removeprefix('layers_')) + 1}"
    return "" if name == "cell" else name.replace("_", " ")
