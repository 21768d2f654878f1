"""Run and publish the homeworks' notebooks.

The executed copy lands in ``results/executed``; publishing also replaces the committed notebook, cleaned.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from . import BRANCH, REPOSITORY, ROOT, files
from .assets import image_set
from .errors import ModelCompressionError
from .fetch import UnreachableError
from .subject import weights

EXECUTED = ROOT / "results" / "executed"
PUBLISHED_BYTES = 500_000


class RunnerError(ModelCompressionError, RuntimeError):
    """The wish cannot be carried out; the message says what to do."""


def notebooks(homework: str = "all") -> list[Path]:
    """The notebooks of one homework folder, or of all, in the order of their numbers.

    One whose metadata say ``"modelcompression": {"by_name_only": true}`` runs for hours: only its own name
    chooses it.

    Args:
        homework: a folder, such as ``hw5_export``; one notebook in it, ``hw5_export/fastest``; or ``all``.

    Raises:
        RunnerError: there is no such homework.
    """
    found = sorted(ROOT.glob("hw*_*/*.ipynb"))
    named = [path for path in found if homework == f"{path.parent.name}/{path.stem}"]
    several = [p for p in found if homework in ("all", p.parent.name) and not _by_name_only(p)]
    chosen = several or named
    if not chosen:
        names = ", ".join(dict.fromkeys(path.parent.name for path in found))
        raise RunnerError(f"there is no homework '{homework}': choose one of {names}, all")
    return chosen


def _by_name_only(notebook: Path) -> bool:
    metadata = nbformat.read(notebook, as_version=4).metadata
    return bool(metadata.get("modelcompression", {}).get("by_name_only"))


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
    replace_text(notebook, text)


def replace_text(path: Path, text: str) -> None:
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
    ours = {key: value for key, value in document.metadata.items() if key == "modelcompression"}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document.metadata = nbformat.from_dict(
        {"kernelspec": kernel, "language_info": {"name": "python"}, **ours}
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


def run(homework: str, smoke: bool = False, publishing: bool = False) -> None:
    """Execute the notebooks of a homework, then regenerate the tables.

    Args:
        homework: as for `notebooks`.
        smoke: a handful of images, no tables.
        publishing: replace the committed notebooks by the executed ones.

    Raises:
        RunnerError, AssetError: see `notebooks`, `execute` and `publish`.
    """
    chosen = notebooks(homework)
    _fetch_assets(needed=publishing)
    start, executed = time.time(), {}
    try:
        for notebook in chosen:
            executed[notebook] = execute(notebook, smoke)
            print(f"executed copy: {executed[notebook].relative_to(ROOT)}")
    finally:  # not in between: the runs that follow would be of a changed commit
        for notebook, copy in executed.items() if publishing else ():
            publish(copy, notebook)
    if not smoke:
        _results(["--print", *dict.fromkeys(path.parent.name for path in chosen)])
    print(f"{len(chosen)} notebook(s) in {(time.time() - start) / 60:.1f} min")
