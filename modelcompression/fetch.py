"""How does a file get here, whole and unchanged? Resumed downloads, names only for whole files, sha256."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import requests
from tqdm import tqdm

from . import ROOT
from .errors import ModelCompressionError

CONNECT_SECONDS = 5
READ_SECONDS = 20


class AssetError(ModelCompressionError, RuntimeError):
    """An asset is missing, unreachable or not what its checksum says; the message says what to do."""


class UnreachableError(AssetError):
    """Images are not here and their server cannot be reached."""


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


def download(url: str, target: Path, expected: str | None = None, quiet: bool = False) -> Path:
    """Fetch ``url`` into ``target``, resuming an earlier part; the name appears only when it is whole.

    Args:
        expected: sha256 to compare with; None where none is published, then the length the server
            announced is compared.

    Raises:
        AssetError: unreachable, cut off, or the wrong content.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    try:
        with requests.get(
            url,
            stream=True,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            headers={"Range": f"bytes={have}-"} if have else {},
        ) as response:
            if response.status_code == 416:  # the part is longer than the file: it is another file's
                part.unlink()
                raise AssetError(f"{url}: the partial download was stale and is removed; run again")
            response.raise_for_status()
            resumed = response.status_code == 206
            total = int(response.headers.get("Content-Length", 0)) + (have if resumed else 0)
            bar = tqdm(
                total=total, initial=have if resumed else 0, unit="B", unit_scale=True,
                desc=target.name, disable=quiet, leave=False,
            )  # fmt: skip
            with part.open("ab" if resumed else "wb") as file, bar:
                for block in response.iter_content(1 << 16):
                    file.write(block)
                    bar.update(len(block))
    except requests.RequestException as error:
        raise AssetError(f"cannot fetch {url}: {type(error).__name__}") from None
    if total and part.stat().st_size != total:
        raise AssetError(f"{url}: got {part.stat().st_size} of {total} bytes; run again to resume")
    if expected and sha256(part) != expected:
        part.unlink()
        raise AssetError(f"{url} is not the expected file (sha256 differs); nothing was kept")
    os.replace(part, target)
    return target
