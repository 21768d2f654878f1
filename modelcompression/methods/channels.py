"""Structured pruning: whole channels go, so every runtime really computes less.

A channel can only leave together with all that it is added to and all that reads it: these couplings are
found by :func:`.couplings.groups`, for any of ultralytics' detection models.

What a channel costs is its second-order cost in the layers that read it: with ``H`` the second moment of
their inputs, B the columns of one channel and A all that are left,

    tr( W_B ((H_AA⁻¹)_BB)⁻¹ W_Bᵀ )

is what removing it changes after a least-squares refit of the other columns (the block form of Optimal Brain
Surgeon, Hassibi & Stork 1993). It is weighed against the multiplications saved.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from ..network import convolutions, resize
from .couplings import ChannelError, Group, groups
from .sensitivity import Statistics, damped, worth

STAGES = 4


def positions(model: nn.Module, size: int = 640) -> dict[str, int]:
    """By convolution, the output positions on a square image: multiplications = positions · weights."""
    found = {}

    def remember(name: str):
        return lambda module, inputs, output: found.__setitem__(name, output[0, 0].numel())

    probed = copy.deepcopy(model)  # since the head remembers the size it has seen
    for name, module in convolutions(probed).items():
        module.register_forward_hook(remember(name))
    with torch.no_grad():
        probed(torch.zeros(1, next(iter(convolutions(model).values())).in_channels, size, size))
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
            weight = self._refitted(name)[rows]
            bias = None if module.bias is None else module.bias.detach()[rows]
            resize(module, weight if module.groups > 1 else weight[:, columns], bias)
        return narrowed

    def _group_costs(self, group: Group) -> torch.Tensor:
        """(channels,): what each channel costs in all that read it, nats an image; infinite if it is gone."""
        costs = (self._reader_costs(reader)[first : first + group.width] for reader, first in group.readers)
        return sum(costs)

    def _candidate(self, group: Group) -> tuple[float, Group] | None:
        """Cost per multiplication of a group's cheapest channels."""
        name, first = group.producers[0]
        if int(self.outputs[name][first : first + group.width].sum()) <= self.unit:
            return None
        cheapest = self._group_costs(group).sort().values[: self.unit]
        saved = 0.0
        for producer, _ in group.producers:
            saved += self._multiplications(producer) * self.unit / int(self.outputs[producer].sum())
        for reader, _ in group.readers:
            saved += self._multiplications(reader) * self.unit / int(self.inputs[reader].sum())
        return float(cheapest.sum()) / saved, group

    def _remove(self, group: Group, channels: torch.Tensor) -> None:
        """Channels are counted from the group's first one."""
        for producer, first in group.producers:
            self.outputs[producer][channels + first] = False
            self._costs.pop(producer, None)
        for reader, first in group.readers:
            self.inputs[reader][channels + first] = False
            self._costs.pop(reader, None)

    def _multiplications(self, name: str) -> int:
        module = self.layers[name]
        kernel = module.weight[0, 0].numel()
        read = int(self.inputs[name].sum()) // module.groups  # one, if depthwise: its inputs are its outputs
        return self.positions[name] * int(self.outputs[name].sum()) * read * kernel

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
