"""results/aggregate.py --check: numbers that do not belong together are refused, each kind by a line."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from modelcompression import ROOT, runner

sys.path.insert(0, str(ROOT / "results"))

from test_aggregate import EMPTY, FIRM, INTEL, METRICS, published, run

import aggregate
from aggregate import CAPTIONS, check, regenerate
from gallery import signed
from rows import BASELINE, CSV, FIGURES, FIRST_TABLE, GALLERY, ResultsError, headline, read_rows

SENTENCE = (
    "{name}: mAP50-95 {map:.4f} (−1.23 [−3.10, +0.54] %), 48.7 → {ms:.1f} ms (1.90 [1.87, 1.93]×), 6.20 MB"
)
TABLE = """<table><thead><tr><th></th><th>mAP50-95</th><th>ms</th><th>MB</th></tr>
<tr><th>Experiment</th><th></th><th></th><th></th></tr></thead>
<tbody><tr><th>{name}</th><td>{map:.4f}</td><td>48.7 → {ms:.1f}</td><td>6.20</td></tr></tbody></table>"""


def git(root: Path, *words: str) -> str:
    who = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", *who, *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def notebook(root: Path, name: str = "ONNX", ms: float = METRICS["latency_ms"], map_: float = 0.3951) -> None:
    """hw5_export's, with a row printed by ``measure`` and in the table."""
    said = {
        "output_type": "stream",
        "name": "stdout",
        "text": ["Original model: mAP50-95 0.9, 1.0 ms, 6.2 MB\n"],
    }
    said["text"].append(SENTENCE.format(name=name, map=map_, ms=ms) + "\n")
    table = {"output_type": "execute_result", "data": {"text/html": TABLE.format(name=name, map=map_, ms=ms)}}
    cells = [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": [said, table]}]
    (root / "hw5_export").mkdir(exist_ok=True)
    (root / "hw5_export/export.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf8")


@pytest.fixture(autouse=True)
def plain_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that only name the experiments: they are drawn at each step."""

    def drawn(rows: pd.DataFrame) -> dict[str, str]:
        names = "".join(f"<text>{name}</text>" for name in rows["experiment"])
        return {path: f"<svg>{names}</svg>" for path in FIGURES.values()}

    monkeypatch.setattr(aggregate, "figures", drawn)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a commit."""
    (tmp_path / "results/figures").mkdir(parents=True)
    (tmp_path / FIRST_TABLE).write_bytes((ROOT / FIRST_TABLE).read_bytes())
    for name in CAPTIONS:
        (tmp_path / name).write_text(EMPTY, encoding="utf8")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "all")
    return tmp_path


@pytest.fixture
def campaign(root: Path) -> Callable[..., pd.DataFrame]:
    """Publish a table of one campaign: ONNX, with these changes; returns its rows."""

    def publish(**changes: object) -> pd.DataFrame:
        commit = git(root, "rev-parse", "--short=12", "HEAD")
        firm = FIRM | {"confirmed_git_commit": commit}
        tags = {"git_commit": commit, "campaign": f"{commit}, {INTEL}, AMX"}
        row = run("ONNX", **(tags | firm | changes))
        published(root, row["tags.campaign"])
        rows = regenerate(root, pd.DataFrame([row]))
        notebook(root)
        picture(root, rows)
        return rows

    return publish


def picture(root: Path, rows: pd.DataFrame) -> None:
    path = root / GALLERY
    Image.new("RGB", (8, 8)).save(path)
    path.write_bytes(signed(path.read_bytes(), list(rows["run_id"])))
    regenerate(root, pd.DataFrame())  # the page shows the picture


def test_a_table_without_contradictions_passes(root, campaign) -> None:
    campaign()
    check(root)
    assert len(headline(read_rows(root))) == 1


def test_a_commit_that_is_not_in_the_history_is_refused(root, campaign) -> None:
    gone = "0123456789ab"
    campaign(git_commit=gone, campaign=f"{gone}, {INTEL}, AMX")
    with pytest.raises(ResultsError, match=f"ONNX on .* was measured by {gone}, which is not in the history"):
        check(root)


def test_a_history_that_is_not_there_or_anothers_is_not_asked(root, campaign, monkeypatch) -> None:
    campaign(git_commit="0" * 12, campaign=f"{'0' * 12}, {INTEL}, AMX")
    shutil.move(root / ".git", root.parent / ".git")  # as of a copy inside another repository
    check(root)
    monkeypatch.setenv("PATH", str(root))
    check(root)


def test_a_commit_with_changes_is_refused(root, campaign) -> None:
    dirty = git(root, "rev-parse", "--short=12", "HEAD") + "-dirty"
    campaign(git_commit=dirty, campaign=f"{dirty}, {INTEL}, AMX")
    with pytest.raises(ResultsError, match="was measured with changes after"):
        check(root)
    campaign(minute=5, confirmed_git_commit=dirty)
    with pytest.raises(ResultsError, match="was measured with changes after"):
        check(root)


@pytest.mark.parametrize("what", ["another machine", "another commit"])
def test_two_machines_or_commits_in_the_main_table_are_refused(root, campaign, what) -> None:
    campaign()
    text = (root / CSV).read_text(encoding="utf8")
    head, row = text.splitlines()
    other = row.replace("ONNX,", "OpenVINO,", 1)
    if what == "another machine":
        other = other.replace(f",{INTEL},AMX,", ",Another CPU,AMX,")
    else:
        git(root, "commit", "--quiet", "--allow-empty", "--message", "more")
        commits = (git(root, "rev-parse", "--short=12", name) for name in ("HEAD~", "HEAD"))
        other = other.replace(f",{next(commits)},", f",{next(commits)},", 1)
    (root / CSV).write_text("\n".join([head, row, row.replace("ONNX,", "Third,", 1), other, ""]))
    regenerate(root, pd.DataFrame())
    notebook(root)
    with pytest.raises(ResultsError, match=r"not of its campaign|prints no row") as error:
        check(root)
    shown = headline(read_rows(root))
    assert len(shown[["cpu"]].drop_duplicates()) == 1, "another CPU's row under the main table's heading"
    assert what == "another machine" or "not of its campaign" in str(error.value)


@pytest.mark.parametrize("wrong", [{"map_": 0.3953}, {"ms": 26.3}, {"name": "Another"}])
def test_a_row_that_a_notebook_prints_otherwise_is_refused(root, campaign, wrong) -> None:
    campaign()
    notebook(root, **wrong)
    with pytest.raises(ResultsError, match=r"export\.ipynb prints (for|no row of) ONNX.*make publish HW=all"):
        check(root)


def test_a_table_that_a_notebook_prints_otherwise_is_refused(root, campaign) -> None:
    campaign()
    path = root / "hw5_export/export.ipynb"
    path.write_text(path.read_text().replace("<td>0.3951</td>", "<td>0.3851</td>"))
    with pytest.raises(ResultsError, match=r"prints for ONNX map50_95 0\.3851, results\.csv has 0\.3951"):
        check(root)


def test_a_row_that_another_notebook_shows_with_older_numbers_is_refused(root, campaign) -> None:
    campaign()
    own = root / "hw5_export/export.ipynb"
    shown = own.read_text().replace("→ 25.6", "→ 99.9")
    other = own.with_name("smaller_network.ipynb")
    other.write_text(shown)
    check(root)  # another time of the same model
    other.write_text(shown.replace("<td>0.3951</td>", "<td>0.3953</td>"))
    with pytest.raises(ResultsError, match=r"smaller_network\.ipynb prints for ONNX map50_95 0\.3953"):
        check(root)


def test_figures_of_rows_that_do_not_exist_are_refused(root, campaign) -> None:
    rows = campaign()
    picture(root, rows.assign(run_id="gone"))
    with pytest.raises(ResultsError, match=r"gallery\.jpg shows runs that are not in the tables"):
        check(root)
    picture(root, rows)
    check(root)
    path = root / FIGURES["forest"]
    path.write_text(path.read_text(encoding="utf8").replace(">ONNX<", ">Nowhere<"), encoding="utf8")
    with pytest.raises(ResultsError, match=r"forest\.svg differs"):
        check(root)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"baseline_latency_ms": None}, "has latency_ms without baseline_latency_ms"),
        ({"baseline_latency_ms": 99.0}, "99.0 → 25.6 ms is not 1.90×"),
        ({"pipeline_ms": 30.0}, "has pipeline_ms without baseline_pipeline_ms"),
    ],
)
def test_milliseconds_without_their_own_baseline_are_refused_in_any_row(root, change, says) -> None:
    regenerate(root, pd.DataFrame([run("ONNX", **change)]))
    with pytest.raises(ResultsError, match=says):
        check(root)


def test_a_run_outside_the_campaign_displaces_nothing_and_stays_out_of_the_main_table(root, campaign) -> None:
    campaign()
    later = [run("ONNX", minute=9, map50=0.1), run("Tried later", minute=9)]
    regenerate(root, pd.DataFrame(later))
    check(root)
    rows = read_rows(root)
    assert rows.set_index("experiment")["map50"]["ONNX"] == METRICS["map50"]
    assert "Tried later" in set(rows["experiment"]) - set(headline(rows)["experiment"])
    published(root, "later, CPU, AMX")
    regenerate(root, pd.DataFrame([run("ONNX", minute=3, campaign="later, CPU, AMX", map50=0.2)]))
    assert read_rows(root).set_index("experiment")["map50"]["ONNX"] == 0.2, "a later campaign does"


def test_rows_from_before_campaigns_are_not_held_against_a_table(root) -> None:
    regenerate(root, pd.DataFrame([run(BASELINE), run("ONNX", git_commit="gone-dirty")]))
    check(root)


def test_all_notebooks_are_published_from_a_commit_only(monkeypatch) -> None:
    monkeypatch.delenv("MC_CAMPAIGN", raising=False)
    monkeypatch.setattr(runner, "commit", lambda: "4a33fa4-dirty")
    with pytest.raises(runner.RunnerError, match="commit your changes first"):
        runner.run("all", publishing=True)
