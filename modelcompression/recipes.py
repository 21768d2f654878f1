"""The recipes that won, for any detector: a packed checkpoint with given steps, a graph for OpenVINO."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from .assets import ImageSet
from .images import letterbox, planes
from .methods import clustering, sensitivity
from .network import convolutions
from .packed import checkpoint, container
from .packed.tensors import Grid
from .subject import Subject, class_names

POWER, THRIFT, POSITIONS = 0.4, 0.5, 800  # as homework 4 found out
# INT8, one attempt after the other until the loss is within the bound: what stays in float besides the head's
# arithmetic, and whether NNCF corrects biases.
ATTEMPTS = (
    ("nothing more in float", "", True),
    ("nothing more in float, biases as they are", "", False),
    ("attention in float", r"/attn/", True),
    ("attention and the last convolutions in float", r"/attn/|/(?:one2one_)?cv[23]\.\d\.2/", True),
    ("attention and the whole head in float", r"/attn/|^/model\.{head}/", True),
)


def on_grids(
    model: torch.nn.Module,
    statistics: Mapping[str, sensitivity.Statistics],
    factors: Mapping[str, sensitivity.Factor],
    scale: float,
    power: float = POWER,
    thrift: float = THRIFT,
) -> dict[str, Grid]:
    """The weights of all convolutions on grids, as homework 4 explains it; by parameter name.

    Args:
        model: a detection model of ultralytics', BatchNorm folded.
        statistics, factors: of :mod:`.sensitivity`; a layer without (a depthwise convolution) gets about
            eight bits a weight.
        scale, power: of the steps, see :func:`.clustering.sensitivity_exponents`; a larger scale makes a
            smaller file.
        thrift: see :func:`.clustering.round_for_bytes`.
    """
    steps = clustering.sensitivity_exponents(statistics, factors, scale, power)
    found = {}
    for name, layer in convolutions(model).items():
        weight = layer.weight.detach()
        if name in statistics:
            of_layer = statistics[name].hessian, factors[name], steps[name]
            symbols = clustering.round_for_bytes(weight.flatten(1), *of_layer, thrift)
            found[f"{name}.weight"] = Grid(symbols.reshape(weight.shape), steps[name])
        else:
            found[f"{name}.weight"] = Grid.fine(weight.numpy())
    return found


class Rounder:
    """Second-order rounding onto grids (:mod:`.methods.rounding`); statistics are collected when needed.

    Args:
        model: a detection model of ultralytics', BatchNorm folded.
        images: what the statistics are collected from.
        size: of the square input in pixels.
    """

    def __init__(self, model: torch.nn.Module, images: ImageSet, size: int) -> None:
        self.model, self._images, self._size = model, images, size
        self._channels = Subject.of(model).channels
        self._found: dict[str, tuple[sensitivity.Statistics, sensitivity.Factor]] = {}

    def write(self, file: Path, scale: float) -> Path:
        """A packed checkpoint whose steps are ``scale`` times those of :func:`.sensitivity_exponents`."""
        self.collect()
        statistics, factors = ({name: both[i] for name, both in self._found.items()} for i in (0, 1))
        weights = on_grids(self.model, statistics, factors, scale)
        biases = {f"{name}.bias": module.bias for name, module in convolutions(self.model).items()}
        fine = {name: Grid.fine(x.detach().numpy()) for name, x in biases.items() if x is not None}
        return checkpoint.save(file, self.model, weights | fine)

    @property
    def has_statistics(self) -> bool:
        """Whether ``collect`` has been done."""
        return bool(self._found)

    def collect(self) -> None:
        """Find out what matters to the detections: once, some seconds for a few photographs."""
        if self._found:
            return
        samples = self._images.samples
        batches = (planes(self._channels, letterbox(sample.path, self._size)[0]) for sample in samples)
        statistics = sensitivity.collect(anew(self.model), batches, POSITIONS)
        self._found = {
            name: (found, sensitivity.inverse_factor(found.hessian)) for name, found in statistics.items()
        }


def anew(model: torch.nn.Module) -> torch.nn.Module:
    """A copy whose head has not cached anything in inference mode."""
    fresh = copy.deepcopy(model)
    fresh.model[-1].shape = None
    return fresh


def grids(path: Path) -> dict[str, Grid]:
    """Of a packed checkpoint, all tensors on grids, by parameter name."""
    return {name: tensor for name, tensor in container.tensors(path).items() if isinstance(tensor, Grid)}


def described(subject: Subject, size: int) -> bytes:
    """The ``metadata.yaml`` that ultralytics looks for beside an exported graph."""
    facts = {
        "task": "detect", "stride": max(subject.strides), "batch": 1, "imgsz": [size, size],
        "names": dict(enumerate(subject.names or class_names().values())), "channels": subject.channels,
        "args": {"nms": False}, "end2end": subject.end2end,
    }  # fmt: skip
    return yaml.safe_dump(facts, sort_keys=False).encode()


def whole_folder(folder: Path, write: Callable[[Path], Any], name: str) -> Path:
    """Let ``write`` fill a folder that has its name only when it is whole; the path of ``name`` in it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        new = Path(aside) / "new"
        new.mkdir()
        write(new)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    return folder / name


def exported_graph(model: torch.nn.Module, folder: Path, size: int, name: str) -> Path:
    """The float graph of the fused model for OpenVINO."""
    file = f"{name}.xml"
    return whole_folder(folder, lambda aside: checkpoint.export(anew(model), aside / file, size), file)


def int8_attempts(path: Path, subject: Subject, on_grid: bool) -> list[tuple[str, str, bool]]:
    """Ways to quantize a graph, the smallest loss last: in words, what stays in float, bias correction.

    Args:
        path: the float graph.
        on_grid: the weights lose nothing more in INT8, so that there is no bias to correct.
    """
    import openvino

    names = [op.get_friendly_name() for op in openvino.Core().read_model(path).get_ops()]
    known = [(label, pattern.format(head=subject.head), fix) for label, pattern, fix in ATTEMPTS]
    if not any("/attn/" in name for name in names):
        known = [row for row in known if row[1] != "/attn/"]
        known = [(label.removeprefix("attention and "), *rest) for label, *rest in known]
    return [(label, pattern, fix and not on_grid) for label, pattern, fix in known if fix or not on_grid]
