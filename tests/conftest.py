"""Settings and fixtures shared by all tests.

The settings are made as environment variables before JAX is imported, so that the processes started by `run_python`
inherit them.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from wandb_server import wandb_server  # noqa: F401 (a fixture)

REPOSITORY = Path(__file__).parents[1]


def _compilation_cache() -> Path:
    """Where compiled programs are kept between test runs: one folder per jaxlib version and kind of processor.

    An entry made by another jaxlib or for another processor can crash the process that loads it.
    """
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
        processor = "".join(sorted({line for line in cpuinfo if line.startswith(("model name", "flags"))}))
    except OSError:
        processor = platform.processor()
    digest = hashlib.sha256(f"{platform.node()} {processor}".encode()).hexdigest()[:8]
    return REPOSITORY / ".pytest_cache" / f"jax-{importlib.metadata.version('jaxlib')}-{digest}"


os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_compilation_cache()))
# By default only what took a second to compile is kept; the programs of the tests are many and small.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# The programs of the tests run briefly: what counts is how fast they compile, up to five times faster like this.
_FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # removed since, and XLA refuses what it does not know
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS])
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("WANDB_MODE", "disabled")

# A process ignores what the one that started it ignored: under `nohup`, or in the background of a script, the
# processes of the tests would not see the signals that they are sent.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _handler)

import jax  # noqa: E402  (it reads the variables above when it is imported)

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    parser.addoption("--renew-golden", action="store_true", help="write tests/golden/updates_*.npz anew, on purpose")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """The tests of a file run in one process, where they share what is compiled, unless they are of another group."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.location[0]))


@pytest.fixture
def getkey():
    """A function that returns a fresh typed PRNG key at every call, so that no test uses one twice."""
    keys = iter(jax.random.split(jax.random.key(0), 1000))
    return lambda: next(keys)


@pytest.fixture
def full_disk():
    """A context manager in which no file may grow beyond so many bytes: writing fails as on a full disk."""

    @contextlib.contextmanager
    def full_disk(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full_disk


@pytest.fixture(scope="module")
def start():
    """A function that starts `python -m experiments.TOOL *arguments`, stdout and stderr together; see `tools.py`."""
    processes = []

    def start(tool: str, *arguments: object, **environment: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"experiments.{tool}", *map(str, arguments)]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, **environment}, **output))
        return processes[-1]

    yield start
    for process in processes:
        with process:
            process.kill()


@pytest.fixture
def run_python():
    """A function that runs `python *arguments` in a process of its own, as a user would, and waits for it.

    The working directory is the root of the repository unless `cwd` says otherwise. Keyword arguments go to
    `subprocess.run`; `env` is added to the environment of the tests. Returns the CompletedProcess with stdout and
    stderr as text; a process that takes longer than `timeout` seconds fails the test.
    """

    def run(*arguments, env=None, timeout=100, **keywords):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            **{"cwd": REPOSITORY, "capture_output": True, "text": True, **keywords},
            env={**os.environ, **(env or {})},
            timeout=timeout,
        )

    return run
