"""INT8 for an exported graph, set up as homework 2 found out: what homeworks 3 to 5 quantize with."""

from __future__ import annotations

import logging
import re

import nncf
import openvino
from IPython.utils.capture import capture_output
from nncf.quantization.range_estimator import RangeEstimatorParametersSet

from ..assets import ImageSet
from ..images import letterbox, planes
from ..subject import YOLOV8N, Subject

nncf.set_log_level(logging.ERROR)


def float_end(subject: Subject = YOLOV8N) -> str:
    """A regular expression for the names of what stays in float: the arithmetic behind the head's branches.

    Boxes in pixels and scores in 0…1 must not share a range (homework 2), and in float the expected distances
    ("dfl") lose nothing on packed weights either (homework 4). Both are a small part of the pass.
    """
    return rf"^/model\.{subject.head}/(?!(?:one2one_)?cv[23])|^output0$"


def float_scope(graph: openvino.Model, subject: Subject = YOLOV8N, also_float: str = "") -> nncf.IgnoredScope:
    """What stays in float in a graph: the operations of `float_end`, and others by a regular expression."""
    pattern = f"{float_end(subject)}|{also_float}" if also_float else float_end(subject)
    names = [op.get_friendly_name() for op in graph.get_ordered_ops() if op.get_type_name() != "Constant"]
    return nncf.IgnoredScope(names=[name for name in names if re.search(pattern, name)])


def int8(
    graph: openvino.Model,
    images: ImageSet,
    also_float: str = "",
    bias_correction: bool = True,
    subject: Subject = YOLOV8N,
) -> openvino.Model:
    """Post-training quantization by NNCF: weights per output channel, activations per tensor.

    An activation's range is the median over the photographs of their extremes.

    Args:
        graph: a float detector in OpenVINO's format with a fixed input of (1, channels, side, side).
        images: calibrated on, letterboxed to the graph's input.
        also_float: operations whose names match this regular expression stay in float, too.
        bias_correction: False if the weights are on their grid already and lose nothing more.
        subject: what the graph was made of.
    """
    size = graph.input(0).shape[2]
    photographs = nncf.Dataset(
        images.samples, lambda sample: planes(subject.channels, letterbox(sample.path, size)[0])
    )
    ranges = nncf.AdvancedQuantizationParameters(
        disable_bias_correction=not bias_correction,
        activations_range_estimator_params=RangeEstimatorParametersSet.MEDIAN_MINMAX,
    )
    with capture_output():  # a progress bar for each pass
        return nncf.quantize(
            graph,
            photographs,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            ignored_scope=float_scope(graph, subject, also_float),
            advanced_parameters=ranges,
        )
