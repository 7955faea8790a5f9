"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write to a temporary folder beside ``path``, then move the file into place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as folder:
        part = Path(folder) / path.name
        write(part)
        os.replace(part, path)


def check_place(path: Path) -> None:
    """Raise an OSError if no file can be written at ``path``; nothing but its folder stays behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as folder:
        (Path(folder) / path.name).write_bytes(b"x")


def reason(error: BaseException) -> str:
    """Why a file could not be written: the system's words, if it was the system that refused."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _beside(path: Path) -> tempfile.TemporaryDirectory:
    # The prefix is short, since a file's name may be as long as the system allows.
    return tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-")
