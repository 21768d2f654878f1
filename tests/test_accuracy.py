import dataclasses
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics import YOLO
from ultralytics.utils.metrics import ap_per_class
from ultralytics.utils.nms import non_max_suppression

from modelcompression import assets
from modelcompression.assets import ImageSet, Sample
from modelcompression.fetch import AssetError
from modelcompression.images import letterbox, to_original
from modelcompression.measure import accuracy, intervals, second_opinion
from modelcompression.measure.accuracy import Evaluation, match
from modelcompression.measure.agreement import as_truth
from modelcompression.measure.intervals import _WeightedMap, paired_bootstrap


def sample(boxes, classes, crowd=()) -> Sample:
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    crowd = np.asarray(crowd, float).reshape(-1, 5)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return Sample("tiny", 100, 100, np.asarray(classes, int), boxes, areas, crowd)


def random_evaluation(seed: int, images: int = 12, quality: float = 0.7) -> Evaluation:
    generator = np.random.default_rng(seed)
    detections, correct, targets = [], [], []
    for _ in range(images):
        n, m = generator.integers(0, 9), generator.integers(0, 5)
        classes = generator.integers(0, 3, n)
        rows = np.hstack([generator.uniform(0, 99, (n, 4)), generator.random((n, 1)), classes[:, None]])
        detections.append(rows[np.argsort(-rows[:, 4])].astype(np.float32))
        correct.append(generator.random((n, 10)) < quality * generator.random((n, 1)))
        targets.append(generator.integers(0, 3, m))
    samples = tuple(dataclasses.replace(sample([], []), path=f"{i}") for i in range(images))
    return Evaluation(ImageSet("random", samples), detections, correct, targets)


def test_each_box_is_claimed_once_by_the_most_confident_detection() -> None:
    image = sample([[0, 0, 40, 40], [50, 50, 90, 90]], [3, 3])
    found = np.array(
        [[0, 0, 40, 40, 0.9, 3], [0, 0, 40, 40, 0.8, 3], [50, 50, 90, 74, 0.7, 3],
         [50, 50, 90, 90, 0.6, 4]], np.float32,
    )  # fmt: skip
    assert match(found, image).sum(1).tolist() == [10, 0, 3, 0]  # the third has IoU 0.6


def test_no_detection_and_no_object_are_fine() -> None:
    nothing = np.empty((0, 6), np.float32)
    assert match(nothing, sample([[0, 0, 9, 9]], [1])).shape == (0, 10)
    found = np.array([[0, 0, 9, 9, 0.5, 1]], np.float32)
    assert not match(found, sample([], [])).any()


def test_average_precision_by_hand() -> None:
    """Ranked hit, miss, hit of two objects: the area under 1 up to recall ½, then 1 falling to ⅔."""
    found = np.array([[0, 0, 1, 1, c, 0] for c in (0.9, 0.8, 0.7)], np.float32)
    correct = np.array([[True] * 10, [False] * 10, [True] * 10])
    images = ImageSet("hand", (sample([], []),))
    evaluation = Evaluation(images, [found], [correct], [np.array([0, 0])])
    assert evaluation.map50_95 == pytest.approx(0.5 + 0.5 * 2 / 3, abs=0.01)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_weighted_map_with_unit_weights_is_the_library_metric(seed: int) -> None:
    evaluation = random_evaluation(seed)
    stacked = np.concatenate(evaluation.detections)
    library = ap_per_class(
        np.concatenate(evaluation.correct), stacked[:, 4], stacked[:, 5],
        np.concatenate(evaluation.targets),
    )[5]  # fmt: skip
    expected = library.mean() if library.size else 0
    assert _WeightedMap(evaluation)(np.ones(12, int)) == pytest.approx(expected, abs=1e-9)


def test_bootstrap_of_a_model_with_itself_is_exactly_zero(report) -> None:
    found = paired_bootstrap(dataclasses.replace(report), report, resamples=50)  # one is drawn for each
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_bootstrap_sees_a_loss_and_is_repeatable() -> None:
    good = random_evaluation(1, images=60)
    assert good.map50_95 > 0.1
    half = [c & (np.arange(len(c)) % 2 == 0)[:, None] for c in good.correct]
    worse = dataclasses.replace(good, correct=half)
    found = paired_bootstrap(worse, good, 300)
    assert found.low < found.value < found.high < 0
    intervals.resampled_map.cache_clear()
    assert found == paired_bootstrap(worse, good, 300)


def test_unequal_image_sets_cannot_be_paired() -> None:
    first, second = random_evaluation(1), random_evaluation(1, images=11)
    with pytest.raises(ValueError, match="same images"):
        paired_bootstrap(first, second)


def test_500_resamples_of_half_the_images_take_less_than_half_a_minute(report) -> None:
    start = time.process_time()
    paired_bootstrap(report, report, resamples=20)
    assert (time.process_time() - start) * 25 < 30


def test_agrees_with_ultralytics_val(report, report_set, weights, tmp_path) -> None:
    data = assets.save_as_yolo(report_set, tmp_path / "images")
    theirs = YOLO(weights).val(
        data=str(data), imgsz=320, rect=False, batch=1, workers=0, plots=False, verbose=False, device="cpu",
        project=str(tmp_path), name="val",
    ).box  # fmt: skip
    assert report.map50_95 == pytest.approx(theirs.map, abs=0.002)
    assert report.map50 == pytest.approx(theirs.map50, abs=0.005)
    assert (report.precision, report.recall) == pytest.approx((theirs.mp, theirs.mr), abs=0.01)


def test_the_mean_over_thresholds_is_the_main_metric(demo_report) -> None:
    thresholds, precision = demo_report.map_by_iou
    assert thresholds[0] == 0.5 and precision[0] == pytest.approx(demo_report.map50)
    assert precision.mean() == pytest.approx(demo_report.map50_95) and precision[-1] < precision[0]
    nothing = accuracy.Evaluation(
        demo_report.images, [np.empty((0, 6))], [np.empty((0, 10), bool)], demo_report.targets
    )
    assert nothing.map_by_iou[1].tolist() == [0] * 10


def test_agrees_with_cocoeval(report, report_set) -> None:
    # On a handful of demo photos one missed object moves the metric by more than on 140.
    tolerance = 0.004 if len(report_set) >= 140 else 0.02
    assert report.map50_95 == pytest.approx(second_opinion.coco_eval(report)["map50_95"], abs=tolerance)


def test_cocoeval_judges_the_classes_of_any_data_set() -> None:
    """Half of the annotated objects are of a class beyond COCO's, and nobody finds them."""
    boxes = [[0, 0, 40, 40], [50, 50, 90, 90]]
    images = ImageSet("own", (sample(boxes, [3, 80]),), tuple(f"class {n}" for n in range(81)))
    found = np.array([[*boxes[0], 0.9, 3]], np.float32)
    judged = second_opinion.coco_eval(
        Evaluation(images, [found], [match(found, images.samples[0])], [images.samples[0].classes])
    )
    assert judged["map50_95"] == pytest.approx(0.5) and judged["large"] == -1


def test_what_was_surely_found_keeps_the_names_of_its_classes() -> None:
    images = ImageSet("own", (sample([[0, 0, 40, 40]], [1]),), ("cat", "dog"))
    found = np.array([[0, 0, 40, 40, 0.9, 1], [50, 50, 90, 90, 0.2, 0]], np.float32)
    truth = as_truth(Evaluation(images, [found], [match(found, images.samples[0])], [np.array([1])]))
    assert truth.names == images.names and truth.samples[0].classes.tolist() == [1]


@pytest.mark.parametrize("candidates", [5, 100, 3000])
def test_of_equal_scores_the_first_is_kept(candidates: int) -> None:
    """Integers of INT8 often tie; what is kept must not depend on what else a process has imported."""
    raw = np.zeros((1, 84, candidates), np.float32)
    raw[0, 0], raw[0, 1] = 100 + np.arange(candidates) / 1000, 100
    raw[0, 2:4], raw[0, 4] = 80, 0.5
    assert accuracy.suppress(raw)[0].tolist() == [[60, 60, 140, 140, 0.5, 0]]


def test_of_equal_scores_the_earlier_image_counts_first() -> None:
    """Of five scores each has a hundred images: at first those with the right detections, then the wrong."""
    images = ImageSet("x", tuple(sample([[0, 0, 10, 10]], [0]) for _ in range(500)))
    scores = np.tile([0.9, 0.5, 0.7, 0.3, 0.6], 100)
    found = [np.array([[0, 0, 10, 10, score, 0]], np.float32) for score in scores]
    correct = [np.full((1, 10), index < 250) for index in range(500)]
    right_first = Evaluation(images, found, correct, [s.classes for s in images.samples])
    wrong_first = Evaluation(images, found, correct[::-1], [s.classes for s in images.samples])
    assert right_first.map50_95 > wrong_first.map50_95 + 0.04
    for one in (right_first, wrong_first):
        assert one.map50_95 == pytest.approx(_WeightedMap(one)(np.ones(500)), abs=1e-9)


def test_detections_in_a_crowd_count_neither_way() -> None:
    image = sample([[0, 0, 10, 10]], [0], crowd=[[0, 50, 50, 100, 100]])
    found = np.array(
        [[60, 60, 70, 70, 0.9, 0], [60, 60, 70, 70, 0.8, 2], [40, 60, 52, 70, 0.7, 0]], np.float32
    )
    assert accuracy.inside_crowd(found, image).tolist() == [True, False, False]


def test_an_evaluation_leaves_out_what_a_crowd_hides(eager, demo) -> None:
    whole = ImageSet("x", demo.samples[:1])
    (found,) = accuracy.evaluate(eager, whole, 320, progress=False).detections
    crowded, *_ = np.unique(found[:, 5])
    (first,) = whole.samples
    alone = dataclasses.replace(
        first,
        boxes=np.zeros((0, 4)), classes=np.zeros(0, int), areas=np.zeros(0),
        crowd=np.array([[crowded, 0, 0, first.width, first.height]]),
    )  # fmt: skip
    (left,) = accuracy.evaluate(eager, ImageSet("x", (alone,)), 320, progress=False).detections
    np.testing.assert_array_equal(left, found[found[:, 5] != crowded])
    assert 0 < len(left) < len(found)


@pytest.mark.parametrize("size", [64, 320, 640])
def test_boxes_come_back_from_the_letterbox(demo, size: int) -> None:
    for image in demo.samples:
        pixels, scale, (left, top) = letterbox(image.path, size)
        assert pixels.shape == (size, size, 3)
        inside = image.boxes * scale + [left, top, left, top]
        assert (inside > -1).all() and (inside < size + 1).all()
        back = to_original(inside, scale, (left, top))
        assert back == pytest.approx(image.boxes, abs=1)


def test_the_original_finds_the_demo_objects(demo_report) -> None:
    assert demo_report.map50 > 0.5


@pytest.mark.parametrize("size", [0, 100, 639])
def test_input_size_must_be_a_multiple_of_32(eager, demo, size: int) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        accuracy.evaluate(eager, demo, size=size)


def test_an_unreadable_image_is_one_clear_error(eager, demo, tmp_path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing")
    images = ImageSet("x", (dataclasses.replace(demo.samples[0], path=broken),))
    with pytest.raises(AssetError, match="cannot be decoded"):
        accuracy.evaluate(eager, images, progress=False)


@pytest.mark.parametrize("same", [400, 20], ids=["few survive", "enough survive"])
def test_fewer_candidates_suppress_alike(same: int, monkeypatch) -> None:
    """Whether the most confident candidates are one object or many: the detections are the same."""
    generator = np.random.default_rng(0)
    raw = np.zeros((1, 84, 900), np.float32)
    raw[0, :2] = generator.uniform(0, 1200, (2, 900))
    raw[0, 2:4] = 30
    raw[0, 4] = generator.uniform(0.01, 0.5, 900)
    raw[0, :2, :same], raw[0, 4, :same] = 300, 0.9
    found = {}
    for few, many in ((900, 900), (400, 400), (400, 900)):
        monkeypatch.setattr(accuracy, "FEW_CANDIDATES", few)
        monkeypatch.setattr(accuracy, "MAX_CANDIDATES", many)
        found[few, many] = accuracy.suppress(raw)[0]
    assert (len(found[400, 400]) < accuracy.MAX_DETECTIONS) == (same == 400)
    np.testing.assert_array_equal(found[400, 900], found[900, 900])


def test_what_survives_is_what_ultralytics_keeps(eager, batch) -> None:
    """Where no two scores are equal."""
    raw = eager(batch)
    (expected,) = non_max_suppression(torch.from_numpy(raw), 0.001, 0.7, multi_label=True, max_det=300)
    assert len(expected) > 100
    np.testing.assert_array_equal(accuracy.suppress(raw)[0], expected.numpy())
