import codecs
import hashlib
import http.server
import io
import os
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import ultralytics
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from modelcompression import ROOT, assets, fetch, labels, subject
from modelcompression.fetch import AssetError, StorageError, UnreachableError
from modelcompression.images import letterbox
from modelcompression.subject import class_names

CONTENT = bytes(range(256)) * 800
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class _Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; ``/cut`` breaks off half-way, ``/plain`` ignores ranges, ``/slow`` takes its time.

    A path in ``server.answers`` (or every path below a folder in it) has another status and content.
    """

    def do_GET(self) -> None:
        start = 0
        for path, (status, content) in self.server.answers.items():
            if self.path.startswith(path):
                self.server.ranges.append(0)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                return
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
        pieces = 8 if self.path == "/slow" else 1
        for piece in np.array_split(np.frombuffer(CONTENT[start:end], np.uint8), pieces):
            self.wfile.write(piece.tobytes())
            time.sleep(0.05 * (pieces > 1))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as running:
        running.ranges, running.answers = [], {}
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


def test_a_part_that_is_whole_already_becomes_the_file(server, tmp_path: Path) -> None:
    """Killed between the last byte and the new name."""
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert fetch.download(f"{server.url}/whole", tmp_path / "file", DIGEST).read_bytes() == CONTENT
    assert server.ranges == [] and os.listdir(tmp_path) == ["file"]


def test_missing_and_unreachable_are_one_line(server, tmp_path: Path) -> None:
    for url in (f"{server.url}/missing", "http://127.0.0.1:9/closed"):
        with pytest.raises(AssetError, match="cannot fetch") as error:
            fetch.download(url, tmp_path / "file")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("digest", [DIGEST, None])
def test_processes_that_fetch_the_same_file_agree(server, tmp_path: Path, digest) -> None:
    code = "import sys; from pathlib import Path; from modelcompression import fetch\n"
    code += f"fetch.download({server.url + '/slow'!r}, Path('file').absolute(), {digest!r}, quiet=True)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    processes = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) for _ in range(3)
    ]
    assert [process.communicate(timeout=60)[1] for process in processes] == [b"", b"", b""]
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["file"]
    assert len(server.ranges) < 3 or digest is None


def test_threads_that_fetch_the_same_file_ask_once(server, tmp_path: Path) -> None:
    target = tmp_path / "file"
    threads = [threading.Thread(target=fetch.download, args=(f"{server.url}/slow", target)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT and len(server.ranges) == 1


def test_a_part_that_another_answer_continues_is_not_used(server, tmp_path: Path, monkeypatch) -> None:
    """A server may answer another range than it was asked for."""
    (tmp_path / "file.part").write_bytes(CONTENT[:100])
    wrong = {"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"}
    send = _Server.end_headers

    def end_headers(self) -> None:
        for name, value in wrong.items():
            self.send_header(name, value)
        send(self)

    monkeypatch.setattr(_Server, "end_headers", end_headers)
    with pytest.raises(AssetError, match="run again"):
        fetch.download(f"{server.url}/whole", tmp_path / "file")
    assert os.listdir(tmp_path) == []


PAGE = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"
REFUSALS = [
    (403, b"no", "HTTP 403"),
    (404, b"", "HTTP 404"),
    (407, b"", "HTTP 407"),
    (503, PAGE, "HTTP 503"),
    (200, PAGE, "a web page"),
    (200, b"<html>", "a web page"),
    (200, b"\xef\xbb\xbf<?xml version='1.0'?><Error/>", "a web page"),
    (200, b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
]


@pytest.mark.parametrize(("status", "content", "says"), REFUSALS)
def test_a_server_that_refuses_is_as_good_as_none(
    server, monkeypatch, tmp_path, capsys, status, content, says
):
    monkeypatch.delenv("MC_ASSETS", raising=False)
    monkeypatch.setattr(fetch, "ROOT", tmp_path)
    server.answers["/"] = status, content
    for name in ("coco-val", "coco128"):
        monkeypatch.setitem(assets.SOURCES, name, assets._Source(name, "", True, f"{server.url}/val2017"))
    images, _ = assets.report_and_calibration()
    assert images.name == "demo"
    said = capsys.readouterr().err
    assert says in said and assets.listing("coco-val")[0]["file"] in said
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with pytest.raises(AssetError, match=r"N_IMAGES") as error:
        assets.report_and_calibration(500)
    assert says in str(error.value)


def test_a_proxy_that_refuses_to_connect_is_named(server, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("https_proxy", server.url)  # it knows no CONNECT
    with pytest.raises(fetch.NotServedError, match="the proxy answers 501"):
        fetch.download("https://example.org/file", tmp_path / "file")


def test_a_server_that_fails_later_is_not_answered_with_demo_photos(server, monkeypatch, tmp_path) -> None:
    entries = [{"file": f"{n}.jpg", "sha256": DIGEST, "width": 4, "height": 4, "boxes": []} for n in (1, 2)]
    monkeypatch.delenv("MC_ASSETS", raising=False)
    monkeypatch.setattr(fetch, "ROOT", tmp_path)
    monkeypatch.setattr(assets, "listing", lambda name: entries)
    monkeypatch.setitem(assets.SOURCES, "coco-val", assets._Source("coco-val", "", True, server.url))
    server.answers["/2"] = 503, b""
    with pytest.raises(AssetError, match="HTTP 503") as error:
        assets.report_and_calibration()
    assert not isinstance(error.value, UnreachableError)


@pytest.mark.parametrize("place", ["a read-only folder", "a file in the way", "a full disk"])
def test_what_cannot_be_stored_is_one_clear_error(server, tmp_path: Path, monkeypatch, place) -> None:
    target = tmp_path / "deep" / "file"
    if place == "a read-only folder":
        tmp_path.chmod(0o500)
        if os.access(tmp_path, os.W_OK):  # the administrator may write everywhere, but not here
            target = Path("/proc/deep/file")
    elif place == "a file in the way":
        target.parent.write_text("")
    else:
        target.parent.mkdir()
        target.with_name("file.part").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="MC_ASSETS") as error:
        fetch.download(f"{server.url}/whole", target, DIGEST)
    tmp_path.chmod(0o700)
    assert "\n" not in str(error.value) and not target.exists()


def test_weights_that_cannot_be_stored_are_not_asked_of_the_index(server, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("MC_ASSETS", raising=False)
    monkeypatch.setattr(fetch, "ROOT", tmp_path)
    (tmp_path / "assets").write_text("not a folder")
    monkeypatch.setattr(subject, "_weights_from_index", None)
    with pytest.raises(StorageError, match="cannot be written"):
        subject.weights()


def photograph(width: int = 60, height: int = 40, orientation: int = 0, quality: int = 90) -> bytes:
    """A JPEG of noise, with an EXIF orientation."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    exif = Image.Exif()
    if orientation:
        exif[274] = orientation
    Image.fromarray(noise).save(file := io.BytesIO(), "JPEG", quality=quality, exif=exif)
    return file.getvalue()


@pytest.fixture
def more(monkeypatch, tmp_path) -> Path:
    """MC_ASSETS with the label archive; two of val2017 beyond the list (which is empty); no network."""
    folder = tmp_path / "given"
    (folder / "coco-val" / "images" / "val2017").mkdir(parents=True)
    monkeypatch.setenv("MC_ASSETS", str(folder))
    monkeypatch.setattr(fetch, "ROOT", tmp_path / "repository")
    monkeypatch.setattr(assets, "listing", lambda name: [])
    offline = assets._Source("coco-val", "val2017", True, "http://127.0.0.1:9")
    monkeypatch.setitem(assets.SOURCES, "coco-val", offline)
    monkeypatch.setattr(assets, "LABELS_URL", "http://127.0.0.1:9/coco2017labels.zip")
    with zipfile.ZipFile(folder / assets.LABELS_ARCHIVE, "w") as archive:
        archive.writestr("coco/val2017.txt", "./images/val2017/2.jpg\n./images/val2017/1.jpg\n")
        archive.writestr("coco/labels/val2017/1.txt", "7 .25 .5 .5 1\n")
    return folder


def store(folder: Path, **contents: bytes) -> None:
    for name, content in contents.items():
        (folder / "coco-val" / "images" / "val2017" / f"{name[1:]}.jpg").write_bytes(content)


def test_all_of_val2017_may_lie_in_the_given_folder(more, tmp_path) -> None:
    store(more, _1=photograph(), _2=photograph())
    first, second = assets.image_set("coco-val", 2, progress=False).samples
    assert first.path.name == "1.jpg" and first.classes.tolist() == [7]
    assert first.boxes.tolist() == [[0, 0, 30, 40]] and len(second.boxes) == 0
    assert not (tmp_path / "repository").exists()  # nothing had to be written


def test_what_is_missing_of_val2017_is_named(more) -> None:
    store(more, _1=photograph())
    with pytest.raises(AssetError, match=r"1 of 2 .*2\.jpg.*N_IMAGES"):
        assets.image_set("coco-val", 2)
    (more / assets.LABELS_ARCHIVE).unlink()
    with pytest.raises(AssetError, match=r"coco2017labels\.zip.*given.*repository"):
        assets.image_set("coco-val", 2)


def test_a_label_archive_that_is_none_is_not_kept(more, server, monkeypatch, tmp_path) -> None:
    (more / assets.LABELS_ARCHIVE).unlink()
    monkeypatch.setattr(assets, "LABELS_URL", f"{server.url}/whole")
    with pytest.raises(AssetError, match="no zip archive"):
        assets.image_set("coco-val", 2)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("orientation", range(9))
def test_a_photograph_has_the_size_that_detectors_see(more, orientation) -> None:
    store(more, _1=photograph(60, 40, orientation), _2=photograph())
    sample = assets.image_set("coco-val", 2, progress=False).samples[0]
    _, scale, (left, top) = letterbox(sample.path, 128)
    width, height = sample.width, sample.height
    filled = [scale * width + 2 * left, scale * height + 2 * top]
    assert filled == pytest.approx([128, 128], abs=1.5)
    assert (width > height) == (orientation < 5)
    assert sample.boxes.tolist() == [[0, 0, width / 2, height]]


def test_an_orientation_that_detectors_do_not_read_turns_nothing(more) -> None:
    """Pillow reads it from XMP, too."""
    Image.new("RGB", (60, 40)).save(
        file := io.BytesIO(), "JPEG",
        xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf tiff:Orientation='6'/></x:xmpmeta>",
    )  # fmt: skip
    store(more, _1=file.getvalue(), _2=photograph())
    sample = assets.image_set("coco-val", 2, progress=False).samples[0]
    assert (sample.height, sample.width) == cv2.imread(str(sample.path)).shape[:2]


WHOLE = photograph()
DAMAGED = {
    "half": WHOLE[: len(WHOLE) // 2],
    "without its last bytes": WHOLE[:-40],
    "empty": b"",
    "page": PAGE,
    "pointer": REFUSALS[-1][1],
    "text": b"not a photograph",
    "zeros": bytes(500),
    "half a PNG": b"",
}
Image.new("RGB", (60, 40)).save(_png := io.BytesIO(), "PNG")
DAMAGED["half a PNG"] = _png.getvalue()[: len(_png.getvalue()) // 2]


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_photograph_is_one_error_that_names_it(more, kind) -> None:
    store(more, _1=DAMAGED[kind], _2=photograph())
    with pytest.raises(AssetError, match=r"val2017/1\.jpg is no whole photograph") as error:
        assets.image_set("coco-val", 2, progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_photograph_that_arrives_damaged_is_not_kept(more, kind, server, monkeypatch, tmp_path) -> None:
    store(more, _1=photograph())
    source = assets._Source("coco-val", "val2017", True, server.url)
    monkeypatch.setitem(assets.SOURCES, "coco-val", source)
    server.answers["/2.jpg"] = 200, DAMAGED[kind]
    with pytest.raises(AssetError, match=r"2\.jpg"):
        assets.image_set("coco-val", 2, progress=False)
    assert list((tmp_path / "repository").rglob("*.jpg*")) == []
    server.answers["/2.jpg"] = 200, photograph()
    assert len(assets.image_set("coco-val", 2, progress=False)) == 2


def test_grey_tiny_and_print_photographs_are_whole(more) -> None:
    for mode, size in (("L", (60, 40)), ("CMYK", (60, 40)), ("RGB", (1, 1))):
        Image.new(mode, size).save(file := io.BytesIO(), "JPEG")
        store(more, _1=file.getvalue(), _2=photograph())
        sample = assets.image_set("coco-val", 2, progress=False).samples[0]
        assert (sample.width, sample.height) == size


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


@pytest.mark.parametrize(
    "line", ["1_0 .5 .5 .1 .1", "\u0663 .5 .5 .1 .1", "0 .5 .5 .1 .1\xa0", "\0", "\ufeff\ufeff"]
)
def test_what_cannot_be_seen_in_a_line_is_shown(tmp_path: Path, line: str) -> None:
    file = tmp_path / "photo.txt"
    file.write_text(f"0 .5 .5 .1 .1\n{line}\n", encoding="utf8")
    with pytest.raises(AssetError, match=r"photo\.txt:2") as error:
        labels.read_labels(file)
    assert ascii(str(error.value)).isprintable() and "''" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [b"0 .5 .5 .1 .1\r\n\r\n", b"\n0 .5 .5 .1 .1\n \t\n", codecs.BOM_UTF8 + b"0 .5 .5 .1 .1",
     b"0 .5 .5 .1 .1\r\r", "0 .5 .5 .1 .1\n".encode("utf-16"),
     codecs.BOM_UTF16_BE + "0 .5 .5 .1 .1\n".encode("utf-16-be")],
)  # fmt: skip
def test_blank_lines_and_marks_of_an_encoding_say_nothing(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "photo.txt"
    file.write_bytes(text)
    assert labels.read_labels(file) == [[0, 0.5, 0.5, 0.1, 0.1]]


@pytest.mark.parametrize("text", [
    "кот .5 .5 .1 .1".encode("cp1251"), b"\xff\xfe0", b"\xff\xd8\xff\xe0",
    "0 .5 .5 .1 .1\n".encode("utf-16-le"), "0 .5 .5 .1 .1\n".encode("utf-32"),
    "кот .5 .5 .1 .1".encode("koi8-r"), PAGE,
])  # fmt: skip
def test_a_label_file_that_is_none_is_one_clear_error(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "photo.txt"
    file.write_bytes(text)
    with pytest.raises(AssetError, match=r"photo\.txt") as error:
        labels.read_labels(file)
    assert "\n" not in str(error.value)


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
    described = assets.save_as_yolo(demo, tmp_path)
    assert yaml.safe_load(described.read_text())["names"] == class_names()
    named = assets.ImageSet("two", demo.samples[:1] * 2, ("dog", "cat"))
    described = assets.save_as_yolo(named, tmp_path / "two", channels=1)
    found = yaml.safe_load(described.read_text())
    assert found["names"] == {0: "dog", 1: "cat"} and found["channels"] == 1
    for kind in ("images", "labels"):  # whose files have the same name
        assert len(list((tmp_path / "two" / kind).iterdir())) == 2
    for sample in demo.samples:
        rows = assets.read_labels(tmp_path / "labels" / f"{sample.path.stem}.txt")
        assert [row[0] for row in rows] == sample.classes.tolist()
        for (_, x, y, w, h), box in zip(rows, sample.boxes, strict=True):
            corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            sizes = [sample.width, sample.height] * 2
            assert [c * s for c, s in zip(corners, sizes, strict=True)] == pytest.approx(box, abs=0.01)


def test_a_turned_photograph_is_saved_upright(tmp_path: Path) -> None:
    """Its boxes are of the upright picture: here one at the top, which is on the left of what is stored."""
    turned, exif = np.full((40, 80, 3), 0, np.uint8), Image.Exif()
    turned[:, :20] = 255
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise by 90°
    Image.fromarray(turned).save(tmp_path / "turned.jpg", exif=exif)
    top = np.float64([[0, 0, 40, 20]])
    sample = assets.Sample(
        tmp_path / "turned.jpg", 40, 80, np.array([0]), top, np.array([800.0]), np.zeros((0, 5))
    )
    for quality in (None, 90):
        assets.save_as_yolo(assets.ImageSet("one", (sample,), ("top",)), tmp_path / "set", quality)
        seen = cv2.imread(str(tmp_path / "set/images/turned.jpg"))
        assert seen.shape == (80, 40, 3) and seen[:18].min() > 200 and seen[22:].max() < 50


def test_a_digest_is_of_what_an_evaluation_depends_on(demo, tmp_path: Path) -> None:
    samples = demo.samples
    same = assets.ImageSet("another name", tuple(samples)).digest
    assert same == demo.digest != demo.first(len(demo) - 1).digest
    assert assets.ImageSet("turned", samples[::-1]).digest != same
    (moved := samples[0].boxes.copy())[0, 0] += 1
    for changes in ({"boxes": moved}, {"classes": samples[0].classes + 1}, {"crowd": np.ones((1, 5))},
                    {"path": samples[1].path}):  # fmt: skip
        assert assets.ImageSet("edited", (replace(samples[0], **changes), *samples[1:])).digest != same


def test_paths_are_from_all_over_a_set(demo) -> None:
    assert demo.paths(2) == [demo.samples[number].path for number in (0, len(demo) // 2)]
    assert demo.paths(1000) == [sample.path for sample in demo.samples]


def test_names_of_classes_are_those_of_ultralytics() -> None:
    described = Path(ultralytics.__file__).parent / "cfg/datasets/coco.yaml"
    assert class_names() == yaml.safe_load(described.read_text(encoding="utf8"))["names"]
