"""Files that are there as a whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A place to write a file that takes the place of `path` when the block ends, if it ends without an error.

    Whoever reads `path` finds the old content or the new, never a part of it.
    """
    path = Path(path)
    incomplete = path.with_name(f".{path.name}.incomplete")
    yield incomplete
    os.replace(incomplete, path)


def write_text(path: str | Path, text: str) -> None:
    """Gives a file new content by `replacing` it."""
    with replacing(path) as incomplete:
        incomplete.write_text(text)
