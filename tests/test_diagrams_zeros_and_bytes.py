"""What the drawings of homeworks 3, 4 and 6 show is what the package finds, and every word can be read."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from networks import random_network

from modelcompression.detector import load_yolo
from modelcompression.diagrams import channels, healing, packing, removal
from modelcompression.diagrams.sketch import TINTS
from modelcompression.methods import channels as methods
from modelcompression.methods.sensitivity import output_error
from modelcompression.packed.coding import information

WEIGHTS = np.array([-0.9, -0.31, -0.3, -0.02, 0.01, 0.03, 0.28, 0.3, 0.33, 1.1])
PAIR = torch.tensor([0.5, 0.6]).double(), torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double()


@pytest.fixture(scope="module")
def model(weights) -> torch.nn.Module:
    return load_yolo(weights)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts if text.get_text()]


def tints(figure: Figure) -> list[str]:
    """Of the convolutions that may get narrower."""
    (axes,) = figure.axes
    names = {to_rgb(colour): name for name, colour in TINTS.items()}

    boxes = [names.get(patch.get_facecolor()[:3]) for patch in axes.patches]
    return [tint for tint in boxes if tint == "green"]


def legible(figure: Figure) -> None:
    assert figure.get_size_inches()[0] <= 8
    figure.canvas.draw()
    sheet = figure.bbox
    for text in (text for axes in figure.axes for text in axes.texts if text.get_text()):
        box = text.get_window_extent()
        assert text.get_fontsize() >= 10, text.get_text()
        assert sheet.x0 <= box.x0 and box.x1 <= sheet.x1, text.get_text()
        assert sheet.y0 <= box.y0 and box.y1 <= sheet.y1, text.get_text()


def test_words_are_large_and_inside_the_sheet(model) -> None:
    for figure in (
        channels.c2f_couplings(model),
        packing.codebook_of(WEIGHTS, 4),
        packing.grid_and_coder(WEIGHTS, -16),
        removal.contours_of_removal(*PAIR),
        healing.teacher_and_student(),
    ):
        legible(figure)


def test_green_convolutions_are_those_that_may_get_narrower(model, monkeypatch) -> None:
    found = {name for group in methods.groups(model) for name, _ in group.producers}
    inside = [f"model.{n}.{c}.conv" for n in (2, 15) for c in ("cv1", "m.0.cv1", "m.0.cv2", "cv2")]
    shown = channels.c2f_couplings(model)
    assert [text.split(":")[0] for text in words(shown) if "block" in text] == ["model.2", "model.15"]
    assert len(tints(shown)) == len(found & set(inside)) == 5
    monkeypatch.setattr(channels, "groups", lambda model: [])
    assert tints(channels.c2f_couplings(model)) == []


def test_blocks_like_c2f_are_drawn_and_other_networks_are_not() -> None:
    """All bottlenecks of YOLO11n add, those of YOLOv5u lie in blocks of another kind."""
    shown = channels.c2f_couplings(random_network("yolo11n.yaml"))
    titles = [text for text in words(shown) if "block" in text]
    assert titles == ["model.2: a C3k2 block with a residual addition"]
    legible(shown)
    assert channels.c2f_couplings(random_network("yolov5n.yaml")) is None


def test_the_readers_named_are_those_of_the_group(model) -> None:
    readers = {group.producer: group.readers for group in methods.groups(model)}
    for number in (2, 8, 15):
        (sentence,) = [
            text for text in words(channels.c2f_couplings(model, [number])) if "is read by" in text
        ]
        for name, _ in readers[f"model.{number}.cv2.conv"]:
            assert name.removesuffix(".conv") in sentence


def test_the_best_refit_is_a_minimum() -> None:
    weights, hessian = PAIR
    best = removal.removed(weights, hessian, refitted=True)
    error = float(output_error((best - weights)[None], hessian)[0])
    for step in (-0.05, 0.05):
        other = best + torch.tensor([step, 0.0]).double()
        assert float(output_error((other - weights)[None], hessian)[0]) > error
    assert f"error {error:.3f}" in "\n".join(words(removal.contours_of_removal(*PAIR)))


def test_the_bits_shown_are_those_of_the_coder() -> None:
    integers = np.rint(WEIGHTS / 0.25).astype(int)
    shown = words(packing.grid_and_coder(WEIGHTS, -16))
    assert [str(x).replace("-", "−") for x in integers] == [w for w in shown if w.lstrip("−").isdigit()]
    bits = information(integers)
    assert all(f"{count:.1f}" in shown for count in bits)
    assert f"{bits.mean():.1f} bits a weight instead of 32" in shown


def test_indices_and_centroids_rebuild_the_clusters() -> None:
    shown = words(packing.codebook_of(WEIGHTS, 4))
    assert [w for w in shown if w.isdigit()] == ["0", "1", "1", "1", "1", "1", "2", "2", "2", "3"]
    assert "−0.90" in shown and "1.10" in shown
