"""Evaluation: a frozen policy in trials longer than those it learned in, in other settings, with less memory.

The protocol is the published one (Memo, arXiv 2510.19732): actions are sampled as in training, segments have their
fixed length, and a memory that is full drops what is oldest, positions unshifted. Every trial is a fresh one; all
horizons, budgets and reference players meet the same tasks, so that their differences are paired.

Trials of a fixed number of steps are cut into windows, and lengthened. Episodes that end by the task are played to
their end. Either is also asked in the other settings that the environment names, its *splits*.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from memrl import sharding
from memrl.memory.base import MemoryConfig, state_bytes_per_env
from memrl.networks import ActorCritic
from memrl.rollout import initial_actor_state, rollout
from memrl.statistics import wilson_interval

INTERVAL = "95%: mean ± 1.96 standard errors over the trials; of shares of trials, Wilson's"


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
    """What is measured of every trial, float32 `[B]`, or `[W, B]` over `W` windows. All are sums over steps."""

    reward: jax.Array
    """Rewards."""
    tokens: jax.Array
    """Tokens attended to."""
    steps: jax.Array
    """Steps."""
    over: jax.Array
    """Attempts that ended; in tasks that are not made of attempts: episodes."""
    outcomes: dict[str, jax.Array]
    """What the environment told when they did."""


class Subject(NamedTuple):
    """Who is evaluated, in `B` trials at once: a pair of pure functions, with a state of the subject's own."""

    begin: Callable[[jax.Array, Any], Any]
    """`begin(key, env_params) -> state`: the start of the trials. The tasks depend on the key alone."""
    step: Callable[[Any, Any, Any], tuple[Any, Measured, jax.Array]]
    """`step(state, params, env_params) -> (state, measured, done)`; `done`, bool `[B]`: the trial or episode ended."""


class Setting(NamedTuple):
    """What is played."""

    environment: Any
    """A gymnax environment."""
    env_params: Any
    """Its parameters."""

    @property
    def trial_length(self) -> int:
        """Steps of a trial, at most."""
        return int(self.env_params.max_steps_in_episode)


def evaluate(
    make_policy: Callable[[MemoryConfig], ActorCritic],
    memory: MemoryConfig,
    trained: Setting,
    splits: dict[str, Setting],
    params: Sequence[Any],
    config: EvaluationConfig,
    report: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> list[dict[str, Any]]:
    """Evaluates policies of the same shape, such as several seeds, one by one: what is compiled serves them all.

    Beside them the reference players, if `environment.players()` has any, the best one first. It runs on as many of
    this process's devices as divide `config.num_trials`, and the figures do not depend on how many these are.

    Args:
      make_policy: the policy with the given memory; `params` fit it in every size of the same memory.
      memory: the memory as trained.
      trained: the setting that it was trained in.
      splits: others, by name.
      params: parameters of each policy.
      config: what is evaluated.
      report: called with every entry of `windows` and of `episodes` of the first policy as soon as it is there.

    Returns:
      For each policy plain data for `evaluation.json`: the length of a trial, names of the players and, each only if it
      applies,

      - `windows`, for trials of a fixed length: an entry per horizon and budget (in steps, `None` where the memory is
        not restricted) with the mean return in each window, its interval, the same of the players, and what the memory
        cost; with it `window_length`, and `in_context` (see there);
      - `episodes`, for episodes that end by the task, and for splits: an entry per split and budget with the mean
        return of an episode (or trial), its length, the outcomes that the environment tells, with intervals, and the
        same of the players. The first entries are those of the setting trained in, split `None`.

    Raises:
      ValueError: the windows do not divide the trial.
    """
    memory = memory.without_noise()
    episodic = is_episodic(trained.environment)
    players = getattr(trained.environment, "players", dict)()
    common = {
        "seed": config.seed,
        "num_trials": config.num_trials,
        "trial_length": trained.trial_length,
        "interval": INTERVAL,
        "players": list(players),
    }
    results = [dict(common) for _ in params]
    if not episodic:
        of_each = evaluate_windows(make_policy, memory, trained, params, config, report)
        for result, windows in zip(results, of_each, strict=True):
            result |= {
                "window_length": config.window_length(trained.trial_length),
                "in_context": in_context(windows[0], next(iter(players), None)),
                "windows": windows,
            }
    if episodic or splits:
        of_each = evaluate_episodes(make_policy, memory, trained, splits, params, config, report)
        for result, episodes in zip(results, of_each, strict=True):
            result["episodes"] = episodes
    return results


def is_episodic(environment: Any) -> bool:
    """Whether episodes end by the task, as the environment says; if not, a trial is a fixed number of steps."""
    return getattr(environment, "episodic", False)


def evaluate_windows(
    make_policy: Callable[[MemoryConfig], ActorCritic],
    memory: MemoryConfig,
    setting: Setting,
    params: Sequence[Any],
    config: EvaluationConfig,
    report: Callable[[dict[str, Any]], None],
) -> list[list[dict[str, Any]]]:
    """The entries of `windows` of each policy, see `evaluate`.

    One program is compiled per memory size and serves all horizons and policies.
    """
    environment, env_params = setting
    trial, window = setting.trial_length, config.window_length(setting.trial_length)
    run = Runner(params[0], config)

    def trials_of(subject: Subject) -> Callable[[int], Measured]:
        return run.windows(subject, env_params, window)

    agent = policy_subject(make_policy(memory), environment, config.num_trials)
    players = {
        name: trials_of(player_subject(player, agent, environment))
        for name, player in getattr(environment, "players", dict)().items()
    }
    agents: dict[MemoryConfig, Callable[[int], Measured]] = {}
    entries: list[list[dict[str, Any]]] = [[] for _ in params]
    for horizon in sorted({multiple * trial for multiple in config.horizons}):
        references = {name: play(horizon) for name, play in players.items()}
        for budget, sized in memory_sizes(memory, trial, horizon, config.budgets):
            policy = make_policy(sized)
            if sized not in agents:
                agents[sized] = trials_of(policy_subject(policy, environment, config.num_trials))
            for entries_of_one, own in zip(entries, params, strict=True):
                run.load(own)
                measured = agents[sized](horizon)
                mean, error = measured.reward.mean(axis=1), standard_error(measured.reward)
                entry = {
                    "horizon": horizon,
                    "budget": budget,
                    "return_per_window": mean.tolist(),
                    "return_per_window_low": (mean - 1.96 * error).tolist(),
                    "return_per_window_high": (mean + 1.96 * error).tolist(),
                    "outcomes_per_window": outcomes_per_window(measured),
                    **{
                        f"{name}_return_per_window": reference.reward.mean(axis=1).tolist()
                        for name, reference in references.items()
                    },
                    **{
                        f"{name}_outcomes_per_window": outcomes_per_window(reference)
                        for name, reference in references.items()
                        if reference.outcomes
                    },
                    "state_bytes_per_env": state_bytes_per_env(policy.memory),
                    "tokens_attended": float(measured.tokens.mean() / window),
                }
                if entries_of_one is entries[0]:
                    report(entry)
                entries_of_one.append(entry)
    return entries


def outcomes_per_window(measured: Measured) -> dict[str, list[float | None]]:
    """Means over all attempts that ended in a window, `None` where none did."""
    over = measured.over.sum(axis=1)
    return {
        name: [float(total / count) if count else None for total, count in zip(told.sum(axis=1), over, strict=True)]
        for name, told in measured.outcomes.items()
    }


def evaluate_episodes(
    make_policy: Callable[[MemoryConfig], ActorCritic],
    memory: MemoryConfig,
    trained: Setting,
    splits: dict[str, Setting],
    params: Sequence[Any],
    config: EvaluationConfig,
    report: Callable[[dict[str, Any]], None],
) -> list[list[dict[str, Any]]]:
    """The entries of `episodes` of each policy, see `evaluate`.

    One program is compiled per environment and memory size, and serves all policies. There are two sizes of the
    unrestricted memory: as trained, for splits whose episodes are not longer, and one with room for the longest episode
    of all others.
    """
    run = Runner(params[0], config)
    longest = memory.with_capacity(max(setting.trial_length for setting in (trained, *splits.values())))
    agents: dict[tuple[Any, MemoryConfig], Callable[[Any], Measured]] = {}
    players: dict[tuple[Any, str], Callable[[Any], Measured]] = {}
    entries: list[list[dict[str, Any]]] = [[] for _ in params]
    for split, setting in {None: trained, **splits}.items():
        environment, env_params = setting
        agent = policy_subject(make_policy(memory), environment, config.num_trials)
        references = {}
        for name, player in getattr(environment, "players", dict)().items():
            if (environment, name) not in players:
                players[environment, name] = run.episodes(player_subject(player, agent, environment))
            references[name] = episode_means(players[environment, name](env_params), environment)
        if split is None:
            sizes = list(memory_sizes(memory, setting.trial_length, setting.trial_length, config.budgets))
        else:
            sizes = [(None, memory if setting.trial_length <= trained.trial_length else longest)]
        for budget, sized in sizes:
            policy = make_policy(sized)
            if (environment, sized) not in agents:
                agents[environment, sized] = run.episodes(policy_subject(policy, environment, config.num_trials))
            for entries_of_one, own in zip(entries, params, strict=True):
                run.load(own)
                measured = agents[environment, sized](env_params)
                entry = {
                    "split": split,
                    "horizon": setting.trial_length,
                    "budget": budget,
                    **episode_means(measured, environment),
                    "players": references,
                    "state_bytes_per_env": state_bytes_per_env(policy.memory),
                    "tokens_attended": float((measured.tokens / measured.steps).mean()),
                }
                if entries_of_one is entries[0]:
                    report(entry)
                entries_of_one.append(entry)
    return entries


def episode_means(measured: Measured, environment: Any) -> dict[str, Any]:
    """Means over episodes of `environment`, with intervals: `return`, `length`, and `outcomes` by name."""

    def summary(values: np.ndarray) -> dict[str, float]:
        mean, error = float(values.mean()), float(standard_error(values))
        return {"mean": mean, "low": mean - 1.96 * error, "high": mean + 1.96 * error}

    def share(values: np.ndarray) -> dict[str, float]:
        if not np.isin(values, (0, 1)).all():  # a share of the attempts of each trial
            return summary(values)
        low, high = wilson_interval(values)
        return {"mean": float(values.mean()), "low": low, "high": high}

    # An episode tells its outcome once; a trial that is made of attempts as often as one ended, if any did.
    told = measured.over > 0
    outcomes = {
        name: share(measured.outcomes[name][told] / measured.over[told]) if told.sum() > 1 else None
        for name in getattr(environment, "outcomes", ())
    }
    return {"return": summary(measured.reward), "length": summary(measured.steps), "outcomes": outcomes}


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
    """How much is learned within a trial, from an entry of `windows`; `None` where there is nothing to divide by.

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

    def step(actor: Any, params: Any, env_params: Any) -> tuple[Any, Measured, jax.Array]:
        actor, trajectory = rollout(policy, environment, env_params, params, actor, 1)
        now = jax.tree.map(lambda leaf: leaf[0], trajectory)
        tokens = policy.memory.tokens_attended(actor.memory).astype(jnp.float32)
        tokens = jnp.broadcast_to(tokens, now.reward.shape)
        return actor, _measured(now.reward, tokens, now.over, now.outcomes), now.terminated | now.truncated

    return Subject(begin, step)


def _measured(reward: jax.Array, tokens: jax.Array, over: jax.Array, outcomes: dict[str, jax.Array]) -> Measured:
    told = {name: jnp.where(over, outcome.astype(jnp.float32), 0) for name, outcome in outcomes.items()}
    return Measured(reward.astype(jnp.float32), tokens, jnp.ones_like(tokens), over.astype(jnp.float32), told)


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

    def step(state: Any, params: Any, env_params: Any) -> tuple[Any, Measured, jax.Array]:
        def step_one(state: Any) -> tuple[Any, Measured, jax.Array]:
            player_state, environment_state, key = state
            key, key_act, key_step = jax.random.split(key, 3)
            player_state, action = player.act(key_act, player_state, environment_state, env_params)
            _, environment_state, reward, terminated, truncated, info = environment.step(
                key_step, environment_state, action, env_params
            )
            done = terminated | truncated
            player_state = jax.tree.map(
                lambda fresh, old: jnp.where(done, fresh, old), player.initial_state(env_params), player_state
            )
            outcomes = {name: info[name] for name in getattr(environment, "outcomes", ())}
            measured = _measured(reward, jnp.float32(0), info.get("soft_reset", done), outcomes)
            return (player_state, environment_state, key), measured, done

        return jax.vmap(step_one)(state)

    return Subject(begin, step)


class Runner:
    """Compiles and runs what subjects do, its trials split over this process's devices."""

    def __init__(self, params: Any, config: EvaluationConfig):
        self.mesh = sharding.device_mesh(math.gcd(config.num_trials, jax.local_device_count()))
        self.key = jax.random.key(config.seed)
        self.load(params)

    def load(self, params: Any) -> None:
        """Takes other parameters from now on. What is compiled stays, and serves all that have the same shapes."""
        self.params = jax.device_put(params, sharding.shardings(self.mesh, PartitionSpec()))

    def windows(self, subject: Subject, env_params: Any, window: int) -> Callable[[int], Measured]:
        """A function from the length of a trial to what is measured in its windows, compiled once for all lengths."""

        def trials_of(horizon: jax.Array) -> Any:
            return env_params.replace(max_steps_in_episode=horizon)

        def advance(state: Any, params: Any, horizon: jax.Array) -> tuple[Any, Measured]:
            # One step at a time, so that nothing of size [T, B] is ever kept.
            def step(now: tuple[Any, Measured], _: None) -> tuple[tuple[Any, Measured], None]:
                state, sums = now
                state, measured, _ = subject.step(state, params, trials_of(horizon))
                return (state, jax.tree.map(jnp.add, sums, measured)), None

            return jax.lax.scan(step, (state, self._nothing(subject, state, env_params)), length=window)[0]

        begin, advance = self._compile(
            lambda key, horizon: subject.begin(key, trials_of(horizon)), advance, jnp.int32(0)
        )

        def run(horizon: int) -> Measured:
            steps = jnp.int32(horizon)
            state, windows = begin(self.key, steps), []
            for _ in range(horizon // window):
                state, measured = advance(state, self.params, steps)
                windows.append(measured)
            return jax.tree.map(lambda *leaves: np.stack(leaves), *windows)

        return run

    def episodes(self, subject: Subject) -> Callable[[Any], Measured]:
        """A function from environment parameters to what is measured in the first episode of each environment."""

        def play(state: Any, params: Any, env_params: Any) -> tuple[Any, Measured]:
            def step(now: tuple[Any, Measured, jax.Array]) -> tuple[Any, Measured, jax.Array]:
                state, sums, over = now
                state, measured, done = subject.step(state, params, env_params)
                sums = jax.tree.map(lambda total, new: total + jnp.where(over, 0, new), sums, measured)
                return state, sums, over | done

            nothing = self._nothing(subject, state, env_params)
            start = (state, nothing, jnp.zeros(nothing.reward.shape, bool))
            state, measured, _ = jax.lax.while_loop(lambda now: ~now[2].all(), step, start)
            return state, measured

        compiled = []

        def run(env_params: Any) -> Measured:
            if not compiled:
                compiled.extend(self._compile(subject.begin, play, env_params))
            begin, play_to_end = compiled
            return jax.tree.map(np.asarray, play_to_end(begin(self.key, env_params), self.params, env_params)[1])

        return run

    def _nothing(self, subject: Subject, state: Any, env_params: Any) -> Measured:
        """Sums over no steps."""
        shapes = jax.eval_shape(subject.step, state, self.params, env_params)[1]
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def _compile(self, begin: Callable[..., Any], advance: Callable[..., Any], argument: Any) -> tuple[Any, Any]:
        """`begin(key, argument) -> state` and `advance(state, params, argument) -> (state, measured)`, jitted."""
        specs = sharding.split_specs(jax.eval_shape(begin, self.key, argument))
        advance = jax.shard_map(
            advance,
            mesh=self.mesh,
            in_specs=(specs, PartitionSpec(), PartitionSpec()),
            out_specs=(specs, PartitionSpec(sharding.AXIS)),
            check_vma=False,
        )
        begin = jax.jit(begin, out_shardings=sharding.shardings(self.mesh, specs))
        return begin, jax.jit(advance, donate_argnums=0)


class Recording(NamedTuple):
    """`T` steps from the start of a trial, for spectators."""

    states: Any
    """Environment states `[T + 1, ..]`, the first before any step."""
    reward: np.ndarray
    """Rewards, float32 `[T]`."""
    over: np.ndarray
    """Whether the step ended an attempt or an episode, bool `[T]`."""


def record_trial(
    policy: ActorCritic, environment: Any, env_params: Any, params: Any, length: int, key: jax.Array
) -> Recording:
    """`length` steps from the start of a trial, actions sampled. Consumes `key`.

    If trials are a fixed number of steps, all are of one trial; else episodes follow each other.
    """
    if not is_episodic(environment):
        # A trial that ended with its last step would have been reset by then.
        env_params = env_params.replace(max_steps_in_episode=jnp.int32(length + 1))

    def step(actor: Any, _: None) -> tuple[Any, tuple[Any, jax.Array, jax.Array]]:
        actor, trajectory = rollout(policy, environment, env_params, params, actor, 1)
        return actor, (actor.environment, trajectory.reward[0], trajectory.over[0])

    @jax.jit
    def record(params: Any, key: jax.Array) -> tuple[Any, Any]:
        actor = initial_actor_state(policy, environment, env_params, 1, key)
        return actor.environment, jax.lax.scan(step, actor, length=length)[1]

    first, (states, reward, over) = jax.device_get(record(params, key))
    states = jax.tree.map(lambda start, rest: np.concatenate([start, rest[:, 0]]), first, states)
    return Recording(states, reward[:, 0], over[:, 0])
