"""Couplings of channels: removing a group is silencing it, in every architecture."""

import copy
from functools import cache

import pytest
import torch
from torch import nn
from ultralytics import YOLO

from modelcompression.methods.channels import Narrowing, multiplications
from modelcompression.methods.couplings import ChannelError, Group, groups
from modelcompression.network import convolutions, depthwise, undecoded
from modelcompression.packed import checkpoint

ARCHITECTURES = ("yolov8n", "yolov8n-p2", "yolov5nu", "yolo11n", "yolov10n", "yolo26n")
SAMPLE = 12  # groups of each
# Producer, then each reader @ its first input channel; "model." and ".conv" left out.
YOLOV8N = """
0 1@0
1 2.cv1@0
2.m.0.cv1 2.m.0.cv2@0
2.cv2 3@0
3 4.cv1@0
4.m.0.cv1 4.m.0.cv2@0
4.m.1.cv1 4.m.1.cv2@0
4.cv2 5@0 15.cv1@128
5 6.cv1@0
6.m.0.cv1 6.m.0.cv2@0
6.m.1.cv1 6.m.1.cv2@0
6.cv2 7@0 12.cv1@256
7 8.cv1@0
8.m.0.cv1 8.m.0.cv2@0
8.cv2 9.cv1@0
9.cv1 9.cv2@0 9.cv2@128 9.cv2@256 9.cv2@384
9.cv2 12.cv1@0 21.cv1@128
12.m.0.cv1 12.m.0.cv2@0
12.m.0.cv2 12.cv2@128
12.cv2 15.cv1@0 18.cv1@64
15.m.0.cv1 15.m.0.cv2@0
15.m.0.cv2 15.cv2@64
15.cv2 16@0 22.cv2.0.0@0 22.cv3.0.0@0
16 18.cv1@0
18.m.0.cv1 18.m.0.cv2@0
18.m.0.cv2 18.cv2@128
18.cv2 19@0 22.cv2.1.0@0 22.cv3.1.0@0
19 21.cv1@0
21.m.0.cv1 21.m.0.cv2@0
21.m.0.cv2 21.cv2@256
21.cv2 22.cv2.2.0@0 22.cv3.2.0@0
22.cv2.0.0 22.cv2.0.1@0
22.cv2.0.1 22.cv2.0.2@0
22.cv2.1.0 22.cv2.1.1@0
22.cv2.1.1 22.cv2.1.2@0
22.cv2.2.0 22.cv2.2.1@0
22.cv2.2.1 22.cv2.2.2@0
22.cv3.0.0 22.cv3.0.1@0
22.cv3.0.1 22.cv3.0.2@0
22.cv3.1.0 22.cv3.1.1@0
22.cv3.1.1 22.cv3.1.2@0
22.cv3.2.0 22.cv3.2.1@0
22.cv3.2.1 22.cv3.2.2@0
"""


@cache
def network(name: str) -> nn.Module:
    """With random weights that let every channel matter: the outputs of a convolution have variance one."""
    model = YOLO(f"{name}.yaml").model.fuse(verbose=False).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)

    def normalize(module: nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        module.weight /= output.std()
        module.bias /= output.std()
        return output / output.std()

    handles = []
    for module in convolutions(model).values():
        module.weight.normal_(generator=generator)
        module.bias.normal_(generator=generator)
        handles.append(module.register_forward_hook(normalize))
    undecoded(model, image(64))
    for handle in handles:
        handle.remove()
    return model


def image(side: int) -> torch.Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))


class Unfitted(Narrowing):
    """Cuts where weights are small and refits nothing, which could hide a wrong cut."""

    def _refitted(self, name: str) -> torch.Tensor:
        return self.layers[name].weight

    def _reader_costs(self, name: str) -> torch.Tensor:
        squares = self.layers[name].weight[self.outputs[name]].square().sum((0, 2, 3))
        return squares.where(self.inputs[name], torch.inf)


@cache
def narrowing(name: str) -> Unfitted:
    return Unfitted(network(name), {})


def some_of(group: Group) -> torch.Tensor:
    """A few channels, the first and the last among them."""
    return torch.tensor(sorted({0, group.width // 3, group.width - 1}))


def fresh(name: str) -> Unfitted:
    cutting = copy.copy(narrowing(name))
    cutting.outputs, cutting.inputs = copy.deepcopy((cutting.outputs, cutting.inputs))
    return cutting


def without(name: str, gone: list[Group]) -> nn.Module:
    cutting = fresh(name)
    for group in gone:
        cutting._remove(group, some_of(group))
    return cutting.model_now()


def silenced(name: str, gone: list[Group]) -> nn.Module:
    model = copy.deepcopy(network(name))
    for group in gone:
        for producer, first in group.producers:
            module = model.get_submodule(producer)
            module.weight[some_of(group) + first], module.bias[some_of(group) + first] = 0, 0  # SiLU(0) = 0
    return model


def apart(one: nn.Module, other: nn.Module, side: int = 64) -> float:
    """Largest difference between the raw detections, relative to their size."""
    with torch.no_grad():
        ones, others = undecoded(one, image(side)), undecoded(other, image(side))
    return max(float((ones[k] - others[k]).abs().max() / others[k].abs().max()) for k in ones)


def sample(name: str) -> list[Group]:
    """Groups of all kinds, from all depths."""
    kinds: dict[tuple, list[Group]] = {}
    for group in narrowing(name).groups:
        layers = [network(name).get_submodule(producer) for producer, _ in group.producers]
        kind = len(layers), sum(map(depthwise, layers)), len(group.readers), any(f for _, f in group.readers)
        kinds.setdefault(kind, []).append(group)
    first = [found[0] for found in kinds.values()][:SAMPLE]
    others = [group for group in narrowing(name).groups if group not in first]
    step = max(1, len(others) // max(1, SAMPLE - len(first)))
    return (first + others[::step])[:SAMPLE]


def test_groups_of_yolov8n_are_these() -> None:
    found = []
    for group in groups(network("yolov8n")):
        assert len(group.producers) == 1 and group.producers[0][1] == 0
        places = [group.producer, *(f"{reader}@{first}" for reader, first in group.readers)]
        found.append(" ".join(places).replace("model.", "").replace(".conv", ""))
    assert found == YOLOV8N.split("\n")[1:-1]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_removing_a_group_is_silencing_it(name: str) -> None:
    for group in sample(name):
        quiet = silenced(name, [group])
        assert apart(quiet, network(name)) > 0.01, f"{group} does not matter"
        assert apart(without(name, [group]), quiet) <= 1e-4, group


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_groups_go_at_once_at_any_size_and_through_a_file(name: str, tmp_path) -> None:
    every = narrowing(name).groups
    narrow, quiet = without(name, every), silenced(name, every)
    assert apart(narrow, quiet) <= 1e-4 and apart(narrow, quiet, 96) <= 1e-4
    wide, left = (sum(m.weight.numel() for m in convolutions(m).values()) for m in (quiet, narrow))
    assert left < wide
    loaded = checkpoint.load(checkpoint.save(tmp_path / "narrow.mcpk", narrow, {})).model
    assert apart(loaded, narrow) < 0.05  # float16


@pytest.mark.parametrize("name", ["yolov5nu", "yolo11n", "yolov10n", "yolo26n"])
def test_multiplications_fall_as_promised(name: str) -> None:
    cutting, before = fresh(name), multiplications(network(name))
    assert cutting.multiplications() == before
    cutting.narrow(0.5)
    assert multiplications(cutting.model_now()) == cutting.multiplications()
    assert 0.4 * before < cutting.multiplications() <= 0.5 * before
    together = [group for group in cutting.groups if len(group.producers) > 1]
    assert any(not cutting.outputs[place].all() for group in together for place, _ in group.producers)


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolov10n"])
def test_a_reader_in_another_place_would_be_noticed(name: str) -> None:
    group = next(g for g in narrowing(name).groups if any(first for _, first in g.readers))
    readers = tuple((reader, max(0, first - 1)) for reader, first in group.readers)
    wrong = Group(group.width, group.producers, readers)
    assert apart(without(name, [wrong]), silenced(name, [group])) > 1e-3


@pytest.mark.parametrize(
    ("name", "producers", "readers"),
    [
        # A residual block of C3k, not split before it: both outputs that are added to its input go with it.
        (
            "yolo11n",
            ["model.6.m.0.cv1.conv", "model.6.m.0.m.0.cv2.conv", "model.6.m.0.m.1.cv2.conv"],
            ["model.6.m.0.m.0.cv1.conv", "model.6.m.0.m.1.cv1.conv", "model.6.m.0.cv3.conv"],
        ),
        # The head's depthwise convolution.
        (
            "yolo11n",
            ["model.16.cv2.conv", "model.23.cv3.0.0.0.conv"],
            ["model.17.conv", "model.23.cv2.0.0.conv", "model.23.cv3.0.0.1.conv"],
        ),
        ("yolo11n", ["model.10.m.0.ffn.0.conv"], ["model.10.m.0.ffn.1.conv"]),
        ("yolov10n", ["model.5.cv1.conv", "model.5.cv2.conv"], ["model.6.cv1.conv"]),  # SCDown
        (
            "yolov10n",
            ["model.22.m.0.cv1.1.conv", "model.22.m.0.cv1.2.conv"],
            ["model.22.m.0.cv1.3.conv"],
        ),  # CIB
    ],
)
def test_residuals_and_depthwise_convolutions_couple(name, producers, readers) -> None:
    found = [([p for p, _ in g.producers], [r for r, _ in g.readers]) for g in narrowing(name).groups]
    assert (producers, readers) in found


@pytest.mark.parametrize("name", ["yolo11n", "yolov10n", "yolo26n"])
def test_what_attention_computes_with_stays(name: str) -> None:
    gone = {place for g in narrowing(name).groups for place, _ in (*g.producers, *g.readers)}
    attention = {n for n in convolutions(network(name)) if ".attn." in n}
    assert attention and not gone & attention


def test_a_grouped_convolution_stays_whole() -> None:
    model = copy.deepcopy(network("yolov8n"))
    model.model[1].conv = nn.Conv2d(16, 32, 3, 2, 1, groups=4)
    found = [group.producer for group in groups(model)]
    assert found == [g.producer for g in groups(network("yolov8n"))][2:]


class Gate(nn.Module):
    """An activation that weights channels by what they hold on average."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(nn.functional.adaptive_avg_pool2d(x, 1))


class Scale(nn.Module):
    """An activation with a number for each channel, which nobody would cut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale[:, None, None]


class Calls(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def eighths(x: torch.Tensor) -> torch.Tensor:
    """An activation for channels that can be counted off in eights."""
    return x * x.view(1, 8, -1, *x.shape[2:]).mean((1, 2))[:, None]


def test_own_layers_are_followed_as_well() -> None:
    model = copy.deepcopy(network("yolov8n"))
    as_before = groups(model)
    model.model[0].act = Gate()
    assert groups(model) == as_before
    for act in (Scale(32), Calls(eighths)):
        model.model[1].act = act
        assert groups(model) == [group for group in as_before if group.producer != "model.1.conv"]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: x.cumsum(1), "cumsum"),
        (lambda x: x.flip(1), "flip"),
        (nn.GroupNorm(4, 32), "group_norm"),
        (nn.PReLU(32), "prelu"),
        (lambda x: torch.roll(x, 1, 1), "roll"),
    ],
)
def test_an_unknown_operation_is_refused_before_anything_is_cut(function, says: str) -> None:
    model = copy.deepcopy(network("yolov8n"))
    model.model[1].act = Calls(function)
    with pytest.raises(ChannelError, match=rf"model\.1\.act\S* computes \S*{says}:") as error:
        Narrowing(model, {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("yolov8n-seg", r"model\.22\.proto\.upsample computes .*conv_transpose2d:"),
        ("yolov6n", r"model\.11 computes .*conv_transpose2d:"),
        ("yolo11n-cls", "ClassificationModel is no detection model"),
    ],
)
def test_another_network_is_refused(name: str, says: str) -> None:
    with pytest.raises(ChannelError, match=says):
        groups(YOLO(f"{name}.yaml").model.fuse(verbose=False).eval())


def test_a_convolution_that_never_runs_is_refused() -> None:
    model = copy.deepcopy(network("yolov8n"))
    model.model[2].spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(ChannelError, match=r"model\.2\.spare takes no part"):
        groups(model)


def test_a_convolution_without_a_bias_gets_narrower_as_well() -> None:
    model = copy.deepcopy(network("yolov8n"))
    model.model[3].conv.bias = None
    cutting = Unfitted(model, {})
    cutting._remove(next(g for g in cutting.groups if g.producer == "model.3.conv"), torch.arange(16))
    narrow = cutting.model_now()
    assert narrow.model[3].conv.bias is None and narrow.model[3].conv.out_channels == 48
    assert apart(narrow, model) > 0.01


def test_following_leaves_the_model_as_it_was() -> None:
    model = copy.deepcopy(network("yolov8n"))
    before = copy.deepcopy(model)
    groups(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model.model[-1].shape == before.model[-1].shape and apart(model, before) == 0
