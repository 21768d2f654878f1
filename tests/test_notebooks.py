"""Every committed notebook: its form, and its whole run in smoke mode."""

import json
import os
import subprocess
from pathlib import Path

import nbformat
import pytest

from modelcompression import ROOT, runner

NOTEBOOKS = runner.notebooks()
NAMES = [str(path.relative_to(ROOT)) for path in NOTEBOOKS]
every = pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
ALSO_BY_NAME = sorted(ROOT.glob("hw*_*/*.ipynb"))  # those that run for hours, too
every_form = pytest.mark.parametrize(
    "path", ALSO_BY_NAME, ids=[str(p.relative_to(ROOT)) for p in ALSO_BY_NAME]
)


def cells(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def tagged(path: Path, tag: str) -> list[nbformat.NotebookNode]:
    return [c for c in nbformat.read(path, as_version=4).cells if tag in c.metadata.get("tags", [])]


def is_new(path: Path) -> bool:
    """Whether a notebook is not under version control yet; False where there is no version control."""
    command = ["git", "ls-files", "--others", "--", str(path)]
    return bool(subprocess.run(command, cwd=ROOT, capture_output=True, check=False).stdout)


@every_form
def test_cells_are_short_and_introduced_by_prose(path: Path) -> None:
    code = sorted(cell.source.count("\n") + 1 for cell in cells(path, "code"))
    assert code[-1] <= 25
    assert code[len(code) // 2] <= 8
    assert len(cells(path, "markdown")) >= len(code) / 3


@every_form
def test_badge_and_bootstrap_name_the_one_repository(path: Path) -> None:
    (first,) = tagged(path, "badge")
    assert runner.badge(path) in first.source
    assert "*По-русски:" in first.source
    (install,) = tagged(path, "bootstrap")
    assert install.source == runner.bootstrap()


@every_form
def test_parameters_are_capitals_in_one_tagged_cell(path: Path) -> None:
    (parameters,) = tagged(path, "parameters")
    names = [line.split(" = ")[0] for line in parameters.source.splitlines()]
    assert names and all(name.isupper() for name in names)
    assert all("# @param" in line for line in parameters.source.splitlines())


@every
def test_committed_outputs_are_a_whole_clean_run(path: Path) -> None:
    code = cells(path, "code")
    if is_new(path) and not any(cell.execution_count for cell in code):
        pytest.skip(f"not committed yet, and before that: make publish HW={path.parent.name}")
    assert path.stat().st_size <= runner.PUBLISHED_BYTES
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    text = json.dumps(outputs)
    assert str(Path.home()) not in text and "DEMO PHOTOS" not in text


@every
def test_smoke_run(path: Path, smoke_run) -> None:
    found = smoke_run(path)
    assert all(cell.execution_count for cell in found.document.cells if cell.cell_type == "code")
    assert len(found.rows) and (found.rows["tags.smoke"] == "true").all()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("1 / 0", r"broken\.ipynb failed in cell 1: ZeroDivisionError"),
        (
            "import os; os.kill(os.getpid(), 9)",
            r"process that ran hw9_test/broken\.ipynb was killed.*run it again",
        ),
    ],
)
def test_a_failing_cell_is_named(source: str, says: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "EXECUTED", tmp_path / "executed")
    broken = tmp_path / "hw9_test" / "broken.ipynb"
    broken.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), broken)
    with pytest.raises(runner.RunnerError, match=says):
        runner.execute(broken)
    assert (tmp_path / "executed" / "hw9_test_broken.ipynb").exists()


def test_an_executed_copy_that_cannot_be_written_is_one_clear_error(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runner, "EXECUTED", tmp_path)
    (tmp_path / "smoke").mkdir()
    folder = tmp_path / "smoke" / f"{NOTEBOOKS[0].parent.name}_{NOTEBOOKS[0].name}"
    folder.mkdir()
    with pytest.raises(runner.RunnerError, match=r"was interrupted: .*; run it again"):
        runner.execute(NOTEBOOKS[0], smoke=True)


def test_an_unknown_homework_lists_the_known_ones() -> None:
    with pytest.raises(runner.RunnerError, match="hw1_baseline"):
        runner.notebooks("hw7_magic")


def test_one_notebook_of_a_homework_can_be_chosen() -> None:
    found = [path.name for path in runner.notebooks("hw5_export")]
    assert {"export.ipynb", "fastest.ipynb"} <= set(found)
    assert [path.name for path in runner.notebooks("hw5_export/fastest")] == ["fastest.ipynb"]


def test_publishing_cleans_what_only_the_run_needs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    code = nbformat.v4.new_code_cell("x")
    code.metadata = {"papermill": {"duration": 3}, "tags": []}
    code.outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="10%|█ | 1/10\r100%|██| 10/10"),
        nbformat.v4.new_output("stream", name="stderr", text="\r          "),
        nbformat.v4.new_output("stream", name="stdout", text="1 of 2\r2 of 2\nke"),
        nbformat.v4.new_output("stream", name="stdout", text="pt\n"),
    ]
    injected = nbformat.v4.new_code_cell("SMOKE = True")
    injected.metadata = {"tags": ["injected-parameters"]}
    executed, target = tmp_path / "executed.ipynb", tmp_path / "hw9_test" / "nb.ipynb"
    target.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[injected, code]), executed)
    runner.publish(executed, target)
    (only,) = nbformat.read(target, as_version=4).cells
    assert only.metadata == {} and [o.text for o in only.outputs] == ["2 of 2\nkept\n"]
    assert os.listdir(target.parent) == ["nb.ipynb"]


def test_a_notebook_over_the_cap_is_not_published(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    code = nbformat.v4.new_code_cell("x")
    code.outputs = [nbformat.v4.new_output("stream", name="stdout", text="x" * runner.PUBLISHED_BYTES)]
    nbformat.write(nbformat.v4.new_notebook(cells=[code]), tmp_path / "executed.ipynb")
    target = tmp_path / "nb.ipynb"
    target.write_text("before")
    with pytest.raises(runner.RunnerError, match="fewer or smaller"):
        runner.publish(tmp_path / "executed.ipynb", target)
    assert target.read_text() == "before"


def test_notebooks_are_published_after_the_last_run_even_if_that_fails(monkeypatch) -> None:
    first, second = (runner.ROOT / "hw5_export" / f"{name}.ipynb" for name in ("export", "fastest"))
    done = []

    def execute(notebook: Path, smoke: bool) -> Path:
        done.append(f"run {notebook.stem}")
        if notebook == second:
            raise runner.RunnerError("a cell failed")
        return notebook

    monkeypatch.setattr(runner, "notebooks", lambda homework: [first, second])
    monkeypatch.setattr(runner, "_fetch_assets", lambda needed: None)
    monkeypatch.setattr(runner, "execute", execute)
    monkeypatch.setattr(runner, "publish", lambda copy, notebook: done.append(f"publish {notebook.stem}"))
    with pytest.raises(runner.RunnerError, match="a cell failed"):
        runner.run("hw5_export", publishing=True)
    assert done == ["run export", "run fastest", "publish export"]
