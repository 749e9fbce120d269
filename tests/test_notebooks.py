"""The notebooks: each is executed, with small numbers, and what it writes and shows is there."""

import base64
import json
import re

import nbformat
import pytest
from execute_notebooks import NOTEBOOKS, REPOSITORY, execute, fill_in, public_address
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

LARGEST_PICTURE = 200_000
"""Bytes of a picture in a notebook."""


def run(name, folder, **numbers):
    """What the cells of the notebook `name` show: the texts of each, and the kinds of pictures of all, in order."""
    notebook = execute(REPOSITORY / "notebooks" / name, folder, **numbers)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    return [text(cell) for cell in cells], [kind for cell in cells for kind, _ in pictures(cell)]


def text(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures(cell):
    """Kind and data of every picture that a cell shows."""
    return [
        (kind, data)
        for output in cell.outputs
        if "data" in output
        for kind, data in output.data.items()
        if kind.startswith("image/")
    ]


def read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_address_is_that_of_pyproject(path):
    """None as long as it is to be filled in there, and no badge either; then `make notebooks` puts both in."""
    notebook = nbformat.read(path, as_version=4)
    before = [cell.source for cell in notebook.cells]
    fill_in(public_address(), path, notebook)
    assert [cell.source for cell in notebook.cells] == before, "`make notebooks` puts in the address of pyproject.toml"
    assert public_address() or "colab.research" not in "".join(before)

    fill_in("https://github.com/owner/project", path, notebook)
    colab = f"https://colab.research.google.com/github/owner/project/blob/main/notebooks/{path.name}"
    assert re.match(rf"\[!\[Open In Colab\]\(\S+\.svg\)\]\({re.escape(colab)}\)\n\n# ", notebook.cells[0].source)
    assert 'REPOSITORY = "https://github.com/owner/project"' in first_code(notebook)
    fill_in(public_address(), path, notebook)
    assert [cell.source for cell in notebook.cells] == before


def first_code(notebook):
    return next(cell.source for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_installs_where_it_has_to(path, monkeypatch, capsys):
    notebook = nbformat.read(path, as_version=4)
    shell = InteractiveShell(history_manager=None)
    installed = []
    shell.register_magic_function(installed.append, magic_name="pip")

    fill_in("", path, notebook)
    shell.run_cell(first_code(notebook)).raise_error()
    assert not installed

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # now nothing can be imported, as on Colab
    result = shell.run_cell(first_code(notebook))
    assert isinstance(result.error_in_exec, UsageError)
    assert "Traceback" not in (said := "".join(capsys.readouterr()))
    assert "REPOSITORY" in said
    assert not installed

    fill_in("https://github.com/owner/project", path, notebook)
    shell.run_cell(first_code(notebook)).raise_error()
    assert installed == ['install --quiet "git+https://github.com/owner/project"']


@pytest.mark.timeout(400)
def test_quickstart(tmp_path):
    texts, shown = run("01_quickstart.ipynb", tmp_path, TOTAL_STEPS=12_800, NUM_TRIALS=2)
    assert shown == ["image/png", "image/png", "image/gif", "image/png"]
    result = read(tmp_path / "runs/quickstart/evaluation.json")
    asked = [(entry["horizon"], entry["budget"]) for entry in result["windows"]]
    assert {horizon for horizon, _ in asked} == {60, 120, 240, 480}
    assert {budget for horizon, budget in asked if horizon == 480} == {None, 60, 30}
    assert all(len(entry["return_per_window"]) == entry["horizon"] // 12 for entry in result["windows"])
    assert any(re.search(r"^ +480 +30 ", said, re.MULTILINE) for said in texts)  # a line of the table


@pytest.mark.timeout(400)
def test_rewriting(tmp_path):
    numbers = {"TOTAL_STEPS": 8192, "NUM_TRIALS": 4, "PROBE_TRIALS": 100}
    texts, shown = run("02_rewriting.ipynb", tmp_path, **numbers)
    assert shown == ["image/png"] * 3
    folder = tmp_path / "runs/rewriting"
    memories = ["lstm", "linear_attention", "none"]
    names = [f"config={memory}_t_maze" for memory in memories]
    assert [cell["name"] for cell in read(folder / "grid.json")["cells"]] == names
    matrix = read(folder / "matrix.json")
    assert {arm["memory"] for arm in matrix["arms"]} == set(memories)
    assert len(matrix["settings"]) == 4
    inside = read(folder / names[0] / "seed0/inside/inside.json")
    assert set(inside["gates"]) == {"forget gate", "input gate", "output gate"}
    assert inside["probe"]["facts"]
    assert any("corridors=10" in said for said in texts)


@pytest.mark.timeout(400)
def test_your_own_memory(tmp_path):
    texts, shown = run("03_your_own_memory.ipynb", tmp_path, TOTAL_STEPS=2048, NUM_TRIALS=2)
    assert shown == ["image/png"] * 3
    verdicts = [re.findall(r"^(holds|BROKEN) +(\w+)$", said, re.MULTILINE) for said in texts]
    (laws,) = filter(None, verdicts)
    assert [name for verdict, name in laws if verdict == "BROKEN"] == ["resets_forget_everything"]
    assert len(laws) > 10
    assert read(tmp_path / "runs/notepad/config.json")["memory"]["name"] == "notepad"
    compared = tmp_path / "runs/compared"
    runs = {str(path.parent.relative_to(compared)) for path in compared.glob("*/*/config.json")}
    assert runs == {f"{memory}/seed{seed}" for memory in ("notepad", "gru", "none") for seed in (0, 1)}
    arms = read(compared / "report/report.json")["arms"]
    assert {arm["memory"] for arm in arms} == {"notepad", "gru", "none"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_of_a_notebook(path):
    """It was executed from top to bottom without an error, says nothing about the machine, and is small."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert not any("execution" in cell.metadata for cell in cells)  # the times
    assert notebook.metadata.language_info == {"name": "python"}
    shown = [data for cell in cells for _, data in pictures(cell)]
    assert shown
    assert max(len(base64.b64decode(data)) for data in shown) < LARGEST_PICTURE
    for cell in notebook.cells:
        told = cell.source + (text(cell) if cell.cell_type == "code" else "")
        assert not re.search(r"(?<![\w.:/])/(?!/)\w+/", told), f"a path of a machine: {told}"
        assert "\x1b" not in told


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_are_whole_addresses(path):
    """In Colab a relative link leads nowhere."""
    told = "".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    addresses = re.findall(r"\]\((\S+?)\)", told)
    assert all(address.startswith("https://") for address in addresses)
