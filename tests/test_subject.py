"""What all parts have to know of a detector: multiples of what its sides have to be."""

import cv2
import numpy as np
import pytest

from modelcompression.detector import Detector
from modelcompression.images import seen
from modelcompression.subject import Subject


class Looking(Detector):
    """A detector of which only the strides matter."""

    def __init__(self, strides: tuple[int, ...]) -> None:
        self.subject = Subject(strides=strides)


@pytest.mark.parametrize(
    ("strides", "multiple"), [((8, 16, 32), 32), ((8, 16), 32), ((8, 16, 32, 64), 64), ((128, 64), 128)]
)
def test_rectangles_have_sides_that_every_map_divides(strides, multiple: int, tmp_path) -> None:
    """Of a wide photograph: as long as asked, and the fewest rows of which each stride takes whole cells."""
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((90, 640, 3), np.uint8))
    assert Subject(strides=strides).multiple == multiple
    pixels, *_ = seen(Looking(strides), tmp_path / "wide.png", 640, square=False)
    assert pixels.shape == (-(-90 // multiple) * multiple, 640, 3)
