"""Evaluation: a frozen policy in trials longer than those it learned in, with less memory than it had.

The protocol is the published one (Memo, arXiv 2510.19732): actions are sampled as in training, segments have their
fixed length, and a memory that is full drops what is oldest, positions unshifted. Every trial is a fresh one; all
horizons, budgets and reference players meet the same tasks, so that their differences are paired.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from memrl import sharding
from memrl.memory.base import MemoryConfig, state_bytes_per_env
from memrl.networks import ActorCritic
from memrl.rollout import initial_actor_state, rollout

INTERVAL = "95%: mean ± 1.96 standard errors over the trials"


@dataclass(frozen=True)
class EvaluationConfig:
    """How a trained policy is evaluated."""

    num_trials: int = 256
    """Trials of each length with each memory budget."""
    horizons: tuple[int, ...] = (1, 2, 4, 8)
    """Lengths of the trials, as multiples of the trained length; 1 must be among them."""
    budgets: tuple[float, ...] = (1.0, 0.5, 0.25)
    """What a restricted memory has room for, in trained trial lengths. The unrestricted one is always evaluated too."""
    windows_per_trial: int = 5
    """Windows into which a trial of the trained length is cut to show learning; must divide its steps."""
    seed: int = 0
    """Seed of tasks and actions."""

    def __post_init__(self) -> None:
        if self.num_trials < 2:
            raise ValueError(f"evaluation.num_trials is {self.num_trials}: it must be at least 2.")
        if 1 not in self.horizons or any(horizon < 1 for horizon in self.horizons):
            raise ValueError(f"evaluation.horizons is {self.horizons}: all must be at least 1, and 1 among them.")
        if any(budget <= 0 for budget in self.budgets):
            raise ValueError(f"evaluation.budgets is {self.budgets}: all must be greater than 0.")
        if self.windows_per_trial < 1:
            raise ValueError(f"evaluation.windows_per_trial is {self.windows_per_trial}: it must be at least 1.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"evaluation.seed is {self.seed}: it must be from 0 to 2^32 - 1.")

    def window_length(self, trial_length: int) -> int:
        """Steps of a window; ValueError if the windows do not divide a trial of `trial_length` steps."""
        if trial_length % self.windows_per_trial:
            raise ValueError(
                f"evaluation.windows_per_trial is {self.windows_per_trial} and a trial has {trial_length} steps: "
                "the windows must divide the trial."
            )
        return trial_length // self.windows_per_trial


class Measured(NamedTuple):
    """What is measured of every trial, float32 `[B]`, or `[W, B]` over `W` windows."""

    reward: jax.Array
    """Sum of rewards."""
    tokens: jax.Array
    """Sum over the steps of the tokens attended to."""


class Subject(NamedTuple):
    """Who is evaluated, in `B` trials at once: a pair of pure functions, with a state of the subject's own."""

    begin: Callable[[jax.Array, Any], Any]
    """`begin(key, env_params) -> state`: the start of the trials. The tasks depend on the key alone."""
    step: Callable[[Any, Any, Any], tuple[Any, Measured]]
    """`step(state, params, env_params) -> (state, measured)`."""


def evaluate(
    make_policy: Callable[[MemoryConfig], ActorCritic],
    memory: MemoryConfig,
    environment: Any,
    env_params: Any,
    params: Any,
    config: EvaluationConfig,
    report: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> dict[str, Any]:
    """Evaluates a policy, and beside it the reference players if `environment.players()` has any, the best one first.

    One program is compiled per memory size and serves all horizons, window by window. It runs on as many of this
    process's devices as divide `config.num_trials`, and the figures do not depend on how many these are.

    Args:
      make_policy: the policy with the given memory; `params` fit it in every size of the same memory.
      memory: the memory as trained.
      environment, env_params: a gymnax environment and its parameters as trained.
      params: parameters of the policy.
      config: what is evaluated.
      report: called with every entry of `results` as soon as it is there.

    Returns:
      Plain data for `evaluation.json`: lengths of trial and window, names of the players, `in_context` (see there), and
      `results`, an entry per horizon and budget (in steps, `None` where the memory is not restricted) with the mean
      return in each window, its interval, the same of the players, and what the memory cost.

    Raises:
      ValueError: the windows do not divide the trial.
    """
    trial = int(env_params.max_steps_in_episode)
    window = config.window_length(trial)
    mesh = sharding.device_mesh(math.gcd(config.num_trials, jax.local_device_count()))
    params = jax.device_put(params, sharding.shardings(mesh, PartitionSpec()))
    key = jax.random.key(config.seed)
    memory = memory.without_noise()

    def trials_of(subject: Subject) -> Callable[[int], Measured]:
        return _trials(subject, env_params, params, key, window, config.num_trials, mesh)

    agent = policy_subject(make_policy(memory), environment, config.num_trials)
    players = {
        name: trials_of(player_subject(player, agent, environment))
        for name, player in getattr(environment, "players", dict)().items()
    }
    agents: dict[MemoryConfig, Callable[[int], Measured]] = {}
    results = []
    for horizon in sorted({multiple * trial for multiple in config.horizons}):
        references = {name: play(horizon).reward.mean(axis=1) for name, play in players.items()}
        for budget, sized in memory_sizes(memory, trial, horizon, config.budgets):
            policy = make_policy(sized)
            if sized not in agents:
                agents[sized] = trials_of(policy_subject(policy, environment, config.num_trials))
            measured = agents[sized](horizon)
            mean, error = measured.reward.mean(axis=1), standard_error(measured.reward)
            entry = {
                "horizon": horizon,
                "budget": budget,
                "return_per_window": mean.tolist(),
                "return_per_window_low": (mean - 1.96 * error).tolist(),
                "return_per_window_high": (mean + 1.96 * error).tolist(),
                **{f"{name}_return_per_window": reference.tolist() for name, reference in references.items()},
                "state_bytes_per_env": state_bytes_per_env(policy.memory),
                "tokens_attended": float(measured.tokens.mean() / window),
                "num_trials": config.num_trials,
                "seed": config.seed,
            }
            report(entry)
            results.append(entry)
    return {
        "seed": config.seed,
        "trial_length": trial,
        "window_length": window,
        "interval": INTERVAL,
        "players": list(players),
        "in_context": in_context(results[0], next(iter(players), None)),
        "results": results,
    }


def memory_sizes(
    memory: MemoryConfig, trial: int, horizon: int, budgets: tuple[float, ...]
) -> Iterator[tuple[int | None, MemoryConfig]]:
    """The memories to evaluate in trials of `horizon` steps: each different one once, with its budget in steps.

    First the unrestricted one, budget `None`: as trained in trials of the trained length, with room for the whole trial
    in longer ones.
    """
    full = memory if horizon == trial else memory.with_capacity(horizon)
    yield None, full
    seen = {full}
    for budget in sorted({max(1, round(budget * trial)) for budget in budgets}, reverse=True):
        sized = memory.with_capacity(budget)
        if budget < horizon and sized not in seen:
            seen.add(sized)
            yield budget, sized


def in_context(entry: dict[str, Any], upper_bound: str | None) -> dict[str, float | None]:
    """How much is learned within a trial, from an entry of `results`; `None` where there is nothing to divide by.

    - `last_window_over_upper_bound`: the return in the last window over the mean return per window of the best player;
    - `last_window_over_first`: the return in the last window over that in the first.
    """
    first, last = entry["return_per_window"][0], entry["return_per_window"][-1]
    bound = np.mean(entry[f"{upper_bound}_return_per_window"]).item() if upper_bound else 0.0
    return {
        "last_window_over_upper_bound": last / bound if bound > 0 else None,
        "last_window_over_first": last / first if first > 0 else None,
    }


def standard_error(values: np.ndarray) -> np.ndarray:
    """The standard error of the mean over the last axis of `[.., B]`, B at least 2."""
    return values.std(axis=-1, ddof=1) / math.sqrt(values.shape[-1])


def policy_subject(policy: ActorCritic, environment: Any, num_trials: int) -> Subject:
    """A policy that samples its actions."""

    def begin(key: jax.Array, env_params: Any) -> Any:
        return initial_actor_state(policy, environment, env_params, num_trials, key)

    def step(actor: Any, params: Any, env_params: Any) -> tuple[Any, Measured]:
        actor, trajectory = rollout(policy, environment, env_params, params, actor, 1)
        reward = trajectory.reward[0]
        tokens = policy.memory.tokens_attended(actor.memory).astype(jnp.float32)
        return actor, Measured(reward, jnp.zeros_like(reward) + tokens)

    return Subject(begin, step)


def player_subject(player: Any, agent: Subject, environment: Any) -> Subject:
    """A reference player on the tasks of `agent`.

    `player` has `initial_state(env_params) -> player_state` and
    `act(key, player_state, environment_state, env_params) -> (player_state, action)`, both for one environment.
    """

    def begin(key: jax.Array, env_params: Any) -> Any:
        actor = agent.begin(key, env_params)

        def begin_one(environment_state: Any, key: jax.Array) -> Any:
            return player.initial_state(env_params), environment_state, key

        return jax.vmap(begin_one)(actor.environment, actor.key)

    def step(state: Any, params: Any, env_params: Any) -> tuple[Any, Measured]:
        def step_one(state: Any) -> tuple[Any, jax.Array]:
            player_state, environment_state, key = state
            key, key_act, key_step = jax.random.split(key, 3)
            player_state, action = player.act(key_act, player_state, environment_state, env_params)
            _, environment_state, reward, terminated, truncated, _ = environment.step(
                key_step, environment_state, action, env_params
            )
            player_state = jax.tree.map(
                lambda fresh, old: jnp.where(terminated | truncated, fresh, old),
                player.initial_state(env_params),
                player_state,
            )
            return (player_state, environment_state, key), reward.astype(jnp.float32)

        state, reward = jax.vmap(step_one)(state)
        return state, Measured(reward, jnp.zeros_like(reward))

    return Subject(begin, step)


def _trials(
    subject: Subject, env_params: Any, params: Any, key: jax.Array, window: int, num_trials: int, mesh: Mesh
) -> Callable[[int], Measured]:
    """A function from the length of a trial to what is measured in its windows, compiled once for all lengths."""

    def trials_of(horizon: jax.Array) -> Any:
        return env_params.replace(max_steps_in_episode=horizon)

    def begin(key: jax.Array, horizon: jax.Array) -> Any:
        return subject.begin(key, trials_of(horizon))

    def advance(state: Any, params: Any, horizon: jax.Array) -> tuple[Any, Measured]:
        # One step at a time, so that nothing of size [T, B] is ever kept.
        def step(now: tuple[Any, Measured], _: None) -> tuple[tuple[Any, Measured], None]:
            state, sums = now
            state, measured = subject.step(state, params, trials_of(horizon))
            return (state, jax.tree.map(jnp.add, sums, measured)), None

        nothing = jnp.zeros(num_trials // mesh.devices.size, jnp.float32)
        return jax.lax.scan(step, (state, Measured(nothing, nothing)), length=window)[0]

    specs = sharding.split_specs(jax.eval_shape(begin, key, jnp.int32(0)))
    begin = jax.jit(begin, out_shardings=sharding.shardings(mesh, specs))
    advance = jax.jit(
        jax.shard_map(
            advance,
            mesh=mesh,
            in_specs=(specs, PartitionSpec(), PartitionSpec()),
            out_specs=(specs, PartitionSpec(sharding.AXIS)),
            check_vma=False,
        ),
        donate_argnums=0,
    )

    def run(horizon: int) -> Measured:
        steps = jnp.int32(horizon)
        state, windows = begin(key, steps), []
        for _ in range(horizon // window):
            state, measured = advance(state, params, steps)
            windows.append(measured)
        return jax.tree.map(lambda *leaves: np.stack(leaves), *windows)

    return run


class Recording(NamedTuple):
    """One trial of `T` steps, for spectators."""

    states: Any
    """Environment states `[T + 1, ..]`, the first before any step."""
    reward: np.ndarray
    """Rewards, float32 `[T]`."""
    soft_reset: np.ndarray
    """Whether the step ended an attempt, bool `[T]`."""


def record_trial(
    policy: ActorCritic, environment: Any, env_params: Any, params: Any, length: int, key: jax.Array
) -> Recording:
    """The first `length` steps of one trial, actions sampled. Consumes `key`."""
    # A trial that ended with its last step would have been reset by then.
    env_params = env_params.replace(max_steps_in_episode=jnp.int32(length + 1))

    def step(actor: Any, _: None) -> tuple[Any, tuple[Any, jax.Array, jax.Array]]:
        actor, trajectory = rollout(policy, environment, env_params, params, actor, 1)
        return actor, (actor.environment, trajectory.reward[0], actor.inputs.soft_reset)

    @jax.jit
    def record(params: Any, key: jax.Array) -> tuple[Any, Any]:
        actor = initial_actor_state(policy, environment, env_params, 1, key)
        return actor.environment, jax.lax.scan(step, actor, length=length)[1]

    first, (states, reward, soft_reset) = jax.device_get(record(params, key))
    states = jax.tree.map(lambda start, rest: np.concatenate([start, rest[:, 0]]), first, states)
    return Recording(states, reward[:, 0], soft_reset[:, 0])
