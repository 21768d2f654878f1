"""The demo photos: enough of them, installed unchanged, and annotated inside their borders."""

import hashlib
import json
from importlib import resources
from pathlib import Path

import pytest
from PIL import Image

INDEX = resources.files("modelcompression") / "demo_photos/index.json"
PHOTOS = json.loads(INDEX.read_text(encoding="utf8"))
ROUNDING = 1e-5  # the index has five decimals

each_photo = pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo["name"])


def path_of(photo: dict) -> Path:
    return Path(str(resources.files(photo["package"]) / photo["member"]))


def test_enough_photos_boxes_and_classes():
    boxes = [box for photo in PHOTOS for box in photo["boxes"]]
    assert len({photo["name"] for photo in PHOTOS}) == len(PHOTOS) >= 8
    assert len({photo["sha256"] for photo in PHOTOS}) == len(PHOTOS)
    assert len(boxes) >= 25
    assert len({category for category, *_ in boxes}) >= 6
    assert sum(not photo["boxes"] for photo in PHOTOS) <= 1, "one negative is enough"


@each_photo
def test_installed_photo_is_the_annotated_one(photo):
    path = path_of(photo)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == photo["sha256"], (
        f"{photo['package']} ships another {path.name}: check its boxes, then its sha256"
    )
    with Image.open(path) as image:
        assert image.size == (photo["width"], photo["height"])


@each_photo
def test_boxes_are_inside_the_photo_and_differ(photo):
    for category, x, y, w, h in photo["boxes"]:
        assert category in range(80)
        assert w * photo["width"] >= 2 and h * photo["height"] >= 2, "smaller than anyone can see"
        assert x - w / 2 >= -ROUNDING and x + w / 2 <= 1 + ROUNDING
        assert y - h / 2 >= -ROUNDING and y + h / 2 <= 1 + ROUNDING
    assert len({tuple(box) for box in photo["boxes"]}) == len(photo["boxes"]), "a box twice"


@each_photo
def test_crowd_regions_are_inside_the_photo(photo):
    for category, x, y, w, h in photo.get("crowd", []):
        assert category in range(80)
        assert 0 <= x < x + w <= photo["width"]
        assert 0 <= y < y + h <= photo["height"]
