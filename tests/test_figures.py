"""What the shared pictures say."""

import pytest

from modelcompression import figures


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
