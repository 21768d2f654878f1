"""Every committed notebook: its form, and its whole run in smoke mode."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import conftest
import nbformat
import pandas as pd
import pytest

from modelcompression import ROOT, campaign, machine, runner

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


def only_imports(source: str) -> bool:
    """Whether a cell prepares what others use, and nothing else."""
    python = re.sub(r"(?m)^(\s*)!", r"\1...  # ", source)  # a line for the shell
    kinds = {type(node) for node in ast.parse(python).body}
    imports = {ast.Import, ast.ImportFrom}
    return bool(kinds & imports) and kinds <= imports | {ast.Expr}


def is_new(path: Path) -> bool:
    """Whether a notebook is not under version control yet; False where there is no version control."""
    command = ["git", "ls-files", "--others", "--", str(path)]
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        return False
    return bool(subprocess.run(command, cwd=ROOT, capture_output=True, check=False).stdout)


@every_form
def test_cells_are_short_and_introduced_by_prose(path: Path) -> None:
    code = cells(path, "code")
    assert max(cell.source.count("\n") + 1 for cell in code) <= 25
    read = [c.source.splitlines() for c in code if not c.metadata.get("tags") and not only_imports(c.source)]
    lines = sorted(sum(bool(line.strip()) for line in source) for source in read)
    assert lines[(len(lines) - 1) // 2] <= 9, "half of the cells that carry the idea are short"
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
    evaluates = path in NOTEBOOKS  # the long ones only make files
    assert {"SMOKE", "THREADS", "LOGIN"} | ({"N_IMAGES"} if evaluates else set()) <= set(names)
    assert names and all(name.isupper() for name in names)
    assert all("# @param" in line for line in parameters.source.splitlines())


@every_form
def test_committed_outputs_are_a_whole_clean_run(path: Path) -> None:
    code = cells(path, "code")
    if path not in NOTEBOOKS and not any(cell.outputs for cell in code):
        pytest.skip("it says that its outputs are empty until one runs it")
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


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["options", "accuracy_control"])
def test_smoke_run_of_what_only_its_name_chooses(name: str, smoke_run) -> None:
    """The others have tests of their own."""
    found = smoke_run(ROOT / "hw2_quantization" / f"{name}.ipynb")
    assert all(cell.execution_count for cell in found.document.cells if cell.cell_type == "code")


def test_a_run_shares_the_process_of_its_homeworks_own_tests(tmp_path: Path, monkeypatch) -> None:
    """Or two processes would execute the same notebook."""
    monkeypatch.setattr(conftest, "ROOT", tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_hw9_test.py").write_text("smoke_run(ROOT / 'hw9_test/asked.ipynb')")
    scope = partial(conftest.RunsAndFiles._split_scope, None)
    asked, other, lonely = (
        f"tests/test_notebooks.py::test_smoke_run[{name}.ipynb]"
        for name in ("hw9_test/asked", "hw9_test/other", "hw8_test/lonely")
    )
    assert scope(asked) == scope("tests/test_hw9_test.py::test_rows[1]") == "tests/test_hw9_test.py"
    assert scope(other) == other and scope(lonely) == lonely
    assert scope("tests/test_notebooks.py::test_x") == "tests/test_notebooks.py"


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


@pytest.fixture
def draft(tmp_path: Path, monkeypatch) -> Callable[..., Path]:
    """Write a notebook of these code cells, each with its tag, into a homework of a scratch repository."""
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "EXECUTED", tmp_path / "executed")
    (tmp_path / "hw9_test").mkdir()

    def write(*cells: tuple[str, str]) -> Path:
        document = nbformat.v4.new_notebook()
        for tag, source in cells:
            document.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": [tag] if tag else []}))
        nbformat.write(document, tmp_path / "hw9_test" / "draft.ipynb")
        return tmp_path / "hw9_test" / "draft.ipynb"

    return write


MARK = "open('ran', 'w').close()"
LOST = {
    "no tag": ([("", "SMOKE = False"), ("", MARK)], "has 0 code cells tagged"),
    "another tag": ([("params", "SMOKE = False"), ("", MARK)], "has 0 code cells tagged"),
    "two": (
        [("parameters", "SMOKE = False"), ("parameters", "SMOKE = False"), ("", MARK)],
        "has 2 code cells",
    ),
    "not set": ([("parameters", "THREADS = 2"), ("", MARK)], "does not set SMOKE"),
    "only read": ([("parameters", "print(SMOKE)"), ("", MARK)], "does not set SMOKE"),
    "a comment": ([("parameters", "# SMOKE = False"), ("", MARK)], "does not set SMOKE"),
    "no Python": ([("parameters", "SMOKE = "), ("", MARK)], "is no Python"),
}


@pytest.mark.parametrize("kind", LOST)
def test_a_smoke_run_is_never_a_full_one(kind: str, draft) -> None:
    cells, says = LOST[kind]
    notebook = draft(*cells)
    with pytest.raises(runner.RunnerError, match=rf"hw9_test/draft\.ipynb:? .*{says}") as error:
        runner.execute(notebook, smoke=True)
    assert "\n" not in str(error.value)
    assert os.listdir(notebook.parent) == [notebook.name]
    with pytest.raises(runner.RunnerError, match=says):  # nor does a full one start
        runner.run("hw9_test")


def test_a_notebook_that_ignores_its_parameter_is_no_smoke_run(draft) -> None:
    deaf = "from modelcompression.homework import Homework\nHomework('hw9_test', smoke=False, threads=1)"
    notebook = draft(("parameters", "SMOKE = False"), ("", deaf))
    with pytest.raises(runner.RunnerError, match="ParameterError: this is a smoke run"):
        runner.execute(notebook, smoke=True)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", "<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> theirs\n", '{"cells": [', '{"cells": 1}',
     '{"cells": [], "nbformat": 99, "nbformat_minor": 0, "metadata": {}}',
     '{"cells": [{"cell_type": "code"}], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}'],
)  # fmt: skip
def test_a_file_that_is_no_notebook_is_one_clear_error(text: str, draft) -> None:
    notebook = draft()
    notebook.write_text(text)
    says = r"hw9_test/draft\.ipynb is no readable notebook"
    for call in (lambda: runner.execute(notebook), lambda: runner.run("hw9_test", smoke=True)):
        with pytest.raises(runner.RunnerError, match=says) as error:
            call()
        assert "\n" not in str(error.value)
    notebook.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(runner.RunnerError, match="no readable notebook"):
        runner.execute(notebook)


@pytest.mark.parametrize("program", ["/bin/false", "/no/such/python"])
def test_a_foreign_kernelspec_is_not_used(program: str, draft, tmp_path: Path, monkeypatch) -> None:
    """Another environment's, or one that is gone: the notebook runs on the Python that the runner has."""
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = [program, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    copy = runner.execute(draft(("", "import sys; print(sys.executable)")))
    (cell,) = nbformat.read(copy, as_version=4).cells
    assert cell.outputs[0].text.strip() == sys.executable


def test_a_process_that_does_not_start_is_not_put_down_to_memory(draft, monkeypatch) -> None:
    monkeypatch.setattr(runner, "get_kernel_dict", lambda: {"argv": ["/bin/false"], "display_name": "x"})
    with pytest.raises(runner.RunnerError, match="no process could be started") as error:
        runner.execute(draft(("", "1")))
    assert "memory" not in str(error.value)


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
    several = runner.notebooks("hw5_export/fastest hw5_export hw5_export/smaller_network")
    assert sorted(several[1:]) == sorted({*runner.notebooks("hw5_export"), several[-1]} - {several[0]})
    assert (several[0].stem, several[-1].stem) == ("fastest", "smaller_network")


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
    runner.publish({target: executed})
    (only,) = nbformat.read(target, as_version=4).cells
    assert only.metadata == {} and [o.text for o in only.outputs] == ["2 of 2\nkept\n"]
    assert os.listdir(target.parent) == ["nb.ipynb"]


def test_a_notebook_over_the_cap_is_not_published(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    code = nbformat.v4.new_code_cell("x")
    code.outputs = [nbformat.v4.new_output("stream", name="stdout", text="x" * runner.PUBLISHED_BYTES)]
    nbformat.write(nbformat.v4.new_notebook(cells=[code]), tmp_path / "executed.ipynb")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "small.ipynb")
    first, target = tmp_path / "first.ipynb", tmp_path / "nb.ipynb"
    code.outputs = []
    nbformat.write(nbformat.v4.new_notebook(metadata={"here": "before"}), first)
    nbformat.write(nbformat.v4.new_notebook(cells=[code], metadata={"here": "before"}), target)
    with pytest.raises(runner.RunnerError, match="fewer or smaller"):
        runner.publish({first: tmp_path / "small.ipynb", target: tmp_path / "executed.ipynb"})
    assert all(nbformat.read(path, as_version=4).metadata["here"] == "before" for path in (first, target))


def test_what_was_edited_while_it_ran_is_not_overwritten(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    target, executed = tmp_path / "nb.ipynb", tmp_path / "executed.ipynb"
    injected = nbformat.v4.new_code_cell("SMOKE = True", metadata={"tags": ["injected-parameters"]})
    cells = [nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_markdown_cell("Text.")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), target)
    nbformat.write(nbformat.v4.new_notebook(cells=[injected, *cells]), executed)
    runner.publish({target: executed})
    edited = [*cells, nbformat.v4.new_markdown_cell("A conclusion, written meanwhile.")]
    nbformat.write(nbformat.v4.new_notebook(cells=edited), target)
    before = target.read_bytes()
    with pytest.raises(runner.RunnerError, match=r"nb\.ipynb was edited while it ran: publish it again"):
        runner.publish({target: executed})
    assert target.read_bytes() == before


@pytest.fixture
def course(tmp_path: Path, monkeypatch) -> list[str]:
    """A repository of three notebooks; what was done to them. ``b`` fails while ``broken`` exists."""
    done: list[str] = []
    (tmp_path / "hw9_test").mkdir()
    for name in "abc":
        cell = nbformat.v4.new_code_cell("SMOKE = False", metadata={"tags": ["parameters"]})
        document = nbformat.v4.new_notebook(cells=[cell], metadata={"modelcompression": {"minutes": 2}})
        nbformat.write(document, tmp_path / "hw9_test" / f"{name}.ipynb")

    def execute(notebook: Path, smoke: bool, parameters: dict | None) -> Path:
        done.append(f"run {notebook.stem}")
        if notebook.stem == "b" and (tmp_path / "broken").exists():
            raise runner.RunnerError("a cell failed")
        (tmp_path / "executed").mkdir(exist_ok=True)
        return Path(shutil.copy(notebook, tmp_path / "executed" / f"hw9_test_{notebook.name}"))

    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "EXECUTED", tmp_path / "executed")
    monkeypatch.setattr(runner, "fetch_needed", lambda *_: None)
    monkeypatch.setattr(runner, "execute", execute)
    monkeypatch.setattr(runner, "publish", lambda copies: done.extend(f"publish {x.stem}" for x in copies))
    monkeypatch.setattr(runner, "_send", lambda: done.append("send"))
    monkeypatch.setattr(runner, "_results", lambda script, arguments: done.append(script))
    monkeypatch.setattr(runner, "commit", lambda: "c0ffee")
    monkeypatch.setenv("MC_CAMPAIGN", "")
    return done


def test_notebooks_are_published_after_the_last_run_even_if_that_fails(course, tmp_path) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(runner.RunnerError, match="a cell failed"):
        runner.run("hw9_test", publishing=True)
    assert course == ["run a", "run b", "publish a"]


def test_a_campaign_goes_on_where_it_was_cut_off_and_publishes_all_or_nothing(
    course, tmp_path, monkeypatch, capsys
) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(runner.RunnerError, match="a cell failed"):
        runner.run("all", publishing=True)
    (tmp_path / "broken").unlink()
    runner.run("all", publishing=True)
    published = ["publish a", "publish b", "publish c", "send", "aggregate.py"]
    assert course == ["run a", "run b", "run b", "run c", *published]
    course.clear()
    monkeypatch.setattr(runner, "commit", lambda: "another")
    runner.run("all", publishing=True)
    assert course == ["run a", "run b", "run c", *published]
    said = capsys.readouterr().out
    assert "[1 of 3] hw9_test/a, after 0 min, about 6 min to go" in said
    assert "[3 of 3] hw9_test/c, after 0 min, about 2 min to go" in said
    course.clear()
    runner.run("all", publishing=True)
    assert course == ["run a", "run b", "run c", *published], "a complete one measures again"


def test_a_notebook_executed_alone_is_of_no_campaign(tmp_path: Path) -> None:
    notebook = tmp_path / "any.ipynb"
    nbformat.write(nbformat.v4.new_notebook(metadata={"modelcompression": {"by_name_only": True}}), notebook)
    campaign.mark(notebook, "c0ffee, CPU, AMX", 2)
    assert campaign.noted(notebook) == {"by_name_only": True, "campaign": "c0ffee, CPU, AMX", "minutes": 2}
    campaign.mark(notebook, "", 3)
    assert campaign.noted(notebook) == {"by_name_only": True, "minutes": 3}


def test_what_was_executed_before_a_kill_says_nothing_about_the_speed(course, monkeypatch) -> None:
    chosen = runner.notebooks("all")
    now = iter([0, 0.1, 240])  # seconds: the first was there, the second took twice its minutes
    monkeypatch.setattr(campaign.time, "time", lambda: next(now))
    progress = campaign.Progress(chosen)
    said = [progress.before(notebook) for notebook in chosen]
    assert said[1].endswith("about 4 min to go") and said[2].endswith("after 4 min, about 4 min to go")


def test_a_campaign_knows_other_rows_of_its_cpu_from_itself_alone(tmp_path, monkeypatch) -> None:
    here, other = machine.cpu().isa, "another"
    old = "experiment,isa,threads,images,size_mb\nA,{0},2,281,1\nB,{0},2,281,2\nA,{1},2,281,3\n"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "results.csv").write_text(old.format(here, other))
    tags = {"tags.experiment": "A", "tags.isa": here, "tags.threads": "2", "metrics.images": 281.0}
    made = [("c1, CPU", 4.0), ("c2, CPU", 5.0), ("c2, CPU", 6.0), ("", 7.0)]
    runs = [tags | {"experiment": "A", "tags.campaign": name, "metrics.size_mb": mb} for name, mb in made]
    monkeypatch.setattr(campaign, "finished_runs", lambda: pd.DataFrame(runs))
    assert list(campaign.known_rows(tmp_path)["size_mb"]) == [1, 2, 3]
    monkeypatch.setenv("MC_CAMPAIGN", "c2, CPU")
    found = campaign.known_rows(tmp_path)
    assert found.values.tolist() == [["A", other, 2, 281, 3], ["A", here, 2, 281, 6]]
    monkeypatch.setattr(campaign, "finished_runs", lambda: pd.DataFrame(columns=["run_id", "experiment"]))
    assert list(campaign.known_rows(tmp_path)["size_mb"]) == [3]


def test_changes_that_are_not_committed_are_no_campaign(course, monkeypatch) -> None:
    monkeypatch.setattr(runner, "commit", lambda: "c0ffee-dirty")
    with pytest.raises(runner.RunnerError, match="commit your changes first"):
        runner.run("all", publishing=True)
    assert course == []


def test_only_publishing_changes_a_table(course) -> None:
    runner.run("hw9_test/a")
    runner.run("hw9_test/a", smoke=True)
    runner.run("hw9_test/a", publishing=True)
    assert course == ["run a", "show.py", "run a", "run a", "publish a", "send", "aggregate.py"]
