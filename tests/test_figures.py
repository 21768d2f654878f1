"""Which photographs are shown, and that they come out as pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from modelcompression import figures
from modelcompression.assets import ImageSet
from modelcompression.measure.accuracy import Evaluation


@pytest.fixture
def photographs(demo) -> ImageSet:
    return demo.first(3)


def detecting(images: ImageSet, *confidences: list[float]) -> Evaluation:
    """An evaluation with one box for each of the confidences given for a photograph."""
    boxes = [np.array([[10, 10, 60, 60, c, 0] for c in found]).reshape(-1, 6) for found in confidences]
    return Evaluation(images, boxes, [], [])


def test_photographs_are_ordered_by_how_many_shown_detections_came_or_went(photographs) -> None:
    first = detecting(photographs, [0.9, 0.8], [0.9], [0.9, 0.9, 0.9])
    second = detecting(photographs, [0.9], [0.9, 0.1, 0.1, 0.1, 0.1], [])
    assert figures.shown_detections(second).tolist() == [1, 1, 0]
    assert figures.most_changed(first, second).tolist() == [2, 0]
    assert figures.most_changed(second, first, 3).tolist() == [2, 0, 1]
    assert figures.most_changed(first, first).tolist() == [0, 1]


def test_a_row_for_each_photograph_and_a_column_for_each_model(photographs) -> None:
    found = detecting(photographs, [0.9], [], [0.5])

    def size(rows: int, columns: int) -> tuple[int, int]:
        shown = {str(number): found for number in range(columns)}
        image = figures.side_by_side(photographs, range(rows), shown)
        return Image.open(io.BytesIO(image.data)).size

    assert np.allclose(size(2, 3), np.array([3, 2]) * size(1, 1), atol=2)


def test_a_waterfall_ends_at_what_is_left_and_shows_a_step_that_slows_down() -> None:
    (axes,) = figures.waterfall("eager", 40, {"runtime": 2, "detour": 1.6, "INT8": 4}).axes
    left = [bar.get_height() for bar in axes.patches[:4]]
    steps = axes.patches[4:]
    assert left == pytest.approx([40, 20, 25, 10])
    assert [bar.get_height() for bar in steps] == pytest.approx([20, 5, 15])
    assert [bar.get_y() for bar in steps] == pytest.approx([20, 20, 10])
    assert steps[0].get_facecolor() == steps[2].get_facecolor() != steps[1].get_facecolor()
    texts = [text.get_text() for text in axes.texts]
    assert texts[:3] == ["2.00×\n−20.0 ms", "0.80×\n+5.0 ms", "2.50×\n−15.0 ms"]
