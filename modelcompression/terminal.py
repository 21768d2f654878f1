"""What a terminal shows: text that survives any encoding, and errors as one line."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from .errors import ModelCompressionError

ADVICE = {
    errno.ENOSPC: "; make room and run again",
    errno.EDQUOT: "; make room and run again",
    errno.EROFS: "; make it writable, or work in a copy that is",
    errno.EACCES: "; check its permissions, or work in a copy of your own",
}

BAR = "{l_bar}{bar}| {elapsed}, about {remaining} to go"  # of progress, for tqdm


def forgive_encoding() -> None:
    """Let a terminal that cannot show a character (cp1251, ASCII) show a ``?`` in its place."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def one_line(error: Exception) -> str:
    """What to print of an error that the user can put right; of the system's own, what could not be done."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}{ADVICE.get(error.errno, '')}"
    return str(error)


def script(main: Callable[[], None]) -> None:
    """Run a script's ``main``: an error of ours, or of the file system, is one line and exit status 1."""
    forgive_encoding()
    try:
        main()
    except (ModelCompressionError, OSError) as error:
        sys.exit(f"error: {one_line(error)}")
