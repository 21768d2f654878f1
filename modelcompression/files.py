"""Write files so that a full disk or a crash leaves what was there before."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def replace(contents: Mapping[Path, bytes]) -> None:
    """Write all files aside, then put them in place; folders are made as needed.

    Raises:
        OSError: one of them cannot be written; all are as they were. The message is one line.
    """
    asides: dict[Path, str] = {}
    try:
        for path, data in contents.items():
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
