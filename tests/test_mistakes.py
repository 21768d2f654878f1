"""Kinds of mistakes: each kind from the smallest example, and the sums that must hold."""

import numpy as np
import pytest

from modelcompression.assets import Sample
from modelcompression.measure import mistakes
from modelcompression.measure.accuracy import match

CAT, DOG = 15, 16


def sample(*objects: tuple[float, int]) -> Sample:
    """A photograph with objects of 100 × 100 pixels, given by where they begin and their class."""
    boxes = np.array([[x, 0, x + 100, 100] for x, _ in objects], float).reshape(-1, 4)
    classes = np.array([category for _, category in objects], int)
    return Sample("tiny", 1000, 1000, classes, boxes, np.full(len(objects), 1e4), np.empty((0, 5)))


def detections(*found: tuple[float, int, float]) -> np.ndarray:
    rows = [[x, 0, x + 100, 100, confidence, category] for x, category, confidence in found]
    return np.array(rows, np.float32).reshape(-1, 6)


@pytest.mark.parametrize(
    ("found", "fate", "kinds"),
    [
        ([(20, CAT, 0.9)], "found", ["right"]),
        ([(60, CAT, 0.9)], "misplaced", ["misplaced"]),
        ([(20, DOG, 0.9)], "confused", ["confused"]),
        ([(60, DOG, 0.9)], "missed", ["invented"]),
        ([(90, CAT, 0.9)], "missed", ["invented"]),
        ([(20, CAT, 0.2)], "missed", []),
        ([], "missed", []),
        ([(20, CAT, 0.9), (0, CAT, 0.8)], "found", ["right", "duplicate"]),
        ([(60, CAT, 0.9), (0, CAT, 0.8)], "found", ["misplaced", "right"]),
        ([(0, DOG, 0.9), (60, CAT, 0.8)], "confused", ["confused", "misplaced"]),
    ],
)
def test_each_kind_of_mistake(found: list, fate: str, kinds: list[str]) -> None:
    fates, seen = mistakes.judged(detections(*found), sample((0, CAT)))
    assert [*fates] == [fate] and [*seen] == kinds


def test_a_photograph_without_objects_has_only_inventions() -> None:
    fates, kinds = mistakes.judged(detections((0, CAT, 0.9)), sample())
    assert len(fates) == 0 and [*kinds] == ["invented"]


def test_a_detection_takes_the_best_object_that_is_still_free() -> None:
    both = sample((0, CAT), (30, CAT))
    fates, kinds = mistakes.judged(detections((10, CAT, 0.9), (12, CAT, 0.8)), both)
    assert [*fates] == ["found", "found"] and [*kinds] == ["right", "right"]


def test_what_is_right_is_what_average_precision_counts(demo_report) -> None:
    for found, photograph in zip(demo_report.detections, demo_report.images.samples, strict=True):
        fates, kinds = mistakes.judged(found, photograph)
        sure = found[found[:, 4] > mistakes.SURE]
        assert np.array_equal(kinds == "right", match(sure, photograph)[:, 0])
        assert (kinds == "right").sum() == (fates == "found").sum()
    counts = mistakes.mistakes(demo_report)
    objects = sum(len(s.boxes) for s in demo_report.images.samples)
    assert sum(counts[fate] for fate in mistakes.FATES) == objects == len(mistakes.fates(demo_report))
    assert counts["found"] and counts["missed"]
