"""The laws reject memories that break them, each in its own way, and accept one that does not."""

import dataclasses
from typing import Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from memrl.memory import Memory, MemoryConfig, laws
from memrl.memory.base import State, parameter_dtype, select


class Trace(Memory):
    """A memory that obeys every law: a decaying sum of its projected inputs. The broken ones change one thing each."""

    config: "TraceConfig"
    dtype: jnp.dtype

    def setup(self) -> None:
        parameters = {"dtype": self.dtype, "param_dtype": parameter_dtype(self.dtype)}
        self.projection = nn.Dense(self.config.features, **parameters)

    def initial_state(self, batch: int, key: jax.Array | None = None) -> State:
        return {
            "key": jax.random.key(0) if key is None else key,
            "clock": jnp.int32(0),
            "trace": jnp.zeros((batch, self.config.features), self.dtype),
        }

    def step(self, state: State, x: jax.Array, reset: jax.Array) -> tuple[State, jax.Array]:
        trace = self.decayed(self.emptied(state["trace"], reset)) + self.projection(x) + self.noise(state)
        return {**state, "clock": state["clock"] + 1, "trace": trace}, self.output(trace)

    def unroll(self, state: State, xs: jax.Array, resets: jax.Array) -> tuple[State, jax.Array]:
        scan = nn.scan(
            lambda memory, state, inputs: memory.step(state, *inputs),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        return scan(self, state, (xs, resets))

    def tokens_attended(self, state: State) -> jax.Array:
        return jnp.int32(0)

    def emptied(self, trace: jax.Array, reset: jax.Array) -> jax.Array:
        return select(reset, jnp.zeros_like(trace), trace)

    def decayed(self, trace: jax.Array) -> jax.Array:
        return trace * jnp.asarray(self.config.decay, trace.dtype)

    def noise(self, state: State) -> jax.Array:
        """Drawn for all rows at once: those of a minibatch see the same."""
        key = jax.random.fold_in(state["key"], state["clock"])
        noise = jax.random.normal(key, (self.config.features,), self.dtype)
        return jnp.asarray(self.config.noise, self.dtype) * noise[None]

    def output(self, trace: jax.Array) -> jax.Array:
        return jnp.tanh(trace)


@dataclasses.dataclass(frozen=True)
class TraceConfig(MemoryConfig):
    """Hyperparameters of `Trace` and of the class that is built."""

    memory: type[Memory] = Trace
    features: int = 4
    decay: float = 0.5
    noise: float = 0.1

    def build(self, dtype: jnp.dtype = jnp.float32) -> Memory:
        return self.memory(self, dtype)

    def without_noise(self) -> Self:
        return dataclasses.replace(self, noise=0.0)


class MultipliesByTheMask(Trace):
    def emptied(self, trace, reset):
        return trace * (1 - reset[:, None].astype(trace.dtype))


class ForgetsInPart(Trace):
    def emptied(self, trace, reset):
        return jnp.where(reset[:, None], 0.01 * jnp.nan_to_num(trace, posinf=0, neginf=0), trace)


class ResetsAfterReading(Trace):
    def step(self, state, x, reset):
        state, y = super().step(state, x, jnp.zeros_like(reset))
        return {**state, "trace": self.emptied(state["trace"], reset)}, y


class SeesTheFuture(Trace):
    def unroll(self, state, xs, resets):
        state, ys = super().unroll(state, xs, resets)
        return state, ys + jnp.nan_to_num(ys[-1:], posinf=0, neginf=0)


class SpreadsNaNBackInTime(Trace):
    def unroll(self, state, xs, resets):
        state, ys = super().unroll(state, xs, resets)
        return state, ys + 0 * ys[-1:]


class MixesRows(Trace):
    def output(self, trace):
        return trace - jnp.nan_to_num(trace).mean(axis=0, keepdims=True)


class SpreadsNaNOverRows(Trace):
    def output(self, trace):
        return trace + 0 * trace.mean(axis=0, keepdims=True)


class MixesRowsOfTheState(Trace):
    def emptied(self, trace, reset):
        return select(jnp.broadcast_to(reset.any(), reset.shape), jnp.zeros_like(trace), trace)


class DrawsForTheBatch(Trace):
    def noise(self, state):
        key = jax.random.fold_in(state["key"], state["clock"])
        return self.config.noise * jax.random.normal(key, state["trace"].shape, self.dtype)


class StartsEveryUnrollEmpty(Trace):
    def unroll(self, state, xs, resets):
        return super().unroll({**state, "trace": jnp.zeros_like(state["trace"])}, xs, resets)


class LosesTheLastStep(Trace):
    def unroll(self, state, xs, resets):
        _, ys = super().unroll(state, xs, resets)
        return super().unroll(state, xs[:-1], resets[:-1])[0], ys


class CountsUnrolls(Trace):
    def unroll(self, state, xs, resets):
        after, ys = super().unroll(state, xs, resets)
        return {**after, "clock": state["clock"] + 18 * (xs.shape[0] // 6)}, ys


class RoundsToFloat16(Trace):
    def unroll(self, state, xs, resets):
        state, ys = super().unroll(state, xs, resets)
        return state, ys.astype(jnp.float16).astype(ys.dtype)


class ChangesItsType(Trace):
    def step(self, state, x, reset):
        state, y = super().step(state, x, reset)
        return {**state, "trace": state["trace"].astype(jnp.float32)}, y


class HasAnotherAxisFirst(Trace):
    def initial_state(self, batch, key=None):
        return {**super().initial_state(batch, key), "features": jnp.zeros((4, batch), self.dtype)}


class SharesABuffer(Trace):
    def initial_state(self, batch, key=None):
        state = super().initial_state(batch, key)
        return {**state, "copy": state["trace"]}

    def step(self, state, x, reset):
        after, y = super().step(state, x, reset)
        return {**after, "copy": after["trace"] + 1}, y


class HasAnIdleParameter(Trace):
    def setup(self):
        super().setup()
        self.idle = self.param("idle", nn.initializers.ones, (3,), parameter_dtype(self.dtype))


class StopsTheGradient(Trace):
    def decayed(self, trace):
        return super().decayed(jax.lax.stop_gradient(trace))


class IgnoresItsKey(Trace):
    def noise(self, state):
        return super().noise({**state, "key": jax.random.key(0)})


class StartsFromAnotherKey(Trace):
    def initial_state(self, batch, key=None):
        return super().initial_state(batch, jax.random.key(1) if key is None else key)


@dataclasses.dataclass(frozen=True)
class StaysNoisy(TraceConfig):
    def without_noise(self):
        return self


@dataclasses.dataclass(frozen=True)
class GrowsWithItsCapacity(TraceConfig):
    def with_capacity(self, steps):
        return dataclasses.replace(self, features=steps)


@dataclasses.dataclass(frozen=True)
class FadesWithItsCapacity(TraceConfig):
    def with_capacity(self, steps):
        return dataclasses.replace(self, decay=1 - 1 / steps)


BROKEN = [
    (MultipliesByTheMask, laws.resets_forget_everything, "after a reset"),
    (ForgetsInPart, laws.resets_forget_everything, "after a reset"),
    (ResetsAfterReading, laws.resets_forget_everything, "after a reset"),
    (SeesTheFuture, laws.outputs_do_not_see_the_future, "change earlier outputs"),
    (SpreadsNaNBackInTime, laws.outputs_do_not_see_the_future, "change earlier outputs"),
    (MixesRows, laws.rows_never_mix, "changes other rows"),
    (SpreadsNaNOverRows, laws.rows_never_mix, "changes other rows"),
    (MixesRowsOfTheState, laws.rows_never_mix, "changes other rows"),
    (MixesRows, laws.gradients_reach_the_published_inputs, "by another row"),
    (DrawsForTheBatch, laws.rows_never_mix, "alone differ"),
    (StartsEveryUnrollEmpty, laws.unroll_equals_scan_of_step, "in their outputs"),
    (StartsEveryUnrollEmpty, laws.cuts_change_nothing, "differ from one of"),
    (LosesTheLastStep, laws.unroll_equals_scan_of_step, "in their final state"),
    (CountsUnrolls, laws.cuts_change_nothing, "differ from one of"),
    (RoundsToFloat16, laws.unroll_equals_scan_of_step_in_float32, "in their outputs"),
    (ChangesItsType, laws.shapes_and_dtypes_never_change, "step changes the state"),
    (HasAnotherAxisFirst, laws.shapes_and_dtypes_never_change, "batch as its leading axis"),
    (SharesABuffer, laws.jit_vmap_and_donation_work, "same buffer"),
    (HasAnIdleParameter, laws.gradients_reach_every_parameter, "3 of 3 elements of .*idle"),
    (StopsTheGradient, laws.gradients_reach_the_published_inputs, "does not depend"),
    (IgnoresItsKey, laws.randomness_is_in_the_state, "The key changes nothing"),
    (StartsFromAnotherKey, laws.randomness_is_in_the_state, "initial_state without key"),
    (StaysNoisy, laws.randomness_is_in_the_state, "of a memory without noise"),
    (GrowsWithItsCapacity, laws.capacity_and_noise_are_no_parameters, "The parameters"),
    (FadesWithItsCapacity, laws.capacity_and_noise_are_no_parameters, "forgets within"),
]


@pytest.mark.laws
@pytest.mark.parametrize(
    ("broken", "law", "complaint"), BROKEN, ids=[f"{broken.__name__}-{law.__name__}" for broken, law, _ in BROKEN]
)
def test_a_broken_memory_is_rejected(broken, law, complaint):
    config = broken() if issubclass(broken, MemoryConfig) else TraceConfig(broken)
    with pytest.raises((AssertionError, jax.errors.JaxRuntimeError), match=complaint):
        law(laws.Subject(config))


@pytest.mark.laws
def test_every_law_rejects_some_memory():
    assert set(laws.LAWS) == {law for _, law, _ in BROKEN}


@pytest.mark.laws
def test_a_memory_that_remembers_more_than_its_method_says_is_rejected():
    with pytest.raises(AssertionError, match="depends on the input at step 0"):
        laws.gradients_reach_the_published_inputs(
            laws.Subject(TraceConfig(), lambda resets: laws.since_reset(resets) & False)
        )


@pytest.mark.laws
def test_a_good_memory_passes():
    laws.check(TraceConfig())
    assert not jax.config.jax_enable_x64


@pytest.mark.laws
@pytest.mark.parametrize("x64", [False, True])
def test_the_precision_is_afterwards_what_it_was(x64):
    """Whatever it was in the process that checks a memory, and if a law is broken."""
    jax.config.update("jax_enable_x64", x64)
    try:
        with pytest.raises(AssertionError):
            laws.check(TraceConfig(), lambda resets: laws.since_reset(resets) & False)
        assert jax.config.jax_enable_x64 == x64
    finally:
        jax.config.update("jax_enable_x64", False)


def test_what_is_remembered_since_a_reset():
    resets = jnp.array([[False], [True], [False], [True]])
    assert laws.since_reset(resets)[:, 0].astype(int).tolist() == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 1],
    ]
