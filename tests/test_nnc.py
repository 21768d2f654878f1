"""results/nnc.py: where NNCodec cannot be had, one line says so."""

import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "results"))
import nnc


@pytest.mark.slow
def test_without_an_index_of_packages_it_says_so_in_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(nnc, "FOLDER", tmp_path / "nncodec")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(nnc.NncError, match=r"^NNCodec cannot be had or run here: .*nncodec") as error:
        nnc.main()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "nncodec/ready").exists(), "the next attempt installs"


def test_a_command_that_says_nothing_fails_with_a_line_too() -> None:
    with pytest.raises(nnc.NncError, match="no message"):
        nnc._run(sys.executable, "-c", "raise SystemExit(3)")


def test_coarser_steps_are_smaller_and_farther() -> None:
    table = pd.read_csv(nnc.CSV)
    assert table["qp"].is_monotonic_increasing
    assert table["bytes"].is_monotonic_decreasing and table["nats"].is_monotonic_increasing
