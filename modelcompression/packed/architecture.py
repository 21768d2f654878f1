"""The architecture of a detector as data: what a packed checkpoint says about the network that it belongs to.

It is ultralytics' model description, resolved: which layer types follow each other, what each reads, and
its arguments. Nothing in it is looked up by name in a folder and nothing is evaluated: layer types and
activations are names from the lists below, arguments are numbers, booleans and null. :class:`Architecture`
checks the form, :func:`build` makes the network without memory for its weights, so that what is too large is
refused before anything is allocated.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from ..subject import USUAL_SIZE, Subject, class_names
from .tensors import PackedCheckpointError, require

if TYPE_CHECKING:
    from torch import nn
    from ultralytics.nn.tasks import DetectionModel

# Layer types, and how many of their first arguments are channel numbers.
LAYERS = {
    **dict.fromkeys(("Conv", "DWConv", "GhostConv", "Focus", "SCDown", "AConv", "ADown"), 1),
    **dict.fromkeys(("Bottleneck", "GhostBottleneck", "SPP", "SPPF", "PSA", "C2PSA", "C2fPSA", "C2fCIB"), 1),
    **dict.fromkeys(("C1", "C2", "C2f", "C3", "C3k2", "C3x", "C3Ghost", "A2C2f", "RepC3"), 1),
    **{"SPPELAN": 2, "ELAN1": 3, "RepNCSPELAN4": 3, "nn.ConvTranspose2d": 1},
    **dict.fromkeys(("Concat", "nn.Upsample", "nn.MaxPool2d", "nn.Identity", "nn.ZeroPad2d"), 0),
}
HEADS = ("Detect", "v10Detect")
# Activations, and how many numbers each takes.
ACTIVATIONS = {
    **dict.fromkeys(("SiLU", "ReLU", "ReLU6", "Hardswish", "Mish", "Sigmoid", "Tanh", "Identity"), 0),
    **{"GELU": 0, "SELU": 0, "LeakyReLU": 1},
}
SCALES = ("", "n", "t", "s", "m", "b", "c", "l", "e", "x")
MOST_LAYERS, MOST_REPEATS, MOST_CLASSES, MOST_INPUTS = 128, 64, 10_000, 64
MOST_COPIES = 512  # of layers, repeats included; ultralytics' largest have about a hundred
LARGEST_WIDTH, LARGEST_ARGUMENT, LARGEST_SIZE = 8192, 64, 8192
MOST_CLASS_WIDTH = 100  # ultralytics: max(channels of the first map, min(classes, 100))
MOST_WEIGHTS = 2**27  # twice YOLOv8x
LARGEST_MAP = 2**25  # elements of one feature map of an image of PROBE² pixels
PROBE = 256
OPTIONAL = {"class_width", "size"}  # left out of a file where they are None


@dataclass(frozen=True)
class Architecture:
    """What of a detector is not weights.

    layers: ``[from, repeats, type, arguments]`` each, as in ultralytics' model descriptions; the last one is
        the head, whose number of classes is written ``"nc"``.
    depth, width, max_channels: what repeats and channels are multiplied by, and where channels end (or None).
    scale: the letter of the size, on which some layer types depend.
    activation: name, and its numbers.
    reg_max: bins of a box side's distribution.
    end2end: the remaining head is the one-to-one head, which needs no non-maximum suppression.
    channels: of the input.
    names: of the classes, by index.
    class_width: channels of the head's class branch, where they are more than its number of classes asks for:
        a fine-tune keeps those of the model that it started from. None: as the number of classes asks.
    size: side in pixels of the square that it was trained for. None: 640.
    """

    layers: list[list[Any]]
    depth: float
    width: float
    max_channels: int | None
    scale: str
    activation: list[Any]
    reg_max: int
    end2end: bool
    channels: int
    names: list[str]
    class_width: int | None = None
    size: int | None = None

    @classmethod
    def checked(cls, data: Any) -> Architecture:
        """From what a file says.

        Raises:
            PackedCheckpointError: it is not of that form, or names what is not on the lists.
        """
        require(isinstance(data, dict), "the architecture is no object")
        known = set(cls.__dataclass_fields__)
        require(known - OPTIONAL <= set(data) <= known, "the architecture has other keys")
        found = cls(**data)
        found._check_numbers()
        for index, layer in enumerate(_listed(found.layers, MOST_LAYERS, "layers")):
            is_head = index == len(found.layers) - 1
            _check_layer(layer, index, HEADS if is_head else tuple(LAYERS))
        copies = sum(_copies(layer, found.depth) for layer in found.layers)
        require(copies <= MOST_COPIES, f"{copies} layers with their repeats, more than {MOST_COPIES}")
        names = _listed(found.names, MOST_CLASSES, "class names")
        require(all(isinstance(name, str) and len(name) <= 200 for name in names), "a class name is no text")
        return found

    def _check_numbers(self) -> None:
        for name in ("depth", "width"):
            require(_number(getattr(self, name), 0.01, 16), f"a {name} of {getattr(self, name)!r:.20}")
        widest = self.max_channels
        require(widest is None or _whole(widest, 1, LARGEST_WIDTH), f"at most {widest!r:.20} channels")
        require(isinstance(self.scale, str) and self.scale in SCALES, f"the scale {self.scale!r:.20}")
        require(_whole(self.reg_max, 1, 64), f"{self.reg_max!r:.20} bins for a box side")
        width = self.class_width
        require(
            width is None or _whole(width, 1, MOST_CLASS_WIDTH), f"a class branch of {width!r:.20} channels"
        )
        size = self.size
        require(size is None or _whole(size, 32, LARGEST_SIZE), f"an input of {size!r:.20} pixels")
        require(isinstance(self.end2end, bool), f"end2end of {self.end2end!r:.20}")
        require(_whole(self.channels, 1, MOST_INPUTS), f"an input of {self.channels!r:.20} channels")
        kind, *numbers = _listed(self.activation, 2, "parts of the activation")
        known = isinstance(kind, str) and len(numbers) == ACTIVATIONS.get(kind, -1)
        known = known and all(_number(value, 0, 1) for value in numbers)
        require(known, f"an activation that is not on the list: {self.activation!r:.50}")

    def data(self) -> dict[str, Any]:
        """The same as JSON has it; without what is optional and None."""
        return {k: value for k, value in asdict(self).items() if value is not None or k not in OPTIONAL}

    def description(self) -> dict[str, Any]:
        """The same as ultralytics' ``model.yaml`` has it; its activation is left out, see :func:`build`."""
        layers = copy.deepcopy(self.layers)
        resolved = {"nc": len(self.names), "channels": self.channels, "reg_max": self.reg_max}
        resolved |= {"end2end": self.end2end, "scale": self.scale}
        if self.max_channels is None:
            resolved |= {"depth_multiple": self.depth, "width_multiple": self.width}
        else:
            resolved |= {"scales": {self.scale: [self.depth, self.width, self.max_channels]}}
        return resolved | {"backbone": layers[:-1], "head": layers[-1:]}


def _listed(values: Any, most: int, what: str) -> list[Any]:
    require(isinstance(values, list) and 1 <= len(values) <= most, f"the architecture has no list of {what}")
    return values


def _whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _number(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most


def _check_layer(layer: Any, index: int, known: tuple[str, ...]) -> None:
    require(isinstance(layer, list) and len(layer) == 4, f"layer {index} is no list of four")
    source, repeats, kind, arguments = layer
    require(isinstance(kind, str) and kind in known, f"layer {index} of a type not on the list: {kind!r:.50}")
    read = source if isinstance(source, list) else [source]
    fits = 1 <= len(read) <= 16 and all(_whole(s, -1 if index == 0 else -index, index - 1) for s in read)
    several = kind == "Concat" or kind in HEADS
    require(fits and isinstance(source, list) == several, f"layer {index} reads {source!r:.50}")
    require(_whole(repeats, 1, MOST_REPEATS), f"layer {index} is repeated {repeats!r:.20} times")
    require(isinstance(arguments, list) and len(arguments) <= 10, f"layer {index} has no list of arguments")
    for place, value in enumerate(arguments):
        if kind in HEADS:
            fits = place == 0 and value == "nc"
        elif place < LAYERS[kind]:
            fits = _whole(value, 1, LARGEST_WIDTH)
        else:
            fits = _argument(value) or (
                isinstance(value, list) and len(value) <= 4 and all(map(_argument, value))
            )
            fits = fits or (kind == "nn.Upsample" and value == "nearest")
        require(fits, f"layer {index} ({kind}) has the argument {value!r:.50}")
    require(len(arguments) >= (LAYERS.get(kind) or (kind in HEADS)), f"layer {index} lacks arguments")


def _copies(layer: list[Any], depth: float) -> int:
    _, repeats, kind, arguments = layer
    inner = arguments[3] if kind == "RepNCSPELAN4" and len(arguments) > 3 else 1
    return max(1, round(repeats * depth)) * max(1, round(inner) if _number(inner, 1, LARGEST_ARGUMENT) else 1)


def _argument(value: Any) -> bool:
    return value is None or isinstance(value, bool) or _number(value, -1, LARGEST_ARGUMENT)


def yolov8n() -> Architecture:
    """That of YOLOv8n for COCO, which version 1 of the format only knew by name."""
    text = (resources.files(__package__) / "yolov8n.json").read_text(encoding="utf8")
    return Architecture(**json.loads(text), names=list(class_names().values()))


def architecture_of(model: nn.Module) -> Architecture:
    """What :func:`build` needs to make this network again.

    Raises:
        PackedCheckpointError: it is no detector of ultralytics', or has parts that the lists above lack.
    """
    from ultralytics.nn.tasks import DetectionModel

    kind = type(model).__name__
    described = isinstance(model, DetectionModel) and isinstance(getattr(model, "yaml", None), dict)
    require(described, f"a packed checkpoint holds a detection model of ultralytics', not a {kind}")
    given, head = model.yaml, model.model[-1]
    rows = copy.deepcopy([*given["backbone"], *given["head"]])
    scales, scale = given.get("scales"), given.get("scale") or ""
    if scales:
        scale = scale or next(iter(scales))
        depth, width, widest = scales[scale]
    else:
        depth, width, widest = given.get("depth_multiple", 1.0), given.get("width_multiple", 1.0), None
    for row in rows:
        row[3] = [None if value == "None" else value for value in row[3]]
    rows[-1][3] = ["nc"]
    names = model.names.values() if isinstance(model.names, dict) else model.names
    require(len(names) == head.nc, f"{len(names)} class names for a head of {head.nc} classes")
    return Architecture.checked(
        {
            "layers": rows, "depth": depth, "width": width, "max_channels": widest, "scale": scale,
            "activation": _activation_of(model), "reg_max": head.reg_max, "end2end": bool(head.end2end),
            "channels": int(given.get("channels", given.get("ch", 3))), "names": [str(n) for n in names],
            "class_width": _class_width(head), "size": _trained_size(model),
        }
    )  # fmt: skip


def _branches(head: nn.Module, name: str) -> list[nn.Module]:
    """One for each feature map; twice as many where a head has both kinds, one-to-many and one-to-one."""
    kinds = (getattr(head, prefix + name, None) for prefix in ("", "one2one_"))
    return [branch for branches in kinds if branches is not None for branch in branches]


def _class_width(head: nn.Module) -> int | None:
    """Channels of the class branch if they are more than ultralytics gives to that many classes."""
    width = _branches(head, "cv3")[0][-1].in_channels
    usual = max(_branches(head, "cv2")[0][0].conv.in_channels, min(head.nc, MOST_CLASS_WIDTH))
    return width if width > usual else None


def _trained_size(model: nn.Module) -> int | None:
    """What training has noted; None for ultralytics' own size."""
    size = Subject.of(model).input_size(model)
    return None if size == USUAL_SIZE else size


def _exchange_classes(head: nn.Module, classes: int) -> None:
    """As a fine-tune does with a head made for other classes: new last convolutions."""
    import torch

    head.nc, head.no = classes, classes + 4 * head.reg_max
    for branch in _branches(head, "cv3"):
        branch[-1] = torch.nn.Conv2d(branch[-1].in_channels, classes, 1)


def _activation_of(model: nn.Module) -> list[Any]:
    """The one activation of all of ultralytics' convolutions, as the file says it."""
    from ultralytics.nn.modules import Conv

    found = [m.act for m in model.modules() if isinstance(m, Conv) and type(m.act).__name__ != "Identity"]
    kinds = {type(act).__name__: act for act in found}
    require(len(kinds) <= 1, f"the model mixes activations: {', '.join(sorted(kinds))}")
    kind, act = next(iter(kinds.items()), ("Identity", None))
    require(
        kind in ACTIVATIONS, f"the activation {kind} cannot be packed: use one of {', '.join(ACTIVATIONS)}"
    )
    return [kind, float(act.negative_slope)] if kind == "LeakyReLU" else [kind]


def build(architecture: Architecture) -> DetectionModel:
    """The network, BatchNorm folded, in evaluation mode; its weights have shapes but no memory yet ("meta").

    Raises:
        PackedCheckpointError: the layers do not fit together, or are too large.
    """
    import torch
    from ultralytics.nn.tasks import DetectionModel, initialize_weights, parse_model

    model = DetectionModel.__new__(DetectionModel)
    torch.nn.Module.__init__(model)
    model.yaml, model.inplace = architecture.description(), True
    model.names, model.args = dict(enumerate(architecture.names)), {"imgsz": architecture.size or USUAL_SIZE}
    try:
        with torch.device("meta"), _default_activation(architecture.activation):
            classes = len(architecture.names)
            described = copy.deepcopy(model.yaml) | {"nc": architecture.class_width or classes}
            model.model, model.save = parse_model(described, ch=architecture.channels, verbose=False)
            initialize_weights(model)
            weights = sum(parameter.numel() for parameter in model.parameters())
            require(
                weights <= MOST_WEIGHTS, f"the architecture has {weights} weights, more than {MOST_WEIGHTS}"
            )
            head = model.model[-1]
            if architecture.class_width:
                _exchange_classes(head, classes)
            head.end2end = architecture.end2end
            model.eval().fuse(verbose=False)
            strides = _strides(model, architecture.channels)
    except PackedCheckpointError:
        raise
    except Exception as error:  # whatever ultralytics' layers say to arguments that do not fit
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:150]
        raise PackedCheckpointError(f"the architecture's layers do not fit together: {reason}") from None
    head.stride = model.stride = torch.tensor(strides)
    head.inplace = True
    return model


@contextmanager
def _default_activation(activation: list[Any]) -> Iterator[None]:
    """Ultralytics' convolutions take theirs from the class."""
    import torch
    from ultralytics.nn.modules import Conv

    kind, *numbers = activation
    before, Conv.default_act = Conv.default_act, getattr(torch.nn, kind)(*numbers)
    try:
        yield
    finally:
        Conv.default_act = before


def _strides(model: nn.Module, channels: int) -> list[float]:
    """Pixels between neighbours in each feature map that the head reads; no map may be too large."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Bounded(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, arguments=(), named=None):
            result = operation(*arguments, **(named or {}))
            if isinstance(result, torch.Tensor):
                require(result.numel() <= LARGEST_MAP, "the architecture has feature maps that are too large")
            return result

    head, sizes = model.model[-1], []
    head.training = True  # it then leaves the boxes undecoded, which needs the strides
    handle = head.register_forward_pre_hook(lambda _, inputs: sizes.extend(x.shape[-1] for x in inputs[0]))
    try:
        with torch.no_grad(), Bounded():
            model(torch.zeros(1, channels, PROBE, PROBE))
    finally:
        handle.remove()
        head.training = False
    strides = [PROBE / size for size in sizes]
    require(
        all(s in (2**k for k in range(9)) for s in strides), f"feature maps with strides of {strides!r:.50}"
    )
    return strides
