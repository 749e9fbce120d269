"""The documentation builds without a warning, has all its pages, needs nothing from elsewhere, and its code runs."""

import importlib
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import jax
import pytest

from envs import ENVIRONMENTS
from experiments.config import Config
from memrl.environment import hooks
from memrl.memory import MEMORIES

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "pages").rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "error", ROOT / "docs" / "build.py", folder]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return folder


def text(page: Path) -> str:
    """A page without its tags."""
    return re.sub(r"<[^>]+>", "", page.read_text())


@pytest.mark.parametrize("name", MEMORIES)
def test_the_page_of_a_memory(site, name):
    page = text(site / "memories" / f"{name}.html")
    assert MEMORIES[name].__doc__.split()[0] in page
    for field in fields(MEMORIES[name]):
        assert f"{field.name}: " in page
    measured = json.loads((ROOT / "experiments/results/speed/memories.json").read_text())["memories"][name]
    for figure in (measured["parameters"], *measured["state_bytes"].values()):
        assert f"{figure:,}" in page
    assert "corridors=10" in page
    assert "Repeat Previous" in page


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_page_of_an_environment(site, name):
    page = text(site / "environments" / f"{name}.html")
    for field in fields(ENVIRONMENTS[name]):
        assert f"{field.name}: " in page
    assert "what must be remembered" in page
    environment, _ = ENVIRONMENTS[name]().make()
    drawn = hooks(environment).render is not None
    assert (site / "environments" / f"{name}.png").exists() == drawn, "docs/pictures.py draws what is missing"
    assert ("What it looks like" in page) == drawn
    assert ("Reference players" in page) == bool(hooks(environment).players())


def test_papers_are_linked_and_what_the_readme_says_is_there(site):
    assert (
        '<a href="https://arxiv.org/abs/2510.19732">arXiv 2510.19732</a>' in (site / "memories/memo.html").read_text()
    )
    assert "class MeanMemory(Memory):" in text(site / "extending.html")
    assert "python -m experiments.run --list" in text(site / "index.html")
    assert "make_training" in text(site / "reference" / "memrl.html")
    tools = text(site / "tools.html")
    assert all(f"experiments.{tool}" in tools for tool in ("run", "evaluate", "grid", "matrix", "report", "inspect"))


@pytest.mark.parametrize(
    ("address", "linked"), [(None, "How"), ("https://a.b", "[How](https://a.b/blob/main/LICENSE)")]
)
def test_links_to_what_is_not_in_the_site(address, linked, monkeypatch):
    """They lead to the repository, once it has an address; to the site's own pages and files they always do."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    writing = importlib.import_module("writing")
    monkeypatch.setattr(writing, "public_address", lambda: address)
    attached = set()
    said = (
        "[How](LICENSE) [there](experiments/results/speed) ![that](experiments/results/t_maze/settings.png) [x](y.md)"
    )
    assert writing.relink(said, ROOT, Path("memories"), attached) == (
        f"{linked} [there](../results/speed/README.md) ![that](../results/t_maze/settings.png) [x](y.md)"
    )
    assert attached == {Path("results/t_maze/settings.png")}


def test_every_result_has_a_page(site):
    folders = [path.parent.name for path in (ROOT / "experiments" / "results").glob("*/README.md")]
    assert folders and all((site / "results" / name / "index.html").exists() for name in folders)


def test_nothing_is_fetched_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(MEMORIES) + len(ENVIRONMENTS) + len(PAGES)
    for page in pages:
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text()):
            assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag), f"{page.relative_to(site)}: {tag}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", style.read_text()), style


def test_a_memory_in_a_loop_of_ones_own(capsys):
    code = "".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs/pages/own_loop.md").read_text(), re.DOTALL))
    with jax.numpy_dtype_promotion("standard"):  # as a reader has it
        exec(compile(code, "own_loop.md", "exec"), {"__name__": "own_loop"})
    assert capsys.readouterr().out.endswith("named the first symbol: 100%\n")


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_options_that_are_named_exist(path):
    groups = {field.name: [field.type] for field in fields(Config)}
    groups |= {"memory": MEMORIES.values(), "env": ENVIRONMENTS.values()}
    for group, name in re.findall(r"--(\w+)\.([\w-]+)", path.read_text()):
        known = {field.name for config in groups[group] for field in fields(config)}
        assert name.replace("-", "_") in known, f"--{group}.{name}"
