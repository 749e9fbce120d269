"""Packaging of memrl: the library, the environments and the command line tools.

The dependencies are read from requirements.txt, so that they are written down once: what stands above its line
`# Development` is needed to run memrl, what stands below it is the extra `dev`.
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def requirements(text: str) -> list[str]:
    """The requirement specifiers in `text`, one per line, without comments and blank lines."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def version() -> str:
    """`__version__` of memrl, read without importing it: JAX is not installed yet."""
    for line in (ROOT / "memrl" / "__init__.py").read_text().splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise RuntimeError('memrl/__init__.py has no line __version__ = "...".')


runtime, development = (ROOT / "requirements.txt").read_text().split("# Development")

setup(
    name="memrl",
    version=version(),
    description="Reinforcement learning with memory in JAX: one contract, one PPO, one evaluator",
    url="https://github.com/memrl/memrl",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["memrl", "memrl.*", "envs", "envs.*", "experiments", "experiments.*"]),
    install_requires=requirements(runtime),
    package_data={"experiments": ["grids/*.toml"]},
    extras_require={
        "cuda": ["jax[cuda]"],
        "tpu": ["jax[tpu]"],
        "cluster": [line for line in requirements(development) if line.startswith("submitit")],
        "dev": requirements(development),
    },
)
