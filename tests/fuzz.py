"""Tries the command line tools with random nonsense: `make fuzz`, or `python tests/fuzz.py --cases 1000 --seed 0`.

A case is a command line with wrong or odd values, or environment variables that are wrong, or the folder of a grid of
which a random file is damaged. Each has to end in success or in an answer: exit status 1 or 2, at most three lines, no
traceback, nothing about exceptions that were ignored, in time. Printed are how many ended how, then every kind of case
that ended otherwise, with a command line of it; `--only NUMBER` tries a case again. Exit status 1 if there are any.

Most cases run one after the other in processes that have imported everything already, and end where something expensive
would start: training, playing, drawing, or workers. One in ten of those whose command line is good goes on to what is
before that, the trial of the environment and the estimate of memory, which are traced and take seconds. Cases with
environment variables, and a few of the others, are processes of their own, up to the same point.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

MOST_LINES = 3
"""Lines of an answer."""
SECONDS = 1200
"""What a case may take: far more than it does, for a machine that is busy with other things."""
SLOW = 30
"""Seconds of a processor beyond which a case is told as slow."""
MEMORY = 16 * 2**30
"""Bytes of address space of a process, so that a case that allocates without end does not take the machine along."""

NUMBERS = (
    *("nan", "inf", "-inf", "-1", "0", "1", "2", "3", "0.5", "-0.0", "1e308", "-1e308", "1e-320", "1e39", "1e6", "7"),
    *("100000", "2147483647", "2147483648", "-2147483649", "9223372036854775808", "1" + 40 * "0", "1" * 5000, "0x10"),
)
LIKELY = ("1", "2", "3", "4", "5", "8", "10", "64", "100", "1000", "1000000", "2147483647", "0.1", "0.5", "1.0", "True")
"""Values that many fields can have, so that it is found out later, or not at all, what is wrong with them."""
WORDS = (
    *("", " ", "None", "True", "false", "x", "nan,nan", "1,2", "[1, 2]", "{}", "--", "-", "-h1", "=", "a=b", "%s%n"),
    *("\n", "\t", "ü", "雪" * 50, "x" * 5000, "../..", "/", "/dev/null", "\udcff", "'; exit", "*", "gru", "float32"),
)
ENVIRONMENT = {
    "WANDB_MODE": ("", "x", "offline", "OFFLINE", "0"),
    "JAX_PLATFORMS": ("x", "", "tpu", "cpu,x"),
    "JAX_NUM_CPU_DEVICES": ("x", "-1", "0", "1e3", "100000", ""),
    "JAX_ENABLE_X64": ("x", "2", "true", ""),
    "JAX_DISABLE_JIT": ("x", "1"),
    "JAX_DEBUG_NANS": ("x", "1"),
    "JAX_COMPILATION_CACHE_DIR": ("/dev/null", "/nonexistent/cache", ""),
    "JAX_DEFAULT_MATMUL_PRECISION": ("x", "high"),
    "XLA_FLAGS": ("--xla_no_such_flag=1", "x", "--xla_force_host_platform_device_count=x", ""),
    "MPLBACKEND": ("x", "TkAgg", ""),
    "TMPDIR": ("/nonexistent", "/dev/null", ""),
    "HOME": ("/nonexistent", "", "/dev/null"),
    "COLUMNS": ("-1", "0", "x", "1", "100000"),
    "PYTHONIOENCODING": ("ascii", "utf-16"),
    "LC_ALL": ("C", "x"),
    "TERM": ("dumb", "x", ""),
    "NPROC": ("x", "0", "-1"),
    "OMP_NUM_THREADS": ("x", "0"),
    "SLURM_JOB_ID": ("1", "x"),
    "NO_COLOR": ("1",),
    "FORCE_COLOR": ("1",),
}
"""Environment variables that somebody may have set, and values for them."""


@dataclasses.dataclass(frozen=True)
class Case:
    """What is tried."""

    number: int
    tool: str
    """Of `experiments`."""
    arguments: tuple[str, ...]
    """Its command line; FOLDER in it stands for a folder that is new, or for the grid that is damaged."""
    damage: str | None = None
    """What is done to which file of a grid, as `random` draws from this text."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that are set."""
    goes_on: bool = False
    """Whether it goes on to what is traced."""
    own_process: bool = False
    """Whether it has a process of its own."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a case ended."""

    kind: str
    """One of `GOOD`, or a fault."""
    text: str
    """What was said, or the traceback."""
    seconds: float
    """Of a processor; of the clock, where a process is its own or did not end."""


GOOD = ("success", "answer", "would start")


class WouldStart(BaseException):
    """Something expensive is about to start."""


# Cases


def draw_case(number: int, seed: int, damaged: float, variables: float, apart: float) -> Case:
    """The case of a number; the shares of those with damaged files, with variables, and of others that run apart."""
    from experiments.configs import CONFIGS

    draw = random.Random(f"{seed} {number}")
    kind = draw.random()
    if kind < damaged:
        tool, arguments = draw.choice(
            [
                ("run", ("--resume", "FOLDER/memory=gru/seed0")),
                ("evaluate", ("FOLDER/memory=gru/seed0",)),
                ("inspect", ("FOLDER/memory=gru/seed0",)),
                ("minigrid", ("FOLDER/memory=gru/seed0",)),
                ("matrix", ("FOLDER",)),
                ("report", ("FOLDER",)),
                ("grid", ("--resume", "FOLDER")),
            ]
        )
        return Case(number, tool, arguments, damage=f"{seed} {number} damage")
    name = draw.choice(list(CONFIGS))
    if kind < damaged + variables:
        chosen = tuple((name, draw.choice(ENVIRONMENT[name])) for name in draw.sample(list(ENVIRONMENT), 2))
        end = draw.choice([("--list",), ("--config", name, "--seed", "-1"), ("--config", name, "--output", "FOLDER")])
        return Case(number, "run", end, environment=chosen, own_process=True)
    tool = draw.choices(
        ("run", "grid", "benchmark", "matrix", "evaluate", "report", "inspect"), (12, 3, 1, 1, 1, 1, 1)
    )[0]
    arguments = {"run": of_a_run, "grid": of_a_grid}.get(tool, of_another)(draw, tool, name)
    return Case(number, tool, tuple(arguments), goes_on=draw.random() < 0.1, own_process=draw.random() < apart)


def of_a_run(draw: random.Random, tool: str, name: str) -> list[str]:
    """A config, perhaps with another memory and environment, and overrides of its fields or of something like them."""
    from envs import ENVIRONMENTS
    from experiments.configs import CONFIGS
    from memrl.memory import MEMORIES

    config = CONFIGS[name].config
    arguments = ["--config", mangled(draw, name)]
    if draw.random() < 0.3:
        memory = draw.choice(list(MEMORIES))
        config = dataclasses.replace(config, memory=MEMORIES[memory]())
        arguments += ["--memory", mangled(draw, memory)]
    if draw.random() < 0.3:
        env = draw.choice([*ENVIRONMENTS, "gymnax:CartPole-v1", "gymnax:Pong-misc", "gymnax:MemoryChain-bsuite"])
        if env in ENVIRONMENTS:
            config = dataclasses.replace(config, env=ENVIRONMENTS[env]())
        arguments += ["--env", mangled(draw, env)]
    fields = list(fields_of(config))
    for _ in range(draw.choice((1, 1, 2, 3))):
        field, value = draw.choice(fields)
        option = "--" + field.replace("_", "-")
        values = draw_values(draw, value)
        if draw.random() < 0.2 and values:
            arguments.append(f"{mangled(draw, option)}={values[0]}")
        else:
            arguments += [mangled(draw, option), *values]
    return [*arguments, "--output", "FOLDER"]


def of_a_grid(draw: random.Random, tool: str, name: str) -> list[str]:
    """Sweeps over some fields."""
    from experiments.configs import CONFIGS

    arguments = ["--config", name, "--output", "FOLDER", "--workers", draw.choice(("1", *NUMBERS))]
    for _ in range(draw.choice((1, 1, 2))):
        field, value = draw.choice(list(fields_of(CONFIGS[name].config)))
        words = [word for _ in range(2) for word in draw_values(draw, value)[:1]]
        arguments += ["--sweep", draw.choice(("{}={}", "{}{}", "{}=={}", "{}={},")).format(field, ",".join(words))]
    if draw.random() < 0.5:
        arguments += ["--seeds", draw.choice(("0..1", "1..0", "0..99999999999", "0,0", "-1", "..", *NUMBERS, *WORDS))]
    return arguments


def of_another(draw: random.Random, tool: str, name: str) -> list[str]:
    """Options of other tools; what they read is not there."""
    options = {
        "benchmark": ("--environments", "--memories", "--footprints", "--acting", "--repeats", "--horizon", "--json"),
        "matrix": ("--test", "--horizons", "--budgets", "--num-trials", "--seed", "--output"),
        "evaluate": ("--evaluation.num-trials", "--evaluation.horizons", "--evaluation.budgets", "--evaluation.seed"),
        "report": ("--output", "--runs"),
        "inspect": ("--trials", "--seed"),
    }[tool]
    arguments = ["--config", name] if tool == "benchmark" else [draw.choice(("FOLDER", "runs", *WORDS))]
    for option in draw.sample(options, draw.choice((1, 2))):
        arguments += [mangled(draw, option), *draw_values(draw, draw.choice((1, 0.5, "x", (1, 2))))]
    return arguments


def fields_of(config: Any, prefix: str = "") -> Any:
    """Names of all fields of a config, and their values."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def draw_values(draw: random.Random, value: Any) -> list[str]:
    """Words for an option whose field has this value: often numbers where it is one, several where it is a tuple."""
    number = draw.choices((1, 0, 2, 3), (2, 1, 2, 1) if isinstance(value, tuple) else (9, 0.5, 0.5, 0))[0]
    if isinstance(value, int | float) or (isinstance(value, tuple) and value and not isinstance(value[0], str)):
        kinds, weights = (LIKELY, NUMBERS, WORDS), (5, 4, 1)
    else:
        kinds, weights = (LIKELY, NUMBERS, WORDS), (2, 3, 5)
    return [draw.choice(draw.choices(kinds, weights)[0]) for _ in range(number)]


def mangled(draw: random.Random, word: str) -> str:
    """The word, or now and then one with a letter too few, too many, or another."""
    if draw.random() < 0.93:
        return word
    place = draw.randrange(len(word))
    return word[:place] + draw.choice(("", draw.choice("abc-_. ü"), word[place] * 2)) + word[place + 1 :]


# Damage


def damage(folder: Path, drawn_from: str) -> str:
    """Damages a random file of a grid; returns what was done."""
    draw = random.Random(drawn_from)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    shallow = [path for path in files if "checkpoints" not in path.parts]
    path = draw.choice(shallow if draw.random() < 0.75 else files)
    ways: list[Callable[[random.Random, Path], str]] = [cut, replace, remove, turn_into_a_folder, add_bytes, flip_bytes]
    if path.suffix in (".json", ".jsonl"):
        ways += 6 * [change_value]
    return f"{path.relative_to(folder)}: {draw.choice(ways)(draw, path)}"


def cut(draw: random.Random, path: Path) -> str:
    content = path.read_bytes()
    length = draw.randrange(len(content)) if content else 0
    path.write_bytes(content[:length])
    return f"cut to {length} of {len(content)} bytes"


def replace(draw: random.Random, path: Path) -> str:
    content = draw.choice(
        (b"", b"[]", b"{}", b"null", b"NaN", b'{"a": 1}', b"[[[", b"\xff\xfe\x00", b"1", b'"x"', b"\n" * 9)
    )
    path.write_bytes(content)
    return f"replaced by {content!r}"


def remove(draw: random.Random, path: Path) -> str:
    path.unlink()
    return "removed"


def turn_into_a_folder(draw: random.Random, path: Path) -> str:
    path.unlink()
    path.mkdir()
    return "a folder"


def add_bytes(draw: random.Random, path: Path) -> str:
    content = draw.choice((b"}", b"\x00" * 100, b"\n{}\n", b'{"update": 1}\n', b"["))
    path.write_bytes(path.read_bytes() + content)
    return f"{content!r} added"


def flip_bytes(draw: random.Random, path: Path) -> str:
    content = bytearray(path.read_bytes())
    places = [draw.randrange(len(content)) for _ in range(3)] if content else []
    for place in places:
        content[place] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(content))
    return f"bits flipped in bytes {places}"


def change_value(draw: random.Random, path: Path) -> str:
    """A value somewhere in JSON becomes another, or is gone; where lines are JSON, in one of them."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = draw.randrange(len(lines))
    value = json.loads(lines[number])
    inner, path_to = value, []
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = draw.choice(keys)
        path_to.append(key)
        if not isinstance(inner[key], dict | list) or not inner[key] or draw.random() < 0.2:
            break
        inner = inner[key]
    odd = (None, True, -1, 0, 1.5, 2**70, float("nan"), float("inf"), "x", "", [], {}, [1], {"a": 1}, [[]], "Infinity")
    if draw.random() < 0.25:
        del inner[key]
        told = "removed"
    else:
        inner[key] = draw.choice(odd)
        told = f"now {inner[key]!r}"
    lines[number] = json.dumps(value)
    path.write_text("\n".join(lines) + "\n")
    return f"{'.'.join(map(str, path_to))} {told}"


# Processes


def patched() -> None:
    """Lets everything expensive raise `WouldStart`; processes that try cases call it once."""
    from experiments import benchmark, evaluate, grid, inspect, matrix, minigrid, report, run
    from experiments.runs import evaluation
    from experiments.training import loop

    def would_start(*arguments: Any, **named: Any) -> None:
        raise WouldStart

    places = {
        benchmark: (
            *("measure_training", "compare_acting", "compare_environments", "compare_memories"),
            *("compare_footprints", "compare_intervals"),
        ),
        evaluation: ("evaluate",),
        grid: ("execute",),
        inspect: ("trace_trial",),
        matrix: ("Runner",),
        minigrid: ("Runner",),
        report: ("draw",),
        loop: ("StopRequest",),  # after all that is read
    }
    for module, names in places.items():
        for name in names:
            assert hasattr(module, name), (module, name)
            setattr(module, name, would_start)
    assert evaluate and run


def try_here(case: Case, template: Path) -> Outcome:
    """Tries a case in this process, which is `patched`."""
    from experiments import command_line, run

    tool = sys.modules[f"experiments.{case.tool}"]
    real = run.examine, run.train
    resumes = "--resume" in case.arguments
    if not case.goes_on and not resumes:
        run.examine = raise_would_start
    if not resumes:
        run.train = raise_would_start
    start = time.process_time()
    with tempfile.TemporaryDirectory() as place, captured() as said, contextlib.chdir(place):
        folder = Path(place) / "folder"
        done = ""
        if case.damage is not None:
            shutil.copytree(template, folder)
            done = damage(folder, case.damage)
        sys.argv = [case.tool, *(argument.replace("FOLDER", str(folder)) for argument in case.arguments)]
        try:
            command_line.main(tool.run)
        except SystemExit as stop:
            kind, text = None, stop.code
        except WouldStart:
            kind, text = "would start", ""
        except BaseException:
            kind, text = "exception", traceback.format_exc()
    run.examine, run.train = real
    seconds = time.process_time() - start
    if kind is None:
        return Outcome(*judged(text or 0, said(), done), seconds)
    return Outcome(kind, f"{done}\n{text}", seconds)


def raise_would_start(*arguments: Any, **named: Any) -> None:
    raise WouldStart


@contextlib.contextmanager
def captured() -> Any:
    """Takes what is written to stdout and stderr, also by what is not Python; gives a function that returns it."""
    with tempfile.TemporaryFile() as file:
        saved = os.dup(1), os.dup(2)
        sys.stdout.flush(), sys.stderr.flush()
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        content = b""

        def said() -> str:
            return content.decode(errors="replace")

        try:
            yield said
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush(), sys.stderr.flush()
            os.dup2(saved[0], 1), os.dup2(saved[1], 2)
            os.close(saved[0]), os.close(saved[1])
            file.seek(0)
            content = file.read()


def judged(status: Any, said: str, done: str = "") -> tuple[str, str]:
    """What kind of end this is, and what is to be told of it."""
    text = f"{done}\nstatus {status}\n{said[-3000:]}"
    if "Traceback (most recent call last)" in said or "Exception ignored" in said:
        return "traceback", text
    if status == 0:
        return "success", text
    if status not in (1, 2):
        return f"status {status}", text
    return ("answer" if said.count("\n") <= MOST_LINES and said.strip() else "long answer"), text


def serve(connection: Any, template: Path) -> None:
    """Tries the cases that come, in a process of its own."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    patched()
    while (case := connection.recv()) is not None:
        connection.send(try_here(case, template))


def try_apart(case: Case, template: Path) -> Outcome:
    """Tries a case in a process of its own, as a user would start it."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), **dict(case.environment)}
    script = (  # as if it were started with -m, but for what is patched
        "import importlib, sys; tool, *arguments = sys.argv[1:]; sys.argv = ['-m']; import experiments, fuzz;"
        "from experiments import command_line, run; fuzz.patched(); run.train = run.examine = fuzz.raise_would_start;"
        "sys.argv = [tool, *arguments]; module = importlib.import_module('experiments.' + tool);"
        "\ntry: command_line.main(module.run)\nexcept fuzz.WouldStart: print('would start')"
    )
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        arguments = [argument.replace("FOLDER", f"{place}/folder") for argument in case.arguments]
        plain = case.arguments[-1:] == ("--list",) or "-1" in case.arguments
        command = ["-m", f"experiments.{case.tool}", *arguments] if plain else ["-c", script, case.tool, *arguments]
        environment["PYTHONPATH"] += f"{os.pathsep}{HERE.parent}"
        try:
            done = subprocess.run(
                [sys.executable, *command], cwd=place, env=environment, capture_output=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            return Outcome("no end", "", SECONDS)
    said = (done.stdout + done.stderr).decode(errors="replace")
    seconds = time.monotonic() - start
    if done.returncode == 0 and said.endswith("would start\n"):
        return Outcome("would start", "", seconds)
    return Outcome(*judged(done.returncode, said), seconds)


def try_all(cases: Sequence[Case], processes: int, template: Path, tell: Callable[[Case, Outcome], None]) -> None:
    """Tries all cases, several at a time. A process that dies or does not answer is replaced."""
    waiting = iter(cases)
    lock = threading.Lock()

    def work() -> None:
        server = connection = None
        while True:
            with lock:
                case = next(waiting, None)
            if case is None:
                break
            if case.own_process:
                outcome = try_apart(case, template)
            else:
                if server is None or not server.is_alive():
                    connection, theirs = multiprocessing.Pipe()
                    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, template))
                    server.start()
                    theirs.close()
                start = time.monotonic()
                try:
                    connection.send(case)
                    if connection.poll(SECONDS):
                        outcome = connection.recv()
                    else:
                        server.kill()
                        server.join()
                        outcome = Outcome("no end", "", SECONDS)
                except (EOFError, OSError):
                    server.join()
                    outcome = Outcome("process died", f"status {server.exitcode}", time.monotonic() - start)
            with lock:
                tell(case, outcome)
        if server is not None and server.is_alive():
            connection.send(None)
            server.join()

    threads = [threading.Thread(target=work) for _ in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def where(text: str) -> str:
    """The last line of a traceback, and the last place in our own code, by which faults are counted together."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    last = re.sub(r"[0-9]+", "N", lines[-1])[:150] if lines else ""
    places = re.findall(r'File "[^"]*/((?:memrl|envs|experiments)/[^"]+)", line (\d+)', text)
    return f"{':'.join(places[-1])} {last}" if places else last


def in_short(case: Case) -> str:
    """The case as a command line."""
    variables = [f"{name}={value!r}" for name, value in case.environment]
    return " ".join([*variables, case.tool, *(repr(argument[:60]) for argument in case.arguments)])


def main() -> int:
    parser = argparse.ArgumentParser(description="Tries the tools with random nonsense.")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=max(1, len(os.sched_getaffinity(0))))
    parser.add_argument("--only", type=int, nargs="*", default=None, help="numbers of cases, to try them again")
    parser.add_argument("--damaged", type=float, default=0.2, help="share of cases with damaged files")
    parser.add_argument("--variables", type=float, default=0.04, help="share of cases with environment variables")
    parser.add_argument("--apart", type=float, default=0.03, help="share of the others in processes of their own")
    options = parser.parse_args()
    os.environ.update(JAX_PLATFORMS="cpu", WANDB_MODE="disabled", MPLBACKEND="Agg")  # a case may say otherwise

    numbers = range(options.cases) if options.only is None else options.only
    shares = options.damaged, options.variables, options.apart
    cases = [draw_case(number, options.seed, *shares) for number in numbers]
    counts: Counter[str] = Counter()
    faults: dict[str, list[tuple[Case, Outcome]]] = {}
    done = itertools.count(1)

    def tell(case: Case, outcome: Outcome) -> None:
        counts[outcome.kind] += 1
        number = next(done)
        if options.only is not None:
            print(f"{case}\n{outcome.kind} in {outcome.seconds:.1f} s\n{outcome.text}\n", flush=True)
        if outcome.kind not in GOOD:
            faults.setdefault(f"{outcome.kind}: {where(outcome.text)}", []).append((case, outcome))
            print(f"{outcome.kind} in case {case.number}: {where(outcome.text)}", flush=True)
        elif outcome.seconds > SLOW and not case.own_process:
            print(f"{outcome.seconds:.0f} s in case {case.number}: {in_short(case)}", flush=True)
        if number % 50 == 0:
            print(f"{number} of {len(cases)}: {dict(counts)}", flush=True)

    with tempfile.TemporaryDirectory() as place:
        from synthetic_runs import write_grid

        template = write_grid(Path(place) / "grid")
        start = time.monotonic()
        try_all(cases, options.processes, template, tell)
    print(f"\n{len(cases)} cases in {time.monotonic() - start:.0f} s: {dict(counts.most_common())}")
    for name, found in sorted(faults.items(), key=lambda item: -len(item[1])):
        case, outcome = found[0]
        print(f"\n{len(found)} x {name}\n  case {case.number}: {in_short(case)}")
        print("  " + "\n  ".join(outcome.text.strip().splitlines()[-6:]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
