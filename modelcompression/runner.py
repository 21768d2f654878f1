"""Run the homeworks' notebooks from the shell: ``python -m modelcompression.runner hw5_export``.

The executed copy lands in ``results/executed``; with ``--publish`` it also replaces the committed
notebook, cleaned. ``--smoke`` takes a handful of images and writes no table. ``--new`` starts a homework.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from . import BRANCH, REPOSITORY, ROOT, files
from .assets import AssetError, UnreachableError, image_set, weights

EXECUTED = ROOT / "results" / "executed"
PUBLISHED_BYTES = 500_000
SKELETON = "hw0_skeleton"  # the name that stands in skeleton/ for the new homework's
TABLE_LINES = {"README.md": "what it does, in one line", "README.ru.md": "что делает метод, одной строкой"}


class RunnerError(RuntimeError):
    """The wish cannot be carried out; the message says what to do."""


def notebooks(homework: str = "all") -> list[Path]:
    """The notebooks of one homework folder, or of all, in the order of their numbers.

    Args:
        homework: a folder, such as ``hw5_export``; one notebook in it, ``hw5_export/fastest``; or ``all``.

    Raises:
        RunnerError: there is no such homework.
    """
    found = sorted(ROOT.glob("hw*_*/*.ipynb"))
    chosen = [p for p in found if homework in ("all", p.parent.name, f"{p.parent.name}/{p.stem}")]
    if not chosen:
        names = ", ".join(dict.fromkeys(path.parent.name for path in found))
        raise RunnerError(f"there is no homework '{homework}': choose one of {names}, all")
    return chosen


def execute(notebook: Path, smoke: bool = False, parameters: dict | None = None) -> Path:
    """Run one notebook from top to bottom, its output on this terminal; return the executed copy.

    Raises:
        RunnerError: a cell failed (the message is the cell's own error), its process was killed, or the
            executed copy cannot be written.
    """
    target = EXECUTED / ("smoke" if smoke else "") / f"{notebook.parent.name}_{notebook.name}"
    target.parent.mkdir(parents=True, exist_ok=True)
    given = dict(parameters or {}) | ({"SMOKE": True} if smoke else {})
    try:
        papermill.execute_notebook(
            str(notebook), str(target), parameters=given, cwd=str(notebook.parent),
            kernel_name="python3", stdout_file=sys.stdout, stderr_file=sys.stderr,
        )  # fmt: skip
    except PapermillExecutionError as error:
        raise RunnerError(
            f"{notebook.relative_to(ROOT)} failed in cell {error.exec_count}: "
            f"{error.ename}: {error.evalue}\nThe executed copy with the traceback: {target}"
        ) from None
    except RuntimeError as error:  # of nbclient or jupyter_client, "Kernel died"
        raise RunnerError(
            f"the process that ran {notebook.relative_to(ROOT)} was killed ({error}), perhaps for lack of "
            "memory; what it had logged is kept: run it again"
        ) from None
    except OSError as error:
        raise RunnerError(f"{notebook.relative_to(ROOT)} was interrupted: {error}; run it again") from None
    return target


def create(homework: str) -> list[Path]:
    """Start a homework: its notebook and its test from ``skeleton/``, a line in the tables of homeworks.

    Returns:
        the files written.

    Raises:
        RunnerError: the name is not like ``hw6_example``, or taken; nothing is written then.
    """
    named = re.fullmatch(r"hw(\d+)_([a-z][a-z0-9_]*)", homework)
    if not named:
        raise RunnerError(f"a homework's name looks like hw6_example, not '{homework}'")
    number, topic = named.groups()
    title = topic.replace("_", " ").capitalize()
    notebook, test = ROOT / homework / f"{topic}.ipynb", ROOT / "tests" / f"test_{homework}.py"
    for path in (notebook.parent, test):
        if path.exists():
            raise RunnerError(f"{path.relative_to(ROOT)} exists already: choose another name, HW=hw6_example")

    def renamed(file: str) -> str:
        text = (ROOT / "skeleton" / file).read_text(encoding="utf8")
        text = text.replace(f"{SKELETON}/skeleton", f"{homework}/{topic}").replace(SKELETON, homework)
        return text.replace("Homework 0", f"Homework {number}").replace("Skeleton", title)

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
        _replace(path, text)
    return list(written)


def publish(executed: Path, notebook: Path) -> None:
    """Replace the committed notebook by its executed copy, cleaned of what only this run needs.

    Raises:
        RunnerError: the result is over the size that a repository of notebooks can bear, or cannot be
            written; the committed one is kept.
    """
    document = nbformat.read(executed, as_version=4)
    clean(document, notebook)
    text = nbformat.writes(document) + "\n"
    if len(text.encode()) > PUBLISHED_BYTES:
        raise RunnerError(
            f"{notebook.name} would have {len(text.encode())} bytes, over {PUBLISHED_BYTES}: "
            "make its figures fewer or smaller"
        )
    _replace(notebook, text)


def _replace(path: Path, text: str) -> None:
    """Put a text in place of a file; should that fail, the file is as it was.

    Raises:
        RunnerError: the disk is full, for example.
    """
    try:
        files.replace({path: text.encode()})
    except OSError as error:
        raise RunnerError(str(error)) from None


def clean(document: nbformat.NotebookNode, notebook: Path) -> None:
    """Remove progress bars, timings and injected cells; refresh the badge and the bootstrap cell."""
    document.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    kept = [c for c in document.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    for cell in kept:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        cell.id = re.sub(r"\W", "", cell.id)[:8]
        if "badge" in tags:
            cell.source = re.sub(r"\[!\[Open in Colab\].*", badge(notebook), cell.source)
        if "bootstrap" in tags:
            cell.source = bootstrap()
        if cell.cell_type == "code":
            cell.outputs = _as_terminal(cell.outputs)
    document.cells = kept


def badge(notebook: Path) -> str:
    """Markdown of the button that opens a notebook in Colab."""
    path = notebook.relative_to(ROOT).as_posix()
    target = f"https://colab.research.google.com/github/{REPOSITORY}/blob/{BRANCH}/{path}"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({target})"


def bootstrap() -> str:
    """Source of the cell that installs the project in Colab and does nothing elsewhere."""
    return f"""\
import os
import sys

if "google.colab" in sys.modules:
    project = "/content/{REPOSITORY.split("/")[1]}"
    if not os.path.isdir(project):
        !git clone -q --depth 1 -b {BRANCH} https://github.com/{REPOSITORY} {{project}}
        !pip install -q -r {{project}}/requirements.txt
    sys.path.insert(0, project)

import modelcompression  # noqa: F401  (before the libraries whose telemetry it turns off)"""


def _as_terminal(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Join streams and let carriage returns overwrite, as a terminal would: progress bars vanish."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if output.output_type == "stream" and last and last.get("name") == output.name:
            last.text += output.text
        else:
            joined.append(output)
    for output in joined:
        output.get("metadata", {}).clear()
        if output.output_type == "stream":
            lines = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in output.text.split("\n")]
            output.text = "\n".join(lines).strip("\n") + "\n"
    return [o for o in joined if o.output_type != "stream" or o.text.strip()]


def _fetch_assets(needed: bool) -> None:
    """Before any notebook starts: a download belongs here, with its progress on the terminal."""
    weights()
    try:
        image_set("coco-val")
        image_set("coco128")
    except UnreachableError as error:
        if needed:
            raise
        print(f"{error}\nGoing on with the demo photos.", file=sys.stderr)


def _results(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, ROOT / "results" / "aggregate.py", *arguments], check=False)
    if done.returncode:
        raise RunnerError("the results tables were not regenerated, see above")


def main(arguments: list[str] | None = None) -> None:
    """Command line: which homework, and whether to publish or only to smoke-test it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("homework", help="a folder such as hw5_export, a notebook hw5_export/fastest, or all")
    parser.add_argument("--publish", action="store_true", help="replace the committed notebook")
    parser.add_argument("--smoke", action="store_true", help="a handful of images, no tables")
    parser.add_argument("--new", action="store_true", help="start this homework from skeleton/")
    wish = parser.parse_args(arguments)
    if wish.publish and wish.smoke:
        parser.error("a smoke run is never published")
    if wish.new:
        for path in create(wish.homework):
            print(path.relative_to(ROOT))
        return
    chosen = notebooks(wish.homework)
    _fetch_assets(needed=wish.publish)
    start, executed = time.time(), {}
    try:
        for notebook in chosen:
            executed[notebook] = execute(notebook, wish.smoke)
            print(f"executed copy: {executed[notebook].relative_to(ROOT)}")
    finally:  # not in between: the runs that follow would be of a changed commit
        for notebook, copy in executed.items() if wish.publish else ():
            publish(copy, notebook)
    if not wish.smoke:
        _results(["--print", *dict.fromkeys(path.parent.name for path in chosen)])
    print(f"{len(chosen)} notebook(s) in {(time.time() - start) / 60:.1f} min")


if __name__ == "__main__":
    try:
        main()
    except (RunnerError, AssetError) as error:
        sys.exit(f"error: {error}")
