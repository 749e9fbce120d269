"""The lists of public names are true, and whoever follows the README or a notebook needs no others."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("memrl", "memrl.evaluation", "memrl.introspection", "memrl.memory", "memrl.plotting")
OWN_MEMORY = (
    *re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL),
    *(
        "".join(cell["source"])
        for cell in json.loads((ROOT / "notebooks" / "03_your_own_memory.ipynb").read_text())["cells"]
        if cell["cell_type"] == "code" and "%" not in "".join(cell["source"])
    ),
)
"""The code with which the README and the notebook show how a memory is written."""


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package):
    module = importlib.import_module(package)
    assert len(module.__all__) == len(set(module.__all__)) > 10
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)


@pytest.mark.parametrize("package", PACKAGES[1:])
def test_what_a_package_imports_from_its_modules_is_public(package):
    """So that the list cannot be forgotten where a name is added."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
    imported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    public = set(importlib.import_module(package).__all__)
    assert imported - {"MemoryConfig"} <= public
    assert public - {"MEMORIES"} <= imported


def test_a_name_that_there_is_not():
    import memrl

    with pytest.raises(AttributeError, match="Polixy"):
        memrl.Polixy  # noqa: B018


def test_import_memrl_imports_nothing_until_it_is_used(run_python):
    script = (
        "import sys, memrl\n"
        "heavy = {'jax', 'flax', 'numpy', 'optax', 'orbax', 'gymnax'}\n"
        "print(heavy & set(sys.modules), memrl.PPOConfig().__class__.__name__, 'optax' in sys.modules)"
    )
    process = run_python("-W", "error", "-c", script)
    assert (process.stdout, process.stderr) == ("set() PPOConfig True\n", "")


def test_a_memory_of_ones_own_needs_public_names_alone():
    imports = [
        node
        for code in OWN_MEMORY
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("memrl")
    ]
    assert len(imports) >= 2
    for node in imports:
        assert node.module in PACKAGES, f"from {node.module} import ..."
        assert {alias.name for alias in node.names} <= set(importlib.import_module(node.module).__all__)
