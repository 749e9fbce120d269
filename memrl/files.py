"""Files that are there as a whole or not at all, and one answer where they cannot be written."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


class StorageError(OSError):
    """A folder that cannot be written to, in one sentence for the person at the terminal: no room, or read-only."""


@contextlib.contextmanager
def writing_to(folder: str | Path) -> Iterator[None]:
    """Raises StorageError, which names `folder`, for every OSError of the block: that of a full disk names no file."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{folder} cannot be written to: {error.strerror or error}.") from error


def check_writable(folder: str | Path) -> None:
    """Makes `folder` if need be, and raises StorageError where nothing can be written to it. Leaves no file behind."""
    with writing_to(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b" ")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A place to write a file that takes the place of `path` when the block ends, if it ends without an error.

    A reader of `path` finds the old content or the new, never a part of it. Its folder is made if need be.

    Raises:
      StorageError: it cannot be written.
    """
    path = Path(path)
    incomplete = path.with_name(f".{path.name}.incomplete")
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield incomplete
            os.replace(incomplete, path)
        except BaseException:
            with contextlib.suppress(OSError):
                incomplete.unlink()  # on a full disk it would take the room that others need
            raise


def write_text(path: str | Path, text: str) -> None:
    """Gives a file new content by `replacing` it."""
    with replacing(path) as incomplete:
        incomplete.write_text(text)
