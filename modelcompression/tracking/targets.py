"""Where do runs go? DagsHub, any MLflow server, or SQLite in the repository: the environment says."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .. import REPOSITORY, ROOT
from ..errors import ModelCompressionError
from .login import dagshub_host, kept_token


class TrackingError(ModelCompressionError, RuntimeError):
    """Runs cannot be written, read or sent; the message says why. It never contains credentials."""


@dataclass(frozen=True)
class Target:
    """Where runs go. Neither field contains credentials: those are in MLflow's environment variables."""

    uri: str
    description: str

    @property
    def is_local(self) -> bool:
        return self.uri.startswith(("sqlite:", "file:"))

    @property
    def database(self) -> Path | None:
        """The SQLite file, if it is one."""
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:") else None


def resolve_target() -> Target:
    """The first of: ``MLFLOW_TRACKING_URI``, DagsHub with a token or a sign-in, the local store.

    The token is ``DAGSHUB_USER_TOKEN``, or else what DagsHub's client keeps (`login`). Names are looked up
    in the environment, then among the Colab secrets. Credentials found in a URI or a token move to
    ``MLFLOW_TRACKING_USERNAME`` and ``_PASSWORD``, where MLflow reads them.

    Raises:
        TrackingError: a variable has a value that cannot be right.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI", "").strip():
        return _target_of(uri)
    if token := _setting("DAGSHUB_USER_TOKEN") or kept_token():
        return _dagshub(token, _setting("DAGSHUB_REPO") or REPOSITORY)
    return local_target()


def local_target() -> Target:
    """The store in the repository, or in the folder ``MC_STORE``; it also keeps what a server refused."""
    return _sqlite(Path(os.environ.get("MC_STORE", "")) / "mlflow.db")


def _sqlite(path: Path) -> Target:
    """Relative to the repository: notebooks run in their own folders, but share one file."""
    database = (ROOT / path).resolve()
    # MLflow gives the path to SQLAlchemy as part of a URL: after ? come options, %20 is a space.
    if "?" in str(database) or unquote(str(database)) != str(database) or not str(database).isprintable():
        raise TrackingError(
            f"MLflow cannot keep a database in {str(database.parent)!r}, since ? and %20 mean something else "
            "in URLs: rename the folder, or set MC_STORE to another one"
        )
    shown = database.name if database.parent == ROOT else database
    return Target(f"sqlite:///{database}", f"the local store {shown}")


def _target_of(uri: str) -> Target:
    if uri.startswith("sqlite:///"):
        return _sqlite(Path(uri.removeprefix("sqlite:///")))
    if uri.startswith("file:"):
        return Target(uri, f"the local store {uri}")
    if not re.match("https?://", uri):
        raise TrackingError(
            "MLFLOW_TRACKING_URI must start with http://, https:// or sqlite:/// (see docs/experiments.md)"
        )
    try:
        parts = urlsplit(uri)
    except ValueError:  # its message may repeat the URI
        raise TrackingError("MLFLOW_TRACKING_URI is not a valid URL") from None
    credentials, _, host = parts.netloc.rpartition("@")
    safe = parts._replace(netloc=host).geturl().rstrip("/")
    if "@" in safe:
        raise TrackingError(
            "MLFLOW_TRACKING_URI: special characters of the password must be percent-encoded; "
            "or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    if not host:
        raise TrackingError("MLFLOW_TRACKING_URI names no host: it should look like https://example.org")
    user, colon, password = credentials.partition(":")
    if user:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(user)
    if colon:
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)
    return Target(safe, f"the MLflow server {safe}")


def _dagshub(token: str, repository: str) -> Target:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise TrackingError("DAGSHUB_REPO must look like owner/repository")
    os.environ["MLFLOW_TRACKING_USERNAME"] = os.environ["MLFLOW_TRACKING_PASSWORD"] = token
    page = f"{dagshub_host()}/{repository}"
    return Target(f"{page}.mlflow", f"DagsHub, {page}/experiments")


def _setting(name: str) -> str:
    """An environment variable, or else the Colab secret of that name; empty if there is neither."""
    if not os.environ.get(name) and "google.colab" in sys.modules:
        # Missing, access denied, no notebook attached: each has an exception class of its own.
        with suppress(Exception):
            from google.colab import userdata

            os.environ[name] = userdata.get(name)  # kept: every look-up may open a dialogue
    return os.environ.get(name, "").strip()
