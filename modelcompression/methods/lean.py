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
    library,
    openvino_file,
    openvino_precision,
    openvino_settings,
    positive,
    reason_of,
    try_out,
)
from ..subject import YOLOV8N, Subject

SIDES = 4


def lean(graph: ov.Model, height: int, width: int, batch: int = 1) -> ov.Model:
    """Rebuild the input and the head of a YOLO graph; ``graph`` is used up.

    Args:
        graph: as exported by ultralytics with a fixed input and converted by OpenVINO, quantized by NNCF or
            not. Number of classes, bins of a box side, scales and input channels are read from it.
        height, width: of the input in pixels, multiples of the largest stride.
        batch: images at a time.

    Returns:
        a graph that takes (batch, height, width, channels) uint8 RGB and gives (batch, anchors, 4 + classes)
        float32: centre x, centre y, width, height in input pixels, class scores. A head that needs no
        non-maximum suppression gives all its anchors, too.

    Raises:
        ValueError: the graph has not the nodes of such an export, or a side is no multiple of that stride.
    """
    strides = strides_of(graph)
    largest = max(strides)
    if height % largest or width % largest or min(height, width, batch) < 1:
        raise ValueError(f"an input of {height}×{width} pixels: both must be multiples of {largest}")
    distances, scores = _head_outputs(graph)
    graph = ov.Model([node.output(0) for node in (*distances, *scores)], graph.get_parameters())
    channels = graph.inputs[0].partial_shape[1].get_length()
    graph.reshape([batch, channels, height, width])
    pixels = _pixels_in(graph)
    bins = distances[0].get_output_shape(0)[1] // SIDES
    boxes = _boxes(_rows(distances), *_anchors(height, width, strides), bins)
    output = ops.concat([boxes, ops.sigmoid(_rows(scores))], 2)
    return ov.Model([output.output(0)], [pixels], "lean")


def strides_of(graph: ov.Model) -> tuple[int, ...]:
    """Pixels between neighbours in each feature map that the head of an exported graph reads.

    Raises:
        ValueError: the graph has no such head.
    """
    side = graph.inputs[0].partial_shape[2].get_length()
    return tuple(side // node.get_output_partial_shape(0)[2].get_length() for node in _head_outputs(graph)[0])


def _head_outputs(graph: ov.Model) -> tuple[list[ov.Node], list[ov.Node]]:
    """The last convolutions of the head's branches for boxes and for classes, at each of its scales."""
    for kind in ("one2one_", ""):
        found = [_last_convolutions(graph, f"{kind}{branch}") for branch in ("cv2", "cv3")]
        if found[0] and len(found[0]) == len(found[1]):
            return found[0], found[1]
    raise ValueError(f"no detection head as ultralytics exports it: {len(found[0])} scales of cv2")


def _last_convolutions(graph: ov.Model, branch: str) -> list[ov.Node]:
    pattern = re.compile(rf"/model\.\d+/{branch}\.\d/{branch}\.\d\.2/Conv")
    found = (op for op in graph.get_ordered_ops() if pattern.fullmatch(op.get_friendly_name()))
    return sorted(found, key=lambda op: op.get_friendly_name())


def _pixels_in(graph: ov.Model) -> ov.Node:
    """Replace the float input (N, 3, H, W) in 0…1 by uint8 pixels (N, H, W, 3); return the new input.

    If a quantizer reads it that only undoes the division by 255, OpenVINO removes both by itself.
    """
    planes = graph.get_parameters()[0]
    batch, channels, height, width = planes.get_output_shape(0)
    pixels = ops.parameter([batch, height, width, channels], np.uint8, "pixels")
    values = ops.multiply(ops.convert(pixels, "f32"), _constant(1 / 255, np.float32))
    planes.output(0).replace(ops.transpose(values, _constant([0, 3, 1, 2])).output(0))
    return pixels


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
        self.path = openvino_file(path)
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
                graph = lean(self._read(), height, width, batch)
            except (ValueError, RuntimeError) as error:
                raise DetectorError(f"{self.path} has no lean form: {reason_of(error)}") from None
            self._compiled[shape] = library("openvino").Core().compile_model(graph, "CPU", self._settings)
        return self._compiled[shape]

    def _read(self) -> Any:
        try:
            return library("openvino").Core().read_model(self.path)
        except RuntimeError as error:
            raise DetectorError(f"{self.path} is no readable model: {reason_of(error)}") from None
