"""Ultralytics' architectures with random weights, for tests of structure."""

import copy
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import DetectionModel, yaml_model_load


def described(name: str, width: float | None = None, **changes: object) -> dict[str, Any]:
    """One of ultralytics' own descriptions of networks, for three classes; ``width`` as of its layers."""
    description = yaml_model_load(name) | {"nc": 3} | changes
    if width:
        depth, _, most = description["scales"][description["scale"]]
        description["scales"] = {description["scale"]: [depth, width, most]}
    return description


def random_network(
    name: str,
    activation: nn.Module | None = None,
    width: float | None = None,
    tuned_from: int | None = None,
    **changes: object,
) -> DetectionModel:
    """One of ultralytics' own descriptions with random weights, BatchNorm folded.

    Args:
        width: of its layers; None: as described.
        tuned_from: the number of classes of the model that it starts from, as ultralytics' training does.
    """
    description = described(name, width, **changes)
    before, Conv.default_act = Conv.default_act, activation or Conv.default_act
    try:
        torch.manual_seed(0)
        channels = description.get("channels", 3)
        model = DetectionModel(copy.deepcopy(description), ch=channels, verbose=False)
        if tuned_from:
            model.load(
                DetectionModel(description | {"nc": tuned_from}, ch=channels, verbose=False), verbose=False
            )
    finally:
        Conv.default_act = before
    model.names = {0: "a", 1: "b: c", 2: "\u0432\u0433"}
    model.model[-1].end2end = description.get("end2end", "v10" in name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    return model.eval().fuse(verbose=False)
