"""hw5_export: what its diagrams say is counted, nothing in them overlaps, what it suggests to try is so."""

import importlib.util
from itertools import combinations

import nbformat
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from modelcompression import ROOT, nanodet, runner
from modelcompression.assets import ImageSet
from modelcompression.detect import Model
from modelcompression.diagrams import convolutions, graphs, inputs
from modelcompression.fetch import AssetError

RECORDED = ["Parameter", "Constant", "Convolution", "Sigmoid", "Multiply", "Result"]
EXECUTED = ["Input", "Reorder", "Const", "Convolution", "Reorder", "Output"]
PLAIN = {"Convolution": 64, "Reorder": 8, "Transpose": 1, "Concat": 15, "Softmax": 1}
LEAN = {"Convolution": 63, "Concat": 14, "Softmax": 1, "FullyConnected": 1}


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.fixture(scope="module")
def diagrams(demo: ImageSet) -> dict[str, Figure]:
    return {
        "fusion": graphs.fusion(RECORDED, EXECUTED, "OpenVINO"),
        "slimmed": graphs.slimmed(PLAIN, LEAN),
        "inputs": inputs.square_and_rectangle(demo),
        "convolutions": convolutions.ordinary_and_separable(64),
    }


@pytest.mark.parametrize("name", ["fusion", "slimmed", "inputs", "convolutions"])
def test_a_diagram_can_be_read(name: str, diagrams) -> None:
    figure = diagrams[name]
    figure.canvas.draw()
    page = figure.bbox
    places = [text.get_window_extent() for text in figure.axes[0].texts]
    assert figure.get_figwidth() <= 8 and min(text.get_fontsize() for text in figure.axes[0].texts) >= 10
    assert all(page.x0 <= p.x0 and p.x1 <= page.x1 and page.y0 <= p.y0 and p.y1 <= page.y1 for p in places)
    assert not [pair for pair in combinations(places, 2) if pair[0].overlaps(pair[1])]


def test_fused_operations_are_coloured_and_constants_left_out(diagrams) -> None:
    found = words(diagrams["fusion"])
    assert {"written down: 5 operations", "executed by OpenVINO: 5"} <= set(found)
    assert found.count("Input") == found.count("Output") == found.count("Convolution") == 2
    assert "Constant" not in found and found.count("Reorder") == 2


def test_a_lean_graph_moves_nothing(diagrams) -> None:
    found = words(diagrams["slimmed"])
    assert {"as exported: 89 operations are executed", "lean: 79 operations are executed"} <= set(found)
    assert [text for text in found if "move" in text] == ["9 that only\nmove numbers"]
    assert {"64\nconvolutions", "63\nconvolutions", "16 others"} <= set(found)


def test_a_lean_graph_of_another_detector_says_its_own_numbers() -> None:
    found = words(graphs.slimmed(PLAIN, LEAN, channels=1, outputs=4 + 5))
    assert {"floats\n1 × H × W", "9 × anchors", "bytes\nH × W × 1", "anchors × 9"} <= set(found)


def test_grey_is_counted(demo: ImageSet, diagrams) -> None:
    china = next(sample for sample in demo.samples if (sample.width, sample.height) == (640, 427))
    square = next(sample for sample in demo.samples if sample.width == sample.height)
    assert inputs.grey_share(china) == pytest.approx(1 - 427 / 640)
    assert inputs.grey_share(china, square=False) == pytest.approx(1 - 427 / 448)
    assert inputs.grey_share(square) == inputs.grey_share(square, square=False) == 0
    assert inputs.grey_share(china, square=False, stride=64) == pytest.approx(1 - 427 / 448)
    assert inputs.grey_share(china, 320, square=False, stride=64) == pytest.approx(1 - 214 / 256)
    most = max(inputs.grey_share(sample) for sample in demo.samples)
    assert f"square, 640×640: {most:.0%} grey" in words(diagrams["inputs"])


def test_weights_are_those_of_the_layers(diagrams) -> None:
    ordinary = torch.nn.Conv2d(64, 64, 3, bias=False)
    separable = [torch.nn.Conv2d(64, 64, 3, groups=64, bias=False), torch.nn.Conv2d(64, 64, 1, bias=False)]
    assert f"ordinary: {ordinary.weight.numel():,} weights" in words(diagrams["convolutions"])
    total = sum(layer.weight.numel() for layer in separable)
    assert f"depthwise separable: {total:,} weights" in words(diagrams["convolutions"])


def test_less_confidence_shows_more_boxes(demo: ImageSet) -> None:
    """A suggestion of export.ipynb."""
    photograph = demo.samples[0].path
    sure, unsure = (Model(threads=1, confidence=c)(photograph) for c in (0.25, 0.05))
    assert len(unsure) > len(sure) and unsure[: len(sure)] == sure


def test_a_larger_budget_takes_a_smaller_image() -> None:
    """A suggestion of fastest.ipynb."""
    cells = nbformat.read(ROOT / "hw5_export/fastest.ipynb", as_version=4).cells
    (chosen,) = (line for cell in cells for line in cell.source.splitlines() if line.startswith("small = "))
    sizes = pd.DataFrame({"smooth loss": [0, 0.014, 0.06]}, index=[640, 576, 512])
    found = {}
    for budget in (0.01, 0.03, 0.1, 0.15):
        exec(chosen, given := {"sizes": sizes, "BUDGET": budget})
        found[budget] = given["small"]
    assert found == {0.01: 640, 0.03: 576, 0.1: 576, 0.15: 512}  # half of it is spent on coco128


def has_nanodet(kind: str) -> bool:
    try:
        return nanodet.ncnn_files(kind).is_file()
    except AssetError:
        return False


def test_the_smaller_networks_notebook_answers(smoke_run) -> None:
    """`HW=all` leaves it out."""
    notebook = ROOT / "hw5_export/smaller_network.ipynb"
    assert notebook not in runner.notebooks()
    found = smoke_run(notebook)
    assert "INT8, lean graph, 192 px" in found.rows.index  # 13/20 of a smoke run's 320
    said = "".join(str(cell.get("outputs")) for cell in found.document.cells)
    small = [name for name in found.rows.index if name.startswith("NanoDet")]
    here = [kind for kind in ("float16", "int8") if has_nanodet(kind)]
    in_ncnn = len(here) if importlib.util.find_spec("ncnn") else 0
    assert len(small) == in_ncnn + 2 * ("float16" in here), "float16 and INT8 in OpenVINO are made of float16"
    assert ("Why not a network that was small" in said) == bool(small)
    for row in (found.rows.loc[name] for name in small):
        assert row["metrics.size_mb"] < 3 and row["metrics.map50_95"] > 0.1
