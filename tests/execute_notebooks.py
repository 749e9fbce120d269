"""Executes the notebooks: `python tests/execute_notebooks.py` does so in full and keeps what they show.

Each has a cell with the tag `parameters`, which holds its sizes, one `NAME = NUMBER` a line. The tests execute the same
notebooks with smaller numbers in that cell. The address of the repository is filled in from pyproject.toml.
"""

import base64
import io
import os
import re
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image, ImageSequence

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def execute(path: Path, folder: Path, **numbers: int) -> nbformat.NotebookNode:
    """Executes a notebook as someone who has installed memrl would.

    Args:
      path: of the notebook, which is left alone.
      folder: where it is executed and writes to.
      numbers: what takes the place of the numbers in the cell `parameters`.

    Returns:
      The notebook with its outputs.

    Raises:
      CellExecutionError: a cell failed.
      ValueError: there is no such number.
    """
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    for name, number in numbers.items():
        parameters.source, found = re.subn(rf"(?m)^{name} = [\d_]+", f"{name} = {number}", parameters.source)
        if found != 1:
            raise ValueError(f"{path.name} has no number {name}.")
    metadata = dict(notebook.metadata)
    search = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]  # for `!python`
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(search),
        "PYTHONPATH": str(REPOSITORY),
        "IPYTHONDIR": str(folder / ".ipython"),
    }
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,  # of a progress line only what it was in the end
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=environment)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if output.output_type == "stream":
            output.text = output.text.replace("\x1b[K", "")  # what cleared the rest of a progress line
    notebook.metadata = metadata  # without the version of the interpreter
    return notebook


def public_address() -> str:
    """The address of the repository in pyproject.toml; empty as long as it is to be filled in there."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return project.get("urls", {}).get("Repository", "")


def fill_in(address: str, path: Path, notebook: nbformat.NotebookNode) -> None:
    """Puts the address of the repository into the first cells of a notebook, which is changed in place.

    Args:
      address: goes into the cell that installs memrl. If it is one of GitHub, the notebook also gets the badge that
        opens it in Colab; without an address it has none.
      path: of the notebook in the repository.
      notebook: begins with a cell of text; its first cell of code has a line `REPOSITORY = "..."`.
    """
    title = notebook.cells[0]
    install = next(cell for cell in notebook.cells if cell.cell_type == "code")
    install.source, found = re.subn(r'(?m)^REPOSITORY = ".*?"', lambda _: f'REPOSITORY = "{address}"', install.source)
    if found != 1:
        raise ValueError(f"{path.name}: the first cell of code has no line REPOSITORY = ...")
    title.source = re.sub(r"\A\[!\[Open In Colab\].*\n+", "", title.source)
    if address.startswith("https://github.com/"):
        project = address.removeprefix("https://github.com/").removesuffix(".git").strip("/")
        file = f"https://colab.research.google.com/github/{project}/blob/main/notebooks/{path.name}"
        badge = "https://colab.research.google.com/assets/colab-badge.svg"
        title.source = f"[![Open In Colab]({badge})]({file})\n\n{title.source}"


def smaller(gif: str) -> str:
    """An animation, in base64, with fewer colours, for which the pictures here are plain enough."""
    frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(Image.open(io.BytesIO(base64.b64decode(gif))))]
    first, *others = (frame.quantize(32, dither=Image.Dither.NONE) for frame in frames)
    written = io.BytesIO()
    first.save(written, "GIF", save_all=True, append_images=others, duration=100, loop=0)
    return base64.b64encode(written.getvalue()).decode()


def main() -> None:
    for path in NOTEBOOKS:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder))
        for data in (output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])):
            if "image/gif" in data:
                data["image/gif"] = smaller(data["image/gif"])
        fill_in(public_address(), path, notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s, {path.stat().st_size / 1000:.0f} kB.", flush=True)


if __name__ == "__main__":
    main()
