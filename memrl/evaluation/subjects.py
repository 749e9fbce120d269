"""What is evaluated, policies and reference players, and how they are run over many trials at once."""

import math
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from memrl import sharding
from memrl.environment import Player, hooks
from memrl.evaluation.config import EvaluationConfig
from memrl.networks import ActorCritic
from memrl.rollout import initial_actor_state, rollout

Array = TypeVar("Array", jax.Array, np.ndarray)


class Measured(NamedTuple, Generic[Array]):
    """What is measured of every trial, float32 `[B]`, or `[W, B]` over `W` windows. All are sums over steps."""

    reward: Array
    """Sum of rewards."""
    tokens: Array
    """Sum of tokens attended to."""
    steps: Array
    """Number of steps."""
    over: Array
    """Number of attempts that ended; of episodes, in tasks that are not made of attempts."""
    outcomes: dict[str, Array]
    """What the environment reported when they ended, by name."""


class Subject(NamedTuple):
    """What is evaluated, in `B` trials at once: a pair of pure functions, with a state of the subject's own."""

    begin: Callable[[jax.Array, Any], Any]
    """`begin(key, env_params) -> state`: the start of the trials. The tasks depend on the key alone."""
    step: Callable[[Any, Any, Any], tuple[Any, Measured[jax.Array], jax.Array]]
    """`step(state, params, env_params) -> (state, measured, done)`; `done`, bool `[B]`: the trial or episode ended."""


def policy_subject(policy: ActorCritic, environment: Any, num_trials: int) -> Subject:
    """A policy that samples its actions."""

    def begin(key: jax.Array, env_params: Any) -> Any:
        return initial_actor_state(policy, environment, env_params, num_trials, key)

    def step(actor: Any, params: Any, env_params: Any) -> tuple[Any, Measured[jax.Array], jax.Array]:
        actor, trajectory = rollout(policy, environment, env_params, params, actor, 1)
        now = jax.tree.map(lambda leaf: leaf[0], trajectory)
        tokens = policy.memory.tokens_attended(actor.memory).astype(jnp.float32)
        tokens = jnp.broadcast_to(tokens, now.reward.shape)
        return actor, _measured(now.reward, tokens, now.over, now.outcomes), now.terminated | now.truncated

    return Subject(begin, step)


def _measured(
    reward: jax.Array, tokens: jax.Array, over: jax.Array, outcomes: dict[str, jax.Array]
) -> Measured[jax.Array]:
    told = {name: jnp.where(over, outcome.astype(jnp.float32), 0) for name, outcome in outcomes.items()}
    return Measured(reward.astype(jnp.float32), tokens, jnp.ones_like(tokens), over.astype(jnp.float32), told)


def player_subject(player: Player, agent: Subject, environment: Any) -> Subject:
    """A reference player on the tasks of `agent`."""

    def begin(key: jax.Array, env_params: Any) -> Any:
        actor = agent.begin(key, env_params)

        def begin_one(environment_state: Any, key: jax.Array) -> Any:
            return player.initial_state(env_params), environment_state, key

        return jax.vmap(begin_one)(actor.environment, actor.key)

    def step(state: Any, params: Any, env_params: Any) -> tuple[Any, Measured[jax.Array], jax.Array]:
        def step_one(state: Any) -> tuple[Any, Measured[jax.Array], jax.Array]:
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
            outcomes = {name: info[name] for name in hooks(environment).outcomes}
            measured = _measured(reward, jnp.float32(0), info.get("soft_reset", done), outcomes)
            return (player_state, environment_state, key), measured, done

        return jax.vmap(step_one)(state)

    return Subject(begin, step)


class Runner:
    """Compiles and runs what subjects do, its trials split over this process's devices."""

    def __init__(self, params: Any, config: EvaluationConfig) -> None:
        self.mesh = sharding.device_mesh(math.gcd(config.num_trials, jax.local_device_count()))
        self.key = jax.random.key(config.seed)
        self.load(params)

    def load(self, params: Any) -> None:
        """Uses other parameters from now on. What is compiled stays, and serves all that have the same shapes."""
        self.params = jax.device_put(params, sharding.shardings(self.mesh, PartitionSpec()))

    def windows(self, subject: Subject, env_params: Any, window: int) -> Callable[[int], Measured[np.ndarray]]:
        """A function from the length of a trial to what is measured in its windows, compiled once for all lengths."""

        def trials_of(horizon: jax.Array) -> Any:
            return env_params.replace(max_steps_in_episode=horizon)

        def advance(state: Any, params: Any, horizon: jax.Array) -> tuple[Any, Measured[jax.Array]]:
            # One step at a time, so that nothing of size [T, B] is ever kept.
            def step(now: tuple[Any, Measured[jax.Array]], _: Any) -> tuple[tuple[Any, Measured[jax.Array]], None]:
                state, sums = now
                state, measured, _ = subject.step(state, params, trials_of(horizon))
                return (state, jax.tree.map(jnp.add, sums, measured)), None

            return jax.lax.scan(step, (state, self._nothing(subject, state, env_params)), length=window)[0]

        begin, advance = self._compile(
            lambda key, horizon: subject.begin(key, trials_of(horizon)), advance, jnp.int32(0)
        )

        def run(horizon: int) -> Measured[np.ndarray]:
            steps = jnp.int32(horizon)
            state, windows = begin(self.key, steps), []
            for _ in range(horizon // window):
                state, measured = advance(state, self.params, steps)
                windows.append(measured)
            return jax.tree.map(lambda *leaves: np.stack(leaves), *windows)

        return run

    def episodes(self, subject: Subject) -> Callable[[Any], Measured[np.ndarray]]:
        """A function from environment parameters to what is measured in the first episode of each environment."""

        def play(state: Any, params: Any, env_params: Any) -> tuple[Any, Measured[jax.Array]]:
            def step(now: tuple[Any, Measured[jax.Array], jax.Array]) -> tuple[Any, Measured[jax.Array], jax.Array]:
                state, sums, over = now
                state, measured, done = subject.step(state, params, env_params)
                sums = jax.tree.map(lambda total, new: total + jnp.where(over, 0, new), sums, measured)
                return state, sums, over | done

            nothing = self._nothing(subject, state, env_params)
            start = (state, nothing, jnp.zeros(nothing.reward.shape, bool))
            state, measured, _ = jax.lax.while_loop(lambda now: ~now[2].all(), step, start)
            return state, measured

        compiled = []

        def run(env_params: Any) -> Measured[np.ndarray]:
            if not compiled:
                compiled.extend(self._compile(subject.begin, play, env_params))
            begin, play_to_end = compiled
            return jax.tree.map(np.asarray, play_to_end(begin(self.key, env_params), self.params, env_params)[1])

        return run

    def _nothing(self, subject: Subject, state: Any, env_params: Any) -> Measured[jax.Array]:
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
