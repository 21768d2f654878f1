"""What is fetched before a notebook starts, and what is not."""

import os
from pathlib import Path

import pytest

from modelcompression import prefetch
from modelcompression.fetch import AssetError, UnreachableError


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The names of what was asked for; ``MISSING`` in the environment names a set that is out of reach."""
    names: list[str] = []

    def image_set(name: str) -> None:
        names.append(name)
        if name == os.environ.get("MISSING"):
            raise UnreachableError(f"{name} is out of reach")

    monkeypatch.delenv("MC_ASSETS", raising=False)
    monkeypatch.setattr(prefetch, "image_set", image_set)
    monkeypatch.setattr(prefetch, "weights", lambda: names.append("weights"))
    return names


@pytest.fixture
def notebooks(tmp_path: Path) -> list[Path]:
    """One that only calibrates, and one that learns."""
    paths = [tmp_path / "calibrates.ipynb", tmp_path / "learns.ipynb"]
    paths[0].write_text("hw.calibration")
    paths[1].write_text("for path in hw.photographs")
    return paths


def test_what_a_notebook_uses_is_fetched_first(asked, notebooks) -> None:
    prefetch.fetch_needed(notebooks[:1], publishing=True, smoke=False)
    assert asked == ["weights", "coco-val", "coco128"]
    prefetch.fetch_needed(notebooks, publishing=True, smoke=True)
    assert asked[3:] == ["weights", "coco-val", "coco128"]
    prefetch.fetch_needed(notebooks, publishing=True, smoke=False)
    assert asked[6:] == ["weights", "coco-val", "coco128", "coco-train-extra"]


def test_for_ones_own_nothing_of_yolov8n_or_coco_is_fetched(asked, notebooks) -> None:
    prefetch.fetch_needed(notebooks, False, False, {"WEIGHTS": "best.pt", "DATA": "my.yaml", "TRUST": True})
    assert asked == []
    prefetch.fetch_needed(notebooks, False, True, {"WEIGHTS": "best.pt", "TRUST": True})
    assert asked == ["coco-val", "coco128"]


@pytest.mark.parametrize(
    ("missing", "instead"), [("coco128", "demo photos"), ("coco-train-extra", "without")]
)
def test_what_is_out_of_reach_stops_a_publication_alone(
    missing, instead, asked, notebooks, monkeypatch, capsys
):
    monkeypatch.setenv("MISSING", missing)
    prefetch.fetch_needed(notebooks, publishing=False, smoke=False)
    said = capsys.readouterr().err
    assert said.startswith(f"{missing} is out of reach\nGoing on") and instead in said
    with pytest.raises(UnreachableError):
        prefetch.fetch_needed(notebooks, publishing=True, smoke=False)


def test_a_relative_folder_of_assets_is_the_same_in_the_notebooks(
    asked, notebooks, tmp_path, monkeypatch
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MC_ASSETS", "photos")
    prefetch.fetch_needed(notebooks, publishing=False, smoke=True)
    assert os.environ["MC_ASSETS"] == str(tmp_path / "photos")
    monkeypatch.setenv("MC_ASSETS", "nothing")
    with pytest.raises(AssetError, match="is not a folder"):
        prefetch.fetch_needed(notebooks, publishing=False, smoke=True)
