"""results/measure_nncodec.py: where NNCodec cannot be had, one line says so."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "results"))
import measure_nncodec


@pytest.mark.slow
def test_without_an_index_of_packages_it_says_so_in_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(measure_nncodec, "FOLDER", tmp_path / "nncodec")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        measure_nncodec.NncError, match=r"^NNCodec cannot be had or run here: .*nncodec"
    ) as error:
        measure_nncodec.main()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "nncodec/ready").exists(), "the next attempt installs"


def test_a_command_that_says_nothing_fails_with_a_line_too() -> None:
    with pytest.raises(measure_nncodec.NncError, match="no message"):
        measure_nncodec._run(sys.executable, "-c", "raise SystemExit(3)")


def test_a_decoder_that_drops_or_renames_a_tensor_is_noticed() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    state = {name: value.numpy() + 1 for name, value in model.state_dict().items()}
    filled = measure_nncodec._filled(model, state).state_dict()
    assert all((filled[name].numpy() == state[name]).all() for name in state)
    for wrong in ({"0.weight": state["0.weight"]}, {**state, "0.scale": state["0.bias"]}):
        with pytest.raises(measure_nncodec.NncError, match=r"other tensors.*0\.(bias|scale)"):
            measure_nncodec._filled(model, wrong)


def test_coarser_steps_are_smaller_and_farther() -> None:
    table = pd.read_csv(measure_nncodec.CSV)
    assert table["qp"].is_monotonic_increasing
    assert table["bytes"].is_monotonic_decreasing and table["nats"].is_monotonic_increasing
