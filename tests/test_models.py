"""models/: cards are written from runs, and --check notices every contradiction."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from modelcompression import ROOT, cards
from modelcompression.cards import ModelMissing, model_file
from modelcompression.fetch import sha256
from modelcompression.packed import checkpoint
from modelcompression.packed.tensors import PackedCheckpointError
from modelcompression.tracking.history import finished_runs
from modelcompression.tracking.store import RunRecord
from modelcompression.tracking.tracker import Tracker

sys.path.insert(0, str(ROOT / "results"))

import models
from models import (
    card_files,
    check_models,
    confirm_cards,
    confirmations,
    measured,
    of_run,
    record_of,
    take,
)
from rows import CSV, ResultsError, read_rows

RECORD = {"commit": "0123abc", "device": "a GPU", "photographs": 1187, "steps": 9000, "minutes": 9.5}


def row(rows: pd.DataFrame, file: Path, run_id: str = "f" * 32, **changes: object) -> pd.DataFrame:
    """A row of results.csv as if it had been measured with this file."""
    found = rows[rows["map50_95_delta"].notna()].iloc[[0]].copy()
    told = {"run_id": run_id, "size_mb": file.stat().st_size / 2**20, **changes}
    return found.assign(**told)


@pytest.fixture
def root(tmp_path: Path, packed_int8: Path) -> Path:
    """A repository with one model, measured twice."""
    rows = read_rows(ROOT)
    own = pd.concat(
        [
            row(rows, packed_int8, experiment="Tiny", speedup=3.0),
            row(rows, packed_int8, "e" * 32, experiment="Tiny, rectangles", speedup=5.0),
            row(rows, packed_int8, "d" * 32, experiment="Tiny, rectangles, 576 px", speedup=6.0),
        ]
    )
    (tmp_path / "models").mkdir()
    save(tmp_path, pd.concat([rows, own]))
    named = own["run_id"].tolist()
    take(tmp_path, "tiny", packed_int8, RECORD, own[own["run_id"].isin(named)])
    return tmp_path


def save(root: Path, rows: pd.DataFrame) -> None:
    (root / CSV).parent.mkdir(exist_ok=True)
    rows.to_csv(root / CSV, index=False)


def test_a_card_says_what_the_file_is_and_what_was_measured(root: Path, packed_int8: Path) -> None:
    check_models(root, read_rows(root))
    card = json.loads((root / "models/tiny.json").read_text())
    assert card["sha256"] == sha256(packed_int8) == sha256(root / "models/tiny.mcpk")
    assert card["size"] == packed_int8.stat().st_size and card["licence"] == "AGPL-3.0"
    assert card["made"] == RECORD and "INT8 graph" in card["what"]
    by_speed = ["Tiny, rectangles, 576 px", "Tiny", "Tiny, rectangles"]
    assert [found["experiment"] for found in card["rows"]] == by_speed, "last the fastest of the usual size"
    page = (root / "models/tiny.md").read_text(encoding="utf8")
    assert card["sha256"] in page and "minutes: 9.5" in page and "5.00 [" in page
    overview = (root / "models/README.md").read_text(encoding="utf8")
    assert "[tiny](tiny.md)" in overview and "of tiny on rectangles, of others on squares" in overview


def test_confirmed_numbers_take_the_place_of_the_others(root: Path) -> None:
    confirmed = {"map50_95_delta": -0.0123, "map50_95_delta_lo": -0.02, "map50_95_delta_hi": -0.005}
    rows = read_rows(root).assign(
        **{f"confirmed_{name}": float("nan") for name in (*confirmed, "loss_bound")}
    )
    here = rows["experiment"] == "Tiny"
    for name, value in (confirmed | {"loss_bound": 0.0187, "images": 1000}).items():
        rows.loc[here, f"confirmed_{name}"] = value
    texts = card_files(root, rows)
    assert "| Tiny | −1.2 [−2.0, −0.5] | 1.9 | 3.00 [" in texts["models/tiny.md"]
    assert "| 1000 |" in texts["models/tiny.md"]
    rows = rows[~rows["experiment"].isin(["Tiny, rectangles", "Tiny, rectangles, 576 px"])]
    overview = card_files(root, rows)["models/README.md"]
    assert "| −1.2 [−2.0, −0.5] | 1.9 | 1000 | 3.00 [" in overview and "OpenVINO, on a square." in overview
    with pytest.raises(ResultsError, match="differs"):
        check_models(root, rows)


def test_what_confirm_found_out_about_a_file_is_on_its_card(root: Path, tmp_path: Path) -> None:
    numbers = {"map50_95_delta": -0.021, "map50_95_delta_lo": -0.031, "map50_95_delta_hi": -0.012}
    numbers |= {"loss_bound": 0.0297, "images": 1000.0}
    numbers |= {"speedup": 4.4, "speedup_lo": 4.3, "speedup_hi": 4.5}
    entry = {"model": "tiny.mcpk", "cpu": "A CPU", "git_commit": "0123abc"}
    entry |= {f"confirmed_{name}": value for name, value in numbers.items()}
    path = tmp_path / "found.json"
    path.write_text(json.dumps([entry]))
    confirm_cards(root, confirmations(path))
    check_models(root, read_rows(root))
    page = (root / "models/tiny.md").read_text(encoding="utf8")
    assert "Confirmed on 1000 photographs: mAP50-95 −2.1 [−3.1, −1.2] %, a loss of at most 3.0 %" in page
    overview = (root / "models/README.md").read_text("utf8")
    assert "| −2.1 [−3.1, −1.2] | 3.0 | 1000 | 4.40 [4.30, 4.50] |" in overview
    for changed, message in (({"model": "huge.mcpk"}, "holds no huge"), ({"sha256": "0"}, "another file")):
        path.write_text(json.dumps([entry | changed]))
        with pytest.raises(ResultsError, match=message):
            confirm_cards(root, confirmations(path))
    path.write_text("[{}]")
    with pytest.raises(ResultsError, match="was not written by confirm"):
        confirmations(path)


def test_every_contradiction_is_noticed(root: Path) -> None:
    rows = read_rows(root)
    faster = rows.assign(speedup=rows["speedup"].where(rows["experiment"] != "Tiny", 9.0))
    heavier = rows.assign(size_mb=rows["size_mb"].where(rows["experiment"] != "Tiny", 1.0))
    for changed in (faster, heavier, rows[rows["experiment"] != "Tiny"]):
        with pytest.raises(ResultsError, match=r"differs|has 1\.0 MB"):
            check_models(root, changed)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("tiny.json", "9000", "9001", "tiny.md differs"),
        ("tiny.json", "AGPL-3.0", "MIT", "not the card"),
        ("tiny.json", '"sha256": "', '"sha256": "0', "not the card"),
        ("tiny.json", "{", "", "damaged"),
        ("tiny.json", '"speedup": 5.0', '"speedup": 7.0', "differs"),
        ("tiny.md", "minutes: 9.5", "minutes: 1", "tiny.md differs"),
        ("README.md", "[tiny]", "[huge]", "README.md differs"),
    ],
)
def test_no_card_is_edited_by_hand(root: Path, name: str, old: str, new: str, message: str) -> None:
    path = root / "models" / name
    text = path.read_text(encoding="utf8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf8")
    with pytest.raises(ResultsError, match=message):
        check_models(root, read_rows(root))


def test_a_file_without_a_card_and_a_card_without_a_file(root: Path) -> None:
    file = root / "models/tiny.mcpk"
    (root / "models/other.mcpk").write_bytes(file.read_bytes())
    with pytest.raises(ResultsError, match=r"other\.mcpk has no card"):
        check_models(root, read_rows(root))
    (root / "models/other.mcpk").unlink()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ResultsError, match=r"not the card of tiny\.mcpk"):
        check_models(root, read_rows(root))
    file.unlink()
    with pytest.raises(ResultsError, match="has no file"):
        check_models(root, read_rows(root))


def test_the_file_of_a_run_and_its_rows_are_found(packed_int8: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MC_STORE", str(tmp_path))
    digest = hashlib.sha256(packed_int8.read_bytes()).hexdigest()
    tracker = Tracker("hw9_test")
    tags = {"homework": "hw9_test", "git_commit": "0123abc"}
    for name, files, logged in (("Packed", (packed_int8,), f"{packed_int8.name} {digest}"), ("Bare", (), "")):
        tracker.log(RunRecord(name, {}, {"sha256": logged} if logged else {}, tags, files))
    tracker.finish()
    runs = finished_runs()
    file, made = of_run("Packed", runs, tmp_path)
    assert file.read_bytes() == packed_int8.read_bytes()
    assert made["commit"] == "0123abc" and made["run"] in set(runs["run_id"])
    rows = row(read_rows(ROOT), packed_int8, run_id=made["run"])
    assert len(measured(rows, runs, digest, [])) == 1
    assert len(measured(rows, runs, "0" * 64, [])) == 0
    for name, message in (("Bare", "holds 0 packed"), ("None", "has no run of 'None'")):
        with pytest.raises(ResultsError, match=message):
            of_run(name, runs, tmp_path)


def test_a_record_has_to_be_complete(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(RECORD))
    assert record_of(path) == RECORD
    for text, message in (("{}", "does not say commit, device"), ("[1", "no record"), (None, "no record")):
        path.unlink(missing_ok=True)
        if text:
            path.write_text(text)
        with pytest.raises(ResultsError, match=message):
            record_of(path)


def test_what_is_no_model_is_not_taken(root: Path, packed_int8: Path) -> None:
    before = {path: path.read_bytes() for path in (root / "models").iterdir()}
    nothing = read_rows(root)[:0]
    with pytest.raises(PackedCheckpointError):
        take(root, "other", root / CSV, RECORD, nothing)
    with pytest.raises(ResultsError, match="letters, digits"):
        take(root, "../other", packed_int8, RECORD, nothing)
    assert before == {path: path.read_bytes() for path in (root / "models").iterdir()}


def test_models_of_the_repository_agree_with_the_results() -> None:
    check_models(ROOT, read_rows(ROOT))


def test_a_model_is_found_by_its_name(root: Path, eager, monkeypatch) -> None:
    monkeypatch.setattr(cards, "ROOT", root)
    assert model_file("tiny") == model_file() == root / "models/tiny.mcpk"
    assert model_file(root / "models/tiny.mcpk") == root / "models/tiny.mcpk"
    with pytest.raises(ModelMissing, match=r"or the name of one in models/ \(tiny\)"):
        model_file("huge")
    half = checkpoint.save(root / "half.mcpk", eager.model, {})
    take(root, "half", half, RECORD, read_rows(root)[:0])
    assert model_file() == root / "models/tiny.mcpk", "measured to be faster"
    card = json.loads((root / "models/half.json").read_text())
    card["confirmed"] = {"confirmed_speedup": 1.1}
    (root / "models/half.json").write_text(json.dumps(card))
    assert model_file() == root / "models/half.mcpk", "the only one that is confirmed"
    (root / "models/tiny.json").write_text("{}")
    with pytest.raises(ModelMissing, match="damaged"):
        model_file()


def test_the_command_lists_models_and_notices_a_changed_one(root: Path, monkeypatch) -> None:
    from click.testing import CliRunner

    from modelcompression.cli import cli

    monkeypatch.setattr(cards, "ROOT", root)
    done = CliRunner().invoke(cli, ["models"])
    assert done.exit_code == 0 and done.output.startswith("tiny ") and "INT8 graph" in done.output
    (root / "models/tiny.mcpk").write_bytes(b"another")
    done = CliRunner().invoke(cli, ["models"])
    assert done.exit_code == 1 and "not the original file" in done.output


def test_a_release_attaches_every_model_with_its_sha256(root: Path) -> None:
    (root / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    subprocess.run(["make", "release"], cwd=root, check=True, capture_output=True)
    sums = dict(
        reversed(line.split("  ")) for line in (root / "build/release/SHA256SUMS").read_text().splitlines()
    )
    assert sums["tiny.mcpk"] == sha256(root / "models/tiny.mcpk") and set(sums) == {"tiny.mcpk", "tiny.json"}


def test_the_command_line_wants_all_or_nothing(capsys) -> None:
    for words in (["small"], ["--run", "x"], ["small", "--file", "x"]):
        with pytest.raises(SystemExit):
            models.main(words)
    assert "give a name with" in capsys.readouterr().err
