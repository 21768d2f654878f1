"""Signed in to DagsHub? Its own client opens the browser and keeps the token; here it is only asked.

The client is imported when somebody signs in or has done so, not by a run without DagsHub.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ..errors import ModelCompressionError

HOST = "https://dagshub.com"
SECONDS = 5  # that a notebook waits for DagsHub's answer about a token
AGAIN = "`modelcompression login` signs in again"


class LoginError(ModelCompressionError, RuntimeError):
    """Nobody could be signed in; the message says why. It never contains a token."""


def dagshub_host() -> str:
    """Where DagsHub is: the client's own setting ``DAGSHUB_CLIENT_HOST``, or dagshub.com."""
    return (os.environ.get("DAGSHUB_CLIENT_HOST", "").strip() or HOST).rstrip("/")


def sign_in() -> None:
    """Sign in through the browser, unless the client keeps a token that DagsHub accepts.

    Raises:
        LoginError: the client is not installed, or DagsHub does not sign in.
    """
    if not find_spec("dagshub"):
        raise LoginError("dagshub is not installed: pip install -r requirements.txt")
    from dagshub.auth import get_token

    try:
        get_token(host=dagshub_host(), cache_location=str(_token_file()))
    except Exception as error:  # the client raises whatever its libraries do
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        raise LoginError(f"{dagshub_host()} did not sign you in ({reason})") from None
    _accepted.cache_clear()


def kept_token() -> str:
    """The token that the client keeps, if DagsHub accepts it; empty if there is none.

    A token that is wrong, expired or revoked is worth one warning: runs then stay in the local store.
    """
    file = _token_file()
    try:
        signed_in = bool(file) and dagshub_host() in file.read_text(encoding="utf8")
    except (OSError, ValueError):
        signed_in = False
    return _accepted(file, dagshub_host()) if signed_in else ""


@cache
def _accepted(file: Path, host: str) -> str:
    """Asked once a process."""
    import httpx
    from dagshub.auth import get_token
    from dagshub.common import config

    before, config.quiet, config.http_timeout = config.quiet, True, SECONDS
    try:
        return get_token(host=host, cache_location=str(file), fail_if_no_token=True)
    except httpx.HTTPError:
        reason = "cannot be reached"
    except Exception:  # the client has no class for a token that is not accepted
        reason = f"does not accept the token of your sign-in, which is wrong, expired or revoked; {AGAIN}"
    finally:
        config.quiet = before
    print(f"warning: {host} {reason}; runs are kept in the local store", file=sys.stderr)
    return ""


def _token_file() -> Path | None:
    """Where the client keeps tokens; None if it is not installed."""
    if given := os.environ.get("DAGSHUB_CLIENT_TOKENS_CACHE"):
        return Path(given)
    if not find_spec("dagshub"):
        return None
    import appdirs  # as the client does

    return Path(appdirs.user_cache_dir("dagshub")) / "tokens"
