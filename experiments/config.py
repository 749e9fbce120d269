"""The settings of a run: one frozen dataclass, and its JSON form."""

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args

import jax.numpy as jnp

from envs import ENVIRONMENTS
from envs.base import EnvironmentConfig
from memrl.environment import hooks
from memrl.evaluation import EvaluationConfig
from memrl.files import check_type
from memrl.memory import MEMORIES, MemoryConfig
from memrl.networks import ActorCritic, NetworkConfig, observation_kinds
from memrl.ppo import PPOConfig
from memrl.validation import INT32_MAX, check_numbers

if TYPE_CHECKING:  # no checker knows what is registered
    AnyEnvironment = EnvironmentConfig
    AnyMemory = MemoryConfig
else:
    AnyEnvironment = Union[tuple(ENVIRONMENTS.values())]  # noqa: UP007 (of what is registered)
    AnyMemory = Union[tuple(MEMORIES.values())]  # noqa: UP007


@dataclasses.dataclass(frozen=True)
class TrackingConfig:
    """Where metrics go besides `metrics.jsonl`."""

    wandb: Literal["offline", "online", "disabled"] = "offline"
    """offline: Weights & Biases files in the run folder, to be uploaded with `wandb sync`; online: needs an account."""
    project: str = "memrl"
    """Weights & Biases project."""
    group: str | None = None
    """Weights & Biases group, such as the seeds of one experiment."""
    tags: tuple[str, ...] = ()
    """Weights & Biases tags."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides what a run does."""

    name: str
    """Name of the run; that of its config if not given."""
    env: AnyEnvironment
    """The environment: the task to learn."""
    memory: AnyMemory
    """The memory of the policy."""
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    """The parts of the policy around the memory."""
    ppo: PPOConfig = dataclasses.field(default_factory=PPOConfig)
    """How the policy learns."""
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    """How the frozen policy is evaluated at the end."""
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)
    """Where metrics go besides `metrics.jsonl`."""
    total_steps: int
    """Environment steps of the run, rounded up to whole chunks of updates."""
    updates_per_chunk: int = 1
    """Updates in one call of the compiled program; more than one pays off where an update takes milliseconds."""
    checkpoint_every: int = 25
    """Updates between two checkpoints, rounded up to whole chunks."""
    seed: int = 0
    """Seed of everything random."""
    devices: int | None = None
    """Devices to train on; if not given, the most that divide the environments of a minibatch."""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise ValueError(f"name is {self.name!r}: it becomes the name of a folder, so it must be that of one.")
        check_numbers(self, large=("total_steps", "checkpoint_every", "seed"))
        for name in ("total_steps", "updates_per_chunk", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1.")
        if self.devices is not None and self.devices < 1:
            raise ValueError(f"devices is {self.devices}: it must be at least 1.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}: it must be from 0 to 2^32 - 1.")
        ppo = self.ppo
        counted = {
            "steps of each environment": self.num_updates * ppo.unroll_length,
            "gradient steps": self.num_updates * ppo.updates_per_rollout * ppo.epochs * ppo.minibatches,
        }
        for what, count in counted.items():
            if count > INT32_MAX:
                raise ValueError(
                    f"total_steps is {self.total_steps}, in chunks of {self.updates_per_chunk} updates: "
                    f"that makes {count} {what}, and they must be at most 2^31 - 1."
                )

    @property
    def steps_per_update(self) -> int:
        """Environment steps that one update learns from."""
        return self.ppo.num_envs * self.ppo.unroll_length

    @property
    def num_updates(self) -> int:
        """Updates of the whole run, a multiple of `updates_per_chunk`."""
        chunk = self.steps_per_update * self.updates_per_chunk
        return -(-self.total_steps // chunk) * self.updates_per_chunk

    @property
    def trial_length(self) -> int:
        """Steps of a trial."""
        return int(self.env.make()[1].max_steps_in_episode)

    def validate(self) -> None:
        """What no part of a config can check by itself.

        Raises:
          ValueError: the parts do not fit each other.
        """
        segment = getattr(self.memory, "segment_length", 1)
        if segment > self.trial_length:
            raise ValueError(
                f"memory.segment_length is {segment} and a trial has {self.trial_length} steps: "
                "a segment must not be longer than the trial."
            )
        if not hooks(self.env.make()[0]).episodic:
            self.evaluation.window_length(self.trial_length)


def make_policy(config: Config, environment: Any, env_params: Any, memory: MemoryConfig | None = None) -> ActorCritic:
    """The policy of a run.

    Args:
      config: of the run.
      environment: what it acts in, or one with the same spaces.
      env_params: parameters of the environment.
      memory: other settings of the same memory, such as another capacity, if not those of the config.

    Raises:
      ValueError: it could not read the observations.
    """
    dtype = jnp.dtype(config.network.dtype)
    memory = config.memory if memory is None else memory
    kinds = observation_kinds(environment.observation_space(env_params))
    return ActorCritic(memory.build(dtype), environment.num_actions, config.network, dtype, kinds, config.ppo.auxiliary)


REGISTRIES: dict[str, dict[str, type]] = {"env": ENVIRONMENTS, "memory": MEMORIES}
"""The fields of `Config` whose class is chosen by name."""


def config_to_dict(config: Config) -> dict[str, Any]:
    """The config as JSON has it; `env` and `memory` carry their registered `name` besides their fields.

    JSON has no infinity: it becomes the string "Infinity".
    """

    def fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: "Infinity" if value == math.inf else value for name, value in pairs}

    values = dataclasses.asdict(config, dict_factory=fields)
    for field, registry in REGISTRIES.items():
        names = {kind: name for name, kind in registry.items()}
        values[field] = {"name": names[type(getattr(config, field))], **values[field]}
    return values


def config_from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `config_to_dict`, also after a round trip through JSON. Missing fields take their defaults.

    Raises:
      ValueError: a field or value that no config has.
    """
    if not isinstance(values, dict):
        raise ValueError("It is not an object with fields.")
    values = dict(values)
    for field, registry in REGISTRIES.items():
        if not isinstance(values.get(field), dict) or "name" not in values[field]:
            raise ValueError(f"It does not name its {field}.")
        fields = dict(values[field])
        values[field] = _construct(registry[look_up(str(fields.pop("name")), registry, field)], fields, f"{field}.")
    config = _construct(Config, values, "")
    config.validate()
    return config


def load_config(folder: Path) -> Config:
    """The config of the run in `folder`, which `config.json` holds.

    Raises:
      ValueError: there is no run, or its config is not one.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"There is no run in {folder}: it has no config.json.")
    try:
        return config_from_dict(json.loads(file.read_text()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} is not the config of a run: {error}") from error


def look_up(name: str, known: Iterable[str], what: str) -> str:
    """`name` if it is `known`; ValueError with the nearest that is if not. `what` says what it is the name of."""
    known = list(known)
    if name not in known:
        raise ValueError(f"There is no {what} {name}; did you mean {nearest(name, known)}?")
    return name


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that resembles `name` most."""
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def _construct(kind: Any, values: dict[str, Any], prefix: str) -> Any:
    """The dataclass `kind` from JSON; `prefix` is what stands before the names of its fields in the config."""
    fields = {prefix + field.name: field for field in dataclasses.fields(kind)}
    arguments = {}
    for name, value in values.items():
        annotation = fields[look_up(prefix + name, fields, "field")].type
        if isinstance(value, dict) and dataclasses.is_dataclass(annotation):
            value = _construct(annotation, value, f"{prefix}{name}.")
        elif isinstance(value, list):
            value = tuple(value)
        elif value == "Infinity" and float in (annotation, *get_args(annotation)):
            value = math.inf
        _check_type(prefix + name, value, annotation)
        arguments[name] = value
    for name, field in fields.items():
        if field.default is field.default_factory and name.removeprefix(prefix) not in arguments:  # both are MISSING
            raise ValueError(f"There is no {name}.")
    return kind(**arguments)


def _check_type(name: str, value: Any, annotation: Any) -> None:
    """Raises ValueError if the value of a field, read from JSON, is not of its type."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation) and isinstance(value, annotation):
        return
    try:
        check_type(value, annotation)
    except ValueError:
        kind = annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
        raise ValueError(f"{name} is {value!r}: it must be of the type {kind}.") from None
