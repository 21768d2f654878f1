"""The packed checkpoint of a network: the smallest file that still is the whole model.

    save("small.mcpk", model, {"model.0.conv.weight": Grid(symbols, exponents), ...})
    yolo = load("small.mcpk")
    inspect("small.mcpk")
    to_openvino("small.mcpk", "folder")

From a shell: ``modelcompression inspect FILE``. The file format is in :mod:`.container`.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import files
from ..subject import Subject
from .architecture import Architecture, architecture_of, build
from .container import decoded_tensors, opened, store
from .graphs import packed_graph, unpacked_graph
from .tensors import Codebook, Grid, PackedCheckpointError, Sparse, require

if TYPE_CHECKING:
    import openvino
    import torch
    from ultralytics import YOLO

CONSTANT = "dfl.conv.weight"  # 0, 1, 2, … decodes box distances
TOLERANCE = 1e-3  # of the largest output


def save(
    path: Path | str,
    model: torch.nn.Module,
    tensors: Mapping[str, Grid | Codebook | Sparse],
    int8: openvino.Model | None = None,
) -> Path:
    """Write a packed checkpoint. The same input gives the same bytes.

    Args:
        model: a detector of ultralytics' with BatchNorm folded (:func:`.detector.load_yolo`); what is not in
            ``tensors`` is taken from it and stored as float16.
        tensors: by parameter name, what replaces the model's weights.
        int8: the execution graph of that model quantized by NNCF, for :func:`to_openvino`. Its convolutions
            then compute with exactly the packed symbols, in channels where these fit into int8. Biases that
            differ from the packed ones (by NNCF's bias correction) are stored with the graph.

    Raises:
        PackedCheckpointError: a tensor does not fit the model, or the format; or :func:`load` would not give
            back this model.
        OSError: the file cannot be written; a previous one is kept.
    """
    state = _parameters(model)
    architecture = architecture_of(model)
    unknown = sorted(set(tensors) - set(state))
    require(not unknown, f"the model has no parameter '{unknown[0] if unknown else ''}'")
    graph = None if int8 is None else packed_graph(int8, {**state, **tensors})
    _check_comes_back(model, architecture, {name: _stored(tensors.get(name, state[name])) for name in state})
    return store(Path(path), architecture, state, tensors, graph)


def _parameters(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """All weights that define the model: not the constant that decodes box distances."""
    if any("running_mean" in name for name in model.state_dict()):
        raise PackedCheckpointError("the model has BatchNorm layers: fold them first (load_yolo does)")
    return {
        name: value.detach().cpu().float().numpy()
        for name, value in model.state_dict().items()
        if not name.endswith(CONSTANT)
    }


def _stored(tensor: Grid | Codebook | Sparse | np.ndarray) -> np.ndarray:
    """What :func:`load` will have of a tensor."""
    if not isinstance(tensor, np.ndarray):
        return tensor.values()
    with np.errstate(over="ignore"):  # infinite ones are refused when they are written
        return tensor.astype(np.float16).astype(np.float32)


def _check_comes_back(
    model: torch.nn.Module, architecture: Architecture, values: Mapping[str, np.ndarray]
) -> None:
    """The network that :func:`load` makes of this file computes what this model computes with those values.

    Raises:
        PackedCheckpointError: it does not, for example since layers were exchanged after the model was made.
    """
    import torch

    from ..network import undecoded

    for name, parameter in model.state_dict().items():
        fits = name not in values or values[name].shape == tuple(parameter.shape)
        require(fits, f"{name}: weights of shape {values[name].shape if name in values else ()}")
    rebuilt = _filled(build(architecture), values)
    original = copy.deepcopy(model).float().eval()
    original.load_state_dict({n: torch.from_numpy(v.copy()) for n, v in values.items()}, strict=False)
    side = _side(rebuilt)
    image = torch.rand(1, architecture.channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        given, back = undecoded(original, image), undecoded(rebuilt, image)
    for key, value in given.items():
        fits = value.shape == back[key].shape
        moved = float((value - back[key]).abs().max() / value.abs().max()) if fits else np.inf
        if not moved < TOLERANCE and torch.isfinite(value).all():
            raise PackedCheckpointError(
                f"loading would give back another network, its {key} differ by {100 * moved:.2g} %: "
                "the model has parts or settings that its description (model.yaml) does not mention"
            )


def load(path: Path | str) -> YOLO:
    """A packed checkpoint as an ultralytics ``YOLO``, ready to predict, export or validate.

    Raises:
        PackedCheckpointError: not a packed checkpoint, of a later version, or damaged.
    """
    header, body = opened(path)
    try:
        model = build(header["architecture"])
        _check_shapes(model, {name: tuple(shape) for name, _, shape, _ in header["tensors"]})
        tensors = decoded_tensors(path, header, body)
        model = _filled(model, {name: tensor.values() for name, tensor in tensors.items()})
    except PackedCheckpointError as error:
        raise PackedCheckpointError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    return _as_yolo(model, f"{Path(path).stem}.yaml")


def _check_shapes(model: torch.nn.Module, found: Mapping[str, tuple[int, ...]]) -> None:
    """Are these the tensors of a model whose convolutions may have more channels than they?"""
    expected = {n: tuple(v.shape) for n, v in model.state_dict().items() if not n.endswith(CONSTANT)}
    wrong = sorted(set(found) ^ set(expected))
    require(not wrong, f"its tensors are not those of its architecture, starting at {wrong[:1]}")
    for name, full in expected.items():
        few = found[name]
        fits = len(few) == len(full) and few[2:] == full[2:]
        fits = fits and all(some <= many for some, many in zip(few, full, strict=True))
        require(fits, f"its tensors are not those of its architecture, starting at {name}: {few}, not {full}")


def _filled(model: torch.nn.Module, values: Mapping[str, np.ndarray]) -> torch.nn.Module:
    """Put weights into a model that has no memory for them yet."""
    import torch

    from ..network import resize

    state = {name: torch.from_numpy(value.copy()) for name, value in values.items()}
    _check_shapes(model, {name: tuple(value.shape) for name, value in state.items()})
    full = model.state_dict()
    narrow = {n.rpartition(".")[0] for n, v in state.items() if v.shape != full[n].shape}
    for name in narrow:
        module = model.get_submodule(name)
        fits = isinstance(module, torch.nn.Conv2d) and module.bias is not None
        require(fits, f"{name} has fewer channels than its architecture, but is no convolution with a bias")
        resize(module, state[f"{name}.weight"], state[f"{name}.bias"])
    constants = {
        n: torch.arange(float(v.numel())).reshape(v.shape) for n, v in full.items() if n.endswith(CONSTANT)
    }
    try:
        model.load_state_dict(state | constants, assign=True)
        model.requires_grad_(False)
        side = _side(model)
        with torch.no_grad():
            copy.deepcopy(model)(torch.zeros(1, model.yaml["channels"], side, side))
    except Exception as error:  # whatever layers raise that somebody else has put together
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise PackedCheckpointError(f"channels of neighbouring layers do not fit: {reason}") from None
    return model


def _side(model: torch.nn.Module) -> int:
    """Of a small square image that leaves every feature map more than one position."""
    return max(64, 2 * int(model.stride.max()))


def _as_yolo(model: torch.nn.Module, name: str) -> YOLO:
    """Ultralytics' face of a network that lies in no file of theirs, and whose name is looked up nowhere.

    Args:
        name: what exports are named after.
    """
    from ultralytics import YOLO
    from ultralytics.cfg import DEFAULT_CFG_DICT

    class Assembled(YOLO):
        def _new(self, cfg: str, task: str | None = None, verbose: bool = False) -> None:
            self.cfg = self.model_name = cfg
            self.task, self.model = "detect", model
            self.overrides = {"model": cfg, "task": "detect", **trained}

    trained = {"imgsz": model.args["imgsz"]} if "imgsz" in getattr(model, "args", {}) else {}
    model.yaml["yaml_file"] = name
    model.args, model.task = {**DEFAULT_CFG_DICT, "model": name, "task": "detect", **trained}, "detect"
    return YOLO(Assembled("packed.yaml", task="detect"))


def to_openvino(
    path: Path | str, folder: Path | str, precision: str = "int8", size: int | None = None
) -> Path:
    """Unpack for OpenVINO: write ``.xml`` and ``.bin`` into ``folder``, return the path of the ``.xml``.

    Args:
        precision: ``int8`` takes the graph out of the file and needs neither PyTorch nor an image; ``f32``
            and ``f16`` export the loaded model, with weights stored in that format.
        size: of the square input of that export, in pixels; None: what it was trained for.

    Raises:
        PackedCheckpointError: as :func:`load`, or the file holds no INT8 graph.
    """
    require(precision in ("int8", "f32", "f16"), f"precision must be int8, f32 or f16, not {precision!r:.20}")
    folder = Path(folder)
    if precision != "int8":
        model = load(path).model
        size = size or model.args["imgsz"]
        return export(model, folder / f"{Path(path).stem}.xml", size, precision == "f16")
    xml, weights = unpacked_graph(path)
    file = folder / f"{Path(path).stem}.xml"
    files.replace({file.with_suffix(".bin"): weights, file: xml})
    return file


def export(model: torch.nn.Module, file: Path, size: int, half: bool = False) -> Path:
    """Write a detection model of ultralytics', BatchNorm folded, as an OpenVINO ``.xml`` with its ``.bin``.

    Args:
        size: of the square input in pixels.
        half: store weights as float16.
    """
    import openvino
    import torch

    from ..network import attends

    model = copy.deepcopy(model)
    model.yaml["channels"] = Subject.of(model).channels  # ultralytics called it ch before
    model.pt_path, threads = None, torch.get_num_threads()
    yolo = _as_yolo(model, f"{file.stem}.yaml")
    try:
        with tempfile.TemporaryDirectory() as aside:
            yolo.model.pt_path = str(Path(aside) / "model.pt")  # ultralytics exports beside it
            free = attends(model)
            settings = {"imgsz": size, "simplify": True, "dynamic": free, "verbose": False}
            graph = openvino.convert_model(yolo.export(format="onnx", **settings))
            if free:
                graph.reshape([1, model.yaml["channels"], size, size])
            openvino.save_model(graph, file, compress_to_fp16=half)
    finally:
        torch.set_num_threads(threads)  # which the export has lowered, for all that follows
    return file


def inspect(path: Path | str) -> pd.DataFrame:
    """What takes how much: a row for each tensor, and one each for header, graphs and the whole file.

    Returns:
        columns ``tensor``, ``kind``, ``shape``, ``bytes``, ``bits each``.

    Raises:
        PackedCheckpointError: as :func:`load`; the symbols themselves are not decoded.
    """
    header, body = opened(path)
    total = Path(path).stat().st_size
    rows = [
        (name, kind, "×".join(map(str, shape)), sum(lengths), int(np.prod(shape)))
        for name, kind, shape, lengths in header["tensors"]
    ]
    weights = sum(row[4] for row in rows)
    graphs = sum(sum(lengths) for lengths in header["graphs"].values())
    rows += [("graphs", "", "", graphs, 0), ("header and digest", "", "", total - len(body), 0)]
    rows += [("the whole file", "", "", total, weights)]
    table = pd.DataFrame(rows, columns=["tensor", "kind", "shape", "bytes", "elements"])
    bits = 8 * table["bytes"] / table["elements"].where(table["elements"] > 0)
    return table.drop(columns="elements").assign(**{"bits each": bits.round(3)})
