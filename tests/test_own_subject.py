"""Notebooks with a detector of one's own: three classes, drawn photographs, an input of 160 pixels."""

import json

import pytest
import shapes
from round_trip import saved

from modelcompression import ROOT, runner
from modelcompression.packed import checkpoint

CHEAP = ("hw1_baseline/baseline.ipynb",)  # for `make test`; all others are for the night
NOTEBOOKS = {str(path.relative_to(ROOT)): path for path in runner.notebooks()}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What somebody with a detector types in the parameters' cell."""
    folder = tmp_path_factory.mktemp("own")
    model = checkpoint.load(ROOT / "tests/models/yolov8n-shapes3.mcpk").model
    data = shapes.write(folder / "shapes", train=16, val=16, size=160, classes=3)
    return {"WEIGHTS": str(saved(model, folder / "shapes3.pt")), "DATA": str(data), "TRUST": True}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in CHEAP else pytest.mark.nightly) for name in NOTEBOOKS]
)
def test_smoke_run(name: str, own, smoke_run) -> None:
    found = smoke_run(NOTEBOOKS[name], **own)
    assert all(cell.execution_count for cell in found.document.cells if cell.cell_type == "code")
    assert (found.rows["tags.subject"] == "shapes3").all(), "none enters the tables of YOLOv8n"
    assert set(found.rows["tags.smoke"]) == {"true"}
    outputs = [output for cell in found.document.cells for output in cell.get("outputs", [])]
    texts = [output.get("data", output) for output in outputs]
    shown = json.dumps([{k: v for k, v in text.items() if not k.startswith("image/")} for text in texts])
    assert "coco" not in shown.lower().replace("cocoeval", ""), "computed text names what it is about"
