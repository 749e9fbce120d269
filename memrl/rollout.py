"""Acting: a scan of the environment and the policy together."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from memrl.environment import hooks
from memrl.memory.base import State
from memrl.networks import ActorCritic, Inputs


class ActorState(struct.PyTreeNode):
    """All that acting carries from one step to the next, `B` environments. Leaves are `[B, ..]` or shared scalars."""

    environment: Any
    """gymnax states, `[B, ..]`."""
    memory: State
    """The policy's memory before it reads `inputs`."""
    inputs: Inputs
    """What the policy reads next, `[B, ..]`."""
    reset: jax.Array
    """Whether `inputs` begin a trial, bool `[B]`."""
    key: jax.Array
    """One PRNG key per environment, `[B]`: results do not depend on how environments are spread over devices."""
    trial_return: jax.Array
    """Sum of rewards of the trial so far, float32 `[B]`."""


class Trajectory(NamedTuple):
    """What happened in `T` steps of `B` environments, each leaf `[T, B, ..]`."""

    inputs: Inputs
    """What the policy read, before acting."""
    reset: jax.Array
    """Whether the step began a trial, bool."""
    action: jax.Array
    log_prob: jax.Array
    """Log-probability of the action when it was taken."""
    value: jax.Array
    reward: jax.Array
    terminated: jax.Array
    """The task ended with this step: nothing follows, value 0."""
    truncated: jax.Array
    """A time limit ended the trial with this step: what would have followed is worth `final_value`."""
    final_value: jax.Array
    """Value of the final observation of a truncated trial; 0 elsewhere."""
    soft_reset: jax.Array
    """The step ended an attempt of its trial."""
    trial_return: jax.Array
    """Sum of rewards of the trial up to this step, included."""
    over: jax.Array
    """The step ended an attempt; in tasks that are not made of attempts: an episode."""
    outcomes: dict[str, jax.Array]
    """What the environment reports of how it went, float32; meaningful where it is `over`."""


def initial_actor_state(
    policy: ActorCritic, environment: Any, env_params: Any, batch: int, key: jax.Array
) -> ActorState:
    """`batch` environments at the start of a trial, memories empty. Consumes `key`."""
    key_memory, key_reset, key_actors = jax.random.split(key, 3)
    observation, state = jax.vmap(environment.reset, in_axes=(0, None))(jax.random.split(key_reset, batch), env_params)
    return ActorState(
        environment=state,
        memory=policy.initial_state(batch, key_memory),
        inputs=Inputs(
            observation=observation,
            action=jnp.full(batch, -1, jnp.int32),
            reward=jnp.zeros(batch, jnp.float32),
            soft_reset=jnp.zeros(batch, bool),
        ),
        reset=jnp.ones(batch, bool),
        key=jax.random.split(key_actors, batch),
        trial_return=jnp.zeros(batch, jnp.float32),
    )


def rollout(
    policy: ActorCritic, environment: Any, env_params: Any, params: Any, actor: ActorState, length: int
) -> tuple[ActorState, Trajectory]:
    """Acts for `length` steps, actions sampled.

    Args:
      policy: what acts.
      environment: a gymnax environment.
      env_params: its parameters.
      params: parameters of the policy.
      actor: where acting goes on from.
      length: steps `T`.

    Returns:
      Where the next rollout goes on from, and the trajectory.
    """

    def step(actor: ActorState, _: None) -> tuple[ActorState, Trajectory]:
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(actor.key)
        memory, outputs = policy.apply(params, actor.memory, actor.inputs, actor.reset, method="step")
        action = jax.vmap(jax.random.categorical)(keys[:, 1], outputs.logits).astype(jnp.int32)
        observation, state, reward, terminated, truncated, info = jax.vmap(environment.step, in_axes=(0, 0, 0, None))(
            keys[:, 2], actor.environment, action, env_params
        )
        reward = reward.astype(jnp.float32)
        soft_reset = info.get("soft_reset", jnp.zeros_like(terminated))
        done = terminated | truncated
        truncated = truncated & ~terminated

        # Only a truncated trial needs the value of its final observation, so only then is it computed.
        final_inputs = Inputs(info["final_observation"], action, reward, soft_reset)
        final_value = jax.lax.cond(
            truncated.any(),
            lambda: policy.apply(params, memory, final_inputs, jnp.zeros_like(done), method="step")[1].value,
            lambda: jnp.zeros_like(outputs.value),
        )

        trial_return = actor.trial_return + reward
        transition = Trajectory(
            inputs=actor.inputs,
            reset=actor.reset,
            action=action,
            log_prob=log_prob(outputs.logits, action),
            value=outputs.value,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            final_value=jnp.where(truncated, final_value, 0),
            soft_reset=soft_reset,
            trial_return=trial_return,
            over=info.get("soft_reset", done),
            outcomes={name: info[name].astype(jnp.float32) for name in hooks(environment).outcomes},
        )
        actor = ActorState(
            environment=state,
            memory=memory,
            inputs=Inputs(
                observation=observation,
                action=jnp.where(done, -1, action),
                reward=jnp.where(done, 0, reward),
                soft_reset=soft_reset & ~done,
            ),
            reset=done,
            key=keys[:, 0],
            trial_return=jnp.where(done, 0, trial_return),
        )
        return actor, transition

    return jax.lax.scan(step, actor, length=length)


def collect(
    policy: ActorCritic, environment: Any, env_params: Any, params: Any, actor: ActorState, length: int
) -> tuple[ActorState, Trajectory, jax.Array]:
    """As `rollout`; returns besides the value of what follows its last step, `[B]`."""
    actor, trajectory = rollout(policy, environment, env_params, params, actor, length)
    _, last = policy.apply(params, actor.memory, actor.inputs, actor.reset, method="step")
    return actor, trajectory, last.value


def log_prob(logits: jax.Array, action: jax.Array) -> jax.Array:
    """Log-probability `[..]` of `action` (int32 `[..]`) under `logits` `[.., A]`."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1)[..., 0]
