"""What the README shows works."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from memrl.memory import laws

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.laws
def test_the_memory_to_copy_obeys_the_laws(tmp_path, monkeypatch):
    (source,) = re.findall(r"```python\n(# memrl/memory/mean\.py\n.*?)```", README.read_text(), re.DOTALL)
    path = tmp_path / "mean.py"
    path.write_text(source)
    specification = importlib.util.spec_from_file_location("mean", path)
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "mean", module)
    specification.loader.exec_module(module)
    laws.check(module.Mean(features=4))


def test_every_config_and_environment_is_named():
    from envs import ENVIRONMENTS
    from experiments.configs import CONFIGS

    named = set(re.findall(r"`(\w+)`", README.read_text()))
    assert set(CONFIGS) <= named
    assert set(ENVIRONMENTS) - {"gymnax"} <= named
    assert {name for name in named if re.fullmatch(rf"\w+_({'|'.join([*ENVIRONMENTS, 'gridworld'])})", name)} <= {
        *CONFIGS,
        *ENVIRONMENTS,
    }


def test_the_table_of_memories_is_the_one_that_was_measured():
    from experiments.benchmarks.memories import table_head, table_row
    from memrl.memory import MEMORIES

    measured = json.loads((README.parent / "experiments/results/speed/memories.json").read_text())["memories"]
    table = "\n".join([table_head((1024, 16_384)), *(table_row(name, row) for name, row in measured.items())])
    assert list(measured) == list(MEMORIES)
    assert f"\n\n{table}\n\n" in README.read_text()


def test_the_layout_is_that_of_the_repository():
    (tree,) = re.findall(r"```\n(memrl/ .*?)```", README.read_text(), re.DOTALL)
    for part in re.split(r"\n(?=\w)", tree):
        package, *folders = (README.parent / name for name in re.findall(r"\w+(?=/)", part))
        assert package.is_dir()
        assert all((package / folder.name).is_dir() for folder in folders), part
