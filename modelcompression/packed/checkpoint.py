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
from .coding import Coder, CodingError
from .container import ARCHITECTURES, opened, read, write
from .graphs import packed_graph, unpacked_graph
from .tensors import Codebook, Grid, PackedCheckpointError, Sparse, encoded, require

if TYPE_CHECKING:
    import openvino
    import torch
    from ultralytics import YOLO


def save(
    path: Path | str,
    model: torch.nn.Module,
    tensors: Mapping[str, Grid | Codebook | Sparse],
    int8: openvino.Model | None = None,
) -> Path:
    """Write a packed checkpoint. The same input gives the same bytes.

    Args:
        model: YOLOv8n with BatchNorm folded (:func:`.detector.load_yolo`); what is not in ``tensors`` is
            taken from it and stored as float16.
        tensors: by parameter name, what replaces the model's weights.
        int8: the execution graph of that model quantized by NNCF, for :func:`to_openvino`. Its convolutions
            then compute with exactly the packed symbols, in channels where these fit into int8. Biases that
            differ from the packed ones (by NNCF's bias correction) are stored with the graph.

    Raises:
        PackedCheckpointError: a tensor does not fit the model, or does not fit the format.
        OSError: the file cannot be written; a previous one is kept.
    """
    state = _parameters(model)
    unknown = sorted(set(tensors) - set(state))
    if unknown:
        raise PackedCheckpointError(f"the model has no parameter '{unknown[0]}'")
    coders = Coder(), Coder()
    entries, sections = [], []
    for name, value in state.items():
        tensor = tensors.get(name, value)
        shape = tuple(value.shape)
        try:
            kind, parts = encoded(tensor, shape, coders)
        except (CodingError, PackedCheckpointError) as error:
            raise PackedCheckpointError(f"{name}: {error}") from None
        entries.append([name, kind, list(shape), [len(part) for part in parts]])
        sections += parts
    graphs: dict[str, list[int]] = {}
    if int8 is not None:
        sections.append(packed_graph(int8, {**state, **tensors}))
        graphs["int8"] = [len(sections[-1])]
    header = {"architecture": ARCHITECTURES[0], "tensors": entries, "graphs": graphs}
    return write(Path(path), header, b"".join(sections))


def _parameters(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """All weights that define the model: not the constant that decodes box distances."""
    if any("running_mean" in name for name in model.state_dict()):
        raise PackedCheckpointError("the model has BatchNorm layers: fold them first (load_yolo does)")
    return {
        name: value.detach().cpu().numpy()
        for name, value in model.state_dict().items()
        if not name.endswith("dfl.conv.weight")
    }


def load(path: Path | str) -> YOLO:
    """A packed checkpoint as an ultralytics ``YOLO``, ready to predict, export or validate.

    Raises:
        PackedCheckpointError: not a packed checkpoint, of a later version, or damaged.
    """
    tensors = read(path)
    import torch
    from ultralytics import YOLO

    from ..subject import class_names

    yolo = YOLO(ARCHITECTURES[0], task="detect")
    yolo.model.names = class_names()
    yolo.model.float().fuse(verbose=False).eval()
    state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    try:
        _fit(yolo.model, state)
    except PackedCheckpointError as error:
        raise PackedCheckpointError(f"{path}: {error}") from None
    return yolo


def _fit(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Put weights into a model whose convolutions may have more channels than they."""
    import torch

    from ..network import resize

    expected = _parameters(model)
    wrong = sorted(set(state) ^ set(expected))
    require(not wrong, f"its tensors are not those of YOLOv8n, starting at {wrong[:1]}")
    for name, value in expected.items():
        found, full = tuple(state[name].shape), value.shape
        fits = len(found) == len(full) and found[2:] == full[2:]
        fits = fits and all(few <= many for few, many in zip(found, full, strict=True))
        require(fits, f"its tensors are not those of YOLOv8n, starting at {name}: {found}, not {full}")
    names = {name.rpartition(".")[0] for name, value in expected.items()}
    for name in (n for n in names if state[f"{n}.weight"].shape != expected[f"{n}.weight"].shape):
        resize(model.get_submodule(name), state[f"{name}.weight"], state[f"{name}.bias"])
    try:
        model.load_state_dict(state, strict=False)
        with torch.no_grad():
            copy.deepcopy(model)(torch.zeros(1, 3, 64, 64))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise PackedCheckpointError(f"channels of neighbouring layers do not fit: {reason}") from None


def to_openvino(path: Path | str, folder: Path | str, precision: str = "int8") -> Path:
    """Unpack for OpenVINO: write ``.xml`` and ``.bin`` into ``folder``, return the path of the ``.xml``.

    Args:
        precision: ``int8`` takes the graph out of the file and needs neither PyTorch nor an image; ``f32``
            and ``f16`` export the loaded model, with weights stored in that format.

    Raises:
        PackedCheckpointError: as :func:`load`, or the file holds no INT8 graph.
    """
    require(precision in ("int8", "f32", "f16"), f"precision must be int8, f32 or f16, not {precision!r:.20}")
    folder = Path(folder)
    if precision != "int8":
        return _exported(load(path), folder, half=precision == "f16")
    xml, weights = unpacked_graph(path)
    file = folder / f"{Path(path).stem}.xml"
    files.replace({file.with_suffix(".bin"): weights, file: xml})
    return file


def _exported(yolo: YOLO, folder: Path, half: bool) -> Path:
    import openvino
    import torch

    file, threads = folder / "yolov8n.xml", torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory() as aside:
            yolo.model.pt_path = str(Path(aside) / "yolov8n.pt")  # ultralytics exports beside it
            exported = yolo.export(format="onnx", imgsz=640, simplify=True, verbose=False)
            openvino.save_model(openvino.convert_model(exported), file, compress_to_fp16=half)
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
