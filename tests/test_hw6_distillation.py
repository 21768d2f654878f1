"""hw6_distillation: what its rows say on any machine, what the long healing writes, what an INT8 file is."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import shapes
import torch

from modelcompression import ROOT, parameters, runner
from modelcompression.packed import checkpoint, container

LONG = ROOT / "hw6_distillation/long.ipynb"


def test_healed_files_are_small_and_detect(smoke_run) -> None:
    rows = smoke_run(ROOT / "hw6_distillation/distillation.ipynb").rows
    assert len(rows) == 4 and (rows["tags.homework"] == "hw6_distillation").all()
    assert (rows["metrics.size_mb"] < 6.25 / 1.5).all()
    assert (rows["metrics.map50_95"] > 0.2).all()


def test_the_long_healing_runs_by_its_name_alone() -> None:
    assert LONG not in runner.notebooks() and LONG not in runner.notebooks("hw6_distillation")
    assert runner.notebooks("hw6_distillation/long") == [LONG]


def test_publishing_keeps_that_a_notebook_runs_by_name_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    target = tmp_path / "hw9_test" / "long.ipynb"
    target.parent.mkdir()
    document = nbformat.v4.new_notebook(
        metadata={"modelcompression": {"by_name_only": True}, "papermill": {}}
    )
    nbformat.write(document, tmp_path / "executed.ipynb")
    runner.publish({target: tmp_path / "executed.ipynb"})
    assert "papermill" not in nbformat.read(target, as_version=4).metadata
    with pytest.raises(runner.RunnerError):
        runner.notebooks("all")
    assert runner.notebooks("hw9_test/long") == [target]


def test_the_long_healing_writes_files_with_records(own_store) -> None:
    runner.execute(LONG, smoke=True, parameters={"THREADS": 1})
    folder = ROOT / "build" / "hw6_distillation" / "long" / "smoke"
    packed = folder / "healed_0.80.mcpk"
    about = json.loads(packed.with_suffix(".json").read_text())
    start = (folder / "packed_0.80.mcpk").read_bytes()
    assert about["steps"] == 2 and about["sha256 of the start"] == hashlib.sha256(start).hexdigest()
    assert about["nats after"] <= about["history"][-1][3] and about["photographs"] and about["device"]
    alone, shipped = (container.tensors(folder / f"{name}_0.80.mcpk") for name in ("float", "healed"))
    assert all(np.array_equal(part.values(), shipped[name].values()) for name, part in alone.items())
    assert checkpoint.to_openvino(packed, folder / "unpacked").is_file()
    assert (folder / "healed_32.xml").is_file() and (folder / "healed_32.json").is_file()
    assert (
        (folder / "history.csv").read_text().startswith("file,steps,seconds,loss,held_out\nhealed_0.80,0,0.0")
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("MINUTES", 0), ("BATCH", 2.5), ("BITS", 2.66), ("BITS", [1]), ("SIDES", [1.5]), ("DEVICE", "gpu")],
)
def test_a_wrong_wish_is_said_before_the_long_healing(name: str, value: object) -> None:
    cells = nbformat.read(LONG, as_version=4).cells
    (wishes,) = (cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    (checks,) = (cell.source for cell in cells if cell.source.startswith("own = {"))
    given = vars(parameters) | {"Homework": lambda *_, **__: SimpleNamespace(photographs=[0] * 16)}
    exec(wishes, given)
    exec(checks, given)
    with pytest.raises(ValueError, match=f"{name}.* must be"):
        exec(checks, given | {name: value})


@pytest.mark.nightly
def test_the_long_healing_takes_a_detector_of_ones_own(own_store, tmp_path: Path) -> None:
    """With attention, depthwise convolutions and five classes; what is known of YOLOv8n is left alone."""
    model = checkpoint.load(ROOT / "tests" / "models" / "yolo11n-shapes.mcpk").model
    torch.save({"model": model.half(), "train_args": {"imgsz": 96}}, tmp_path / "best.pt")
    data = shapes.write(tmp_path / "data", train=16, val=8, size=96)
    own = {"WEIGHTS": str(tmp_path / "best.pt"), "DATA": str(data), "TRUST": True}
    before = (LONG.parent / "history.csv").read_bytes()
    executed = runner.execute(LONG, smoke=True, parameters={"THREADS": 1, "BITS": [3], **own})
    folder = ROOT / "build" / "hw6_distillation" / "long" / "smoke"
    (packed,) = folder.glob("healed_*.mcpk")
    found = checkpoint.load(packed).model
    assert found.names == dict(enumerate(shapes.CLASSES))
    weights = sum(parameter.numel() for parameter in found.parameters())
    assert packed.stem == f"healed_{3 * weights / 8 / 2**20:.2f}"
    cells = nbformat.read(executed, as_version=4).cells
    said = json.dumps([cell.outputs for cell in cells if cell.cell_type == "code"])
    assert "96 px" in said and "coco128" not in said and "healed_100" not in said
    assert (LONG.parent / "history.csv").read_bytes() == before
