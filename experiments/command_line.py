"""What the command line tools share: naming and overriding a config, saying what is wrong, choosing devices.

Bad input ends a tool with status 2 and one sentence on stderr, before anything is compiled.
"""

import contextlib
import dataclasses
import io
import itertools
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, NoReturn, TypeVar

import jax
import tyro
from jax.sharding import Mesh

import envs
from envs import ENVIRONMENTS
from experiments.config import Config, look_up, nearest
from experiments.configs import CONFIGS
from experiments.terminal import drop_output
from memrl.checkpoint import CheckpointError
from memrl.files import FileError, StorageError, check_writable
from memrl.memory import MEMORIES
from memrl.sharding import compiles, device_mesh
from memrl.tracking import wandb_mode

Options = TypeVar("Options")
Said = TypeVar("Said")

FAILED = 1
"""Exit status where the command is correct and still could not be carried out."""
BAD_INPUT = 2
"""Exit status where the command line, a file or a folder is wrong."""


class UsageError(ValueError):
    """Bad input, in one sentence for the person at the terminal."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which config is meant."""

    config: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the config to begin with."""
    memory: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of a memory to use instead of the config's: with its default fields, and room for a whole trial."""
    env: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of an environment to use instead of the config's, with its default fields; gymnax:NAME for gymnax's own."""
    list: tyro.conf.FlagCreatePairsOff[bool] = False
    """List all configs, a line each, and exit."""


@dataclasses.dataclass(frozen=True)
class Command(Generic[Options]):
    """Everything that the command line says."""

    selection: Annotated[Selection, tyro.conf.arg(name="")]
    options: Annotated[Options, tyro.conf.arg(name="")]
    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]


def main(tool: Callable[[Sequence[str]], int]) -> NoReturn:
    """Runs a tool: calls it with the arguments, says what is wrong with them if that is so, exits."""
    try:
        try:
            status: Any = tool(sys.argv[1:])
        except SystemExit as stop:  # after --help or --list
            status = stop.code
        print(end="", flush=True)
    except (UsageError, CheckpointError, FileError) as error:
        status = _complain(str(error), BAD_INPUT)
    except StorageError as error:
        status = _complain(f"{error} What is there is as it was; make room, or use a folder that can be.", FAILED)
    except BrokenPipeError:  # what is printed goes to a program that has read enough of it
        drop_output()
        status = 128 + signal.SIGPIPE
    except OSError as error:
        if error.filename is None:
            raise
        status = _complain(f"{error.filename}: {error.strerror}.", BAD_INPUT)
    except KeyboardInterrupt:
        status = _complain("Interrupted.", 128 + signal.SIGINT)
    sys.exit(status)


def _complain(text: str, status: int) -> int:
    """Says why a tool ends, if anybody can read it; returns the exit status."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
    return status


def value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The value of `--option VALUE` or `--option=VALUE`, the last one if there are several; None if there is none."""
    value = None
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        if argument == option:
            value = following
        elif argument.startswith(f"{option}="):
            value = argument.partition("=")[2]
    return value


def read(
    program: str, description: str, options: Options, arguments: Sequence[str], config: Config | None = None
) -> tuple[Config, Options]:
    """Reads `--config NAME`, the overrides of the config's fields, and the options of the tool itself.

    Prints and exits if `--help` or `--list` is asked for.

    Args:
      program: `experiments.NAME`.
      description: what the tool does, for `--help`.
      options: a dataclass of the options of the tool, with their default values.
      arguments: the command line without the program.
      config: what is overridden instead; then none may be chosen by name.

    Returns:
      The config, which is valid, and the options.

    Raises:
      UsageError: bad input.
    """
    if "--list" in arguments:
        width = max(map(len, CONFIGS))
        print("\n".join(f"{name:{width}}  {preset.summary}" for name, preset in CONFIGS.items()))
        sys.exit(0)
    try:
        default = Command(Selection(), options, config or _select(arguments, options))
        description = f"{description} The values below are those of {default.config.name}."
        parts = (default.selection, default.options, default.config)
        command = parse(Command[type(options)], default, parts, program, description, arguments)
        if config is not None and command.selection != Selection():
            raise UsageError("A run that exists has its config already: leave out --config, --memory and --env.")
        chosen = command.config if config is not None else _with_room(command.config, arguments)
        chosen.validate()
        wandb_mode(chosen.tracking.wandb)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return chosen, command.options


def _select(arguments: Sequence[str], options: Any) -> Config:
    """The config that the arguments name, with the memory and environment that they name. `options` are the tool's."""
    name, memory, env = (value_of(option, arguments) for option in ("--config", "--memory", "--env"))
    if name is None:
        parts = (Selection(), options, next(iter(CONFIGS.values())).config)
        for argument in arguments:
            # What has a dot in it is of a memory or an environment, and they are not known yet.
            said = argument.partition("=")[0].replace("_", "-")
            if said.startswith("--") and "." not in said and said not in {"--help", *_names(parts)}:
                raise UsageError(_unknown(argument, parts))
        if not {"-h", "--help"} & set(arguments):
            raise UsageError(f"Choose a config with --config: {', '.join(CONFIGS)}.")
        name = next(iter(CONFIGS))
    config = CONFIGS[look_up(name, CONFIGS, "config")].config
    if env is not None:
        if not env.startswith("gymnax:"):
            look_up(env, ENVIRONMENTS, "environment")
        config = dataclasses.replace(config, env=envs.get(env)())
    if memory is not None:
        config = dataclasses.replace(config, memory=MEMORIES[look_up(memory, MEMORIES, "memory")]())
    if env is not None:
        # As many windows as the config has, or the next smaller number that divides the trial.
        windows = next(n for n in range(config.evaluation.windows_per_trial, 0, -1) if config.trial_length % n == 0)
        evaluation = dataclasses.replace(config.evaluation, windows_per_trial=windows)
        config = dataclasses.replace(config, evaluation=evaluation)
    # What `--help` shows; other overrides may change it once more, see `_with_room`.
    return dataclasses.replace(config, memory=config.memory.with_capacity(config.trial_length))


def _with_room(config: Config, arguments: Sequence[str]) -> Config:
    """The config with room for exactly one whole trial in its memory, unless the arguments say for how much.

    Varying the length of a trial or of a segment is to compare memories, not how much of a trial fits into them.
    """
    memory = config.memory.with_capacity(config.trial_length)
    sizes = {
        f"memory.{field.name}"
        for field in dataclasses.fields(memory)
        if getattr(memory, field.name) != getattr(config.memory, field.name)
    }
    return config if sizes & set_in(arguments) else dataclasses.replace(config, memory=memory)


def normal(field: str) -> str:
    """The name of a field as it is in a config."""
    return field.strip().replace("-", "_")


def option(field: str) -> str:
    """The option that sets a field."""
    return f"--{field.replace('_', '-')}"


def set_in(arguments: Sequence[str]) -> set[str]:
    """The fields that arguments set."""
    options = (argument.partition("=")[0] for argument in arguments if argument.startswith("--"))
    return {normal(name.removeprefix("--")) for name in options}


def parse(
    kind: type[Said], default: Said, parts: Sequence[Any], program: str, description: str, arguments: Sequence[str]
) -> Said:
    """Reads the fields of a dataclass from the arguments. Prints and exits if `--help` is asked for.

    Args:
      kind: the dataclass.
      default: its values where the arguments say nothing.
      parts: the dataclasses in it whose fields are options without a prefix.
      program, description, arguments: as for `read`.

    Raises:
      UsageError: bad input.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            value, unknown = tyro.cli(
                kind,
                default=default,
                args=list(arguments),
                prog=f"python -m {program}",
                description=description,
                config=(tyro.conf.AvoidSubcommands,),
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise UsageError(_sentence(said.getvalue())) from None
    if unknown:
        raise UsageError(_unknown(unknown[0], parts))
    return value


def _sentence(box: str) -> str:
    """On one line, what tyro says in the first part of a box that it draws around a complaint."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()
    # The first line is a title; the parts are separated by lines without words, drawn or, if need be, of hyphens.
    parts = itertools.groupby(lines[1:], key=lambda line: re.search(r"\w", line) is not None)
    first = next((list(part) for has_words, part in parts if has_words), lines)
    text = " ".join(line.strip("│ ") for line in first)
    text = re.sub(r"^Error parsing (config\.)?", "", text)
    text = re.sub(r"^(\w+): (?=\1\.)", "", text)  # "ppo: ppo.clip is .." names the field twice
    return text if text.endswith(".") else f"{text}."


def _names(parts: Sequence[Any]) -> Iterator[str]:
    """The options of some dataclasses. `parts` as for `parse`."""

    def names(value: Any, prefix: str) -> Iterator[str]:
        for field in dataclasses.fields(value):
            if tyro.conf.Positional in getattr(field.type, "__metadata__", ()):
                continue
            inner, name = getattr(value, field.name), prefix + field.name.replace("_", "-")
            yield from names(inner, f"{name}.") if dataclasses.is_dataclass(inner) else [name]

    for part in parts:
        yield from names(part, "--")


def _unknown(argument: str, parts: Sequence[Any]) -> str:
    """What to say about an argument that is not known. `parts` as for `parse`."""
    if not argument.startswith("--"):
        return f"There is an argument too many: {argument}."
    name = argument.partition("=")[0]
    return f"There is no option {name}; did you mean {nearest(name.replace('_', '-'), _names(parts))}?"


def sentence(error: BaseException) -> str:
    """An error in one line."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return first if isinstance(error, ValueError) and first else f"{type(error).__name__}: {first}"


def make_output(folder: Path, what: str) -> bool:
    """Makes the folder that `what` is written to, if need be.

    Returns:
      Whether there is something in it already.

    Raises:
      UsageError: it cannot be one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)
        return any(folder.iterdir())
    except StorageError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{folder} cannot be the folder of {what}: {error.strerror}.") from error


def make_mesh(config: Config) -> Mesh:
    """The devices to train on: as many as the config says or, if it does not, the most that divide a minibatch.

    One where JAX is not to compile anything (`JAX_DISABLE_JIT`).

    Raises:
      UsageError: there are fewer devices than the config says, they do not divide a minibatch, or only one may be used.
    """
    minibatch = config.ppo.num_envs // config.ppo.minibatches
    devices = config.devices
    if not compiles() and devices not in (None, 1):
        raise UsageError(f"JAX_DISABLE_JIT is set and devices is {devices}: what is not compiled runs on one device.")
    if not compiles():
        devices = 1
    if devices is None:
        devices = max(number for number in range(1, jax.device_count() + 1) if minibatch % number == 0)
    try:
        mesh = device_mesh(devices)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if minibatch % devices:
        raise UsageError(
            f"devices is {devices} and a minibatch has {minibatch} environments (ppo.num_envs / ppo.minibatches): "
            "the devices must divide the environments of a minibatch."
        )
    return mesh
