"""Does any file carry a secret? ``python tests/secret_scan.py [FILE…]``; all tracked files by default.

detect-secrets reads plain text line by line. In a notebook, JSON escapes hide from it what a reader sees, so
cell sources and outputs are taken out first. Two rules are our own: DagsHub's tokens are 40 hexadecimal
digits, quoted or not; and a token is no literal, whatever it looks like. A line that only looks like a
secret ends with ``pragma: allowlist secret``, or the line before says ``pragma: allowlist nextline secret``.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from detect_secrets.core.scan import scan_line
from detect_secrets.settings import transient_settings

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = [
    *(
        "AWSKeyDetector",
        "BasicAuthDetector",
        "GitHubTokenDetector",
        "GitLabTokenDetector",
        "JwtTokenDetector",
    ),
    *("KeywordDetector", "OpenAIDetector", "PrivateKeyDetector", "PypiTokenDetector", "SlackDetector"),
]
FORTY_HEX = re.compile(r"(?<![0-9a-zA-Z])[0-9a-f]{40}(?![0-9a-zA-Z])")
TOKEN_LITERAL = re.compile(r"""(?i)token["'\]]*\s*[=:]\s*["'][^"'\s{}]{12,}["']""")
ALLOWED = "pragma: allowlist secret"
NEXT_ALLOWED = "pragma: allowlist nextline secret"


def findings(path: Path) -> list[str]:
    """What looks like a secret, one line each: place and kind, never the secret itself."""
    found = []
    with transient_settings({"plugins_used": [{"name": name} for name in PLUGINS]}):
        before = ""
        for place, line in _lines(path):
            allowed, before = ALLOWED in line or NEXT_ALLOWED in before, line
            if allowed:
                continue
            kinds = {secret.type for secret in scan_line(line)}
            kinds |= {"40 hexadecimal digits"} if FORTY_HEX.search(line) else set()
            kinds |= {"token literal"} if TOKEN_LITERAL.search(line) else set()
            found += [f"{path}:{place}: {kind}" for kind in sorted(kinds)]
    return found


def project_files() -> list[Path]:
    """All files that are, or could be, under version control; also of an archive that was only unpacked.

    Raises:
        FileNotFoundError: there is no program git.
    """
    with tempfile.TemporaryDirectory() as empty:
        git, which = ["git"], ["--cached"]
        if not (ROOT / ".git").exists():  # not even if it lies in another repository
            subprocess.run(["git", "init", "--quiet", "--bare", empty], check=True)
            git, which = ["git", f"--git-dir={empty}", f"--work-tree={ROOT}"], []
        command = [*git, "ls-files", *which, "--others", "--exclude-standard", "-z"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        text = path.read_text(encoding="utf8")
    except UnicodeDecodeError:
        return
    parts = _cells(text) if path.suffix == ".ipynb" else [("", text)]
    for place, part in parts:
        for number, line in enumerate(part.splitlines(), 1):
            yield f"{place}{number}", line


def _cells(text: str) -> Iterator[tuple[str, str]]:
    """Sources and textual outputs of a notebook; pictures are no text."""
    for number, cell in enumerate(nbformat.reads(text, as_version=4).cells):
        yield f"cell {number}, line ", cell.source
        for output in cell.get("outputs", []):
            texts = [output.get("text", ""), "\n".join(output.get("traceback", []))]
            texts += [
                value
                for kind, value in output.get("data", {}).items()
                if isinstance(value, str) and kind not in ("image/png", "image/jpeg")
            ]
            yield f"cell {number}, output line ", "\n".join(texts)


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")
    hits = [
        hit for path in [Path(name) for name in sys.argv[1:]] or project_files() for hit in findings(path)
    ]
    print("\n".join(hits))
    sys.exit(f"error: {len(hits)} lines look like secrets" if hits else 0)
