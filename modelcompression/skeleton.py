"""Start a homework from ``skeleton/``: its notebook, its test, its line in both READMEs."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

from . import ROOT
from .runner import RunnerError, badge, clean, read_notebook, replace_text

SKELETON = "hw0_skeleton"  # the name that stands in skeleton/ for the new homework's
TABLE_LINES = {"README.md": "what it does, in one line", "README.ru.md": "что делает метод, одной строкой"}


def create(homework: str) -> list[Path]:
    """Start a homework: its notebook and its test from ``skeleton/``, a line in the tables of homeworks.

    Returns:
        the files written.

    Raises:
        RunnerError: the name is not like ``hw7_example``, or taken; nothing is written then.
    """
    named = re.fullmatch(r"hw(\d+)_([a-z][a-z0-9_]*)", homework)
    if not named:
        raise RunnerError(f"a homework's name looks like hw7_example, not '{homework}'")
    number, topic = named.groups()
    title = topic.replace("_", " ").capitalize()
    notebook, test = ROOT / homework / f"{topic}.ipynb", ROOT / "tests" / f"test_{homework}.py"
    for path in (notebook.parent, test):
        if path.exists():
            raise RunnerError(f"{path.relative_to(ROOT)} exists already: choose another name, HW=hw7_example")

    def renamed(file: str) -> str:
        text = (ROOT / "skeleton" / file).read_text(encoding="utf8")
        text = text.replace(f"{SKELETON}/skeleton", f"{homework}/{topic}").replace(SKELETON, homework)
        return text.replace("Homework 0", f"Homework {number}").replace("Skeleton", title)

    read_notebook(ROOT / "skeleton" / "skeleton.ipynb")
    document = nbformat.reads(renamed("skeleton.ipynb"), as_version=4)
    clean(document, notebook)
    written = {notebook: nbformat.writes(document) + "\n", test: renamed("test_skeleton.py")}
    link = f"[{homework}]({notebook.relative_to(ROOT).as_posix()})"
    for name, description in TABLE_LINES.items():
        lines = (ROOT / name).read_text(encoding="utf8").splitlines(keepends=True)
        last = max(index for index, line in enumerate(lines) if line.startswith("| [hw"))
        lines.insert(last + 1, f"| {link} | {description} | {badge(notebook)} |\n")
        written[ROOT / name] = "".join(lines)
    notebook.parent.mkdir()
    for path, text in written.items():
        replace_text(path, text)
    return list(written)
