"""GridLoss: the local loss of GridMix, which classifies every cell of the last feature map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import MixedBatch
from mixwell.features.isolation import undisturbed
from mixwell.features.layers import channels_of, last_map, unwrapped
from mixwell.features.passes import MapHook, logits_of, reading
from mixwell.labels import Boxes, LabelPolicy, PixelShare
from mixwell.losses import CrossEntropy
from mixwell.methods.method import LossFunction, Method, Output, like_model
from mixwell.normalization import Normalization
from mixwell.policies.gridmix import GridMix
from mixwell.policy import BatchPolicy
from mixwell.schedule import Schedule
from mixwell.typecheck import NonNegativeFloat, PositiveInt


class GridLoss(Method):
    """Classify the whole mixed image, and every cell of a grid on its last feature map.

    A linear head, used in training only, classifies the map averaged to the grid. The label weights of a cell are the
    shares that the sources have of its pixels, so that any policy works; with :class:`GridMix` every cell has one
    label.

    Args:
        model: The classifier.
        policy: The sample policy; None takes :class:`GridMix`.
        num_classes: Number of classes N.
        cells: Cells per side.
        weight: Weight of the local loss, a number or a schedule; 0.15 is from memory of the paper.
        layer: Name of the module that outputs the map, ``(B, C, h, w)``, ``(B, h, w, C)`` or tokens ``(B, N, C)``; None
            takes the last feature map, see :func:`mixwell.features.layers.last_map`.
        channels: Channels of that map; None infers them from the layer.
        label: How the label weights of the whole image are computed, see :class:`Mixing`; cells always follow the
            pixels.
        loss: The loss of the image and of every cell, ``(logits, mixed) -> scalar``.
        normalization: See :class:`Mixing`.

    Raises:
        TypeError: The model is not an ``nn.Module``, or the policy is not callable.
        ValueError: ``cells`` or ``weight`` is out of range, the map or its channels could not be inferred, or labels do
            not fit the classes.

    Note:
        The paper's own code is not public. Its cells hold one source each; cells that several sources share are an
        extension.

    Source: Baek et al., *GridMix: Strong regularization through local context mapping*, Pattern Recognition 2021.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
        >>> method = GridLoss(model, GridMix(), num_classes=5)
        >>> sorted(method(torch.rand(4, 3, 32, 32), torch.arange(4)))
        ['accuracy', 'cell_loss', 'loss', 'output']
    """

    weight: float

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int,
        cells: PositiveInt = 4,
        weight: NonNegativeFloat | Schedule = 0.15,
        layer: str | None = None,
        channels: int | None = None,
        label: LabelPolicy = PixelShare(),
        loss: LossFunction = CrossEntropy(),
        normalization: Normalization | None = None,
    ) -> None:
        policy = GridMix() if policy is None else policy
        super().__init__(model, policy, label, loss, normalization, weight=weight)
        self.cells = cells
        self.hook = MapHook(model, last_map(model, bypassed=True) if layer is None else layer)
        width = channels_of_map(model, self.hook) if channels is None else channels
        self.head = like_model(nn.Conv2d(width, num_classes, 1), model)

    def forward(self, images: Tensor, labels: Tensor, *, masks: Tensor | None = None, boxes: Boxes = None) -> Output:
        """See :meth:`Method.forward`; also logs the loss of the cells."""
        mixed = self.policy.__call__(images, labels, **self.policy_arguments)
        fields = self.seen(images, labels, masks, boxes)
        with reading(self.hook), reading(self.on_mixed):
            logits = logits_of(self.model(mixed.images))
        cell_loss = self.loss(*self._cells(self.hook.taken(mixed.images), mixed))
        mixed = self.weighted(mixed, logits, fields)
        total = self.loss(logits, mixed) + self.weight * cell_loss
        return self.step_output(total, logits, mixed, cell_loss=cell_loss)

    def _cells(self, features: Tensor, mixed: MixedBatch) -> tuple[Tensor, MixedBatch]:
        """Return logits ``(B * cells ** 2, N)`` and labels of all cells, as a batch of its own."""
        if features.shape[1] != self.head.in_channels:
            raise ValueError(
                f"GridLoss was built for {self.head.in_channels} channels, but {self.hook.name!r} outputs a map of "
                f"{features.shape[1]}: give channels={features.shape[1]}, or name another layer."
            )
        logits = self.head(F.adaptive_avg_pool2d(features, self.cells))  # (B, N, cells, cells)
        share = mixed.plan.share((mixed.images.shape[2], mixed.images.shape[3]))
        weights = F.adaptive_avg_pool2d(share, self.cells)  # (B, K, cells, cells)
        rows = torch.arange(len(mixed), device=logits.device).repeat_interleave(self.cells**2)
        by_cell = MixedBatch(mixed.images, mixed.labels[rows], _by_cell(weights), mixed.plan)
        return _by_cell(logits), by_cell


def channels_of_map(model: nn.Module, hook: MapHook) -> int:
    """Return the number of channels of the map, from a black image or else from the layers inside the module."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    known = getattr(unwrapped(model), "pretrained_cfg", {}).get("input_size", (32,))[-1]
    for side in (known, 32, 64, 224):
        image = torch.zeros(1, 3 if first is None else first.in_channels, side, side)
        weight = next(model.parameters(), image)
        try:
            with torch.no_grad(), undisturbed(model):
                return hook.map(unwrapped(model), image.to(weight)).shape[1]
        except (RuntimeError, ValueError, AssertionError, TypeError, IndexError):  # the model takes another size
            continue
    return channels_of(model, hook.name)


def _by_cell(maps: Tensor) -> Tensor:
    """Turn maps ``(B, C, h, w)`` into rows ``(B * h * w, C)``."""
    return maps.flatten(2).transpose(1, 2).flatten(0, 1)
