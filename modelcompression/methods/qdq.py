"""INT8 for ONNX Runtime: pairs of QuantizeLinear and DequantizeLinear (QDQ) around the operators of a file.

When the file is loaded, an operator between such pairs is fused into one that computes in integers. Which
ones were is seen in :func:`executed_operators`.
Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from IPython.utils.capture import capture_output
from onnx import helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process


class _Reader(quantization.CalibrationDataReader):
    """Hands batches to ONNX Runtime's calibration, one by one."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._remaining = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._remaining, None)
        return None if batch is None else {"images": batch}


def prepared_for_qdq(source: Path | str, target: Path) -> Path:
    """Write a float32 file with all shapes inferred and constants folded, which the other functions take."""
    quant_pre_process(source, target)
    return target


def static_int8(
    source: Path,
    target: Path,
    batches: Iterable[np.ndarray],
    excluded: Sequence[str] = (),
    signed: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Post-training quantization: a scale for each output channel of weights, one for each activation.

    The range of an activation is the mean over the photographs of their lowest and highest values.

    Args:
        source: of :func:`prepared_for_qdq`, its input named ``images``.
        batches: (1, channels, H, W) float32 each, calibrated on.
        excluded: names of nodes that stay in float.
        signed: activations as signed integers, too (S8S8), instead of unsigned ones (U8S8).
        overrides: of :func:`ranges_from`.
    """
    kind = quantization.QuantType.QInt8 if signed else quantization.QuantType.QUInt8
    extra = {"CalibMovingAverage": True, "TensorQuantOverrides": dict(overrides or {})}
    with capture_output():  # it prints what it does
        quantization.quantize_static(
            source, target, _Reader(batches), per_channel=True, activation_type=kind,
            nodes_to_exclude=[*excluded], extra_options=extra,
        )  # fmt: skip
    return target


def dynamic_int8(source: Path, target: Path) -> Path:
    """Integer weights in the file; the range of each activation is found anew in every pass."""
    with capture_output():
        quantization.quantize_dynamic(source, target, weight_type=quantization.QuantType.QUInt8)
    return target


def nodes_like(source: Path | str, patterns: Iterable[str]) -> list[str]:
    """Names of the nodes whose name or output matches one of these regular expressions.

    Raises:
        ValueError: an expression matches no node, so it is a wrong one.
    """
    nodes, chosen = onnx.load(source).graph.node, set()
    for pattern in map(re.compile, patterns):
        matched = {n.name for n in nodes if pattern.search(n.name) or pattern.search(n.output[0])}
        if not matched:
            raise ValueError(f"{pattern.pattern} matches no node of {Path(source).name}")
        chosen |= matched
    return [n.name for n in nodes if n.name in chosen]


def ranges_from(quantized: Path, source: Path, lowest: float) -> dict[str, list[dict[str, Any]]]:
    """Overrides for :func:`static_int8`: ranges in front of a SiLU begin at ``lowest`` if they began below.

    Far below zero SiLU is nearly 0, so levels spent there are lost.

    Args:
        quantized: of :func:`static_int8`, whose ranges are read.
        source: the float32 file that it was made from.
        lowest: negative.
    """
    graph = onnx.load(quantized).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = onnx.load(source).graph.node
    silu = {node.input[0] for node in nodes if node.op_type == "Sigmoid" and "/act/" in node.name}
    overrides = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in silu:
            step, zero = (float(numpy_helper.to_array(stored[name])) for name in node.input[1:])
            if -zero * step < lowest:
                overrides[node.input[0]] = [{"rmin": np.float32(lowest)}]
    return overrides


def executed_operators(file: Path | str) -> Counter:
    """How often ONNX Runtime runs each operator of a file, after its fusions."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder, "executed.onnx"))
        onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def float16_weights(source: Path | str, target: Path) -> Path:
    """Store the float32 weights of an ONNX file as float16, to be cast back once, when it is loaded."""
    model = onnx.load(source)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            name, values = tensor.name, numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, f"{name}.half"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]  # a graph lists producers before consumers
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, target)
    return target
