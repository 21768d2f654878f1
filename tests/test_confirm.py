"""``modelcompression confirm``: what it takes, finds, writes, refuses, and where it goes on after a kill."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import THREADS

from modelcompression import assets
from modelcompression import confirm as confirming
from modelcompression.cli import cli
from modelcompression.confirm import ConfirmError, confirm
from modelcompression.detector import OpenVinoDetector, load_yolo
from modelcompression.fetch import AssetError, sha256
from modelcompression.machine import cpu
from modelcompression.measure import intervals
from modelcompression.measure.accuracy import evaluate
from modelcompression.measure.fresh import Times
from modelcompression.measure.intervals import loss_bound, paired_bootstrap, ratio_interval
from modelcompression.measure.kept import Kept
from modelcompression.packed import checkpoint
from modelcompression.tracking.history import finished_runs
from modelcompression.tracking.store import RunRecord
from modelcompression.tracking.tracker import Tracker

METRICS = {
    **{"map50_95_delta": -0.004, "map50_95_delta_lo": -0.02, "map50_95_delta_hi": 0.01},
    **{"size_mb": 6.0, "size_ratio": 1.0, "speedup": 2.0, "speedup_lo": 1.9, "speedup_hi": 2.1},
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo, empty_database: Path) -> Path:
    """An empty store, a folder of its own for what is kept, and the demo photographs."""
    monkeypatch.setenv("MC_STORE", str(tmp_path / "store"))
    (tmp_path / "store").mkdir()
    shutil.copy(empty_database, tmp_path / "store")
    monkeypatch.setattr(confirming, "ROOT", tmp_path)
    monkeypatch.setattr(confirming, "RESAMPLES", 100)
    monkeypatch.setattr(confirming, "report_and_calibration", lambda: (demo, demo))
    return tmp_path


def log(experiment: str, *files: Path, **tags: str) -> None:
    """A smoke run of this machine, of a model that takes 320 pixels."""
    logged = {"dataset": "demo", "smoke": "true", "execution_precision": "f32", "runtime": "OpenVINO"}
    logged |= {"cpu": cpu().name, "isa": cpu().isa, "threads": str(THREADS)} | tags
    shown = {"input_size": "320", "input_shape": "square"}
    shown["sha256"] = ", ".join(f"{path.name} {sha256(path)}" for path in files)
    with Tracker("hw9_test") as tracker:
        tracker.log(RunRecord(experiment, METRICS, shown, logged, files))


def model(exported: dict[str, Path]) -> tuple[Path, Path]:
    return exported["fp32"], exported["fp32"].with_suffix(".bin")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Timings without processes; the list names who was timed."""
    timed: list[str] = []

    def instead(baseline, variant, photographs, view, pairs) -> Times:
        timed.append(variant.runtime)
        ratio = 1 + len(timed) / 10
        return Times(np.full((pairs, 2), (20 * ratio, 20)), np.full((pairs, 2), (30 * ratio + 30, 60)))

    monkeypatch.setattr(confirming, "time_in_fresh_process", instead)
    return timed


def test_what_is_found_is_added_to_the_run(
    exported, demo, eager, weights, tmp_path, capsys, monkeypatch
) -> None:
    """With real processes."""
    monkeypatch.setattr(confirming, "SMOKE_PROCESSES", 1)
    log("Exported", *model(exported))
    packed = checkpoint.save(tmp_path / "any.mcpk", load_yolo(weights), {})
    target = tmp_path / "found.json"
    of_run, of_file = confirm(["Exported", str(packed)], smoke=True, target=target)
    for speedup in (of_run.speedup, of_run.pipeline_speedup):
        assert 0 < speedup.low <= speedup.value <= speedup.high
    assert min(of_run.latency_ms, of_run.baseline_latency_ms) > 0
    assert min(of_run.pipeline_ms, of_run.baseline_pipeline_ms) > 0
    assert of_file.name == "any.mcpk" and abs(of_file.delta.value) < 0.2

    run = finished_runs().iloc[0]
    for key, value in of_run.metrics().items():
        assert run[f"metrics.{key}"] == pytest.approx(value), key
    assert run["metrics.confirmed_images"] == confirming.SMOKE_IMAGES
    assert run["metrics.map50_95_delta"] == METRICS["map50_95_delta"], "what the notebook measured stays"
    assert run["tags.confirmed_git_commit"] is not None
    images = demo.first(confirming.SMOKE_IMAGES)
    whole = evaluate(eager, images, progress=False)
    half = evaluate(OpenVinoDetector(exported["fp32"], 1), images, 320, progress=False)
    assert of_run.delta.value == pytest.approx(half.map50_95 / whole.map50_95 - 1, abs=1e-3)
    listed = json.loads(target.read_text())
    assert [one["model"] for one in listed] == ["Exported", "any.mcpk"]
    assert listed[1]["confirmed_loss_bound"] == of_file.loss_bound
    assert "Exported" in capsys.readouterr().out
    assert not (tmp_path / "build" / "confirm").exists(), "nothing is kept of what is complete"


def test_a_file_is_shown_what_it_was_made_for_and_nothing_found_is_lost(
    weights, quick, tmp_path, capsys, monkeypatch
) -> None:
    small = load_yolo(weights)
    small.args = {**small.args, "imgsz": 160}
    packed = checkpoint.save(tmp_path / "any.mcpk", small, {})
    views, evaluated = [], confirming.evaluate

    def watched(detector, images, size, **named):
        views.append(size)
        return evaluated(detector, images, size, **named)

    monkeypatch.setattr(confirming, "evaluate", watched)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        confirm([str(packed)], smoke=True, target=tmp_path / "folder")
    assert views == [640, 160] and "any.mcpk" in capsys.readouterr().out
    confirm([str(packed)], smoke=True, target=tmp_path / "found.json")
    assert len(views) == 2, "evaluated again"


def test_a_killed_confirmation_goes_on_where_it_was(exported, quick, monkeypatch) -> None:
    log("First", *model(exported))
    log("Second", *model(exported), runtime="OpenVINO, lean graph")
    seen: list[str] = []
    evaluated = confirming.evaluate

    def watched(detector, *arguments, **named):
        seen.append(detector.runtime)
        return evaluated(detector, *arguments, **named)

    def killed(*_) -> Times:
        raise KeyboardInterrupt

    monkeypatch.setattr(confirming, "evaluate", watched)
    with monkeypatch.context() as patch:
        patch.setattr(confirming, "SMOKE_PROCESSES", 1)
        (found,) = confirm(["First"], smoke=True)
        assert len(quick) == 1
    assert (found.speedup.value, found.pipeline_speedup.value) == pytest.approx((1.1, 1.05))
    times = found.baseline_latency_ms, found.latency_ms, found.baseline_pipeline_ms, found.pipeline_ms
    assert times == pytest.approx((22, 20, 63, 60))
    seen.clear(), quick.clear()
    with monkeypatch.context() as patch:
        instead = confirming.time_in_fresh_process
        patch.setattr(
            confirming, "time_in_fresh_process", lambda *a: killed() if len(quick) == 3 else instead(*a)
        )
        with pytest.raises(KeyboardInterrupt):
            confirm(["First", "Second"], smoke=True)
    runs = finished_runs().set_index("experiment")
    assert "metrics.confirmed_loss_bound" in runs and runs["metrics.confirmed_loss_bound"].notna()["First"]
    assert runs["metrics.confirmed_loss_bound"].isna()["Second"], "half of an answer is none"
    assert seen == ["PyTorch", "OpenVINO", "OpenVINO, lean graph"] and len(quick) == 3
    confirm(["First", "Second"], smoke=True)
    assert len(seen) == 3 and len(quick) == 4, "what was known is not measured again"
    confirm(["Second"], smoke=True)
    assert len(seen) == 5 and len(quick) == 6, "a new confirmation measures anew"


def test_a_damaged_part_is_measured_again(demo_report, tmp_path) -> None:
    kept = Kept(tmp_path / "kept", "one")
    kept.keep_evaluation("part", demo_report)
    found = kept.evaluation("part", demo_report.images)
    assert found.map50_95 == demo_report.map50_95
    assert all(np.array_equal(a, b) for a, b in zip(found.correct, demo_report.correct, strict=True))
    (part,) = (tmp_path / "kept").rglob("*.npz")
    whole = part.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:-50], b"", whole[:middle] + bytes(100) + whole[middle + 100 :]):
        part.write_bytes(damaged)
        assert kept.evaluation("part", demo_report.images) is None
    assert Kept(tmp_path / "kept", "another").evaluation("part", demo_report.images) is None


def test_what_is_kept_serves_the_same_code_and_photographs_only(demo_report, tmp_path, monkeypatch) -> None:
    images = demo_report.images
    first, *others = images.samples
    relabelled = assets.ImageSet(images.name, (replace(first, classes=first.classes + 1), *others))

    def known(images: assets.ImageSet) -> bool:
        return confirming._Work(images, tmp_path, True, 1).kept.evaluation("part", images) is not None

    confirming._Work(images, tmp_path, True, 1).kept.keep_evaluation("part", demo_report)
    assert known(images) and not known(relabelled)
    monkeypatch.setattr(confirming, "source_digest", lambda: "of a later version")
    assert not known(images)


def refused(capsys: pytest.CaptureFixture, *names: str) -> str:
    """The one line for what cannot be confirmed."""
    with pytest.raises(ConfirmError) as error:
        confirm(names, smoke=True)
    assert "\n" not in str(error.value)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert len(said) == len(names) or not names
    return " ".join([*said, str(error.value)])


def test_what_cannot_be_confirmed_is_one_line_and_nothing_is_written(exported, tmp_path, capsys) -> None:
    assert "make smoke HW=hw5_export makes some" in refused(capsys)
    log("Elsewhere", *model(exported), isa="Other")
    assert "all runs were made on" in refused(capsys)
    assert "confirm it there" in refused(capsys, "Elsewhere")
    assert "no run of it that counts" in refused(capsys, "Nowhere")
    assert "no such file" in refused(capsys, "missing.mcpk")
    damaged = tmp_path / "damaged.mcpk"
    damaged.write_bytes(b"MCPK and nothing")
    assert "left out: " in refused(capsys, str(damaged))
    log("Many threads", *model(exported), threads="999")
    assert "999 threads" in refused(capsys, "Many threads")
    assert not any(name.startswith("metrics.confirmed") for name in finished_runs())
    assert not (tmp_path / "build").exists()


def test_a_file_that_is_gone_or_another_by_now_is_left_out_and_the_rest_goes_on(
    exported, quick, tmp_path, capsys
) -> None:
    for name in ("Gone", "Changed", "Whole"):
        log(name, *model(exported))
    store = tmp_path / "store" / "mlartifacts"
    folders = {
        run["experiment"]: store / run["run_id"] / "artifacts" for _, run in finished_runs().iterrows()
    }
    (folders["Gone"] / "fp32.bin").unlink()
    with (folders["Changed"] / "fp32.bin").open("r+b") as file:
        file.seek(5000)
        file.write(b"other")
    with pytest.raises(ConfirmError, match="2 of 3 models were left out"):
        confirm(["Gone", "Changed", "Whole"], smoke=True)
    said = capsys.readouterr()
    assert "left out: Gone: fp32.bin is missing" in said.err
    assert "left out: Changed: fp32.bin is not the file that was measured" in said.err
    runs = finished_runs().set_index("experiment")["metrics.confirmed_images"]
    assert runs.notna().to_dict() == {"Gone": False, "Changed": False, "Whole": True}


def test_full_runs_are_confirmed_on_many_photographs_only(exported, monkeypatch) -> None:
    log("Full", *model(exported), smoke="false", dataset="coco-val")

    def out_of_reach(name: str, n: int) -> None:
        assert (name, n) == ("coco-val", 1000)
        raise AssetError("719 of 1000 images are not here")

    monkeypatch.setattr(confirming, "image_set", out_of_reach)
    with pytest.raises(AssetError, match="719 of 1000"):
        confirm(["Full"])
    done = CliRunner().invoke(cli, ["confirm", "--images", "281"])
    assert done.exit_code == 2 and "1000<=x<=5000" in done.output
    with pytest.raises(ConfirmError):
        confirm(["Full"], smoke=True)


def test_the_bound_is_one_sided_and_of_the_same_draws(demo_report, eager, demo) -> None:
    small = evaluate(eager, demo, 320, progress=False)
    interval = paired_bootstrap(small, demo_report, 200)
    bound = loss_bound(small, demo_report, 200)
    assert interval.low < -bound <= interval.high
    changes = intervals._changes(small, demo_report, 200, 0)
    assert np.mean(changes >= -bound) == pytest.approx(0.95, abs=0.01)
    assert loss_bound(replace(demo_report), demo_report, 200) == 0


def test_an_interval_over_processes_sees_what_a_process_hides() -> None:
    generator = np.random.default_rng(0)
    processes = [level + 0.01 * generator.standard_normal(15) for level in (1.9, 2.0, 2.1, 2.0, 2.05)]
    together, alone = ratio_interval(processes), ratio_interval([np.concatenate(processes)])
    assert together.value == alone.value == pytest.approx(2.0, abs=0.05)
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_after_a_campaign_only_its_rows_are_worth_it(monkeypatch) -> None:
    here = {"tags.cpu": cpu().name, "tags.isa": cpu().isa}
    names = [("Renamed since", "c1"), ("ONNX", "c1"), ("ONNX", "c2"), ("OpenVINO", "c2")]
    runs = pd.DataFrame([here | {"experiment": name, "tags.campaign": c} for name, c in names])
    monkeypatch.setattr(confirming, "shortlist", lambda rows: list(rows["experiment"]))
    assert confirming._worth_it(runs, smoke=False) == ["ONNX", "OpenVINO"]
    without = runs.assign(**{"tags.campaign": ""})
    assert confirming._worth_it(without, smoke=False) == ["Renamed since", "ONNX", "OpenVINO"]
