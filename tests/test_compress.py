"""A detector of one's own: data sets, trust, and files that detect what the original detects."""

import copy
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import shapes
import torch
import yaml
from click.testing import CliRunner
from ultralytics.nn.tasks import SegmentationModel

from modelcompression import ROOT, cli, compress, dataset
from modelcompression.fetch import AssetError, sha256
from modelcompression.packed import checkpoint

MODELS = ROOT / "tests" / "models"
NAMES = shapes.CLASSES


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photographs to tune, twelve to judge."""
    return shapes.write(tmp_path_factory.mktemp("shapes"), train=12, val=12, size=160)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as ultralytics writes it, of a YOLO11n that has learnt shapes."""
    model = checkpoint.load(MODELS / "yolo11n-shapes.mcpk").model
    model.args["imgsz"] = 160
    path = tmp_path_factory.mktemp("trained") / "best.pt"
    torch.save({"model": copy.deepcopy(model).half(), "train_args": dict(model.args)}, path)
    return path


def edited(data: Path, folder: Path, **changes: object) -> Path:
    """The same data set in another YAML; what is None is left out."""
    described = yaml.safe_load(data.read_text()) | changes
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in described.items() if value is not None}))
    return path


def test_a_data_set_is_read_as_ultralytics_reads_it(data: Path) -> None:
    train, val = dataset.from_yaml(data, NAMES, 200)
    assert (len(train), len(val), val.names) == (12, 12, NAMES)
    _, boxes = shapes.example("val", 0)
    sample = val.samples[0]
    assert sample.classes.tolist() == [label for label, *_ in boxes]
    x, y, w, h = 160 * np.array(boxes)[0, 1:]
    assert np.allclose(sample.boxes[0], [x - w / 2, y - h / 2, x + w / 2, y + h / 2], atol=1e-3)
    assert not {s.path for s in train.samples} & {s.path for s in val.samples}


@pytest.mark.parametrize("where", ["the yaml", "the current folder", "datasets_dir"])
def test_paths_may_be_relative_to(where: str, data: Path, tmp_path: Path, monkeypatch) -> None:
    from ultralytics.utils import SETTINGS

    monkeypatch.setitem(
        SETTINGS, "datasets_dir", str(data.parents[1] if where == "datasets_dir" else tmp_path)
    )
    monkeypatch.chdir(data.parents[1] if where == "the current folder" else tmp_path)
    folder = data.parents[1] if where == "the yaml" else tmp_path
    file = edited(data, folder, path=data.parent.name)
    assert len(dataset.from_yaml(file, NAMES, 200)[0]) == 12


def test_a_polygon_stands_for_the_box_around_it(data: Path, tmp_path: Path) -> None:
    label = tmp_path / "label.txt"
    label.write_text("\ufeff2 0.1 0.2 0.5 0.2 0.3 0.6\n\n")
    assert np.allclose(dataset._rows(label, 5), [[2, 0.3, 0.4, 0.4, 0.4]])


@pytest.mark.parametrize(
    "line", ["5 .5 .5 .1 .1", "0 .5 .5 .1", "0 .5 .5 0 .1", "a b c d e", "0 nan .5 .1 .1", "0 9 .5 1 1"]
)
def test_a_malformed_label_is_named(line: str, tmp_path: Path) -> None:
    label = tmp_path / "label.txt"
    label.write_text(f"0 .5 .5 .1 .1\n{line}\n")
    with pytest.raises(AssetError, match=r"label\.txt:2: .*correct the line"):
        dataset._rows(label, 5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"names": ["circle", "square"]}, "has 2 classes, the model 5"),
        ({"names": [*NAMES[:-1], "moon"]}, "class 4 is 'moon' in"),
        ({"val": None}, "needs the keys names, train and val"),
        ({"val": "images/test"}, "names 'images/test', which is neither"),
        ({"path": "/nowhere"}, "which is neither"),
        ({"val": "labels/val"}, "has 0 photographs"),
    ],
)
def test_a_data_set_that_does_not_fit_is_refused(changes, reason: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=reason) as caught:
        dataset.from_yaml(edited(data, tmp_path, **changes), NAMES, 200)
    assert "\n" not in str(caught.value)


def test_a_folder_needs_enough_photographs(data: Path, tmp_path: Path) -> None:
    for count in (0, 3):
        folder = tmp_path / str(count)
        folder.mkdir()
        for file in sorted((data.parent / "images/val").iterdir())[:count]:
            (folder / file.name).write_bytes(file.read_bytes())
        with pytest.raises(AssetError, match=f"holds {count} photographs, at least 8"):
            dataset.from_folder(folder, NAMES, 200)
    (tmp_path / "3" / "half.png").write_bytes(b"\x89PNG")
    used, shown = dataset.from_folder(data.parent / "images/val", NAMES, 200)
    assert len(used) == 9 and len(shown) == 3 and not any(len(s.classes) for s in used.samples)


def command(*arguments: object) -> str:
    """One line of error; exit status 1."""
    result = CliRunner().invoke(cli.cli, ["compress", *map(str, arguments)])
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_a_file_of_somebody_else_is_not_opened(tmp_path: Path, data: Path) -> None:
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    trap = tmp_path / "best.pt"
    trap.write_bytes(pickle.dumps(Trap()))
    assert "is a pickle" in command(trap, "--data", data)
    assert "it is another file" in command(trap, "--data", data, "--sha256", "0" * 64)
    assert not (tmp_path / "sprung").exists()
    assert "no ultralytics checkpoint" in command(trap, "--data", data, "--sha256", sha256(trap))


def test_what_is_no_detector_is_refused(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "segment.pt"
    torch.save({"model": SegmentationModel("yolov8n-seg.yaml", verbose=False), "train_args": {}}, path)
    assert "ends in Segment: only detectors" in command(path, "--data", data, "--trust")
    path.write_bytes(b"no checkpoint")
    assert "no ultralytics checkpoint" in command(path, "--data", data, "--trust")
    assert "does not exist" in command(tmp_path / "none.pt", "--data", data)


def test_the_model_says_what_is_missing(trained: Path, data: Path, tmp_path: Path) -> None:
    assert "--data my.yaml, or --images" in command(trained, "--trust")
    assert "is no folder" in command(trained, "--trust", "--images", tmp_path / "none")
    assert "cannot be read" in command(trained, "--trust", "--data", tmp_path / "none.yaml")


@pytest.fixture(scope="module")
def compressed(trained: Path, data: Path, tmp_path_factory) -> tuple[list, Path]:
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compress, "SEARCHES", 1)
        wish = compress.Wish(trained, data, None, "both", 0.5, out, True, None, 1)
        return compress.compress(wish), out


@pytest.mark.slow
def test_each_form_detects_what_the_original_detects(compressed) -> None:
    outcomes, _ = compressed
    assert [outcome.name for outcome in outcomes] == ["original", "fast", "small", "small and fast"]
    for outcome in outcomes[1:]:
        assert outcome.loss.labelled and outcome.loss.value < 0.1, outcome.name
        assert outcome.loss.value <= outcome.loss.bound
    _, fast, small, both = (outcome.megabytes for outcome in outcomes)
    assert small < both < fast < 3.5 and small < 1.3


@pytest.mark.slow
def test_the_files_run_as_the_report_says(compressed, data: Path, monkeypatch, tmp_path: Path) -> None:
    outcomes, out = compressed
    photograph = sorted((data.parent / "images/val").iterdir())[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(photograph.read_bytes())
    found = []
    for outcome in outcomes[1:]:
        exec("\n".join(outcome.lines), names := {})
        yolo = names["yolo"]
        boxes = yolo.predict(photograph, imgsz=160, verbose=False)[0].boxes
        found.append(sorted(yolo.names[int(c)] for c in boxes.cls[boxes.conf > 0.5]))
    assert found[0] == found[1] == found[2] != []
    text = (out / "report.md").read_text(encoding="utf8")
    assert all("\n".join(outcome.lines) in text for outcome in outcomes[1:])
    assert (out / "report.html").is_file() and (out / "detections.jpg").stat().st_size > 10_000


@pytest.mark.slow
def test_a_second_start_goes_on_from_where_the_first_was(
    compressed, trained, data: Path, monkeypatch
) -> None:
    outcomes, out = compressed
    monkeypatch.setattr(compress, "SEARCHES", 1)
    monkeypatch.setattr(compress.Rounder, "write", None)
    monkeypatch.setattr(compress.quantization, "int8", None)
    again = compress.compress(compress.Wish(trained, data, None, "both", 0.5, out, True, None, 1))
    assert [outcome.loss for outcome in again] == [outcome.loss for outcome in outcomes]


@pytest.mark.slow
def test_without_labels_agreement_is_promised(trained, data: Path, tmp_path: Path) -> None:
    folder = data.parent / "images"
    wish = compress.Wish(trained, None, folder, "fast", 0.5, tmp_path, True, None, 1)
    _, fast = compress.compress(wish)
    assert not fast.loss.labelled and 0 <= fast.loss.value < 0.2
    assert "less agreement" in (tmp_path / "report.md").read_text(encoding="utf8")
