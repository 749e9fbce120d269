"""What a grid trains, as it is written: sweeps and seeds, on the command line or in a TOML file."""

import itertools
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.command_line import UsageError, normal, option, set_in
from experiments.config import look_up, nearest

GRIDS = Path(__file__).parent / "grids"
"""Where the grids are that have a name."""
SEEDS = "0..4"
"""Seeds of every cell where none are given."""

Sweeps = dict[str, list[list[str]]]
"""For each swept field its values; each value is the words that follow the option of that name."""


class Definition(NamedTuple):
    """What is trained, as said on the command line and in a file."""

    name: str
    """What the grid is called if its folder is not named."""
    arguments: list[str]
    """What holds for all cells: arguments as of `experiments.run`, and the options of this tool."""
    sweeps: Sweeps
    """Fields that differ between cells, and their values."""
    seeds: list[int]
    """Seeds of each cell."""
    test: Sweeps
    """Fields and values that cells are tested on; empty if nothing is said."""


def read_sweep(option: str, text: str) -> tuple[str, list[list[str]]]:
    """A field and its values, from the `text` FIELD=A,B of an option; UsageError if it is not such."""
    field, equals, values = text.partition("=")
    if not equals or not all(value.split() for value in values.split(",")):
        raise UsageError(f"{option} {text}: it must be FIELD=VALUE,VALUE,.. without an empty value.")
    return normal(field), [value.split() for value in values.split(",")]


def read_seeds(text: str) -> list[int]:
    """The seeds that are meant by 0..9, 0,3,5 or 7; UsageError if they are not such."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        if not first.isdecimal() or (dots and not last.isdecimal()):
            raise UsageError(f"seeds is {text!r}: it must be as 0..9, or 0,3,5, or 7.")
        if dots and int(last) < int(first):
            raise UsageError(f"seeds is {text!r}: {last} is less than {first}.")
        seeds += range(int(first), int(last if dots else first) + 1)
    if (twice := next((seed for seed in seeds if seeds.count(seed) > 1), None)) is not None:
        raise UsageError(f"seeds is {text!r}: {twice} is in it twice.")
    return seeds


def grid_file(name: str) -> Path:
    """The file of the grid `name`, which may be that file itself; UsageError if there is none."""
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise UsageError(f"There is no file {name}.")
        return Path(name)
    known = {path.stem: path for path in sorted(GRIDS.glob("*.toml"))}
    try:
        return known[look_up(name, known, "grid")]
    except ValueError as error:
        raise UsageError(str(error)) from error


def read_file(path: Path) -> Definition:
    """The grid in a TOML file; UsageError if it is not one."""
    try:
        said = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a TOML file: {error}.") from error
    kinds = {
        "config": str,
        "sweep": dict,
        "seeds": str | int | list,
        "overrides": dict | list,
        "test": dict,
    }
    for name, value in said.items():
        if name not in kinds:
            raise UsageError(f"{path}: there is no {name} in a grid; did you mean {nearest(name, kinds)}?")
        if not isinstance(value, kinds[name]):
            allowed = {str: "a text", dict: "a table", dict | list: "a table or a list"}.get(kinds[name], "as 0..9")
            raise UsageError(f"{path}: {name} is {value!r}: it must be {allowed}.")
    tables = {}
    for name in ("sweep", "test"):
        tables[name] = {}
        for field, values in flat(said.get(name, {})):
            if not isinstance(values, list) or not values:
                raise UsageError(f"{path}: {name} of {field} is {values!r}: it must be a list of values, not empty.")
            if field in tables[name]:
                raise UsageError(f"{path}: {field} is in {name} twice.")
            tables[name][field] = [words(value) for value in values]
    overrides = said.get("overrides", [])
    if isinstance(overrides, dict):
        overrides = [word for field, value in flat(overrides) for word in (option(field), *words(value))]
    overrides = list(map(str, overrides))
    for field in tables["sweep"]:
        if field in set_in(overrides) or (field == "config" and "config" in said):
            raise UsageError(f"{path}: {field} is swept and set: it can only be one of the two.")
    for field in ("seed", "seeds", "sweep", "grid", "resume"):
        if field in set_in(overrides):
            raise UsageError(f"{path}: {field} cannot be overridden; what is swept is in [sweep], and seeds in seeds.")
    config = ["--config", said["config"]] if "config" in said else []
    seeds = said.get("seeds", SEEDS)
    seeds = read_seeds(",".join(map(str, seeds)) if isinstance(seeds, list) else str(seeds))
    return Definition(path.stem, [*config, *overrides], tables["sweep"], seeds, tables["test"])


def flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of nested tables by dotted names."""
    for name, value in table.items():
        name = normal(prefix + name)
        yield from flat(value, f"{name}.") if isinstance(value, dict) else [(name, value)]


def words(value: Any) -> list[str]:
    """A value of TOML as it is written behind an option of the command line."""
    return [str(part) for part in value] if isinstance(value, list) else [str(value)]


def values_of(option: str, arguments: Sequence[str]) -> list[str]:
    """All values of an option that may come several times."""
    following = itertools.zip_longest(arguments, arguments[1:], fillvalue="")
    return [
        after if argument == option else argument.partition("=")[2]
        for argument, after in following
        if argument.partition("=")[0] == option
    ]


def combinations(sweeps: Sweeps) -> Iterator[dict[str, int]]:
    """Every combination of values: for each field the number of its value."""
    for numbers in itertools.product(*(range(len(values)) for values in sweeps.values())):
        yield dict(zip(sweeps, numbers, strict=True))


def cell_name(sweeps: Sweeps, choice: dict[str, int]) -> str:
    """What a cell is called."""
    values = {field: "+".join(sweeps[field][number]) for field, number in choice.items()}
    return ",".join(f"{field}={value}" for field, value in values.items()).replace("/", "_")


def count(sweeps: Sweeps) -> int:
    """How many cells there are."""
    total = 1
    for values in sweeps.values():
        total *= len(values)
    return total
