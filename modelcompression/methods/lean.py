"""How much of a forward pass is not the network? An OpenVINO graph without conversions and transpositions.

The graph that ultralytics exports takes float planes of a fixed square, and decodes boxes in an order of
dimensions in which the runtime does not keep its tensors. ``lean`` rebuilds both ends; all convolutions
stay, and so do the detections:

* **pixels in**: (N, H, W, 3) uint8, as an image decoder delivers them. The division by 255 becomes the
  scale of the first convolution's input, which an INT8 kernel applies to its sums anyway.
* **a head without transpositions**: convolution outputs are kept with channels last, so softmax, the
  expected distance (the "DFL" of Li et al. 2020, Generalized Focal Loss) and the sigmoid run over the last
  dimension, and a row of the output is an anchor.
* **any rectangle**: positions and strides of the anchors are computed for the height and width at hand.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from ..detector import (
    DetectorError,
    FromFile,
    existing,
    library,
    openvino_precision,
    openvino_settings,
    positive,
    reason_of,
    try_out,
)
from ..subject import YOLOV8N, Subject

SIDES = 4
LEVELS = np.arange(256)


def lean(graph: ov.Model, height: int, width: int, batch: int = 1, subject: Subject = YOLOV8N) -> ov.Model:
    """Rebuild the input and the head of a YOLO graph; ``graph`` is used up.

    Args:
        graph: as exported by ultralytics and converted by OpenVINO, quantized by NNCF or not.
        height, width: of the input in pixels, multiples of the largest stride.
        batch: images at a time.
        subject: what the graph was made of; its head needs non-maximum suppression.

    Returns:
        a graph that takes (batch, height, width, 3) uint8 RGB and gives (batch, anchors, 4 + classes)
        float32: centre x, centre y, width, height in input pixels, class scores.

    Raises:
        ValueError: the graph has not the nodes of such an export, or a side is no multiple of 32.
    """
    largest = max(subject.strides)
    if height % largest or width % largest or min(height, width, batch) < 1:
        raise ValueError(f"an input of {height}×{width} pixels: both must be multiples of {largest}")
    distances, scores = (_head_outputs(graph, branch, subject) for branch in ("cv2", "cv3"))
    graph = ov.Model([node.output(0) for node in (*distances, *scores)], graph.get_parameters())
    graph.reshape([batch, subject.channels, height, width])
    pixels = _pixels_in(graph)
    boxes = _boxes(_rows(distances), *_anchors(height, width, subject.strides), subject.bins)
    output = ops.concat([boxes, ops.sigmoid(_rows(scores))], 2)
    return ov.Model([output.output(0)], [pixels], "lean")


def _head_outputs(graph: ov.Model, branch: str, subject: Subject) -> list[ov.Node]:
    """The last convolution of one branch of the head at each of its scales."""
    branch = rf"(?:one2one_)?{branch}"
    pattern = re.compile(rf"/model\.{subject.head}/{branch}\.\d/{branch}\.\d\.2/Conv")
    found = sorted(
        (op for op in graph.get_ordered_ops() if pattern.fullmatch(op.get_friendly_name())),
        key=lambda op: op.get_friendly_name(),
    )
    if len(found) != len(subject.strides):
        raise ValueError(f"no detection head as ultralytics exports it: {len(found)} scales of {branch}")
    return found


def _pixels_in(graph: ov.Model) -> ov.Node:
    """Replace the float input (N, 3, H, W) in 0…1 by uint8 pixels (N, H, W, 3); return the new input."""
    planes = graph.get_parameters()[0]
    batch, channels, height, width = planes.get_output_shape(0)
    pixels = ops.parameter([batch, height, width, channels], np.uint8, "pixels")
    for target in list(planes.output(0).get_target_inputs()):
        scale = _exact_scale(target.get_node())
        values = ops.multiply(ops.convert(pixels, "f32"), _constant(scale or 1 / 255, np.float32))
        channels_first = ops.transpose(values, _constant([0, 3, 1, 2]))
        readers = target.get_node().output(0).get_target_inputs() if scale else [target]
        for reader in list(readers):
            reader.replace_source_output(channels_first.output(0))
    return pixels


def _exact_scale(quantizer: ov.Node) -> float | None:
    """The step of an input quantizer that maps pixel p/255 to p steps, for all p; None if it does not.

    Such a quantizer only undoes the division by 255, so both can go.
    """
    if quantizer.get_type_name() != "FakeQuantize":
        return None
    constants = [quantizer.input_value(i).get_node() for i in range(1, 5)]
    if any(node.get_type_name() != "Constant" or node.get_data().size != 1 for node in constants):
        return None
    low, high, out_low, out_high = (float(node.get_data().item()) for node in constants)
    if low or out_low or high != out_high or quantizer.get_attributes()["levels"] != len(LEVELS):
        return None
    step = high / (len(LEVELS) - 1)
    codes = np.clip(np.round(LEVELS / 255 / step), 0, len(LEVELS) - 1)
    return step if (codes == LEVELS).all() else None


def _rows(scales: list[ov.Node]) -> ov.Node:
    """(N, C, H, W) at each scale → (N, anchors, C), without moving a value that lies channels last."""
    rows = []
    for node in scales:
        batch, channels = list(node.get_output_shape(0))[:2]
        last = ops.transpose(node, _constant([0, 2, 3, 1]))
        rows.append(ops.reshape(last, _constant([batch, -1, channels]), False))
    return ops.concat(rows, 1)


def _boxes(logits: ov.Node, centres: np.ndarray, strides: np.ndarray, bins: int) -> ov.Node:
    """Distributions of the distance to the four sides (N, anchors, 4 · bins) → boxes (N, anchors, 4)."""
    batch = logits.get_output_shape(0)[0]
    distances = logits
    if bins > 1:
        shares = ops.softmax(ops.reshape(logits, _constant([batch, -1, SIDES, bins]), False), 3)
        expected = ops.matmul(shares, _constant(np.arange(bins)[:, None], np.float32), False, False)
        distances = ops.reshape(expected, _constant([batch, -1, SIDES]), False)
    left_top, right_bottom = ops.split(distances, _constant(2), 2).outputs()
    first = ops.subtract(_constant(centres, np.float32), left_top)
    second = ops.add(_constant(centres, np.float32), right_bottom)
    middle = ops.multiply(ops.add(first, second), _constant(strides / 2, np.float32))
    extent = ops.multiply(ops.subtract(second, first), _constant(strides, np.float32))
    return ops.concat([middle, extent], 2)


def _anchors(height: int, width: int, every: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Centres (1, anchors, 2) as x, y in units of the stride, and strides (1, anchors, 1) in pixels."""
    centres, strides = [], []
    for stride in every:
        y, x = np.mgrid[: height // stride, : width // stride] + 0.5
        centres.append(np.stack([x, y], -1).reshape(-1, 2))
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(centres)[None], np.concatenate(strides)[None]


def _constant(values: object, dtype: type = np.int64) -> ov.Node:
    return ops.constant(np.asarray(values, dtype))


class LeanDetector(FromFile):
    """An OpenVINO ``.xml`` of a YOLO whose input and head are rebuilt for speed, see :func:`lean`.

    It is compiled anew, within a second, for each input shape that it meets for the first time.

    Args:
        precision, hint, subject: as for ``OpenVinoDetector``.
    """

    runtime = "OpenVINO, lean graph"
    takes_pixels = True

    def __init__(
        self,
        path: Path | str,
        threads: int = 2,
        precision: str = "f32",
        hint: str = "LATENCY",
        subject: Subject = YOLOV8N,
    ) -> None:
        self.subject = subject
        self.threads = positive(threads)
        self.path = existing(path)
        self._settings = openvino_settings(threads, precision, hint)
        self._compiled: dict[tuple[int, ...], Any] = {}
        height, width = self._first_size()
        first = self.compiled((1, height, width, subject.channels))
        self.execution_precision = openvino_precision(first, self._read())
        try_out(self, str(path), (1, subject.channels, height, width))

    def _first_size(self) -> tuple[int, int]:
        """A small one; the exported one if the graph has layers, such as attention, that fit no other."""
        side = max(64, 2 * max(self.subject.strides))
        try:
            self.compiled((1, side, side, self.subject.channels))
        except DetectorError:
            shape = self._read().inputs[0].partial_shape
            if shape.is_dynamic:
                raise
            return shape[2].get_length(), shape[3].get_length()
        return side, side

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return self.compiled(batch.shape)(batch)[0].transpose(0, 2, 1)

    def compiled(self, shape: tuple[int, ...]) -> Any:
        """The compiled graph for (N, H, W, 3) pixels; its output is (N, anchors, 4 + classes).

        Raises:
            DetectorError: a side is no multiple of the largest stride, or the file is no such export.
        """
        if shape not in self._compiled:
            batch, height, width, _ = shape
            try:
                graph = lean(self._read(), height, width, batch, self.subject)
            except (ValueError, RuntimeError) as error:
                raise DetectorError(f"{self.path} has no lean form: {reason_of(error)}") from None
            self._compiled[shape] = library("openvino").Core().compile_model(graph, "CPU", self._settings)
        return self._compiled[shape]

    def _read(self) -> Any:
        try:
            return library("openvino").Core().read_model(self.path)
        except RuntimeError as error:
            raise DetectorError(f"{self.path} is no readable model: {reason_of(error)}") from None
