"""From JPEG to boxes, and agreement with the original."""

import cv2
import numpy as np
import pytest
from conftest import THREADS

from modelcompression.measure.accuracy import evaluate
from modelcompression.measure.agreement import agreement, as_truth
from modelcompression.measure.pipeline import STAGES, View, jpeg_to_boxes, time_pipelines
from modelcompression.methods.lean import LeanDetector


@pytest.fixture(scope="module")
def jpegs(demo) -> list[bytes]:
    pictures = (cv2.imread(str(sample.path)) for sample in demo.samples[:3])
    return [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]


def test_the_boxes_are_those_of_an_evaluation(exported, demo, jpegs) -> None:
    sample = demo.samples[0]
    if sample.path.suffix.lower() in (".jpg", ".jpeg"):
        jpegs = [sample.path.read_bytes()]
    detector = LeanDetector(exported["fp32"], THREADS)
    found, times = jpeg_to_boxes(detector, jpegs[0], View(320, square=False))
    (expected,) = evaluate(detector, demo.first(1), 320, progress=False, square=False).detections
    sure = expected[expected[:, 4] > 0.4]
    assert len(sure) and times.shape == (len(STAGES),) and (times > 0).all()
    for box in sure:
        same = found[found[:, 5] == box[5]]
        assert np.abs(same[:, :4] - box[:4]).max(axis=1).min() < 0.05 * max(sample.width, sample.height)


def test_both_go_the_whole_way_in_turn_and_the_slower_one_is_seen(exported, jpegs) -> None:
    baseline, variant = (LeanDetector(exported["fp32"], THREADS) for _ in range(2))
    found = time_pipelines(baseline, variant, jpegs, View(160), rounds=6)
    assert found.baseline.shape == found.variant.shape == (6, len(STAGES))
    assert found.ratios == pytest.approx(found.baseline.sum(axis=1) / found.variant.sum(axis=1))
    assert found.speedup.low <= found.speedup.value <= found.speedup.high
    assert found.speedup.value > 1.2, "a sixteenth of the pixels goes through the network"
    stages = found.stages()
    assert list(stages.columns) == [*STAGES, "all"] and (stages.loc["baseline"] > 0).all()
    with pytest.raises(ValueError, match="at least one of each"):
        time_pipelines(baseline, variant, [], View())


def test_agreement_is_whole_with_itself_and_falls_with_damage(exported, demo_report) -> None:
    truth = as_truth(demo_report)
    assert sum(len(sample.boxes) for sample in truth.samples) > 10
    detector = LeanDetector(exported["fp32"], THREADS)
    whole = agreement(detector, truth)

    class Saturated(LeanDetector):
        """Sums that are cut off."""

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            output = super().__call__(batch).copy()
            output[:, 4:] = np.minimum(output[:, 4:], 0.3)
            output[:, :2] += 8
            return output

    assert whole > 0.97
    assert agreement(Saturated(exported["fp32"], THREADS), truth) < whole - 0.03
