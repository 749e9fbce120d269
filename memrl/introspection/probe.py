"""What is remembered: how often a linear classifier can decode from a memory what was seen, by the time since.

`sample_memories` looks into the memories of many trials at random moments, and `accuracy_by_age` asks the classifier.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memrl.evaluation.recording import in_one_trial
from memrl.introspection.trace import Look, Now, advance, begin_trials
from memrl.memory.base import Memory, State
from memrl.networks import ActorCritic
from memrl.statistics import wilson_interval

NEVER = -1
"""The age of a fact that, as it is now, has not been shown."""
PROJECTED = 256
"""How many numbers are kept of a memory's state, where it has more."""
TRAINING_SHARE = 0.7
"""Share of the trials of a probe that it learns from; it is tested on the others."""
FEWEST = 20
"""Fewest trials to test on for which an accuracy is reported."""


class Samples(NamedTuple):
    """Looks into the memories of `B` trials, for one fact. Each has one at most in every group `A` of ages."""

    value: np.ndarray
    """Value of the fact, int32 `[B, A]`."""
    taken: np.ndarray
    """Whether there was a moment to look, bool `[B, A]`."""
    features: dict[str, np.ndarray]
    """What the classifier is given, by source (see `sources`), float32 `[B, A, F]`."""


def age_groups(length: int) -> list[tuple[int, int]]:
    """Ages from 0 to `length` - 1 in groups `(first, last)`, each half as many again as the one before."""
    groups, first = [], 0
    while first < length:
        last = min(length - 1, max(first, round(1.5 * first) - 1))
        groups.append((first, last))
        first = last + 1
    return groups


def sources(policy: ActorCritic, params: Any, look: Look) -> dict[str, jax.Array]:
    """What a probe is given, float32 `[B, F]`.

    - `state`: the numbers that the memory carries to the next step, see `flatten_state`; absent if it carries none;
    - `output`: what it says to the heads;
    - `input`: what the encoder made of the present input, which is all that a policy without memory could use.

    The state of a memory with attention is the past as it was, in slots that move on. What can be decoded from it
    linearly is less than what it holds; the output shows what of it was read.
    """
    inputs = policy.apply(params, look.inputs, method="_encode")
    seen = {"state": flatten_state(look.memory, look.reset.shape[0]), "output": look.output, "input": inputs}
    return {name: part.astype(jnp.float32) for name, part in seen.items() if part.shape[-1]}


def flatten_state(state: State, batch: int) -> jax.Array:
    """The floating-point numbers of a state, `[B, F]`; if there are more than `PROJECTED`, sums of them.

    Each sum is over a share of its own of all numbers, drawn at random once and for all, with random signs. It is a
    random projection that costs no product.
    """
    leaves = _numbers(state)
    if not leaves:
        return jnp.zeros((batch, 0), jnp.float32)
    numbers = jnp.concatenate([leaf.reshape(batch, -1).astype(jnp.float32) for leaf in leaves], axis=1)
    size = numbers.shape[1]
    if size <= PROJECTED:
        return numbers
    share = math.ceil(size / PROJECTED)
    numbers = jnp.pad(numbers, ((0, 0), (0, PROJECTED * share - size)))
    rng = np.random.default_rng(0)
    order = jnp.asarray(rng.permutation(PROJECTED * share))
    signs = jnp.asarray(rng.choice(np.array([-1, 1], np.float32), PROJECTED * share))
    return (numbers[:, order] * signs[None]).reshape(batch, PROJECTED, share).sum(axis=-1)


def state_size(memory: Memory) -> int:
    """How many floating-point numbers a memory carries for one environment."""
    return sum(leaf.size for leaf in _numbers(jax.eval_shape(lambda: memory.initial_state(1))))


def _numbers(state: State) -> list[Any]:
    """The leaves of a state that are floating-point numbers of each environment."""
    return [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.ndim]


def sample_memories(
    policy: ActorCritic,
    environment: Any,
    env_params: Any,
    params: Any,
    length: int,
    trials: int,
    key: jax.Array,
) -> dict[str, Samples]:
    """Looks into the memories of many trials at random moments. Consumes `key`.

    Group 0 of the ages are the moments at which a fact, as it is then, has not been shown: before the first time, and
    since it changed without being shown. The others are those of `age_groups(length)`, in steps since it was last
    shown. Of the moments of a trial that fall in a group, one is drawn.

    Args:
      policy: the policy to look into.
      environment: a gymnax environment.
      env_params: its parameters.
      params: the parameters of the policy.
      length: steps of each trial.
      trials: `B`.
      key: decides tasks, actions and moments.

    Returns:
      The samples of each fact; empty if the environment has none.
    """
    env_params = in_one_trial(environment, env_params, length)
    firsts = jnp.asarray([first for first, _ in age_groups(length)])
    groups = len(firsts) + 1
    row = jnp.arange(trials)

    def empty(shapes: Look) -> Any:
        seen = jax.eval_shape(functools.partial(sources, policy), params, shapes)
        kept = {name: jnp.zeros((trials, groups, part.shape[-1]), jnp.float32) for name, part in seen.items()}
        latest, counts = jnp.zeros(trials, jnp.int32), jnp.zeros((trials, groups), jnp.int32)
        # The kept samples are copied for every fact: they are looked at in moments of their own.
        return {name: (latest, jnp.full(trials, NEVER), counts, counts, dict(kept)) for name in shapes.facts}

    def step(carry: tuple[Now, Any], key: jax.Array) -> tuple[tuple[Now, Any], None]:
        now, facts = carry
        now, look, _, _ = advance(policy, environment, env_params, params, now)
        seen, after = sources(policy, params, look), {}
        for (name, (latest, age, counts, values, kept)), key in zip(  # noqa: B020
            facts.items(), jax.random.split(key, len(facts)), strict=True
        ):
            value, shown = look.facts[name]
            # What was shown before a change was another fact: counted on, accuracy would fall with age by construction.
            unknown = look.reset | (value != latest) | (age == NEVER)
            age = jnp.where(unknown, NEVER, age + 1)
            age = jnp.where(shown, 0, age)
            group = jnp.where(age == NEVER, 0, jnp.searchsorted(firsts, age, side="right")).astype(jnp.int32)
            counts = counts.at[row, group].add(1)
            # The n-th moment of a group takes the place of the one kept with probability 1 / n: all are equally likely.
            takes = jax.random.uniform(key, (trials,)) * counts[row, group].astype(jnp.float32) < 1
            place = jnp.where(takes, group, groups)  # past the end: dropped
            values = values.at[row, place].set(value, mode="drop")
            kept = {source: kept[source].at[row, place].set(part, mode="drop") for source, part in seen.items()}
            after[name] = (value, age, counts, values, kept)
        return (now, after), None

    @jax.jit
    def sample(params: Any, key: jax.Array) -> Any:
        begin_key, moments_key = jax.random.split(key)
        now = begin_trials(policy, environment, env_params, trials, begin_key)
        look = jax.eval_shape(functools.partial(advance, policy, environment, env_params, params), now)[1]
        (_, facts), _ = jax.lax.scan(step, (now, empty(look)), jax.random.split(moments_key, length))
        return {name: Samples(values, counts > 0, kept) for name, (_, _, counts, values, kept) in facts.items()}

    return jax.device_get(sample(params, key))


def accuracy_by_age(samples: Samples, ages: list[tuple[int, int]]) -> dict[str, Any] | None:
    """How often a linear classifier can decode a fact from what a memory holds, by the time since it was shown.

    For each source one multinomial logistic regression learns from `TRAINING_SHARE` of the trials, all ages together,
    moments at which the fact had not been shown left out; it is tested on the other trials. With at most one sample of
    a trial in a group of ages, the samples of a group are independent, and intervals are binomial: Wilson's, 95%.
    `chance` is how often the value that was most frequent in the group in training is right.

    Args:
      samples: of one fact.
      ages: `age_groups` of their trials.

    Returns:
      Plain data: the number of `values` that occur, `trials` learned from, and `groups` in order of age, each with its
      `ages` (the first and the last; `None`: the fact, as it was then, had not been shown), the number of samples
      `tested`, `chance`, and by source `accuracy`, `low` and `high`. Groups of fewer than `FEWEST` samples are left
      out. `None` if the fact was not shown in enough trials, or always the same.
    """
    training = np.arange(len(samples.taken)) < round(TRAINING_SHARE * len(samples.taken))
    learned = samples.taken & training[:, None]
    learned[:, 0] = False
    tested = samples.taken & ~training[:, None]
    values = np.unique(samples.value[learned])
    told = [group for group in range(len(ages) + 1) if tested[:, group].sum() >= FEWEST]
    if len(values) < 2 or not any(told):
        return None
    right = {
        source: _classify(features, samples.value, learned) == samples.value
        for source, features in samples.features.items()
    }
    groups = []
    for group in told:
        chosen = tested[:, group]
        frequent = _most_frequent(samples.value[training & samples.taken[:, group], group], samples.value[learned])
        groups.append(
            {
                "ages": None if group == 0 else list(ages[group - 1]),
                "tested": int(chosen.sum()),
                "chance": float((samples.value[chosen, group] == frequent).mean()),
                **{source: _share(hits[chosen, group]) for source, hits in right.items()},
            }
        )
    return {"values": len(values), "trials": int(learned.any(axis=1).sum()), "groups": groups}


def _classify(features: np.ndarray, values: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """The values `[B, A]` that a classifier decodes from features `[B, A, F]`, having learned from some of them."""
    # Takes a second to import, and only this function needs it.
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits of its weights do not matter
        classifier.fit(features[learned], values[learned])
    return classifier.predict(features.reshape(-1, features.shape[-1])).reshape(values.shape)


def _most_frequent(values: np.ndarray, otherwise: np.ndarray) -> int:
    """The most frequent of `values`, or of `otherwise` if there are none."""
    return int(np.bincount(values if len(values) else otherwise).argmax())


def _share(hits: np.ndarray) -> dict[str, float]:
    """The share of `hits`, bool `[N]`, with its interval."""
    low, high = wilson_interval(hits)
    return {"accuracy": float(hits.mean()), "low": low, "high": high}
