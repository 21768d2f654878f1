"""Where are the weights and the images? Find them, else fetch them; verify the sha256 either way.

Order: the folder named by ``MC_ASSETS`` → ``assets/`` in the repository → download into ``assets/``.
All folders have the same layout::

    weights/yolov8n.pt
    coco-val/images/val2017/*.jpg          coco-val/labels/val2017/*.txt
    coco128/images/train2017/*.jpg         coco128/labels/train2017/*.txt
    coco-train-extra/images/*.jpg
    coco-val-more/…                        as coco-val; photographs of val2017 may lie in either

A photo without a label file there takes its boxes from the package (``modelcompression/coco``).
With no COCO image in reach, ``image_set("demo")`` offers photographs that the installed packages
ship, annotated by us, so that everything still runs.

``modelcompression assets`` fetches what notebooks use and says where it is.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from .fetch import AssetError, NotServedError, UnreachableError, download, roots, sha256, verify
from .intact import decoded_size, require_whole
from .labels import parse_labels, read_labels
from .subject import class_names

IMAGES_URL = "http://images.cocodataset.org"
LABELS_URL = "https://github.com/ultralytics/assets/releases/download/v0.0.0/coco2017labels.zip"
LABELS_ARCHIVE = "coco2017labels.zip"
FULL_VAL = 5000
# Demonstration photographs whose licences are known to allow being shown, and whom they are by.
CREDITS = {
    "astronaut": "NASA",
    "camera": "Lav Varshney",
    "chelsea": "Stéfan van der Walt",
    "coffee": "Rachel Michetti",
    "grace_hopper": "U.S. Navy",
    "china": "danielbuechele (CC BY 2.0)",
}


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its annotation. Boxes are x1, y1, x2, y2 in pixels of the original image."""

    path: Path
    width: int
    height: int
    classes: np.ndarray  # (M,) int
    boxes: np.ndarray  # (M, 4) float
    areas: np.ndarray  # (M,) float, px²
    crowd: np.ndarray  # (K, 5) float: class, x1, y1, x2, y2 of regions that COCOeval ignores


@dataclass(frozen=True)
class ImageSet:
    """A named, ordered set of images."""

    name: str
    samples: tuple[Sample, ...] = field(repr=False)
    names: tuple[str, ...] | None = None  # of the classes; None: COCO's

    def __len__(self) -> int:
        return len(self.samples)

    def first(self, n: int) -> ImageSet:
        """The first ``n`` images as a set of the same name."""
        return ImageSet(self.name, self.samples[:n], self.names)

    def handful(self, n: int) -> ImageSet:
        """``n`` images to try something out, if possible with objects, as a set of the same name."""
        by_use = sorted(self.samples, key=lambda sample: not len(sample.classes))
        return ImageSet(self.name, tuple(by_use[:n]), self.names)

    def paths(self, n: int) -> list[Path]:
        """Of up to ``n`` images from all over the set."""
        found = [sample.path for sample in self.samples]
        return found[:: max(1, len(found) // n)][:n]

    @cached_property
    def digest(self) -> str:
        """Another one for other images, in content or order, and for another annotation of one."""
        found = hashlib.sha256()
        for sample in self.samples:
            found.update(sha256(sample.path).encode())
            for table in (sample.classes, sample.boxes, sample.crowd):
                found.update(f"{table.shape}".encode() + np.float64(table).tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class _Source:
    folder: str
    split: str
    labelled: bool
    url: str
    beside: str | None = None  # another folder of photographs of the same split

    def places(self, kind: str) -> list[Path]:
        """Folders that may hold ``images`` or ``labels``, in the order in which they are searched."""
        folders = [self.folder, self.beside] if self.beside else [self.folder]
        return [root / folder / kind / self.split for root in roots() for folder in folders]


SOURCES = {
    "coco-val": _Source("coco-val", "val2017", True, f"{IMAGES_URL}/val2017", beside="coco-val-more"),
    "coco128": _Source("coco128", "train2017", True, f"{IMAGES_URL}/train2017"),
    "coco-train-extra": _Source("coco-train-extra", "", False, f"{IMAGES_URL}/train2017"),
}


def showable() -> ImageSet:
    """The demonstration photographs that may be shown; whose they are stands in ``CREDITS``."""
    return ImageSet("demo", tuple(s for s in image_set("demo").samples if s.path.stem in CREDITS))


def image_set(name: str, n: int | None = None, progress: bool = True) -> ImageSet:
    """The named image set, found or fetched, every file verified.

    Args:
        name: ``coco-val``, ``coco128``, ``coco-train-extra`` or ``demo``.
        n: how many images, the first ones; None: all of the list of that name. For ``coco-val`` up to
            5,000: after its 281 come the 719 listed as ``coco-val-more``, which have the class
            frequencies of val2017 with them, then the others of val2017 in order of their ids.

    Raises:
        AssetError: unknown name, ``n`` out of range, images neither here nor reachable, a changed
            image, a malformed label.
    """
    if name != "demo" and name not in SOURCES:
        raise AssetError(f"unknown image set '{name}': choose one of {', '.join(SOURCES)}, demo")
    entries = _demo_entries() if name == "demo" else listing(name)
    most = FULL_VAL if name == "coco-val" else len(entries)
    if n is not None and not 1 <= n <= most:
        raise AssetError(f"{name} has 1…{most} images to offer, not {n}")
    if name == "demo":
        return ImageSet(name, tuple(_demo_samples(entries[:n])))
    source = SOURCES[name]
    more_than_usual = n is not None and n > len(entries)
    try:
        if more_than_usual:
            entries += listing("coco-val-more")
        listed = len(entries)
        entries = entries[:n]
        paths = _locate(source, entries, progress)
        if n and n > listed:
            extra = _rest_of_val(entries, n - listed)
            paths += _locate(source, extra, progress)
            entries = entries + extra
    except UnreachableError as error:
        if more_than_usual:  # an explicit wish, not to be answered with fewer images
            raise AssetError(str(error)) from None
        raise
    return ImageSet(name, tuple(_samples(source, entries, paths)))


def save_as_yolo(images: ImageSet, folder: Path, quality: int | None = None, channels: int = 3) -> Path:
    """Write an image set the way ``yolo val`` reads it; return the path of its ``data.yaml``.

    Args:
        quality: re-encode every photograph as a JPEG of this quality; None copies the files.
        channels: of the model's input: with 1, ``yolo val`` reads the photographs in grey.
    """
    import yaml

    for kind in ("images", "labels"):
        shutil.rmtree(folder / kind, ignore_errors=True)
        (folder / kind).mkdir(parents=True)
    alike = len({sample.path.stem for sample in images.samples}) < len(images)  # of several folders
    for number, sample in enumerate(images.samples):
        stem = f"{number:06d}" if alike else sample.path.stem
        copy = folder / "images" / f"{stem}{sample.path.suffix}"
        if quality is None:
            shutil.copyfile(sample.path, copy)
        else:
            with Image.open(sample.path) as image:
                ImageOps.exif_transpose(image).convert("RGB").save(copy.with_suffix(".jpg"), quality=quality)
        centre = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
        boxes = np.hstack([centre, sample.boxes[:, 2:] - sample.boxes[:, :2]])
        boxes /= [sample.width, sample.height, sample.width, sample.height]
        rows = [
            " ".join([str(category), *(f"{value:.6f}" for value in box)])
            for category, box in zip(sample.classes, boxes, strict=True)
        ]
        (folder / "labels" / f"{stem}.txt").write_text("\n".join(rows))
    description = {
        "path": str(folder.absolute()), "train": "images", "val": "images", "channels": channels,
        "names": dict(enumerate(images.names)) if images.names else class_names(),
    }  # fmt: skip
    (folder / "data.yaml").write_text(yaml.safe_dump(description))
    return folder / "data.yaml"


def report_and_calibration(n: int | None = None) -> tuple[ImageSet, ImageSet]:
    """coco-val (the first ``n``) and coco128; the demo photos twice if COCO is out of reach.

    Only unreachable images lead to the demo photos; anything wrong with files that are here, or
    with ``n``, is raised.
    """
    try:
        return image_set("coco-val", n), image_set("coco128")
    except UnreachableError as error:
        print(
            f"COCO images are out of reach ({error}).\n"
            "DEMO PHOTOS are used instead: everything runs, but the numbers say nothing about COCO, "
            "and these runs never enter the README's tables.",
            file=sys.stderr,
        )
        demo = image_set("demo")
        return demo, demo


def listing(name: str) -> list[dict]:
    """The photographs of a COCO set, as listed in the package (``coco/README.md``); no image is needed."""
    text = (resources.files(__package__) / f"coco/{name}.jsonl").read_text(encoding="utf8")
    return [json.loads(line) for line in text.splitlines()]


def _demo_entries() -> list[dict]:
    return json.loads((resources.files(__package__) / "demo_photos/index.json").read_text("utf8"))


def _demo_samples(entries: Iterable[dict]) -> Iterator[Sample]:
    for entry in entries:
        path = Path(str(resources.files(entry["package"]) / entry["member"]))
        if not path.is_file():
            raise AssetError(f"{path} is missing: reinstall the package {entry['package']}")
        yield _sample(verify(path, entry["sha256"]), entry["boxes"], entry)


def _locate(source: _Source, entries: list[dict], progress: bool) -> list[Path]:
    """Paths of all images; what no folder holds is fetched, after one quick test of the server."""
    found: list[Path | None] = []
    for entry in entries:
        places = (folder / entry["file"] for folder in source.places("images"))
        found.append(next((place for place in places if place.is_file()), None))
    missing = [entry for entry, path in zip(entries, found, strict=True) if path is None]
    if missing:
        _fetch(source, missing, len(entries), progress)
    folder = roots()[-1] / source.folder / "images" / source.split
    paths = [path or folder / entry["file"] for path, entry in zip(found, entries, strict=True)]
    for path, entry in zip(paths, entries, strict=True):
        if "sha256" in entry:
            verify(path, entry["sha256"])
    return paths


def _fetch(source: _Source, missing: list[dict], wanted: int, progress: bool) -> None:
    """Fetch images; the first one tells whether the server can be used."""
    folder = roots()[-1] / source.folder / "images" / source.split
    bar = tqdm(missing, desc=f"fetching {source.folder}", unit="image", disable=not progress)
    for number, entry in enumerate(bar):
        digest = entry.get("sha256")
        check = None if digest else require_whole
        try:
            url, target = f"{source.url}/{entry['file']}", folder / entry["file"]
            download(url, target, digest, quiet=True, check=check)
        except NotServedError as error:
            if number:
                raise
            raise UnreachableError(
                f"{len(missing)} of {wanted} images of {source.folder} are not here, the first of them "
                f"{entry['file']}: {error}; go online, set MC_ASSETS, or ask for fewer (N_IMAGES)"
            ) from None


def _rest_of_val(listed: list[dict], n: int) -> list[dict]:
    """The next ``n`` entries of val2017 beyond the listed ones, annotated by the label archive."""
    places = [root / LABELS_ARCHIVE for root in roots()]
    archive = next((place for place in places if place.is_file()), None)
    try:
        archive = archive or download(LABELS_URL, places[-1], check=_require_archive)
    except NotServedError as error:
        raise UnreachableError(
            f"{LABELS_ARCHIVE}, which annotates the other images of val2017, is in none of "
            f"{', '.join(str(root) for root in roots())}: {error}; go online, put it there, or ask for "
            f"up to {len(listed)} images (N_IMAGES)"
        ) from None
    known = {entry["file"] for entry in listed}
    try:
        with zipfile.ZipFile(archive) as labels:
            names = labels.read("coco/val2017.txt").decode().split()
            files = sorted({Path(name).name for name in names} - known)[:n]
            inside = set(labels.namelist())
            members = [f"coco/labels/val2017/{Path(file).stem}.txt" for file in files]
            texts = [labels.read(member) if member in inside else b"" for member in members]
    except (zipfile.BadZipFile, zlib.error, KeyError, UnicodeDecodeError):
        raise AssetError(f"{archive} is damaged: delete it and run again") from None
    return [
        {"file": file, "boxes": parse_labels(text, f"{archive}, {member}")}
        for file, member, text in zip(files, members, texts, strict=True)
    ]


def _require_archive(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise AssetError("it is no zip archive")


def _samples(source: _Source, entries: list[dict], paths: list[Path]) -> Iterator[Sample]:
    for entry, path in zip(entries, paths, strict=True):
        boxes: list[list[float]] = []
        if source.labelled:
            files = [(folder / path.name).with_suffix(".txt") for folder in source.places("labels")]
            file = next((file for file in files if file.is_file()), None)
            boxes = read_labels(file) if file else entry.get("boxes", [])
        yield _sample(path, boxes, entry)


def _sample(path: Path, rows: list[list[float]], entry: dict) -> Sample:
    if "width" in entry:
        width, height = entry["width"], entry["height"]
    else:
        width, height = decoded_size(path)
    table = np.asarray(rows, float).reshape(-1, 5)
    half = table[:, 3:] / 2
    corners = np.hstack([table[:, 1:3] - half, table[:, 1:3] + half])
    boxes = corners * [width, height, width, height]
    plain = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    areas = np.asarray(entry.get("areas", plain), float)
    crowd = np.asarray(entry.get("crowd", []), float).reshape(-1, 5)
    crowd[:, 3:] += crowd[:, 1:3]
    # Areas belong to the listed boxes; someone's own labels for the same photo have none.
    areas = areas if len(areas) == len(boxes) else plain
    return Sample(path, width, height, table[:, 0].astype(int), boxes, areas, crowd)
