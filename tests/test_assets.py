import hashlib
import http.server
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcompression import assets, fetch, subject
from modelcompression.fetch import AssetError

CONTENT = bytes(range(256)) * 800
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class _Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; ``/cut`` breaks off half-way, ``/plain`` ignores ranges."""

    def do_GET(self) -> None:
        start = 0
        given = self.headers.get("Range")
        if given and self.path != "/plain":
            start = int(given.removeprefix("bytes=").rstrip("-"))
            if start >= len(CONTENT):
                self.send_error(416)
                return
        if self.path == "/missing":
            self.send_error(404)
            return
        self.server.ranges.append(start)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = len(CONTENT) // 2 if self.path == "/cut" else len(CONTENT)
        self.wfile.write(CONTENT[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as running:
        running.ranges = []
        running.url = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def test_download_arrives_whole_and_leaves_no_part(server, tmp_path: Path) -> None:
    target = fetch.download(f"{server.url}/whole", tmp_path / "deep" / "file", DIGEST)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("path", ["resumable", "plain"])
def test_a_cut_download_is_no_file_and_is_completed_later(server, tmp_path, path) -> None:
    target = tmp_path / "file"
    with pytest.raises(AssetError):
        fetch.download(f"{server.url}/cut", target, DIGEST)
    assert not target.exists()
    fetch.download(f"{server.url}/{path}", target, DIGEST)
    assert target.read_bytes() == CONTENT
    assert (server.ranges[-1] > 0) == (path == "resumable")


def test_wrong_content_is_refused_and_removed(server, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="sha256 differs"):
        fetch.download(f"{server.url}/whole", tmp_path / "file", "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_stale_part_longer_than_the_file_is_removed(server, tmp_path: Path) -> None:
    part = tmp_path / "file.part"
    part.write_bytes(CONTENT + b"more")
    with pytest.raises(AssetError, match="run again"):
        fetch.download(f"{server.url}/whole", tmp_path / "file", DIGEST)
    assert fetch.download(f"{server.url}/whole", tmp_path / "file", DIGEST).exists()


def test_missing_and_unreachable_are_one_line(server, tmp_path: Path) -> None:
    for url in (f"{server.url}/missing", "http://127.0.0.1:9/closed"):
        with pytest.raises(AssetError, match="cannot fetch") as error:
            fetch.download(url, tmp_path / "file")
        assert "\n" not in str(error.value)


def test_weights_with_a_wrong_hash_are_never_opened(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "yolov8n.pt").write_bytes(b"pickle of evil")
    monkeypatch.setenv("MC_ASSETS", str(tmp_path))
    with pytest.raises(AssetError, match="not the original file"):
        subject.weights()


def test_assets_folder_must_exist(monkeypatch) -> None:
    monkeypatch.setenv("MC_ASSETS", "/no/such/folder")
    with pytest.raises(AssetError, match="MC_ASSETS"):
        subject.weights()


def test_offline_is_noticed_in_seconds_and_leads_to_the_demo_photos(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("MC_ASSETS", raising=False)
    monkeypatch.setattr(fetch, "ROOT", tmp_path)
    offline = assets._Source("coco-val", "val2017", True, "http://127.0.0.1:9")
    monkeypatch.setitem(assets.SOURCES, "coco-val", offline)
    start = time.monotonic()
    images, calibration = assets.report_and_calibration()
    assert time.monotonic() - start < 8
    assert images.name == calibration.name == "demo"
    assert "DEMO PHOTOS" in capsys.readouterr().err


def test_an_explicit_number_of_images_is_never_answered_with_demo_photos(monkeypatch, tmp_path):
    monkeypatch.delenv("MC_ASSETS", raising=False)
    monkeypatch.setattr(fetch, "ROOT", tmp_path)
    offline = assets._Source("coco-val", "val2017", True, "http://127.0.0.1:9")
    monkeypatch.setitem(assets.SOURCES, "coco-val", offline)
    with pytest.raises(AssetError, match="N_IMAGES"):
        assets.report_and_calibration(500)


def test_images_are_fetched_verified_and_found_again(server, monkeypatch, tmp_path: Path) -> None:
    entry = {
        "file": "1.jpg",
        "sha256": DIGEST,
        "width": 4,
        "height": 4,
        "boxes": [[7, 0.5, 0.5, 1, 1]],
    }
    monkeypatch.delenv("MC_ASSETS", raising=False)
    monkeypatch.setattr(fetch, "ROOT", tmp_path)
    monkeypatch.setattr(assets, "listing", lambda name: [entry])
    source = assets._Source("coco128", "train2017", True, server.url)
    monkeypatch.setitem(assets.SOURCES, "coco128", source)
    for requests in (1, 1):
        (sample,) = assets.image_set("coco128", progress=False).samples
        assert sample.path.read_bytes() == CONTENT
        assert sample.boxes.tolist() == [[0, 0, 4, 4]] and sample.classes.tolist() == [7]
        assert len(server.ranges) == requests
    sample.path.write_bytes(b"changed")
    with pytest.raises(AssetError, match="not the original file"):
        assets.image_set("coco128", progress=False)


@pytest.mark.parametrize(("name", "n"), [("coco", None), ("demo", 0), ("coco-val", 5001)])
def test_unknown_set_or_number_is_one_clear_error(name: str, n: int | None) -> None:
    with pytest.raises(AssetError, match=r"choose one of|to offer"):
        assets.image_set(name, n)


@pytest.mark.parametrize(
    "line", ["80 .5 .5 .1 .1", "1.5 .5 .5 .1 .1", "3 .5 .5 .1", "3 .95 .5 .2 .1", "cat .5 .5 .1 .1",
             "3 .5 .5 0 .1", "-1 .5 .5 .1 .1", "3 nan .5 .1 .1"],
)  # fmt: skip
def test_labels_out_of_range_name_file_and_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "photo.txt"
    file.write_text(f"0 .5 .5 .1 .1\n{line}\n")
    with pytest.raises(AssetError, match=r"photo\.txt:2"):
        assets.read_labels(file)


@given(
    st.lists(
        st.tuples(st.integers(0, 79), *[st.floats(0.3, 0.7)] * 2, *[st.floats(0.01, 0.5)] * 2),
        max_size=5,
    )
)
def test_labels_survive_writing_and_reading(tmp_path_factory, rows) -> None:
    file = tmp_path_factory.mktemp("labels") / "photo.txt"
    file.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    assert assets.read_labels(file) == [list(row) for row in rows]


def test_the_listed_sets_are_what_the_documentation_says() -> None:
    val, tuning = assets.listing("coco-val"), assets.listing("coco128")
    extra, more = assets.listing("coco-train-extra"), assets.listing("coco-val-more")
    assert [len(val), len(more), len(tuning), len(extra)] == [281, 719, 128, 259]
    assert sum(len(e["boxes"]) for e in val) == 2263
    assert sum(len(e["boxes"]) for e in more) == 4904
    assert sum(len(e["boxes"]) for e in tuning) == 929
    assert {box[0] for e in val for box in e["boxes"]} == set(range(80))
    people = np.mean([any(box[0] == 0 for box in entry["boxes"]) for entry in val + more])
    assert people == pytest.approx(0.79, abs=0.005)
    digests = [e["sha256"] for e in [*val, *more, *tuning, *extra]]
    assert len(set(digests)) == len(digests), "report and calibration images must not overlap"
    for entry in more:
        for _, x, y, w, h in entry["boxes"]:
            assert w > 0 and h > 0
            assert (
                x - w / 2 >= -1e-5 and x + w / 2 <= 1 + 1e-5 and y - h / 2 >= -1e-5 and y + h / 2 <= 1 + 1e-5
            )
        for _, x, y, w, h in entry.get("crowd", []):
            assert x >= 0 and y >= 0 and x + w <= entry["width"] + 1 and y + h <= entry["height"] + 1


def test_beyond_the_usual_images_come_those_that_confirm(server, monkeypatch, tmp_path: Path) -> None:
    def entry(name: str) -> dict:
        return {"file": name, "sha256": DIGEST, "width": 4, "height": 4, "boxes": []}

    lists = {"coco-val": ["9.jpg"], "coco-val-more": ["3.jpg", "1.jpg"]}
    monkeypatch.setattr(assets, "listing", lambda name: [entry(file) for file in lists[name]])
    monkeypatch.setattr(assets, "_rest_of_val", lambda known, n: [entry("2.jpg")][:n])
    monkeypatch.setenv("MC_ASSETS", str(tmp_path))
    monkeypatch.setattr(fetch, "ROOT", tmp_path / "checkout")
    source = assets._Source("coco-val", "val2017", True, server.url, beside="coco-val-more")
    monkeypatch.setitem(assets.SOURCES, "coco-val", source)
    for folder, file in (("coco-val", "9.jpg"), ("coco-val-more", "3.jpg"), ("coco-val", "1.jpg")):
        place = tmp_path / folder / "images" / "val2017" / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(CONTENT)
    got = [
        [s.path.name for s in assets.image_set("coco-val", n, progress=False).samples] for n in (None, 2, 3)
    ]
    assert got == [["9.jpg"], ["9.jpg", "3.jpg"], ["9.jpg", "3.jpg", "1.jpg"]]
    assert server.ranges == []  # both folders were searched
    fourth = assets.image_set("coco-val", 4, progress=False).samples[3].path
    assert fourth == tmp_path / "checkout" / "assets" / "coco-val" / "images" / "val2017" / "2.jpg"


def test_saved_as_yolo_reads_back_to_the_same_boxes(demo, tmp_path: Path) -> None:
    assets.save_as_yolo(demo, tmp_path)
    for sample in demo.samples:
        rows = assets.read_labels(tmp_path / "labels" / f"{sample.path.stem}.txt")
        assert [row[0] for row in rows] == sample.classes.tolist()
        for (_, x, y, w, h), box in zip(rows, sample.boxes, strict=True):
            corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            sizes = [sample.width, sample.height] * 2
            assert [c * s for c, s in zip(corners, sizes, strict=True)] == pytest.approx(box, abs=0.01)
