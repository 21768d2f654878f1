"""Any of ultralytics' detectors through ``compress`` and back through ``detect``: does it detect the same?"""

import copy
import json
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from click.testing import CliRunner
from torch import nn

from modelcompression import cli, compress, judge, measurement, verdict
from modelcompression.detect import Model
from modelcompression.detector import Detector, TorchDetector, load_yolo
from modelcompression.images import letterbox
from modelcompression.measure.fresh import Times
from modelcompression.methods.lean import LeanDetector
from modelcompression.packed import checkpoint
from modelcompression.subject import Subject

NO_TIMES = Times(np.ones((2, 2)), np.ones((2, 2)))  # how fast it is, is another test's concern


def saved(model: nn.Module, path: Path, **arguments: object) -> Path:
    """A checkpoint as ultralytics' training writes it."""
    torch.save({"model": copy.deepcopy(model).half(), "train_args": {"imgsz": 160, **arguments}}, path)
    return path


def require_round_trip(
    model: nn.Module, folder: Path, photographs: Path, size: int, everything: bool = True
) -> None:
    """Compress a model as ``--for both --images`` does, without labels, and look with each file.

    Args:
        folder: for the checkpoint and the files.
        photographs: a folder with eight or more.
        size: of the input in pixels.
        everything: False leaves out the INT8 graph without a packed checkpoint around it.

    Raises:
        AssertionError: a file does not detect what the original detects.
    """
    weights = saved(model, folder / "own.pt")
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(judge, "time_in_fresh_process", lambda *_: NO_TIMES))
        for module in (measurement, verdict):  # random weights are never more confident
            patches.enter_context(mock.patch.object(module, "CONFIDENCE", 0.001))
        work = compress.Work(
            compress.Wish(
                weights, images=photographs, out=folder, max_loss=1.0, size=size,
                trusted=True, threads=1, smoke=True,
            )
        )  # fmt: skip
        outcomes = [work.judge.original([weights]), *([work.fast()] if everything else [])]
        outcomes += [work.small(), work.both()]
        work.report(outcomes)
    assert "less agreement" in (folder / "report.md").read_text(encoding="utf8")
    original = TorchDetector(load_yolo(weights), 1, subject=work.subject)
    photograph = sorted(photographs.iterdir())[3]
    theirs = _seen(original, photograph, size)
    for outcome in outcomes[1:]:
        assert not outcome.loss.labelled and np.isfinite(outcome.distance), outcome.name
        ours = _seen(_opened(outcome.files[0], size, original), photograph, size)
        _require_alike(ours, theirs, outcome.name)
    _require_names(outcomes[-1].files[0], photograph, original)


def require_export(model: nn.Module, folder: Path, photograph: Path, size: int) -> None:
    """Pack a model as it is, in half precision, and export from that file; raises as `require_round_trip`."""
    packed = checkpoint.save(folder / "whole.mcpk", model, {})
    graph = checkpoint.to_openvino(packed, folder / "float", precision="f32", size=size)
    original = TorchDetector(model, 1, subject=Subject.of(model))
    sides = LeanDetector(graph, 1, subject=original.subject), original
    _require_alike(*(_seen(one, photograph, size) for one in sides), "the exported graph")


def _opened(file: Path, size: int, original: Detector) -> Detector:
    """A file as its user opens it; it knows by itself what it was made from."""
    if file.name.endswith("-small.mcpk"):
        model = checkpoint.load(file).model
        assert model.args["imgsz"] == size
        return TorchDetector(model, 1, subject=original.subject)
    own = Model(file if file.suffix == ".mcpk" else file.parent, threads=1)
    assert (own.size, own.names) == (size, original.subject.names)
    assert own.detector.subject.strides == original.subject.strides
    return own.detector


def _seen(detector: Detector, photograph: Path, size: int) -> np.ndarray:
    """What a head gives, (1, 4 + classes, anchors), or chooses from."""
    return verdict.every_anchor(detector, letterbox(photograph, size)[0])


def _require_alike(ours: np.ndarray, theirs: np.ndarray, name: str) -> None:
    """The same but for rounded weights and INT8, anchor for anchor."""
    assert ours.shape == theirs.shape, name
    scores = (np.clip(head[0, 4:].max(0), 1e-6, 1 - 1e-6) for head in (ours, theirs))
    correlation = np.corrcoef(*(np.log(score / (1 - score)) for score in scores))[0, 1]
    far = np.median(np.abs(theirs[0, :4] - ours[0, :4]).max(0))
    assert correlation > 0.9 and far < 2, f"{name}: correlation {correlation:.2f}, {far:.1f} pixels"


def _require_names(file: Path, photograph: Path, original: Detector) -> None:
    words = ["detect", str(photograph), "--model", str(file), "--json", "--confidence", "0.001"]
    said = CliRunner().invoke(cli.cli, words)
    assert said.exit_code == 0, said.output
    named = {box["name"] for box in json.loads(said.stdout)["boxes"]}
    assert named and named <= set(original.subject.names)
