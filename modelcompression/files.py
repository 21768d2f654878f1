"""Write files so that a full disk, a crash or another process spoils nothing."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import ModelCompressionError


class FolderError(ModelCompressionError, OSError):
    """A folder cannot be used; the message says why."""


def replace(contents: Mapping[Path, bytes]) -> None:
    """Write all files aside, then put them in place; folders are made as needed.

    Raises:
        OSError: one of them cannot be written; all are as they were. The message is one line.
    """
    asides: dict[Path, str] = {}
    try:
        for path, data in contents.items():
            if path.exists() and not path.is_file():
                raise OSError(f"{path} cannot be written: it is a folder or a device")
            try:
                asides[path] = _written_aside(path, data)
            except OSError as error:
                reason = f"{path} cannot be written: {error.strerror}; what was there before is kept"
                raise OSError(reason) from None
        for path, aside in asides.items():
            os.replace(aside, path)
    finally:
        for aside in asides.values():
            with suppress(FileNotFoundError):
                os.unlink(aside)


def own_folder(folder: Path) -> tuple[Path, FileLock]:
    """A folder for this process alone: this one, made as needed, or else ``folder-2``, ``folder-3`` …

    Returns:
        the folder, and the lock that keeps it until it is released or the process ends.

    Raises:
        FolderError: it cannot be written.
    """
    for number in itertools.count(1):
        own = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        lock = FileLock(own / ".lock", timeout=0, is_singleton=True)  # a process may claim its own again
        try:
            own.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            continue
        except OSError as error:
            raise FolderError(f"{own} cannot be written ({error.strerror}): make it writable") from None
        if number > 1:
            print(f"folder    {own}: another process uses {folder}")
        return own, lock


def _written_aside(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)  # some file systems report only here that they are full
        os.chmod(aside, 0o644)
    except BaseException:
        os.unlink(aside)
        raise
    return aside
