"""Run and publish the homeworks' notebooks.

The executed copy lands in ``results/executed``; publishing also replaces the committed notebook, cleaned.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from papermill.exceptions import PapermillExecutionError

from . import BRANCH, REPOSITORY, ROOT, files
from .campaign import Progress, discard, mark, noted
from .errors import ModelCompressionError
from .machine import commit, cpu
from .prefetch import fetch_needed
from .terminal import one_line

EXECUTED = ROOT / "results" / "executed"
PUBLISHED_BYTES = 640_000


class RunnerError(ModelCompressionError, RuntimeError):
    """The wish cannot be carried out; the message says what to do."""


def notebooks(homework: str = "all") -> list[Path]:
    """The notebooks of one homework folder, or of all, in the order of their numbers.

    One whose metadata say ``"modelcompression": {"by_name_only": true}`` runs for hours, or needs a package
    that nothing else needs: only its own name chooses it.

    Args:
        homework: a folder, ``hw5_export``; a notebook, ``hw5_export/fastest``; ``all``; or several of these.

    Raises:
        RunnerError: there is no such homework.
    """
    found, chosen = sorted(ROOT.glob("hw*_*/*.ipynb")), []
    for one in homework.split():
        named = [path for path in found if one == f"{path.parent.name}/{path.stem}"]
        several = [p for p in found if one in ("all", p.parent.name) and not noted(p).get("by_name_only")]
        if not (several or named):
            names = ", ".join(dict.fromkeys(path.parent.name for path in found)) or "those in a clone"
            raise RunnerError(f"there is no homework '{one}': choose one of {names}, all")
        chosen += several or named
    return list(dict.fromkeys(chosen))


def execute(notebook: Path, smoke: bool = False, parameters: Mapping | None = None) -> Path:
    """Run one notebook from top to bottom, its output on this terminal; return the executed copy.

    Raises:
        RunnerError: the notebook cannot be read or does not take the parameters, before anything runs; a
            cell failed (the message is the cell's own error), its process was killed, or the executed copy
            cannot be written.
    """
    given = dict(parameters or {}) | ({"SMOKE": True} if smoke else {})
    require_parameters(notebook, given)
    target = EXECUTED / ("smoke" if smoke else "") / f"{notebook.parent.name}_{notebook.name}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunnerError(f"no executed copy can be written: {one_line(error)}") from None
    try:
        papermill.execute_notebook(
            str(notebook), str(target), parameters=given, cwd=str(notebook.parent),
            kernel_name="python3", language="python", kernel_manager_class=_kernel(smoke),
            stdout_file=sys.stdout, stderr_file=sys.stderr,
        )  # fmt: skip
    except PapermillExecutionError as error:
        raise RunnerError(
            f"{notebook.relative_to(ROOT)} failed in cell {error.exec_count}: "
            f"{error.ename}: {error.evalue}\nThe executed copy with the traceback: {target}"
        ) from None
    except RuntimeError as error:  # of nbclient or jupyter_client, "Kernel died"
        if "before replying" in str(error):
            raise RunnerError(
                f"no process could be started for {notebook.relative_to(ROOT)} ({error}): "
                f"does {sys.executable} -m ipykernel_launcher --version work?"
            ) from None
        raise RunnerError(
            f"the process that ran {notebook.relative_to(ROOT)} was killed ({error}), perhaps for lack of "
            "memory; what it had logged is kept: run it again"
        ) from None
    except OSError as error:
        reason = f"{notebook.relative_to(ROOT)} was interrupted: {one_line(error)}"
        raise RunnerError(f"{reason}; run it again") from None
    return target


def require_parameters(notebook: Path, names: Iterable[str]) -> None:
    """Check that a notebook can be read and has these parameters, in one code cell tagged ``parameters``.

    Raises:
        RunnerError: otherwise it would run with other values than it was given.
    """
    where = notebook.relative_to(ROOT)
    cells = [cell for cell in read_notebook(notebook).cells if cell.cell_type == "code"]
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if names and len(tagged) != 1:
        raise RunnerError(f"{where} has {len(tagged)} code cells tagged 'parameters', not one: tag that cell")
    try:
        nodes = [node for cell in tagged for node in ast.walk(ast.parse(cell.source))]
    except SyntaxError as error:
        raise RunnerError(f"{where}: the cell tagged 'parameters' is no Python ({error.msg})") from None
    found = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    if missing := sorted(set(names) - found):
        raise RunnerError(f"{where}: the cell tagged 'parameters' does not set {', '.join(missing)}")


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """A notebook, in version 4 of its format.

    Raises:
        RunnerError: the file is no notebook: it is empty, or a merge has left its marks.
    """
    try:
        document = nbformat.read(path, as_version=4)
        nbformat.validate(document)
    except Exception:  # nbformat's own errors, and whatever else its reader stumbles over
        raise RunnerError(
            f"{path.relative_to(ROOT)} is no readable notebook (a conflict of a merge?): "
            "restore it with git checkout"
        ) from None
    return document


def _kernel(smoke: bool) -> type[AsyncKernelManager]:
    """This very Python, whatever a kernelspec of the user calls python3; `Homework` reads the variable."""
    spec = KernelSpec(env={"MC_SMOKE": "true"} if smoke else {}, **get_kernel_dict())
    return type("OwnKernel", (AsyncKernelManager,), {"kernel_spec": spec})


def publish(executed: Mapping[Path, Path]) -> None:
    """Replace notebooks by their executed copies, given as notebook → copy, cleaned of what only a run needs.

    Raises:
        RunnerError: before any is replaced, one is over the size that a repository of notebooks can bear, or
            was edited while it ran; or one cannot be written.
    """
    texts = {notebook: _published(copy, notebook) for notebook, copy in executed.items()}
    for notebook, text in texts.items():
        replace_text(notebook, text)


def _published(executed: Path, notebook: Path) -> str:
    document = read_notebook(executed)
    if notebook.exists() and _sources(document) != _sources(read_notebook(notebook)):
        raise RunnerError(
            f"{notebook.name} was edited while it ran: publish it again; {executed} is what ran"
        )
    clean(document, notebook)
    text = nbformat.writes(document) + "\n"
    if len(text.encode()) > PUBLISHED_BYTES:
        raise RunnerError(
            f"{notebook.name} would have {len(text.encode())} bytes, over {PUBLISHED_BYTES}: "
            "make its figures fewer or smaller"
        )
    return text


def _sources(document: nbformat.NotebookNode) -> list[str]:
    """Of all cells but the one that has the parameters of a run."""
    return [c.source for c in document.cells if "injected-parameters" not in c.metadata.get("tags", [])]


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
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}, **ours}
    document.metadata = nbformat.from_dict(metadata)
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
    """Source of the cell that installs the project in Colab and does nothing elsewhere.

    Whatever was interrupted or failed is done again when the cell is run again: a clone has its name, and an
    installation its mark, only when it is complete.
    """
    return f"""\
import os
import sys

if "google.colab" in sys.modules:
    project = "/content/{REPOSITORY.split("/")[1]}"
    clone = "git clone -q --depth 1 -b {BRANCH} https://github.com/{REPOSITORY}"
    if not os.path.isfile(project + "/modelcompression/__init__.py"):
        !rm -rf {{project}} {{project}}.part
        !{{clone}} {{project}}.part && mv {{project}}.part {{project}}
    if not os.path.isfile(project + ".installed"):
        !cd {{project}} && pip install -q -r {{project}}/requirements.txt && touch {{project}}.installed
    if not os.path.isfile(project + ".installed"):
        raise RuntimeError("the installation failed, see above: run this cell again")
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


def _begin_campaign() -> str:
    """All runs that follow make the main table together: from one commit, on one machine.

    Raises:
        RunnerError: the code is that of no commit.
    """
    code = commit()
    if not code or code.endswith("-dirty"):
        raise RunnerError(
            "publishing all notebooks makes the main table, which names one commit: commit your changes first"
        )
    os.environ["MC_CAMPAIGN"] = f"{code}, {cpu().name}, {cpu().isa}"
    return os.environ["MC_CAMPAIGN"]


def _executed(notebook: Path, smoke: bool, campaign: str, parameters: Mapping | None) -> Path:
    """The executed copy; of a campaign that was cut off, the one that it has already made."""
    made = EXECUTED / f"{notebook.parent.name}_{notebook.name}"
    if campaign and noted(made).get("campaign") == campaign:
        return made
    start = time.time()
    made = execute(notebook, smoke, parameters)
    mark(made, campaign, (time.time() - start) / 60)
    return made


def _results(script: str, arguments: list[str]) -> None:
    if subprocess.run([sys.executable, ROOT / "results" / script, *arguments], check=False).returncode:
        raise RunnerError(f"results/{script} {' '.join(arguments)} failed, see above")


def _send() -> None:
    """Before a table changes: the server whose page it links to gets the runs that it will name."""
    from .tracking.sync import sync
    from .tracking.targets import TrackingError, resolve_target

    target = resolve_target()
    if target.is_local:
        return
    try:
        print(f"{sync()} experiment(s) of the local store sent to {target.description}")
    except TrackingError as error:
        then = "the notebooks are published, the tables are not: `make sync` and `make table` do the rest"
        raise RunnerError(f"{error}; {then}") from None


def run(
    homework: str, smoke: bool = False, publishing: bool = False, parameters: Mapping | None = None
) -> None:
    """Execute the notebooks of a homework and print their rows; only publishing changes a tracked file.

    Args:
        homework: as for `notebooks`.
        smoke: a handful of images, no tables.
        publishing: replace the committed notebooks by the executed ones, send the runs of the local store to
            the tracking server, if there is one, and regenerate the tables. Publishing all is a campaign: one
            that is cut off goes on where it was, and replaces none before all are executed.
        parameters: for every notebook, such as a model of one's own; its rows are in no table.

    Raises:
        RunnerError, AssetError: see `notebooks`, `execute` and `publish`; the server refuses the runs.
    """
    chosen = notebooks(homework)
    for notebook in chosen:
        require_parameters(notebook, ["SMOKE", *(parameters or {})])
    campaign = _begin_campaign() if publishing and "all" in homework.split() else ""
    fetch_needed(chosen, publishing, smoke, parameters)
    start, executed, progress = time.time(), {}, Progress(chosen)
    try:
        for notebook in chosen:
            print(progress.before(notebook))
            executed[notebook] = _executed(notebook, smoke, campaign, parameters)
            print(f"executed copy: {executed[notebook].relative_to(ROOT)}")
    finally:  # not in between: the runs that follow would be of a changed commit
        if publishing and (not campaign or len(executed) == len(chosen)):
            publish(executed)
            if campaign:
                discard(executed.values())
    homeworks = list(dict.fromkeys(path.parent.name for path in chosen))
    if publishing:
        _send()
        _results("aggregate.py", ["--print", *homeworks])
    elif not (smoke or parameters):
        _results("show.py", homeworks)
    print(f"{len(chosen)} notebook(s) in {(time.time() - start) / 60:.1f} min")
