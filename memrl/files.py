"""Files: written as a whole or not at all, read with a check of what they hold; one answer where that cannot be."""

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


class FileError(ValueError):
    """A file that cannot be read, or does not hold what it should, in one sentence for the person at the terminal."""


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


def read_text(path: str | Path, remedy: str) -> str:
    """What a text file holds; FileError, which ends with the sentence `remedy`, if it cannot be read or is no text."""
    try:
        return Path(path).read_text()
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is damaged: it is not text. {remedy}") from error
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}. {remedy}") from error


def read_json(path: str | Path, kind: Any, remedy: str) -> Any:
    """What a JSON file holds, all of it as it is there.

    Args:
      path: the file.
      kind: a type of JSON values, such as `list[Record]` where `Record` is a TypedDict of `typing_extensions`. All that
        it asks for must be there and of its type; what it does not name may be there too.
      remedy: what to do where the file is not such, a sentence.

    Raises:
      FileError: the file cannot be read, or is not such.
    """
    try:
        return parse_json(read_text(path, remedy), kind)
    except ValueError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path} is damaged: {error}. {remedy}") from error


def parse_json(text: str, kind: Any) -> Any:
    """What `text` means as JSON; ValueError if it is not of the type `kind`, see `read_json`."""
    import pydantic

    try:
        _adapter(kind).validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        raise ValueError(_first(error.errors())) from error
    return json.loads(text)


def check_type(value: Any, kind: Any) -> None:
    """Raises ValueError if a value is not of the type `kind`. A whole number may stand for a float, not for a bool."""
    import pydantic

    try:
        _adapter(kind).validate_python(value, strict=True)
    except pydantic.ValidationError as error:
        raise ValueError(_first(error.errors())) from error


@functools.cache
def _adapter(kind: Any) -> Any:
    import pydantic  # a tenth of a second that those who read nothing need not wait for

    return pydantic.TypeAdapter(kind)


def _first(errors: Sequence[Mapping[str, Any]]) -> str:
    """The first of pydantic's complaints: where, and what."""
    place, message = ".".join(map(str, errors[0]["loc"])), errors[0]["msg"]
    return f"{place and f'{place}: '}{message[0].lower()}{message[1:]}"
