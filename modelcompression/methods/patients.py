"""Students in training: their weights on grids or free, and the optimiser that moves them.

A packed file holds weights on grids. *Training on the grid* keeps them there: the forward pass computes with
the rounded weights, and their gradients are passed on to weights that are not rounded, as if rounding were
the identity ("straight-through", Bengio et al. 2013, https://arxiv.org/abs/1308.3432). Steps stay as stored.
A weight that is pushed for long enough moves on to the next grid point. Biases are free, and are put on fine
grids of their own at the end.

A student with free weights heals in the same way, without rounding; weights that are zero stay zero. It may
look at a smaller image than the teacher, see :mod:`.transport`.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ..grid import step_sizes
from ..network import convolutions
from ..packed.tensors import Grid
from .album import HealingError
from .distance import distance
from .teacher import best_device, detect, half_precision, raw_model

GRID_RATE = 0.004  # grid steps a step
FREE_RATE = 1e-3  # root mean squares of a tensor's weights
BIAS_UNIT = 0.5  # a bias moves as if its grid step were half the root mean square of its layer's weights
LARGEST_BIAS = 500  # symbol: about a thousand levels
BETAS = 0.9, 0.99
EPSILON = 1e-10
EXAMINED_TOGETHER = 8
GROWS_AFTER = 500  # steps without an overflow, then the loss is scaled twice as much
STATE = ("_latents", "_best_latents", "_mean", "_square", "_count", "_good", "_scale")


class Patient:
    """A student in training: its weights, on their grids or free, and the optimiser's state.

    All weights lie in one vector, in units of their own (grid steps, or the size of their tensor): one rate
    fits all.

    Args:
        model: as for :class:`.teacher.Teacher`; it is not changed. Biases are taken from it.
        tensors: by parameter name; the weights on grids, as in a packed checkpoint. None: weights are free.
        size: side of the square input in pixels; None: the teacher's.
        device: None finds a GPU.
        rate: the largest step of the optimiser, in grid steps, or relative to the size of a tensor.

    Raises:
        HealingError: a grid does not fit the model, or a convolution has none.
    """

    def __init__(
        self,
        model: nn.Module,
        tensors: Mapping[str, Grid] | None = None,
        size: int | None = None,
        device: torch.device | str | None = None,
        rate: float | None = None,
    ) -> None:
        self.device, self.size = torch.device(device or best_device()), size
        self.rate = rate or (FREE_RATE if tensors is None else GRID_RATE)
        self._tensors = None if tensors is None else dict(tensors)
        self._half = half_precision(self.device)
        self._model = raw_model(model)
        values, units = self._laid_out()
        self._units = units.to(self.device)
        self._latents = (values / units).to(self.device)
        if tensors is not None:
            self._latents[: self._weights].round_()
        self._mask = (self._latents != 0).float() if tensors is None else torch.ones_like(self._latents)
        self._mask[self._weights :] = 1
        self._values = torch.empty_like(self._latents)
        self._gradients = torch.zeros_like(self._latents)
        self._mean, self._square = torch.zeros_like(self._latents), torch.zeros_like(self._latents)
        self._count, self._rate, self._good = (torch.zeros((), device=self.device) for _ in range(3))
        scale = 2.0**12 if self._half == torch.float16 else 1.0
        self._scale = torch.full((), scale, device=self.device)
        self.loss = torch.zeros((), device=self.device)
        self._bind()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._seen: tuple[torch.Tensor, dict[str, torch.Tensor]] | None = None
        self._fingerprint = self._digest()
        self.best, self._best_latents = math.inf, self._latents.clone()

    # --- layout ---------------------------------------------------------------------------------

    def _laid_out(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All weights, then all biases, and the unit of each; in the order of ``convolutions``."""
        weights, biases, weight_units, bias_units = [], [], [], []
        for name, module in convolutions(self._model).items():
            weight, bias = module.weight.detach().float(), module.bias.detach().float()
            size = weight[weight != 0].square().mean().sqrt() if weight.any() else torch.ones(())
            unit = size.expand(len(weight))
            if self._tensors is not None:
                grid = self._tensors.get(f"{name}.weight")
                if not isinstance(grid, Grid) or grid.symbols.shape != tuple(weight.shape):
                    raise HealingError(f"{name}: no grid of the shape {tuple(weight.shape)} of its weights")
                unit = torch.from_numpy(step_sizes(grid.exponents))
                weight = torch.from_numpy(grid.values())
                size = weight.square().mean().sqrt().clamp(min=float(unit.min()))
            weights.append(weight.permute(0, 2, 3, 1).flatten())
            weight_units.append(unit.repeat_interleave(weight[0].numel()))
            biases.append(bias)
            bias_units.append((size * BIAS_UNIT).expand(len(bias)))
        self._weights = sum(map(len, weights))
        return torch.cat(weights + biases), torch.cat(weight_units + bias_units)

    def _bind(self) -> None:
        """The model's parameters and their gradients become views of the vectors."""
        for part in self._model.parameters():
            part.requires_grad_(False)
        self._model.to(self.device)
        for (module, key), view in self._views(self._values).items():
            setattr(module, key, nn.Parameter(view))
        for (module, key), view in self._views(self._gradients).items():
            getattr(module, key).grad = view
        self._refresh()

    def _views(self, vector: torch.Tensor) -> dict[tuple[nn.Module, str], torch.Tensor]:
        found, weight_at, bias_at = {}, 0, self._weights
        for module in convolutions(self._model).values():
            rows, columns, high, wide = module.weight.shape
            count = module.weight.numel()
            view = vector[weight_at : weight_at + count].view(rows, high, wide, columns)
            found[module, "weight"] = view.permute(0, 3, 1, 2)
            found[module, "bias"] = vector[bias_at : bias_at + rows]
            weight_at, bias_at = weight_at + count, bias_at + rows
        return found

    @torch.no_grad()
    def _refresh(self) -> None:
        self._values.copy_(self._latents)
        if self._tensors is not None:
            self._values[: self._weights].round_()
        self._values.mul_(self._units)

    # --- training -------------------------------------------------------------------------------

    def learn(self, images: torch.Tensor, wanted: dict[str, torch.Tensor], share: float) -> None:
        """One step of the optimiser; ``loss`` is that before it, in nats an image.

        Args:
            images: (N, channels, size, size) float32 in 0…1.
            wanted: the teacher's answer on this student's anchors.
            share: of the largest rate, see :func:`.healing.schedule`.

        Raises:
            HealingError: teacher and student do not answer in the same shapes.
        """
        self._rate.fill_(self.rate * share)
        if self._graph is None:
            self._train(images, wanted)
            return
        assert self._seen is not None
        pairs = [(self._seen[0], images), *((self._seen[1][key], wanted[key]) for key in self._seen[1])]
        for static, new in pairs:
            if static is not new:
                static.copy_(new)
        self._graph.replay()

    def record(self, images: torch.Tensor, wanted: dict[str, torch.Tensor]) -> bool:
        """Make a CUDA graph of a step on inputs of these shapes: launched as a whole, it wastes no time.

        The tensors given become the graph's inputs. Some steps of ``learn`` must have run on the current
        stream, which must not be the default one.

        Returns:
            whether it worked; if not, steps go on being launched one operation after the other.
        """
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                self._train(images, wanted)
        except RuntimeError:
            torch.cuda.synchronize()
            return False
        self._seen, self._graph = (images, wanted), graph
        return True

    def _train(self, images: torch.Tensor, wanted: Mapping[str, torch.Tensor]) -> None:
        self._gradients.zero_()
        with torch.enable_grad():
            found = detect(self._model, images, self._half)
            _compare(found, wanted)
            loss = distance(found, wanted)
            (loss * self._scale).backward()
        with torch.no_grad():
            self.loss.copy_(loss)
            self._update()

    def _update(self) -> None:
        """Adam, without a branch or a look at a number, so that a GPU can run it unattended.

        A gradient that overflowed in float16 is skipped and halves the scale of the loss.
        """
        gradient = self._gradients.mul_(self._units).mul_(self._mask).div_(self._scale)
        fine = torch.isfinite(gradient.sum()).float()
        gradient.nan_to_num_(0, 0, 0).mul_(fine)
        self._count.add_(fine)
        self._good.add_(1).mul_(fine)
        if self._half == torch.float16:
            grown = 1 + (self._good >= GROWS_AFTER).float()
            self._good.mul_(2 - grown)
            self._scale.mul_(grown * (1 + fine) / 2).clamp_(1, 2.0**20)
        self._mean.lerp_(gradient, 1 - BETAS[0])
        self._square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        count = self._count.clamp(min=1)
        mean = self._mean / (1 - BETAS[0] ** count)
        deviation = (self._square / (1 - BETAS[1] ** count)).sqrt_().add_(EPSILON)
        self._latents.sub_(mean.div_(deviation).mul_(self._rate * fine))
        self._refresh()

    def examine(self, images: torch.Tensor, wanted: Mapping[str, torch.Tensor]) -> float:
        """Distance on held-out photographs in float32, nats an image; the best state so far is remembered."""
        total = torch.zeros((), device=self.device)
        with torch.no_grad():
            for start in range(0, len(images), EXAMINED_TOGETHER):
                part = slice(start, start + EXAMINED_TOGETHER)
                found = detect(self._model, images[part], None)
                theirs = {key: wanted[key][part] for key in found}
                _compare(found, theirs)
                total += distance(found, theirs) * len(images[part])
        held_out = float(total) / len(images)
        if held_out < self.best:
            self.best = held_out
            self._best_latents.copy_(self._latents)
        return held_out

    # --- what comes out -------------------------------------------------------------------------

    def healed(self) -> tuple[nn.Module, dict[str, Grid] | None]:
        """The best state: a model on the CPU and, for weights on grids, all its tensors, biases included.

        The model computes with what the tensors say.
        """
        latents, units = self._best_latents.cpu(), self._units.cpu()
        if self._tensors is not None:
            latents[: self._weights].round_()
        model = copy.deepcopy(self._model).cpu()
        symbols, values = self._views(latents), self._views(latents * units)
        grids: dict[str, Grid] = {}
        layers = convolutions(self._model)
        for name, module in convolutions(model).items():
            ours = layers[name]
            weight, bias = values[ours, "weight"], values[ours, "bias"]
            if self._tensors is not None:
                found = symbols[ours, "weight"].contiguous().numpy().astype(np.int64)
                grids[f"{name}.weight"] = Grid(found, self._tensors[f"{name}.weight"].exponents)
                grids[f"{name}.bias"] = Grid.fine(bias.numpy(), LARGEST_BIAS)
                bias = torch.from_numpy(grids[f"{name}.bias"].values())
            module.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
            module.bias = nn.Parameter(bias.clone(), requires_grad=False)
        model.model[-1].training = False
        return model, grids or None

    def _digest(self) -> str:
        content = (part.cpu().numpy().tobytes() for part in (self._latents, self._units))
        return hashlib.sha256(
            b"".join([*content, f"{self.size} {self._tensors is None}".encode()])
        ).hexdigest()

    def state(self) -> dict[str, Any]:
        """All that is needed to go on later."""
        kept = {name: getattr(self, name).cpu() for name in STATE}
        return {"student": self._fingerprint, "best": self.best, **kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            HealingError: it is that of another student.
        """
        if state.get("student") != self._fingerprint:
            raise HealingError("the state is that of another student: remove it to begin anew")
        self.best = float(state["best"])
        for name in STATE:
            getattr(self, name).copy_(state[name])
        self._refresh()


def _compare(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    for key, value in found.items():
        ours, theirs = tuple(value.shape[1:]), tuple(wanted[key].shape[1:])
        if ours != theirs:
            raise HealingError(f"the student's {key} are {ours}, the teacher's {theirs}: no such detector")
