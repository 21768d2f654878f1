"""How does a file get here, whole and unchanged? Resumed downloads, names only for whole files, sha256."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import requests
from tqdm import tqdm

from . import ROOT
from .errors import ModelCompressionError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CONNECT_SECONDS = 5
READ_SECONDS = 20
# What a captive portal, a proxy or a checkout without Git LFS gives instead of a file.
PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")
POINTER = b"version https://git-lfs"


class AssetError(ModelCompressionError, RuntimeError):
    """An asset is missing, unreachable or not what its checksum says; the message says what to do."""


class NotServedError(AssetError):
    """A server does not answer, refuses, or sends something else than the file."""


class UnreachableError(AssetError):
    """Images are not here and their server does not give them."""


class StorageError(AssetError):
    """What was fetched cannot be written: the disk is full or read-only."""


def roots() -> list[Path]:
    """Folders searched for assets, in order; downloads go into the last one."""
    given = os.environ.get("MC_ASSETS", "").strip()
    if given and not Path(given).is_dir():
        raise AssetError(f"MC_ASSETS={given} is not a folder: correct it or unset it to download")
    return [Path(given).resolve(), ROOT / "assets"] if given else [ROOT / "assets"]


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, expected: str) -> Path:
    """Return ``path`` if its sha256 is the expected one; else raise :class:`AssetError`."""
    found = sha256(path)
    if found != expected:
        raise AssetError(
            f"{path} has sha256 {found[:12]}…, expected {expected[:12]}…: "
            "it is not the original file; delete it and run again"
        )
    return path


def download(
    url: str,
    target: Path,
    expected: str | None = None,
    quiet: bool = False,
    check: Callable[[Path], object] | None = None,
) -> Path:
    """Fetch ``url`` into ``target``, resuming an earlier part; the name appears only when it is whole.

    Of several processes that want the same file one fetches it, the others wait for it.

    Args:
        expected: sha256 to compare with; None where none is published, then the length the server
            announced is compared.
        check: called with the path of what has arrived; a file for which it raises is not kept.

    Raises:
        NotServedError: the server does not answer, refuses, or sends a page instead of the file.
        StorageError: the file cannot be written here.
        AssetError: cut off, or the wrong content.
    """
    part = target.with_name(target.name + ".part")
    with storing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        was_here = target.exists()
        with _claimed(part) as file:
            if not was_here and target.exists() and expected in (None, sha256(target)):
                return target  # another process was faster
            # Whole already, if an earlier process was killed between the last byte and the new name.
            if not (expected and part.stat().st_size and sha256(part) == expected):
                _receive(url, file, part, quiet)
            if not fcntl:
                file.close()  # Windows renames and removes no open files
            if expected and sha256(part) != expected:
                part.unlink()
                raise AssetError(f"{url} is not the expected file (sha256 differs); nothing was kept")
            try:
                if check:
                    check(part)
            except AssetError as error:
                part.unlink()
                raise AssetError(f"{url} arrived damaged and was removed ({error}); run again") from None
            os.replace(part, target)
    return target


@contextmanager
def storing(target: Path) -> Iterator[None]:
    """The system's own errors become one line that says what to do."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{target} cannot be written ({error.strerror or error}): make room, make the folder writable, "
            "or set MC_ASSETS to a folder that holds the file"
        ) from None


@contextmanager
def _claimed(part: Path) -> Iterator[BinaryIO]:
    """The part file, opened for appending by this process alone; an empty one is not left behind."""
    while True:
        file = part.open("ab")
        with suppress(OSError):  # a file system without locks
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), part.stat()):
                break
        file.close()  # who held it has renamed or removed it
    try:
        with file:
            yield file
    finally:
        with suppress(OSError):
            if not part.stat().st_size:
                part.unlink()


def _receive(url: str, file: BinaryIO, part: Path, quiet: bool) -> None:
    """Append what is missing of ``url`` to an open part file, or write it anew.

    Raises:
        AssetError: as `download`; a part that can be resumed is kept.
    """
    have = file.seek(0, os.SEEK_END)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(
            url, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS), headers=headers
        ) as response:
            resumed = response.status_code == 206
            span = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if response.status_code == 416 or (resumed and span and int(span[1]) != have):
                file.truncate(0)  # longer than the file, so it is another file's
                raise AssetError(f"{url}: the partial download was stale and is removed; run again")
            if not response.ok:
                raise NotServedError(f"cannot fetch {url}: HTTP {response.status_code} {response.reason}")
            if not resumed:
                have = file.truncate(file.seek(0))
            length = response.headers.get("Content-Length", "")
            total = int(length) + have if length.isdecimal() else 0
            bar = tqdm(
                total=total, initial=have, unit="B", unit_scale=True,
                desc=part.stem, disable=quiet, leave=False,
            )  # fmt: skip
            with bar:
                for block in _blocks(url, response):
                    if not file.tell():
                        _refuse_pages(url, block)
                    file.write(block)
                    bar.update(len(block))
    except requests.RequestException as error:
        raise NotServedError(f"cannot fetch {url}: {_cause(error)}") from None
    finally:
        file.flush()
    if total and file.tell() != total:
        raise AssetError(f"{url}: got {file.tell()} of {total} bytes; run again to resume")


def _blocks(url: str, response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_content(1 << 16)
    except requests.RequestException as error:
        raise AssetError(f"{url} was cut off ({type(error).__name__}); run again to resume") from None


def _refuse_pages(url: str, start: bytes) -> None:
    text = start[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(PAGES):
        raise NotServedError(f"cannot fetch {url}: the answer is a web page (a proxy's or a portal's?)")
    if text.startswith(POINTER):
        raise NotServedError(f"cannot fetch {url}: the answer is a Git LFS pointer, not the file")


def _cause(error: requests.RequestException) -> str:
    """Of a proxy that refuses to connect, its status; of all else, the kind of error."""
    refused = re.search(r"Tunnel connection failed: (\d+[\w ]*)", str(error))
    return f"the proxy answers {refused[1].strip()}" if refused else type(error).__name__
