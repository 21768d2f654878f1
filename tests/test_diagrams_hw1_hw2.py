"""The drawings of homeworks 1 and 2: the numbers in them are right, and every word can be read."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from modelcompression.diagrams import feedback, mistakes, quantizer


def words(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts if text.get_text()]


@pytest.mark.parametrize(
    "draw",
    [mistakes.kinds_of_mistakes, quantizer.histograms, quantizer.shared_range, feedback.error_feedback],
)
def test_words_are_large_and_inside_the_sheet(draw) -> None:
    figure = draw()
    assert figure.get_size_inches()[0] <= 8
    figure.canvas.draw()
    sheet = figure.bbox
    texts = [text for axes in figure.axes for text in axes.texts if text.get_text()]
    assert texts and min(text.get_fontsize() for text in texts) >= 10
    for text in texts:
        box = text.get_window_extent()
        assert sheet.x0 <= box.x0 and box.x1 <= sheet.x1 and sheet.y0 <= box.y0 and box.y1 <= sheet.y1


def test_feedback_keeps_the_sum_that_nearest_rounding_loses() -> None:
    rows = feedback.three_weights()
    assert rows[0] == list(feedback.WEIGHTS)
    assert all(value == round(value) for value in rows[3])
    nearest = sum(round(x) for x in feedback.WEIGHTS)
    assert abs(sum(rows[3]) - sum(rows[0])) < abs(nearest - sum(rows[0]))
    assert all(abs(sum(row) - sum(rows[0])) < 0.1 for row in rows[1:3])
    assert feedback.three_weights(alike=0)[3] == [round(x) for x in feedback.WEIGHTS]


def test_an_outlier_leaves_fewer_levels_for_all_others() -> None:
    plain, outlier = (len(axes.patches) for axes in quantizer.histograms(bits=4).axes[1:])
    assert plain == 16 > outlier


def test_more_bits_make_smaller_errors_and_nothing_leaves_the_range() -> None:
    x = np.linspace(-3, 3, 101)
    errors = [np.abs(quantizer.on_levels(x, -3, 3, bits) - x).max() for bits in (2, 4, 8)]
    assert errors == sorted(errors, reverse=True) and errors[-1] <= 3 / 255 * (1 + 1e-9)
    assert np.abs(quantizer.on_levels(10 * x, -1, 1, 8)).max() == pytest.approx(1)


def test_scores_vanish_in_the_range_of_boxes_only() -> None:
    shown = words(quantizer.shared_range(boxes=(500.0,), scores=(0.93,)))
    assert "scores\n0.00" in shown and "scores, range 0…1\n0.93" in shown


def test_every_sketch_is_judged_to_be_what_it_says(monkeypatch) -> None:
    shown = words(mistakes.kinds_of_mistakes())
    assert {"right", "misplaced", "confused", "duplicate", "missed", "invented"} <= set(shown)
    wrong = [("misplaced", [(0.0, 0.0, mistakes.CAT)])]
    monkeypatch.setattr(mistakes, "SKETCHES", wrong)
    with pytest.raises(ValueError, match="sketch of misplaced is judged"):
        mistakes.kinds_of_mistakes()
