"""Executes the notebooks: `python tests/execute_notebooks.py` does so in full and keeps what they show.

Each has a cell with the tag `parameters`, which holds its sizes, one `NAME = NUMBER` a line. The tests execute the same
notebooks with smaller numbers in that cell.
"""

import base64
import io
import os
import re
import sys
import tempfile
import time
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
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s, {path.stat().st_size / 1000:.0f} kB.", flush=True)


if __name__ == "__main__":
    main()
