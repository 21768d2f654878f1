"""How far does the standard come? YOLOv8n through NNCodec, the reference software of ISO/IEC 15938-17 (NNC).

    python results/measure_nncodec.py

NNCodec wants a numpy below 2. It is installed into an environment of its own, ``build/nncodec`` (a C++
compiler and an index of packages are needed), which borrows torch and all else from this one. Of each
bitstream the bytes are counted and the distance from the original's detections is measured, as in
``hw4_clustering/bytes.ipynb``, which draws what is written here: ``hw4_clustering/nncodec.csv``.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from modelcompression import ROOT, assets, files, subject
from modelcompression.detector import load_yolo
from modelcompression.errors import ModelCompressionError
from modelcompression.images import letterbox, to_batch
from modelcompression.methods.distance import Reference
from modelcompression.terminal import script

FOLDER, CSV = ROOT / "build" / "nncodec", ROOT / "hw4_clustering" / "nncodec.csv"
# Without their dependencies: those are borrowed. pandas 3 wants a newer numpy, pandas 2 wants pytz.
PACKAGES = ["nncodec==2.1.3", "numpy<2", "pandas<3", "pytz", "h5py"]
PARAMETERS = [-36, -34, -32, -30, -28, -26, -24, -22]  # a step doubles with each 4; NNCodec takes -32
CONSTANT = "dfl.conv.weight"  # 0, 1, 2, …: nobody has to send it
JUDGING = 24  # photographs, the last of coco128


class NncError(ModelCompressionError):
    """NNCodec cannot be installed or run here; the message says why."""


def main() -> None:
    """Install, encode, decode, measure, write."""
    python = _installed()
    model = load_yolo(subject.weights())
    state = {n: v.numpy() for n, v in model.state_dict().items() if not n.endswith(CONSTANT)}
    np.savez(FOLDER / "weights.npz", **state)
    _run(python, ROOT / "results" / "nncodec_roundtrip.py", FOLDER, *PARAMETERS)
    sizes = json.loads((FOLDER / "bytes.json").read_text())
    photographs = [sample.path for sample in assets.image_set("coco128").samples][-JUDGING:]
    reference = Reference(model, [to_batch(letterbox(path, 640)[0]) for path in photographs])
    rows = []
    for qp, size in sizes.items():
        candidate = _filled(model, np.load(FOLDER / f"{qp}.npz"))
        rows.append({"qp": int(qp), "bytes": size, "nats": round(reference.distance(candidate), 4)})
    table = pd.DataFrame(rows)
    files.replace({CSV: table.to_csv(index=False).encode()})
    print(table.to_string(index=False))


def _filled(model: torch.nn.Module, decoded: Mapping[str, np.ndarray]) -> torch.nn.Module:
    """A copy with the decoded weights.

    Raises:
        NncError: the decoder gave back other tensors than it was given.
    """
    candidate = copy.deepcopy(model)
    wanted = {name for name in candidate.state_dict() if not name.endswith(CONSTANT)}
    if set(decoded) != wanted:
        differ = ", ".join(sorted(set(decoded) ^ wanted)[:3])
        raise NncError(f"NNCodec gave back other tensors than it was given: {differ}, …")
    candidate.load_state_dict({n: torch.from_numpy(v) for n, v in decoded.items()}, strict=False)
    return candidate


def _installed() -> Path:
    """The Python of an environment that has these packages."""
    python, ready, wanted = FOLDER / "bin" / "python", FOLDER / "ready", "\n".join(PACKAGES)
    if not ready.is_file() or ready.read_text() != wanted:
        _run(sys.executable, "-m", "venv", "--clear", FOLDER)
        own = _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
        # Behind its own: what is not found there comes from here.
        (Path(own) / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
        _run(python, "-m", "pip", "install", "-q", "--no-deps", *PACKAGES)
        ready.write_text(wanted)
    return python


def _run(*command: object) -> str:
    """What a command prints.

    Raises:
        NncError: it fails.
    """
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and "notice" not in line]
        reason = next((line for line in lines if line.startswith("ERROR")), (lines or ["no message"])[-1])
        raise NncError(f"NNCodec cannot be had or run here: {reason.removeprefix('ERROR: ')}")
    return done.stdout.strip()


if __name__ == "__main__":
    script(main)
