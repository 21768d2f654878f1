"""What compression changed on a photograph: which boxes are the same, moved, lost, new."""

import io
import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from modelcompression import ROOT, differences
from modelcompression.assets import CREDITS, ImageSet
from modelcompression.measure.accuracy import Evaluation

NAMES = {0: "circle", 1: "square"}
BOX = [100.0, 100, 200, 200, 0.9, 0]


def moved(by: float, category: int = 0, confidence: float = 0.9) -> list[float]:
    return [100 + by, 100, 200 + by, 200, confidence, category]


def kinds(before: list, after: list) -> list[str]:
    pair = (np.array(rows, float).reshape(-1, 6) for rows in (before, after))
    return [change.kind for change in differences.changes(*pair)]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ([moved(0)], ["same"]),
        ([moved(5)], ["same"]),  # IoU .90
        ([moved(20)], ["moved"]),  # .67
        ([moved(40)], ["lost", "new"]),  # .43
        ([moved(0, category=1)], ["lost", "new"]),
        ([moved(0, confidence=0.2)], ["lost"]),
        ([moved(20), moved(0)], ["same", "new"]),  # the nearer one is the object, the other one is new
        ([], ["lost"]),
    ],
)
def test_an_object_is_found_again_where_class_and_place_agree(after: list, expected: list[str]) -> None:
    assert kinds([BOX], after) == expected


def test_each_detection_stands_for_one_object() -> None:
    assert kinds([moved(0), moved(10)], [moved(5)]) == ["same", "lost"]
    assert kinds([], [moved(0)]) == ["new"]


def test_the_photographs_that_differ_most_come_first_and_become_a_picture(demo) -> None:
    stems = ["bus", "coffee", "camera", "china"]
    images = ImageSet("demo", tuple(sample for sample in demo.samples if sample.path.stem in stems))

    def found(*photographs: list) -> Evaluation:
        return Evaluation(images, [np.array(rows, float).reshape(-1, 6) for rows in photographs], [], [])

    before = found([BOX, moved(150)], [BOX], [BOX, moved(150)], [BOX])
    after = found([], [BOX], [], [moved(20)])
    assert differences.counted(before, after) == {"same": 1, "moved": 1, "lost": 4, "new": 0}
    assert [sample.path.stem for sample in images.samples] == stems
    assert differences.most_different(before, [after], 4) == [
        2,
        3,
        1,
    ]  # nobody says that the bus may be shown
    own = replace(before, images=replace(images, name="my own"))
    assert differences.most_different(own, [after], 4) == [0, 2, 3, 1]
    picture = Image.open(io.BytesIO(differences.picture(before, {"other": after}, NAMES).data))
    assert picture.width > 600


def test_every_photograph_that_is_shown_is_credited_in_the_list_of_all(demo) -> None:
    assert set(CREDITS) < {sample.path.stem for sample in demo.samples}
    listed = (ROOT / "modelcompression/demo_photos/README.md").read_text(encoding="utf8")
    for stem, credit in CREDITS.items():
        (line,) = re.findall(rf"\| `{stem}` .*", listed)
        assert credit.split(" (")[0] in line and re.search("public domain|CC0|CC BY", line)


def test_labels_lie_beside_or_below_each_other(demo, monkeypatch) -> None:
    (photograph,) = (sample for sample in demo.samples if sample.path.stem == "coffee")
    images = ImageSet("demo", (photograph,))
    rows = np.array(
        [[0, 5, 590, 390, 0.9, 0], [170, 16, 424, 325, 0.9, 1], [176, 30, 424, 325, 0.8, 0]], float
    )
    seen = Evaluation(images, [rows], [], [])
    drawn = []
    monkeypatch.setattr(differences, "as_jpeg", drawn.append)
    differences.picture(seen, {"one": seen, "two": seen}, {0: "dining table", 1: "cup"}, 1)
    (figure,) = drawn
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 3
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
