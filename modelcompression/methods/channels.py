"""Structured pruning: whole channels go, so every runtime really computes less.

A channel can only leave together with all that reads it. :func:`groups` follows YOLOv8's graph through
concatenations, upsampling and pooling: for each convolution whose output may get narrower, the input
channels of other convolutions that hold it. Channels that are added up (residual connections) or split stay.

What a channel costs is its second-order cost in the layers that read it: with ``H`` the second moment of
their inputs, B the columns of one channel and A all that are left,

    tr( W_B ((H_AA⁻¹)_BB)⁻¹ W_Bᵀ )

is what removing it changes after a least-squares refit of the other columns (the block form of Optimal Brain
Surgeon, Hassibi & Stork 1993). It is weighed against the multiplications saved.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from ultralytics.nn.modules import SPPF, Bottleneck, C2f, Concat, Conv, Detect

from ..errors import ModelCompressionError
from ..network import convolutions, resize, sources
from .sensitivity import Statistics, damped, worth

STAGES = 4
KNOWN = (Conv, C2f, Bottleneck, SPPF, Concat, Detect, nn.Upsample, nn.Conv2d)


class ChannelError(ModelCompressionError, ValueError):
    """The wish cannot be carried out on this model; the message says why."""


@dataclass(frozen=True)
class Group:
    """A convolution whose output channels can leave, and all that reads them.

    producer: name of the convolution.
    readers: (name of a convolution, its input channel that holds the producer's first one), in order.
    """

    producer: str
    readers: tuple[tuple[str, int], ...]


def groups(model: nn.Module) -> list[Group]:
    """All convolutions of a YOLOv8 model that can get narrower.

    Args:
        model: ultralytics' detection model, BatchNorm folded.

    Raises:
        ChannelError: another network, whose layers are not coupled as they are in YOLOv8.
    """
    _require_yolov8(model)
    return [Group(producer, tuple(readers)) for producer, readers in _couplings(model.model) if readers]


def _require_yolov8(model: nn.Module) -> None:
    """Layers of exactly these types: subclasses, such as those of YOLO11 and YOLOv10, have other insides."""
    layers = getattr(model, "model", None)
    if not isinstance(layers, nn.Sequential):
        raise ChannelError(f"{type(model).__name__} is no detection model of ultralytics")
    for number, layer in enumerate(layers):
        parts = [layer]
        if type(layer) is C2f:
            parts = [layer, *layer.m]
        elif type(layer) is Detect:
            parts = [part for branch in (*layer.cv2, *layer.cv3) for part in branch]
        unknown = next((part for part in parts if type(part) not in KNOWN), None)
        if unknown is not None:
            kind = type(unknown).__name__
            raise ChannelError(f"layer {number} holds {kind}: only the channels of YOLOv8 can be removed")
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            raise ChannelError(f"{name} is a BatchNorm layer: fold them first (load_yolo does)")
        if isinstance(module, nn.Conv2d) and module.groups != 1:
            raise ChannelError(f"{name} is a grouped convolution: only the channels of YOLOv8 can be removed")


def _couplings(layers: nn.Sequential) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    for layer in layers:
        name = f"model.{layer.i}"
        if isinstance(layer, Conv):
            yield f"{name}.conv", _readers(layers, layer.i)
        elif isinstance(layer, C2f):
            width, blocks = layer.m[0].cv2.conv.out_channels, len(layer.m)
            for number in range(blocks):
                yield f"{name}.m.{number}.cv1.conv", [(f"{name}.m.{number}.cv2.conv", 0)]
            if not layer.m[-1].add:
                yield f"{name}.m.{blocks - 1}.cv2.conv", [(f"{name}.cv2.conv", (1 + blocks) * width)]
            yield f"{name}.cv2.conv", _readers(layers, layer.i)
        elif isinstance(layer, SPPF):
            width = layer.cv1.conv.out_channels
            yield f"{name}.cv1.conv", [(f"{name}.cv2.conv", part * width) for part in range(4)]
            yield f"{name}.cv2.conv", _readers(layers, layer.i)
        elif isinstance(layer, Detect):
            for branch in ("cv2", "cv3"):
                for scale in range(layer.nl):
                    chain = f"{name}.{branch}.{scale}"
                    yield f"{chain}.0.conv", [(f"{chain}.1.conv", 0)]
                    yield f"{chain}.1.conv", [(f"{chain}.2", 0)]


def _readers(layers: nn.Sequential, index: int) -> list[tuple[str, int]]:
    """The convolutions that read the output of a layer, and where its first channel is among their inputs."""
    found = []
    for layer in layers[index + 1 :]:
        read = sources(layer)
        if index not in read:
            continue
        name = f"model.{layer.i}"
        if isinstance(layer, Conv):
            found.append((f"{name}.conv", 0))
        elif isinstance(layer, C2f | SPPF):
            found.append((f"{name}.cv1.conv", 0))
        elif isinstance(layer, Detect):
            scale = read.index(index)
            found += [(f"{name}.{branch}.{scale}.0.conv", 0) for branch in ("cv2", "cv3")]
        else:
            before = read[: read.index(index)] if isinstance(layer, Concat) else []
            offset = sum(_width(layers, source) for source in before)
            found += [(reader, offset + first) for reader, first in _readers(layers, layer.i)]
    return found


def _width(layers: nn.Sequential, index: int) -> int:
    """Output channels of a layer."""
    layer = layers[index]
    if isinstance(layer, Conv):
        return layer.conv.out_channels
    if isinstance(layer, C2f | SPPF):
        return layer.cv2.conv.out_channels
    return sum(_width(layers, source) for source in sources(layer))


def positions(model: nn.Module, size: int = 640) -> dict[str, int]:
    """By convolution, the output positions on a square image: multiplications = positions · weights."""
    found = {}

    def remember(name: str):
        return lambda module, inputs, output: found.__setitem__(name, output[0, 0].numel())

    probed = copy.deepcopy(model)  # since the head remembers the size it has seen
    for name, module in convolutions(probed).items():
        module.register_forward_hook(remember(name))
    with torch.no_grad():
        probed(torch.zeros(1, 3, size, size))
    return found


def multiplications(model: nn.Module, size: int = 640) -> int:
    """Multiply-accumulate operations of all convolutions for one square image."""
    where = positions(model, size)
    return sum(where[name] * module.weight.numel() for name, module in convolutions(model).items())


class Narrowing:
    """Takes channels from a model where they cost least for the multiplications they save.

    Args:
        model: as for :func:`groups`; it is not changed.
        statistics: of :func:`.sensitivity.collect`.
        unit: channels that go together, a multiple of four. Runtimes compute in vectors of 8 or 16 channels,
            so less than a whole one saves nothing.
    """

    def __init__(self, model: nn.Module, statistics: Mapping[str, Statistics], unit: int = 16) -> None:
        self.model, self.statistics, self.unit = model, statistics, unit
        self.groups = groups(model)
        self.layers = convolutions(model)
        self.positions = positions(model)
        self.outputs = {n: torch.ones(m.out_channels, dtype=torch.bool) for n, m in self.layers.items()}
        self.inputs = {n: torch.ones(m.in_channels, dtype=torch.bool) for n, m in self.layers.items()}
        self._costs: dict[str, torch.Tensor] = {}

    def multiplications(self) -> int:
        """Of all convolutions, with the channels that are left."""
        return sum(self._multiplications(name) for name in self.layers)

    def narrow(self, share: float) -> None:
        """Remove channels until only this share of the original's multiplications is left.

        Raises:
            ChannelError: every layer is down to its last unit before that.
        """
        target = share * sum(self.positions[n] * m.weight.numel() for n, m in self.layers.items())
        while self.multiplications() > target:
            candidates = [c for group in self.groups if (c := self._candidate(group)) is not None]
            if not candidates:
                raise ChannelError(f"a share of {share:g} needs layers of less than {self.unit} channels")
            _, group = min(candidates, key=lambda c: c[0])
            for _ in range(STAGES):  # what the next channels cost depends on which are gone
                costs = self._group_costs(group)
                self._remove(group, costs.argsort(stable=True)[: self.unit // STAGES])

    def model_now(self) -> nn.Module:
        """A new model with the channels that are left, all layers refitted to what they still read."""
        narrowed = copy.deepcopy(self.model)
        for name, module in convolutions(narrowed).items():
            rows, columns = self.outputs[name], self.inputs[name]
            resize(module, self._refitted(name)[rows][:, columns], module.bias.detach()[rows])
        return narrowed

    def _group_costs(self, group: Group) -> torch.Tensor:
        """(channels,): what each channel costs in all that read it, nats an image; infinite if it is gone."""
        width = len(self.outputs[group.producer])
        return sum(self._reader_costs(reader)[first : first + width] for reader, first in group.readers)

    def _candidate(self, group: Group) -> tuple[float, Group] | None:
        """Cost per multiplication of a group's cheapest channels."""
        rows = int(self.outputs[group.producer].sum())
        if rows <= self.unit:
            return None
        cheapest = self._group_costs(group).sort().values[: self.unit]
        saved = self._multiplications(group.producer) * self.unit / rows
        for reader, _ in group.readers:
            saved += self._multiplications(reader) * self.unit / int(self.inputs[reader].sum())
        return float(cheapest.sum()) / saved, group

    def _remove(self, group: Group, channels: torch.Tensor) -> None:
        self.outputs[group.producer][channels] = False
        self._costs.pop(group.producer, None)
        for reader, first in group.readers:
            self.inputs[reader][channels + first] = False
            self._costs.pop(reader, None)

    def _multiplications(self, name: str) -> int:
        module = self.layers[name]
        kernel = module.weight[0, 0].numel()
        return self.positions[name] * int(self.outputs[name].sum()) * int(self.inputs[name].sum()) * kernel

    def _system(self, name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Kept columns, inverse of the damped Hessian among them, refitted weights (rows, columns)."""
        module, found = self.layers[name], self.statistics[name]
        kernel = module.weight[0, 0].numel()
        columns = self.inputs[name].repeat_interleave(kernel).nonzero()[:, 0]
        hessian = damped(found.hessian)
        wanted = module.weight.detach().flatten(1).double() @ hessian[:, columns]
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[columns][:, columns]))
        return columns, inverse, wanted @ inverse

    def _reader_costs(self, name: str) -> torch.Tensor:
        """(in_channels,): what each input channel still read costs, nats an image; infinite for others."""
        if name not in self._costs:
            kernel = self.layers[name].weight[0, 0].numel()
            columns, inverse, weight = self._system(name)
            rows = self.outputs[name]
            channels = len(columns) // kernel
            blocks = inverse.reshape(channels, kernel, channels, kernel)
            blocks = blocks[torch.arange(channels), :, torch.arange(channels)]
            parts = weight[rows].reshape(-1, channels, kernel).permute(1, 2, 0)  # (channels, kernel, rows)
            squares = (parts * torch.linalg.solve(blocks, parts)).sum(1)
            costs = torch.full((len(self.inputs[name]),), torch.inf, dtype=torch.float64)
            costs[self.inputs[name]] = squares @ worth(self.statistics[name])[rows]
            self._costs[name] = costs
        return self._costs[name]

    def _refitted(self, name: str) -> torch.Tensor:
        """The weights in their full shape, zero where an input channel is gone."""
        weight = self.layers[name].weight.detach()
        if self.inputs[name].all():
            return weight
        columns, _, fitted = self._system(name)
        matrix = torch.zeros_like(weight.flatten(1), dtype=torch.float64)
        matrix[:, columns] = fitted
        return matrix.to(weight.dtype).reshape(weight.shape)
