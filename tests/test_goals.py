"""What is worth confirming: whatever may turn out to be best, and nothing that another one beats."""

import pandas as pd

from modelcompression.goals import shortlist, winner

COLUMNS = ["experiment", "map50_95_delta", "map50_95_delta_lo", "size_ratio", "speedup"]


def table(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS)


def test_what_may_keep_within_a_limit_is_confirmed_unless_another_is_better_in_all() -> None:
    shown = table(
        ("sure", 0.0, -0.005, 1.0, 1.0),
        ("perhaps", -0.004, -0.02, 4.0, 0.9),
        ("smaller, perhaps", -0.009, -0.03, 6.0, 0.9),
        ("beaten", -0.005, -0.02, 3.0, 0.8),
        ("too bad for any goal", -0.05, -0.07, 9.0, 9.0),
    )
    assert winner(shown, "size_ratio", 0.01)["experiment"] == "sure"
    assert set(shortlist(shown)) == {"sure", "perhaps", "smaller, perhaps"}


def test_what_a_confirmed_row_beats_for_sure_needs_no_look() -> None:
    shown = table(("fast", -0.002, -0.02, 1.0, 5.0), ("slower", 0.001, -0.02, 0.9, 3.0))
    assert set(shortlist(shown)) == {"fast", "slower"}
    shown["confirmed_loss_bound"] = [0.008, float("nan")]
    assert shortlist(shown) == ["fast"]


def test_opponents_and_the_first_table_stand_beside_the_winners() -> None:
    shown = table(("Weight clustering", -0.07, -0.09, 3.0, 1.0), ("OpenVINO", 0.0, 0.0, 0.5, 1.6))
    assert set(shortlist(shown)) == {"OpenVINO", "Weight clustering"}
