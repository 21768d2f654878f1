"""From a photograph to boxes: the same boxes as ultralytics', no library too many, bad input in one line."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import THREADS
from ultralytics.utils.nms import non_max_suppression

from modelcompression import ROOT
from modelcompression.boxes import Box, best_boxes, draw_boxes
from modelcompression.cards import ModelMissing
from modelcompression.cli import cli
from modelcompression.detect import Model
from modelcompression.detector import DetectorError, TorchDetector
from modelcompression.frames import PictureError, film, photograph
from modelcompression.images import fit, letterbox, to_batch
from modelcompression.packed import checkpoint
from modelcompression.packed.tensors import PackedCheckpointError


@pytest.fixture(scope="module")
def model(packed_int8: Path) -> Model:
    return Model(packed_int8, size=320, threads=THREADS)


@pytest.fixture(scope="module")
def folder(demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs as a user has them, and a video of three frames."""
    folder = tmp_path_factory.mktemp("holiday")
    for name in ("bus", "zidane"):
        (source,) = (s.path for s in demo.samples if s.path.stem == name)
        (folder / source.name).write_bytes(source.read_bytes())
    frame = cv2.resize(cv2.imread(str(folder / "zidane.jpg")), (320, 192))
    writer = cv2.VideoWriter(str(folder / "film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 12, (320, 192))
    for _ in range(3):
        writer.write(frame)
    writer.release()
    return folder


def called(*words: str | Path, model: Path, code: int = 0) -> str:
    """What ``modelcompression detect`` prints on the standard output; with an error its one line."""
    settings = ["--model", str(model), "--size", "320", "--threads", str(THREADS)]
    done = CliRunner().invoke(cli, ["detect", *map(str, words), *settings])
    assert done.exit_code == code, done.output
    return done.stderr if code else done.stdout


@pytest.mark.parametrize("confidence", [0.001, 0.25])
def test_boxes_are_those_of_ultralytics(eager: TorchDetector, demo, confidence: float) -> None:
    for sample in demo.samples:
        raw = eager(to_batch(letterbox(sample.path, 320)[0]))
        (expected,) = non_max_suppression(torch.from_numpy(raw), confidence, 0.7, max_det=300)
        found = best_boxes(raw[0].T, confidence)
        assert len(found) == len(expected)
        assert np.allclose(found, expected.numpy(), atol=2e-3), sample.path.name


def test_nothing_above_the_confidence_is_no_box() -> None:
    assert best_boxes(np.zeros((5, 84), np.float32), 0.25).shape == (0, 6)


def test_a_photograph_gives_boxes_in_its_own_pixels(model: Model, demo, folder: Path) -> None:
    found = model(folder / "bus.jpg")
    (sample,) = (s for s in demo.samples if s.path.stem == "bus")
    (bus,) = (box for box in found if box.name == "bus")
    assert [box.confidence for box in found] == sorted((box.confidence for box in found), reverse=True)
    assert sum(box.name == "person" for box in found) >= 2
    true = sample.boxes[list(sample.classes).index(5)]
    assert np.abs(np.array([bus.x1, bus.y1, bus.x2, bus.y2]) - true).max() < 0.05 * sample.width
    assert model(photograph(folder / "bus.jpg")) == found
    assert Model(model.path, 0.8, 320, THREADS)(folder / "bus.jpg") == [
        b for b in found if b.confidence > 0.8
    ]


def test_without_an_int8_graph_it_runs_under_pytorch(eager, folder: Path, tmp_path: Path) -> None:
    file = checkpoint.save(tmp_path / "half.mcpk", eager.model, {})
    found = Model(file, size=320, threads=THREADS)(folder / "zidane.jpg")
    pixels, scale, offset = fit(photograph(folder / "zidane.jpg"), 320, square=False)
    expected = best_boxes(eager(to_batch(pixels))[0].T, 0.25)
    assert len(found) == len(expected) > 1
    left = (expected[:, 0] - offset[0]) / scale
    assert np.allclose([box.x1 for box in found], np.maximum(left, 0), atol=0.5)


def test_without_a_graph_it_sees_what_it_was_trained_for(eager, folder: Path, tmp_path: Path) -> None:
    model = copy.deepcopy(eager.model)
    model.args = model.args | {"imgsz": 200}
    trained = Model(checkpoint.save(tmp_path / "small.mcpk", model, {}), threads=THREADS)
    assert trained.size == 224
    asked = Model(trained.path, size=224, threads=THREADS)
    assert trained(folder / "zidane.jpg") == asked(folder / "zidane.jpg") != []


def test_neither_pytorch_nor_ultralytics_nor_the_network_is_needed(packed_int8: Path, folder: Path) -> None:
    """Nothing of what requirements.txt has and requirements-detect.txt has not."""
    wanted = {name: (ROOT / f"requirements{name}.txt").read_text().splitlines() for name in ("", "-detect")}
    assert set(wanted["-detect"][1:]) < set(wanted[""])
    named = [
        re.match(r"[\w-]+", line)[0] for line in set(wanted[""]) - set(wanted["-detect"]) if line[0] != "#"
    ]
    imported = {"scikit-image": "skimage", "scikit-learn": "sklearn", "faster-coco-eval": "faster_coco_eval"}
    others = {imported.get(name, name) for name in named}
    assert {"torch", "ultralytics", "pandas", "mlflow", "nncf"} < others
    code = f"""
import socket, sys
def refuse(*_): raise AssertionError("no network")
socket.socket.connect = refuse
from modelcompression.detect import Model
print(len(Model({str(packed_int8)!r}, size=320)({str(folder / "bus.jpg")!r})))
from modelcompression.looking import Looking
print(sorted({others} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    boxes, modules = done.stdout.split("\n")[:2]
    assert int(boxes) > 2 and modules == "[]", done.stderr


def test_drawn_boxes_are_where_the_objects_are() -> None:
    grey = np.full((100, 200, 3), 90, np.uint8)
    picture = draw_boxes(grey, [Box("cat", 0.9, 120, 40, 180, 90)])
    assert picture.shape == grey.shape and (grey == 90).all()
    changed = (picture != 90).any(2)
    assert changed[88:92, 120:180].any(0).all() and changed[40:90, 178:182].any(1).all()
    assert not changed[60:80, 130:170].any()
    at_the_edge = draw_boxes(grey, [Box("traffic light", 0.9, 190, 0, 200, 10)])
    assert (at_the_edge != 90).any(2)[:, 170].any(), "the label is moved into the picture"


def test_no_name_hides_another() -> None:
    grey = np.full((200, 300, 3), 90, np.uint8)
    cats = [
        Box("cat", 0.9, 20, 60, 280, 190),
        Box("cat", 0.5, 20, 62, 200, 180),
        Box("cat", 0.3, 60, 60, 90, 80),
    ]

    def white(boxes: list[Box]) -> int:
        return int((draw_boxes(grey, boxes) == 255).all(2).sum())

    assert white(cats) == sum(white([cat]) for cat in cats) > 0
    in_a_row = [Box("cat", 0.9, 0, 195, 300, 200)] * 40
    assert white(in_a_row) > 0, "where there is no room left, names lie on each other"


def test_the_python_api_draws(model: Model, folder: Path, tmp_path: Path) -> None:
    model.drawn(folder / "bus.jpg").save(tmp_path / "boxes.png")
    before, after = photograph(folder / "bus.jpg"), photograph(tmp_path / "boxes.png")
    assert before.shape == after.shape and 0.005 < (before != after).any(2).mean() < 0.5


def test_the_command_says_what_is_there_and_writes_nothing(packed_int8: Path, folder: Path) -> None:
    before = sorted(folder.iterdir())
    said = called(folder, model=packed_int8)
    assert "bus.jpg: 1 bus, " in said and "zidane.jpg: " in said and "person" in said
    assert sorted(folder.iterdir()) == before


def test_json_lines_hold_every_box(model: Model, packed_int8: Path, folder: Path) -> None:
    lines = called(folder / "bus.jpg", folder / "film.mp4", "--json", model=packed_int8).splitlines()
    photo, *frames = map(json.loads, lines)
    assert photo["source"] == str(folder / "bus.jpg")
    assert [Box(**box) for box in photo["boxes"]] == model(folder / "bus.jpg")
    assert [frame["frame"] for frame in frames] == [0, 1, 2]
    assert all(any(box["name"] == "person" for box in frame["boxes"]) for frame in frames)


def test_pictures_and_films_are_saved_where_one_asks(packed_int8: Path, folder: Path, tmp_path: Path) -> None:
    save = tmp_path / "new" / "boxes"
    said = called(folder, folder / "bus.jpg", folder / "film.mp4", "--save", save, model=packed_int8)
    assert "film.mp4: 3 frames, " in said and "frames a second" in said
    names = sorted(path.name for path in save.iterdir())
    assert names == ["bus-2.jpg", "bus.jpg", "film.mp4", "zidane.jpg"]
    shown = film(str(save / "film.mp4"))
    assert len(list(shown.frames)) == 3 == shown.length and shown.rate == 12
    assert (photograph(save / "bus.jpg") == photograph(save / "bus-2.jpg")).all()


def test_photographs_are_never_overwritten(packed_int8: Path, folder: Path) -> None:
    before = (folder / "bus.jpg").read_bytes()
    for source in (folder, folder / "film.mp4"):
        assert "would be overwritten" in called(source, "--save", folder, model=packed_int8, code=1)
    assert (folder / "bus.jpg").read_bytes() == before


def test_no_given_file_is_overwritten_by_another_ones_picture(packed_int8, folder, tmp_path) -> None:
    place = tmp_path / "my films"
    place.mkdir()
    for source, name in (("film.mp4", "clip.mp4"), ("bus.jpg", "a.jpeg"), ("zidane.jpg", "a.jpg")):
        (place / name).write_bytes((folder / source).read_bytes())
    before = {path: path.read_bytes() for path in place.iterdir()}
    for source in (place / "clip.mp4", place):
        assert "would be overwritten" in called(source, "--save", place, model=packed_int8, code=1)
    assert {path: path.read_bytes() for path in place.iterdir()} == before


def test_each_photograph_has_a_picture_of_its_own(packed_int8, folder, tmp_path) -> None:
    for name in ("a-2.jpg", "a.jpeg", "a.jpg", "A.JPG"):
        (tmp_path / name).write_bytes((folder / "bus.jpg").read_bytes())
    called(tmp_path, "--save", tmp_path / "boxes", model=packed_int8)
    saved = [path.name for path in (tmp_path / "boxes").iterdir()]
    assert len({name.casefold() for name in saved}) == len(saved) == 4, saved


def test_a_film_that_cannot_be_written_is_named(packed_int8, folder, tmp_path, monkeypatch) -> None:
    class Refused:
        fourcc = staticmethod(cv2.VideoWriter.fourcc)

        def __init__(self, *_: object) -> None:
            pass

        def isOpened(self) -> bool:
            return False

    monkeypatch.setattr(cv2, "VideoWriter", Refused)
    said = called(folder / "film.mp4", "--save", tmp_path, model=packed_int8, code=1)
    assert f"{tmp_path / 'film.mp4'} cannot be written as a video" in said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jpg", None, "does not exist: give a photograph, a folder"),
        ("text.jpg", b"no picture", "is no photograph that can be decoded"),
        ("empty.png", b"", "is no photograph that can be decoded"),
        ("film.mp4", b"no film at all", "is no video that can be read"),
        ("none.mp4", None, "does not exist"),
        ("empty", ..., "holds no photograph (.jpg, "),
        ("97", None, "camera 97 is not there or in use"),
    ],
)
def test_what_is_no_picture_is_one_line(packed_int8, tmp_path, monkeypatch, name, content, message) -> None:
    monkeypatch.chdir(tmp_path)
    if content is ...:
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    said = called(name, model=packed_int8, code=1)
    assert said.startswith("error: ") and message in said and said.count("\n") == 1


def test_one_bad_photograph_stops_no_others(packed_int8: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    (tmp_path / "good.jpg").write_bytes((folder / "zidane.jpg").read_bytes())
    given = (tmp_path, folder / "bus.jpg", tmp_path / "none.jpg", "--save", tmp_path / "boxes")
    said = called(*given, model=packed_int8, code=1)
    assert said.count("warning: ") == 2 and "2 of what was given could not be read" in said
    assert sorted(path.name for path in (tmp_path / "boxes").iterdir()) == ["bus.jpg", "good.jpg"]


def test_a_bad_model_is_one_line(packed_int8: Path, folder: Path, tmp_path: Path) -> None:
    data = bytearray(packed_int8.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged.mcpk").write_bytes(data)
    for file, message in (
        (tmp_path / "none.mcpk", "there is no model"),
        (tmp_path / "damaged.mcpk", "damaged: the SHA-256 digest does not match"),
        (folder / "bus.jpg", "this is no packed checkpoint"),
    ):
        said = called(folder / "bus.jpg", model=file, code=1)
        assert said.startswith("error: ") and message in said and said.count("\n") == 1
    with pytest.raises(PackedCheckpointError):
        Model(folder / "bus.jpg")
    with pytest.raises(ModelMissing):
        Model("nothing of that name")


@pytest.mark.parametrize(
    "wrong", [{"confidence": 0.0}, {"confidence": float("nan")}, {"size": 100}, {"size": 0}, {"threads": 0}]
)
def test_settings_out_of_range_are_refused(packed_int8: Path, wrong: dict) -> None:
    with pytest.raises(DetectorError, match="must be"):
        Model(packed_int8, **wrong)


def test_pixels_of_another_kind_are_refused(model: Model) -> None:
    for pixels in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(DetectorError, match=r"must be \(H, W, 3\) uint8 RGB"):
            model(pixels)
    with pytest.raises(PictureError, match="cannot be read"):
        model("none.jpg")
