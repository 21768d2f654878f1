"""hw0_skeleton: what its rows say on any machine."""

from modelcompression import ROOT


def test_the_rounded_file_is_a_third_and_detects(smoke_run) -> None:
    rows = smoke_run(ROOT / "hw0_skeleton/skeleton.ipynb").rows
    row = rows.loc["Skeleton, 6 bits"]
    assert row["tags.homework"] == "hw0_skeleton" and row["params.bits"] == "6"
    assert row["metrics.size_mb"] < 6.25 / 3
    assert row["metrics.map50_95_delta"] > -0.2
