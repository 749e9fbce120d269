"""Changes the library a little, in many places, one at a time, and runs the tests: which mistakes do they not see?

    make mutants                                    # 60 mutants, in an hour or less on two idle cores
    python tests/mutants.py --modules memrl/ppo.py --sample 0        # all mutants of one module
    python tests/mutants.py --seed 2 --jobs 4 --output mutants.json

Cosmic Ray (https://cosmic-ray.readthedocs.io) makes the mutants, in copies of the repository: this one stays as it is.
Each is tested by the tests of its module alone (`TESTS`), which have to pass without it. Printed are the share that
survived, and every survivor as a difference. Some survive with reason: what is equal by another way of computing it, an
optimisation, a number that is only a default. The others are mistakes that no test sees.
"""

import argparse
import ast
import concurrent.futures
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkItem, WorkResult

REPOSITORY = Path(__file__).parents[1]
GOLDEN = "tests/test_golden_updates.py"
EVALUATION = ("tests/test_evaluation.py", "")
TESTS = {
    "memrl/advantage.py": ("tests/test_ppo.py tests/test_rollout.py", "advantage or credit"),
    "memrl/auxiliary.py": ("tests/test_partial_updates.py", "auxiliary or prediction"),
    "memrl/metrics.py": ("tests/test_training.py", "metrics or explained or finished"),
    "memrl/networks.py": ("tests/test_networks.py", ""),
    "memrl/partial_updates.py": (f"tests/test_partial_updates.py {GOLDEN}", "partial or refreshed or lru"),
    "memrl/ppo.py": (f"tests/test_ppo.py {GOLDEN}", "ppo or gru"),
    "memrl/rollout.py": (f"tests/test_rollout.py {GOLDEN}", "(rollout and not replays) or gru"),
    "memrl/training.py": (f"tests/test_training.py {GOLDEN}", "falls or same_key or program or chunk or divide or gru"),
    **{
        f"memrl/evaluation/{name}.py": EVALUATION
        for name in ("config", "episodes", "evaluator", "recording", "result", "subjects", "windows")
    },
    "memrl/memory/base.py": ("tests/memory/test_laws.py", "[gru or [memo or checkpoint"),
    "memrl/memory/laws.py": ("tests/memory/test_broken_memories.py", ""),
    "memrl/memory/layers.py": (
        "tests/memory/test_laws.py tests/memory/test_transformer.py",
        "[gru or [fct or transformer",
    ),
    "memrl/memory/linear_recurrence.py": ("tests/memory/test_laws.py tests/memory/test_linear_recurrence.py", "lru"),
    "memrl/memory/fast_weights.py": ("tests/memory/test_laws.py tests/memory/test_fast_weights.py", "delta"),
    "memrl/memory/linear_scan.py": ("tests/memory/test_linear_recurrence.py", "form or loop or passes"),
    **{
        f"memrl/memory/{name}.py": (f"tests/memory/test_laws.py tests/memory/test_{file}.py", name)
        for name, file in {
            "hcam": "hcam",
            "shm": "shm",
            "frame_stack": "frame_stack",
            "transformer": "transformer",
            "lru": "linear_recurrence",
            "s5": "linear_recurrence",
            "mingru": "linear_recurrence",
            "ffm": "linear_recurrence",
            "mlstm": "fast_weights",
        }.items()
    },
    "memrl/memory/recurrent.py": (
        "tests/memory/test_laws.py tests/memory/test_recurrent.py",
        "gru or lstm or recurrent",
    ),
    "memrl/memory/summary.py": (
        f"tests/memory/test_laws.py tests/memory/test_summary.py {GOLDEN}",
        "[memo or [rmt or [ac or [memo_dark or summary",
    ),
    "memrl/memory/memo.py": (
        "tests/memory/test_laws.py tests/memory/test_summary.py",
        "[memo or [rmt or [ac or summary",
    ),
    "memrl/memory/chunk_attention.py": ("tests/memory/test_hcam.py", ""),
    "memrl/memory/attention.py": ("tests/memory/test_laws.py tests/memory/test_transformer.py", "fct or transformer"),
    "memrl/memory/window.py": ("tests/memory/test_laws.py tests/memory/test_transformer.py", "fct or transformer"),
    "memrl/memory/transformer_xl.py": ("tests/memory/test_laws.py tests/memory/test_transformer.py", "xl"),
    "memrl/memory/chunkwise.py": ("tests/memory/test_fast_weights.py", ""),
    "memrl/memory/delta_rule.py": ("tests/memory/test_laws.py tests/memory/test_fast_weights.py", "delta"),
    "memrl/memory/linear_attention.py": ("tests/memory/test_laws.py tests/memory/test_fast_weights.py", "linear"),
}
"""Modules, each with the files of its tests, and with what the names of the tests have to match (`pytest -k`)."""


def copy_repository(folder: Path) -> None:
    """Copies what Git knows of, as it is now, into `folder`."""
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in files.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)


Place = tuple[int, int, int, int]
"""Where something in a file begins and ends: lines, counted from 1, and columns, counted from 0."""


def annotations(path: Path) -> list[Place]:
    """Where the annotations are: what stands there is not computed, and no mistake."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        for name in ("annotation", "returns"):
            if (part := getattr(node, name, None)) is not None:
                found.append((part.lineno, part.col_offset, part.end_lineno, part.end_col_offset))
    return found


def is_computed(item: WorkItem, places: list[Place]) -> bool:
    """Whether a mutant changes something else than an annotation."""
    start, end = item.mutations[0].start_pos, item.mutations[0].end_pos
    return not any((first, left) <= start and end <= (last, right) for first, left, last, right in places)


def cosmic_ray(folder: Path, *arguments: object, check: bool = True) -> subprocess.CompletedProcess:
    """Runs `cosmic-ray *arguments` in `folder`."""
    command = [sys.executable, "-m", "cosmic_ray.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=check)


def prepare(folder: Path, module: str, timeout: float) -> list[WorkItem]:
    """Writes the session of a module, `FOLDER/mutants.sqlite`, and returns its mutants."""
    files, names = TESTS[module]
    test = f"{sys.executable} -m pytest -q -x -n 0 -p no:cacheprovider --timeout {timeout:g} {files}"
    (folder / "mutants.toml").write_text(
        f'[cosmic-ray]\nmodule-path = "{module}"\ntimeout = {timeout}\nexcluded-modules = []\n'
        f"test-command = {json.dumps(test + (f' -k {json.dumps(names)}' if names else ''))}\n"
        '[cosmic-ray.distributor]\nname = "local"\n'
    )
    cosmic_ray(folder, "init", "mutants.toml", "mutants.sqlite", "--force")
    places = annotations(folder / module)
    with use_db(str(folder / "mutants.sqlite"), WorkDB.Mode.open) as session:
        return [item for item in session.work_items if is_computed(item, places)]


def examine(module: str, chosen: set[str], timeout: float) -> Iterator[dict[str, Any]]:
    """Tests the mutants of a module whose ids are `chosen`: what became of each, and its difference.

    Raises:
      RuntimeError: the tests of the module fail as it is.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_repository(folder)
        prepare(folder, module, timeout)
        if (baseline := cosmic_ray(folder, "baseline", "mutants.toml", check=False)).returncode:
            raise RuntimeError(f"The tests of {module} fail without any mutant: {baseline.stdout[-3000:]}")
        with use_db(str(folder / "mutants.sqlite"), WorkDB.Mode.open) as session:
            others = [item.job_id for item in session.work_items if identity(item) not in chosen]
            session.set_multiple_results(others, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))
        cosmic_ray(folder, "exec", "mutants.toml", "mutants.sqlite")
        with use_db(str(folder / "mutants.sqlite"), WorkDB.Mode.open) as session:
            for item, result in session.completed_work_items:
                if result.worker_outcome == WorkerOutcome.SKIPPED:
                    continue
                survived = result.test_outcome == TestOutcome.SURVIVED
                yield {"mutant": identity(item), "survived": survived, "difference": result.diff}


def identity(item: WorkItem) -> str:
    """A name for a mutant that is the same in every session."""
    mutation = item.mutations[0]
    line, column = mutation.start_pos
    return f"{mutation.module_path}:{line}:{column} {mutation.operator_name}#{mutation.occurrence}"


def choose(modules: list[str], sample: int, seed: int, timeout: float) -> dict[str, set[str]]:
    """Of all mutants of the modules, `sample` drawn at random, or all if that is 0: their ids by module."""
    with tempfile.TemporaryDirectory() as name:
        copy_repository(Path(name))
        mutants = [(module, identity(item)) for module in modules for item in prepare(Path(name), module, timeout)]
    print(f"{len(mutants)} mutants of {len(modules)} modules.", flush=True)
    if sample:
        mutants = random.Random(seed).sample(mutants, min(sample, len(mutants)))
    chosen: dict[str, set[str]] = {}
    for module, mutant in mutants:
        chosen.setdefault(module, set()).add(mutant)
    return chosen


def main() -> int:
    """Returns 0 whatever survives: what that means is for a reader to say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", nargs="+", default=list(TESTS), choices=list(TESTS), metavar="MODULE")
    parser.add_argument("--sample", type=int, default=60, help="mutants drawn at random; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="which are drawn")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="modules at a time")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for the tests of a mutant")
    parser.add_argument("--output", type=Path, help="a JSON file for all outcomes")
    options = parser.parse_args()
    # What is compiled without the mutant is compiled once for all of them.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "memrl-mutants-cache"))
    chosen = choose(options.modules, options.sample, options.seed, options.timeout)
    outcomes = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for module, found in zip(
            chosen,
            pool.map(lambda module: list(examine(module, chosen[module], options.timeout)), chosen),
            strict=True,
        ):
            print(f"{module}: {sum(one['survived'] for one in found)} of {len(found)} survived", flush=True)
            outcomes += found
    survivors = [one for one in outcomes if one["survived"]]
    for one in survivors:
        print(f"\n{one['mutant']}\n{one['difference']}")
    print(f"\n{len(survivors)} of {len(outcomes)} mutants survived ({len(survivors) / max(len(outcomes), 1):.0%}).")
    if options.output is not None:
        options.output.write_text(json.dumps(outcomes, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
