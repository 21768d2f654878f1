"""Which channels can only leave together? They are followed through the computation, not through layer names.

One forward pass runs with a label on every channel. A convolution gives its outputs new labels (a depthwise
one keeps those of its inputs), pointwise functions and pooling keep labels, a concatenation puts them one
after the other, a sum or a product of two maps makes their labels one. Where channels are cut into parts of
fixed size, reshaped or multiplied as matrices, as in attention and in the decoding of boxes, they stay.
The same idea, on PyTorch's autograd graph: Fang et al. 2023, "DepGraph", https://arxiv.org/abs/2301.12900.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, resolve_name
from ultralytics.nn.tasks import DetectionModel

from ..errors import ModelCompressionError
from ..network import convolutions, depthwise

SIZE = 64  # pixels: of the image that is followed

# By the names of PyTorch's functions. Each channel of the result depends on the same channel of the input:
KEEP = {"silu", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "mish", "hardswish", "hardsigmoid"}
KEEP |= {"hardtanh", "sigmoid", "tanh", "softplus", "clamp", "dropout"}
KEEP |= {"contiguous", "clone", "detach", "to", "float", "half", "type_as", "interpolate", "pad"}
KEEP |= {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"}
# … or on the same channel of two inputs, in all ways of writing it (`a + b`, `a += b`, `a.add_(b)`).
COMBINE = {way + name for name in ("add", "sub", "mul", "div", "truediv") for way in ("", "i", "r")}
COMBINE |= {"maximum", "minimum"}
# The result has no channels that could be followed; those of the input stay.
STAY = {"view", "reshape", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze", "expand"}
STAY |= {"chunk", "split", "tensor_split", "narrow", "unbind", "__getitem__", "stack", "softmax", "normalize"}
STAY |= {
    "matmul",
    "__matmul__",
    "bmm",
    "einsum",
    "scaled_dot_product_attention",
    "sum",
    "mean",
    "amax",
    "max",
}
# Only the shape of the input is read.
EMPTY = {"new_full", "new_zeros", "new_ones", "new_empty"}
EMPTY |= {"full_like", "zeros_like", "ones_like", "empty_like"}


class ChannelError(ModelCompressionError, ValueError):
    """The wish cannot be carried out on this model; the message says why."""


@dataclass(frozen=True)
class Group:
    """Channels, each of which can leave if it leaves from all places at once.

    width: how many.
    producers: (name of a convolution, its output channel that is the group's first one) in the order of
        computation. Several if their outputs are added up; depthwise convolutions that they pass through
        are among them.
    readers: (name of a convolution that is not depthwise, its input channel that holds the first one).
    """

    width: int
    producers: tuple[tuple[str, int], ...]
    readers: tuple[tuple[str, int], ...]

    @property
    def producer(self) -> str:
        """The convolution that is computed first."""
        return self.producers[0][0]


def groups(model: nn.Module) -> list[Group]:
    """All channels of a detection model that can leave, in the order of computation.

    Args:
        model: ultralytics' detection model, BatchNorm folded; it is not changed.

    Raises:
        ChannelError: no such model, or it does something with its channels that is not understood.
    """
    if not isinstance(model, DetectionModel):
        raise ChannelError(f"{type(model).__name__} is no detection model of ultralytics")
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ChannelError(f"{name} is a BatchNorm layer: fold them first (load_yolo does)")
    labels = _Labels(copy.deepcopy(model).eval())  # a copy, since the head remembers the size it has seen
    idle = next((name for name in convolutions(model) if name not in labels.outputs), None)
    if idle is not None:
        raise ChannelError(f"{idle} takes no part in detecting: what its channels belong to is unknown")
    return [group for group in _runs(labels) if group.readers]


def _runs(labels: _Labels) -> Iterator[Group]:
    """Labels in a row that are found in the same convolutions, in a row as well."""
    places: dict[int, tuple[list[tuple[str, int]], list[tuple[str, int]]]] = {}
    for side, table in enumerate((labels.outputs, labels.inputs)):
        for name, found in table.items():
            for channel, label in enumerate(found):
                places.setdefault(labels.find(label), ([], []))[side].append((name, channel))
    staying = {labels.find(label) for label in labels.staying}
    current = None
    for label, (producers, readers) in places.items():
        if label in staying:
            continue
        if current is not None:
            shifted = [[(n, c + current.width) for n, c in s] for s in (current.producers, current.readers)]
            if shifted == [producers, readers]:
                current = Group(current.width + 1, current.producers, current.readers)
                continue
            yield current
        current = Group(1, tuple(producers), tuple(readers))
    if current is not None:
        yield current


class _Labels(TorchFunctionMode):
    """What one forward pass tells about channels. Labels are numbers; some turn out to be one, see ``find``.

    outputs, inputs: by name of a convolution, in the order of computation, the labels of its channels; inputs
        of depthwise ones are left out, since they are their outputs.
    staying: labels of channels that cannot leave.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.outputs: dict[str, list[int]] = {}
        self.inputs: dict[str, list[int]] = {}
        self.staying: set[int] = set()
        self._parents: list[int] = []
        # By id; the tensor, too, since the id of one that is gone may be given to another.
        self._known: dict[int, tuple[torch.Tensor, list[int]]] = {}
        self._convolutions = {id(m.weight): (n, m) for n, m in convolutions(model).items()}
        self._inside: list[str] = []
        for name, module in model.named_modules():
            module.register_forward_pre_hook(partial(self._enter, name or "the model"))
            module.register_forward_hook(self._leave)
        first = next(module for _, module in self._convolutions.values())
        with torch.no_grad(), self:
            found = model(first.weight.new_zeros(1, first.in_channels, SIZE, SIZE))
        self._stay(found[0] if isinstance(found, tuple) else found)

    def find(self, label: int) -> int:
        """The label that stands for all that are one with this one."""
        while self._parents[label] != label:
            label = self._parents[label]
        return label

    def __torch_function__(
        self, func: Callable, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        values = (*args, *kwargs.values())
        name = getattr(func, "__name__", str(func))
        bare = name.strip("_")
        if name == "conv2d":
            self._convolve(values[0], values[1], result)
        elif name in EMPTY or not [*self._labelled(values)] or not [*_tensors(result)]:
            pass
        elif bare in KEEP and isinstance(result, torch.Tensor):
            self._keep(values[0], result)
        elif bare in COMBINE:
            self._combine(values[0], values[1], result)
        elif name in ("cat", "concat", "concatenate"):
            self._concatenate(values[0], (*values[1:2], 0)[0], result)
        elif name in STAY:
            self._stay(values)
        else:
            where, what = self._inside[-1], resolve_name(func) or name
            raise ChannelError(f"{where} computes {what}: through that, channels cannot be followed")
        return result

    def _enter(self, name: str, *_: Any) -> None:
        self._inside.append(name)

    def _leave(self, *_: Any) -> None:
        self._inside.pop()

    def _new(self, count: int) -> list[int]:
        labels = list(range(len(self._parents), len(self._parents) + count))
        self._parents += labels
        return labels

    def _of(self, value: Any) -> list[int] | None:
        return self._known.get(id(value), (None, None))[1]

    def _know(self, tensor: torch.Tensor, labels: list[int]) -> None:
        """A tensor has these labels from now on. If they are not as many as its channels, they stay."""
        if tensor.dim() == 4 and tensor.shape[1] == len(labels):
            self._known[id(tensor)] = tensor, labels
        else:
            self.staying.update(labels)

    def _labelled(self, value: Any) -> Iterator[torch.Tensor]:
        return (tensor for tensor in _tensors(value) if id(tensor) in self._known)

    def _stay(self, value: Any) -> None:
        for tensor in self._labelled(value):
            self.staying.update(self._known[id(tensor)][1])

    def _unite(self, ones: list[int], others: list[int]) -> None:
        for one, other in zip(ones, others, strict=True):
            self._parents[self.find(other)] = self.find(one)

    def _convolve(self, source: torch.Tensor, weight: torch.Tensor, result: torch.Tensor) -> None:
        name, module = self._convolutions.get(id(weight), (None, None))
        if name is None:  # its weights are constant, or computed
            self._stay(source)
            return
        read = self._of(source)
        if read is None:
            read = self._new(module.in_channels)
            self.staying.update(read)
        written = read if depthwise(module) else self._new(module.out_channels)
        if module.groups > 1 and not depthwise(module):
            self.staying.update((*read, *written))
        if name in self.outputs:  # it runs more than once
            self._unite(self.outputs[name], written)
            self._unite(self.inputs.get(name, []), [] if depthwise(module) else read)
        self.outputs[name] = written
        if not depthwise(module):
            self.inputs[name] = read
        self._know(result, written)

    def _keep(self, value: Any, result: torch.Tensor) -> None:
        labels = self._of(value)
        if labels is not None:
            self._know(result, labels)

    def _combine(self, one: Any, other: Any, result: torch.Tensor) -> None:
        for value in (one, other):
            if isinstance(value, torch.Tensor) and self._of(value) is None and _has_channels(value):
                self._stay((one, other))
        found = [labels for value in (one, other) if (labels := self._of(value)) is not None]
        longest = max(found, key=len)
        for labels in found:
            if len(labels) == len(longest):
                self._unite(longest, labels)
            else:
                self.staying.update(labels)
        self._know(result, longest)

    def _concatenate(self, parts: Sequence[torch.Tensor], dimension: int, result: torch.Tensor) -> None:
        if dimension % result.dim() != 1 or result.dim() != 4:
            self._stay(parts)
            return
        labels = []
        for part in parts:
            found = self._of(part)
            if found is None:
                found = self._new(part.shape[1])
                self.staying.update(found)
            labels += found
        self._know(result, labels)


def _has_channels(tensor: torch.Tensor) -> bool:
    """Does it mean something else for each channel of a map that it is added to?"""
    return tensor.dim() >= 3 and tensor.shape[-3] != 1


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
